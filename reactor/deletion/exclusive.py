"""Work on a stream that nobody may be deleting meanwhile: under its own lease, and behind no fence."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from reactor.core.model import SECOND, Outcome
from reactor.deletion.fencing import Fenced, Fencing, Tenure, TenureOver
from reactor.deletion.inspection import Judge, Look, Target
from reactor.deletion.resources import Resources
from reactor.job_status.ledger_directory import Snapshot

LOOK_S = 0.05

Result = TypeVar("Result")


class StaysFenced(Exception):
    """What a fence has taken cannot be given back: says why."""


class Undisturbed:
    """Waits out whatever goes on with a stream, and takes a fence away that was left standing."""

    def __init__(self, resources: Resources, judge: Judge, lease_s: float) -> None:
        """`lease_s` is the time for one stream."""
        self._ledger = resources.ledger
        self._judge = judge
        self._fencing = Fencing(resources, judge.policy)
        self._lease_s = lease_s

    async def do(self, snapshot: Snapshot, target: Target, work: Callable[[Look], Awaitable[Result]]) -> Result:
        """What `work` makes of the stream. Waits without end: the caller says for how long.

        Raises NotFound where there is none, StaysFenced, JetStreamError and LedgerError.
        """
        while True:
            tenure = Tenure.begin(target.name, self._lease_s, time.monotonic)
            if await self._ledger.leases.take(tenure.lease):
                try:
                    if (look := await self._look(snapshot, target, tenure)) is not None:
                        tenure.check("work on it", held=await self._ledger.leases.holds(tenure.lease))
                        async with asyncio.timeout(tenure.deadline - time.monotonic()):  # nothing is done beyond it
                            return await work(look)
                except (TenureOver, TimeoutError):
                    pass
                finally:
                    await self._ledger.leases.release(tenure.lease)
            await asyncio.sleep(LOOK_S)

    async def _look(self, snapshot: Snapshot, target: Target, tenure: Tenure) -> Look | None:
        """None where a fence still stands that is another's to take away, or stood until now."""
        look = await self._judge.look(snapshot, target)
        fence = look.stream.fence
        if fence is None:
            return look
        if fence.until > look.stream.observed_at:
            await asyncio.sleep(min((fence.until - look.stream.observed_at) / SECOND, 1.0))
            return None
        settlement = await self._fencing.unfence(Fenced(look, look.raw, fence, look.asked_at), tenure)
        if settlement.outcome is Outcome.UNFIXABLE:
            message = f"stream {target.name} {settlement.detail}"
            raise StaysFenced(message)
        return None
