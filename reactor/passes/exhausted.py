"""Find exhausted queues: a job is live, but its stream's last messages were given up (max_deliver), so workers wait.

This changes no verdict and deletes nothing. Each queue is reported once, each time it becomes exhausted.
"""

import time
from contextlib import suppress
from dataclasses import dataclass

from reactor.core.model import Reason
from reactor.core.stream_info import is_exhausted
from reactor.deletion.resources import Resources
from reactor.jetstream.errors import JetStreamError, NotFound
from reactor.store.exhausted import GivenUp
from reactor.store.keyspace import LedgerError

CHECK_S = 2.0
"""How often to check. A queue sends an advisory for each message that it gives up, and they are checked together."""
RECHECK_S = 60.0
"""How often a known exhausted queue is checked again. It may have new messages, or be gone."""


@dataclass(eq=False, repr=False)
class ExhaustedQueues:
    """Finds exhausted queues among the noted streams."""

    deps: Resources
    recheck_s: float = RECHECK_S

    def __post_init__(self) -> None:
        self._noted = dict[str, GivenUp]()
        self._checked_at = float("-inf")

    def note(self, stream: str, given_up: GivenUp) -> None:
        """Note that a message of this stream was given up, so that the next tick checks the stream."""
        self._noted[stream] = max(given_up, self._noted.get(stream, given_up))

    async def tick(self) -> None:
        """Check the noted streams, and once in `recheck_s` the known ones. Raises JetStreamError and LedgerError."""
        is_time = time.monotonic() - self._checked_at >= self.recheck_s
        if not self._noted and not is_time:
            return
        known = await self.deps.ledger.exhausted.all()
        for stream in known if is_time else known.keys() & self._noted.keys():
            self.note(stream, known[stream])
        if is_time:
            self._checked_at = time.monotonic()
        while self._noted:
            stream, last = self._noted.popitem()
            try:
                await self._check(stream, last, is_known=stream in known)
            except (JetStreamError, LedgerError):
                self.note(stream, last)
                raise

    async def _check(self, stream: str, last: GivenUp, *, is_known: bool) -> None:
        if await self._is_exhausted(stream, last):
            if await self.deps.ledger.exhausted.put(stream, last):
                await self.deps.recorder.exhausted(stream, self.deps.policy.job_id(stream) or "", last.consumer)
        elif is_known:
            await self.deps.ledger.exhausted.forget(stream)

    async def _is_exhausted(self, stream: str, last: GivenUp) -> bool:
        """Return whether the queue of a live job delivers nothing more."""
        state = (await self.deps.ledger.stream_states.of([stream])).get(stream)
        if state is None or state.reason is not Reason.RUNNING:
            return False
        with suppress(NotFound):
            return is_exhausted(await self.deps.reads.consumer_info(stream, last.consumer), last.seq)
        return False
