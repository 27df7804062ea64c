"""Disable each guard and invariant in turn, in a copy, and see the tests go red.

uv run python tests/mutations.py [NAME ...]

Prints a table; exits 1 where a mutation survives, or no longer applies.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
AT_ONCE = 3
RED, GREEN = 1, 0


@dataclass(frozen=True)
class Mutation:
    """What is disabled, how (exactly one place in a file of the package), and which tests should notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    """A file under tests/ and a -k expression."""

    def applied(self) -> str:
        """The changed source. Raises LookupError where there is not exactly one such place."""
        source = (ROOT / "reactor" / self.file).read_text()
        if source.count(self.old) != 1:
            message = f"mutation {self.name} no longer applies: {source.count(self.old)} places in {self.file}"
            raise LookupError(message)
        return source.replace(self.old, self.new)


MUTATIONS = [
    Mutation("age guard", "policy.py", "_wait(Reason.FRESH, stream, created, policy.age_guard)\n        or _wait(Reason.GRACE", "_wait(Reason.FRESH, stream, None, 0)\n        or _wait(Reason.GRACE", "test_policy.py:"),
    Mutation("terminal grace", "policy.py", "record.occurred_at, policy.terminal_grace)\n        or", "record.occurred_at, 0)\n        or", "test_policy.py:"),
    Mutation("idle guard of an ended job", "policy.py", "_wait(Reason.ACTIVE, stream, published, policy.idle_guard)", "None", "test_policy.py:"),
    Mutation("idle guard of a missing job: publishing", "policy.py", "_wait(Reason.ACTIVE, stream, stream.last_publish, policy.idle_guard)", "None", "test_policy.py:"),
    Mutation("idle guard of a missing job: consuming", "policy.py", "_wait(Reason.ACTIVE, stream, consumed, policy.idle_guard)", "None", "test_policy.py:"),
    Mutation("live beats everything", "policy.py", "if record is not None and not policy.is_terminal(record):", "if False:", "test_policy.py:"),
    Mutation("unknown words are live", "policy.py", "return record.status.upper() in self.terminal_statuses", 'return record.status.upper() not in {"STARTED", "PENDING"}', "test_policy.py:"),
    Mutation("protection", "policy.py", "if policy.is_protected(stream):", "if False:", "test_reconcile.py:protected"),
    Mutation("reactor's own streams", "policy.py", "if match is None or stream_name in self.own_streams else", "if match is None else", "test_policy.py:"),
    Mutation("the whole name must match", "policy.py", "self.pattern.fullmatch(stream_name)", "self.pattern.search(stream_name.lower())", "test_reconcile.py:look_alikes"),
    Mutation("unreported streams", "policy.py", "if not stream.reported:", "if False:", "test_reconcile.py:could_not_report"),
    Mutation("unreadable creation time", "policy.py", "return Unfixable(Reason.CREATED_UNREADABLE)", "return Drain(Reason.TERMINAL)", "test_policy.py:"),
    Mutation("coverage", "policy.py", "vouched = coverage.vouches_for(created) or", "vouched = True or", "test_reconcile.py:coverage or vouches"),
    Mutation("a ledger that lost history", "policy.py", "if not coverage.intact:", "if False:", "test_policy.py:"),
    Mutation("breaker", "policy.py", "if missing <= self.max_missing or missing <= self.max_ratio * checked:", "if True:", "test_reconcile.py:breaker"),
    Mutation("streams that cannot be fenced", "policy.py", "isinstance(verdict, Drain) and not stream.fenceable", "False", "test_reconcile.py:fenced_is_unfixable"),
    Mutation("another replica's fence", "policy.py", "stream.fence is not None and stream.observed_at < stream.fence.until", "False", "test_policy.py:"),
    Mutation("empty ledger", "directory.py", "if not reading.events:", "if False:", "test_reconcile.py:empty_ledger"),
    Mutation("unread events", "directory.py", "if self._behind:", "if False:", "test_reconcile.py:another_replicas_hands"),
    Mutation("a Redis rolled back", "directory.py", "if reading.applied >= lifecycle.ack_floor:", "if True:", "test_reconcile.py:old_redis"),
    Mutation("events dropped unread", "directory.py", "if lifecycle.first_seq > reading.applied + 1:", "if False:", "test_reconcile.py:dropped_unread"),
    Mutation("another Redis", "ledger.py", '(head.get("state"), head.get("redis"), head.get("stream")) == ("complete", redis_identity, identity)', '(head.get("state"), head.get("stream")) == ("complete", identity)', "test_ledger.py:"),
    Mutation("another lifecycle stream", "ledger.py", "if owner and owner ~= ARGV[2] then return {{-1, 0}} end", "", "test_ledger.py:"),
    Mutation("order of events", "ledger.py", "if not old or string.sub(old, 1, {_HEAD}) < string.sub(record, 1, {_HEAD}) then", "if true then", "test_ledger.py:"),
    Mutation("one lease a stream", "ledger.py", "if not redis.call('SET', KEYS[2], token, 'NX', 'PX', ttl) then return false end", "redis.call('SET', KEYS[2], token, 'PX', ttl)", "test_ledger.py:"),
    Mutation("a pass that was taken over", "ledger.py", "if under ~= '' and redis.call('GET', KEYS[3]) ~= under then return {{}} end", "", "test_faults.py:took_over"),
    Mutation("a fast clock is clamped", "events.py", "min(", "max(", "test_events.py:"),
    Mutation("judged incarnation", "drain.py", "target.created is not None and look.stream.created != target.created", "False", "test_drain.py:judged_anew"),
    Mutation("last event at the look", "drain.py", "record = max((r for r in (records.get(target.job_id), event) if r is not None), default=None)", "record = records.get(target.job_id)", "test_drain.py:ledger_is_behind"),
    Mutation("created behind the fence", "drain.py", "again.stream.created == look.stream.created\n        and ", "", "test_drain.py:anew_before_the_fence"),
    Mutation("last message behind the fence", "drain.py", "and again.stream.last_seq == look.stream.last_seq", "", "test_drain.py:publisher_before_the_fence"),
    Mutation("token behind the fence", "drain.py", "and again.stream.fence.token == token\n        and again.raw", "and again.raw", "test_drain.py:another_has_taken_over"),
    Mutation("subjects behind the fence", "drain.py", 'and again.raw["config"]["subjects"] == [f"reactor.fence.{look.stream.name}"]', "", "test_drain.py:another_hand"),
    Mutation("last event behind the fence", "drain.py", "and again.event == look.event", "", "test_drain.py:retried_on_the_way"),
    Mutation("the whole verification", "drain.py", "if not _is_unchanged(look, again, token):", "if False:", "test_races.py:test_a_slice_of_the_races"),
    Mutation("the fence itself", "drain.py", 'await self._effects.update_stream(fenced(look.raw["config"], self._fence(look, token)))', "", "test_drain.py:"),
    Mutation("lease deadline", "drain.py", "if self._monotonic() >= deadline:", "if False:", "test_drain.py:lease_ran_out"),
    Mutation("an unknown outcome keeps its lease", "drain.py", "elif settlement.reason is not Reason.OUTCOME_UNKNOWN:", "else:", "test_drain.py:settled_by_looking"),
    Mutation("forgotten fences are lifted", "drain.py", "if fence and not isinstance(look.verdict, Unfixable):", "if False:", "test_drain.py:lifted or lifts"),
    Mutation("a missing right pauses deleting", "drain.py", "if self.paused:\n            return _of(look", "if False:\n            return _of(look", "test_reconcile.py:missing_right"),
    Mutation("dry run", "drain.py", "if lease is None:\n            return _of(look, Outcome.WOULD_DRAIN", "if False:\n            return _of(look, Outcome.WOULD_DRAIN", "test_reconcile.py:dry_run"),
    Mutation("one outcome for each intent", "audit.py", "redis.call('HDEL', KEYS[2], ARGV[1])", "", "test_faults.py:killed_at_any_point"),
    Mutation("listing sentinel", "reconciler.py", "if self._lifecycle_stream not in listing.streams.keys() | listing.unreported:", "if False:", "test_reconcile.py:another_account"),
    Mutation("missing and offline", "jetstream.py", 'listing.unreported.update(page.get("missing") or (), page.get("offline") or ())', "pass", "test_reconcile.py:could_not_report"),
    Mutation("error before streams", "jetstream.py", 'if error := answer.get("error"):', 'if (error := answer.get("error")) and "streams" not in answer:', "test_reconcile.py:listing_that_fails"),
    Mutation("all pages", "jetstream.py", 'offset + page["limit"], page["total"]', 'offset + page["limit"], 1', "test_reconcile.py:two_pages"),
    Mutation("nothing is sent later", "jetstream.py", 'return heard | {"allow_reconnect": False, "pending_size": 0}', 'return heard | {"max_reconnect_attempts": -1}', "test_drain.py:sends_nothing_later"),
    Mutation("sources and mirrors", "jetstream.py", 'for origin in (c.get("mirror"), *(c.get("sources") or ()))', "for origin in ()", "test_reconcile.py:fenced_is_unfixable"),
    Mutation("absence is for full passes", "wiring.py", "replace(self.policy, absence_counts=False)", "self.policy", "test_worker.py:acts_on_absence"),
    Mutation("the wrong account", "wiring.py", "is None and (owner := await parts.ledger.owner()):", "is None and (owner := None):", "test_reconcile.py:another_account or of_this_ledger"),
    Mutation("acked only after Redis has it", "subscriber.py", "            await _give_back(messages, error)\n            return\n        await reach", "            taken = None\n            [await msg.ack() for msg in messages]\n            return\n        await reach", "test_faults.py:takes_nothing"),
]  # fmt: skip


def main(names: list[str]) -> int:
    """Run them, or those named; the exit code."""
    chosen = [mutation for mutation in MUTATIONS if not names or mutation.name in names]
    selections = sorted({mutation.tests for mutation in chosen})
    with ThreadPoolExecutor(AT_ONCE) as pool:
        if broken := [tests for tests, code in zip(selections, pool.map(_unchanged, selections), strict=True) if code]:
            print("red without any change:", ", ".join(broken))
            return 1
        results = list(pool.map(_try, chosen))
    print("| disabled | noticed by | result |\n|---|---|---|")
    for mutation, code in zip(chosen, results, strict=True):
        said = {RED: "red", GREEN: "**SURVIVED**"}.get(code, f"broken (pytest {code})")
        print(f"| {mutation.name} | `{mutation.tests.rstrip(':')}` | {said} |")
    noticed = results.count(RED)
    print(f"\n{noticed} of {len(chosen)} noticed")
    return 0 if noticed == len(chosen) else 1


def _unchanged(tests: str) -> int:
    with _copy() as folder:
        return _run(folder, tests)


def _try(mutation: Mutation) -> int:
    with _copy() as folder:
        (folder / "reactor" / mutation.file).write_text(mutation.applied())
        return _run(folder, mutation.tests)


@contextmanager
def _copy() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("reactor", "tests"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        shutil.copy(ROOT / "README.md", folder)
        yield folder


def _run(folder: Path, tests: str) -> int:
    """The exit code of pytest on that copy: 1 where a test has failed, another where none could run."""
    file, _, expression = tests.partition(":")
    flags = ["-q", "-x", "-n", "0", "--no-cov", "-p", "no:cacheprovider", *(("-k", expression) if expression else ())]
    command = [sys.executable, "-m", "pytest", f"tests/{file}", *flags]
    return subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
