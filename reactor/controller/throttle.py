"""How much is done at once, and how many drains begin in a second."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from reactor.controller.parallel import Item, Result, each
from reactor.store.turns import Turns


class Throttle:
    """The bounds of one process; the rate is one for all replicas."""

    def __init__(self, at_once: int, turns: Turns | None = None, max_rate: float | None = None) -> None:
        """No more than `max_rate` drains a second begin, wherever they do."""
        self.at_once = at_once
        self._turns = turns
        self._max_rate = max_rate
        self._asking = asyncio.Lock()

    @property
    def is_limited(self) -> bool:
        """Whether a turn may have to be waited for."""
        return self._max_rate is not None

    async def turn(self) -> None:
        """Wait until one more may begin. Raises LedgerError."""
        if self._turns is None or self._max_rate is None:
            return
        async with self._asking:
            while wait_s := await self._turns.take(self._max_rate):  # noqa: ASYNC110  # other processes take turns, too
                await asyncio.sleep(wait_s)

    def within(self, seconds: float) -> int:
        """How many may be taken, so that all of them begin in so much time."""
        return min(self.at_once, max(1, int(self._max_rate * seconds)) if self._max_rate else self.at_once)

    async def each(self, items: Iterable[Item], work: Callable[[Item], Awaitable[Result]]) -> list[Result]:
        """Results in the order of the items. Where one fails the others are still finished, then it is raised."""
        return await each(items, work, self.at_once)
