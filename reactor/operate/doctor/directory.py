"""What the doctor makes of the job system's own directory: it is asked, and its answers are judged."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from reactor.core.checks import Check, error, ok, warning
from reactor.job_status.witness import NO_JOB
from reactor.operate.doctor.context import CheckFunctions, DoctorContext

SET_CANARY = "set REACTOR_DIRECTORY_CANARY to a job that always exists"


@dataclass(eq=False, repr=False)
class DirectorySection:
    """The table or the API, if one decides.

    Nothing is asked yet.
    """

    deps: DoctorContext

    def examinations(self) -> CheckFunctions:
        """Return the checks; none if the lifecycle events decide."""
        if self.deps.jobs is None:
            return {}
        return {"directory.answers": self._answers, "directory.canary": self._canary}

    async def _answers(self) -> AsyncIterator[Check]:
        """Ask for the canary, and for a job that cannot exist. Raises DirectoryConfigError."""
        if self.deps.jobs is None:
            return
        await self.deps.jobs.check()
        faults = await self.deps.jobs.faults()
        for fault in faults:
            fix = "see that REACTOR_DIRECTORY_URL, its query and its credentials reach the jobs, and only them"
            yield error("directory.answers", f"the job directory ({self.deps.directory_kind}): {fault}", fix)
        if not faults:
            yield ok(
                "directory.answers",
                f"the job directory ({self.deps.directory_kind}) answers, and does not find job {NO_JOB}",
            )

    async def _canary(self) -> AsyncIterator[Check]:
        """Judge whether a canary is set: it shows a gateway that answers 404 for all, and an emptied table."""
        if self.deps.jobs is None or self.deps.jobs.has_canary:
            yield ok("directory.canary", "a job that must be found vouches for every absence")
        elif self.deps.directory_kind == "http":
            yield error(
                "directory.canary", "an API that answers 404 for everything looks like one without jobs", SET_CANARY
            )
        else:
            found = "no canary is set, so an absence counts only after the missing guard, and if another job is found"
            yield warning("directory.canary", found, SET_CANARY)
