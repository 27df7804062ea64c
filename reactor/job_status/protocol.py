"""What is known of a job, from whoever is asked: the lifecycle events alone, or the job system's own directory.

A directory of the job system's own decides; an event only says *look*, and that a job has been alive a moment ago.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from reactor.core.model import Coverage, Record, Told, parse_instant
from reactor.jetstream.topology import ProvisionError


@dataclass(frozen=True, slots=True)
class Opinion:
    """By what a job's stream is judged."""

    record: Record | None
    coverage: Coverage
    told: Told | None = None
    """What the job system's own directory says, where there is one and it knows the job."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a directory says of the jobs that it was asked for: those neither found nor unknown do not exist."""

    found: Mapping[str, Told] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    """Why, in words."""

    @classmethod
    def nothing(cls, job_ids: Sequence[str], why: str) -> "Answer":
        """It could not tell anything."""
        return cls(unknown=dict.fromkeys(job_ids, why))


def time_told(value: object) -> int | None:
    """A time with its offset; None for any other, which may be hours off: then the first sight of the status counts."""
    try:
        return parse_instant(value) if isinstance(value, str) else None
    except ValueError:
        return None


class DirectoryMisused(ProvisionError):
    """The settings do not fit what is there: says what, and the mend. Trying again would not help."""


class Unheard(Exception):
    """Nobody listens now: says why."""


class Listener(Protocol):
    """Who tells at once of jobs that have changed."""

    async def wait(self) -> set[str] | None:
        """Jobs to look at, or none for a while; None where nobody has listened until now. Raises Unheard."""

    async def close(self) -> None:
        """Listen no more."""


class JobDirectory(Protocol):
    """The job system's own word, by whatever means."""

    async def ask(self, job_ids: Sequence[str]) -> Answer:
        """Of all of these, now. Never raises: what fails is unknown, with the reason."""

    async def check(self) -> None:
        """Raises DirectoryMisused where asking cannot work. An outage is none."""

    def listener(self) -> Listener | None:
        """Who tells of changes, where there is somebody."""

    async def close(self) -> None:
        """Give all connections back."""
