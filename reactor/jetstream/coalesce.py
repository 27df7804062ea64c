"""One answer for all who ask at the same time."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Answer = TypeVar("Answer")

UNDER_WAY = 4
"""Requests; more would share less."""


@dataclass(eq=False, repr=False)
class CoalescedRequest(Generic[Answer]):
    """Asks again only if somebody wants to know, and never gives anybody an answer older than the question.

    A question that comes after a request was sent shares the next one: what happened just before it may not be in the
    answer to an earlier one. A few may be under way, so that over a distance nobody waits for a whole one of others'.

    `ask` makes the request; its errors are raised to all who share it. At most so many are `under_way`.
    """

    ask: Callable[[], Awaitable[Answer]]
    under_way: int = UNDER_WAY

    def __post_init__(self) -> None:
        self._turn = asyncio.Semaphore(self.under_way)
        self._next: asyncio.Task[Answer] | None = None

    async def __call__(self) -> Answer:
        """Return the answer to a request that is sent from now on."""
        if self._next is None:
            self._next = asyncio.create_task(self._send(), name="shared question")
            self._next.add_done_callback(_retrieve)
        return await asyncio.shield(self._next)

    async def _send(self) -> Answer:
        async with self._turn:
            self._next = None
            return await self.ask()


def _retrieve(task: "asyncio.Task[Any]") -> None:
    """Take note of its error: all who asked may have given up meanwhile."""
    if not task.cancelled():
        task.exception()
