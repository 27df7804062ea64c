"""What may hold all deleting back: an operator's pause (`PauseGate`), and a right that is missing (`Rights`).

A pause is asked for before each fence and behind it, of NATS, which does not forget. It is the last message on a
subject of a stream of reactor's own. The server's clock says when it is over. If that stream is gone although Redis
knows that there was one, a pause may have gone with it: so deleting is paused until an operator speaks again. Only
`reactor pause` and `reactor resume` make a lost stream again.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass

from reactor.core.pause import Pause, pausing, read_pause, resuming
from reactor.core.stream_info import instant
from reactor.jetstream.client import JetStream
from reactor.jetstream.coalesce import CoalescedRequest
from reactor.jetstream.errors import NotFound, Unreachable
from reactor.jetstream.permissions import for_deleting
from reactor.jetstream.topology import CONTROL, PAUSE_SUBJECT, declare_control
from reactor.store.scripts import LedgerError
from reactor.store.topology_cache import TopologyCache

GONE = f"stream {CONTROL} is gone, so it is unknown whether deleting is paused: reactor resume creates it again"
NOTE_S = 60.0
"""How often to note in Redis that the stream exists: Redis may have been emptied."""


@dataclass(eq=False, repr=False)
class PauseGate:
    """One process's. Methods raise JetStreamError.

    `topology_cache` remembers that the stream existed; the gate writes that there if it `notes`.

    `replicas` is for the stream if it must be made.
    """

    reads: JetStream
    topology_cache: TopologyCache | None = None
    replicas: int = 1
    _: KW_ONLY
    notes: bool = True

    def __post_init__(self) -> None:
        self._together = CoalescedRequest(self._ask)
        self._over: tuple[int, int] | None = None
        """Sequence and time of the message of a pause whose time is over."""
        self._noted_at = float("-inf")

    async def active_pause(self) -> Pause | None:
        """Return the pause that is active, by an answer that is not older than the question; None if there is none."""
        return await self._together()

    async def _ask(self) -> Pause | None:
        try:
            message = await self.reads.last_message(CONTROL, PAUSE_SUBJECT)
            await self._note()
            if message is None or (message.seq, message.published_at) == self._over:
                return None
            pause = read_pause(message.data, message.published_at)
            if pause is None or pause.until is None:
                return pause
            now = instant((await self.reads.stream_info(CONTROL)).get("ts"))
        except NotFound as error:
            if await self.was_lost():
                raise Unreachable(GONE) from error
            return None
        if now is None or pause.is_active(now):
            return pause
        self._over = message.seq, message.published_at
        return None

    async def was_lost(self) -> bool:
        """Return whether the stream, which is not there, was there before. Also if Redis cannot tell."""
        if self.topology_cache is None:
            return True
        try:
            return await self.topology_cache.had_control()
        except LedgerError:
            return True

    async def _note(self) -> None:
        if self.notes and self.topology_cache is not None and time.monotonic() - self._noted_at > NOTE_S:
            with suppress(LedgerError):  # the pause itself is known without Redis
                await self.topology_cache.note_control()
                self._noted_at = time.monotonic()

    async def declare(self) -> None:
        """Create the control stream if it is missing: call this before an order. Raises ProvisionError."""
        await declare_control(self.reads, self.replicas)

    async def pause(self, by: str, reason: str, span_ns: int | None) -> None:
        """Publish a pause: from now on nobody deletes anything."""
        await self.reads.publish(PAUSE_SUBJECT, pausing(by, reason, span_ns))

    async def resume(self, by: str) -> None:
        """Publish the end of a pause."""
        await self.reads.publish(PAUSE_SUBJECT, resuming(by))


@dataclass(eq=False, repr=False)
class Rights:
    """What this process may do to streams, one for all that delete.

    Allowed until it is known better.
    """

    effects: JetStream

    def __post_init__(self) -> None:
        self._paused: str | None = None
        self.on_change: Callable[[str | None], None] = lambda _: None
        """Told each time why nothing is deleted, and None if it is allowed."""

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
        barred = [item.allow for item in for_deleting(self.effects) if not await self.effects.may_publish(*item.trial)]
        self.pause(f"no permission to publish to {', '.join(barred)}" if barred else None)

    async def recheck(self) -> None:
        """Check again if deleting is paused: nothing else may be due that would notice. Raises JetStreamError."""
        if self._paused is not None:
            await self.check()
