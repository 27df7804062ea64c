"""The report of a pass, in the shape of the contract. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from reactor.core.explain import both_events
from reactor.core.model import (
    SECOND,
    Coverage,
    DirectoryStatus,
    Drain,
    Keep,
    Outcome,
    Reason,
    Record,
    Settlement,
    StatusEvent,
    Stream,
    Unfixable,
    Verdict,
    Wait,
    format_instant,
)
from reactor.core.policy import Policy, fell_due, guards_of, policy_for
from reactor.core.schemas import DirectoryJson, GuardJson, ListedRow, Pass, PassSummary, StatusEventJson, StreamRow

Row = TypeVar("Row", bound=StreamRow)


@dataclass(frozen=True, slots=True)
class Report:
    """The report of one pass. `error` is why it was aborted; `breaker` is why nothing was deleted."""

    settlements: Sequence[Settlement]
    policy: Policy
    dry_run: bool
    started_at: int
    duration_s: float
    breaker: str | None = None
    paused: str | None = None
    """The pause, as a sentence; None if deleting is not paused."""
    error: str | None = None
    away: bool = False
    """Whether the error is an outage: NATS or Redis is away or refuses writes, or the listing cannot be trusted."""

    def count(self, *outcomes: Outcome) -> int:
        """Return how many streams have one of these outcomes."""
        return sum(settlement.outcome in outcomes for settlement in self.settlements)

    @property
    def is_held_back(self) -> bool:
        """Whether the breaker or an operator's pause kept streams, from the start or during the pass."""
        paused = any(item.reason is Reason.PAUSED for item in self.settlements)
        return self.breaker is not None or paused or (self.paused is not None and not self.dry_run)

    @property
    def is_of_absent_streams(self) -> bool:
        """Whether none of the requested streams exists."""
        return all(item.reason is Reason.GONE and not item.stream.observed_at for item in self.settlements)

    @property
    def unfixable(self) -> int:
        """How many streams need a person. An aborted pass counts as one more."""
        return self.count(Outcome.UNFIXABLE) + (self.error is not None)

    @property
    def reasons(self) -> Counter[tuple[Outcome, str]]:
        """The number of streams by outcome and reason."""
        return Counter((settlement.outcome, settlement.reason.value) for settlement in self.settlements)

    def summary(self) -> PassSummary:
        """Return the contract's object without its streams."""
        return {
            "checked": len(self.settlements),
            "fixed": self.count(Outcome.DRAINED, Outcome.WOULD_DRAIN) if not self.breaker else 0,
            "unfixable": self.unfixable,
            "already_gone": self.count(Outcome.ALREADY_GONE),
            "kept": self.count(Outcome.KEPT),
            "waiting": self.count(Outcome.WAITING),
            "dry_run": self.dry_run,
            "breaker": self.breaker,
            "error": self.error,
            "started_at": format_instant(self.started_at),
            "duration_s": round(self.duration_s, 3),
        }

    def as_dict(self) -> Pass:
        """Return the contract's object."""
        return {**self.summary(), "streams": [describe(item, self.policy) for item in self.settlements]}


def settlement_of(verdict: Verdict, stream: Stream, record: Record | None, coverage: Coverage) -> Settlement:
    """Return the settlement of a stream that is only judged, not changed."""
    match verdict:
        case Keep(reason):
            detail = coverage.gap if reason is Reason.UNKNOWN else None
            if stream.own and reason is Reason.RETENTION_UNREADABLE:
                detail = stream.own.unreadable
            if record and reason is Reason.DISPUTED:
                detail = both_events(record)
            return Settlement(Outcome.KEPT, reason, stream, record, detail=detail)
        case Wait(reason, until):
            return Settlement(Outcome.WAITING, reason, stream, record, until=until)
        case Drain(reason):
            return Settlement(Outcome.WOULD_DRAIN, reason, stream, record)
        case Unfixable(reason):
            mirror = f"it is a mirror of {stream.mirror_of}" if stream.mirror_of else None
            return Settlement(Outcome.UNFIXABLE, reason, stream, record, detail=mirror)


def describe(settlement: Settlement, policy: Policy) -> StreamRow:
    """Return a stream's row in a report."""
    stream, record = settlement.stream, settlement.record
    terminal = record is not None and policy.is_terminal(record)
    age = (stream.observed_at - stream.created) / SECOND if stream.created and stream.observed_at else None
    return StreamRow(
        stream=stream.name,
        job_id=stream.job_id,
        verdict=settlement.outcome.value,
        reason=settlement.reason.value,
        status=record.status if record else None,
        age_s=None if age is None else round(age, 3),
        terminal_at=format_instant(record.occurred_at) if record and terminal else None,
        until=None if settlement.until is None else format_instant(settlement.until),
        messages=stream.messages if stream.counted else None,
        redelivered=stream.consumers.redelivered if stream.consumers else None,
        detail=full_detail(settlement),
        rule=policy_for(stream, record, policy).rule,
    )


def listed(settlement: Settlement, policy: Policy) -> ListedRow:
    """Return a stream's row in a listing: the row of a report, with its size and when it is due."""
    stream, zombie = settlement.stream, settlement.outcome is Outcome.WOULD_DRAIN
    due = fell_due(stream, settlement.record, policy) if zombie else settlement.until
    return ListedRow(
        **describe(settlement, policy),
        bytes=stream.size,
        created=None if stream.created is None else format_instant(stream.created),
        due_at=None if due is None else format_instant(due),
    )


def guards_json(stream: Stream, record: Record | None, policy: Policy) -> list[GuardJson]:
    """Return the guards of a stream, for the audit and for `explain`."""
    return [
        GuardJson(
            guard=guard.name,
            length_s=guard.span / SECOND,
            passes_at=format_instant(guard.passes_at),
            passed=guard.passed,
        )
        for guard in guards_of(stream, record, policy)
    ]


def event_json(event: StatusEvent) -> StatusEventJson:
    """Return a lifecycle event, for the audit and for `explain`."""
    return StatusEventJson(
        status=event.status,
        occurred_at=format_instant(event.occurred_at),
        published_at=format_instant(event.published_at),
        seq=event.seq,
        source=event.source,
    )


def directory_json(status: DirectoryStatus | None) -> DirectoryJson | None:
    """Return the status in the job system's directory; None if there is none."""
    if status is None:
        return None
    ended_at = None if status.ended_at is None else format_instant(status.ended_at)
    return DirectoryJson(status=status.status, ended_at=ended_at)


def mark_exhausted(rows: list[Row], consumers: Mapping[str, str]) -> list[Row]:
    """Mark the rows of live jobs whose queue is exhausted. `consumers` gave up the last messages, by stream."""
    for row in rows:
        if (consumer := consumers.get(row["stream"])) and row["reason"] == Reason.RUNNING.value:
            row["exhausted"] = True
            row["detail"] = f"live, but exhausted: consumer {consumer} has given up its last messages (max_deliver)"
    return rows


def full_detail(settlement: Settlement) -> str | None:
    """Return the detail. After failures add the number of attempts and when the next one is."""
    if not settlement.attempts:
        return settlement.detail
    again = "left to the next full pass" if settlement.retry_s is None else f"tried again in {settlement.retry_s:g} s"
    return "; ".join(filter(None, (settlement.detail, f"attempt {settlement.attempts}, {again}")))
