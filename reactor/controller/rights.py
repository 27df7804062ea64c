"""Whether deleting is allowed: a right that is missing pauses it, here and not in a storm of refusals."""

from collections.abc import Callable

from reactor.jetstream.client import JetStream
from reactor.jetstream.permissions import for_deleting


class Rights:
    """What this process may do to streams, one for all that delete."""

    def __init__(self, effects: JetStream) -> None:
        """Allowed until it is known better."""
        self._effects = effects
        self._paused: str | None = None
        self.on_change: Callable[[str | None], None] = lambda _: None
        """Told each time why nothing is deleted, and None where it is allowed."""

    @property
    def paused(self) -> str | None:
        """Why nothing is deleted: a permission is missing."""
        return self._paused

    def pause(self, why: str | None) -> None:
        """Delete nothing from here on; or, for None, go on."""
        self._paused = why
        self.on_change(why)

    async def check(self) -> None:
        """Ask for all that it takes, on a stream that cannot exist. Raises JetStreamError."""
        barred = [one.allow for one in for_deleting(self._effects) if not await self._effects.may_publish(*one.trial)]
        self.pause(f"no permission to publish to {', '.join(barred)}" if barred else None)

    async def recheck(self) -> None:
        """The same where deleting is paused: nothing else may be due that would ask. Raises JetStreamError."""
        if self._paused is not None:
            await self.check()
