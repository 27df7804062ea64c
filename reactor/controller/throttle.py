"""How much is done at once, and how many begin in a second."""

from collections.abc import Awaitable, Callable, Iterable

from aiolimiter import AsyncLimiter

from reactor.controller.parallel import Item, Result, each


class Throttle:
    """The bounds of one process."""

    def __init__(self, at_once: int, max_rate: float | None = None) -> None:
        """No more than `max_rate` drains a second begin."""
        self.at_once = at_once
        self._max_rate = max_rate
        self._limiter = AsyncLimiter(1, 1 / max_rate) if max_rate else None

    @property
    def is_limited(self) -> bool:
        """Whether a turn may have to be waited for."""
        return self._limiter is not None

    async def turn(self) -> None:
        """Wait until one more may begin."""
        if self._limiter:
            await self._limiter.acquire()

    def within(self, seconds: float) -> int:
        """How many may be taken, so that all of them begin in so much time."""
        return min(self.at_once, max(1, int(self._max_rate * seconds)) if self._max_rate else self.at_once)

    async def each(self, items: Iterable[Item], work: Callable[[Item], Awaitable[Result]]) -> list[Result]:
        """Results in the order of the items. Where one fails the others are still finished, then it is raised."""
        return await each(items, work, self.at_once)
