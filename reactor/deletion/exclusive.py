"""Work on a stream exclusively: under its lease, without a fence, so that no replica can delete it meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from reactor.core.model import SECOND, Outcome
from reactor.deletion.drain import HeldStream
from reactor.deletion.inspection import inspect
from reactor.deletion.resources import Resources
from reactor.deletion.states import Fenced, Inspection, LeaseExpired, Target
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
        held = HeldStream.start(deps, snapshot, target)
        held_lease = held.held_lease
        if await deps.ledger.leases.acquire(held_lease.lease):
            try:
                if (inspection := await _inspect_unfenced(held)) is not None:
                    held_lease.check("work on it", held=await deps.ledger.leases.is_held(held_lease.lease))
                    async with asyncio.timeout(held_lease.deadline - deps.monotonic()):  # never work beyond the lease
                        return await work(inspection)
            except (LeaseExpired, TimeoutError):
                pass
            finally:
                await deps.ledger.leases.release(held_lease.lease)
        await asyncio.sleep(POLL_S)


async def _inspect_unfenced(held: HeldStream) -> Inspection | None:
    """Inspect the stream and return the inspection. If it has a fence, wait for it or remove it, and return None."""
    inspection = await inspect(held.deps, held.snapshot, held.target)
    fence = inspection.stream.fence
    if fence is None:
        return inspection
    if fence.until > inspection.stream.observed_at:
        await asyncio.sleep(min((fence.until - inspection.stream.observed_at) / SECOND, 1.0))
        return None
    settlement = await held.unfence(Fenced.as_found(inspection))
    if settlement.outcome is Outcome.UNFIXABLE:
        raise StaysFenced(f"stream {held.target.name} {settlement.detail}")
    return None
