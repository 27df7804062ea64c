"""Absence needs a witness: a job counts as absent only in an answer that has found another job.

A gateway that answers 404 for everything, an emptied database, and a login that silently became anonymous all look like
a system without jobs. So a witness must be found in the same answer: the canary if one is set, else another job of the
request, or a job that was found before and is asked for again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from reactor.job_status.protocol import Answer, JobDirectory, Listener

CHUNK = 1000
"""Jobs in one request. Each request needs its own witness."""
NO_JOB = "-1"
"""A job that cannot exist."""


@dataclass(eq=False, repr=False)
class WitnessedDirectory:
    """A job directory whose absences have a witness.

    `canary` is a job that must be found before any absence counts. With None, any found job is enough.
    """

    jobs: JobDirectory
    canary: str | None

    def __post_init__(self) -> None:
        self._witness = self.canary

    @property
    def has_canary(self) -> bool:
        """Whether a canary is set."""
        return self.canary is not None

    async def ask(self, job_ids: Sequence[str]) -> Answer:
        """Ask for these jobs. Never raises. A job that is absent without a witness is unknown, with the reason."""
        chunks = [job_ids[first : first + CHUNK] for first in range(0, len(job_ids), CHUNK)]
        answers = [await self.jobs.ask(chunk) for chunk in chunks]
        if self.canary is None:
            witness = next((job for answer in answers for job in answer.found), None)
            self._witness = witness or self._witness
        return Answer.merged([await self._witnessed(*item) for item in zip(chunks, answers, strict=True)])

    async def _witnessed(self, asked: Sequence[str], answer: Answer) -> Answer:
        absent = [job for job in asked if job not in answer.found and job not in answer.unknown]
        if not absent or (self.canary is None and answer.found) or self.canary in answer.found:
            return answer
        if self._witness is None:
            return Answer(answer.found, {**answer.unknown, **dict.fromkeys(absent, _unwitnessed(absent))})
        again = await self.jobs.ask([*absent, self._witness])
        found = {job: current for job, current in again.found.items() if job in asked}
        unknown = {job: why for job, why in again.unknown.items() if job in asked}
        if self._witness not in again.found:
            why = again.unknown.get(self._witness) or _without(self._witness, is_canary=self.canary is not None)
            self._witness = self.canary  # the job that stood for it may be gone by now
            unknown |= {job: why for job in absent if job not in found}
        return Answer({**answer.found, **found}, {**answer.unknown, **unknown})

    async def faults(self) -> list[str]:
        """Return what is wrong with the directory's answers, for the doctor. Empty if nothing is."""
        faults = []
        asked = [NO_JOB, *([self.canary] if self.canary else [])]
        answer = await self.jobs.ask(asked)
        if self.canary and self.canary not in answer.found:
            faults.append(answer.unknown.get(self.canary) or _without(self.canary, is_canary=True))
        if NO_JOB in answer.found:
            faults.append(f"it finds job {NO_JOB}, which cannot exist, with status {answer.found[NO_JOB].status}")
        return faults

    async def check(self) -> None:
        """Raise DirectoryConfigError if the settings are wrong."""
        await self.jobs.check()

    def listener(self) -> Listener | None:
        """Return the source of notifications; None if there is none."""
        return self.jobs.listener()

    async def close(self) -> None:
        """Close all connections."""
        await self.jobs.close()


def _unwitnessed(absent: Sequence[str]) -> str:
    return (
        f"it found none of the {len(absent)} jobs that it was asked for, and nothing shows that it would: "
        "set REACTOR_DIRECTORY_CANARY to a job that always exists"
    )


def _without(witness: str, *, is_canary: bool) -> str:
    who = f"the canary {witness}" if is_canary else f"job {witness}, which it found before,"
    return f"{who} was not found in the same answer, so no job's absence counts"
