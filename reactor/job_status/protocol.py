"""What is known of a job: from the lifecycle events alone, or from the job system's own directory.

A directory of the job system's own decides; an event only says *look*, and that a job has been alive a moment ago.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from reactor.core.checks import Misconfigured
from reactor.core.model import Coverage, DirectoryStatus, Record, parse_instant


@dataclass(frozen=True, slots=True)
class JobAssessment:
    """By what a job's stream is judged."""

    record: Record | None
    coverage: Coverage
    directory_status: DirectoryStatus | None = None
    """What the job system's own directory says, if there is one and it knows the job."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a directory says of the jobs that it was asked for: those neither found nor unknown do not exist."""

    found: Mapping[str, DirectoryStatus] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    """The reason for each."""

    @classmethod
    def nothing(cls, job_ids: Sequence[str], why: str) -> "Answer":
        """Return an answer that knows nothing."""
        return cls(unknown=dict.fromkeys(job_ids, why))

    @classmethod
    def merged(cls, answers: Iterable["Answer"]) -> "Answer":
        """Return what these answers say together; of two that tell of the same job the later one counts."""
        found, unknown = dict[str, DirectoryStatus](), dict[str, str]()
        for answer in answers:
            found |= answer.found
            unknown |= answer.unknown
        return cls(found, unknown)

    def about(self, job_ids: Iterable[str]) -> "Answer":
        """Return what it says of these jobs alone."""
        asked = list(job_ids)
        found = {job: self.found[job] for job in asked if job in self.found}
        return Answer(found, {job: self.unknown[job] for job in asked if job in self.unknown})


def time_told(value: object) -> int | None:
    """Return a time that has an offset; None for any other, which may be hours off."""
    try:
        return parse_instant(value) if isinstance(value, str) else None
    except ValueError:
        return None


class DirectoryConfigError(Misconfigured):
    """The directory cannot work with these settings."""


class ListenError(Exception):
    """Nobody listens now: says why."""


class Listener(Protocol):
    """Who tells at once of jobs that have changed."""

    async def wait(self) -> set[str] | None:
        """Return jobs to look at, maybe none; None if nobody has listened until now. Raises ListenError."""

    async def close(self) -> None:
        """Listen no more."""


class JobDirectory(Protocol):
    """The job system's own word, by whatever means."""

    async def ask(self, job_ids: Sequence[str]) -> Answer:
        """Ask about all of these jobs now. Never raises: a job that cannot be answered is unknown, with the reason."""

    async def check(self) -> None:
        """Raise DirectoryConfigError if asking cannot work. An outage does not count."""

    def listener(self) -> Listener | None:
        """Return who tells of changes, if there is somebody."""

    async def close(self) -> None:
        """Give all connections back."""
