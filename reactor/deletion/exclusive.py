"""Work on a stream that nobody may be deleting meanwhile: under its own lease, and behind no fence."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from reactor.core.model import SECOND, Outcome
from reactor.deletion.fencing import Fenced, Fencing, HeldLease, LeaseExpired
from reactor.deletion.inspection import Inspection, Inspector, Target
from reactor.deletion.resources import Resources
from reactor.job_status.ledger_directory import Snapshot

LOOK_S = 0.05

Result = TypeVar("Result")


class StaysFenced(Exception):
    """What a fence has taken cannot be given back: says why."""


@dataclass(eq=False, repr=False)
class ExclusiveAccess:
    """Waits out whatever goes on with a stream, and takes a fence away that was left standing.

    `lease_s` is the time for one stream.
    """

    deps: Resources
    judge: Inspector
    lease_s: float

    def __post_init__(self) -> None:
        self._fencing = Fencing(self.deps, self.judge.policy)

    async def run(self, snapshot: Snapshot, target: Target, work: Callable[[Inspection], Awaitable[Result]]) -> Result:
        """Return what `work` makes of the stream. Waits without end: the caller says for how long.

        Raises NotFound if there is none, StaysFenced, JetStreamError and LedgerError.
        """
        while True:
            held_lease = HeldLease.begin(target.name, self.lease_s, time.monotonic)
            if await self.deps.ledger.leases.take(held_lease.lease):
                try:
                    if (inspection := await self._look(snapshot, target, held_lease)) is not None:
                        held_lease.check("work on it", held=await self.deps.ledger.leases.holds(held_lease.lease))
                        async with asyncio.timeout(held_lease.deadline - time.monotonic()):  # nothing is done beyond it
                            return await work(inspection)
                except (LeaseExpired, TimeoutError):
                    pass
                finally:
                    await self.deps.ledger.leases.release(held_lease.lease)
            await asyncio.sleep(LOOK_S)

    async def _look(self, snapshot: Snapshot, target: Target, held_lease: HeldLease) -> Inspection | None:
        """Return None if a fence stands that is another's to take away, or stood until now."""
        inspection = await self.judge.inspect(snapshot, target)
        fence = inspection.stream.fence
        if fence is None:
            return inspection
        if fence.until > inspection.stream.observed_at:
            await asyncio.sleep(min((fence.until - inspection.stream.observed_at) / SECOND, 1.0))
            return None
        settlement = await self._fencing.unfence(
            Fenced(inspection, inspection.raw, fence, inspection.asked_at), held_lease
        )
        if settlement.outcome is Outcome.UNFIXABLE:
            raise StaysFenced(f"stream {target.name} {settlement.detail}")
        return None
