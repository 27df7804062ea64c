"""A worker's full pass hands its terminal zombies to all replicas, through the due queue, and waits for what they do.

So none of them is idle while there is work. What became of the streams is read from the audit,
and for what was never begun in the standings.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from reactor.core.model import Outcome, Settlement
from reactor.deletion.resources import Resources

LOOK_S = 0.1
STALLED_S = 30.0
"""How long nothing may come of any of them before the pass ends without."""
ASKED = 500
"""StreamStateStore that are asked for at once: the due queue is worked off bit by bit."""
UNSETTLED = "in the due queue, and not settled before the pass ended"


@dataclass(eq=False, repr=False)
class Handover:
    """Methods raise LedgerError.

    `stop` ends the waiting.
    """

    deps: Resources
    stop: asyncio.Event

    def __post_init__(self) -> None:
        self._key = "0"
        self._absent = set[str]()

    async def settle(self, zombies: Sequence[Settlement], began: int) -> list[Settlement]:
        """Return what came of each since the listing `began` (ms, Redis's clock), once somebody has settled it."""
        if not zombies:
            return []
        self._key = str(began)
        await self.deps.ledger.due.schedule({item.stream.job_id: 0.0 for item in zombies})
        left, settled = {item.stream.name: item for item in zombies}, dict[str, Settlement]()
        moved_at = time.monotonic()
        while left and not self.stop.is_set() and time.monotonic() - moved_at < STALLED_S:
            news = await self._news(left)
            for name in news:
                del left[name]
            if news:
                settled |= news
                moved_at = time.monotonic()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), LOOK_S)
        settled |= {name: replace(item, outcome=Outcome.WAITING, detail=UNSETTLED) for name, item in left.items()}
        return [settled[item.stream.name] for item in zombies]

    async def _news(self, left: Mapping[str, Settlement]) -> dict[str, Settlement]:
        """Return what became of some of these. Absence must be seen twice: the outcome comes after the deletion."""
        asked = list(left)[:ASKED]
        standing = await self.deps.ledger.stream_states.of(asked)
        self._key, ended = await self.deps.recorder.ended_since(self._key)
        news = {name: item for name, item in standing.items() if item.outcome is not Outcome.WOULD_DRAIN}
        for name, outcome, detail in ended:
            if name in left:
                news[name] = replace(left[name], outcome=outcome, detail=detail)
        absent = set(asked) - standing.keys() - news.keys()
        news |= {name: replace(left[name], outcome=Outcome.ALREADY_GONE) for name in absent & self._absent}
        self._absent = absent
        return news
