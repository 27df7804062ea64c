"""The doctor's checks of the job system's directory."""

from collections.abc import AsyncIterator
from functools import partial

from reactor.core.checks import Check, error, ok, warning
from reactor.job_status.witness import NO_JOB, WitnessedDirectory
from reactor.operate.doctor.context import CheckFunctions, DoctorContext

SET_CANARY = "set REACTOR_DIRECTORY_CANARY to a job that always exists"


def directory_checks(deps: DoctorContext) -> CheckFunctions:
    """Return the checks of the directory; none if the lifecycle events decide."""
    if deps.jobs is None:
        return {}
    return {
        "directory.answers": partial(_answers, deps.jobs, deps.directory_kind),
        "directory.canary": partial(_canary, deps.jobs, deps.directory_kind),
    }


async def _answers(jobs: WitnessedDirectory, kind: str) -> AsyncIterator[Check]:
    """Run the check of a worker's start, then ask for the canary and for a job that cannot exist."""
    await jobs.check()
    faults = await jobs.faults()
    for fault in faults:
        fix = "see that REACTOR_DIRECTORY_URL, its query and its credentials reach the jobs, and only them"
        yield error("directory.answers", f"the job directory ({kind}): {fault}", fix)
    if not faults:
        yield ok("directory.answers", f"the job directory ({kind}) answers, and does not find job {NO_JOB}")


async def _canary(jobs: WitnessedDirectory, kind: str) -> AsyncIterator[Check]:
    """Check that a canary is set. It reveals a gateway that answers 404 for all jobs, and an emptied table."""
    if jobs.has_canary:
        yield ok("directory.canary", "an absence counts only if the canary is found")
    elif kind == "http":
        yield error(
            "directory.canary", "an API that answers 404 for everything looks like one without jobs", SET_CANARY
        )
    else:
        finding = "no canary is set, so an absence counts only after the missing guard, and if another job is found"
        yield warning("directory.canary", finding, SET_CANARY)
