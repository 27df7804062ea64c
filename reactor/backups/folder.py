"""Backups in a folder of this machine. Each backup is a folder that exists completely or not at all.

It is written under a temporary name, synced to the disk, and then renamed.
"""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from reactor.backups.store import (
    ARCHIVE,
    CHUNK,
    DESCRIPTION,
    MANIFEST,
    Backup,
    BackupCorrupt,
    BackupFailed,
    BackupStore,
    Digest,
    Held,
    Limits,
    Manifest,
    read_manifest,
)
from reactor.core.foreign_json import read_json
from reactor.core.model import SECOND, format_instant

ABANDONED_S = 2 * 3_600.0
"""The age (s) from which an unfinished backup is deleted. No lease lasts as long, so its writer is gone."""
_PARTIAL = ".partial-"


@dataclass(frozen=True, slots=True)
class FolderBackup(Backup):
    """A backup in a folder."""

    folder: Path
    manifest: Manifest

    @property
    def address(self) -> str:
        """The folder."""
        return str(self.folder)

    def recorded_by(self, host: str) -> str:
        """Return `host:folder`, because each machine has its own folder."""
        return f"{host}:{self.folder.resolve()}"

    async def description(self) -> dict[str, Any]:
        """Return the stream's config and state. Raises BackupCorrupt."""
        try:
            described = read_json((self.folder / DESCRIPTION).read_bytes())
            return {part: dict(described[part]) for part in ("config", "state")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BackupCorrupt(f"{self.folder / DESCRIPTION} cannot be read: {error}") from error

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the archive in pieces. Raises BackupCorrupt."""
        try:
            with (self.folder / ARCHIVE).open("rb") as file:
                while chunk := await asyncio.to_thread(file.read, CHUNK):
                    yield chunk
        except OSError as error:
            raise BackupCorrupt(f"{self.folder / ARCHIVE} cannot be read: {error.strerror or error}") from error


class FolderDraft:
    """A backup that is being written. Methods raise OSError."""

    def __init__(self, folder: Path) -> None:
        """`folder` exists and is empty."""
        self.folder = folder
        self._file: BinaryIO = (folder / ARCHIVE).open("xb")
        self._digest = Digest()

    async def write(self, chunk: bytes) -> None:
        """Append the next piece of the archive."""
        await asyncio.to_thread(self._write, chunk)

    def _write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._digest.add(chunk)

    async def stored(self) -> None:
        """Write all of it to the disk."""
        await asyncio.to_thread(self._flush, self._file)

    def finish(self, manifest: Manifest, description: Mapping[str, Any]) -> Manifest:
        """Sync all files to the disk. Return the manifest with size and checksum."""
        self._flush(self._file)
        self._file.close()
        whole = self._digest.signed(manifest)
        for name, content in ((DESCRIPTION, description), (MANIFEST, asdict(whole))):
            with (self.folder / name).open("xb") as file:
                file.write(json.dumps(content, indent=2).encode())
                self._flush(file)
        return whole

    def _flush(self, file: BinaryIO) -> None:
        file.flush()
        os.fsync(file.fileno())

    def close(self) -> None:
        """Close the archive."""
        with suppress(OSError):  # what could not be written is of no more use
            self._file.close()


@dataclass(eq=False, repr=False)
class FolderStore(BackupStore):
    """Backups in a folder of this machine. Replicas on other machines have their own. `clock` is in ns."""

    folder: Path
    max_age_s: float
    max_bytes: int
    clock: Callable[[], int]

    def __post_init__(self) -> None:
        self._settled = set[str]()

    @property
    def address(self) -> str:
        """The folder."""
        return str(self.folder)

    @asynccontextmanager
    async def draft(self, label: str) -> AsyncIterator[FolderDraft]:  # noqa: ARG002  # it is named when it is placed
        """Provide a draft to write. Delete it at the end unless it was placed. Raises BackupFailed."""
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

    def _begin(self) -> FolderDraft:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = self.folder / f"{_PARTIAL}{uuid4().hex}"
        folder.mkdir(mode=0o700)  # messages may hold secrets
        return FolderDraft(folder)

    async def place(self, draft: FolderDraft, manifest: Manifest, description: Mapping[str, Any]) -> FolderBackup:
        """Turn a draft into a backup. Raises OSError."""
        return await asyncio.to_thread(self._place, draft, manifest, description)

    def _place(self, draft: FolderDraft, manifest: Manifest, description: Mapping[str, Any]) -> FolderBackup:
        whole = draft.finish(manifest, description)
        folder = self.folder / whole.name(uuid4().hex[:8])
        draft.folder.rename(folder)
        directory = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return FolderBackup(folder, whole)

    async def backups(self) -> list[Backup]:
        """Return all complete backups, newest first."""
        return await asyncio.to_thread(self._backups)

    def _backups(self) -> list[Backup]:
        backups = [backup for folder in self._folders() if (backup := read_backup(folder))]
        return sorted(backups, key=lambda item: item.manifest.at, reverse=True)

    def _folders(self) -> list[Path]:
        with suppress(OSError):
            return [item for item in self.folder.iterdir() if not item.name.startswith(".")]
        return []

    async def free(self) -> int | None:
        """Return the free bytes of the disk."""
        return shutil.disk_usage(self.folder).free

    def release(self, backup: Backup) -> None:
        """Mark the deletion that relied on this backup as over, so that the backup may be tidied."""
        self._settled.add(backup.address)

    async def make_room(self, wanted: int) -> None:
        """Delete expired backups, and the oldest ones until `wanted` bytes fit. Raises BackupFailed if they cannot."""
        await asyncio.to_thread(self._make_room, wanted)

    def _make_room(self, wanted: int) -> None:
        now_s, limits = self.clock() / SECOND, Limits(self.max_age_s, self.max_bytes)
        held = list(filter(None, map(_own, self._folders())))
        spare = limits.spare(held, wanted, now_s, self._settled)
        for item in spare:
            shutil.rmtree(item.address, ignore_errors=True)
        self._sweep_abandoned(now_s)
        limits.check(sum(item.size for item in held) - sum(item.size for item in spare), wanted)

    def _sweep_abandoned(self, now_s: float) -> None:
        with suppress(OSError):
            for folder in self.folder.glob(f"{_PARTIAL}*"):
                if now_s - folder.stat().st_mtime > ABANDONED_S:
                    shutil.rmtree(folder, ignore_errors=True)


def _own(folder: Path) -> Held | None:
    """Return a backup that is certainly reactor's own, as the disk shows it; else None."""
    with suppress(OSError):
        backup, names = read_backup(folder), {item.name for item in folder.iterdir()}
        if backup and backup.manifest.sha256 and names == {ARCHIVE, DESCRIPTION, MANIFEST}:
            sizes = [(folder / name).stat().st_size for name in names]
            return Held(str(folder), sum(sizes), (folder / MANIFEST).stat().st_mtime)
    return None


def recorded_folder(address: str) -> tuple[str, Path] | None:
    """Return the host and the folder of an address in the audit; None if it is a URL."""
    host, _, folder = address.partition(":")
    return (host, Path(folder)) if folder.startswith("/") and not folder.startswith("//") else None


def read_backup(folder: Path) -> FolderBackup | None:
    """Return the backup in a folder, of reactor or of the nats CLI. Return None if there is none.

    A folder that cannot be read is never an error, and never tidied.
    """
    with suppress(OSError, ValueError, TypeError, KeyError):
        if not (folder / ARCHIVE).is_file():
            return None
        manifest = _read_manifest(folder) or _manifest_of_another(folder)
        return FolderBackup(folder, manifest)
    return None


def _read_manifest(folder: Path) -> Manifest | None:
    with suppress(OSError):
        return read_manifest((folder / MANIFEST).read_bytes())
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
