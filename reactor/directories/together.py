"""One answer for all who ask at the same time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Together(Generic[Answer]):
    """Asks again only where somebody wants to know, and never gives anybody an answer older than the question.

    Whoever asks while a request is under way shares the next one: what happened just before the question may not be in
    the answer to a request that was sent earlier.
    """

    def __init__(self, ask: Callable[[], Awaitable[Answer]]) -> None:
        """`ask` makes the request; its errors are raised to all who share it."""
        self._ask = ask
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[Answer] | None = None

    async def __call__(self) -> Answer:
        """The answer to a request that is sent from now on."""
        if self._next is None:
            self._next = asyncio.create_task(self._send(), name="shared question")
        return await asyncio.shield(self._next)

    async def _send(self) -> Answer:
        async with self._turn:
            self._next = None
            return await self._ask()
