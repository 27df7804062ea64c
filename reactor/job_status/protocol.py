"""The interface of job directories: the job system's own table or API, which knows the status of each job."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from reactor.core.checks import Misconfigured
from reactor.core.model import Coverage, DirectoryStatus, Record, parse_instant


@dataclass(frozen=True, slots=True)
class JobAssessment:
    """What a job's stream is judged by."""

    record: Record | None
    coverage: Coverage
    directory_status: DirectoryStatus | None = None
    """The status in the job system's directory, if there is one and it has the job."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A directory's answer about some jobs. Those that are neither found nor unknown do not exist."""

    found: Mapping[str, DirectoryStatus] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    """The reason for each job."""

    @classmethod
    def nothing(cls, job_ids: Sequence[str], why: str) -> "Answer":
        """Return an answer in which all these jobs are unknown."""
        return cls(unknown=dict.fromkeys(job_ids, why))

    @classmethod
    def merged(cls, answers: Iterable["Answer"]) -> "Answer":
        """Return the combined answer. If two have the same job, the later one counts."""
        found, unknown = dict[str, DirectoryStatus](), dict[str, str]()
        for answer in answers:
            found |= answer.found
            unknown |= answer.unknown
        return cls(found, unknown)

    def about(self, job_ids: Iterable[str]) -> "Answer":
        """Return the answer about these jobs only."""
        asked = list(job_ids)
        found = {job: self.found[job] for job in asked if job in self.found}
        return Answer(found, {job: self.unknown[job] for job in asked if job in self.unknown})


def instant_with_offset(value: object) -> int | None:
    """Return the time (ns) of a text with an offset. None without an offset: the time could be hours off."""
    try:
        return parse_instant(value) if isinstance(value, str) else None
    except ValueError:
        return None


class DirectoryConfigError(Misconfigured):
    """The directory cannot work with these settings. The message says why."""


class ListenError(Exception):
    """We cannot listen for notifications now. The message says why."""


class Listener(Protocol):
    """A source of notifications about changed jobs."""

    async def wait(self) -> set[str] | None:
        """Return jobs to inspect, maybe none; None if we have only subscribed now. Raises ListenError."""

    async def close(self) -> None:
        """Stop listening."""


class JobDirectory(Protocol):
    """The job system's own directory."""

    async def ask(self, job_ids: Sequence[str]) -> Answer:
        """Ask for the status of these jobs now. Never raises: after a failure the jobs are unknown, with the reason."""

    async def check(self) -> None:
        """Raise DirectoryConfigError if the settings are wrong. An outage is not an error here."""

    def listener(self) -> Listener | None:
        """Return the source of notifications; None if there is none."""

    async def close(self) -> None:
        """Close all connections."""
