"""Retention rules: which rule applies, and the laws that hold for all streams and sets of rules."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.harness import record_of
from support.streams import COVERAGES, HOUR, MINUTE, NOW, OLD, POLICY, RECORDS, STREAMS

from reactor.core.model import Coverage, Drain, Keep, Reason, Record, Stream, Verdict, Wait
from reactor.core.policy import decide, due_at, fell_due, policy_for
from reactor.core.rules import GUARDS, Rule, never_matching, read_rule
from reactor.core.stream_info import read_own_times

DAY = 24 * HOUR
VOUCHING = Coverage(intact=True, since=0)
FAILED = Rule("failed", statuses=frozenset({"FAILURE"}), guards={"terminal_grace": DAY})
TRAINING = Rule("training", metadata={"kind": "training"}, guards={"terminal_grace": 0, "age_guard": 0})
FIRST = Rule("first", streams=("job_1*",), guards={"age_guard": 20 * HOUR})


def test_the_first_rule_that_matches_counts() -> None:
    """All conditions of a rule must match. What it leaves out is as in the settings."""
    policy = replace(POLICY, rules=(FAILED, TRAINING, FIRST))
    trained = replace(OLD, metadata={"kind": "training", "team": "ml"})
    failed, done = record_of(NOW - HOUR, 5, "failure"), record_of(NOW - MINUTE, 5, "SUCCESS")
    assert policy_for(trained, failed, policy).rule == "failed"
    assert policy_for(trained, done, policy).rule == "training"
    assert policy_for(OLD, done, policy).rule == "first"
    assert policy_for(OLD, None, policy).rule == "first"
    assert policy_for(replace(OLD, name="job_2"), done, policy).rule == "default"
    assert decide(OLD, failed, VOUCHING, policy) == Wait(Reason.GRACE, NOW + 23 * HOUR)
    assert decide(trained, done, VOUCHING, policy) == Drain(Reason.TERMINAL)
    assert decide(OLD, done, VOUCHING, policy) == Wait(Reason.FRESH, NOW + 10 * HOUR)
    assert policy_for(OLD, failed, policy).idle_guard == POLICY.idle_guard


def test_a_rule_protects_reports_and_backs_up() -> None:
    """Besides guards. The policy of a stream shows it."""
    done = record_of(NOW - HOUR, 5, "SUCCESS")
    policy = replace(POLICY, rules=(Rule("kept", protect=True),))
    assert decide(OLD, done, VOUCHING, policy) == Keep(Reason.PROTECTED)
    policy = replace(POLICY, rules=(Rule("told", action="report", backup="always"),))
    its = policy_for(OLD, done, policy)
    assert (its.deletes, its.backup, policy.may_delete, policy.may_report) == (False, "always", True, True)
    reporting = replace(POLICY, deletes=False, rules=(Rule("one", streams=("job_1",), action="delete"),))
    assert policy_for(OLD, done, reporting).deletes
    assert not policy_for(replace(OLD, name="job_2"), done, reporting).deletes
    assert reporting.may_delete


@pytest.mark.parametrize(
    ("metadata", "verdict"),
    [
        ({"reactor.terminal-grace": "2h"}, Wait(Reason.GRACE, NOW + HOUR)),
        ({"reactor.terminal-grace": "PT2H"}, Wait(Reason.GRACE, NOW + HOUR)),
        ({"reactor.terminal-grace": "0"}, Drain(Reason.TERMINAL)),
        ({"reactor.age-guard": "11h"}, Wait(Reason.FRESH, NOW + HOUR)),
        ({"reactor.keep-until": "1970-01-12T14:46:40Z"}, Wait(Reason.PROTECTED, NOW + HOUR)),
        ({"reactor.keep-until": "1970-01-12T13:46:40Z"}, Drain(Reason.TERMINAL)),
        ({"reactor.keep-until": "tomorrow"}, Keep(Reason.RETENTION_UNREADABLE)),
        ({"reactor.keep-until": ""}, Keep(Reason.RETENTION_UNREADABLE)),
        ({"reactor.age-guard": "-1h"}, Keep(Reason.RETENTION_UNREADABLE)),
        ({"reactor.terminal-grace": "99999999999999999999d"}, Keep(Reason.RETENTION_UNREADABLE)),
        ({"reactor.terminal-grace": "two hours"}, Keep(Reason.RETENTION_UNREADABLE)),
        ({"team": "ml"}, Drain(Reason.TERMINAL)),
    ],
)
def test_a_streams_own_times_win(metadata: Mapping[str, str], verdict: Verdict) -> None:
    """Over rules, whether shorter or longer. An unreadable time keeps the stream."""
    stream = replace(OLD, own=read_own_times(metadata))
    assert decide(stream, record_of(NOW - HOUR, 5, "SUCCESS"), VOUCHING, POLICY) == verdict
    ruled = replace(POLICY, rules=(Rule("all", guards={"terminal_grace": HOUR, "age_guard": HOUR}),))
    assert decide(stream, record_of(NOW - HOUR, 5, "SUCCESS"), VOUCHING, ruled) == verdict
    longer = replace(POLICY, rules=(Rule("all", guards={"terminal_grace": DAY, "age_guard": DAY}),))
    own = {"reactor.terminal-grace": "0", "reactor.age-guard": "0", **metadata}
    stream = replace(OLD, own=read_own_times(own))
    assert decide(stream, record_of(NOW - HOUR, 5, "SUCCESS"), VOUCHING, longer) == verdict
    assert policy_for(stream, None, longer).rule == ("all" if stream.own and stream.own.unreadable else "stream")


def test_a_retry_ends_all_graces() -> None:
    """A restarted job is live, even if the grace of its rule was short (argo-workflows 12636)."""
    policy = replace(POLICY, rules=(Rule("at once", guards=dict.fromkeys(GUARDS, 0)),))
    failed = record_of(NOW - MINUTE, 5, "FAILURE")
    assert decide(OLD, failed, VOUCHING, policy) == Drain(Reason.TERMINAL)
    assert decide(OLD, failed.merged(record_of(NOW - SECONDS, 6, "STARTED")), VOUCHING, policy) == Keep(Reason.RUNNING)


SECONDS = MINUTE // 60


def test_the_event_path_uses_the_shortest_grace_that_can_apply() -> None:
    """By status. The inspection finds the rule that applies."""
    policy = replace(POLICY, rules=(FAILED, TRAINING))
    for status, grace in (("FAILURE", 0), ("SUCCESS", 0)):
        assert due_at(record_of(NOW, 5, status).last, policy) == NOW + grace
    policy = replace(POLICY, rules=(FAILED,))
    assert due_at(record_of(NOW, 5, "FAILURE").last, policy) == NOW + POLICY.terminal_grace
    quick = replace(POLICY, rules=(Rule("q", statuses=frozenset({"FAILURE"}), guards={"terminal_grace": 1}),))
    assert due_at(record_of(NOW, 5, "FAILURE").last, quick) == NOW + 1
    assert due_at(record_of(NOW, 5, "SUCCESS").last, quick) == NOW + POLICY.terminal_grace


@pytest.mark.parametrize(
    ("earlier", "later", "takes_all"),
    [
        (Rule("a"), Rule("b", streams=("x",)), True),
        (Rule("a", streams=("job_*",)), Rule("b", streams=("job_1*", "job_2")), True),
        (Rule("a", streams=("job_*",)), Rule("b", streams=("job_1*", "other")), False),
        (Rule("a", streams=("job_*",)), Rule("b"), False),
        (Rule("a", streams=("*",)), Rule("b", streams=("[ab]*",)), True),
        (Rule("a", streams=("job_1?",)), Rule("b", streams=("job_12",)), True),
        (Rule("a", streams=("job_1?",)), Rule("b", streams=("job_1*",)), False),
        (Rule("a", streams=("job_[12]*",)), Rule("b", streams=("job_1*",)), False),  # true, but not shown by the texts
        (Rule("a", statuses=frozenset({"FAILURE"})), Rule("b", statuses=frozenset({"FAILURE"})), True),
        (Rule("a", statuses=frozenset({"FAILURE"})), Rule("b"), False),
        (Rule("a", metadata={"k": "v"}), Rule("b", metadata={"k": "v", "l": "w"}), True),
        (Rule("a", metadata={"k": "v"}), Rule("b", metadata={"k": "w"}), False),
    ],
)
def test_a_rule_that_can_never_match_is_found(*, earlier: Rule, later: Rule, takes_all: bool) -> None:
    """If an earlier rule surely matches everything that it matches."""
    assert bool(never_matching([earlier, later])) is takes_all


NAMES = st.sampled_from(["job_1", "job_2", "job_11", "job_*", "job_1*", "job_?", "*", "x*"])
SPANS = st.integers(0, 10 * HOUR)
RULES = st.builds(
    Rule,
    name=st.sampled_from("abcdefgh"),
    streams=st.lists(NAMES, max_size=2).map(tuple),
    statuses=st.frozensets(st.sampled_from(["SUCCESS", "REVOKED", "STARTED", "X"]), max_size=2),
    metadata=st.sampled_from([{}, {"kind": "training"}, {"team": "ml"}]),
    guards=st.dictionaries(st.sampled_from(GUARDS), SPANS),
    protect=st.booleans(),
    action=st.sampled_from([None, "delete", "report"]),
    backup=st.sampled_from([None, "never", "always"]),
)
LISTS = st.lists(RULES, max_size=4).map(tuple)


@given(STREAMS, st.none() | RECORDS, COVERAGES, LISTS, st.integers(0, 4))
def test_a_rule_that_matches_nothing_changes_nothing(
    stream: Stream, record: Record | None, coverage: Coverage, rules: tuple[Rule, ...], at: int
) -> None:
    """At any position."""
    idle = Rule("idle", streams=("nothing",), guards=dict.fromkeys(GUARDS, 0))
    policy, more = replace(POLICY, rules=rules), replace(POLICY, rules=(*rules[:at], idle, *rules[at:]))
    assert decide(stream, record, coverage, more) == decide(stream, record, coverage, policy)
    assert fell_due(stream, record, more) == fell_due(stream, record, policy)


@given(STREAMS, st.none() | RECORDS, COVERAGES, LISTS)
def test_a_stream_outlives_all_guards_that_apply_to_it(
    stream: Stream, record: Record | None, coverage: Coverage, rules: tuple[Rule, ...]
) -> None:
    """It is never deleted before the longest of them, and no rule makes a live job's stream a zombie."""
    policy = replace(POLICY, rules=rules)
    if not isinstance(decide(stream, record, coverage, policy), Drain):
        return
    its = policy_for(stream, record, policy)
    assert not its.is_protected(stream)
    assert stream.created is not None
    assert stream.observed_at >= stream.created + its.age_guard
    if record is None:
        assert stream.observed_at >= stream.created + its.missing_guard
    else:
        assert POLICY.ends(record.last)
        assert stream.observed_at >= record.occurred_at + its.terminal_grace
        assert stream.last_publish is None or (
            stream.last_publish <= record.occurred_at or stream.observed_at >= stream.last_publish + its.idle_guard
        )


@given(STREAMS, st.none() | RECORDS, LISTS)
def test_what_one_stream_is_judged_by_is_stable(stream: Stream, record: Record | None, rules: tuple[Rule, ...]) -> None:
    """Computed again it is the same, and a rule that was sent to another process is the same rule."""
    its = policy_for(stream, record, replace(POLICY, rules=rules))
    assert policy_for(stream, record, its) == its
    assert tuple(read_rule(rule.as_dict()) for rule in rules) == rules


@given(LISTS)
def test_what_never_matches_matches_nothing(rules: tuple[Rule, ...]) -> None:
    """A rule that is reported as never matching applies to no stream."""
    never = {id(later) for later, _ in never_matching(rules)}
    kept = tuple(rule for rule in rules if id(rule) not in never)
    for name in ("job_1", "job_2", "job_11", "x1", "y"):
        for metadata in ({}, {"kind": "training"}, {"team": "ml"}, {"kind": "training", "team": "ml"}):
            for record in (None, record_of(NOW, 1, "SUCCESS"), record_of(NOW, 1, "X")):
                stream = replace(OLD, name=name, metadata=metadata)
                found = [policy_for(stream, record, replace(POLICY, rules=some)) for some in (rules, kept)]
                assert replace(found[0], rules=()) == replace(found[1], rules=())
