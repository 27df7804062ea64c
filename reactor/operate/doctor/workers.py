"""The doctor's checks of the workers: whether one is alive, and whether they agree."""

from collections.abc import AsyncIterator
from functools import partial

from reactor.core.checks import Check, counted, error, ok, warning
from reactor.core.workers import NO_WORKER, differing, versions_of
from reactor.operate.doctor.context import CheckFunctions, DoctorContext


def worker_checks(deps: DoctorContext) -> CheckFunctions:
    """Return the checks of the workers that are registered in Redis."""
    return {"workers.alive": partial(_alive, deps), "workers.agree": partial(_agree, deps)}


async def _alive(deps: DoctorContext) -> AsyncIterator[Check]:
    workers = await deps.ledger.workers.alive()
    if not workers:
        yield error(
            "workers.alive", f"{NO_WORKER}: streams fall only when reactor reconcile runs", "start reactor worker"
        )
        return
    hosts = ", ".join(f"{worker.instance} ({worker.version})" for worker in workers)
    yield ok("workers.alive", f"{counted(len(workers), 'worker')}: {hosts}")


async def _agree(deps: DoctorContext) -> AsyncIterator[Check]:
    workers = await deps.ledger.workers.alive()
    apart, versions = differing(workers), versions_of(workers)
    if apart:
        fix = "give all workers the same settings, and restart them: reactor workers --json shows each"
        yield warning("workers.agree", f"the workers differ in {', '.join(apart)}", fix)
    elif len(versions) > 1:
        fix = "upgrade the others: they respect each other's fences meanwhile"
        yield warning("workers.agree", f"the workers differ in version: {', '.join(versions)}", fix)
    else:
        yield ok("workers.agree", "the workers agree" if len(workers) > 1 else "there are no two workers to disagree")
