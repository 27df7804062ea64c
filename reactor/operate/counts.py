"""Count the job streams by verdict, from the stored states. NATS is not asked."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass

from reactor.core.model import SECOND, Outcome, Settlement
from reactor.core.policy import Policy, fell_due
from reactor.core.schemas import Counts
from reactor.deletion.stream_states import as_of_now
from reactor.store.stream_states import StreamStateStore

FRESH_S = 2.0
"""How long a count is reused at least, because many may ask at once."""
RECOUNT_S = 60.0
"""How often to count if no state has changed. Time alone can turn a waiting stream into a zombie."""
SHARE = 20
"""Counting takes at most a twentieth of the time."""
_VERDICTS = {
    Outcome.KEPT: "kept",
    Outcome.WAITING: "waiting",
    Outcome.WOULD_DRAIN: "zombie",
    Outcome.UNFIXABLE: "unfixable",
}
_UNCOUNTED: Counts = {
    "job_streams": None,
    "verdicts": {},
    "reasons": {},
    "live": None,
    "waiting": None,
    "zombies": None,
    "oldest_zombie_s": None,
}
"""The counts before the first full pass."""


@dataclass(eq=False, repr=False)
class StreamCounts:
    """The counts, as one process caches them. Methods raise LedgerError."""

    stream_states: StreamStateStore
    policy: Policy

    def __post_init__(self) -> None:
        self._counting = asyncio.Lock()
        self._counts = _UNCOUNTED
        self._version = ""
        self._counted_at = float("-inf")
        self._took_s = 0.0
        self._next_due_s = float("inf")
        """Seconds from the count until the first waiting stream falls due."""

    async def rows(self) -> list[Settlement]:
        """Return the states of all job streams, by name."""
        rows = [as_of_now(state, self.policy) async for state in self.stream_states.all()]
        return sorted(rows, key=lambda item: item.stream.name)

    async def counts(self) -> Counts:
        """Return the counts. They are at most a few seconds old."""
        async with self._counting:
            age_s = time.monotonic() - self._counted_at
            if age_s > max(FRESH_S, SHARE * self._took_s):
                version, since = await self.stream_states.state()
                if version != self._version or age_s > min(RECOUNT_S, self._next_due_s):
                    self._counts = _UNCOUNTED if since is None else await self._count()
                    self._version = version
            return self._counts

    async def _count(self) -> Counts:
        """Count without keeping the rows, because there may be many."""
        began = time.monotonic()
        verdicts, reasons = Counter[str](dict.fromkeys(_VERDICTS.values(), 0)), Counter[str]()
        oldest_s, soonest_s = None, float("inf")
        async for stored in self.stream_states.all():
            item = as_of_now(stored, self.policy)
            verdicts[_VERDICTS[item.outcome]] += 1
            reasons[item.reason.value] += 1
            due = fell_due(item.stream, item.record, self.policy) if item.outcome is Outcome.WOULD_DRAIN else None
            if item.outcome is Outcome.WAITING and item.until is not None and item.until > item.stream.observed_at:
                soonest_s = min(soonest_s, (item.until - item.stream.observed_at) / SECOND)
            if due is not None:
                oldest_s = max(oldest_s or 0.0, (item.stream.observed_at - due) / SECOND)
        self._counted_at = time.monotonic()
        self._took_s = self._counted_at - began
        self._next_due_s = soonest_s
        return {
            "job_streams": verdicts.total(),
            "verdicts": dict(verdicts),
            "reasons": dict(reasons),
            "live": reasons["running"],
            "waiting": verdicts["waiting"],
            "zombies": verdicts["zombie"],
            "oldest_zombie_s": oldest_s,
        }
