"""Handover: a worker's full pass puts the zombies of ended jobs into the due queue, so that all replicas settle them.

Then it waits for the results. They are read from the audit, and from the stored states for streams without a deletion.
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
"""After this long without any result (s) the pass ends without the rest."""
ASKED = 500
"""How many states are read at once."""
UNSETTLED = "in the due queue, and not settled before the pass ended"


@dataclass(eq=False, repr=False)
class Handover:
    """Hands zombies over and waits for the results. Methods raise LedgerError. `stop` ends the waiting."""

    deps: Resources
    stop: asyncio.Event

    def __post_init__(self) -> None:
        self._key = "0"
        self._absent = set[str]()

    async def settle(self, zombies: Sequence[Settlement], began: int) -> list[Settlement]:
        """Return the settlement of each zombie since the listing `began` (ms, Redis's clock)."""
        if not zombies:
            return []
        self._key = str(began)
        await self.deps.ledger.due.schedule({item.stream.job_id: 0.0 for item in zombies})
        left, settled = {item.stream.name: item for item in zombies}, dict[str, Settlement]()
        moved_at = time.monotonic()
        while left and not self.stop.is_set() and time.monotonic() - moved_at < STALLED_S:
            results = await self._new_results(left)
            for name in results:
                del left[name]
            if results:
                settled |= results
                moved_at = time.monotonic()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), LOOK_S)
        settled |= {name: replace(item, outcome=Outcome.WAITING, detail=UNSETTLED) for name, item in left.items()}
        return [settled[item.stream.name] for item in zombies]

    async def _new_results(self, left: Mapping[str, Settlement]) -> dict[str, Settlement]:
        """Return new results. A stream is gone if it is absent twice, as its outcome is written after its deletion."""
        asked = list(left)[:ASKED]
        states = await self.deps.ledger.stream_states.of(asked)
        self._key, ended = await self.deps.recorder.ended_since(self._key)
        results = {name: item for name, item in states.items() if item.outcome is not Outcome.WOULD_DRAIN}
        for name, outcome, detail in ended:
            if name in left:
                results[name] = replace(left[name], outcome=outcome, detail=detail)
        absent = set(asked) - states.keys() - results.keys()
        results |= {name: replace(left[name], outcome=Outcome.ALREADY_GONE) for name in absent & self._absent}
        self._absent = absent
        return results
