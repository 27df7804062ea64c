"""Objects in a JetStream bucket, in the format of all NATS clients and of `nats object`.

https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-20.md (chunks on `$O.<bucket>.C.<nuid>`, the
description of an object on `$O.<bucket>.M.<name>`, which takes the place of the one before)
"""

import asyncio
import json
import re
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterable, AsyncIterator, Collection
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import uuid4

from reactor.core.foreign_json import read_json
from reactor.core.model import SECOND, parse_instant
from reactor.core.objects import StoredObject
from reactor.jetstream.client import JetStream, StoredMessage
from reactor.jetstream.errors import JetStreamError, NotFound, Refused

CHUNK = 128 * 1024
WINDOW = 16
"""How many chunks may be published and not acknowledged yet."""
BATCH = 32
_OURS = re.compile("[0-9a-f]{32}")
"""The ids that reactor gives to an object's chunks. Other clients use other ids."""


@dataclass(eq=False, repr=False)
class Bucket:
    """One bucket. It is created when the first object is put. Methods raise JetStreamError."""

    js: JetStream
    bucket: str
    max_age_s: float
    max_bytes: int
    replicas: int = 1

    def __post_init__(self) -> None:
        self.url = f"nats:{self.bucket}"
        self._stream = f"OBJ_{self.bucket}"
        self._is_there = False

    async def put(self, name: str, chunks: AsyncIterable[bytes]) -> None:
        """Store an object. It exists once its description is stored."""
        await self._ensure()
        nuid, digest, size, count = uuid4().hex, sha256(), 0, 0
        subject, room = f"$O.{self.bucket}.C.{nuid}", asyncio.Semaphore(WINDOW)

        async def publish(piece: bytes) -> None:
            try:
                await self.js.publish(subject, piece)
            finally:
                room.release()

        try:
            async with asyncio.TaskGroup() as sending:
                async for chunk in chunks:
                    for start in range(0, len(chunk), CHUNK):
                        piece = bytes(chunk[start : start + CHUNK])
                        digest.update(piece)
                        size, count = size + len(piece), count + 1
                        await room.acquire()
                        sending.create_task(publish(piece))
        except BaseException as error:  # noqa: BLE001  # also if the task is cancelled
            with suppress(JetStreamError):  # else what was sent goes when it is old
                await self.js.call(f"STREAM.PURGE.{self._stream}", {"filter": subject})
            raise (error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error) from None
        described = {
            "name": name,
            "bucket": self.bucket,
            "nuid": nuid,
            "size": size,
            "chunks": count,
            "digest": f"SHA-256={urlsafe_b64encode(digest.digest()).decode()}",
            "options": {"max_chunk_size": CHUNK},
        }
        await self.js.publish(self._meta(name), json.dumps(described).encode(), {"Nats-Rollup": "sub"})

    async def get(self, name: str) -> AsyncIterator[bytes]:
        """Yield the content of an object in pieces. Raises NotFound."""
        described = _read(await self.js.last_message(self._stream, self._meta(name)))
        if described is None:
            raise NotFound(404, 0, f"there is no object {name} in {self.url}")
        if described["chunks"]:
            async for messages in self.js.replay(self._stream, f"$O.{self.bucket}.C.{described['nuid']}", BATCH):
                for message in messages:
                    yield message.data

    async def list(self) -> list[StoredObject]:
        """Return all objects; none if the bucket does not exist."""
        objects = list[StoredObject]()
        with suppress(NotFound):
            await self.js.stream_info(self._stream)
            async for messages in self.js.replay(self._stream, f"$O.{self.bucket}.M.>"):
                for message in messages:
                    if (described := _read(message)) is not None:
                        written_s, nuid = message.published_at / SECOND, described.get("nuid", "")
                        objects.append(StoredObject(described["name"], described["size"], written_s, nuid))
        return objects

    async def sweep(self, listed: Collection[StoredObject], older_than_s: float) -> None:
        """Delete the chunks of killed writers: reactor's own chunks without an object, the last one older than that."""
        subjects = f"$O.{self.bucket}.C."
        try:
            info = await self.js.call(f"STREAM.INFO.{self._stream}", {"subjects_filter": f"{subjects}>"})
        except NotFound:
            return
        before = parse_instant(info["ts"]) - older_than_s * SECOND  # by the server's clock
        kept = {item.content for item in listed}
        for subject in info["state"].get("subjects") or {}:
            nuid = subject.removeprefix(subjects)
            if nuid in kept or not _OURS.fullmatch(nuid):
                continue
            last = await self.js.last_message(self._stream, subject)
            if last is not None and last.published_at < before:
                await self.js.call(f"STREAM.PURGE.{self._stream}", {"filter": subject})

    async def delete(self, names: Collection[str]) -> None:
        """Delete objects: first their descriptions, then their chunks."""
        for name in names:
            described = _read(await self.js.last_message(self._stream, self._meta(name)))
            await self.js.call(f"STREAM.PURGE.{self._stream}", {"filter": self._meta(name)})
            if described is not None:
                await self.js.call(
                    f"STREAM.PURGE.{self._stream}", {"filter": f"$O.{self.bucket}.C.{described['nuid']}"}
                )

    def _meta(self, name: str) -> str:
        return f"$O.{self.bucket}.M.{urlsafe_b64encode(name.encode()).decode()}"

    async def _ensure(self) -> None:
        """Create the bucket if it is missing. An existing bucket is not changed."""
        if self._is_there:
            return
        try:
            await self.js.stream_info(self._stream)
        except NotFound:
            config = {
                "name": self._stream,
                "subjects": [f"$O.{self.bucket}.C.>", f"$O.{self.bucket}.M.>"],
                "storage": "file",
                "discard": "new",
                "allow_rollup_hdrs": True,
                "allow_direct": True,
                "max_bytes": self.max_bytes,
                "max_age": int(self.max_age_s * SECOND),
                "num_replicas": self.replicas,
                "metadata": {"made-by": "reactor"},
            }
            try:
                await self.js.create_stream(config)
            except Refused as error:
                raise Refused(
                    error.code,
                    error.err_code,
                    f"bucket {self.bucket} of {self.max_bytes} bytes cannot be made: {error}; "
                    "set REACTOR_BACKUP_MAX_BYTES to what the account has room for",
                ) from error
        self._is_there = True


def _read(message: StoredMessage | None) -> dict[str, Any] | None:
    """Return the description of an object; None if the message is not one."""
    try:
        described = read_json(message.data) if message else None
        if not isinstance(described, dict) or described.get("deleted"):
            return None
        return described | {
            "name": str(described["name"]),
            "size": int(described["size"]),
            "chunks": int(described["chunks"]),
        }
    except (ValueError, KeyError, TypeError):
        return None
