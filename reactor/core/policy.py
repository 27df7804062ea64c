"""The decision. Everything that compares times or statuses lives here, and nothing else does.

Laws of this module:

* Pure and total: every stream gets a verdict, no clock is read, nothing is awaited.
* Unknown is not dead. What cannot be read, or what no source confirms, is never Drain.
* Live wins: a record with a status that is not terminal keeps its stream at any age.
* A job has ended only if its last event is terminal both by sequence and by the emitters' clocks. If the two disagree,
  the job counts as live. After the dispute guard, without a sign of life, the last event by sequence decides.
* The only `now` is the server's own time in the answer that described the stream, so no worker's clock matters.

The ladder of `decide`, top rung first: protected, unreported, fenced, created unreadable, running or disputed, ledger
lost, then the guards of a terminal or of a missing job, and last whether the stream can be fenced at all.
"""

import re
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, NamedTuple

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
from reactor.core.rules import DEFAULT, OWN, Rule, When

_NEVER_IN_A_NAME = re.compile(r"[ \t\r\n\f.*>/\\]")
"""What nats-server refuses in the name of a stream."""
DONE = frozenset({"SUCCESS"})
"""Terminal statuses that say that all work is done. If work goes on after them, they were published too early."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of one installation, or, if made by `policy_for`, of one stream. Spans in nanoseconds."""

    pattern: re.Pattern[str]
    """Group `job_id` is the stream's job; the whole name must match."""
    age_guard: int
    terminal_grace: int
    idle_guard: int
    missing_guard: int
    """Replaces the idle guard, if it is longer, for a job that is missing only from the ledger: after one lost event a
    live job looks the same."""
    dispute_guard: int
    terminal_statuses: frozenset[str]
    """Upper case."""
    live_statuses: frozenset[str] = frozenset()
    """Known statuses of live jobs. Any other status is live, too, but may be a typo, so a warning is logged."""
    protect: tuple[str, ...] = ()
    """Globs over stream names, case-sensitive."""
    own_streams: frozenset[str] = frozenset()
    """Reactor's own streams. They are never job streams, even if the pattern matches."""
    absence_counts: bool = True
    """False if streams are judged one by one. Only a full pass, with its breaker, may call a job missing."""
    deletes: bool = True
    """False in report mode: zombies are reported and kept."""
    rules: tuple[Rule, ...] = ()
    """Retention rules; the first that matches a stream counts."""
    rule: str = DEFAULT
    """Of one stream's policy: the name of the rule that gave it."""
    protects: bool = False
    """Of one stream's policy: its rule protects it."""
    backup: When = "never"
    """Whether a stream is backed up before it is deleted."""
    assume_missing: bool = False
    """An operator's order: a job that no source confirms does not exist. The guards still hold."""

    def job_id(self, stream_name: str) -> str | None:
        """Return the job of a stream, or None if it is not a job stream."""
        match = self.pattern.fullmatch(stream_name)
        return None if match is None or stream_name in self.own_streams else match["job_id"]

    def names_of(self, job_id: str) -> frozenset[str] | None:
        """Return the one name that a stream of this job can have, or no name; None if the pattern allows several."""
        ends = _ends_of(self.pattern.pattern)
        if ends is None:
            return None
        name = f"{ends[0]}{job_id}{ends[1]}"
        possible = self.job_id(name) == job_id and not _NEVER_IN_A_NAME.search(name)
        return frozenset({name} if possible else ())

    def is_protected(self, stream: Stream) -> bool:
        """Return whether its metadata, its rule, or a glob in the settings protects it now."""
        own = stream.protected or self.kept_until(stream) is not None
        return own or self.protects or self.is_protected_by_name(stream.name)

    def kept_until(self, stream: Stream) -> int | None:
        """Return the time until which its metadata keeps it (ns); None if that has passed or is not set."""
        until = stream.keep_until
        return until if until is not None and stream.observed_at < until else None

    def is_protected_by_name(self, name: str) -> bool:
        """Return whether a glob in the settings protects it."""
        return any(fnmatchcase(name, glob) for glob in self.protect)

    @property
    def may_delete(self) -> bool:
        """Whether this policy can delete any stream."""
        return self.deletes or any(rule.action == "delete" for rule in self.rules)

    @property
    def may_report(self) -> bool:
        """Whether this policy can report any stream instead of deleting it."""
        return not self.deletes or any(rule.action == "report" for rule in self.rules)

    def shortest(self, guard: str, status: str | None = None) -> int:
        """Return the shortest value (ns) of a guard in the settings and the rules, for jobs with this status."""
        own: int = getattr(self, guard)
        rules = [rule for rule in self.rules if status is None or rule.may_match(status)]
        return min(own, *(rule.guards.get(guard, own) for rule in rules)) if rules else own

    @property
    def known_statuses(self) -> frozenset[str]:
        """All statuses that the settings name."""
        return self.live_statuses | self.terminal_statuses

    def ends(self, event: StatusEvent) -> bool:
        """Return whether this event ends its job. An unknown status does not."""
        return fold(event.status) in self.terminal_statuses

    def is_terminal(self, record: Record) -> bool:
        """Return whether its last event is terminal, both by time and by sequence."""
        return self.ends(record.latest) and self.ends(record.last)

    def is_disputed(self, record: Record) -> bool:
        """Return whether its last events by time and by sequence disagree: one is terminal, the other is not."""
        return self.ends(record.latest) != self.ends(record.last)


@cache
def _ends_of(pattern: str) -> tuple[str, str] | None:
    """Return the texts before and after the job's id, if both are literal in the pattern."""
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


def policy_for(stream: Stream, record: Record | None, policy: Policy) -> Policy:
    """Return the policy of one stream: the settings, then the first rule that matches, then the stream's own times.

    Calling this with a policy of a stream returns that policy.
    """
    if not policy.rules and stream.own is None:
        return policy
    rule = next((rule for rule in policy.rules if rule.matches(stream, record)), None)
    changes = dict[str, Any]()
    if rule is not None:
        changes = {**rule.guards, "rule": rule.name, "protects": rule.protect, "backup": rule.backup or policy.backup}
        changes["deletes"] = policy.deletes if rule.action is None else rule.action == "delete"
    if (own := stream.own) is not None:
        spans = {"terminal_grace": own.terminal_grace, "age_guard": own.age_guard}
        given = {name: span for name, span in spans.items() if span is not None}
        changes |= given | ({"rule": OWN} if given or policy.kept_until(stream) is not None else {})
    return replace(policy, rules=(), **changes) if changes else policy


def decide(stream: Stream, record: Record | None, coverage: Coverage, policy: Policy) -> Verdict:
    """Return the verdict on one stream, from one answer of the server and the job's record.

    `policy` is the installation's. The stream's own policy is made from it here, so that no caller can forget it.
    """
    policy = policy_for(stream, record, policy)
    if stream.own is not None and stream.own.unreadable and not stream.protected:
        return Keep(Reason.RETENTION_UNREADABLE)
    if policy.is_protected(stream):
        return _protected(stream, policy)
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


def _protected(stream: Stream, policy: Policy) -> Verdict:
    """Return the verdict on a protected stream. It waits if only its own `keep-until` protects it."""
    until = policy.kept_until(stream)
    if until is None or policy.protects or stream.protected or policy.is_protected_by_name(stream.name):
        return Keep(Reason.PROTECTED)
    return Wait(Reason.PROTECTED, until)


def by_directory(
    record: Record | None, current: DirectoryStatus | None, since: int, now: int, policy: Policy
) -> Record | None:
    """Return the record to judge a job by if the job system's directory decides: its status, valid `since` (ns).

    A live event younger than the idle guard keeps the job whatever the directory says, because the directory may lag
    behind. Older events are ignored.
    """
    if record is not None and not policy.is_terminal(record) and now - record.last_published_at < policy.idle_guard:
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


class Guard(NamedTuple):
    """One guard of a stream: name, length (ns), the reason to wait, and when it passes (ns)."""

    name: str
    reason: Reason
    span: int
    passes_at: int
    passed: bool


def guards_of(stream: Stream, record: Record | None, policy: Policy) -> list[Guard]:
    """Return the guards of a stream in the order in which they are checked; none if its job is live."""
    policy = policy_for(stream, record, policy)
    if record is None:
        return _passing(stream, _of_missing_job(stream, policy))
    if not policy.ends(record.last):
        return []
    dispute = [_dispute_of(stream, record, policy)] if policy.is_disputed(record) else []
    return [*dispute, *_passing(stream, _of_terminal_job(stream, record, policy))]


Begins = list[tuple[str, Reason, int | None, int]]
"""Guards as (name, reason, start in ns or None if it never started, length in ns)."""


def _passing(stream: Stream, begins: Begins) -> list[Guard]:
    return [
        Guard(name, reason, span, since + span, stream.observed_at >= since + span)
        for name, reason, since, span in begins
        if since is not None
    ]


def _dispute_of(stream: Stream, record: Record, policy: Policy) -> Guard:
    """Return the dispute guard. It starts at the later event, or when the stream was last used."""
    since = max(record.last_published_at, stream.last_publish or 0, _consumed_at(stream) or 0)
    return _passing(stream, [("dispute_guard", Reason.DISPUTED, since, policy.dispute_guard)])[0]


def _of_terminal_job(stream: Stream, record: Record, policy: Policy) -> Begins:
    """Return the guards of an ended job's stream. Messages from before the end are no sign of a new run.

    A job with a status in `DONE` has no work left. If work goes on, its end was published too early, so it waits.
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
    """Return whether work went on after the job was reported as done."""
    done = policy.is_terminal(record) and fold(record.status) in DONE
    return done and _since_the_end(_consumed_at(stream), record) is not None


def _since_the_end(instant: int | None, record: Record) -> int | None:
    return instant if instant is not None and instant > record.occurred_at else None


def _of_missing_job(stream: Stream, policy: Policy) -> Begins:
    """Return the guards of a missing job. The operator's `assume_missing` replaces the missing guard."""
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
    """Return the last delivery or ack (ns), if the consumers were read."""
    return stream.consumers.last_active if stream.consumers else None


def due_at(event: StatusEvent, policy: Policy) -> int | None:
    """Return when to inspect the job's stream for the first time after this event (ns); None for a live job.

    It uses the shortest terminal grace that can apply. The inspection finds the one that does.
    """
    return event.occurred_at + policy.shortest("terminal_grace", event.status) if policy.ends(event) else None


def is_over(record: Record, policy: Policy, now: int) -> bool:
    """Return whether the remains of a job without a stream may be deleted, at the server's time `now`."""
    return policy.is_terminal(record) and now >= record.occurred_at + policy.terminal_grace


def fell_due(stream: Stream, record: Record | None, policy: Policy) -> int | None:
    """Return when a zombie fell due (ns): when its last guard passed. None if no guard has a time."""
    ends = [] if stream.created is None else [guard.passes_at for guard in guards_of(stream, record, policy)]
    return max([*ends, *([] if stream.keep_until is None else [stream.keep_until])], default=None)


@dataclass(frozen=True, slots=True)
class Breaker:
    """Refuses a pass that would drain too many streams of missing jobs. With a silent emitter all jobs look missing."""

    max_missing: int
    max_ratio: float

    def trips(self, missing: int, checked: int) -> str | None:
        """Return the reason to refuse the pass, or None. Both limits must be exceeded."""
        if missing <= self.max_missing or missing <= self.max_ratio * checked:
            return None
        return (
            f"{missing} of {checked} job streams have no job that the ledger knows "
            f"(limits: {self.max_missing} streams and {self.max_ratio:.0%}); nothing was deleted. "
            "Check that the job system publishes lifecycle events; if these streams are dead, run again with --yes"
        )
