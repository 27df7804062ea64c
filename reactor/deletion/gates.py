"""The two gates that stop all deleting: an operator's pause (`PauseGate`) and a missing permission (`Rights`).

The pause is read before each fence and again behind it. It is stored in NATS, as the last message on a subject of the
control stream, because Redis may be emptied. It ends by the server's clock. If the control stream is gone although
Redis knows that it existed, a pause may be lost with it, so deleting stays paused until an operator acts. Only
`reactor pause` and `reactor resume` create a lost control stream again.
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
from reactor.store.keyspace import LedgerError
from reactor.store.topology_cache import TopologyCache

GONE = f"stream {CONTROL} is gone, so it is unknown whether deleting is paused: reactor resume creates it again"
NOTE_S = 60.0
"""How often to write to Redis that the stream exists, because Redis may have been emptied."""


@dataclass(eq=False, repr=False)
class PauseGate:
    """The pause, as one process reads and sets it. Methods raise JetStreamError.

    `topology_cache` remembers that the control stream existed. Only a gate that `notes` writes that. `replicas` is the
    number of replicas of a control stream that must be created.
    """

    reads: JetStream
    topology_cache: TopologyCache | None = None
    replicas: int = 1
    _: KW_ONLY
    notes: bool = True

    def __post_init__(self) -> None:
        self._shared_request = CoalescedRequest(self._ask)
        self._over: tuple[int, int] | None = None
        """Sequence and time of the message of a pause that has expired."""
        self._noted_at = float("-inf")

    async def active_pause(self) -> Pause | None:
        """Return the active pause, or None. The answer is never older than the call."""
        return await self._shared_request()

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
        """Return whether the missing control stream existed before. True also if Redis is away."""
        if self.topology_cache is None:
            return True
        try:
            return await self.topology_cache.had_control()
        except LedgerError:
            return True

    async def _note(self) -> None:
        if self.notes and self.topology_cache is not None and time.monotonic() - self._noted_at > NOTE_S:
            with suppress(LedgerError):  # the pause itself does not depend on Redis
                await self.topology_cache.note_control()
                self._noted_at = time.monotonic()

    async def declare(self) -> None:
        """Create the control stream if it is missing. Call this before an order. Raises ProvisionError."""
        await declare_control(self.reads, self.replicas)

    async def pause(self, by: str, reason: str, span_ns: int | None) -> None:
        """Publish a pause. From now on no process deletes anything."""
        await self.reads.publish(PAUSE_SUBJECT, pausing(by, reason, span_ns))

    async def resume(self, by: str) -> None:
        """Publish the end of a pause."""
        await self.reads.publish(PAUSE_SUBJECT, resuming(by))


@dataclass(eq=False, repr=False)
class Rights:
    """Whether this process has the permissions to delete. It has, until a refusal or a check shows otherwise."""

    effects: JetStream

    def __post_init__(self) -> None:
        self._paused: str | None = None
        self.on_change: Callable[[str | None], None] = lambda _: None
        """Called at each change with the reason why nothing is deleted, or None if deleting is allowed."""

    @property
    def paused(self) -> str | None:
        """Why nothing is deleted: the missing permission; None if none is missing."""
        return self._paused

    def pause(self, why: str | None) -> None:
        """Stop deleting for this reason; None lets it go on."""
        self._paused = why
        self.on_change(why)

    async def check(self) -> None:
        """Try each permission that a deletion needs, on a stream that cannot exist. Raises JetStreamError."""
        barred = [item.allow for item in for_deleting(self.effects) if not await self.effects.may_publish(*item.trial)]
        self.pause(f"no permission to publish to {', '.join(barred)}" if barred else None)

    async def recheck(self) -> None:
        """Check again if a permission was missing: nothing else notices when it is granted. Raises JetStreamError."""
        if self._paused is not None:
            await self.check()
