"""Exhausted queues: a job is live, but its stream's last messages were given up (max_deliver), so its workers wait.

No verdict changes by it, and nothing is deleted. It is told once, each time it happens.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from reactor.core.model import Reason
from reactor.core.stream_info import is_exhausted
from reactor.deletion.resources import Resources
from reactor.jetstream.errors import JetStreamError, NotFound
from reactor.store.scripts import LedgerError

LOOK_S = 2.0
"""A queue sends an advisory for each message that it gives up: they are looked at together."""
RECHECK_S = 60.0
"""How often a known exhausted queue is looked at again: it may have got new messages, or be gone."""


@dataclass(eq=False, repr=False)
class ExhaustedQueues:
    """Finds exhausted queues among the streams that are noted."""

    deps: Resources
    recheck_s: float = RECHECK_S

    def __post_init__(self) -> None:
        self._noted = set[str]()
        self._checked_at = float("-inf")

    def note(self, stream: str) -> None:
        """Note that a message of this stream was given up."""
        self._noted.add(stream)

    async def tick(self) -> None:
        """Look at the noted streams, and now and then at the known ones. Raises JetStreamError and LedgerError."""
        is_time = time.monotonic() - self._checked_at >= self.recheck_s
        if not self._noted and not is_time:
            return
        known = await self.deps.ledger.exhausted.all()
        if is_time:
            self._noted |= known.keys()
            self._checked_at = time.monotonic()
        while self._noted:
            stream = self._noted.pop()
            try:
                await self._look(stream, known)
            except (JetStreamError, LedgerError):
                self._noted.add(stream)
                raise

    async def _look(self, stream: str, known: Mapping[str, str]) -> None:
        consumer = await self._exhausted_consumer(stream)
        if consumer is None:
            if stream in known:
                await self.deps.ledger.exhausted.forget(stream)
        elif await self.deps.ledger.exhausted.put(stream, consumer):
            await self.deps.recorder.exhausted(stream, self.deps.policy.job_id(stream) or "", consumer)

    async def _exhausted_consumer(self, stream: str) -> str | None:
        """Return the consumer that gave up the last messages of a live job's stream, if one has."""
        state = (await self.deps.ledger.stream_states.of([stream])).get(stream)
        if state is None or state.reason is not Reason.RUNNING:
            return None
        with suppress(NotFound):
            return next((raw["name"] for raw in await self.deps.reads.consumers(stream) if is_exhausted(raw)), None)
        return None
