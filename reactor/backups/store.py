"""The interface of backups and of the places that keep them.

A backup has three parts: the archive as the server packed it (`stream.tar.s2`), the stream's config and state as the
nats CLI writes them (`backup.json`), and the manifest (`reactor.json`). The manifest is written last and completes the
backup.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError

from reactor.core.model import parse_instant

ARCHIVE, DESCRIPTION, MANIFEST = "stream.tar.s2", "backup.json", "reactor.json"
CHUNK = 512 * 1024
LONGEST_NAME = 180
RELIED_ON_S = 3_600.0
"""How long (s) the deletion of another process may rely on a backup: the longest lease."""


class BackupFailed(Exception):
    """The backup failed. The message says why, and what to do."""


class BackupCorrupt(Exception):
    """This backup cannot be restored. The message says why."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What reactor stores about a backup, besides the server's description of the stream."""

    stream: str
    job_id: str
    at: str
    by: str
    reason: str
    messages: int
    last_seq: int
    consumers: list[dict[str, Any]]
    size: int = 0
    """The size of the archive in bytes."""
    sha256: str = ""

    def name(self, token: str) -> str:
        """Return a name for the backup. `token` makes it unique."""
        time = self.at.replace("-", "").replace(":", "").replace(".", "")
        return f"{self.stream[:LONGEST_NAME]}-{time}-{token}"


_MANIFEST = TypeAdapter(Manifest)


def read_manifest(raw: bytes) -> Manifest | None:
    """Read a manifest. Return None if it is not reactor's."""
    try:
        manifest = _MANIFEST.validate_json(raw, strict=True)
        parse_instant(manifest.at)
    except (ValidationError, ValueError):
        return None
    return manifest if manifest.size >= 0 and manifest.stream else None


class Backup(ABC):
    """A complete backup."""

    manifest: Manifest

    @property
    @abstractmethod
    def address(self) -> str:
        """Where it is, without secrets."""

    def recorded_by(self, host: str) -> str:  # noqa: ARG002  # a folder is one machine's
        """Return the address for the audit; `host` is the machine that writes it."""
        return self.address

    @abstractmethod
    async def description(self) -> dict[str, Any]:
        """Return the stream's config and state. Raises BackupCorrupt."""

    @abstractmethod
    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the archive in pieces. Raises BackupCorrupt."""

    async def check(self) -> None:
        """Raise BackupCorrupt if the archive differs from the manifest."""
        digest = Digest()
        async for chunk in self.chunks():
            digest.add(chunk)
        written = (self.manifest.sha256, self.manifest.size)
        if self.manifest.sha256 and (digest.hexdigest(), digest.size) != written:
            raise BackupCorrupt(f"{self.address} is not what was written: its checksum differs")


class Digest:
    """Computes the checksum and the size of an archive."""

    def __init__(self) -> None:
        """Start with an empty archive."""
        self._sha256, self.size = sha256(), 0

    def add(self, chunk: bytes) -> None:
        """Add the next piece."""
        self._sha256.update(chunk)
        self.size += len(chunk)

    def hexdigest(self) -> str:
        """Return the SHA-256."""
        return self._sha256.hexdigest()

    def signed(self, manifest: Manifest) -> Manifest:
        """Return the manifest with size and checksum."""
        return Manifest(**asdict(manifest) | {"size": self.size, "sha256": self.hexdigest()})


class Draft(Protocol):
    """A backup that is being written."""

    async def write(self, chunk: bytes) -> None:
        """Append the next piece of the archive."""

    async def stored(self) -> None:
        """Wait until the place has the whole archive."""


class BackupStore(ABC):
    """A place that keeps backups, within limits of age and size."""

    max_bytes: int

    @property
    @abstractmethod
    def address(self) -> str:
        """Where it is, without secrets."""

    @abstractmethod
    def draft(self, label: str) -> AbstractAsyncContextManager[Any]:
        """Provide a `Draft` to write. `label` becomes part of its name. A draft that is not placed is deleted.

        Raises BackupFailed.
        """

    @abstractmethod
    async def place(self, draft: Any, manifest: Manifest, description: Mapping[str, Any]) -> Backup:  # noqa: ANN401  # its own
        """Turn a draft into a backup. Raises BackupFailed."""

    @abstractmethod
    async def backups(self) -> list[Backup]:
        """Return all complete backups, newest first. Raises BackupFailed if they cannot be listed."""

    @abstractmethod
    async def make_room(self, wanted: int) -> None:
        """Delete expired backups, and the oldest ones until `wanted` bytes fit. Raises BackupFailed if they cannot.

        It deletes only reactor's own backups, and none that a deletion may still rely on.
        """

    @abstractmethod
    def release(self, backup: Backup) -> None:
        """Mark the deletion that relied on this backup as over, so that the backup may be tidied."""

    @abstractmethod
    async def free(self) -> int | None:
        """Return the free bytes; None if that is unknown."""


@dataclass(frozen=True, slots=True)
class Held:
    """A backup of reactor's own, as the place lists it. Its manifest is not trusted."""

    address: str
    size: int
    written_s: float
    """When it was written (s since 1970, by the clock of the place)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of age and size of backups."""

    max_age_s: float
    max_bytes: int

    def spare(self, held: Sequence[Held], wanted: int, now_s: float, settled: Collection[str]) -> list[Held]:
        """Return the backups to delete: expired ones, and the oldest ones until `wanted` bytes fit.

        A backup that is not `settled` and is younger than the longest lease stays, because a deletion may rely on it.
        """
        ours = sorted(held, key=lambda item: item.written_s)
        free = [item for item in ours if item.address in settled or now_s - item.written_s >= RELIED_ON_S]
        gone = [item for item in free if now_s - item.written_s > self.max_age_s]
        size = sum(item.size for item in ours) - sum(item.size for item in gone)
        for item in free:
            if size + wanted <= self.max_bytes:
                break
            if item not in gone:
                gone.append(item)
                size -= item.size
        return gone

    def check(self, held: int, wanted: int) -> None:
        """Raise BackupFailed if `wanted` more bytes exceed the limit."""
        if held + wanted > self.max_bytes:
            raise BackupFailed(
                f"{wanted} bytes more than the {held} of backups still needed are beyond REACTOR_BACKUP_MAX_BYTES"
            )
