"""The worker as a process: what it reads, what it survives, and how it ends."""

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg
from nats.js.api import AckPolicy
from support.harness import (
    ROOT,
    WorkerProcess,
    World,
    acked,
    all_concluded,
    connected,
    eventually,
    gone,
    has_records,
    own_world,
    reactor,
    relayed,
    worker,
)

from reactor.bootstrap.connections import connections
from reactor.bootstrap.services import UseCases, provision_safely
from reactor.cli.embedded import HOST, free_port
from reactor.core.events import MAX_BYTES
from reactor.core.model import SECOND, parse_instant
from reactor.passes.exhausted import ExhaustedQueues
from reactor.passes.subscribers import AdvisorySubscriber
from reactor.passes.sweeper import Sweeper
from reactor.store.audit import Intent


async def test_ended_jobs_streams_are_deleted_and_running_ones_stay(world: World) -> None:
    """In any case of the status, by core NATS or JetStream. Unknown statuses are live."""
    ended = ["SUCCESS", "FAILURE", "REVOKED", "DELETED", "success", "Revoked"]
    running = ["STARTED", "RETRY", "CANCELING", "PENDING", "whatever"]
    async with worker(world.env()):
        for number, status in enumerate(ended + running):
            await world.stream(f"job_{number}", messages=1)
            event = json.dumps({"job_id": number, "status": status}).encode()
            if number % 2:
                await world.js.publish(f"jobs.lifecycle.{number}", event)
            else:
                await world.publish(f"jobs.lifecycle.{number}", event)
        await eventually(lambda: gone(world, *(f"job_{number}" for number in range(len(ended)))))
        await eventually(lambda: acked(world))
        assert len(await world.names()) == len(running)


async def test_nothing_is_deleted_before_its_guards_have_passed(world: World) -> None:
    """By the server's times in the audit."""
    async with worker(world.env(REACTOR_POLICY_AGE_GUARD="1.5s", REACTOR_POLICY_TERMINAL_GRACE="1s")):
        await world.zombie(1)
        info = await world.info("job_1")
        intent, _ = await eventually(lambda: accounted(world))
        assert await gone(world, "job_1")
        assert info is not None
        assert info["created"] == intent["created"]
        assert 1.5 <= _seconds(intent["at"]) - _seconds(intent["created"]) < 2.5


async def accounted(world: World) -> list[dict[str, Any]]:
    """Return an intent and its outcome, when both are in the audit."""
    trail = await world.trail()
    return trail if len(trail) == 2 else []


def _seconds(text: str) -> float:
    return parse_instant(text) / SECOND


async def test_a_retried_job_keeps_its_stream(world: World) -> None:
    """SUCCESS, then STARTED. A late event that happened earlier changes nothing."""
    async with worker(world.env(REACTOR_POLICY_TERMINAL_GRACE="1s")) as process:
        await world.stream("job_1")
        await world.emit(1, "SUCCESS")
        await world.emit(1, "STARTED")
        await world.emit(1, "SUCCESS", occurred_at="2020-01-01T00:00:00Z")
        await world.zombie(2)
        await eventually(lambda: gone(world, "job_2"))
        await eventually(lambda: acked(world))
        await eventually(lambda: nothing_due(world))
        assert await world.names() == {"job_1"}
        assert process.process.returncode is None


async def nothing_due(world: World) -> bool:
    return not await world.redis.zcard(f"{world.namespace}:due")


async def test_a_stream_made_after_its_job_ended_is_deleted_too(world: World) -> None:
    """The advisory of its creation makes the sweeper inspect it."""
    async with worker(world.env()):
        await world.emit(1, "SUCCESS")
        await eventually(lambda: has_records(world, 1))
        await eventually(lambda: nothing_due(world))
        await world.stream("job_1")
        await eventually(lambda: gone(world, "job_1"))


@pytest.mark.parametrize("by", ["mirror", "source", "update", "a job stream"])
async def test_a_stream_that_another_has_begun_to_read_stays(world: World, by: str) -> None:
    """With a running worker: the advisory shows it, not a listing. A person must decide then."""
    env = world.env(REACTOR_POLICY_TERMINAL_GRACE="1s", REACTOR_RECONCILE_INTERVAL="1h")
    async with worker(env) as process:
        await world.zombie(2)  # after the first pass, so what it listed is trusted from here on
        await eventually(lambda: gone(world, "job_2"))
        await world.stream("job_1", messages=1)
        await world.emit(1, "SUCCESS")
        origins = {"mirror": {"name": "job_1"}} if by == "mirror" else {"sources": [{"name": "job_1"}]}
        name = "job_3" if by == "a job stream" else "copy"
        config = {"name": name, "storage": "file"} | ({} if by == "mirror" else {"subjects": [name]})
        if by in {"update", "a job stream"}:
            await world.api(f"STREAM.CREATE.{name}", config)
            await world.api(f"STREAM.UPDATE.{name}", config | origins)
        else:
            await world.api(f"STREAM.CREATE.{name}", config | origins)
        await eventually(lambda: process.logged("not-fenceable"))
        assert "job_1" in await world.names()


async def test_news_of_a_deletion_forgets_nothing_that_is_to_be_accounted_for(world: World) -> None:
    """The deleting process may die: the job stays due until an inspection."""
    subject = "$JS.EVENT.ADVISORY.STREAM.DELETED.job_1"
    async with connections(world.load()) as connected:
        cases = UseCases(connected, await provision_safely(connected))
        advisories = AdvisorySubscriber(cases.resources, ExhaustedQueues(cases.resources))
        intent = Intent("job_1", "1", "terminal", "token", "", "SUCCESS", 0, "another", "2026-01-31T12:00:00Z")
        await connected.audit.intend(intent, {})
        await connected.ledger.due.schedule({"1": 60.0})
        await advisories.handle(Msg(_client=world.nc, subject=subject))
        assert await connected.ledger.due.count() == 1
        await connected.audit.conclude("job_1", "token", "drained", "")
        await advisories.handle(Msg(_client=world.nc, subject=subject))
        assert await connected.ledger.due.count() == 0


async def test_what_was_listed_before_its_time_is_listed_again(world: World) -> None:
    """Advisories between that listing and the sweeper's start may be missed."""
    await world.declare()
    await world.zombie(1)
    await world.reconcile(REACTOR_POLICY_AGE_GUARD="1h")
    await world.api("STREAM.CREATE.copy", {"name": "copy", "storage": "file", "mirror": {"name": "job_1"}})
    async with connections(world.load()) as connected:
        cases = UseCases(connected, await provision_safely(connected))
        await connected.ledger.due.schedule({"1": 0.0})
        sweeper = cases.sweeper(_nobody_wants_it)
        await eventually(lambda: _unfixable(world, sweeper))
    assert "job_1" in await world.names()


async def _nobody_wants_it() -> None:
    """Request a full pass."""


async def _unfixable(world: World, sweeper: Sweeper) -> bool:
    await sweeper.tick()
    return "not-fenceable" in [entry["reason"] for entry in await world.trail()]


async def test_hints_of_live_jobs_are_forgotten_without_an_inspection(world: World) -> None:
    """None of them waits in the due queue."""
    async with worker(world.env(REACTOR_RECONCILE_INTERVAL="1h")):
        for number in range(20):
            await world.emit(number, "STARTED")
            await world.stream(f"job_{number}")
        await eventually(lambda: has_records(world, 19))
        await eventually(lambda: nothing_hinted(world))
        assert not await world.redis.exists(f"{world.namespace}:due")
        assert len(await world.names()) == 20


async def nothing_hinted(world: World) -> bool:
    return not await world.redis.zcard(f"{world.namespace}:hints")


async def test_all_replicas_together_keep_the_rate(world: World) -> None:
    """Three of them, and twenty zombies at ten a second: the last is deleted at least 1.9 s after the first."""
    env = world.env(REACTOR_SWEEP_MAX_RATE="10", REACTOR_POLICY_TERMINAL_GRACE="1s")
    subscription = await world.nc.subscribe("reactor.drained.*")
    async with worker(env), worker(env), worker(env):
        for number in range(20):
            await world.zombie(number)
        at = []
        for _ in range(20):
            await subscription.next_msg(timeout=30)
            at.append(time.monotonic())
    assert at[-1] - at[0] >= 1.8  # nineteen spans, and what the way of a message may differ by


async def test_jobs_that_clean_up_take_nobodys_turn(world: World) -> None:
    """One deletion every ten minutes, and twenty healthy jobs before the zombie."""
    await world.declare()
    for number in range(20):
        await world.emit(number, "SUCCESS")
    await world.zombie(99)
    rate = f"{1 / 600:.6f}"
    async with worker(
        world.env(REACTOR_SWEEP_MAX_RATE=rate, REACTOR_SWEEP_CONCURRENCY=4, REACTOR_RECONCILE_INTERVAL="1h")
    ):
        await eventually(lambda: gone(world, "job_99"))


async def test_a_pattern_that_leaves_names_open_is_swept_by_those_there_are(world: World) -> None:
    """Two streams of a job. Neither name follows from its number alone."""
    pattern = r"^(?:job|task)_(?P<job_id>[0-9]+)$"
    async with worker(world.env(REACTOR_POLICY_STREAM_PATTERN=pattern)):
        await world.stream("job_1")
        await world.stream("task_1", subjects=["task.1"])
        await world.emit(1, "SUCCESS")
        await eventually(lambda: gone(world, "job_1"))
        await eventually(lambda: gone(world, "task_1"))


async def test_a_missing_jobs_stream_is_deleted_by_the_next_pass(world: World) -> None:
    """The sweeper requests a pass as soon as the guards have passed."""
    env = world.env(REACTOR_POLICY_AGE_GUARD="1s", REACTOR_RECONCILE_INTERVAL="1h")
    async with worker(env) as process:
        await world.emit(2, "STARTED")
        await world.stream("job_1")
        await eventually(lambda: gone(world, "job_1"), 30)
        assert await eventually(lambda: process.logged('"reason": "missing"'))


async def test_the_sweeper_never_acts_on_absence(world: World) -> None:
    """With one stream at a time the breaker sees nothing, so it requests a full pass."""
    await world.declare()
    await world.emit(2, "STARTED")
    await world.reconcile()
    await world.stream("job_1")
    wanted: list[bool] = []
    async with connections(world.load()) as connected:
        crew = UseCases(connected, await provision_safely(connected))
        await connected.ledger.due.schedule({"1": 0.0})

        async def request_pass() -> None:
            wanted.append(True)

        sweeper = crew.sweeper(request_pass)
        await eventually(lambda: _ticked(sweeper, wanted))
    assert await world.names() == {"job_1"}


async def _ticked(sweeper: Sweeper, wanted: list[bool]) -> bool:
    return await sweeper.tick() is None and bool(wanted)


async def test_an_event_is_acked_only_after_redis_has_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Redis refuses is delivered again."""
    monkeypatch.setattr("reactor.passes.subscribers.RETRY_S", 0.1)
    await world.declare()
    await world.emit(1, "STARTED")
    pull = await world.js.pull_subscribe_bind(consumer="reactor", stream="JOBS")
    async with connections(world.load()) as connected:
        crew = UseCases(connected, await provision_safely(connected))
        subscriber = await crew.lifecycle_subscriber()
        await world.redis.hset(f"{world.namespace}:ledger", "stream", "another")
        await subscriber.handle(await pull.fetch(1, timeout=5))
        assert not await has_records(world, 1)
        assert not await acked(world)
        [again] = await pull.fetch(1, timeout=5)
    assert again.metadata.num_delivered == 2


async def test_poison_is_kept_whole_and_stops_nobody(world: World) -> None:
    """Malformed, mismatched and oversized: terminated, counted, logged."""
    poison = {
        "jobs.lifecycle.11": b"not json",
        "jobs.lifecycle.12": json.dumps({"job_id": 99, "status": "SUCCESS"}).encode(),
        "jobs.lifecycle.13": json.dumps({"job_id": 13, "status": "SUCCESS", "pad": "x" * MAX_BYTES}).encode(),
        "jobs.lifecycle.14": b"\x00\xff" * 500_000 + b"end",
        "jobs.lifecycle.15": b"",
    }
    async with worker(world.env()) as process:
        for number in (11, 13):
            await world.stream(f"job_{number}")
        for subject, data in poison.items():
            await world.publish(subject, data)
        await world.zombie(1)
        await eventually(lambda: gone(world, "job_1"))
        await eventually(lambda: acked(world))
        letters = await world.dead_letters()
        for subject, data in poison.items():
            parts = [(headers, body) for headers, body in letters if headers["Reactor-Subject"] == subject]
            assert b"".join(body for _, body in parts) == data
            assert all(headers["Reactor-Reason"] and int(headers["Reactor-Sequence"]) for headers, _ in parts)
        await eventually(lambda: sum(malformed_counts(process)) == len(poison))
        assert await world.names() == {"job_11", "job_13"}


def malformed_counts(process: WorkerProcess) -> list[int]:
    """Return how many malformed events each line reports."""
    lines = [json.loads(line) for line in process.lines if "malformed, kept" in line]
    return [line["messages"] for line in lines]


async def test_sigterm_stops_it_within_seconds(world: World) -> None:
    """With exit code 0, whatever it was doing."""
    for first, number in ((0, signal.SIGTERM), (20, signal.SIGINT)):
        async with worker(world.env()) as process:
            for job in range(first, first + 20):
                await world.zombie(job)
            assert await asyncio.wait_for(process.stop(number), 10) == 0
            assert await eventually(lambda: process.logged("worker stopped"))


async def test_it_waits_for_its_servers_and_can_be_stopped_there(world: World) -> None:
    """Neither a crash nor a hang."""
    env = world.env(REACTOR_NATS_URL="nats://127.0.0.1:1", REACTOR_REDIS_URL="redis://127.0.0.1:1/0")
    async with worker(env, until="waiting for NATS and Redis") as process:
        assert await asyncio.wait_for(process.stop(), 10) == 0


async def test_it_survives_its_servers(tmp_path: Path) -> None:
    """Both away at start, then each away for some time. It continues by itself, and nothing was lost."""
    async with own_world(tmp_path) as (world, nats, valkey):
        await nats.stop()
        await valkey.stop()
        async with worker(world.env(), until="waiting for NATS and Redis") as process:
            await nats.start()
            await valkey.start()
            await eventually(lambda: process.logged("worker started"), 30)
            await world.zombie(1)
            await eventually(lambda: gone(world, "job_1"))

            await valkey.stop()
            await world.zombie(2)
            await eventually(lambda: process.logged("are redelivered soon"), 20)
            await valkey.start()
            await eventually(lambda: gone(world, "job_2"), 40)

            await nats.stop()
            await eventually(lambda: process.logged("failed, trying again"), 30)
            await nats.start()
            await eventually(lambda: world.nc.is_connected, 20)
            await world.zombie(3)
            await eventually(lambda: gone(world, "job_3"), 40)
            assert process.process.returncode is None


@pytest.mark.parametrize("what", ["durable", "stream"])
async def test_a_deleted_durable_or_stream_is_made_again(world: World, what: str) -> None:
    """Without a restart, and without spinning."""
    async with worker(world.env()) as process:
        await world.zombie(1)
        await eventually(lambda: gone(world, "job_1"))
        if what == "durable":
            await world.js.delete_consumer("JOBS", "reactor")
        else:
            await world.js.delete_stream("JOBS")
        await eventually(lambda: process.logged("it is created again"), 20)
        await eventually(lambda: world.info("JOBS"))
        await world.zombie(2)
        await eventually(lambda: gone(world, "job_2"), 20)
        assert process.process.returncode is None


async def test_subscribers_that_cannot_start_are_started_later(world: World) -> None:
    """NATS was there a moment ago, and is a moment later."""
    code = """
import nats.errors
from nats.js import JetStreamContext

real = JetStreamContext.pull_subscribe

async def fails(self, *_, **__):
    JetStreamContext.pull_subscribe = real
    raise nats.errors.TimeoutError

JetStreamContext.pull_subscribe = fails
"""
    async with worker(world.env(), code=code) as process:
        await world.zombie(1)
        await eventually(lambda: gone(world, "job_1"), 30)
        assert process.logged("could not start, trying again")


async def test_a_pass_that_is_wanted_during_a_pass_comes_after_it(world: World) -> None:
    """The current one may have listed before. A request before it began is served by it."""
    async with connections(world.load()) as connected:
        passes = connected.ledger.passes
        await passes.request_pass()
        first, _ = await passes.begin_pass(30)
        assert first
        await passes.request_pass()
        await passes.end_pass(first, 3600)
        second, _ = await passes.begin_pass(30)
        assert second
        await passes.end_pass(second, 3600)
        assert (await passes.begin_pass(30))[0] is None


async def test_streams_that_others_keep_are_used_as_they_are(world: World) -> None:
    """One that captures the lifecycle events, one that captures every advisory."""
    await world.stream("theirs", subjects=["jobs.>"])
    await world.stream("advisories", subjects=["$JS.EVENT.ADVISORY.>"])
    before = [(await world.info(name) or {})["config"] for name in ("theirs", "advisories")]
    async with worker(world.env()):
        await world.emit(1, "SUCCESS")
        await eventually(lambda: has_records(world, 1))
        await world.stream("job_1")
        await eventually(lambda: gone(world, "job_1"))
        assert [(await world.info(name) or {})["config"] for name in ("theirs", "advisories")] == before
        assert await world.info("JOBS") is None
        assert await world.info("REACTOR_ADVISORIES") is None


async def test_advisories_split_between_streams_are_received(world: World) -> None:
    """A job system's dead-letter stream captures a part of them."""
    await world.stream("dlq", subjects=["$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>"])
    async with worker(world.env()):
        await world.emit(1, "STARTED")
        await world.stream("job_1", messages=1)
        pull = await world.js.pull_subscribe_bind(consumer=await world.consumer("job_1", ack_wait=0.05), stream="job_1")
        for _ in range(2):
            await pull.fetch(1, timeout=5)
        with pytest.raises(TimeoutError):
            await pull.fetch(1, timeout=0.5)
        count = f"{world.namespace}:deliveries:1"
        assert await eventually(lambda: world.redis.hgetall(count)) == {"max_deliveries": "1"}


async def test_a_part_of_the_lifecycle_subject_captured_by_others_is_said(world: World) -> None:
    """Two streams cannot capture the same subject, and reactor does not alter foreign ones."""
    await world.stream("theirs", subjects=["jobs.lifecycle.5"])
    done = await world.reactor("worker")
    assert done.code == 1
    assert "theirs captures a part of jobs.lifecycle.*" in done.err
    assert "Traceback" not in done.err


async def test_a_subscriber_that_dies_takes_the_process_down(world: World) -> None:
    """With a non-zero exit code and a clear last line, not as a living shell."""
    patched = "import reactor.worker.app as app, reactor.worker.watchdog as w; w.SILENT_S = -1; app.WATCH_S = 0.1"
    code = f"{patched}; from reactor.cli.main import main; main()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, "worker"),
        env=world.env() | {"PYTHONPATH": str(ROOT)},
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert "has asked for no messages" in err.decode().splitlines()[-1]


async def test_a_loop_that_dies_takes_the_process_down(world: World) -> None:
    """An unexpected error is not swallowed."""
    code = (
        "import reactor.passes.sweeper as s; from reactor.cli.main import main\n"
        "async def tick(self): raise KeyError('nobody thought of this')\n"
        "s.Sweeper.tick = tick; main()"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, "worker"),
        env=world.env() | {"PYTHONPATH": str(ROOT)},
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert "worker died" in err.decode().splitlines()[-1]
    assert "nobody thought of this" in err.decode()


async def test_unknown_statuses_and_durables_are_reported_once(world: World) -> None:
    """A mistyped end looks like a live job. A durable that differs is used as it is."""
    await world.stream("JOBS", subjects=["jobs.lifecycle.*"])
    await world.consumer("JOBS", "reactor", ack_policy=AckPolicy.EXPLICIT)
    async with worker(world.env()) as process:
        for number in range(3):
            await world.emit(number, "SUCCES")
        await eventually(lambda: has_records(world, 0, 1, 2))
        await eventually(lambda: process.logged("unknown status, the job counts as live"))
        assert sum("unknown status" in line for line in process.lines) == 1
        assert await eventually(lambda: process.logged("max_deliver is 2, not -1"))


async def test_faststream_runs_the_same_worker(world: World) -> None:
    """`faststream run reactor.app:app`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "faststream", "run", "reactor.app:app"),
        env=world.env() | {"PYTHONPATH": str(ROOT)},
        cwd=tempfile.gettempdir(),
        stderr=asyncio.subprocess.PIPE,
    )
    worker_process = WorkerProcess(process)
    listening = asyncio.create_task(worker_process.listen())
    await eventually(lambda: worker_process.logged("worker started"), 30)
    await world.zombie(1)
    await eventually(lambda: gone(world, "job_1"))
    assert await worker_process.stop() == 0
    await listening


async def test_a_users_mistake_stops_faststream_too(world: World) -> None:
    """One line, exit code 2."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "import reactor.app; reactor.app.app"),
        env=world.env(REACTOR_POLICY_AGE_GAURD="1h") | {"PYTHONPATH": str(ROOT)},
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()
    assert process.returncode == 2
    assert "did you mean REACTOR_POLICY_AGE_GUARD" in err.decode()


async def test_a_worker_brings_its_own_servers(tmp_path: Path) -> None:
    """On the ports of the default URLs, or configured ones. Their data is kept."""
    nats_port, redis_port = free_port(), free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("REACTOR_")} | {
        "REACTOR_NATS_URL": f"nats://{HOST}:{nats_port}",
        "REACTOR_REDIS_URL": f"redis://{HOST}:{redis_port}/0",
        "REACTOR_LOG_FORMAT": "json",
    }
    for status in ("STARTED", "RETRY"):
        async with worker(env, "--embedded", "--data-dir", str(tmp_path)) as process:
            async with connected(env["REACTOR_NATS_URL"], env["REACTOR_REDIS_URL"], "reactor") as world:
                done = await reactor("emit", "1", status, env=env)
                assert done.out == f"job 1 {status}: JOBS:{1 if status == 'STARTED' else 2}\n"
                await eventually(partial(has_records, world, 1))
            assert await process.stop() == 0


async def test_a_job_that_ends_again_and_again_is_forgotten_at_last(world: World) -> None:
    """A terminal record expires when its stream is gone. A live one never does."""
    async with worker(world.env()):
        await world.zombie(1)
        await world.emit(2, "STARTED")
        await eventually(lambda: gone(world, "job_1"))
        await eventually(lambda: has_records(world, 1, 2))
        assert await eventually(lambda: _expires(world, 1))
        assert not await _expires(world, 2)
        await world.emit(1, "STARTED")
        await eventually(lambda: _lives_again(world))


async def _expires(world: World, job: int) -> bool:
    return int(await world.redis.ttl(f"{world.namespace}:job:{job}")) > 0


async def _lives_again(world: World) -> bool:
    return not await _expires(world, 1)


async def test_redis_emptied_under_a_running_worker(world: World) -> None:
    """No drain until it is rebuilt by itself. Then ended jobs' streams are deleted, running ones' are not."""
    async with worker(world.env()):
        for number in range(100):
            await world.emit(number, "STARTED")
            await world.stream(f"job_{number}")
        await eventually(lambda: has_records(world, *range(100)))
        keys = [key async for key in world.redis.scan_iter(f"{world.namespace}:*")]
        await world.redis.delete(*keys)
        await eventually(lambda: has_records(world, *range(100)), 20)
        await world.emit(7, "SUCCESS")
        await eventually(lambda: gone(world, "job_7"))
        assert len(await world.names()) == 99


async def test_two_replicas_share_the_work(world: World) -> None:
    """Each stream is drained once, by one of them."""
    async with worker(world.env()), worker(world.env()):
        for number in range(150):
            await world.zombie(number, messages=0)
        await eventually(lambda: gone(world, *(f"job_{n}" for n in range(150))), 30)
        await eventually(lambda: acked(world))
        outcomes = await eventually(lambda: all_concluded(world))
        assert sorted(stream for stream, _ in outcomes) == sorted(f"job_{n}" for n in range(150))
        assert {outcome for _, outcome in outcomes} == {"drained"}


async def test_a_refusal_is_tried_again(world: World) -> None:
    """Less and less often, also if the refused deletion has happened after all."""
    denied = {"on": True}

    def change(verb: str, answer: dict[str, Any]) -> dict[str, Any]:
        if denied["on"] and verb.startswith("STREAM.UPDATE"):
            return {"error": {"code": 500, "err_code": 10052, "description": "no update today"}}
        return answer

    async with relayed(world, change) as relay, worker(relay.env(REACTOR_SWEEP_LEASE="2s")) as process:
        await world.zombie(1)
        await eventually(lambda: process.logged("no update today"))
        assert await world.names() == {"job_1"}
        denied["on"] = False
        await eventually(lambda: gone(world, "job_1"), 30)
