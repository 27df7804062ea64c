"""The full pass: what it deletes, what it keeps, and its report."""

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from nats.js.api import RetentionPolicy, StreamSource
from redis.asyncio import Redis
from rich.console import Console
from rich.progress import MofNCompleteColumn
from support.harness import World, own_world, posing_as, reactor, relayed

from reactor.bootstrap.services import utc_now
from reactor.cli.passes import one_pass
from reactor.cli.render import progress_bar, show_report
from reactor.core.model import SECOND, parse_instant
from reactor.passes.reconciler import PassOptions, ignore_progress
from reactor.store.audit import Audit, Intent
from reactor.store.keyspace import Keyspace

DRAINED = ("drained", "terminal")


async def test_a_stream_without_a_job_is_deleted(world: World) -> None:
    """With a ledger that covers it and has another job."""
    await world.declare()
    await world.emit(2, "STARTED")
    await world.stream("job_1", messages=3)
    report = await world.reconcile()
    assert (report["checked"], report["fixed"], report["unfixable"]) == (1, 1, 0)
    assert report["streams"][0] | {"age_s": 0} == {
        "stream": "job_1",
        "job_id": "1",
        "verdict": "drained",
        "reason": "missing",
        "status": None,
        "age_s": 0,
        "terminal_at": None,
        "until": None,
        "messages": 3,
        "redelivered": 0,
        "detail": None,
        "rule": "default",
    }
    assert await world.names() == set()


async def test_a_fresh_stream_of_an_ended_job_is_retained(world: World) -> None:
    """The age guard has an hour to go."""
    await world.declare()
    await world.zombie(1)
    report = await world.reconcile(REACTOR_POLICY_AGE_GUARD="1h")
    assert (report["checked"], report["fixed"], report["unfixable"], report["waiting"]) == (1, 0, 0, 1)
    assert report["streams"][0]["reason"] == "fresh"
    assert await world.names() == {"job_1"}


@pytest.mark.parametrize("status", ["STARTED", "RETRY", "CANCELING", "PENDING", "no such word", "SUCCESSFUL"])
async def test_a_running_jobs_stream_is_retained(world: World, status: str) -> None:
    """Without any guard, and with unknown statuses."""
    await world.declare()
    await world.zombie(1, status)
    report = await world.reconcile()
    assert (report["checked"], report["fixed"], report["unfixable"], report["kept"]) == (1, 0, 0, 1)
    assert await world.names() == {"job_1"}


async def test_more_streams_than_two_pages_are_all_seen(world: World) -> None:
    """A page has 256 streams. The rest must not be missed."""
    await world.declare()
    for number in range(520):
        await world.stream(f"job_{number}")
        await world.emit(number, "STARTED" if number in {0, 255, 256, 511, 512, 519} else "SUCCESS")
    report = await world.reconcile()
    assert (report["checked"], report["fixed"], report["kept"]) == (520, 514, 6)
    assert await world.names() == {f"job_{n}" for n in (0, 255, 256, 511, 512, 519)}


@pytest.mark.parametrize("created", [None, "", "garbage", "2026-01-01T00:00:00", 5, "0001-01-01T00:00:00Z"])
async def test_a_stream_whose_age_cannot_be_read_is_unfixable(world: World, created: object) -> None:
    """It is kept and counted, and the rest of the pass goes on."""
    await world.declare()
    await world.zombie(1)
    await world.zombie(2)
    await world.reconcile(PassOptions(dry_run=True))  # the ledger knows both before the relay stands between

    def change(verb: str, answer: dict[str, Any]) -> dict[str, Any]:
        for entry in (
            [answer, *(answer.get("streams") or ())] if verb.startswith(("STREAM.LIST", "STREAM.INFO")) else ()
        ):
            if isinstance(entry, dict) and entry.get("config", {}).get("name") == "job_1":
                entry.pop("created")
                if created is not None:
                    entry["created"] = created
        return answer

    async with relayed(world, change) as relay:
        report = await relay.reconcile()
    assert {row["stream"]: row["reason"] for row in report["streams"]} == {
        "job_1": "created-unreadable",
        "job_2": "terminal",
    }
    assert (report["fixed"], report["unfixable"]) == (1, 1)
    assert await world.names() == {"job_1"}


@pytest.mark.parametrize(
    "answer",
    [
        {"error": {"code": 503, "err_code": 10008, "description": "JetStream system temporarily unavailable"}},
        {"error": {"code": 503, "err_code": 10008, "description": "quorum lost"}, "streams": [], "total": 0}
        | {"offset": 0, "limit": 256},
    ],
)
async def test_a_listing_that_fails_deletes_nothing(world: World, answer: dict[str, Any]) -> None:
    """An outage is not an empty list: exit code 3, and one unfixable."""
    await world.declare()
    await world.zombie(1)
    await world.reconcile(PassOptions(dry_run=True))
    async with relayed(world, lambda verb, real: answer if verb == "STREAM.LIST" else real) as relay:
        done = await relay.reactor("reconcile", "--json")
    report = json.loads(done.out)
    assert (done.code, report["unfixable"], report["fixed"]) == (3, 1, 0)
    assert answer["error"]["description"] in report["error"]
    assert await world.names() == {"job_1"}


@pytest.mark.parametrize("where", ["missing", "offline"])
async def test_a_stream_that_the_server_could_not_report_is_left_alone(world: World, where: str) -> None:
    """Even if the listing has an empty entry for it."""
    await world.declare()
    await world.zombie(1)
    await world.zombie(2)
    await world.reconcile(PassOptions(dry_run=True))

    def change(verb: str, answer: dict[str, Any]) -> dict[str, Any]:
        if verb == "STREAM.LIST":
            answer[where] = ["job_1", "job_3"] if where == "missing" else {"job_1": "down", "job_3": "down"}
        return answer

    async with relayed(world, change) as relay:
        verdicts = await relay.verdicts()
    assert verdicts == {"job_1": ("unfixable", "unreported"), "job_2": DRAINED, "job_3": ("unfixable", "unreported")}
    assert await world.names() == {"job_1"}


@pytest.mark.parametrize("state", [{}, {"last_seq": 1}, {"last_seq": 1, "last_ts": "garbage"}])
async def test_a_stream_without_readable_figures_is_left_alone(world: World, state: dict[str, Any]) -> None:
    """It may have been published to a moment ago."""
    await world.declare()
    await world.zombie(1)
    await world.reconcile(PassOptions(dry_run=True))

    def change(verb: str, answer: dict[str, Any]) -> dict[str, Any]:
        for entry in (
            [*(answer.get("streams") or ()), answer] if verb.startswith(("STREAM.LIST", "STREAM.INFO")) else ()
        ):
            if isinstance(entry, dict) and entry.get("config", {}).get("name") == "job_1":
                entry["state"] = state
        return answer

    async with relayed(world, change) as relay:
        assert await relay.verdicts() == {"job_1": ("unfixable", "unreported")}
    assert await world.names() == {"job_1"}


async def test_a_list_from_another_account_is_refused(world: World) -> None:
    """It must have the lifecycle stream, or that must exist at least."""
    await world.declare()
    await world.zombie(1)
    await world.reconcile(PassOptions(dry_run=True))

    def change(verb: str, answer: dict[str, Any]) -> dict[str, Any]:
        if verb == "STREAM.LIST":
            answer["streams"] = [entry for entry in answer["streams"] if entry["config"]["name"] != "JOBS"]
        if verb == "STREAM.INFO.JOBS" and change.listed:  # type: ignore[attr-defined]
            return {"error": {"code": 404, "err_code": 10059, "description": "stream not found"}}
        change.listed = verb == "STREAM.LIST"  # type: ignore[attr-defined]
        return answer

    change.listed = False  # type: ignore[attr-defined]
    async with relayed(world, change) as relay:
        report = await relay.reconcile()
    assert "wrong account" in str(report["error"])
    assert await world.names() == {"job_1"}


async def test_an_account_without_the_lifecycle_stream_of_this_ledger_is_refused(world: World, other: World) -> None:
    """Redis has the lifecycle stream that it was built from."""
    await world.declare()
    await other.stream("job_1")
    report = await other.reconcile(REACTOR_REDIS_NAMESPACE=world.namespace)
    assert "wrong account" in str(report["error"])
    assert await other.names() == {"job_1"}
    assert await other.info("JOBS") is None


async def test_redelivered_counts_are_fetched_for_candidates_only(world: World) -> None:
    """They cost a request for each stream."""
    await world.declare()
    await world.zombie(1)
    await world.zombie(2, "STARTED")
    asked: list[str] = []
    for number in (1, 2):
        consumer = await world.consumer(f"job_{number}", ack_wait=0.05)
        pull = await world.js.pull_subscribe_bind(consumer=consumer, stream=f"job_{number}")
        for _ in range(2):
            await pull.fetch(1, timeout=5)
    await world.reconcile(PassOptions(dry_run=True))

    def note(verb: str, answer: dict[str, Any]) -> dict[str, Any]:
        asked.append(verb)
        return answer

    async with relayed(world, note) as relay:
        report = await relay.reconcile()
    assert {row["stream"]: row["redelivered"] for row in report["streams"]} == {"job_1": 1, "job_2": None}
    assert [verb for verb in asked if verb.startswith("CONSUMER.LIST")] == ["CONSUMER.LIST.job_1"]


async def test_a_dry_run_changes_no_stream(world: World) -> None:
    """Not even for a moment: no fence, no audit, no deleted companion."""
    await world.declare()
    await world.zombie(1)
    before = await world.info("job_1")
    report = await world.reconcile(PassOptions(dry_run=True))
    after = await world.info("job_1")
    assert (report["dry_run"], report["fixed"], report["streams"][0]["verdict"]) == (True, 1, "would_drain")
    assert before is not None
    assert after is not None
    assert after["config"] == before["config"]
    assert await world.trail() == []


async def test_the_breaker_refuses_a_suspicious_pass(world: World) -> None:
    """Nothing is deleted, not even proven zombies. An operator's --yes overrides it."""
    await world.declare()
    await world.emit(1000, "STARTED")
    await world.zombie(999)
    for number in range(25):
        await world.stream(f"job_{number}")
    refused = await world.reactor("reconcile", "--json")
    report = json.loads(refused.out)
    assert (refused.code, report["fixed"], report["kept"]) == (4, 0, 26)
    assert "25 of 26" in report["breaker"]
    assert len(await world.names()) == 26
    report = await world.reconcile(PassOptions(override_breaker=True))
    assert (report["fixed"], report["breaker"]) == (26, None)


async def test_an_empty_ledger_vouches_for_nothing(world: World) -> None:
    """With a silent emitter all jobs look missing. The report says what to do."""
    await world.declare()
    await world.stream("job_1")
    report = await world.reconcile()
    assert [row["reason"] for row in report["streams"]] == ["unknown"]
    assert "does the job system publish on jobs.lifecycle" in report["streams"][0]["detail"]


async def test_events_that_cannot_be_read_vouch_for_nothing(world: World) -> None:
    """An emitter whose events cannot be read has reported no job."""
    await world.declare()
    await world.publish("jobs.lifecycle.2", b"not an event")
    await world.reconcile()
    await world.redis.delete(f"{world.namespace}:ledger")  # rebuilt from a stream that holds that message
    await world.stream("job_1")
    assert await world.verdicts() == {"job_1": ("kept", "unknown")}


async def test_a_job_that_was_spoken_of_unreadably_is_not_missing(world: World) -> None:
    """The ledger remembers that there was an event, even if the lifecycle stream has dropped it."""
    await world.declare()
    await world.emit(2, "STARTED")
    await world.publish("jobs.lifecycle.1", b"not an event")
    await world.reconcile()
    await world.js.purge_stream("JOBS", subject="jobs.lifecycle.1")
    await world.stream("job_1")
    assert await world.verdicts() == {"job_1": ("kept", "running")}


async def test_a_stream_older_than_the_coverage_is_unknown_until_an_operator_speaks(world: World) -> None:
    """Its job may have started before any event was stored."""
    await world.stream("job_1")
    await world.declare()
    await world.emit(2, "STARTED")
    assert await world.verdicts() == {"job_1": ("kept", "unknown")}
    report = await world.reconcile(assume_missing=True)
    assert [(row["verdict"], row["reason"]) for row in report["streams"]] == [("drained", "missing")]


async def test_a_missing_jobs_stream_that_is_worked_on_waits(world: World) -> None:
    """Published to, delivered from or acked within the idle guard: it is in use."""
    await world.declare()
    await world.emit(3, "STARTED")
    await world.stream("job_1", messages=1)
    await world.stream("job_2", messages=1)
    consumer = await world.consumer("job_2")
    pull = await world.js.pull_subscribe_bind(consumer=consumer, stream="job_2")
    [msg] = await pull.fetch(1, timeout=5)
    await msg.ack_sync()
    await world.js.purge_stream("job_2")
    verdicts = await world.verdicts(REACTOR_POLICY_IDLE_GUARD="1h")
    assert verdicts == {"job_1": ("waiting", "active"), "job_2": ("waiting", "active")}


async def test_a_wait_is_put_into_the_due_queue(world: World) -> None:
    """So that the sweeper acts on time."""
    await world.declare()
    await world.zombie(1)
    await world.reconcile(REACTOR_POLICY_AGE_GUARD="1h")
    await world.redis.delete(f"{world.namespace}:due")
    await world.reconcile(REACTOR_POLICY_AGE_GUARD="1h")
    score = await world.redis.zscore(f"{world.namespace}:due", "1")
    seconds, _ = await world.redis.time()
    assert score is not None
    assert 3590 < float(score) / 1000 - float(seconds) < 3602


async def test_only_named_streams_are_touched(world: World) -> None:
    """One that is gone is not an error."""
    await world.declare()
    for number in (1, 2):
        await world.zombie(number)
    verdicts = await world.verdicts(PassOptions(only=frozenset({"job_2", "job_3"})))
    assert verdicts["job_2"] == DRAINED
    assert verdicts["job_3"][0] == "already_gone"
    assert await world.names() == {"job_1"}


async def test_look_alikes_are_untouched(world: World) -> None:
    """Even with --assume-missing."""
    names = {"job_007", "job_1_backup", "JOB_1", "xjob_1", "job_-1", "job_1x", "job_\u0661", "job_\uff11"}
    for name in names:
        await world.stream(name, subjects=[f"look.{len(name)}.{name.encode().hex()}"])
        await world.emit("1", "SUCCESS")
    report = await world.reconcile(PassOptions(override_breaker=True), assume_missing=True)
    assert report["checked"] == 0
    assert await world.names() == names


async def test_reactors_own_streams_are_no_job_streams(world: World) -> None:
    """Whatever the pattern and the operator say."""
    await world.declare()
    await world.stream("job_1")
    report = await world.reconcile(
        PassOptions(override_breaker=True), assume_missing=True, REACTOR_POLICY_STREAM_PATTERN=r"^(?P<job_id>\w+)$"
    )
    assert [row["stream"] for row in report["streams"]] == ["job_1"]
    for name in ("JOBS", "REACTOR_DEAD_LETTERS"):
        assert await world.info(name) is not None


async def test_protected_streams_are_kept(world: World) -> None:
    """By their metadata, or by a glob in the settings."""
    await world.declare()
    await world.stream("job_1", metadata={"reactor.protect": "true"})
    await world.emit(1, "SUCCESS")
    await world.zombie(20)
    await world.zombie(3)
    verdicts = await world.verdicts(REACTOR_POLICY_PROTECT="job_2*,other")
    assert verdicts == {"job_1": ("kept", "protected"), "job_20": ("kept", "protected"), "job_3": DRAINED}


async def test_what_cannot_be_fenced_is_unfixable(world: World) -> None:
    """A mirror has no subjects, and the source of another stream would lose messages there."""
    await world.declare()
    await world.stream("origin", subjects=["origin"])
    await world.stream("job_1", subjects=[], mirror=StreamSource(name="origin"))
    await world.emit(1, "SUCCESS")
    await world.zombie(2)
    await world.stream("collected", subjects=[], sources=[StreamSource(name="job_2")])
    for order in (PassOptions(dry_run=True), PassOptions()):
        verdicts = await world.verdicts(order)
        assert verdicts == {"job_1": ("unfixable", "not-fenceable"), "job_2": ("unfixable", "not-fenceable")}
    assert {"job_1", "job_2"} <= await world.names()


async def test_companions_are_deleted_with_the_stream(world: World) -> None:
    """On any stream that captures advisories. Those of other jobs stay."""
    await world.stream("advisories", subjects=["$JS.EVENT.ADVISORY.>"])
    await world.declare()
    for number in (1, 2):
        await world.zombie(number, "SUCCESS" if number == 1 else "STARTED")
        subject = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.job_{number}.*"
        await world.consumer("advisories", f"job-{number}-dlq", filter_subject=subject)
    assert await world.verdicts() == {"job_1": DRAINED, "job_2": ("kept", "running")}
    names = (await world.api("CONSUMER.NAMES.advisories"))["consumers"]
    assert set(names) == {"job-2-dlq"}


async def test_the_audit_has_the_intent_before_and_the_outcome_after(world: World) -> None:
    """With the evidence, in a capped stream."""
    await world.declare()
    await world.zombie(1, "FAILURE", messages=4)
    await world.reconcile()
    intent, outcome = await world.trail()
    assert intent["phase"] == "intent"
    made_of = json.loads(intent.pop("made_of"))
    assert outcome | intent | {"phase": "outcome", "key": outcome["key"]} == outcome
    assert outcome["proof"] == "barrier: its end is sequence 4"
    assert (made_of["config"]["subjects"], made_of["consumers"]) == (["job.1.tasks"], [])
    evidence = {"stream": "job_1", "reason": "terminal", "status": "FAILURE", "messages": 4}
    assert evidence.items() <= intent.items()
    assert (outcome["phase"], outcome["outcome"]) == ("outcome", "drained")
    assert await world.redis.exists(f"{world.namespace}:intents") == 0


async def test_a_deletion_begun_of_what_now_lives_is_accounted_for(world: World) -> None:
    """The replica died before the fence, and the job was retried: no sweep would ever inspect it again."""
    await world.stream("job_1", messages=1)
    await world.emit(1, "STARTED")
    await world.declare()
    audit = Audit(Keyspace(world.redis, world.namespace))
    at = "2026-01-31T12:00:00Z"
    await audit.intend(Intent("job_1", "1", "terminal", "token", at, "SUCCESS", 1, by="somebody", at=at), {})
    await world.reconcile(PassOptions(dry_run=True))
    assert await audit.open_intents()
    await world.reconcile()
    assert not await audit.open_intents()
    assert [(entry["phase"], entry.get("outcome")) for entry in await world.trail()] == [
        ("intent", None),
        ("outcome", "kept"),
    ]
    assert await world.info("job_1")


async def test_others_hear_what_was_drained(world: World) -> None:
    """On reactor.drained.<stream>."""
    await world.declare()
    await world.zombie(1, messages=2)
    subscription = await world.nc.subscribe("reactor.drained.*")
    await world.nc.flush()
    await world.reconcile()
    msg = await subscription.next_msg(timeout=5)
    event = json.loads(msg.data)
    assert msg.subject == "reactor.drained.job_1"
    assert set(event) == {"stream", "job_id", "reason", "rule", "status", "created", "messages", "by", "at"}
    assert (event["job_id"], event["reason"], event["messages"]) == ("1", "terminal", 2)


async def test_a_pass_alone_is_enough(world: World) -> None:
    """Nothing declared, no events, no worker: three passes as a newcomer would run them."""
    assert (await world.reconcile())["checked"] == 0
    await world.zombie(1)
    await world.publish("jobs.lifecycle.9", b"not an event")
    assert await world.verdicts() == {"job_1": DRAINED}
    assert [headers["Reactor-Subject"] for headers, _ in await world.dead_letters()] == ["jobs.lifecycle.9"]


async def test_redis_may_be_emptied_between_passes(world: World) -> None:
    """The ledger is rebuilt from the lifecycle stream first."""
    await world.declare()
    for number in range(5):
        await world.zombie(number, "STARTED" if number else "SUCCESS")
    await world.reconcile(REACTOR_POLICY_AGE_GUARD="1h")
    await world.redis.delete(*[key async for key in world.redis.scan_iter(f"{world.namespace}:*")])
    verdicts = await world.verdicts()
    assert verdicts == {"job_0": DRAINED} | {f"job_{n}": ("kept", "running") for n in range(1, 5)}


async def test_an_old_redis_is_noticed_by_what_was_acked(world: World) -> None:
    """A ledger that was rolled back has SUCCESS. The lost events are STARTED."""
    await world.declare()
    await world.zombie(1)
    await world.reconcile(PassOptions(dry_run=True))
    async with Redis.from_url(world.redis_url, protocol=2) as raw:
        saved = {key: await raw.dump(key) async for key in raw.scan_iter(f"{world.namespace}:*")}
        await world.emit(1, "STARTED")
        await world.emit(2, "STARTED")
        await world.stream("job_2")
        await world.reconcile(PassOptions(dry_run=True))
        for key, value in saved.items():
            await raw.restore(key, 0, value or b"", replace=True)
        await raw.delete(f"{world.namespace}:job:2")
    assert await world.verdicts() == {"job_1": ("kept", "running"), "job_2": ("kept", "running")}
    assert str(await world.redis.get(f"{world.namespace}:job:2")).endswith("STARTED")


async def test_nothing_is_drained_while_another_replica_rebuilds(world: World) -> None:
    """A rolled-back ledger looks complete. It may have lost any job's retry."""
    await world.declare()
    await world.zombie(1)
    await world.emit(2, "STARTED")
    await world.reconcile(PassOptions(dry_run=True))
    await world.redis.hset(f"{world.namespace}:ledger", "applied", "1")
    await world.redis.set(f"{world.namespace}:lease:rebuild", "another", px=60_000)
    assert await world.verdicts() == {"job_1": ("kept", "unknown")}
    await world.redis.delete(f"{world.namespace}:lease:rebuild")
    assert await world.verdicts() == {"job_1": DRAINED}


async def test_events_dropped_unread_leave_a_gap(world: World) -> None:
    """The downtime was longer than the stream keeps its events. So absence is unknown."""
    await world.declare()
    await world.emit(3, "STARTED")
    await world.stream("job_1")
    await world.reconcile(PassOptions(dry_run=True))
    await world.emit(1, "STARTED")
    await world.js.purge_stream("JOBS")
    await world.emit(4, "STARTED")
    assert await world.verdicts() == {"job_1": ("kept", "unknown")}


async def test_a_lifecycle_stream_that_forgets_what_is_read_is_refused(world: World) -> None:
    """A job's last event could not be read again behind the fence."""
    await world.stream("theirs", subjects=["jobs.>"], retention=RetentionPolicy.WORK_QUEUE)
    await world.zombie(1)
    report = await world.reconcile()
    assert "let a stream with limits retention capture that subject" in report["error"]
    assert await world.names() == {"job_1", "theirs"}


async def test_events_in_another_replicas_hands_prove_no_absence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass waits for them for some time. Then absence is unknown."""
    monkeypatch.setattr("reactor.passes.listing.CATCH_UP_S", 0.2)
    await world.declare()
    await world.emit(3, "STARTED")
    await world.reconcile(PassOptions(dry_run=True))
    await world.emit(1, "STARTED")
    pull = await world.js.pull_subscribe_bind(consumer="reactor", stream="JOBS")
    await pull.fetch(1, timeout=5)
    await world.stream("job_2")
    report = await world.reconcile()
    assert [row["reason"] for row in report["streams"]] == ["unknown"]
    assert report["streams"][0]["detail"] == "1 lifecycle events are not read yet"


async def test_a_stream_in_the_way_is_said(world: World) -> None:
    """A stream of that name with other subjects is not altered."""
    await world.stream("JOBS", subjects=["something.else"])
    report = await world.reconcile()
    assert "stream JOBS exists and does not capture jobs.lifecycle.*" in report["error"]


async def test_a_push_durable_in_the_way_is_said(world: World) -> None:
    """Replicas cannot share it."""
    await world.stream("JOBS", subjects=["jobs.lifecycle.*"])
    await world.consumer("JOBS", "reactor", deliver_subject="elsewhere")
    report = await world.reconcile()
    assert "is a push consumer" in report["error"]


async def test_what_needs_a_person_is_below_the_table(world: World) -> None:
    """Unfixable streams by name, gaps with what to do, the breaker, errors. On a terminal there is a bar."""
    await world.declare()
    await world.stream("job_1", subjects=["reactor.fence.job_1.x"], metadata={"reactor.fence.token": "x"})
    await world.stream("job_2")
    settings = world.load()
    report = await one_pass(settings, PassOptions(), ignore_progress, assume_missing=False)
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    show_report(console, replace(report, breaker="too many", error="and an error"))
    with progress_bar(console, "draining", MofNCompleteColumn(), worth=20) as show:
        show(1, 20)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for text in ("job_1", "fence-unreadable", "no lifecycle event has arrived yet", "too many", "and an error"):
        assert text in shown


async def test_an_unreachable_nats_still_prints_the_object(world: World) -> None:
    """Exit code 3, with the error in it."""
    done = await world.reactor("reconcile", "--json", REACTOR_NATS_URL="nats://127.0.0.1:1")
    report = json.loads(done.out)
    assert (done.code, report["unfixable"], report["checked"], report["streams"]) == (3, 1, 0, [])
    assert report["error"].startswith("NATS: ")


async def test_an_unreachable_redis_still_prints_the_object(world: World) -> None:
    """Exit code 3, and nothing was deleted."""
    await world.declare()
    await world.zombie(1)
    done = await world.reactor("reconcile", "--json", REACTOR_REDIS_URL="redis://127.0.0.1:1/0")
    assert (done.code, json.loads(done.out)["unfixable"]) == (3, 1)
    assert json.loads(done.out)["error"].startswith("Redis: ")
    assert await world.names() == {"job_1"}


async def test_an_account_without_jetstream_is_said(world: World) -> None:
    """Not "0 zombies"."""
    url = world.nats_url.replace(f"a{world.number}:", "nojs:")
    report = await world.reconcile(REACTOR_NATS_URL=url)
    assert "JetStream not enabled for account" in report["error"]


async def test_a_server_that_is_too_old_is_refused(world: World) -> None:
    """It would drop the metadata of the fence."""
    await world.declare()
    await world.zombie(1)
    for version, error in (("2.9.25", "nats-server 2.9 is too old: reactor needs 2.10 or later"), ("2.10.0", "None")):
        async with posing_as(world, version) as url:
            report = await world.reconcile(PassOptions(dry_run=True), REACTOR_NATS_URL=url)
        assert error in str(report["error"])


async def test_a_wrong_domain_is_said(world: World) -> None:
    """No server answers there."""
    report = await world.reconcile(REACTOR_NATS_DOMAIN="elsewhere")
    assert "domain is wrong" in report["error"]


async def test_a_wrong_password_is_said_and_not_shown(world: World) -> None:
    """Neither in the report nor on standard error."""
    done = await world.reactor(
        "reconcile", "--json", REACTOR_NATS_URL=world.nats_url.replace(":pw@", ":hunter2@"), REACTOR_LOG_LEVEL="DEBUG"
    )
    assert done.code == 3
    assert "authorization" in done.out.lower()
    assert "hunter2" not in done.out + done.err


@pytest.mark.parametrize(("user", "right"), [("d", "DELETE"), ("u", "UPDATE")])
async def test_a_missing_right_pauses_deleting(world: World, user: str, right: str) -> None:
    """It says which one, and the stream is unchanged."""
    await world.declare()
    await world.zombie(1, messages=2)
    before = await world.info("job_1")
    url = world.nats_url.replace(f"a{world.number}:", f"{user}{world.number}:")
    report = await world.reconcile(REACTOR_NATS_URL=url)
    assert [(row["verdict"], row["reason"]) for row in report["streams"]] == [("unfixable", "deletes-paused")], report
    assert f"STREAM.{right}" in report["streams"][0]["detail"]
    after = await world.info("job_1")
    assert before is not None
    assert after is not None
    assert after["config"] == before["config"]
    assert await world.verdicts() == {"job_1": DRAINED}


async def test_a_stream_is_judged_by_the_servers_clock(world: World) -> None:
    """A worker whose clock is a day off reaches the same verdicts. Only the report's time shows it."""
    await world.declare()
    await world.zombie(1)
    for shift in ("-86400", "86400"):
        env = world.env(REACTOR_POLICY_AGE_GUARD="1h")
        done = await reactor("reconcile", "--json", "--dry-run", env=env, armed=("clock", shift))
        report = json.loads(done.out)
        assert report["waiting"] == 1, report
        off_by = (parse_instant(report["started_at"]) - utc_now()) / SECOND
        assert abs(off_by - int(shift)) < 60


async def test_the_human_report_is_plain_when_piped(world: World) -> None:
    """A table by verdict, one line that sums up, no colour codes."""
    await world.declare()
    await world.zombie(1)
    await world.zombie(2, "STARTED")
    done = await world.reactor("reconcile")
    assert done.code == 0
    assert "\x1b" not in done.out
    assert "drained" in done.out
    assert "job_1" in done.out
    assert "checked 2, fixed 1, unfixable 0, already gone 0, kept 1, waiting 0 in" in done.out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--age-guard", "soon"), "--age-guard"),
        (("--stream", "job_007"), "job_007"),
        (("--no-such-flag",), "no-such-flag"),
    ],
)
async def test_a_users_mistake_is_one_line_and_exit_2(world: World, args: tuple[str, ...], said: str) -> None:
    """Never a traceback."""
    done = await world.reactor("reconcile", *args)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err


async def test_the_age_guard_flag_wins(world: World) -> None:
    """Over the environment."""
    await world.declare()
    await world.zombie(1)
    done = await world.reactor("reconcile", "--json", "--age-guard", "0", REACTOR_POLICY_AGE_GUARD="1h")
    assert json.loads(done.out)["fixed"] == 1


async def test_a_ledger_in_a_new_redis_is_rebuilt(tmp_path: Any) -> None:
    """An empty Redis under the same URL."""
    async with own_world(tmp_path) as (world, _nats, valkey):
        await world.declare()
        await world.zombie(1)
        await world.zombie(2, "STARTED")
        await world.reconcile(REACTOR_POLICY_AGE_GUARD="1h")
        await valkey.stop()
        for file in (tmp_path / "valkey" / "appendonlydir").iterdir():
            file.unlink()
        await valkey.start()
        assert await world.verdicts() == {"job_1": DRAINED, "job_2": ("kept", "running")}


async def test_the_audit_reports_by_whom_and_why(world: World) -> None:
    """The person and the flags, the event and its source, the guards; and the recipe with the consumers."""
    await world.declare()
    await world.stream("job_1", messages=2, metadata={"team": "ml"})
    await world.consumer("job_1")
    await world.emit(1, "SUCCESS", source="scheduler-7")
    done = await world.reactor("reconcile", "--age-guard", "0", "--yes", REACTOR_POLICY_AGE_GUARD="1h")
    assert done.code == 0
    intent, outcome = await world.trail()
    actor = outcome["actor"]
    assert (actor["role"], actor["overrides"]) == ("reconcile", ["--yes", "--age-guard 0"])
    assert actor["user"]
    assert outcome["by"] == f"{actor['host']}:{actor['pid']}"
    assert (outcome["event"]["status"], outcome["event"]["seq"], outcome["event"]["source"]) == (
        *("SUCCESS", 1),
        "scheduler-7",
    )
    assert {item["guard"]: item["length_s"] for item in outcome["guards"]} == {
        "age_guard": 0.0,
        "terminal_grace": 0.0,
    }
    made_of = json.loads(intent["made_of"])
    assert made_of["config"]["metadata"]["team"] == "ml"
    assert made_of["consumers"][0]["config"]["durable_name"] == "job-1-consumer"
    assert "made_of" not in outcome
