"""Limit how many drains run at once, and how many begin in a second."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import InitVar, dataclass
from typing import TypeVar

import structlog

from reactor.deletion.concurrency import each
from reactor.jetstream.latency import WINDOW, Pace
from reactor.store.leases import Turns

LEAST = 8
ROUNDS = 4
"""How many rounds of work a batch holds. The jobs of a batch share their common requests."""

log = structlog.get_logger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False, repr=False)
class Throttle:
    """The limits of one process, and the rate that all replicas share.

    `at_once` drains run at once. `max_rate` drains begin in a second, in all replicas together. `pace` measures the
    JetStream API.
    """

    at_once: int
    turns: Turns | None = None
    max_rate: float | None = None
    pace: InitVar[Pace | None] = None

    def __post_init__(self, pace: Pace | None) -> None:
        self._asking = asyncio.Lock()
        self._limit = AdaptiveLimit(self.at_once, pace or Pace())

    @property
    def is_limited(self) -> bool:
        """Whether the rate is limited."""
        return self.max_rate is not None

    async def turn(self) -> None:
        """Wait until one more drain may begin. Raises LedgerError."""
        if self.turns is None or self.max_rate is None:
            return
        async with self._asking:
            while wait_s := await self.turns.wait_s(self.max_rate):  # noqa: ASYNC110  # other processes take turns, too
                await asyncio.sleep(wait_s)

    def batch_size(self, seconds: float) -> int:
        """Return how many jobs to take, so that all of them can begin within `seconds`."""
        most = self.at_once * ROUNDS
        return min(most, max(1, int(self.max_rate * seconds))) if self.max_rate else most

    async def each(self, items: Iterable[Item], work: Callable[[Item], Awaitable[Result]]) -> list[Result]:
        """Return the results in the order of the items. If one fails, finish the others, then raise."""

        async def handle(item: Item) -> Result:
            async with self._limit.slot():
                return await work(item)

        return await each(items, handle, self.at_once)


@dataclass(eq=False, repr=False)
class AdaptiveLimit:
    """Limits how many run at once. It halves the limit if the API is slow, or if others wait for the API because of us.

    Then it grows back step by step. An eighth always runs: a server may be slow for other reasons, and its zombies must
    be deleted, too.
    """

    most: int
    pace: Pace

    def __post_init__(self) -> None:
        self._least = max(1, self.most // LEAST)
        self._seen = 0
        self._limit = self.most
        self._busy = 0
        self._freed = asyncio.Condition()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a free slot, and hold it."""
        async with self._freed:
            await self._freed.wait_for(lambda: self._busy < self._adapted())
            self._busy += 1
        try:
            yield
        finally:
            async with self._freed:
                self._busy -= 1
                self._freed.notify_all()

    def _adapted(self) -> int:
        """Return the limit. It is adapted after every few answers."""
        if self.pace.answers - self._seen >= WINDOW // 2:
            self._seen = self.pace.answers
            before = self._limit
            grown = min(self.most, before + 1 + before // 4)
            crowded = self.pace.is_slow or self.pace.is_felt
            self._limit = max(self._least, before // 2) if crowded else grown
            if self._limit < before and self.pace.is_slow:
                p95_s = round(self.pace.p95_s, 3)
                log.info("JetStream answers slowly, so fewer drains run at once", p95_s=p95_s, at_once=self._limit)
        return self._limit
