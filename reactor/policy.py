"""The decision. Everything that compares times or statuses lives here, and nothing else does.

Laws of this module:

* Pure and total: every stream gets a verdict, no clock is read, nothing is awaited.
* Unknown is not dead. Whatever cannot be read, or nobody vouches for, is never Drain.
* Live beats everything: a record with a status that is not terminal keeps its stream, whatever its age.
* The only `now` is the server's own time in the answer that described the stream, so no worker's clock matters.

The ladder of `decide`, top rung first: protected, unreported, fenced, created unreadable, running, ledger lost,
then the guards of a terminal or of a missing job, and last whether the stream can be fenced at all.
"""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from reactor.model import Coverage, Drain, Keep, Reason, Record, Stream, Unfixable, Verdict, Wait


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of one installation. Spans in nanoseconds."""

    pattern: re.Pattern[str]
    """Group `job_id` is the stream's job; the whole name must match."""
    age_guard: int
    terminal_grace: int
    idle_guard: int
    terminal_statuses: frozenset[str]
    """Upper case."""
    protect: tuple[str, ...] = ()
    """Globs over stream names, case-sensitive."""
    own_streams: frozenset[str] = frozenset()
    """Reactor's own: never job streams, whatever the pattern says."""
    absence_counts: bool = True
    """False where streams are judged one by one: only a full pass, with its breaker, may call a job missing."""
    assume_missing: bool = False
    """An operator's word that a job nobody vouches for does not exist. The guards still hold."""

    def job_id(self, stream_name: str) -> str | None:
        """The job of a stream, or None where it is no job stream."""
        match = self.pattern.fullmatch(stream_name)
        return None if match is None or stream_name in self.own_streams else match["job_id"]

    def is_protected(self, stream: Stream) -> bool:
        """By its own metadata or by a glob in the settings."""
        return stream.protected or any(fnmatchcase(stream.name, glob) for glob in self.protect)

    def is_terminal(self, record: Record) -> bool:
        """Whether the job system does no more work for the job. Unknown words are live."""
        return record.status.upper() in self.terminal_statuses


def decide(stream: Stream, record: Record | None, coverage: Coverage, policy: Policy) -> Verdict:
    """The verdict on one stream, from one answer of the server and what the ledger knows of its job."""
    if policy.is_protected(stream):
        return Keep(Reason.PROTECTED)
    if not stream.reported:
        return Unfixable(Reason.UNREPORTED)
    if stream.fence is not None and not stream.fence.subjects:
        return Unfixable(Reason.FENCE_UNREADABLE)
    if stream.fence is not None and stream.observed_at < stream.fence.until:
        return Wait(Reason.FENCED, stream.fence.until)
    if stream.created is None:
        return Unfixable(Reason.CREATED_UNREADABLE)
    verdict = _by_job(stream, stream.created, record, coverage, policy)
    if isinstance(verdict, Drain) and not stream.fenceable:
        return Unfixable(Reason.NOT_FENCEABLE)
    return verdict


def _by_job(stream: Stream, created: int, record: Record | None, coverage: Coverage, policy: Policy) -> Verdict:
    if record is not None and not policy.is_terminal(record):
        return Keep(Reason.RUNNING)
    if not coverage.intact:
        return Keep(Reason.UNKNOWN)
    vouched = coverage.vouches_for(created) or policy.assume_missing
    if record is None and not (vouched and policy.absence_counts):
        return Keep(Reason.UNKNOWN)
    waits = (Wait(one.reason, one.passes_at) for one in guards_of(stream, record, policy) if not one.passed)
    return next(waits, Drain(Reason.MISSING if record is None else Reason.TERMINAL))


@dataclass(frozen=True, slots=True)
class Guard:
    """One guard of a stream: why it waits, and until when (ns)."""

    reason: Reason
    passes_at: int
    passed: bool


def guards_of(stream: Stream, record: Record | None, policy: Policy) -> list[Guard]:
    """The guards before the end of a stream, in the order in which they count; none for a live job, which is kept."""
    if record is not None and not policy.is_terminal(record):
        return []
    begins = _of_missing_job(stream, policy) if record is None else _of_terminal_job(stream, record, policy)
    return [
        Guard(reason, since + span, passed=stream.observed_at >= since + span)
        for reason, since, span in begins
        if since is not None
    ]


Begins = list[tuple[Reason, int | None, int]]
"""Each guard with the time it began (ns; None where it never did) and how long it lasts."""


def _of_terminal_job(stream: Stream, record: Record, policy: Policy) -> Begins:
    published = stream.last_publish
    if published is not None and published <= record.occurred_at:
        published = None  # its work was published while the job still ran: no sign of a new life
    return [
        (Reason.FRESH, stream.created, policy.age_guard),
        (Reason.GRACE, record.occurred_at, policy.terminal_grace),
        (Reason.ACTIVE, published, policy.idle_guard),
    ]


def _of_missing_job(stream: Stream, policy: Policy) -> Begins:
    consumed = stream.consumers.last_active if stream.consumers else None
    return [
        (Reason.FRESH, stream.created, policy.age_guard),
        (Reason.ACTIVE, stream.last_publish, policy.idle_guard),
        (Reason.ACTIVE, consumed, policy.idle_guard),
    ]


def due_at(record: Record, policy: Policy) -> int | None:
    """When to look at the stream of a job with this record first; None for a live job."""
    return record.occurred_at + policy.terminal_grace if policy.is_terminal(record) else None


def fell_due(stream: Stream, record: Record | None, policy: Policy) -> int | None:
    """Since when a zombie is one: when its last guard passed. None where no guard tells."""
    ends = [] if stream.created is None else [guard.passes_at for guard in guards_of(stream, record, policy)]
    return max(ends, default=None)


@dataclass(frozen=True, slots=True)
class Breaker:
    """Refuses a pass that would drain suspiciously much on absence alone: a silent emitter looks just so."""

    max_missing: int
    max_ratio: float

    def trips(self, missing: int, checked: int) -> str | None:
        """The reason to refuse, in words, or None. Both limits must be exceeded."""
        if missing <= self.max_missing or missing <= self.max_ratio * checked:
            return None
        return (
            f"{missing} of {checked} job streams have no job that the ledger knows "
            f"(limits: {self.max_missing} streams and {self.max_ratio:.0%}); nothing was deleted. "
            "Check that the job system publishes lifecycle events; if these streams are dead, run again with --yes"
        )
