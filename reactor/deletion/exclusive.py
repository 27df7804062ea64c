"""Work on a stream exclusively: under its lease, without a fence, so that no replica can delete it meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from reactor.core.model import SECOND, Outcome
from reactor.deletion.drain import Drainer
from reactor.deletion.inspection import inspect
from reactor.deletion.resources import Resources
from reactor.deletion.states import Fenced, HeldLease, Inspection, LeaseExpired, Target
from reactor.job_status.ledger_directory import Snapshot

POLL_S = 0.05

Result = TypeVar("Result")


class StaysFenced(Exception):
    """A fence was left on the stream and cannot be removed. The message says why."""


async def run_exclusively(
    deps: Resources, snapshot: Snapshot, target: Target, work: Callable[[Inspection], Awaitable[Result]]
) -> Result:
    """Wait for the stream's lease, remove a fence that was left on it, and return the result of `work`.

    It waits without a limit; the caller sets the timeout. Raises NotFound if the stream does not exist, StaysFenced,
    JetStreamError and LedgerError.
    """
    while True:
        held_lease = HeldLease.start(target.name, deps.lease_s, deps.monotonic)
        if await deps.ledger.leases.acquire(held_lease.lease):
            try:
                if (inspection := await _inspect_unfenced(deps, snapshot, target, held_lease)) is not None:
                    held_lease.check("work on it", held=await deps.ledger.leases.is_held(held_lease.lease))
                    async with asyncio.timeout(held_lease.deadline - deps.monotonic()):  # never work beyond the lease
                        return await work(inspection)
            except (LeaseExpired, TimeoutError):
                pass
            finally:
                await deps.ledger.leases.release(held_lease.lease)
        await asyncio.sleep(POLL_S)


async def _inspect_unfenced(
    deps: Resources, snapshot: Snapshot, target: Target, held_lease: HeldLease
) -> Inspection | None:
    """Inspect the stream and return the inspection. If it has a fence, wait for it or remove it, and return None."""
    inspection = await inspect(deps, snapshot, target)
    fence = inspection.stream.fence
    if fence is None:
        return inspection
    if fence.until > inspection.stream.observed_at:
        await asyncio.sleep(min((fence.until - inspection.stream.observed_at) / SECOND, 1.0))
        return None
    settlement = await Drainer(deps).unfence(Fenced.as_found(inspection), held_lease)
    if settlement.outcome is Outcome.UNFIXABLE:
        raise StaysFenced(f"stream {target.name} {settlement.detail}")
    return None
