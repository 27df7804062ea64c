"""Backups of streams: what one is, and what every place that keeps them can do.

A backup has three parts: the archive as the server packed it (`stream.tar.s2`), the stream's config and state as the
nats CLI writes them (`backup.json`), and the manifest (`reactor.json`). The manifest is written last: before that there
is no backup.
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
"""The longest lease: how long another process's deletion may rely on a backup."""


class BackupFailed(Exception):
    """There is no backup: says why, and what to do."""


class BackupCorrupt(Exception):
    """This backup cannot be restored. The message says why."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is stored about a backup, besides the server's own description."""

    stream: str
    job_id: str
    at: str
    by: str
    reason: str
    messages: int
    last_seq: int
    consumers: list[dict[str, Any]]
    size: int = 0
    """Bytes of the archive."""
    sha256: str = ""

    def name(self, token: str) -> str:
        """Return a name for the backup; `token` makes it one of its own."""
        time = self.at.replace("-", "").replace(":", "").replace(".", "")
        return f"{self.stream[:LONGEST_NAME]}-{time}-{token}"


_MANIFEST = TypeAdapter(Manifest)


def read_manifest(raw: bytes) -> Manifest | None:
    """Read a manifest; None if it is none of ours."""
    try:
        manifest = _MANIFEST.validate_json(raw, strict=True)
        parse_instant(manifest.at)
    except (ValidationError, ValueError):
        return None
    return manifest if manifest.size >= 0 and manifest.stream else None


class Backup(ABC):
    """One that is whole."""

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
        """Yield the archive, bit by bit. Raises BackupCorrupt."""

    async def check(self) -> None:
        """Raise BackupCorrupt if the archive is not what was written."""
        digest = Digest()
        async for chunk in self.chunks():
            digest.add(chunk)
        written = (self.manifest.sha256, self.manifest.size)
        if self.manifest.sha256 and (digest.hexdigest(), digest.size) != written:
            raise BackupCorrupt(f"{self.address} is not what was written: its checksum differs")


class Digest:
    """Checksum and size of what was added."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._sha256, self.size = sha256(), 0

    def add(self, chunk: bytes) -> None:
        """Take the next piece."""
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
        """Wait until the place has all of the archive."""


class BackupStore(ABC):
    """A place that keeps backups, for so long and so many bytes."""

    max_bytes: int

    @property
    @abstractmethod
    def address(self) -> str:
        """Where it is, without secrets."""

    @abstractmethod
    def draft(self, label: str) -> AbstractAsyncContextManager[Any]:
        """Provide a `Draft` to write, named so that people know it; nothing stays of one that is not placed.

        Raises BackupFailed.
        """

    @abstractmethod
    async def place(self, draft: Any, manifest: Manifest, description: Mapping[str, Any]) -> Backup:  # noqa: ANN401  # its own
        """Finish a draft: from now on it is a backup. Raises BackupFailed."""

    @abstractmethod
    async def backups(self) -> list[Backup]:
        """Return all that are whole, newest first. Raises BackupFailed if they cannot be listed."""

    @abstractmethod
    async def make_room(self, wanted: int) -> None:
        """Take away what is too old, and the oldest until `wanted` bytes fit in. Raises BackupFailed if they cannot.

        Only reactor's own backups go, and none that a deletion may still rely on.
        """

    @abstractmethod
    def settled(self, backup: Backup) -> None:
        """Allow this backup to be tidied when its time has come: the deletion that relied on it is over."""

    @abstractmethod
    async def free(self) -> int | None:
        """Return bytes that there are left; None if nobody knows."""


@dataclass(frozen=True, slots=True)
class Held:
    """A backup of reactor's own, as the place shows it, whatever its manifest claims."""

    address: str
    size: int
    written_s: float
    """Since 1970, by the clock of the place."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long backups are kept, and how many bytes of them."""

    max_age_s: float
    max_bytes: int

    def spare(self, held: Sequence[Held], wanted: int, now_s: float, settled: Collection[str]) -> list[Held]:
        """Return what is to be removed: what is too old, and the oldest until `wanted` bytes fit in.

        None that a deletion may still rely on: one that is not `settled` and younger than any lease.
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
        """Raise BackupFailed if `wanted` bytes more than those `held` are too many."""
        if held + wanted > self.max_bytes:
            raise BackupFailed(
                f"{wanted} bytes more than the {held} of backups still needed are beyond REACTOR_BACKUP_MAX_BYTES"
            )
