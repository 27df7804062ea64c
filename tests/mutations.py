"""Disable each guard of the product in turn and show that a test notices: `uv run python tests/mutations.py [NAME]…`.

A green suite shows that the product works; only a red one shows that a guard is tested. Nothing is changed in the
working tree: each mutation is applied to a copy in a temporary folder. Exit code 1 where one survived, does not apply
any more or is broken in itself.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PYTEST = (
    "-m",
    "pytest",
    "-q",
    "-x",
    "--no-cov",
    "-p",
    "no:cacheprovider",
    "--timeout=60",
    "-rfE",
    "--tb=no",
)
PASSED, FAILED = 0, 1
"""Of pytest's exit codes; all others mean that no test said anything."""
LIMIT_S, BASELINE_S = 300.0, 1800.0
"""For the test of one mutation; and for all of these tests, before any mutation."""
VERDICT = re.compile(r"^FAILED tests/(?:\w+/)*(?P<test>\w+\.py::.+?)(?: - (?P<why>.*))?$", re.MULTILINE)
SAID_SO = ("assert", "AssertionError", "TimeoutError", "Failed: ", "ExceptionGroup: Hypothesis")
"""How a test that notices something fails: not by a name that is misspelt in the mutation."""


class Mutation(NamedTuple):
    """One guard disabled: `old` becomes `new` in a module of reactor, and then `test` must fail."""

    name: str
    guard: str
    module: str
    old: str
    new: str
    test: str

    def applied_to(self, source: str) -> str:
        """The mutated source. Raises ValueError where the old text does not occur exactly once."""
        if (count := source.count(self.old)) != 1:
            message = f"mutation {self.name} no longer applies: {self.old!r} occurs {count} times in {self.module}"
            raise ValueError(message)
        return source.replace(self.old, self.new)


DRAIN, RECONCILE, LEDGER, WORKER = "test_drain.py::", "test_reconcile.py::", "test_ledger.py::", "test_worker.py::"
AUTHORITY = "test_authority.py::"
FAULTS, HTTP, ATTACKED = "test_faults.py::", "test_http.py::", "test_attacked.py::"
ROW = "test_policy.py::test_the_table"
RETRIED = f"{DRAIN}test_a_job_retried_on_the_way_keeps_its_stream"
WHOLE = f"{LEDGER}test_a_ledger_is_whole_only_after_a_rebuild"

POLICY = (
    Mutation(
        "age-guard-terminal",
        "age guard of a terminal job's stream",
        "core/policy.py",
        '        ("age_guard", Reason.FRESH, stream.created, policy.age_guard),\n        ("terminal_grace"',
        '        ("terminal_grace"',
        f"{RECONCILE}test_a_fresh_stream_of_an_ended_job_is_retained",
    ),
    Mutation(
        "age-guard-missing",
        "age guard of a missing job's stream",
        "core/policy.py",
        '        ("age_guard", Reason.FRESH, stream.created, policy.age_guard),\n        ("idle_guard"',
        '        ("idle_guard"',
        f"{ROW}[no record, vouched for, fresh]",
    ),
    Mutation(
        "terminal-grace",
        "terminal grace",
        "core/policy.py",
        '        ("terminal_grace", Reason.GRACE, record.occurred_at, policy.terminal_grace),\n',
        "",
        f"{ROW}[terminal, within grace]",
    ),
    Mutation(
        "idle-guard-terminal",
        "idle guard of a terminal job's stream",
        "core/policy.py",
        '        ("idle_guard", Reason.ACTIVE, _since_the_end(published, record), policy.idle_guard),\n',
        "",
        f"{ROW}[terminal, published to after its end]",
    ),
    Mutation(
        "idle-guard-missing",
        "idle guard of a missing job's stream: published to",
        "core/policy.py",
        '        ("idle_guard", Reason.ACTIVE, stream.last_publish, policy.idle_guard),\n',
        "",
        "test_policy.py::test_an_operator_may_call_the_unknown_missing",
    ),
    Mutation(
        "idle-guard-consumed",
        "idle guard of a missing job's stream: delivered or acked",
        "core/policy.py",
        '        ("idle_guard", Reason.ACTIVE, _consumed_at(stream), policy.idle_guard),\n',
        "",
        "test_policy.py::test_an_operator_may_call_the_unknown_missing",
    ),
    Mutation(
        "live-first",
        "live beats everything",
        "core/policy.py",
        "    if record is not None and not policy.ends(record.last):\n        return Keep",
        "    if False:\n        return Keep",
        f"{RECONCILE}test_a_running_jobs_stream_is_retained[STARTED]",
    ),
    Mutation(
        "unknown-status-is-live",
        "an unknown status is live",
        "core/policy.py",
        "return fold(word.status) in self.terminal_statuses",
        'return fold(word.status) not in {"STARTED", "RETRY", "CANCELING", "PENDING"}',
        f"{RECONCILE}test_a_running_jobs_stream_is_retained[no such word]",
    ),
    Mutation(
        "ascii-letters-only",
        "only ASCII letters are folded",
        "core/model.py",
        'status.encode("utf-8", "surrogatepass").upper().decode("utf-8", "surrogatepass")',
        "status.upper()",
        f"{ROW}[a word that only looks terminal]",
    ),
    Mutation(
        "disputed",
        "a job whose last words disagree lives",
        "core/policy.py",
        "if record is not None and policy.is_disputed(record) and not _dispute_of(stream, record, policy).passed:",
        "if False:",
        f"{ATTACKED}test_a_retry_from_a_host_with_a_slow_clock_keeps_its_stream",
    ),
    Mutation(
        "disputed-used",
        "a dispute lasts while the stream is used",
        "core/policy.py",
        "max(record.heard_at, stream.last_publish or 0, _consumed_at(stream) or 0)",
        "record.heard_at",
        f"{ROW}[disputed for the dispute guard, published to since]",
    ),
    Mutation(
        "missing-guard",
        "a mere ledger's silence counts after the missing guard",
        "core/policy.py",
        '        rows.append(("missing_guard", Reason.ACTIVE, since, policy.missing_guard))\n',
        "        del since\n",
        f"{ATTACKED}test_one_lost_event_does_not_make_a_job_missing",
    ),
    Mutation(
        "done-too-early",
        "a done job's stream waits while it is worked on",
        "core/policy.py",
        "_since_the_end(consumed, record) if done else None",
        "None",
        f"{ATTACKED}test_who_says_success_too_early_keeps_the_stream_while_it_is_worked_on",
    ),
    Mutation(
        "last-by-sequence",
        "the ledger keeps the last word by sequence, too",
        "store/records.py",
        "if further then last = word end",
        "if later then last = word end",
        f"{LEDGER}test_any_order_and_any_duplicates_end_in_the_same_record",
    ),
    Mutation(
        "protected",
        "protected streams are kept",
        "core/policy.py",
        "if policy.is_protected(stream):",
        "if False:",
        f"{RECONCILE}test_protected_streams_are_kept",
    ),
    Mutation(
        "unreported",
        "a stream that is not reported whole is left alone",
        "core/policy.py",
        "if not stream.reported:",
        "if False:",
        f"{RECONCILE}test_a_stream_that_the_server_could_not_report_is_left_alone[missing]",
    ),
    Mutation(
        "created-unreadable",
        "a stream whose age cannot be read is left alone",
        "core/policy.py",
        "        return Unfixable(Reason.CREATED_UNREADABLE)\n",
        "        stream = __import__('dataclasses').replace(stream, created=0)\n",
        f"{RECONCILE}test_a_stream_whose_age_cannot_be_read_is_unfixable[garbage]",
    ),
    Mutation(
        "not-fenceable",
        "a stream that cannot be fenced is left alone",
        "core/policy.py",
        "if isinstance(verdict, Drain) and not stream.fenceable:",
        "if False:",
        f"{RECONCILE}test_what_cannot_be_fenced_is_unfixable",
    ),
    Mutation(
        "fence-of-another",
        "a fence whose lease runs is somebody else's",
        "core/policy.py",
        "if stream.fence is not None and stream.observed_at < stream.fence.until:",
        "if False:",
        f"{ROW}[fenced by a lease that runs]",
    ),
    Mutation(
        "fence-unreadable",
        "a fence that cannot be read is a person's business",
        "core/policy.py",
        "if stream.fence is not None and not stream.fence.subjects:",
        "if False:",
        f"{DRAIN}test_a_fence_that_cannot_be_read_is_a_persons_business",
    ),
    Mutation(
        "ledger-lost",
        "a ledger that lost history drains nothing",
        "core/policy.py",
        "if not coverage.intact:",
        "if False:",
        f"{RECONCILE}test_nothing_is_drained_while_another_replica_rebuilds",
    ),
    Mutation(
        "absence-needs-a-pass",
        "absence counts in a full pass only",
        "core/policy.py",
        "not (vouched and policy.absence_counts):",
        "not vouched:",
        f"{WORKER}test_the_sweeper_never_acts_on_absence",
    ),
    Mutation(
        "begun-to-read",
        "a stream that another has begun to mirror or source is not fenced",
        "passes/subscribers.py",
        "await self._ledger.topology_cache.add(sorted(topology.sourced), topology.advisory_streams)",
        "pass",
        f"{WORKER}test_a_stream_that_another_has_begun_to_read_stays",
    ),
    Mutation(
        "listed-in-our-time",
        "what was listed before anybody heard advisories is not trusted",
        "store/topology_cache.py",
        " or tonumber(at) < tonumber(ARGV[2])",
        "",
        f"{WORKER}test_what_was_listed_before_its_time_is_listed_anew",
    ),
    Mutation(
        "wake-up",
        "what others make due wakes the sweeper",
        "store/scripts.py",
        "if head_of(key) < before then redis.call('PUBLISH', channel, '') end",
        "",
        f"{WORKER}test_a_stream_made_after_its_job_ended_falls_too",
    ),
    Mutation(
        "rate-of-all",
        "all replicas together keep the rate",
        "store/leases.py",
        "if free > now and free <= now + interval then return free - now end",
        "",
        f"{WORKER}test_all_replicas_together_keep_the_rate",
    ),
    Mutation(
        "sweeper-leaves-the-missing",
        "the sweeper never acts on absence",
        "bootstrap/services.py",
        "replace(self.policy, absence_counts=False)",
        "self.policy",
        f"{WORKER}test_the_sweeper_never_acts_on_absence",
    ),
    Mutation(
        "own-streams",
        "reactor's own streams are no job streams",
        "core/policy.py",
        " or stream_name in self.own_streams",
        "",
        f"{RECONCILE}test_reactors_own_streams_are_no_job_streams",
    ),
    Mutation(
        "own-streams-are-named",
        "reactor's own streams are told to the policy",
        "bootstrap/services.py",
        "provisioned.own_streams)",
        "frozenset())",
        f"{RECONCILE}test_reactors_own_streams_are_no_job_streams",
    ),
    Mutation(
        "whole-name",
        "the whole name must match",
        "core/policy.py",
        "self.pattern.fullmatch(",
        "self.pattern.match(",
        "test_policy.py::test_look_alikes_are_nobodys",
    ),
    Mutation(
        "breaker-both-limits",
        "the breaker's limits",
        "core/policy.py",
        "if missing <= self.max_missing or missing <= self.max_ratio * checked:",
        "if True:",
        "test_policy.py::test_the_breaker_needs_both_limits_exceeded",
    ),
    Mutation(
        "breaker",
        "a suspicious pass is refused",
        "passes/reconciler.py",
        "breaker = None if options.override_breaker else breaker",
        "breaker = None",
        f"{RECONCILE}test_the_breaker_refuses_a_suspicious_pass",
    ),
)

VOUCHING = (
    Mutation(
        "coverage",
        "coverage must reach back to the stream's creation",
        "core/model.py",
        "self.since is not None and self.since <= created",
        "self.since is not None",
        f"{RECONCILE}test_a_stream_older_than_the_coverage_is_unknown_until_an_operator_speaks",
    ),
    Mutation(
        "empty-ledger",
        "a ledger without any event vouches for nothing",
        "job_status/ledger_directory.py",
        "if not reading.events:",
        "if False:",
        f"{RECONCILE}test_events_that_cannot_be_read_vouch_for_nothing",
    ),
    Mutation(
        "history-lost",
        "a ledger that has missed events is not intact",
        "job_status/ledger_directory.py",
        "if snapshot.lost or not reading.intact:",
        "if not reading.intact:",
        f"{RECONCILE}test_nothing_is_drained_while_another_replica_rebuilds",
    ),
    Mutation(
        "redis-rolled-back",
        "a Redis that was rolled back is noticed by what was acked",
        "job_status/ledger_directory.py",
        "if reading.applied >= lifecycle.ack_floor:",
        "if True:",
        f"{RECONCILE}test_an_old_redis_is_noticed_by_what_was_acked",
    ),
    Mutation(
        "dropped-unread",
        "events that were dropped unread leave a gap",
        "job_status/ledger_directory.py",
        "if lifecycle.first_seq > reading.applied + 1:",
        "if False:",
        f"{RECONCILE}test_events_dropped_unread_leave_a_gap",
    ),
    Mutation(
        "not-read-yet",
        "events in another replica's hands prove no absence",
        "job_status/ledger_directory.py",
        "if snapshot.behind:",
        "if False:",
        f"{RECONCILE}test_events_in_another_replicas_hands_prove_no_absence",
    ),
    Mutation(
        "malformed-proves-existence",
        "a malformed event proves that its job exists",
        "job_status/ledger_directory.py",
        "for e in read if e.job_id is not None]",
        "for e in read if isinstance(e, Event)]",
        f"{RECONCILE}test_a_job_that_was_spoken_of_unreadably_is_not_missing",
    ),
    Mutation(
        "redis-identity",
        "a ledger in another Redis is not intact",
        "store/records.py",
        'head.get("redis"), head',
        "redis_identity, head",
        WHOLE,
    ),
    Mutation(
        "lifecycle-identity",
        "a ledger of another lifecycle stream is not intact",
        "store/records.py",
        'head.get("stream")) ==',
        "identity) ==",
        WHOLE,
    ),
    Mutation(
        "foreign-events",
        "another lifecycle stream's events are not mixed in",
        "store/records.py",
        "if owner and owner ~= ARGV[2] then",
        "if false then",
        f"{LEDGER}test_another_lifecycle_streams_events_are_not_mixed_in",
    ),
    Mutation(
        "rebuild-overtaken",
        "a rebuild that was overtaken does not count",
        "store/records.py",
        "state[1] ~= ARGV[1] or ",
        "",
        WHOLE,
    ),
    Mutation(
        "account-of-the-ledger",
        "an account without the ledger's lifecycle stream is refused",
        "bootstrap/services.py",
        "if theirs is None and (owner",
        "if False and (owner",
        f"{RECONCILE}test_an_account_without_the_lifecycle_stream_of_this_ledger_is_refused",
    ),
    Mutation(
        "lifecycle-retention",
        "a lifecycle stream that forgets what is read is refused",
        "jetstream/topology.py",
        'if config.get("retention") != "limits":',
        "if False:",
        f"{RECONCILE}test_a_lifecycle_stream_that_forgets_what_is_read_is_refused",
    ),
    Mutation(
        "record-order",
        "an older event never overwrites a newer one",
        "store/records.py",
        "if later then latest = word end",
        "latest = word",
        f"{LEDGER}test_any_order_and_any_duplicates_end_in_the_same_record",
    ),
    Mutation(
        "nanosecond-order",
        "events a nanosecond apart keep their order",
        "store/records.py",
        "local later = string.sub(latest, 1, 32) < string.sub(word, 1, 32)",
        "local later = tonumber(string.sub(latest, 1, 16), 16) <= tonumber(string.sub(word, 1, 16), 16)",
        f"{LEDGER}test_nanoseconds_decide",
    ),
    Mutation(
        "live-record-stays",
        "the record of a job that was heard of since never expires",
        "store/records.py",
        "if redis.call('GET', KEYS[1]) == ARGV[2] then redis.call('PEXPIRE'",
        "if true then redis.call('PEXPIRE'",
        f"{LEDGER}test_every_key_expires_but_those_that_must_stay",
    ),
    Mutation(
        "newer-due-entry",
        "a newer event's due entry is not forgotten with an old claim",
        "store/due_queue.py",
        "if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or -1) ~= tonumber(ARGV[2]) then",
        "if false then",
        f"{LEDGER}test_a_settled_job_is_due_again_later_or_never",
    ),
)

HEARING = (
    Mutation(
        "clamp",
        "an event's time is clamped to the server's",
        "core/events.py",
        "max(min(parse_instant(str(time)), published_at), 0)",
        "max(parse_instant(str(time)), 0)",
        "test_events.py::test_an_older_time_is_the_emitters_and_a_later_one_is_clamped",
    ),
    Mutation(
        "subject-mismatch",
        "an event must be about the job that its subject names",
        "core/events.py",
        "if job_id != str(payload.job_id):",
        "if False:",
        "test_events.py::test_the_unreadable_is_said_and_proves_that_the_job_exists",
    ),
    Mutation(
        "ack-after-redis",
        "an event is acked only after Redis has it",
        "passes/subscribers.py",
        "            await _give_back(messages, error)\n            return\n        await reach",
        "            [await msg.ack() for msg in messages]\n            return\n        await reach",
        f"{WORKER}test_an_event_is_acked_only_after_redis_has_it",
    ),
    Mutation(
        "dead-letters",
        "a malformed event is kept whole",
        "passes/subscribers.py",
        "await self._dead_letters.keep(msg, malformed)",
        "pass",
        f"{RECONCILE}test_a_pass_alone_is_enough",
    ),
)

LISTING = (
    Mutation(
        "error-before-streams",
        "an error is read before the streams that come with it",
        "jetstream/connection.py",
        "        raise refusal(error)\n    return answer  #",
        '        if "streams" not in answer:\n            raise refusal(error)\n    return answer  #',
        f"{RECONCILE}test_a_listing_that_fails_deletes_nothing[answer1]",
    ),
    Mutation(
        "missing-names",
        "streams named as missing are unreported",
        "jetstream/client.py",
        '*(page.get("missing") or ()), ',
        "",
        f"{RECONCILE}test_a_stream_that_the_server_could_not_report_is_left_alone[missing]",
    ),
    Mutation(
        "offline-names",
        "streams named as offline are unreported",
        "jetstream/client.py",
        ', *(page.get("offline") or ())',
        "",
        f"{RECONCILE}test_a_stream_that_the_server_could_not_report_is_left_alone[offline]",
    ),
    Mutation(
        "zeroed-state",
        "a stream without readable figures is unreported",
        "core/stream_info.py",
        " and _is_whole(state, published)",
        "",
        f"{RECONCILE}test_a_stream_without_readable_figures_is_left_alone",
    ),
    Mutation(
        "zero-time",
        "the server's zero time is no time",
        "core/stream_info.py",
        "return instant if instant > 0 else None",
        "return instant",
        f"{RECONCILE}test_a_stream_whose_age_cannot_be_read_is_unfixable[0001-01-01T00:00:00Z]",
    ),
    Mutation(
        "listing-sentinel",
        "a list without the lifecycle stream is of the wrong account",
        "passes/review.py",
        "if lifecycle and lifecycle not in listed.names:",
        "if False:",
        f"{RECONCILE}test_a_list_from_another_account_is_refused",
    ),
    Mutation(
        "sourced",
        "a stream that another one sources cannot be fenced",
        "core/stream_info.py",
        "if stream.name in sourced else",
        "if False else",
        f"{RECONCILE}test_what_cannot_be_fenced_is_unfixable",
    ),
    Mutation(
        "mirror",
        "a mirror cannot be fenced",
        "core/stream_info.py",
        'bool(config.get("subjects") or config.get("sealed")) and not config.get("mirror")',
        "True",
        f"{RECONCILE}test_what_cannot_be_fenced_is_unfixable",
    ),
    Mutation(
        "server-clock",
        "a stream is judged by the server's clock",
        "core/stream_info.py",
        'observed_at = instant(raw.get("ts"))',
        'observed_at = int(__import__("time").time() * 1e9)',
        f"{RECONCILE}test_a_stream_is_judged_by_the_servers_clock",
    ),
    Mutation(
        "first-sighting",
        "a consumer that shows no time may have worked a moment ago",
        "core/stream_info.py",
        'instant(mark.get("last_active")) or first_seen for',
        'instant(mark.get("last_active")) for',
        f"{DRAIN}test_consumers_without_a_time_count_from_the_first_sighting",
    ),
)

EFFECT = (
    Mutation(
        "judged-incarnation",
        "the stream is the one that was judged",
        "deletion/inspection.py",
        "return target.created is None or inspection.stream.created == target.created",
        "return True",
        f"{DRAIN}test_a_stream_made_anew_since_it_was_judged_is_judged_anew",
    ),
    Mutation(
        "verify-created",
        "behind the fence: the same incarnation",
        "deletion/fencing.py",
        "        if not _is_as_judged(inspection, behind.raw):",
        "        if False:",
        f"{DRAIN}test_a_stream_made_anew_before_the_fence_survives",
    ),
    Mutation(
        "barrier",
        "the barrier proves the end of the stream",
        "deletion/fencing.py",
        "            end, pause = await asyncio.gather(self._end(behind), self._pause_gate.active_pause())\n",
        "            end, pause = inspection.stream.last_seq, await self._pause_gate.active_pause()\n",
        f"{DRAIN}test_a_publisher_before_the_fence_keeps_its_stream",
    ),
    Mutation(
        "barrier-moved",
        "a stream that was published to is given back",
        "deletion/fencing.py",
        "        if end != inspection.stream.last_seq:\n            return again\n",
        "",
        f"{DRAIN}test_a_publisher_before_the_fence_keeps_its_stream",
    ),
    Mutation(
        "barrier-strict",
        "an answer that is not the stream's own refusal proves nothing",
        "jetstream/client.py",
        'if end and error.get("err_code") == WRONG_LAST_SEQUENCE and answer.get("stream") == stream:',
        "if end:",
        f"{ATTACKED}test_an_answer_that_is_not_the_streams_own_proves_nothing[another stream]",
    ),
    Mutation(
        "barrier-wording",
        "a refusal that is worded otherwise proves nothing",
        "jetstream/client.py",
        '_END.fullmatch(str(error.get("description")))',
        '_END.search(str(error.get("description")))',
        f"{ATTACKED}test_an_answer_that_is_not_the_streams_own_proves_nothing[other words]",
    ),
    Mutation(
        "followers-heard",
        "a leader that has not heard its followers lately proves nothing",
        "deletion/fencing.py",
        "if why := silent_followers(proven.behind.raw, held_lease.monotonic() - proven.behind.asked_at):",
        'if why := "":',
        "test_cluster.py::test_a_leader_that_is_cut_off_from_its_followers_proves_nothing",
    ),
    Mutation(
        "fence-relaxes-nothing",
        "the fence lifts no limit",
        "core/stream_info.py",
        'LIFTABLE: Final[Raw] = {"no_ack": False, "max_msg_size": -1}',
        'LIFTABLE: Final[Raw] = {"no_ack": False, "max_msg_size": -1, "discard": "old"}',
        f"{ATTACKED}test_a_forged_fence_gives_back_nothing_but_its_two_keys",
    ),
    Mutation(
        "unfenced-after-an-error",
        "whatever is raised behind a fence unfences first",
        "deletion/drain.py",
        "            return await self._give_up(behind, held_lease, error)\n        if isinstance(proof, Pause)",
        "            raise\n        if isinstance(proof, Pause)",
        f"{DRAIN}test_whatever_is_raised_behind_a_fence_unfences_first[bug]",
    ),
    Mutation(
        "fence-finished-when-cancelled",
        "a fence whose sender is cancelled is lifted",
        "deletion/fencing.py",
        "raw = await finished(reach_during(Point.FENCE_SENT, stream.name, update))",
        "raw = await reach_during(Point.FENCE_SENT, stream.name, update)",
        f"{DRAIN}test_a_fence_whose_sender_is_cancelled_is_lifted",
    ),
    Mutation(
        "protected-behind-the-fence",
        "a protection set behind the fence counts",
        "deletion/fencing.py",
        "    return same and not stream.protected\n",
        "    return same\n",
        "test_restore.py::test_a_protection_set_during_a_backup_counts",
    ),
    Mutation(
        "unfence-reads-again",
        "unfence starts from the config as it stands",
        "deletion/fencing.py",
        'raw = await self._effects.update_stream(unfenced(raw["config"], fence))',
        'raw = await self._effects.update_stream(unfenced(behind.raw["config"], fence))',
        f"{DRAIN}test_what_others_change_behind_the_fence_stays",
    ),
    Mutation(
        "sealed",
        "a sealed stream is deleted without a fence",
        "deletion/fencing.py",
        "        if stream.sealed:\n            return Fenced(inspection, inspection.raw, None, inspection.asked_at)\n",
        "",
        f"{DRAIN}test_a_sealed_stream_falls_without_a_fence",
    ),
    Mutation(
        "barrier-unheard",
        "a barrier that nobody answers proves nothing",
        "deletion/fencing.py",
        "        return await self._effects.barrier(name, subject)\n\n",
        "        return behind.inspection.stream.last_seq\n\n",
        f"{DRAIN}test_subjects_given_back_by_another_hand_are_respected",
    ),
    Mutation(
        "hands-off",
        "another's fence is not ours to lift",
        "deletion/fencing.py",
        "                    if not _stands(raw, fence):\n",
        "                    if False:\n",
        f"{DRAIN}test_a_fence_that_another_has_taken_over_is_not_ours_to_lift",
    ),
    Mutation(
        "barrier-lifted",
        "what would keep the barrier from being answered is lifted",
        "deletion/fencing.py",
        'subjects, lifted = tuple(config["subjects"]), lifted_of(config)',
        'subjects, lifted = tuple(config["subjects"]), Raw()',
        f"{ATTACKED}test_what_would_keep_the_barrier_from_being_answered_is_lifted[no_ack-False]",
    ),
    Mutation(
        "lifted-given-back",
        "what the fence has lifted is given back",
        "core/stream_info.py",
        "return config | lifted |",
        "return config |",
        f"{ATTACKED}test_what_would_keep_the_barrier_from_being_answered_is_lifted[no_ack-True]",
    ),
    Mutation(
        "fence-by-subject",
        "a fence is one only by its subject",
        "core/stream_info.py",
        'if not any(subject.startswith(fenced_subject(name, "")) for subject in subjects):',
        "if FENCE_TOKEN_KEY not in metadata:",
        f"{ATTACKED}test_fence_metadata_changes_nothing_on_a_live_stream",
    ),
    Mutation(
        "fence-too-long",
        "a fence for longer than any lease is unreadable",
        "core/stream_info.py",
        " and until - observed_at <= LONGEST_LEASE",
        "",
        f"{ATTACKED}test_a_fence_for_longer_than_any_lease_is_unreadable",
    ),
    Mutation(
        "unfence-refused",
        "subjects that another stream has taken are said",
        "deletion/fencing.py",
        'detail = f"stays fenced, since it cannot get {subjects} back: ',
        'detail = f"{subjects}: ',
        f"{ATTACKED}test_subjects_that_another_stream_has_taken_are_a_persons_business",
    ),
    Mutation(
        "barrier-not-a-look",
        "a barrier, not another look: nodes that are apart",
        "deletion/fencing.py",
        '        with span("recheck"):\n',
        '        end = (await self._reads.stream_info(inspection.stream.name))["state"]["last_seq"]\n'
        "        event = await self._directory.last_event(inspection.snapshot, inspection.stream.job_id)\n"
        "        if (end, event) == (inspection.stream.last_seq, inspection.event):\n"
        "            return Proven(behind)\n"
        '        with span("recheck"):\n',
        "test_distance.py::test_a_slice_with_10_ms_between_nodes",
    ),
    Mutation(
        "verify-last-event",
        "behind the fence: nobody has spoken for the job since",
        "deletion/fencing.py",
        "is_unchanged = event == inspection.event and again",
        "is_unchanged = again",
        RETRIED,
    ),
    Mutation(
        "shared-answer-too-old",
        "a shared answer is no older than the question",
        "jetstream/coalesce.py",
        "            self._next = None\n            return await self._ask()",
        "            answer = await self._ask()\n            self._next = None\n            return answer",
        "test_together.py::test_an_answer_is_never_older_than_the_question",
    ),
    Mutation(
        "quiet-lifecycle-stream",
        "only a lifecycle stream that has not moved spares the question",
        "job_status/ledger_directory.py",
        "if end == (snapshot.lifecycle.identity, snapshot.lifecycle.last_seq):",
        "if end:",
        RETRIED,
    ),
    Mutation(
        "directory-asked-behind-the-fence",
        "the job system's own word is asked again behind the fence",
        "deletion/fencing.py",
        " and again.directory_status == inspection.directory_status",
        "",
        f"{AUTHORITY}test_a_job_that_lives_behind_the_fence_keeps_its_stream",
    ),
    Mutation(
        "directory-fails-behind-the-fence",
        "a directory that cannot tell behind the fence proves nothing",
        "deletion/fencing.py",
        "if not (is_unchanged and again.coverage.intact):",
        "if not is_unchanged:",
        f"{AUTHORITY}test_an_outage_behind_the_fence_is_no_absence",
    ),
    Mutation(
        "directory-outage",
        "a directory that cannot tell is no absence",
        "job_status/external_directory.py",
        "if why := answer.unknown.get(job_id):",
        'if why := "":',
        "test_http_directory.py::test_the_api_decides",
    ),
    Mutation(
        "live-event-of-a-moment-ago",
        "a live event of a moment ago keeps the job whatever its directory says",
        "core/policy.py",
        "if record is not None and not policy.is_terminal(record) and now - record.heard_at < policy.idle_guard:",
        "if False:",
        f"{AUTHORITY}test_a_live_event_of_a_moment_ago_keeps_the_job",
    ),
    Mutation(
        "witness",
        "no absence from an answer that found nobody",
        "job_status/witness.py",
        "        if self._witness is None:\n            return Answer(",
        "        if self._witness is None:\n            return answer\n            return Answer(",
        "test_witness.py::test_live_streams_outlive_a_gateway_that_answers_404[3]",
    ),
    Mutation(
        "witness-asked-again",
        "the witness is asked for beside the absent ones",
        "job_status/witness.py",
        "        if self._witness not in again.found:\n",
        "        if False:\n",
        "test_witness.py::test_a_witness_behind_the_fence",
    ),
    Mutation(
        "canary",
        "where there is a canary, nobody else is a witness",
        "job_status/witness.py",
        "if not absent or (self._canary is None and answer.found) or self._canary in answer.found:",
        "if not absent or answer.found:",
        "test_witness.py::test_the_canary_is_the_only_witness_where_there_is_one",
    ),
    Mutation(
        "missing-guard-of-directories",
        "absence without a canary waits for the missing guard",
        "bootstrap/services.py",
        "missing_guard=0 if settings.directory.has_canary else nanoseconds(rules.missing_guard),",
        'missing_guard=nanoseconds(rules.missing_guard) if settings.directory.kind == "events" else 0,',
        "test_witness.py::test_absence_without_a_canary_waits_for_the_missing_guard",
    ),
    Mutation(
        "answers-bounded-in-time",
        "an answer is bounded as a whole",
        "job_status/http.py",
        "async with self._slots, asyncio.timeout(self._timeout_s):",
        "async with self._slots:",
        "test_http_directory.py::test_an_answer_is_bounded[dripping]",
    ),
    Mutation(
        "rows-that-disagree",
        "rows that disagree are unknown",
        "job_status/sql.py",
        "if told is None or found.get(job_id, told) != told:",
        "if told is None:",
        "test_sql_directory.py::test_rows_that_disagree_are_unknown[sqlite]",
    ),
    Mutation(
        "query-only-reads",
        "the query can only read",
        "job_status/sql.py",
        'await connection.execute(text("PRAGMA query_only = ON"))',
        "pass",
        "test_sql_directory.py::test_it_cannot_write[sqlite]",
    ),
    Mutation(
        "report-mode",
        "report mode fences nothing",
        "deletion/drain.py",
        "if not self._judge.policy.deletes:",
        "if False:",
        "test_report_mode.py::test_the_command_reports_too_and_a_pass_finds_what_is_gone",
    ),
    Mutation(
        "look-at-the-last-event",
        "the last event is read from the lifecycle stream itself",
        "deletion/inspection.py",
        "record = event.merged(record) if event else record",
        "pass",
        f"{DRAIN}test_the_last_event_in_the_stream_counts_where_the_ledger_is_behind",
    ),
    Mutation(
        "look-at-the-record",
        "the record counts where the last event came late",
        "deletion/inspection.py",
        "record = event.merged(record) if event else record",
        "record = event",
        f"{DRAIN}test_the_ledger_counts_where_the_last_event_came_late",
    ),
    Mutation(
        "lifecycle-stream-gone",
        "a lifecycle stream that is gone says nothing",
        "jetstream/client.py",
        "if error.err_code != NO_MESSAGE:",
        "if False:",
        f"{DRAIN}test_nothing_is_drained_while_the_lifecycle_stream_is_away",
    ),
    Mutation(
        "fence-takes-the-subjects",
        "a fenced stream refuses publishers",
        "core/stream_info.py",
        'config | {key: LIFTABLE[key] for key in fence.lifted} | {"subjects": subjects, "metadata": metadata}',
        'config | {key: LIFTABLE[key] for key in fence.lifted} | {"metadata": metadata}',
        f"{DRAIN}test_a_publisher_behind_the_fence_is_refused_loudly",
    ),
    Mutation(
        "fence-keeps-the-subjects",
        "a fence taken over keeps the first subjects",
        "deletion/fencing.py",
        "subjects, lifted = standing.subjects, lifted | standing.lifted",
        "pass",
        f"{DRAIN}test_a_fence_that_was_taken_over_keeps_the_first_subjects",
    ),
    Mutation(
        "row-told-again",
        "a row that has changed while it was told is told again",
        "client/django/__init__.py",
        "ROUNDS = 5",
        "ROUNDS = 1",
        "test_frameworks.py::test_django_tells_what_has_changed_while_it_told",
    ),
    Mutation(
        "emitter-waits-once",
        "while NATS hangs nobody waits a second time",
        "client/emitter.py",
        "        if self._sending is not None:  # behind what waits already\n",
        "        if False:\n",
        "test_emit.py::test_who_emits_waits_once_for_a_server_that_hangs",
    ),
    Mutation(
        "prepare-former-life",
        "prepare takes out the former life alone",
        "deletion/prepare.py",
        "purged = await self._effects.purge_stream(name, former.last_seq) if is_same and former.last_seq else 0",
        "purged = await self._effects.purge_stream(name, inspection.stream.last_seq) if is_same else 0",
        "test_prepare.py::test_two_at_once_lose_nothing_of_the_new_life",
    ),
    Mutation(
        "prepare-protected",
        "prepare empties no protected stream",
        "deletion/prepare.py",
        "if self._judge.policy.is_protected(stream):",
        "if False:",
        "test_prepare.py::test_a_protected_stream_is_not_emptied",
    ),
    Mutation(
        "control-lost",
        "no command but resume makes a lost control stream again",
        "bootstrap/services.py",
        "make_control = not await connected.ledger.topology_cache.had_control()",
        "make_control = True",
        "test_orders.py::test_no_command_but_resume_makes_a_lost_word_again[reconcile]",
    ),
    Mutation(
        "pause-by-time",
        "a pause in a stream made anew counts",
        "deletion/gates.py",
        "if message is None or (message.seq, message.published_at) == self._over:",
        "if message is None or (self._over and message.seq == self._over[0]):",
        "test_orders.py::test_a_pause_in_a_stream_made_anew_counts",
    ),
    Mutation(
        "forged-pause",
        "a word that cannot be read pauses",
        "core/pause.py",
        'if said["paused"] is not True or not (span is None or (type(span) is int and 0 < span <= LONGEST_PAUSE)):',
        "if False:",
        "test_orders.py::test_a_word_that_cannot_be_read_pauses_until_it_is_resumed[a negative span]",
    ),
    Mutation(
        "tidy-relied-on",
        "what a deletion may rely on is not tidied",
        "backups/store.py",
        "if item.folder in held and (item.folder in self._settled or now_s - item.written_s >= RELIED_ON_S):",
        "if item.folder in held:",
        "test_restore.py::test_what_a_deletion_relies_on_is_not_tidied",
    ),
    Mutation(
        "tidy-own",
        "nothing that is not plainly reactor's own is tidied",
        "backups/store.py",
        "if backup and backup.manifest.sha256 and names == {ARCHIVE, DESCRIPTION, MANIFEST}:",
        "if backup:",
        "test_restore.py::test_odd_folders_are_neither_fatal_nor_touched[no size]",
    ),
    Mutation(
        "restore-unfinished",
        "a restore that was broken off is no whole stream",
        "core/stream_info.py",
        "return None if what is None else str(what)",
        "return None",
        "test_restore.py::test_a_restore_that_was_broken_off_is_taken_up",
    ),
    Mutation(
        "loops-rest",
        "the rest of a loop does not cap its backoff",
        "worker/loops.py",
        "await rest(backoff(failures, first=FIRST_RETRY_S, last=LAST_RETRY_S), stop)",
        "await rest(min(backoff(failures, first=FIRST_RETRY_S, last=LAST_RETRY_S), loop.rest_s), stop)",
        "test_loops.py::test_a_loop_that_fails_rests_longer_and_longer[0.0]",
    ),
    Mutation(
        "no-room",
        "a full store keeps no cleaner from its work",
        "jetstream/topology.py",
        "        except Refused as refused:\n            return",
        "        except ZeroDivisionError as refused:\n            return",
        "test_no_room.py::test_zombies_fall_where_there_is_no_room_for_a_stream_of_our_own[a full server]",
    ),
    Mutation(
        "no-room-for-events",
        "with a directory no lifecycle stream is needed",
        "job_status/external_directory.py",
        "            return Snapshot(NO_LIFECYCLE, lost=False, behind=0)",
        "            raise",
        "test_no_room.py::test_zombies_fall_where_there_is_no_room_for_a_stream_of_our_own[a full server]",
    ),
    Mutation(
        "batches-limited",
        "the server's limit on batches is kept",
        "jetstream/client.py",
        "return min(wanted, limit) if limit > 0 else wanted",
        "return wanted",
        "test_no_room.py::test_limits_on_consumers_are_kept[max_request_batch]",
    ),
    Mutation(
        "limits-kept-in-the-queue",
        "what is still in the queue is guarded as before",
        "deletion/fencing.py",
        "update = self._effects.update_stream(fenced(config, fence))",
        'update = self._effects.update_stream(fenced(config, fence) | {"discard": "old"})',
        "test_distance.py::test_a_slice_of_bursts_on_one_replica_that_syncs_always[full]",
    ),
    Mutation(
        "stale-fence",
        "a stream is never left fenced",
        "deletion/drain.py",
        "settlement = await self._fencing.unfence(\n                Fenced(inspection, inspection.raw, fence, inspection.asked_at), held_lease\n            )\n        else",
        "settlement = inspection.by_verdict()\n        else",
        f"{DRAIN}test_the_fence_of_a_killed_replica_is_lifted_where_the_job_lives",
    ),
    Mutation(
        "stale-fence-in-a-pass",
        "a full pass lifts a forgotten fence",
        "passes/review.py",
        " or (stale and bool(self.stream.fence and self.stream.fence.subjects))",
        "",
        f"{DRAIN}test_a_full_pass_lifts_a_forgotten_fence",
    ),
    Mutation(
        "lease-deadline",
        "no deletion after the lease has run out",
        "deletion/fencing.py",
        "if not held or self.monotonic() >= self.deadline:",
        "if not held:",
        f"{DRAIN}test_a_replica_whose_lease_ran_out_does_not_delete",
    ),
    Mutation(
        "lease-forgotten",
        "nothing is begun once Redis has forgotten the lease",
        "deletion/fencing.py",
        "if not held or self.monotonic() >= self.deadline:",
        "if self.monotonic() >= self.deadline:",
        f"{DRAIN}test_a_replica_whose_lease_redis_forgot_does_nothing_more",
    ),
    Mutation(
        "paused-before-the-fence",
        "a replica paused before its fence does not overwrite another's",
        "deletion/drain.py",
        '            held_lease.check("fence", held=held)\n',
        "",
        f"{ATTACKED}test_a_paused_replica_does_not_lift_anothers_fence",
    ),
    Mutation(
        "one-lease-a-stream",
        "one replica at a time works on a stream",
        "store/leases.py",
        "return redis.call('SET', key, token, 'NX', 'PX', ttl)",
        "return redis.call('SET', key, token, 'PX', ttl)",
        f"{LEDGER}test_a_lease_is_one_holders",
    ),
    Mutation(
        "unknown-keeps-its-lease",
        "an unknown outcome keeps its lease",
        "deletion/drain.py",
        "elif settlement.reason is not Reason.OUTCOME_UNKNOWN:",
        "else:",
        f"{DRAIN}test_a_delete_without_an_answer_is_settled_by_looking",
    ),
    Mutation(
        "unknown-stays-open",
        "an unknown outcome is not concluded in the audit",
        "deletion/drain.py",
        "return inspection.settled(Outcome.UNFIXABLE, Reason.OUTCOME_UNKNOWN,",
        "settlement = inspection.settled(Outcome.UNFIXABLE, Reason.OUTCOME_UNKNOWN,",
        f"{DRAIN}test_a_delete_without_an_answer_is_settled_by_looking",
    ),
    Mutation(
        "lease-of-another",
        "a lease is given back by its holder only",
        "store/leases.py",
        "== ARGV[1] then return redis.call('DEL'",
        "~= '' then return redis.call('DEL'",
        f"{LEDGER}test_a_lease_is_one_holders",
    ),
    Mutation(
        "effects-connection",
        "deletions have an unbuffered connection of their own",
        "bootstrap/connections.py",
        ", buffered=False, pace=reads.pace)",
        ")",
        f"{DRAIN}test_deletions_go_over_an_unbuffered_connection",
    ),
    Mutation(
        "too-old",
        "a server that cannot keep a fence is refused",
        "jetstream/connection.py",
        "if (version.major, version.minor) < OLDEST_SERVER:",
        "if False:",
        f"{RECONCILE}test_a_server_that_is_too_old_is_refused",
    ),
    Mutation(
        "unbuffered",
        "an unbuffered connection sends nothing later",
        "jetstream/connection.py",
        "if self._buffered:",
        "if True:",
        f"{DRAIN}test_an_unbuffered_connection_sends_nothing_later",
    ),
    Mutation(
        "dry-run",
        "a dry run deletes nothing",
        "passes/reconciler.py",
        "            if options.dry_run:\n                settlement",
        "            if False:\n                settlement",
        f"{RECONCILE}test_a_dry_run_changes_no_stream",
    ),
    Mutation(
        "paused",
        "a missing permission pauses deleting",
        "deletion/drain.py",
        "if why := self._rights.paused:",
        "if why := None:",
        f"{DRAIN}test_nothing_is_fenced_while_deleting_is_paused",
    ),
    Mutation(
        "pause-before-the-fence",
        "an operator's pause is heeded before a fence",
        "deletion/drain.py",
        "            if pause:\n",
        "            if False:\n",
        "test_orders.py::test_nothing_is_fenced_while_deleting_is_paused",
    ),
    Mutation(
        "pause-behind-the-fence",
        "and behind it, where the stream is given back",
        "deletion/fencing.py",
        "        if pause:\n",
        "        if False:\n",
        "test_orders.py::test_a_pause_stops_a_drain_under_way",
    ),
    Mutation(
        "pause-unreadable",
        "a word that is no JSON pauses",
        "core/pause.py",
        "    except (ValueError, TypeError, KeyError):\n        return Pause",
        "    except (ValueError, TypeError, KeyError):\n        return None\n        return Pause",
        "test_orders.py::test_a_word_that_cannot_be_read_pauses_until_it_is_resumed[deep]",
    ),
    Mutation(
        "pause-forgotten",
        "a control stream that is gone is no leave to delete",
        "deletion/gates.py",
        "raise Unreachable(GONE) from error",
        "return None",
        "test_orders.py::test_without_its_stream_nobody_knows",
    ),
    Mutation(
        "protected-behind-a-fence",
        "another's fence is waited out before a stream is altered",
        "deletion/exclusive.py",
        "if fence.until > inspection.stream.observed_at:",
        "if False:",
        "test_orders.py::test_a_deletion_under_way_is_waited_out",
    ),
    Mutation(
        "backup-first",
        "no backup, no deletion",
        "deletion/drain.py",
        "        if not isinstance(error, Exception):\n            raise error\n",
        "        if isinstance(error, BackupFailed):\n            await self._fencing.delete(Proven(behind), held_lease)\n",
        "test_restore.py::test_without_a_backup_nothing_is_deleted",
    ),
    Mutation(
        "proven-after-a-backup",
        "what a backup took time for is proven once more",
        "deletion/drain.py",
        "return await self._fencing.prove(await self._fencing.read_again(behind, held_lease), held_lease), backup",
        "return proof, backup",
        "test_restore.py::test_a_job_that_lives_again_during_the_backup_keeps_its_stream",
    ),
    Mutation(
        "backup-renamed",
        "a backup is there whole or not at all",
        "backups/store.py",
        'folder = self.folder / f"{_PARTIAL}{uuid4().hex}"',
        'folder = self.folder / f"job_1-{uuid4().hex}"',
        "test_restore.py::test_a_replica_that_is_killed_in_the_middle_leaves_no_backup",
    ),
    Mutation(
        "backup-checksum",
        "what is not what was written is not restored",
        "operate/restore.py",
        "        await backup.check()\n",
        "",
        "test_restore.py::test_what_is_spoilt_is_not_restored",
    ),
    Mutation(
        "restored-protected",
        "what is restored is protected from the first moment",
        "operate/restore.py",
        "return restored_config(config) |",
        "return config |",
        "test_restore.py::test_what_was_deleted_comes_back_whole",
    ),
    Mutation(
        "replay-unheard-by-others",
        "what is brought back message by message reaches no other stream",
        "operate/replay.py",
        'js.publish(f"{prefix}.{item.subject}", ',
        "js.publish(item.subject, ",
        "test_restore.py::test_an_archive_that_belongs_to_its_name_comes_back_beside_it",
    ),
    Mutation(
        "replay-floors",
        "what was acknowledged is not delivered again",
        "operate/replay.py",
        'if message.seq <= item["ack_floor"]["stream_seq"]',
        "if False",
        "test_restore.py::test_an_archive_that_belongs_to_its_name_comes_back_beside_it",
    ),
    Mutation(
        "restored-stays",
        "messages that are restored do not expire at once",
        "core/stream_info.py",
        'if not config.get("max_age"):',
        "if True:",
        "test_restore.py::test_messages_that_are_too_old_by_now_come_back_all_the_same",
    ),
    Mutation(
        "restore-over-a-stream",
        "a stream that exists is not touched by a restore",
        "operate/restore.py",
        'if (lacking := lacks(there["config"])) is None:',
        'if lacks(there["config"]) == "nothing":',
        "test_restore.py::test_a_stream_that_exists_is_not_touched",
    ),
    Mutation(
        "permission-heard",
        "a missing permission is heard, though the request just hangs",
        "jetstream/connection.py",
        "            asking.cancel()\n",
        "            pass\n",
        f"{ATTACKED}test_a_stream_without_the_right_to_its_barrier_is_not_left_fenced",
    ),
    Mutation(
        "audit-intent",
        "the intent is written before",
        "deletion/recorder.py",
        "return intent, await self._audit.intend(intent, made_of)",
        "return intent, True",
        f"{DRAIN}test_the_intent_is_written_before_anything_happens",
    ),
    Mutation(
        "audit-outcome",
        "the outcome is written after",
        "deletion/drain.py",
        "        await self._recorder.end(intent, settlement)\n",
        "",
        f"{DRAIN}test_a_zombie_is_drained",
    ),
    Mutation(
        "audit-one-outcome",
        "an intent is concluded by its own token",
        "store/audit.py",
        "begun.token ~= ARGV[2]",
        "false",
        f"{LEDGER}test_an_intent_has_one_outcome",
    ),
)

REPLICAS = (
    Mutation(
        "pass-taken-over",
        "a pass whose lease is lost begins no more deletions",
        "store/records.py",
        "if under ~= '' and",
        "if false and",
        f"{FAULTS}test_a_pass_that_another_replica_took_over_deletes_nothing_more",
    ),
    Mutation(
        "pass-in-turns",
        "one periodic pass an interval among all replicas",
        "store/leases.py",
        "if left > 0 then",
        "if false then",
        f"{FAULTS}test_replicas_take_turns_with_the_periodic_pass",
    ),
    Mutation(
        "killed-after-the-fence",
        "a deletion of whoever was killed is accounted for",
        "passes/subscribers.py",
        "if await self._audit.is_open(stream):",
        "if False:",
        f"{WORKER}test_news_of_a_deletion_forgets_nothing_that_is_to_be_accounted_for",
    ),
    Mutation(
        "begun-and-live-again",
        "a full pass accounts for a deletion begun of what now lives",
        "deletion/drain.py",
        "if name in settled or not await self._ledger.leases.take(held_lease.lease):",
        "if True:",
        f"{RECONCILE}test_a_deletion_begun_of_what_now_lives_is_accounted_for",
    ),
    Mutation(
        "given-up-and-live-again",
        "a deletion that was begun and came to nothing is accounted for",
        "deletion/recorder.py",
        "conclude(settlement.stream.name, None, settlement.outcome, LATER)",
        "conclude(settlement.stream.name, 'nobody', settlement.outcome, LATER)",
        f"{FAULTS}test_a_deletion_that_never_arrived_is_not_sent_later",
    ),
    Mutation(
        "retried-between-two-steps",
        "a job retried between two steps keeps its stream",
        "deletion/fencing.py",
        "is_unchanged = event == inspection.event and again",
        "is_unchanged = again",
        f"{FAULTS}test_a_job_retried_between_two_steps_keeps_its_stream[fenced-retry_same]",
    ),
    Mutation(
        "stopped-past-its-lease",
        "a replica stopped past its lease deletes nothing",
        "deletion/fencing.py",
        '            held_lease.check("deletion")\n            if why :=',
        "            if why :=",
        f"{FAULTS}test_a_replica_stopped_past_its_lease_deletes_nothing",
    ),
    Mutation(
        "no-answer-can-arrive",
        "a request on a broken connection is unknown at once",
        "jetstream/connection.py",
        'self._fail_all("the connection broke',
        'str("the connection broke',
        f"{FAULTS}test_an_answer_to_a_deletion_that_is_lost_is_found_out_by_looking",
    ),
)

OPERATING = (
    Mutation(
        "endpoint-token",
        "the token guards what tells of jobs",
        "web/server.py",
        "        return secrets.compare_digest(given.encode(), self._token.encode())",
        "        return bool(given)",
        f"{HTTP}test_a_token_guards_what_tells_of_jobs",
    ),
    Mutation(
        "endpoint-address",
        "an endpoint that everybody reaches is refused without a token",
        "config/settings.py",
        "if self.port and self.host not in LOOPBACK and not (self.token or self.open):",
        "if False:",
        f"{HTTP}test_an_endpoint_that_cannot_be_is_said",
    ),
    Mutation(
        "endpoint-names",
        "the endpoint answers for its own names only",
        "web/server.py",
        "if request.url.path not in PROBES and host not in self._hosts and not self._is_address(host):",
        "if False:",
        f"{ATTACKED}test_the_endpoint_answers_for_its_own_names_only",
    ),
    Mutation(
        "garbage",
        "garbage in Redis is lost history",
        "job_status/ledger_directory.py",
        "if garbage := await self._ledger.records.tidy():",
        "if garbage := []:",
        f"{ATTACKED}test_garbage_in_redis_is_lost_history[ledger of another type]",
    ),
    Mutation(
        "odd-subjects",
        "a subject that is no text costs one dead letter",
        "jetstream/connection.py",
        'subject.decode("utf-8", "surrogateescape")',
        'subject.decode("utf-8")',
        f"{ATTACKED}test_a_subject_that_is_no_text_costs_one_dead_letter",
    ),
    Mutation(
        "stream-made-anew",
        "a lifecycle stream made anew is heard",
        "passes/subscribers.py",
        "            self._identity = None  # the next attempt",
        "            pass  # the next attempt",
        f"{ATTACKED}test_a_lifecycle_stream_made_anew_under_a_worker_is_heard",
    ),
    Mutation(
        "stalled-reader",
        "who does not hear any more connects anew",
        "worker/watchdog.py",
        "wants = self.stalled is not None and",
        "wants = False and",
        f"{ATTACKED}test_who_does_not_hear_any_more_connects_anew",
    ),
    Mutation(
        "interrupted",
        "an interrupted pass begins nothing more",
        "passes/reconciler.py",
        "                if options.is_stopped:\n                    return replace",
        "                if False:\n                    return replace",
        f"{ATTACKED}test_an_interrupted_pass_finishes_what_is_fenced[2-130]",
    ),
    Mutation(
        "companions-swept",
        "companions of running jobs are not swept",
        "core/policy.py",
        "return policy.is_terminal(record) and now >= record.occurred_at + policy.terminal_grace",
        "return True",
        f"{ATTACKED}test_companions_of_streams_that_others_deleted_are_swept",
    ),
    Mutation(
        "not-ready-without-servers",
        "a worker without its servers is not ready",
        "worker/app.py",
        "            await self._overview.reach()\n",
        "            pass\n",
        f"{HTTP}test_readiness_follows_the_servers",
    ),
    Mutation(
        "who-deleted-it",
        "only a stream that reactor deleted is said to be",
        "operate/deleted_streams.py",
        'entries = [entry for entry in trail if entry["stream"] == name]',
        "entries = list(trail)",
        f"{HTTP}test_it_says_who_deleted_a_stream",
    ),
    Mutation(
        "label-bound",
        "no label is a word of an emitter's",
        "telemetry/metrics.py",
        "self._statuses.get(status, OTHER)",
        "self._statuses.get(status, status)",
        "test_metrics.py::test_five_hundred_jobs_are_counted_and_no_label_names_one",
    ),
    Mutation(
        "alert-once",
        "an alert is told once",
        "telemetry/alerts.py",
        "if (message is not None) == (kind in self._open):",
        "if message is None and kind not in self._open:",
        "test_alerts.py::test_another_wording_is_no_change",
    ),
    Mutation(
        "coverage-never-had",
        "a ledger that was never whole is not lost",
        "telemetry/alerts.py",
        "        if self._covered:\n",
        "        if True:\n",
        "test_alerts.py::test_a_ledger_that_was_never_whole_is_not_lost",
    ),
    Mutation(
        "drain-is-logged",
        "a drain is logged",
        "deletion/recorder.py",
        "        self._journal.ended(settlement)\n",
        "",
        "test_journal.py::test_a_worker_logs_what_it_did_and_why",
    ),
    Mutation(
        "verdict-logged-once",
        "a verdict is logged when it changes",
        "telemetry/journal.py",
        "elif before != found and tells",
        "elif tells",
        "test_journal.py::test_a_verdict_is_told_when_it_changes",
    ),
    Mutation(
        "alike-summarised",
        "failures that are alike are summarised",
        "telemetry/logs.py",
        "if now - told_at < SUMMARY_S:",
        "if now < told_at:",
        "test_logs.py::test_failures_that_are_alike_are_summarised",
    ),
    Mutation(
        "info-each-time",
        "no drain is left out of the log",
        "telemetry/logs.py",
        'if event["level"] == "info":',
        'if event["level"] == "critical":',
        "test_logs.py::test_what_differs_is_told_at_once_and_what_went_well_each_time",
    ),
    Mutation(
        "masked",
        "no password of a URL is logged",
        "telemetry/logs.py",
        '_USERINFO.sub("***@", value)',
        "value",
        "test_logs.py::test_credentials_in_urls_are_masked_wherever_they_stand",
    ),
    Mutation(
        "report-by-listing",
        "What a listing has not is asked for before it is told as deleted",
        "deletion/stream_states.py",
        "            elif not await is_there(stream):",
        "            else:",
        "test_report_mode.py::test_what_a_listing_has_not_is_asked_for_before_it_counts_as_deleted",
    ),
)

MUTATIONS = (*POLICY, *VOUCHING, *HEARING, *LISTING, *EFFECT, *REPLICAS, *OPERATING)


@dataclass(frozen=True)
class Run:
    """How pytest ended."""

    code: int
    output: str

    @property
    def failure(self) -> tuple[str, str]:
        """The test that failed, by file and name, and why; empty where none did."""
        found = VERDICT.search(self.output)
        return (found["test"], found["why"] or "") if found else ("", "")


def copied(folder: Path) -> None:
    """The product and its tests."""
    for part in ("reactor", "tests", "docs"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)


def python(folder: Path, *args: str, limit_s: float = LIMIT_S) -> Run:
    """Run Python on the copy, which goes before the installed project."""
    env = os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "400"}
    done = subprocess.run(
        (sys.executable, *args), cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=limit_s
    )
    return Run(done.returncode, done.stdout + done.stderr)


def path_of(test: str) -> str:
    """Where a test is, by the name of its file."""
    file, _, name = test.partition("::")
    [found] = (ROOT / "tests").rglob(file)
    return f"{found.relative_to(ROOT)}::{name}"


def run_tests(folder: Path, selected: Iterable[str], workers: str = "0", limit_s: float = LIMIT_S) -> Run:
    """Run these tests of the copy, until one fails."""
    named = (path_of(test) for test in dict.fromkeys(selected))
    return python(folder, *PYTEST, "-n", workers, *named, limit_s=limit_s)


def check_baseline(folder: Path, mutations: Sequence[Mutation]) -> None:
    """The copy is what gets imported, and its tests are green. Raises SystemExit."""
    imported = python(folder, "-c", "import reactor; print(reactor.__file__)").output.strip()
    if not Path(imported).is_relative_to(folder):
        message = f"not the copy but {imported} would be tested"
        raise SystemExit(message)
    run = run_tests(folder, (mutation.test for mutation in mutations), "auto", BASELINE_S)
    if run.code != PASSED:
        message = f"the tests fail without any mutation:\n{run.output}"
        raise SystemExit(message)


def rewrite(module: Path, source: str) -> None:
    """Also forget what was compiled of it: within a second Python takes a text of the same length for the same."""
    module.write_text(source)
    Path(cache_from_source(str(module))).unlink(missing_ok=True)


def tried(folder: Path, mutation: Mutation) -> tuple[str, bool]:
    """What became of a mutation, as the last two cells of its row, and whether it was noticed."""
    module = folder / "reactor" / mutation.module
    source = module.read_text()
    rewrite(module, mutation.applied_to(source))
    run = run_tests(folder, [mutation.test])
    rewrite(module, source)
    test, why = run.failure
    if run.code == PASSED:
        return f"nothing: `{mutation.test}` passes | SURVIVED", False
    if run.code != FAILED or not test.startswith(mutation.test) or not why.startswith(SAID_SO):
        return f"no assertion of `{mutation.test}`: exit {run.code}, {why or run.output[-300:]!r} | BROKEN", False
    return f"`{test}` | red", True


def check_applicable(mutations: Iterable[Mutation]) -> None:
    """Before anything is run. Raises SystemExit."""
    try:
        for mutation in mutations:
            mutation.applied_to((ROOT / "reactor" / mutation.module).read_text())
    except ValueError as error:
        raise SystemExit(str(error)) from None


def table() -> str:
    """Every guard, and the test that notices that it is disabled."""
    rows = [f"| {item.guard} | `{item.test}` |" for item in MUTATIONS]
    return "\n".join(["| guard disabled | what then fails |", "|---|---|", *rows])


def chosen() -> list[Mutation]:
    """Those named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="run only these")
    parser.add_argument("--list", action="store_true", help="list all mutations and exit")
    parser.add_argument("--table", action="store_true", help="print the table of docs/reliability.md and exit")
    args = parser.parse_args()
    if args.list:
        say("\n".join(f"{mutation.name:28} {mutation.guard}" for mutation in MUTATIONS))
        raise SystemExit(0)
    if args.table:
        say(table())
        raise SystemExit(0)
    known = {mutation.name: mutation for mutation in MUTATIONS}
    if strangers := set(args.names) - known.keys():
        parser.error(f"no such mutation: {', '.join(sorted(strangers))}")
    return [known[name] for name in args.names] or list(MUTATIONS)


def say(text: str) -> None:
    """At once, also into a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """The exit code."""
    mutations, start, noticed = chosen(), time.monotonic(), 0
    check_applicable(mutations)
    with tempfile.TemporaryDirectory(prefix="mutations-") as name:
        folder = Path(name).resolve()
        copied(folder)
        check_baseline(folder, mutations)
        say("| guard disabled | what then fails | result |\n|---|---|---|")
        for mutation in mutations:
            cells, red = tried(folder, mutation)
            noticed += red
            say(f"| {mutation.name}: {mutation.guard} | {cells} |")
    say(f"\n{time.monotonic() - start:.0f} s")
    say(f"{noticed} of {len(mutations)} mutations were noticed")
    return 0 if noticed == len(mutations) else 1


if __name__ == "__main__":
    sys.exit(main())
