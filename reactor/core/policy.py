"""The decision. Everything that compares times or statuses lives here, and nothing else does.

Laws of this module:

* Pure and total: every stream gets a verdict, no clock is read, nothing is awaited.
* Unknown is not dead. Whatever cannot be read, or nobody vouches for, is never Drain.
* Live beats everything: a record with a status that is not terminal keeps its stream, whatever its age.
* A job has ended only if its last word is terminal by both orders, the stream's and the emitters' clocks'. Where
  they disagree it lives; after the dispute guard, without a sign of life, the stream's order counts.
* The only `now` is the server's own time in the answer that described the stream, so no worker's clock matters.

The ladder of `decide`, top rung first: protected, unreported, fenced, created unreadable, running or disputed, ledger
lost, then the guards of a terminal or of a missing job, and last whether the stream can be fenced at all.
"""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache

from reactor.core.model import (
    Coverage,
    DirectoryStatus,
    Drain,
    Keep,
    Reason,
    Record,
    StatusEvent,
    Stream,
    Unfixable,
    Verdict,
    Wait,
    fold,
)

_NEVER_IN_A_NAME = re.compile(r"[ \t\r\n\f.*>/\\]")
"""What nats-server refuses in the name of a stream."""
DONE = frozenset({"SUCCESS"})
"""Terminal words that say that the work was done: what is worked on after them was announced too early."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of one installation. Spans in nanoseconds."""

    pattern: re.Pattern[str]
    """Group `job_id` is the stream's job; the whole name must match."""
    age_guard: int
    terminal_grace: int
    idle_guard: int
    missing_guard: int
    """Replaces the idle guard, if it is longer, for a job that only the ledger calls missing: one lost event, and a
    live job looks just so."""
    dispute_guard: int
    terminal_statuses: frozenset[str]
    """Upper case."""
    live_statuses: frozenset[str] = frozenset()
    """Known statuses of live jobs. Any other one is live too, but may be a typo: it is warned about."""
    protect: tuple[str, ...] = ()
    """Globs over stream names, case-sensitive."""
    own_streams: frozenset[str] = frozenset()
    """Reactor's own: never job streams, whatever the pattern says."""
    absence_counts: bool = True
    """False if streams are judged one by one: only a full pass, with its breaker, may call a job missing."""
    deletes: bool = True
    """False in report mode: zombies are reported and kept."""
    assume_missing: bool = False
    """An operator's word that a job nobody vouches for does not exist. The guards still hold."""

    def job_id(self, stream_name: str) -> str | None:
        """Return the job of a stream, or None if it is no job stream."""
        match = self.pattern.fullmatch(stream_name)
        return None if match is None or stream_name in self.own_streams else match["job_id"]

    def names_of(self, job_id: str) -> frozenset[str] | None:
        """Return the names that a stream of this job can have, one or none; None if the pattern allows several."""
        ends = _ends_of(self.pattern.pattern)
        if ends is None:
            return None
        name = f"{ends[0]}{job_id}{ends[1]}"
        possible = self.job_id(name) == job_id and not _NEVER_IN_A_NAME.search(name)
        return frozenset({name} if possible else ())

    def is_protected(self, stream: Stream) -> bool:
        """Return whether its own metadata or a glob in the settings protects it."""
        return stream.protected or self.is_protected_by_name(stream.name)

    def is_protected_by_name(self, name: str) -> bool:
        """Return whether a glob in the settings protects it."""
        return any(fnmatchcase(name, glob) for glob in self.protect)

    @property
    def known_statuses(self) -> frozenset[str]:
        """Statuses that are no typo."""
        return self.live_statuses | self.terminal_statuses

    def ends(self, event: StatusEvent) -> bool:
        """Return whether by this word the job system does no more work for the job. Unknown words are live."""
        return fold(event.status) in self.terminal_statuses

    def is_terminal(self, record: Record) -> bool:
        """Return whether its last word is terminal, in whichever order one reads them."""
        return self.ends(record.latest) and self.ends(record.last)

    def is_disputed(self, record: Record) -> bool:
        """Return whether one of its last words is terminal and the other is not."""
        return self.ends(record.latest) != self.ends(record.last)


@cache
def _ends_of(pattern: str) -> tuple[str, str] | None:
    """Return the texts before and after the job's id, if the pattern has them literally."""
    before, group, rest = pattern.partition("(?P<job_id>")
    depth, end = 1, 0
    for part in re.finditer(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|[()]", rest):
        depth += {"(": 1, ")": -1}.get(part[0], 0)
        if not depth:
            end = part.end()
            break
    if not group or not end:
        return None
    before, after = re.sub(r"^(?:\^|\\A)", "", before), re.sub(r"(?:\$|\\Z)$", "", rest[end:])
    literal = re.compile(r"(?:[^\\.^$*+?{}\[\]|()]|\\[^\w\s])*")
    if not (literal.fullmatch(before) and literal.fullmatch(after)):
        return None
    return re.sub(r"\\(.)", r"\1", before), re.sub(r"\\(.)", r"\1", after)


def decide(stream: Stream, record: Record | None, coverage: Coverage, policy: Policy) -> Verdict:
    """Return the verdict on one stream, from one answer of the server and what the ledger knows of its job."""
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


def by_directory(
    record: Record | None, current: DirectoryStatus | None, since: int, now: int, policy: Policy
) -> Record | None:
    """Return the record by which a job is judged that has a directory of its own: the directory's word, `since` then.

    A live event that is younger than the idle guard keeps the job whatever the directory says, which may lag behind;
    older events do not count against it.
    """
    if record is not None and not policy.is_terminal(record) and now - record.heard_at < policy.idle_guard:
        return record
    if current is None:
        return None
    return Record.of(StatusEvent(since, record.last.seq if record else 0, current.status, since))


def _by_job(stream: Stream, created: int, record: Record | None, coverage: Coverage, policy: Policy) -> Verdict:
    if record is not None and policy.is_disputed(record) and not _dispute_of(stream, record, policy).passed:
        return Keep(Reason.DISPUTED)
    if record is not None and not policy.ends(record.last):
        return Keep(Reason.RUNNING)
    if not coverage.intact:
        return Keep(Reason.UNKNOWN)
    vouched = coverage.vouches_for(created) or policy.assume_missing
    if record is None and not (vouched and policy.absence_counts):
        return Keep(Reason.UNKNOWN)
    waits = (Wait(item.reason, item.passes_at) for item in guards_of(stream, record, policy) if not item.passed)
    return next(waits, Drain(Reason.MISSING if record is None else Reason.TERMINAL))


@dataclass(frozen=True, slots=True)
class Guard:
    """One guard of a stream: its name, why the stream waits, and until when (ns)."""

    name: str
    reason: Reason
    passes_at: int
    passed: bool


def guards_of(stream: Stream, record: Record | None, policy: Policy) -> list[Guard]:
    """Return the guards of a stream, in the order in which they count; none if its job is live."""
    if record is None:
        return _passing(stream, _of_missing_job(stream, policy))
    if not policy.ends(record.last):
        return []
    dispute = [_dispute_of(stream, record, policy)] if policy.is_disputed(record) else []
    return [*dispute, *_passing(stream, _of_terminal_job(stream, record, policy))]


Begins = list[tuple[str, Reason, int | None, int]]
"""Each guard with the time it began (ns; None if it never did) and how long it lasts."""


def _passing(stream: Stream, begins: Begins) -> list[Guard]:
    return [
        Guard(name, reason, since + span, passed=stream.observed_at >= since + span)
        for name, reason, since, span in begins
        if since is not None
    ]


def _dispute_of(stream: Stream, record: Record, policy: Policy) -> Guard:
    """Return how long the two orders may disagree: since the later event, and since the stream was last used."""
    since = max(record.heard_at, stream.last_publish or 0, _consumed_at(stream) or 0)
    return _passing(stream, [("dispute_guard", Reason.DISPUTED, since, policy.dispute_guard)])[0]


def _of_terminal_job(stream: Stream, record: Record, policy: Policy) -> Begins:
    """Return the guards of an ended job's stream. Messages from before its end are no sign of a new run.

    But a job that is done has no work left: if work goes on, its end was published too early.
    """
    published, consumed = stream.last_publish, _consumed_at(stream)
    done = any(fold(event.status) in DONE for event in (record.latest, record.last))
    return [
        ("age_guard", Reason.FRESH, stream.created, policy.age_guard),
        ("terminal_grace", Reason.GRACE, record.occurred_at, policy.terminal_grace),
        ("idle_guard", Reason.ACTIVE, _since_the_end(published, record), policy.idle_guard),
        ("idle_guard", Reason.ACTIVE, _since_the_end(consumed, record) if done else None, policy.idle_guard),
    ]


def spoke_too_early(stream: Stream, record: Record, policy: Policy) -> bool:
    """Return whether a job was called done, and its work went on."""
    done = policy.is_terminal(record) and fold(record.status) in DONE
    return done and _since_the_end(_consumed_at(stream), record) is not None


def _since_the_end(instant: int | None, record: Record) -> int | None:
    return instant if instant is not None and instant > record.occurred_at else None


def _of_missing_job(stream: Stream, policy: Policy) -> Begins:
    """Return the guards of a missing job. An operator's word replaces the missing guard."""
    rows: Begins = [
        ("age_guard", Reason.FRESH, stream.created, policy.age_guard),
        ("idle_guard", Reason.ACTIVE, stream.last_publish, policy.idle_guard),
        ("idle_guard", Reason.ACTIVE, _consumed_at(stream), policy.idle_guard),
    ]
    if not policy.assume_missing:
        unchanged = stream.consumers.unchanged_since if stream.consumers else None
        signs = (stream.created, stream.last_publish, unchanged)
        since = max((sign for sign in signs if sign is not None), default=None)
        rows.append(("missing_guard", Reason.ACTIVE, since, policy.missing_guard))
    return rows


def _consumed_at(stream: Stream) -> int | None:
    """Return the last delivery or ack, as far as anybody asked."""
    return stream.consumers.last_active if stream.consumers else None


def due_at(event: StatusEvent, policy: Policy) -> int | None:
    """Return when to inspect the stream of a job with this event first; None for a live job."""
    return event.occurred_at + policy.terminal_grace if policy.ends(event) else None


def is_over(record: Record, policy: Policy, now: int) -> bool:
    """Return whether what is left of a job without a stream may be tidied away, at the server's time `now`."""
    return policy.is_terminal(record) and now >= record.occurred_at + policy.terminal_grace


def fell_due(stream: Stream, record: Record | None, policy: Policy) -> int | None:
    """Return when a zombie fell due: when its last guard passed. None if no guard has a time."""
    ends = [] if stream.created is None else [guard.passes_at for guard in guards_of(stream, record, policy)]
    return max(ends, default=None)


@dataclass(frozen=True, slots=True)
class Breaker:
    """Refuses a pass that would drain suspiciously much on absence alone: a silent emitter looks just so."""

    max_missing: int
    max_ratio: float

    def trips(self, missing: int, checked: int) -> str | None:
        """Return the reason to refuse, or None. Both limits must be exceeded."""
        if missing <= self.max_missing or missing <= self.max_ratio * checked:
            return None
        return (
            f"{missing} of {checked} job streams have no job that the ledger knows "
            f"(limits: {self.max_missing} streams and {self.max_ratio:.0%}); nothing was deleted. "
            "Check that the job system publishes lifecycle events; if these streams are dead, run again with --yes"
        )
