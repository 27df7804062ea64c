"""What the doctor makes of the job system's own directory: it is asked, and its answers are judged."""

from collections.abc import AsyncIterator

from reactor.core.checks import Check, error, ok, warning
from reactor.job_status.witness import NO_JOB
from reactor.operate.doctor.context import CheckFunctions, DoctorContext

SET_CANARY = "set REACTOR_DIRECTORY_CANARY to a job that always exists"


class DirectorySection:
    """The table or the API, if one decides."""

    def __init__(self, patient: DoctorContext) -> None:
        """Nothing is asked yet."""
        self._jobs = patient.jobs
        self._kind = patient.directory_kind

    def examinations(self) -> CheckFunctions:
        """Return the checks; none if the lifecycle events decide."""
        if self._jobs is None:
            return {}
        return {"directory.answers": self._answers, "directory.canary": self._canary}

    async def _answers(self) -> AsyncIterator[Check]:
        """Ask for the canary, and for a job that cannot exist. Raises DirectoryConfigError."""
        if self._jobs is None:
            return
        await self._jobs.check()
        faults = await self._jobs.faults()
        for fault in faults:
            fix = "see that REACTOR_DIRECTORY_URL, its query and its credentials reach the jobs, and only them"
            yield error("directory.answers", f"the job directory ({self._kind}): {fault}", fix)
        if not faults:
            yield ok("directory.answers", f"the job directory ({self._kind}) answers, and does not find job {NO_JOB}")

    async def _canary(self) -> AsyncIterator[Check]:
        """Judge whether a canary is set: it shows a gateway that answers 404 for all, and an emptied table."""
        if self._jobs is None or self._jobs.has_canary:
            yield ok("directory.canary", "a job that must be found vouches for every absence")
        elif self._kind == "http":
            yield error(
                "directory.canary", "an API that answers 404 for everything looks like one without jobs", SET_CANARY
            )
        else:
            found = "no canary is set, so an absence counts only after the missing guard and beside another job"
            yield warning("directory.canary", found, SET_CANARY)
