"""The verdict table, row by row, and the laws that hold for every stream."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.model import (
    SECOND,
    UNREADABLE,
    Consumers,
    Coverage,
    Drain,
    Fence,
    Keep,
    Reason,
    Record,
    Stream,
    Unfixable,
    Verdict,
    Wait,
)
from reactor.policy import Breaker, Policy, decide, due_at, fell_due

HOUR = 3600 * SECOND
MINUTE = 60 * SECOND
NOW = 1_000_000 * SECOND
POLICY = Policy(
    pattern=re.compile(r"^job_(?P<job_id>0|[1-9][0-9]*)$", re.ASCII),
    age_guard=HOUR,
    terminal_grace=5 * MINUTE,
    idle_guard=10 * MINUTE,
    terminal_statuses=frozenset({"SUCCESS", "FAILURE", "REVOKED", "DELETED"}),
    protect=("job_9*",),
)
OLD = Stream("job_1", "1", NOW, created=NOW - 10 * HOUR)
VOUCHING = Coverage(intact=True, since=0)
BLIND = Coverage(intact=True, gap="says nothing")
LOST = Coverage(intact=False)
DONE = Record(NOW - HOUR, 5, "SUCCESS")
FENCE = Fence("t", NOW - 1, ("job.1.tasks",))

TABLE: list[tuple[str, Stream, Record | None, Coverage, Verdict]] = [
    ("protected by metadata", replace(OLD, protected=True), DONE, VOUCHING, Keep(Reason.PROTECTED)),
    ("protected by glob", replace(OLD, name="job_99", job_id="99"), DONE, VOUCHING, Keep(Reason.PROTECTED)),
    ("not reported whole", replace(OLD, reported=False), DONE, VOUCHING, Unfixable(Reason.UNREPORTED)),
    (
        "fenced by a lease that runs",
        replace(OLD, fence=replace(FENCE, until=NOW + 1)),
        DONE,
        VOUCHING,
        Wait(Reason.FENCED, NOW + 1),
    ),
    ("fenced by a lease that ran out, dead", replace(OLD, fence=FENCE), DONE, VOUCHING, Drain(Reason.TERMINAL)),
    (
        "fenced by a lease that ran out, alive",
        replace(OLD, fence=FENCE),
        Record(NOW, 6, "STARTED"),
        VOUCHING,
        Keep(Reason.RUNNING),
    ),
    (
        "fenced, the original subjects unreadable",
        replace(OLD, fence=replace(FENCE, subjects=())),
        DONE,
        VOUCHING,
        Unfixable(Reason.FENCE_UNREADABLE),
    ),
    ("created unreadable", replace(OLD, created=None), DONE, VOUCHING, Unfixable(Reason.CREATED_UNREADABLE)),
    ("running", OLD, Record(NOW - 9 * HOUR, 5, "STARTED"), VOUCHING, Keep(Reason.RUNNING)),
    ("a status nobody knows", OLD, Record(NOW - 9 * HOUR, 5, "WHATEVER"), VOUCHING, Keep(Reason.RUNNING)),
    ("the last event unreadable", OLD, Record(NOW - 9 * HOUR, 5, UNREADABLE), VOUCHING, Keep(Reason.RUNNING)),
    (
        "terminal, the stream fresh",
        replace(OLD, created=NOW - MINUTE),
        DONE,
        VOUCHING,
        Wait(Reason.FRESH, NOW - MINUTE + HOUR),
    ),
    (
        "terminal, within grace",
        OLD,
        replace(DONE, occurred_at=NOW - MINUTE),
        VOUCHING,
        Wait(Reason.GRACE, NOW + 4 * MINUTE),
    ),
    (
        "terminal, published to after its end",
        replace(OLD, last_publish=NOW - MINUTE),
        DONE,
        VOUCHING,
        Wait(Reason.ACTIVE, NOW + 9 * MINUTE),
    ),
    (
        "terminal just now, published to before its end",
        replace(OLD, last_publish=NOW - 6 * MINUTE),
        replace(DONE, occurred_at=NOW - 5 * MINUTE),
        VOUCHING,
        Drain(Reason.TERMINAL),
    ),
    ("terminal, all guards passed", OLD, DONE, VOUCHING, Drain(Reason.TERMINAL)),
    ("terminal in lower case", OLD, replace(DONE, status="revoked"), VOUCHING, Drain(Reason.TERMINAL)),
    ("terminal, the ledger cannot vouch for absence", OLD, DONE, BLIND, Drain(Reason.TERMINAL)),
    ("terminal, the ledger has lost history", OLD, DONE, LOST, Keep(Reason.UNKNOWN)),
    ("terminal, cannot be fenced", replace(OLD, fenceable=False), DONE, VOUCHING, Unfixable(Reason.NOT_FENCEABLE)),
    ("no record, nobody vouches", OLD, None, BLIND, Keep(Reason.UNKNOWN)),
    ("no record, history lost", OLD, None, LOST, Keep(Reason.UNKNOWN)),
    (
        "no record, the stream older than the coverage",
        OLD,
        None,
        replace(VOUCHING, since=NOW - 10 * HOUR + 1),
        Keep(Reason.UNKNOWN),
    ),
    (
        "no record, vouched for, fresh",
        replace(OLD, created=NOW - MINUTE),
        None,
        VOUCHING,
        Wait(Reason.FRESH, NOW - MINUTE + HOUR),
    ),
    (
        "no record, vouched for, published to",
        replace(OLD, last_publish=NOW - MINUTE),
        None,
        VOUCHING,
        Wait(Reason.ACTIVE, NOW + 9 * MINUTE),
    ),
    (
        "no record, vouched for, delivered or acked",
        replace(OLD, consumers=Consumers(NOW - MINUTE, 0)),
        None,
        VOUCHING,
        Wait(Reason.ACTIVE, NOW + 9 * MINUTE),
    ),
    (
        "no record, vouched for, all guards passed",
        replace(OLD, last_publish=NOW - HOUR, consumers=Consumers(NOW - HOUR, 3)),
        None,
        replace(VOUCHING, since=NOW - 10 * HOUR),
        Drain(Reason.MISSING),
    ),
]


@pytest.mark.parametrize(
    ("stream", "record", "coverage", "verdict"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
)
def test_the_table(stream: Stream, record: Record | None, coverage: Coverage, verdict: Verdict) -> None:
    """Each situation of the design has its verdict."""
    assert decide(stream, record, coverage, POLICY) == verdict


def test_an_operator_may_call_the_unknown_missing() -> None:
    """The word stands in for the ledger's, and the guards still hold."""
    policy = replace(POLICY, assume_missing=True)
    assert decide(OLD, None, BLIND, policy) == Drain(Reason.MISSING)
    assert decide(replace(OLD, last_publish=NOW), None, BLIND, policy) == Wait(Reason.ACTIVE, NOW + 10 * MINUTE)


def test_absence_counts_in_a_full_pass_only() -> None:
    """One stream at a time shows no pattern for the breaker to see."""
    assert decide(OLD, None, VOUCHING, replace(POLICY, absence_counts=False)) == Keep(Reason.UNKNOWN)


STREAMS = st.builds(
    Stream,
    name=st.just("job_1"),
    job_id=st.just("1"),
    observed_at=st.integers(0, 10 * HOUR),
    created=st.none() | st.integers(0, 10 * HOUR),
    reported=st.booleans(),
    protected=st.booleans(),
    fenceable=st.booleans(),
    fence=st.none() | st.builds(Fence, st.just("t"), st.integers(0, 10 * HOUR), st.sampled_from([(), ("a",)])),
    last_publish=st.none() | st.integers(0, 10 * HOUR),
    consumers=st.none() | st.builds(Consumers, st.none() | st.integers(0, 10 * HOUR), st.just(0)),
)
RECORDS = st.builds(
    Record, st.integers(0, 10 * HOUR), st.integers(1, 9), st.sampled_from(["SUCCESS", "revoked", "STARTED", "?", "x"])
)
COVERAGES = st.builds(Coverage, st.booleans(), st.none() | st.integers(0, 10 * HOUR))


@given(STREAMS, st.none() | RECORDS, COVERAGES)
def test_a_drain_is_always_proven(stream: Stream, record: Record | None, coverage: Coverage) -> None:
    """Whatever the world looks like, a Drain means every single guard has passed."""
    if not isinstance(decide(stream, record, coverage, POLICY), Drain):
        return
    assert stream.created is not None
    assert stream.reported
    assert stream.fenceable
    assert not stream.protected
    assert coverage.intact
    assert stream.observed_at - stream.created >= POLICY.age_guard
    assert stream.fence is None or stream.fence.until <= stream.observed_at
    if record is None:
        assert coverage.since is not None
        assert coverage.since <= stream.created
        assert stream.observed_at - (stream.last_publish or 0) >= POLICY.idle_guard or not stream.last_publish
    else:
        assert record.status.upper() in POLICY.terminal_statuses
        assert stream.observed_at - record.occurred_at >= POLICY.terminal_grace


@given(STREAMS, RECORDS, COVERAGES)
def test_live_beats_everything(stream: Stream, record: Record, coverage: Coverage) -> None:
    """No age, fence or gap makes a running job's stream a zombie."""
    verdict = decide(stream, replace(record, status="STARTED"), coverage, POLICY)
    assert not isinstance(verdict, Drain)


@given(STREAMS, st.none() | RECORDS, COVERAGES)
def test_a_wait_ends(stream: Stream, record: Record | None, coverage: Coverage) -> None:
    """It names a later time, and at that time its own reason is gone."""
    verdict = decide(stream, record, coverage, POLICY)
    if isinstance(verdict, Wait):
        assert verdict.until > stream.observed_at
        then = decide(replace(stream, observed_at=verdict.until), record, coverage, POLICY)
        assert not (isinstance(then, Wait) and then.until <= verdict.until)


@given(STREAMS, st.none() | RECORDS, COVERAGES)
def test_a_zombie_is_one_since_its_last_guard_passed(stream: Stream, record: Record | None, coverage: Coverage) -> None:
    """At that very moment it was one, and the moment before it was not."""
    if not isinstance(decide(stream, record, coverage, POLICY), Drain):
        return
    due = fell_due(stream, record, POLICY)
    assert due is not None
    assert due <= stream.observed_at
    unfenced = replace(stream, fence=None)
    assert isinstance(decide(replace(unfenced, observed_at=due), record, coverage, POLICY), Drain)
    assert isinstance(decide(replace(unfenced, observed_at=due - 1), record, coverage, POLICY), Wait)


def test_nobody_says_since_when_a_stream_without_a_creation_time_is_a_zombie() -> None:
    """It is none."""
    assert fell_due(replace(OLD, created=None), DONE, POLICY) is None


@given(STREAMS, st.none() | RECORDS, COVERAGES, st.integers(-(10**18), 10**18))
def test_only_spans_count(stream: Stream, record: Record | None, coverage: Coverage, shift: int) -> None:
    """All clocks moved by the same span change no verdict: no hidden clock is read."""

    def moved(instant: int | None) -> int | None:
        return None if instant is None else instant + shift

    fence = stream.fence and replace(stream.fence, until=stream.fence.until + shift)
    consumers = stream.consumers and replace(stream.consumers, last_active=moved(stream.consumers.last_active))
    later = replace(
        stream,
        observed_at=stream.observed_at + shift,
        created=moved(stream.created),
        last_publish=moved(stream.last_publish),
        fence=fence,
        consumers=consumers,
    )
    record_then = record and replace(record, occurred_at=record.occurred_at + shift)
    then = decide(later, record_then, replace(coverage, since=moved(coverage.since)), POLICY)
    now = decide(stream, record, coverage, POLICY)
    assert then == (replace(now, until=now.until + shift) if isinstance(now, Wait) else now)


@pytest.mark.parametrize(
    "name",
    [
        "job_007",
        "job_1_backup",
        "JOB_1",
        "xjob_1",
        "job_-1",
        "job_1x",
        "job_",
        "job_1\n",
        "job_\u0661",
        "job_\uff11",
        "job_+1",
    ],
)
def test_look_alikes_are_nobodys(name: str) -> None:
    """ASCII digits without leading zeros, and the whole name."""
    assert POLICY.job_id(name) is None


def test_job_streams_are_known_by_name() -> None:
    """Also with ids beyond 64 bits; reactor's own streams never are."""
    assert POLICY.job_id("job_0") == "0"
    assert POLICY.job_id("job_123456789012345678901234567890") == "123456789012345678901234567890"
    assert replace(POLICY, own_streams=frozenset({"job_1"})).job_id("job_1") is None


def test_a_job_is_due_when_its_grace_has_passed() -> None:
    """A live one never is."""
    assert due_at(Record(NOW, 1, "success"), POLICY) == NOW + 5 * MINUTE
    assert due_at(Record(NOW, 1, "RETRY"), POLICY) is None


@pytest.mark.parametrize(
    ("missing", "checked", "trips"), [(20, 20, False), (21, 21, True), (21, 42, False), (22, 43, True), (0, 0, False)]
)
def test_the_breaker_needs_both_limits_exceeded(missing: int, checked: int, trips: bool) -> None:  # noqa: FBT001  # a table
    """Few streams may all be dead, and many may be a small share."""
    assert (Breaker(20, 0.5).trips(missing, checked) is not None) == trips
