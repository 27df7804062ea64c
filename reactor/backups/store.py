"""Backups of streams in one folder, each a folder of its own that is there whole or not at all.

    <stream>-<time>-<token>/
        backup.json     the stream's config and state, as the nats CLI writes it and reads it back
        stream.tar.s2   the archive, as the server packed it
        reactor.json    of which job, by whom, when; how many messages; consumers; the archive's checksum

Written under another name first, to the disk and not only to its cache, and then renamed.
"""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from pydantic import TypeAdapter

from reactor.core.foreign_json import read_json
from reactor.core.model import SECOND, format_instant, parse_instant

ARCHIVE, DESCRIPTION, MANIFEST = "stream.tar.s2", "backup.json", "reactor.json"
CHUNK = 512 * 1024
LONGEST_NAME = 180
ABANDONED_S = 2 * 3_600.0
"""An unfinished backup that is older was its writer's last: no lease lasts so long."""
RELIED_ON_S = 3_600.0
"""The longest lease: how long another process's deletion may rely on a backup."""
_PARTIAL = ".partial-"


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


@dataclass(frozen=True, slots=True)
class Backup:
    """One that is whole."""

    folder: Path
    manifest: Manifest

    def description(self) -> dict[str, Any]:
        """Return the stream's config and state. Raises BackupCorrupt."""
        try:
            described = read_json((self.folder / DESCRIPTION).read_bytes())
            return {part: dict(described[part]) for part in ("config", "state")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BackupCorrupt(f"{self.folder / DESCRIPTION} cannot be read: {error}") from error

    async def check(self) -> None:
        """Raise BackupCorrupt if the archive is not what was written."""
        digest, size = sha256(), 0
        async for chunk in self.chunks():
            digest.update(chunk)
            size += len(chunk)
        if self.manifest.sha256 and (digest.hexdigest(), size) != (self.manifest.sha256, self.manifest.size):
            raise BackupCorrupt(f"{self.folder / ARCHIVE} is not what was written: its checksum differs")

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the archive, bit by bit. Raises BackupCorrupt."""
        try:
            with (self.folder / ARCHIVE).open("rb") as file:
                while chunk := await asyncio.to_thread(file.read, CHUNK):
                    yield chunk
        except OSError as error:
            raise BackupCorrupt(f"{self.folder / ARCHIVE} cannot be read: {error.strerror or error}") from error


class Draft:
    """A backup that is being written. Methods raise OSError."""

    def __init__(self, folder: Path) -> None:
        """`folder` is there and empty."""
        self.folder = folder
        self._file: BinaryIO = (folder / ARCHIVE).open("xb")
        self._digest = sha256()
        self._size = 0

    async def write(self, chunk: bytes) -> None:
        """Append the next piece of the archive."""
        await asyncio.to_thread(self._write, chunk)

    def _write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._digest.update(chunk)
        self._size += len(chunk)

    def finish(self, manifest: Manifest, description: Mapping[str, Any]) -> Manifest:
        """Write all of it to the disk, and return the manifest with size and checksum."""
        self._flush(self._file)
        self._file.close()
        whole = Manifest(**asdict(manifest) | {"size": self._size, "sha256": self._digest.hexdigest()})
        for name, content in ((DESCRIPTION, description), (MANIFEST, asdict(whole))):
            with (self.folder / name).open("xb") as file:
                file.write(json.dumps(content, indent=2).encode())
                self._flush(file)
        return whole

    def _flush(self, file: BinaryIO) -> None:
        file.flush()
        os.fsync(file.fileno())

    def close(self) -> None:
        """Write no more."""
        with suppress(OSError):  # what could not be written is of no more use
            self._file.close()


@dataclass(eq=False, repr=False)
class BackupStore:
    """The folder. It belongs to this machine: each replica has its own.

    Backups older than `max_age_s` are removed, and the oldest if all together exceed `max_bytes`; `clock` is in ns.
    """

    folder: Path
    max_age_s: float
    max_bytes: int
    clock: Callable[[], int]

    def __post_init__(self) -> None:
        self._settled = set[Path]()

    @asynccontextmanager
    async def draft(self) -> AsyncIterator[Draft]:
        """Provide a draft to write, and remove it unless it is placed. Raises BackupFailed."""
        try:
            draft = await asyncio.to_thread(self._begin)
        except OSError as error:
            raise BackupFailed(_words(self.folder, error)) from error
        try:
            yield draft
        except OSError as error:
            raise BackupFailed(_words(self.folder, error)) from error
        finally:
            draft.close()
            await asyncio.to_thread(shutil.rmtree, draft.folder, ignore_errors=True)

    def _begin(self) -> Draft:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = self.folder / f"{_PARTIAL}{uuid4().hex}"
        folder.mkdir(mode=0o700)  # messages may hold secrets
        return Draft(folder)

    async def place(self, draft: Draft, manifest: Manifest, description: Mapping[str, Any]) -> Backup:
        """Finish a draft: from now on it is a backup. Raises OSError."""
        return await asyncio.to_thread(self._place, draft, manifest, description)

    def _place(self, draft: Draft, manifest: Manifest, description: Mapping[str, Any]) -> Backup:
        whole = draft.finish(manifest, description)
        time = whole.at.replace("-", "").replace(":", "").replace(".", "")
        folder = self.folder / f"{whole.stream[:LONGEST_NAME]}-{time}-{uuid4().hex[:8]}"
        draft.folder.rename(folder)
        directory = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return Backup(folder, whole)

    def backups(self) -> list[Backup]:
        """Return all that are whole, newest first."""
        found = [backup for folder in self._folders() if (backup := read_backup(folder))]
        return sorted(found, key=lambda item: item.manifest.at, reverse=True)

    def _folders(self) -> list[Path]:
        with suppress(OSError):
            return [item for item in self.folder.iterdir() if not item.name.startswith(".")]
        return []

    def free(self) -> int:
        """Return bytes that the disk has left."""
        return shutil.disk_usage(self.folder).free

    def settled(self, backup: Backup) -> None:
        """Allow this backup to be tidied when its time has come: the deletion that relied on it is over."""
        self._settled.add(backup.folder)

    def make_room(self, wanted: int) -> None:
        """Take away what is too old, and the oldest until `wanted` bytes fit in. Raises BackupFailed if they cannot.

        Only reactor's own backups go, and none that a deletion may still rely on: one of this process that is not
        settled, or another process's that is younger than any lease.
        """
        now_s, held = self.clock() / SECOND, dict[Path, int]()
        ours = sorted(filter(None, map(_own, self._folders())), key=lambda item: item.written_s)
        for item in ours:
            relied_on = item.folder not in self._settled and now_s - item.written_s < RELIED_ON_S
            if relied_on or now_s - item.written_s <= self.max_age_s:
                held[item.folder] = item.size
            else:
                shutil.rmtree(item.folder, ignore_errors=True)
        for item in ours:
            if sum(held.values()) + wanted <= self.max_bytes:
                break
            if item.folder in held and (item.folder in self._settled or now_s - item.written_s >= RELIED_ON_S):
                shutil.rmtree(item.folder, ignore_errors=True)
                del held[item.folder]
        self._sweep_abandoned(now_s)
        if (kept := sum(held.values())) + wanted > self.max_bytes:
            raise BackupFailed(
                f"{wanted} bytes more than the {kept} of backups still needed are beyond REACTOR_BACKUP_MAX_BYTES"
            )

    def _sweep_abandoned(self, now_s: float) -> None:
        with suppress(OSError):
            for folder in self.folder.glob(f"{_PARTIAL}*"):
                if now_s - folder.stat().st_mtime > ABANDONED_S:
                    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Own:
    """A backup that is plainly reactor's own, judged by what is on the disk, not by what its manifest claims."""

    folder: Path
    size: int
    written_s: float


def _own(folder: Path) -> _Own | None:
    with suppress(OSError):
        backup, names = read_backup(folder), {item.name for item in folder.iterdir()}
        if backup and backup.manifest.sha256 and names == {ARCHIVE, DESCRIPTION, MANIFEST}:
            sizes = [(folder / name).stat().st_size for name in names]
            return _Own(folder, sum(sizes), (folder / MANIFEST).stat().st_mtime)
    return None


def read_backup(folder: Path) -> Backup | None:
    """Return the backup in a folder; of the nats CLI's, without a manifest, what can be told. None if there is none.

    What cannot be read is no backup of reactor's, whatever it is: it is never fatal, and never tidied.
    """
    with suppress(OSError, ValueError, TypeError, KeyError):
        if not (folder / ARCHIVE).is_file():
            return None
        manifest = _read_manifest(folder) or _manifest_of_another(folder)
        return Backup(folder, manifest)
    return None


_MANIFEST = TypeAdapter(Manifest)


def _read_manifest(folder: Path) -> Manifest | None:
    with suppress(OSError, ValueError):
        manifest = _MANIFEST.validate_json((folder / MANIFEST).read_bytes(), strict=True)
        parse_instant(manifest.at)
        return manifest if manifest.size >= 0 and manifest.stream else None
    return None


def _manifest_of_another(folder: Path) -> Manifest:
    """Read a manifest that another tool wrote. Raises OSError, ValueError, TypeError and KeyError."""
    described = read_json((folder / DESCRIPTION).read_bytes())
    state, written = described["state"], (folder / ARCHIVE).stat()
    return Manifest(
        stream=str(described["config"]["name"]),
        job_id="",
        at=format_instant(int(written.st_mtime) * SECOND),
        by="another tool",
        reason="",
        messages=int(state["messages"]),
        last_seq=int(state["last_seq"]),
        consumers=[],
        size=written.st_size,
    )


def _words(folder: Path, error: OSError) -> str:
    return f"no backup could be written to {folder}: {error.strerror or error}"
