"""The verdict table, row by row, and the laws that hold for every stream."""

import random
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.harness import record_of, status_event
from support.streams import COVERAGES, HOUR, MINUTE, NOW, OLD, POLICY, RECORDS, STREAMS

from reactor.core.model import (
    SECOND,
    UNREADABLE,
    Consumers,
    Coverage,
    Drain,
    Fence,
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
from reactor.core.policy import Breaker, decide, due_at, fell_due, policy_for, spoke_too_early

VOUCHING = Coverage(intact=True, since=0)
BLIND = Coverage(intact=True, gap="says nothing")
LOST = Coverage(intact=False)
DONE = record_of(NOW - HOUR, 5, "SUCCESS")
FENCE = Fence("t", NOW - 1, ("job.1.tasks",))
RETRIED_BY_A_SLOW_CLOCK = Record(
    status_event(NOW - HOUR, 5, "FAILURE"), status_event(NOW - HOUR - 2 * SECOND, 6, "STARTED", NOW - HOUR + SECOND)
)
LATE_NEWS = Record(status_event(NOW - HOUR, 5, "STARTED"), status_event(NOW - 2 * HOUR, 6, "FAILURE", NOW - MINUTE))
OLD_NEWS = Record(
    status_event(NOW - 9 * HOUR, 5, "STARTED"), status_event(NOW - 10 * HOUR, 6, "FAILURE", NOW - 3 * HOUR)
)

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
        record_of(NOW, 6, "STARTED"),
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
    ("running", OLD, record_of(NOW - 9 * HOUR, 5, "STARTED"), VOUCHING, Keep(Reason.RUNNING)),
    ("a status nobody knows", OLD, record_of(NOW - 9 * HOUR, 5, "WHATEVER"), VOUCHING, Keep(Reason.RUNNING)),
    ("the last event unreadable", OLD, record_of(NOW - 9 * HOUR, 5, UNREADABLE), VOUCHING, Keep(Reason.RUNNING)),
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
        record_of(NOW - MINUTE, 5, "SUCCESS"),
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
        record_of(NOW - 5 * MINUTE, 5, "SUCCESS"),
        VOUCHING,
        Drain(Reason.TERMINAL),
    ),
    ("terminal, all guards passed", OLD, DONE, VOUCHING, Drain(Reason.TERMINAL)),
    ("terminal in lower case", OLD, record_of(NOW - HOUR, 5, "revoked"), VOUCHING, Drain(Reason.TERMINAL)),
    ("terminal, the ledger cannot vouch for absence", OLD, DONE, BLIND, Drain(Reason.TERMINAL)),
    ("terminal, the ledger has lost history", OLD, DONE, LOST, Keep(Reason.UNKNOWN)),
    ("terminal, cannot be fenced", replace(OLD, fenceable=False), DONE, VOUCHING, Unfixable(Reason.NOT_FENCEABLE)),
    ("disputed, the last event is live", OLD, RETRIED_BY_A_SLOW_CLOCK, VOUCHING, Keep(Reason.DISPUTED)),
    ("disputed, the last event is terminal", OLD, LATE_NEWS, VOUCHING, Keep(Reason.DISPUTED)),
    ("disputed, nobody settled it for the dispute guard", OLD, OLD_NEWS, VOUCHING, Drain(Reason.TERMINAL)),
    (
        "disputed for the dispute guard, the last event is live",
        OLD,
        Record(OLD_NEWS.last, status_event(NOW - 11 * HOUR, 7, "RETRY", NOW - 4 * HOUR)),
        VOUCHING,
        Keep(Reason.RUNNING),
    ),
    (
        "disputed for the dispute guard, published to since",
        replace(OLD, last_publish=NOW - 2 * HOUR),
        OLD_NEWS,
        VOUCHING,
        Keep(Reason.DISPUTED),
    ),
    (
        "disputed for the dispute guard, delivered or acked since",
        replace(OLD, consumers=Consumers(NOW - 2 * HOUR, 0)),
        OLD_NEWS,
        VOUCHING,
        Keep(Reason.DISPUTED),
    ),
    (
        "two terminal words, whatever their order",
        OLD,
        Record(status_event(NOW - HOUR, 5, "FAILURE"), status_event(NOW - 2 * HOUR, 6, "REVOKED", NOW - MINUTE)),
        VOUCHING,
        Drain(Reason.TERMINAL),
    ),
    (
        "done, and still worked on",
        replace(OLD, consumers=Consumers(NOW - MINUTE, 0)),
        DONE,
        VOUCHING,
        Wait(Reason.ACTIVE, NOW + 9 * MINUTE),
    ),
    (
        "done, worked on before",
        replace(OLD, consumers=Consumers(NOW - HOUR, 0)),
        DONE,
        VOUCHING,
        Drain(Reason.TERMINAL),
    ),
    (
        "failed, and still worked on",
        replace(OLD, consumers=Consumers(NOW - MINUTE, 0)),
        record_of(NOW - HOUR, 5, "FAILURE"),
        VOUCHING,
        Drain(Reason.TERMINAL),
    ),
    ("a word that only looks terminal", OLD, record_of(NOW - HOUR, 5, "fa\u0131lure"), VOUCHING, Keep(Reason.RUNNING)),
    (
        "a word that would be one in German",
        OLD,
        record_of(NOW - HOUR, 5, "succe\u00df"),
        VOUCHING,
        Keep(Reason.RUNNING),
    ),
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
        "no record, vouched for by a mere ledger, quiet for less than the missing guard",
        replace(OLD, last_publish=NOW - HOUR),
        None,
        VOUCHING,
        Wait(Reason.ACTIVE, NOW + HOUR),
    ),
    (
        "no record, vouched for by a mere ledger, a consumer changed within the missing guard",
        replace(OLD, consumers=Consumers(None, 0, NOW - HOUR)),
        None,
        VOUCHING,
        Wait(Reason.ACTIVE, NOW + HOUR),
    ),
    (
        "no record, vouched for by a mere ledger, made within the missing guard",
        replace(OLD, created=NOW - HOUR),
        None,
        VOUCHING,
        Wait(Reason.ACTIVE, NOW + HOUR),
    ),
    (
        "no record, vouched for, all guards passed",
        replace(OLD, last_publish=NOW - 2 * HOUR, consumers=Consumers(NOW - 2 * HOUR, 3, NOW - 2 * HOUR)),
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
    """The order replaces the ledger's coverage, and the guards still hold."""
    policy = replace(POLICY, assume_missing=True)
    assert decide(OLD, None, BLIND, policy) == Drain(Reason.MISSING)
    assert decide(replace(OLD, last_publish=NOW), None, BLIND, policy) == Wait(Reason.ACTIVE, NOW + 10 * MINUTE)
    busy = replace(OLD, consumers=Consumers(NOW, 0))
    assert decide(busy, None, BLIND, policy) == Wait(Reason.ACTIVE, NOW + 10 * MINUTE)
    quiet = replace(OLD, last_publish=NOW - 11 * MINUTE, consumers=Consumers(NOW - 11 * MINUTE, 0, NOW))
    assert decide(quiet, None, BLIND, policy) == Drain(Reason.MISSING)


def test_absence_counts_in_a_full_pass_only() -> None:
    """With one stream at a time the breaker cannot see a pattern."""
    assert decide(OLD, None, VOUCHING, replace(POLICY, absence_counts=False)) == Keep(Reason.UNKNOWN)


@given(STREAMS, st.none() | RECORDS, COVERAGES)
def test_a_drain_is_always_proven(stream: Stream, record: Record | None, coverage: Coverage) -> None:
    """In any world, Drain means that every guard has passed."""
    if not isinstance(decide(stream, record, coverage, POLICY), Drain):
        return
    its = policy_for(stream, record, POLICY)
    assert stream.created is not None
    assert its.kept_until(stream) is None
    assert stream.own is None or stream.own.unreadable is None
    assert stream.reported
    assert stream.fenceable
    assert not stream.protected
    assert coverage.intact
    assert stream.observed_at - stream.created >= its.age_guard
    assert stream.fence is None or stream.fence.until <= stream.observed_at
    if record is None:
        assert coverage.since is not None
        assert coverage.since <= stream.created
        assert stream.observed_at - (stream.last_publish or 0) >= POLICY.missing_guard or not stream.last_publish
        assert stream.observed_at - stream.created >= POLICY.missing_guard
    else:
        assert record.last.status.upper() in POLICY.terminal_statuses
        assert stream.observed_at - record.occurred_at >= its.terminal_grace
        if record.latest.status.upper() not in POLICY.terminal_statuses:
            assert stream.observed_at - record.last.published_at >= POLICY.dispute_guard


@given(STREAMS, RECORDS, COVERAGES)
def test_live_beats_everything(stream: Stream, record: Record, coverage: Coverage) -> None:
    """No age, fence or gap makes a running job's stream a zombie."""
    verdict = decide(stream, Record(record.latest, replace(record.last, status="STARTED")), coverage, POLICY)
    assert not isinstance(verdict, Drain)


@given(STREAMS, st.none() | RECORDS, COVERAGES)
def test_a_wait_ends(stream: Stream, record: Record | None, coverage: Coverage) -> None:
    """It names a later time, and at that time its reason no longer holds."""
    verdict = decide(stream, record, coverage, POLICY)
    if isinstance(verdict, Wait):
        assert verdict.until > stream.observed_at
        then = decide(replace(stream, observed_at=verdict.until), record, coverage, POLICY)
        assert not (isinstance(then, Wait) and then.until <= verdict.until)


@given(STREAMS, st.none() | RECORDS, COVERAGES)
def test_a_zombie_is_one_since_its_last_guard_passed(stream: Stream, record: Record | None, coverage: Coverage) -> None:
    """At that moment it is a zombie, and just before it was not."""
    if not isinstance(decide(stream, record, coverage, POLICY), Drain):
        return
    due = fell_due(stream, record, POLICY)
    assert due is not None
    assert due <= stream.observed_at
    unfenced = replace(stream, fence=None)
    assert isinstance(decide(replace(unfenced, observed_at=due), record, coverage, POLICY), Drain)
    before = decide(replace(unfenced, observed_at=due - 1), record, coverage, POLICY)
    assert isinstance(before, Wait) or before == Keep(Reason.DISPUTED)


def test_nobody_says_since_when_a_stream_without_a_creation_time_is_a_zombie() -> None:
    """It is not a zombie."""
    assert fell_due(replace(OLD, created=None), DONE, POLICY) is None


@given(
    st.lists(st.tuples(st.sampled_from(["STARTED", "FAILURE", "SUCCESS", "RETRY"]), st.integers(-60, 60)), min_size=1),
    st.randoms(use_true_random=False),
    st.integers(0, 3 * HOUR - 1),
)
def test_a_job_that_was_started_last_lives_whatever_the_clocks_say(
    events: list[tuple[str, int]], order: random.Random, later: int
) -> None:
    """With emitters up to an hour apart, and events in any order, it is kept at least until the dispute guard."""
    words = []
    for seq, (status, minutes_off) in enumerate([*events, ("STARTED", -60)], 1):
        published_at = NOW + seq * SECOND
        words.append(StatusEvent(min(published_at + minutes_off * MINUTE, published_at), seq, status, published_at))
    last = words[-1]
    order.shuffle(words)
    record = Record.of(words[0])
    for event in words[1:]:
        record = record.merged(Record.of(event))
    assert record == Record.of(*words)
    assert record.last == last
    stream = replace(OLD, observed_at=last.published_at + later)
    assert decide(stream, record, VOUCHING, POLICY) in {Keep(Reason.RUNNING), Keep(Reason.DISPUTED)}


def shifted(event: StatusEvent, shift: int) -> StatusEvent:
    return replace(event, occurred_at=event.occurred_at + shift, published_at=event.published_at + shift)


@given(STREAMS, st.none() | RECORDS, COVERAGES, st.integers(-(10**18), 10**18))
def test_only_spans_count(stream: Stream, record: Record | None, coverage: Coverage, shift: int) -> None:
    """Shifting all clocks by the same span changes no verdict, so no hidden clock is read."""

    def moved(instant: int | None) -> int | None:
        return None if instant is None else instant + shift

    fence = stream.fence and replace(stream.fence, until=stream.fence.until + shift)
    seen = stream.consumers
    consumers = seen and Consumers(moved(seen.last_active), 0, moved(seen.unchanged_since))
    later = replace(
        stream,
        observed_at=stream.observed_at + shift,
        created=moved(stream.created),
        last_publish=moved(stream.last_publish),
        fence=fence,
        consumers=consumers,
        own=stream.own and replace(stream.own, keep_until=moved(stream.own.keep_until)),
    )
    record_then = record and Record(shifted(record.latest, shift), shifted(record.last, shift))
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
    """Only ASCII digits without leading zeros count, and only the whole name."""
    assert POLICY.job_id(name) is None


def test_job_streams_are_known_by_name() -> None:
    """Also with ids beyond 64 bits. Reactor's own streams are never job streams."""
    assert POLICY.job_id("job_0") == "0"
    assert POLICY.job_id("job_123456789012345678901234567890") == "123456789012345678901234567890"
    assert replace(POLICY, own_streams=frozenset({"job_1"})).job_id("job_1") is None


@pytest.mark.parametrize(
    ("pattern", "job_id", "names"),
    [
        (r"^job_(?P<job_id>0|[1-9][0-9]*)$", "7", {"job_7"}),
        (r"^job_(?P<job_id>0|[1-9][0-9]*)$", "07", set()),
        (r"^job_(?P<job_id>0|[1-9][0-9]*)$", "abc", set()),
        (r"job-(?P<job_id>[0-9]+)-queue", "7", {"job-7-queue"}),
        (r"\Aa_b\-(?P<job_id>(?:x|[)(]|\)y)+)z\Z", ")y", {"a_b-)yz"}),
        (r"(?P<job_id>[a-z]+)", "x", {"x"}),
        (r"job_(?P<job_id>.+)", "a.b", set()),
        (r"job_(?P<job_id>.+)", "*", set()),
        (r"job_(?P<job_id>.+)", "a b", set()),
        (r"(?:job|task)_(?P<job_id>[0-9]+)", "7", None),
        (r"job_(?P<job_id>[0-9]+)(?:_retry)?", "7", None),
        (r"job_?(?P<job_id>[0-9]+)", "7", None),
        (r"[jJ]ob_(?P<job_id>[0-9]+)", "7", None),
        (r"job.(?P<job_id>[0-9]+)", "7", None),
        (r"\w(?P<job_id>[0-9]+)", "7", None),
        (r"x|job_(?P<job_id>[0-9]+)", "7", None),
        (r"(?i)job_(?P<job_id>[0-9]+)", "7", None),
    ],
)
def test_a_pattern_is_turned_round_where_it_leaves_no_choice(pattern: str, job_id: str, names: set[str] | None) -> None:
    """A name consists of the literal text around the id, and nothing else."""
    policy = replace(POLICY, pattern=re.compile(pattern, re.ASCII))
    assert policy.names_of(job_id) == names


def test_a_job_is_due_when_its_grace_has_passed() -> None:
    """A live job never is."""
    assert due_at(status_event(NOW, 1, "success"), POLICY) == NOW + 5 * MINUTE
    assert due_at(status_event(NOW, 1, "RETRY"), POLICY) is None


def test_who_is_done_and_still_works_spoke_too_early() -> None:
    """This does not apply to failed jobs."""
    busy = replace(OLD, consumers=Consumers(NOW - MINUTE, 0))
    assert spoke_too_early(busy, DONE, POLICY)
    assert not spoke_too_early(busy, record_of(NOW - HOUR, 5, "FAILURE"), POLICY)
    assert not spoke_too_early(OLD, DONE, POLICY)


@given(st.text())
def test_only_ascii_letters_are_folded(text: str) -> None:
    """No other word becomes a terminal one."""
    assert fold(text) == "".join(char.upper() if char.isascii() else char for char in text)


@pytest.mark.parametrize(
    ("missing", "checked", "trips"), [(20, 20, False), (21, 21, True), (21, 42, False), (22, 43, True), (0, 0, False)]
)
def test_the_breaker_needs_both_limits_exceeded(missing: int, checked: int, trips: bool) -> None:  # noqa: FBT001  # a table
    """A few streams may all be dead, and many may be a small share."""
    assert (Breaker(20, 0.5).trips(missing, checked) is not None) == trips
