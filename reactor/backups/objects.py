"""Backups in an object store that all replicas share: a JetStream bucket, S3, Google Cloud Storage or Azure.

A backup is three objects under one name. The manifest is stored last. Objects without a manifest are not a backup, and
are deleted when they are old. Sizes and ages are those of the store's listing.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol
from uuid import uuid4

from reactor.backups.store import (
    ARCHIVE,
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
from reactor.core.objects import StoredObject

ABANDONED_S = 2 * 3_600.0
"""The age (s) from which objects without a manifest are deleted. No lease lasts as long, so their writer is gone."""
TIDY_S = 30.0
"""How often this process lists the store, to tidy it and to know its size."""
WINDOW = 4
"""How many chunks of an archive may wait to be sent."""
LONGEST_REASON = 300
LONGEST_LABEL = 100
_ODD = re.compile("[^A-Za-z0-9_-]")
"""Characters that some stores encode in names."""


class Objects(Protocol):
    """An object store. Methods raise the errors of its library. An object exists completely or not at all."""

    url: str
    """Without secrets."""

    async def put(self, name: str, chunks: AsyncIterable[bytes]) -> None:
        """Store an object."""

    def get(self, name: str) -> AsyncIterator[bytes]:
        """Yield an object in pieces."""

    async def list(self) -> list[StoredObject]:
        """Return all objects."""

    async def delete(self, names: Collection[str]) -> None:
        """Delete objects."""

    async def sweep(self, listed: Collection[StoredObject], older_than_s: float) -> None:
        """Delete remains of incomplete objects that are older than that. `listed` are the complete objects."""


@dataclass(frozen=True, slots=True)
class ObjectBackup(Backup):
    """A backup in an object store."""

    objects: Objects
    name: str
    manifest: Manifest

    @property
    def address(self) -> str:
        """The store's URL and the backup's name."""
        return f"{self.objects.url}/{self.name}"

    async def description(self) -> dict[str, Any]:
        """Return the stream's config and state. Raises BackupCorrupt."""
        try:
            described = read_json(await _whole(self.objects, f"{self.name}/{DESCRIPTION}"))
            return {part: dict(described[part]) for part in ("config", "state")}
        except Exception as error:
            raise BackupCorrupt(f"{self.address} cannot be read: {_reason(error)}") from error

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the archive in pieces. Raises BackupCorrupt."""
        pieces = aiter(self.objects.get(f"{self.name}/{ARCHIVE}"))
        while True:
            try:
                piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except Exception as error:
                raise BackupCorrupt(f"{self.address} cannot be read: {_reason(error)}") from error
            yield piece


class ObjectDraft:
    """A backup that is being sent, while it is written."""

    def __init__(self, objects: Objects, name: str) -> None:
        """Start sending."""
        self.name = name
        self.digest = Digest()
        self.placed = False
        self._chunks = asyncio.Queue[bytes](WINDOW)
        self.sending = asyncio.create_task(objects.put(f"{name}/{ARCHIVE}", self._read()), name=f"backup {name}")

    async def _read(self) -> AsyncIterator[bytes]:
        while chunk := await self._chunks.get():
            yield chunk

    async def write(self, chunk: bytes) -> None:
        """Append the next piece of the archive."""
        self.digest.add(chunk)
        await self._put(chunk)

    async def stored(self) -> None:
        """Wait until the whole archive is stored."""
        await self._put(b"")
        await self.sending

    async def _put(self, chunk: bytes) -> None:
        """Queue a chunk. If sending has failed, raise the error."""
        waiting = asyncio.create_task(self._chunks.put(chunk))
        await asyncio.wait({waiting, self.sending}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            await self.sending
            raise ConnectionError("the store has stopped reading")


@dataclass(eq=False, repr=False)
class ObjectStore(BackupStore):
    """Backups in a store that all replicas share. Ages are measured by the store's clock, from the newest object.

    `may_tidy` asks whether this process may delete old backups now. Only one replica at a time may.
    """

    objects: Objects
    max_age_s: float
    max_bytes: int
    may_tidy: Callable[[], Awaitable[bool]]

    def __post_init__(self) -> None:
        self._settled = set[str]()
        self._held = 0
        self._listed_at = float("-inf")

    @property
    def address(self) -> str:
        """Its URL, without secrets."""
        return self.objects.url

    @asynccontextmanager
    async def draft(self, label: str) -> AsyncIterator[ObjectDraft]:
        """Provide a draft to write. Raises BackupFailed.

        A draft that is given up is deleted at once. Remains after a failure are deleted when they are old.
        """
        draft = ObjectDraft(self.objects, f"{_ODD.sub('_', label)[:LONGEST_LABEL]}-{uuid4().hex}")
        try:
            yield draft
            if not draft.placed:
                await self.objects.delete([f"{draft.name}/{ARCHIVE}"])
        except BackupFailed:
            raise
        except Exception as error:
            raise self._failed(error) from error
        finally:
            if not draft.sending.done():
                draft.sending.cancel()
            await asyncio.gather(draft.sending, return_exceptions=True)

    async def place(self, draft: ObjectDraft, manifest: Manifest, description: Mapping[str, Any]) -> ObjectBackup:
        """Turn a draft into a backup. Raises BackupFailed."""
        try:
            await draft.stored()
            whole = draft.digest.signed(manifest)
            for part, content in ((DESCRIPTION, description), (MANIFEST, asdict(whole))):
                await self.objects.put(f"{draft.name}/{part}", _once(json.dumps(content, indent=2).encode()))
        except Exception as error:
            raise self._failed(error) from error
        draft.placed = True
        self._held += whole.size
        return ObjectBackup(self.objects, draft.name, whole)

    def _failed(self, error: Exception) -> BackupFailed:
        return BackupFailed(f"no backup could be written to {self.address}: {_reason(error)}")

    async def backups(self) -> list[Backup]:
        """Return all complete backups, newest first. Raises BackupFailed."""
        try:
            names = [name for name, parts in _by_name(await self.objects.list()).items() if MANIFEST in parts]
            room = asyncio.Semaphore(8)
            backups = await asyncio.gather(*(self._backup(name, room) for name in names))
        except Exception as error:
            raise BackupFailed(f"{self.address} cannot be read: {_reason(error)}") from error
        return sorted((item for item in backups if item), key=lambda item: item.manifest.at, reverse=True)

    async def _backup(self, name: str, room: asyncio.Semaphore) -> ObjectBackup | None:
        async with room:
            manifest = read_manifest(await _whole(self.objects, f"{name}/{MANIFEST}"))
        return ObjectBackup(self.objects, name, manifest) if manifest else None

    async def free(self) -> int | None:
        """Return None: an object store does not know its free space."""
        return None

    def release(self, backup: Backup) -> None:
        """Mark the deletion that relied on this backup as over, so that the backup may be tidied."""
        self._settled.add(backup.address)

    async def make_room(self, wanted: int) -> None:
        """Delete expired backups, and the oldest ones until `wanted` bytes fit. Raises BackupFailed if they cannot."""
        is_full = self._held + wanted > self.max_bytes
        if is_full or time.monotonic() - self._listed_at > TIDY_S:
            try:
                await self._tidy(wanted)
            except Exception as error:
                raise self._failed(error) from error
        Limits(self.max_age_s, self.max_bytes).check(self._held, wanted)

    async def _tidy(self, wanted: int) -> None:
        listed = await self.objects.list()
        stored = _by_name(listed)
        self._listed_at = time.monotonic()
        now_s = max((part.written_s for parts in stored.values() for part in parts.values()), default=0.0)
        held, left = list[Held](), list[str]()
        for name, parts in stored.items():
            written_s = max(part.written_s for part in parts.values())
            if {ARCHIVE, DESCRIPTION, MANIFEST} == parts.keys():
                size = sum(part.size for part in parts.values())
                held.append(Held(f"{self.address}/{name}", size, parts[MANIFEST].written_s))
            elif MANIFEST not in parts and now_s - written_s > ABANDONED_S:
                left.append(name)
        self._held = sum(item.size for item in held)
        spare = Limits(self.max_age_s, self.max_bytes).spare(held, wanted, now_s, self._settled)
        if await self.may_tidy():
            names = [item.address.removeprefix(f"{self.address}/") for item in spare]
            await self._remove([*names, *left], stored)
            await self.objects.sweep(listed, ABANDONED_S)
            self._held -= sum(item.size for item in spare)

    async def _remove(self, names: list[str], stored: Mapping[str, Mapping[str, StoredObject]]) -> None:
        """Delete backups, the manifests first, so that remains are not taken for a backup."""
        for parts in (stored[name] for name in names):
            ordered = sorted(parts, key=lambda part: part != MANIFEST)
            await self.objects.delete([parts[part].name for part in ordered])


def _by_name(stored: Collection[StoredObject]) -> dict[str, dict[str, StoredObject]]:
    """Return the objects by backup and part; others are left out."""
    parts = dict[str, dict[str, StoredObject]]()
    for item in stored:
        name, _, part = item.name.rpartition("/")
        if name and "/" not in name and part in {ARCHIVE, DESCRIPTION, MANIFEST}:
            parts.setdefault(name, {})[part] = item
    return parts


async def _whole(objects: Objects, name: str) -> bytes:
    return b"".join([chunk async for chunk in objects.get(name)])


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _reason(error: Exception) -> str:
    """Return the error's text in one line."""
    return " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__


async def copy(backup: Backup, to: BackupStore) -> Backup:
    """Copy a backup to another place. Raises BackupCorrupt and BackupFailed."""
    await backup.check()
    async with to.draft(backup.manifest.stream) as draft:
        async for chunk in backup.chunks():
            await draft.write(chunk)
        return await to.place(draft, backup.manifest, await backup.description())
