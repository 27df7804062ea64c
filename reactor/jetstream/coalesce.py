"""Share one request among all callers that ask at the same time."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Answer = TypeVar("Answer")

UNDER_WAY = 4
"""How many requests may be under way. With more, fewer callers share one."""


@dataclass(eq=False, repr=False)
class CoalescedRequest(Generic[Answer]):
    """A request that concurrent callers share. No caller gets an answer older than its call.

    A caller that comes after a request was sent shares the next request, because the answer to the first may lack what
    happened in between. A few requests may be under way, so that on a slow connection callers do not wait for a whole
    round trip of others.

    `ask` sends the request. Its errors are raised to all who share it. At most `under_way` requests run at once.
    """

    ask: Callable[[], Awaitable[Answer]]
    under_way: int = UNDER_WAY

    def __post_init__(self) -> None:
        self._turn = asyncio.Semaphore(self.under_way)
        self._next: asyncio.Task[Answer] | None = None

    async def __call__(self) -> Answer:
        """Return the answer to a request that is sent after this call."""
        if self._next is None:
            self._next = asyncio.create_task(self._send(), name="shared request")
            self._next.add_done_callback(_retrieve)
        return await asyncio.shield(self._next)

    async def _send(self) -> Answer:
        async with self._turn:
            self._next = None
            return await self.ask()


def _retrieve(task: "asyncio.Task[Any]") -> None:
    """Retrieve the task's error, because all its callers may have given up."""
    if not task.cancelled():
        task.exception()
