"""Server-sent events for the page. Changes are read once for all open pages."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

from reactor.jetstream.errors import JetStreamError
from reactor.job_status.ledger_directory import describe_outage
from reactor.operate.overview import Overview
from reactor.store.keyspace import LedgerError

READ_S = 2.0
MOST = 1_000
"""How many events may wait for a page. A slower page is disconnected, and reconnects."""


@dataclass(eq=False, repr=False)
class Feed:
    """Reads changes while a page is connected, and sends them to all pages. `stopping` ends it."""

    stopping: asyncio.Event

    def __post_init__(self) -> None:
        self._listeners: set[asyncio.Queue[str | None]] = set()
        self._reading: asyncio.Task[None] | None = None
        self._last: dict[str, str] = {}
        self._key = self._seen = self._point = ""
        self._trouble_since = ""

    async def listen(self, overview: Overview) -> AsyncIterator[str]:
        """Yield the current state, and then every event."""
        queue = asyncio.Queue[str | None](MOST)
        for text in self._last.values():
            queue.put_nowait(text)
        self._listeners.add(queue)
        if self._reading is None:
            self._reading = asyncio.create_task(self._read(overview), name="feed")
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._listeners.discard(queue)

    async def _read(self, overview: Overview) -> None:
        try:
            while self._listeners and not self.stopping.is_set():
                await self._round(overview)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.stopping.wait(), READ_S)
        finally:
            self._reading = None
            self._last, self._key, self._seen, self._point = {}, "", "", ""
            for queue in list(self._listeners):
                self._disconnect(queue)

    async def _round(self, overview: Overview) -> None:
        try:
            status = await overview.status()
            if status["nats_error"]:
                self._send_trouble(overview, f"NATS: {status['nats_error']}")
            else:
                self._trouble_since = ""
                self._last.pop("trouble", None)
            self._send("status", status, keep=True)
            if (now := json.dumps([status["reasons"], status["job_streams"]])) != self._seen:
                self._seen = now
                self._send("streams", {"at": status["at"]}, keep=True)
            self._key, entries = await overview.trail.entries_since(self._key)
            for entry in entries:
                self._send("settled", entry)
            point = overview.last_point
            if point and point["at"] != self._point:
                if self._point:
                    self._send("point", point)
                self._point = point["at"]
        except (JetStreamError, LedgerError) as error:
            self._send_trouble(overview, describe_outage(error))

    def _send_trouble(self, overview: Overview, error: str) -> None:
        self._trouble_since = self._trouble_since or overview.now()
        self._send("trouble", {"error": error, "since": self._trouble_since}, keep=True)

    def _send(self, kind: str, data: object, *, keep: bool = False) -> None:
        text = f"event: {kind}\ndata: {json.dumps(data)}\n\n"
        if keep:
            self._last[kind] = text
        for queue in list(self._listeners):
            if queue.full():
                self._disconnect(queue)
            else:
                queue.put_nowait(text)

    def _disconnect(self, queue: asyncio.Queue[str | None]) -> None:
        self._listeners.discard(queue)
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)
