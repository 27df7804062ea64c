"""What others do to reactor: recreated streams, invalid bytes, garbage in Redis, forged fences, limits, names."""

import asyncio
import json
import signal
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig
from support.bench import Bench
from support.harness import (
    ROOT,
    Served,
    WorkerProcess,
    World,
    acked,
    connected,
    eventually,
    gone,
    has_records,
    own_nats,
    own_valkey,
    own_world,
    print_figure,
    served,
    worker,
)

from reactor.cli.embedded import HOST, free_port
from reactor.config.nats_options import nats_options
from reactor.core.model import SECOND, Outcome, Reason, format_instant, parse_instant
from reactor.core.pause import pausing
from reactor.core.stream_info import FENCE_TOKEN_KEY, FENCE_UNTIL_KEY
from reactor.deletion.failpoints import Point
from reactor.jetstream.client import JetStream
from reactor.jetstream.errors import Refused
from reactor.jetstream.topology import PAUSE_SUBJECT

SHORT_LEASE = {"REACTOR_SWEEP_LEASE": "2s", "REACTOR_RECONCILE_INTERVAL": "1s"}


async def test_a_lifecycle_stream_made_again_under_a_worker_is_read(world: World) -> None:
    """Even if another client created it with its durable before the watchdog noticed."""
    async with worker(world.env()):
        await world.zombie(1)
        await eventually(lambda: gone(world, "job_1"))
        stream, durable = await world.info("JOBS"), await world.api("CONSUMER.INFO.JOBS.reactor")
        assert stream is not None
        await world.js.delete_stream("JOBS")
        await world.api("STREAM.CREATE.JOBS", stream["config"])
        request = {"stream_name": "JOBS", "config": durable["config"]}
        await world.api("CONSUMER.DURABLE.CREATE.JOBS.reactor", request)
        await world.zombie(2)
        await eventually(lambda: gone(world, "job_2"), 30)
        await eventually(
            lambda: _is_of_another(world, stream["created"]), 30
        )  # from here on the old one's events are refused
        await world.emit(3, "STARTED")
        await eventually(lambda: has_records(world, 3), 20)
        await eventually(lambda: acked(world), 20)


async def _is_of_another(world: World, former: str) -> bool:
    """Return whether the ledger belongs to the new stream."""
    owner = await cast("Any", world.redis.hget(f"{world.namespace}:ledger", "stream"))
    return bool(owner) and former not in owner


async def raw_publish(world: World, subject: bytes, body: bytes) -> None:
    """Publish like a client that ignores UTF-8."""
    url = urlsplit(world.nats_url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    await reader.readline()
    connect = {"user": url.username, "pass": url.password, "verbose": False}
    writer.write(b"CONNECT " + json.dumps(connect).encode() + b"\r\n")
    writer.write(b"PUB " + subject + f" {len(body)}\r\n".encode() + body + b"\r\nPING\r\n")
    assert await reader.readline() == b"PONG\r\n"
    writer.close()


async def test_a_subject_that_is_no_text_costs_one_dead_letter(world: World) -> None:
    """The worker continues, is ready, and can rebuild its ledger past it."""
    async with served(world) as at:
        await raw_publish(world, b"jobs.lifecycle.\xff\xfe", b'{"job_id": "x", "status": "SUCCESS"}')
        await world.zombie(1)
        await eventually(lambda: gone(world, "job_1"))
        await eventually(lambda: acked(world))
        [(headers, body)] = await eventually(world.dead_letters)
        assert headers["Reactor-Subject"] == r"jobs.lifecycle.\xff\xfe"
        assert json.loads(body)["job_id"] == "x"
        assert await at.is_ready()
        for key in [key async for key in world.redis.scan_iter(f"{world.namespace}:*")]:
            await world.redis.delete(key)
        await eventually(lambda: has_records(world, 1), 20)
        await world.zombie(2)
        await eventually(lambda: gone(world, "job_2"), 20)


READER_DIES = """
import reactor.worker.watchdog, reactor.jetstream.connection as js
reactor.worker.watchdog.STALLED_S = 1.0
read, met = js.TolerantClient._build_message, []
def die_once(self, sid, subject, *rest):
    if subject == b"jobs.lifecycle.999" and not met:
        met.append(1 / 0)
    return read(self, sid, subject, *rest)
js.TolerantClient._build_message = die_once
"""


async def test_a_subscriber_that_receives_nothing_reconnects(world: World) -> None:
    """Whatever ended the reading: events wait, and none is acked. Until then the worker is not ready."""
    code = READER_DIES.replace("met.append(1 / 0)", "met.append(1); raise ZeroDivisionError")
    await world.declare()
    await world.js.delete_consumer("JOBS", "reactor")  # what the dead reader was given comes again after 2 s, not 30
    durable = ConsumerConfig(durable_name="reactor", ack_wait=2, ack_policy=AckPolicy.EXPLICIT)
    await world.js.add_consumer("JOBS", durable)
    port = free_port()
    async with worker(world.env(REACTOR_HTTP_PORT=port), code=code) as process:
        at = Served(f"http://{HOST}:{port}", process)
        await eventually(at.is_ready)
        await eventually(lambda: process.logged("reconcile done"))  # which reads, too, over a connection of its own
        await world.emit(999, "STARTED")
        await eventually(lambda: process.logged("encountered error"))
        await world.zombie(1)
        _, problem = await eventually(lambda: _not_ready(at), 20)
        assert "none was acked" in problem["reasons"][0]
        await eventually(lambda: process.logged("reconnecting"), 20)
        await eventually(lambda: gone(world, "job_1"), 20)


async def _not_ready(at: Served) -> tuple[int, Any] | None:
    code, problem = await at.get("/readyz")
    return (code, problem) if code != 200 else None


async def test_a_job_systems_own_stream_of_advisories_always_succeeds(world: World) -> None:
    """Created before reactor or after it. Hints arrive all the same."""
    async with worker(world.env(REACTOR_RECONCILE_INTERVAL="1h")):
        await world.stream("advisories", subjects=["$JS.EVENT.ADVISORY.>"])
        await world.emit(1, "SUCCESS")
        await eventually(lambda: has_records(world, 1))
        await world.stream("job_1")  # only its CREATED tells the worker to look
        await eventually(lambda: gone(world, "job_1"))


Spoil = Callable[[World, str], Awaitable[object]]


async def _wrong_type(world: World, key: str) -> None:
    async with world.redis.pipeline() as both:  # in one, lest a worker writes between
        both.delete(key)
        both.lpush(key, "x")
        await both.execute()


async def _no_text(world: World, key: str) -> None:
    await world.redis.set(key, b"\xff\xfe\x00 no text")


KEYS = (
    *("due", "hints", "ledger", "job:1", "attempts", "intents", "audit", "last_pass", "passed", "deliveries:1"),
    *("sourced", "advisory_streams", "surveyed"),
)
LEASES = ("lease:stream:job_1", "lease:reconcile", "lease:rebuild")
TEXTS = ("job:1", "job:2", "last_pass", "pass", *LEASES)


def _on(spoil: Spoil, key: str) -> Spoil:
    return lambda world, namespace: spoil(world, f"{namespace}:{key}")


GARBAGE: dict[str, Spoil] = {
    **{f"{key} of another type": _on(_wrong_type, key) for key in (*KEYS, *LEASES)},
    **{f"{key} no text": _on(_no_text, key) for key in TEXTS},
    "numbers that are none": lambda world, namespace: cast(
        "Any", world.redis.hset(f"{namespace}:ledger", mapping={"applied": "many", "since": "-", "events": "?"})
    ),
    "intents without JSON": lambda world, namespace: cast(
        "Any", world.redis.hset(f"{namespace}:intents", "job_1", "{")
    ),
    "an audit of others": lambda world, namespace: world.redis.xadd(f"{namespace}:audit", {"evidence": "{", "x": "y"}),
    "attempts that are no numbers": lambda world, namespace: cast(
        "Any", world.redis.hset(f"{namespace}:attempts", "1", "often")
    ),
}


@pytest.mark.parametrize("what", list(GARBAGE))
async def test_garbage_in_redis_is_lost_history(world: World, what: str) -> None:
    """Passes alone notice it and rebuild: zombies are deleted, live jobs' streams are not."""
    await world.declare()
    await world.stream("job_2", messages=1)
    await world.emit(2, "STARTED")
    await world.zombie(1)
    await world.reconcile(REACTOR_POLICY_AGE_GUARD="1h")
    await GARBAGE[what](world, world.namespace)
    await eventually(lambda: _passed_and_gone(world), 20)
    assert await world.verdicts() == {"job_2": ("kept", "running")}


@pytest.mark.parametrize("spoil", [_wrong_type, _no_text])
async def test_a_worker_survives_garbage_under_every_key(world: World, spoil: Spoil) -> None:
    """It is logged, and the ledger is rebuilt. Every command answers."""
    async with worker(world.env(REACTOR_RECONCILE_INTERVAL="1s")) as process:
        await world.emit(2, "STARTED")
        await world.stream("job_2", messages=1)
        await world.zombie(1)
        await eventually(lambda: gone(world, "job_1"))
        for key in (*KEYS, *LEASES, *TEXTS):
            await spoil(world, f"{world.namespace}:{key}")
        await eventually(lambda: process.logged("Redis had values that reactor did not write"), 20)
        await world.zombie(3)
        await eventually(lambda: gone(world, "job_3"), 30)
        await GARBAGE["numbers that are none"](world, world.namespace)
        await world.zombie(4)
        await eventually(lambda: gone(world, "job_4"), 30)
        for command in ("status", "history", "explain job_2", "doctor"):
            # what was spoilt while the worker tidied up waits for its next look
            await eventually(lambda command=command: _answers(world, command), 30)  # type: ignore[misc]
        assert process.process.returncode is None
    assert await world.names() == {"job_2"}


async def _answers(world: World, command: str) -> bool:
    return (await world.reactor(*command.split(), "--json")).code == 0


async def _passed_and_gone(world: World) -> bool:
    await world.reconcile()
    return await gone(world, "job_1")


async def test_fence_metadata_changes_nothing_on_a_live_stream(world: World) -> None:
    """Forged, or copied with a config: only the subject with its token makes a fence."""
    await world.declare()
    soon = format_instant(parse_instant("2026-01-01T00:00:00Z"))
    metadata = {FENCE_TOKEN_KEY: "t", FENCE_UNTIL_KEY: soon, "reactor.fence.subjects": '["elsewhere"]'}
    for number, status in ((1, "STARTED"), (2, "SUCCESS")):
        await world.stream(f"job_{number}", metadata=metadata, messages=1)
        await world.emit(number, status)
    assert await world.verdicts() == {"job_1": ("kept", "running"), "job_2": ("drained", "terminal")}
    info = await world.info("job_1")
    assert info is not None
    assert info["config"]["subjects"] == ["job.1.tasks"]


async def test_a_fence_for_longer_than_any_lease_is_unreadable(world: World) -> None:
    """Otherwise a forged one would keep a stream without end."""
    await world.declare()
    metadata = {
        FENCE_TOKEN_KEY: "t",
        FENCE_UNTIL_KEY: "2999-01-01T00:00:00Z",
        "reactor.fence.subjects": '["job.1.tasks"]',
    }
    await world.stream("job_1", subjects=["reactor.fence.job_1.t"], metadata=metadata)
    await world.emit(1, "SUCCESS")
    assert await world.verdicts() == {"job_1": ("unfixable", "fence-unreadable")}


async def test_subjects_that_another_stream_has_taken_are_a_persons_business(world: World) -> None:
    """The report and the doctor name them. They are restored as soon as they are free."""
    async with Bench(world, lease_s=0.3) as bench:
        await world.zombie(1, messages=2)

        async def take() -> None:
            await world.stream("thief", subjects=["job.1.tasks"])
            await world.emit(1, "STARTED")
            raise asyncio.CancelledError

        bench.effects.before["barrier"] = take
        with pytest.raises(asyncio.CancelledError):
            await bench.drain()
    report = await eventually(lambda: _reported(world, "refused"))
    assert "cannot get job.1.tasks back" in report["streams"][0]["detail"]
    assert report["unfixable"] == 1
    diagnosis = json.loads((await world.reactor("doctor", "--json")).out)
    [check] = [item for item in diagnosis["checks"] if item["name"] == "streams.fenced"]
    assert (check["level"], "job_1 cannot get its subject back from thief" in check["found"]) == ("error", True)
    await world.js.delete_stream("thief")
    await eventually(lambda: _reported(world, "running"))
    info = await world.info("job_1")
    assert info is not None
    assert (info["config"]["subjects"], info["state"]["messages"]) == (["job.1.tasks"], 2)


async def _reported(world: World, reason: str) -> dict[str, Any] | None:
    report = await world.reconcile()
    return report if report["streams"][0]["reason"] == reason else None


LIFTED: dict[str, dict[str, Any]] = {
    "no_ack": {"no_ack": True},
    "full": {"discard": "new", "max_msgs": 2},
    "full of bytes": {"discard": "new", "max_bytes": 160},
    "full by subject": {"discard": "new", "discard_new_per_subject": True, "max_msgs_per_subject": 2},
    "tiny": {"max_msg_size": 8},
    "transformed": {"subject_transform": {"src": "job.1.tasks", "dest": "job.1.work"}},
    "sent on": {"republish": {"src": "job.1.tasks", "dest": "copies.1"}},
    "work queue": {"retention": "workqueue"},
    "interest": {"retention": "interest"},
    "locked": {"deny_delete": True, "deny_purge": True},
}


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("odd", list(LIFTED))
async def test_what_would_keep_the_barrier_from_being_answered_is_lifted(
    world: World,
    odd: str,
    kept: bool,  # noqa: FBT001  # a table
) -> None:
    """The stream is deleted. If its job is live after all, everything is restored exactly."""
    config = {"name": "job_1", "subjects": ["job.1.tasks"], "metadata": {"theirs": "stays"}} | LIFTED[odd]
    async with Bench(world) as bench:
        answer = await world.api("STREAM.CREATE.job_1", config)
        assert "error" not in answer, answer
        before = answer["config"]
        for _ in range(2):
            await world.nc.publish("job.1.tasks", b"x")
        await eventually(lambda: _last_seq(world, 2))  # one of them acknowledges nothing
        await world.emit(1, "SUCCESS")
        if kept:
            bench.reads.before["STREAM.INFO.JOBS"] = lambda: _pause_if_fenced(world, before)
            settlement = await bench.drain()
            assert settlement.reason is Reason.PAUSED, settlement
            after = await world.info("job_1")
            assert after is not None
            assert after["config"] == before
        else:
            settlement = await bench.drain()
            assert settlement.outcome is Outcome.DRAINED, settlement


async def _last_seq(world: World, seq: int) -> bool:
    info = await world.info("job_1")
    return info is not None and bool(info["state"]["last_seq"] == seq)


async def _pause_if_fenced(world: World, config: dict[str, Any]) -> None:
    """Pause behind the fence, so that the barrier is sent and the fence is removed."""
    info = await world.info("job_1")
    assert info is not None
    assert info["config"]["subjects"] != config["subjects"]
    await world.publish(PAUSE_SUBJECT, pausing("an operator", "a reason", None))


REFUSAL: dict[str, Any] = {
    "error": {"code": 400, "err_code": 10071, "description": "wrong last sequence: 7"},
    "stream": "job_1",
}


ANSWERS: dict[str, tuple[Any, int | None]] = {
    "the stream's own": (REFUSAL, 7),
    "another stream": (REFUSAL | {"stream": "job_2"}, None),
    "other words": (REFUSAL | {"error": REFUSAL["error"] | {"description": "a wrong last sequence: 7!"}}, None),
    "without a number": ({"error": {"code": 400, "err_code": 10164, "description": "wrong"}, "stream": "job_1"}, None),
    "another error": (REFUSAL | {"error": {"code": 400, "err_code": 10077, "description": "full"}}, None),
    "stored": ({"stream": "job_1", "seq": 8}, None),
    "odd": ({"error": "wrong last sequence: 7"}, None),
    "a list": ([], None),
    "nested too deeply": ("[" * 100_000, None),
    "no JSON": ("no", None),
}


@pytest.mark.parametrize(("answer", "end"), ANSWERS.values(), ids=ANSWERS)
async def test_an_answer_that_is_not_the_streams_own_proves_nothing(world: World, answer: Any, end: int | None) -> None:
    """Anyone may subscribe to the subject of a fence."""

    async def reply(msg: Msg) -> None:
        await msg.respond(answer.encode() if isinstance(answer, str) else json.dumps(answer).encode())

    await world.nc.subscribe("reactor.fence.job_1.token", cb=reply)
    await world.nc.flush()
    js = JetStream(nats_options(world.load().nats))
    if end is None:
        with pytest.raises(Refused):
            await js.barrier("job_1", "reactor.fence.job_1.token")
    else:
        assert await js.barrier("job_1", "reactor.fence.job_1.token") == end
    await js.close()


async def test_a_forged_fence_gives_back_nothing_but_its_two_keys(world: World) -> None:
    """It may claim that a name, a limit or a policy was lifted. No stream gets any of it."""
    await world.declare()
    await world.stream("ORDERS", subjects=["orders"], messages=3)
    forged = {"name": "ORDERS", "max_msgs": 1, "discard": "new", "no_ack": True, "max_msg_size": "big"}
    metadata = {
        FENCE_TOKEN_KEY: "t",
        FENCE_UNTIL_KEY: "2026-01-01T00:00:00Z",
        "reactor.fence.subjects": '["job.1.tasks"]',
        "reactor.fence.lifted": json.dumps(forged),
    }
    await world.stream("job_1", subjects=["reactor.fence.job_1.t"], metadata=metadata, messages=2)
    orders = (await world.info("ORDERS") or {})["config"]
    await world.emit(1, "STARTED")
    assert await world.verdicts() == {"job_1": ("kept", "running")}
    assert (await world.info("ORDERS") or {})["config"] == orders
    info = await world.info("job_1")
    assert info is not None
    config = {key: info["config"].get(key) for key in ("subjects", "max_msgs", "discard", "no_ack", "max_msg_size")}
    assert config == {
        "subjects": ["job.1.tasks"],
        "max_msgs": -1,
        "discard": "old",
        "no_ack": True,  # the one key of its own: the worst that a forger can do is to silence the stream
        "max_msg_size": -1,
    }
    assert info["state"]["messages"] == 2


async def test_a_stream_that_holds_more_than_its_limits_loses_nothing(world: World) -> None:
    """Lifting its refusal would discard old messages. It stays unchanged."""
    async with Bench(world) as bench:
        await world.stream("job_1", messages=5)
        raw = (await world.info("job_1") or {})["config"] | {"discard": "new", "max_msgs": 3}
        answer = await world.api("STREAM.UPDATE.job_1", raw)
        held = answer["state"]["messages"]
        await world.emit(1, "SUCCESS")
        await bench.drain()
        info = await world.info("job_1")
        assert info is None or info["state"]["messages"] == held


async def test_a_paused_replica_does_not_lift_anothers_fence(world: World) -> None:
    """It was suspended between inspection and fence. Meanwhile another replica took over, fenced, and is deleting."""
    await world.declare()
    async with worker(world.env(**SHORT_LEASE), armed=(Point.INSPECTED, "stop")) as first:
        await world.zombie(1)
        await eventually(lambda: _is_held(first))
        await eventually(lambda: _free(world))
        patient = world.env(**SHORT_LEASE | {"REACTOR_SWEEP_LEASE": "30s"})
        async with worker(patient, armed=(Point.PROVEN, "stop")) as second:
            await eventually(lambda: _is_held(second), 20)
            before = await world.info("job_1")
            first.process.send_signal(signal.SIGCONT)
            await eventually(lambda: first.logged("lease ran out before the fence"), 20)
            assert (await world.info("job_1") or {})["config"] == (before or {})["config"]
            second.process.send_signal(signal.SIGCONT)
            await eventually(lambda: gone(world, "job_1"), 20)


def _is_held(process: WorkerProcess) -> bool:
    return Path(f"/proc/{process.process.pid}/stat").read_text().split(") ")[1].startswith("T")


async def _free(world: World) -> bool:
    return not await world.redis.exists(f"{world.namespace}:lease:stream:job_1")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_an_interrupted_pass_finishes_what_is_fenced(world: World, number: signal.Signals, code: int) -> None:
    """It prints its report, and no stream stays fenced."""
    await world.declare()
    for job in range(30):
        await world.zombie(job)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "reactor", "reconcile", "--json"),
        env=world.env(REACTOR_SWEEP_MAX_RATE="5") | {"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    await eventually(lambda: _fallen(world, 30), 20)
    process.send_signal(number)
    out, err = await asyncio.wait_for(process.communicate(), 20)
    report = json.loads(out)
    assert process.returncode == code, err
    assert report["error"].startswith("interrupted")
    assert 0 < report["fixed"] < 30
    assert report["checked"] == 30
    left = await world.names()
    assert len(left) == 30 - report["fixed"]
    for name in left:
        assert (await world.info(name) or {})["config"]["subjects"] == [name.replace("_", ".") + ".tasks"]


async def _fallen(world: World, of: int) -> bool:
    return len(await world.names()) < of


@pytest.mark.parametrize("away", [False, True])
async def test_a_worker_stops_with_a_page_open(tmp_path: Path, away: bool) -> None:  # noqa: FBT001  # a table
    """With exit code 0 and no traceback, also while NATS is away."""
    async with own_world(tmp_path) as (world, nats_one, _), served(world) as at:
        with await asyncio.to_thread(urllib.request.urlopen, at.base + "/events", None, 20) as page:
            assert await asyncio.to_thread(page.readline)
            if away:
                await nats_one.stop()
                await eventually(lambda: at.process.logged("failed, trying again"), 30)
            assert await at.process.stop() == 0
        assert not [line for line in at.process.lines if "Traceback" in line]


async def test_the_endpoint_answers_for_its_own_names_only(world: World) -> None:
    """A web page whose name resolves to the endpoint reads nothing."""

    async def ask(name: str, path: str = "/api/status") -> int:
        reader, writer = await asyncio.open_connection(HOST, urlsplit(at.base).port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        status = await reader.readline()
        writer.close()
        return int(status.split()[1])

    async with served(world, REACTOR_HTTP_HOSTS="reactor.internal") as at:
        for name in ("localhost", "127.0.0.1:8080", "[::1]:80", "LOCALHOST", "reactor.internal"):
            assert await ask(name) == 200, name
        for name in ("evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "[", "reactor.internal.evil"):
            assert await ask(name) == 421, name
        assert await ask("evil.example", "/readyz") == 200
        assert (await at.get("/api/history?limit=0"))[0] == 400


async def test_what_does_not_fit_is_said_or_split(tmp_path: Path) -> None:
    """With a small max_payload: no broken connection, a dead letter in parts, a stream that is kept."""
    async with own_world(tmp_path, "max_payload: 1024\n") as (world, _, _):
        await world.declare()
        answer = await world.api(
            "STREAM.CREATE.job_1", {"name": "job_1", "subjects": ["job.1.tasks"], "description": "x" * 700}
        )
        assert "error" not in answer, answer
        await world.emit(1, "SUCCESS")
        await world.publish("jobs.lifecycle.2", b"no JSON" * 140)
        report = await world.reconcile()
        assert [(row["reason"], "max_payload" in row["detail"]) for row in report["streams"]] == [("refused", True)]
        letters = await world.dead_letters()
        assert len(letters) > 1
        assert b"".join(body for _, body in letters) == b"no JSON" * 140
        await world.zombie(3)
        assert (await world.verdicts())["job_3"] == ("drained", "terminal")


async def test_companions_of_streams_that_others_deleted_are_swept(world: World) -> None:
    """If their job is over. Those of a running job and foreign ones stay."""
    await world.declare()
    await world.stream("advisories", subjects=["$JS.EVENT.ADVISORY.CONSUMER.>"])
    for number, status in ((1, "SUCCESS"), (2, "STARTED")):
        await world.emit(number, status)
    for name in ("job-1-dlq", "job-2-dlq", "job-3-dlq", "other"):
        await world.js.add_consumer("advisories", ConsumerConfig(durable_name=name))
    await world.verdicts()
    assert set((await world.api("CONSUMER.NAMES.advisories"))["consumers"]) == {"job-2-dlq", "job-3-dlq", "other"}


async def test_a_retry_from_a_host_with_a_slow_clock_keeps_its_stream(world: World) -> None:
    """The STARTED is two seconds "older" than the FAILURE before it.

    It is disputed, reported, and settled by the next event.
    """
    await world.declare()
    await world.stream("job_1", messages=3)
    now = parse_instant((await world.info("job_1") or {})["ts"])
    await world.emit(1, "FAILURE", occurred_at=format_instant(now))
    await world.emit(1, "STARTED", occurred_at=format_instant(now - 2 * SECOND))
    assert await world.verdicts() == {"job_1": ("kept", "disputed")}
    explanation = json.loads((await world.reactor("explain", "job_1", "--json")).out)
    assert (explanation["verdict"], explanation["reason"]) == ("kept", "disputed")
    words = explanation["evidence"]["disputed"]
    assert (words["by_time"]["status"], words["by_sequence"]["status"]) == ("FAILURE", "STARTED")
    assert "FAILURE" in explanation["sentence"]
    assert "STARTED" in explanation["sentence"]
    doctor = json.loads((await world.reactor("doctor", "--json")).out)
    [check] = [item for item in doctor["checks"] if item["name"] == "ledger.disputes"]
    assert check["level"] == "warning"
    assert "job_1" in check["found"]
    assert "2 s behind" in check["found"]
    assert await world.verdicts(REACTOR_POLICY_DISPUTE_GUARD="0") == {"job_1": ("kept", "running")}
    await world.emit(1, "SUCCESS")
    assert await world.verdicts() == {"job_1": ("drained", "terminal")}


async def test_a_dispute_is_reported_once_and_measured(world: World) -> None:
    """In the log with both events, and as a metric. The stream stays."""
    async with served(world, REACTOR_RECONCILE_INTERVAL="1s") as at:
        await world.stream("job_1")
        await world.emit(1, "FAILURE")
        await world.emit(1, "STARTED", occurred_at="2026-01-01T00:00:00Z")
        lines = await eventually(lambda: [line for line in at.process.lines if "last events disagree" in line])
        assert "by time FAILURE" in lines[0]
        assert "by sequence STARTED" in lines[0]
        await eventually(lambda: _scraped(at, "reactor_streams_disputed 1.0"), 20)
        assert len([line for line in at.process.lines if "last events disagree" in line]) == 1
        assert await world.names() == {"job_1"}


async def _scraped(at: Any, line: str) -> bool:
    return line in str((await at.get("/metrics"))[1]).splitlines()


async def test_one_lost_event_does_not_make_a_job_missing(world: World) -> None:
    """Missing events alone count after a day without any sign of life; an operator's order counts at once."""
    await world.declare()
    await world.emit(9, "STARTED")
    await world.stream("job_1", messages=1)
    await world.consumer("job_1")
    verdicts = await world.verdicts(REACTOR_POLICY_MISSING_GUARD="24h")
    assert verdicts == {"job_1": ("waiting", "active")}
    report = await world.reconcile(assume_missing=True, REACTOR_POLICY_MISSING_GUARD="24h")
    assert [row["verdict"] for row in report["streams"]] == ["drained"]


async def test_a_stream_is_kept_while_it_is_worked_on_after_an_early_success(world: World) -> None:
    """The most common mistake of adopters. The doctor reports it."""
    await world.declare()
    await world.stream("job_1", messages=2)
    await world.emit(1, "SUCCESS")
    pull = await world.js.pull_subscribe_bind(consumer=await world.consumer("job_1"), stream="job_1")
    [message] = await pull.fetch(1, timeout=5)
    await message.ack_sync()
    verdicts = await world.verdicts(REACTOR_POLICY_IDLE_GUARD="1h")
    assert verdicts == {"job_1": ("waiting", "active")}
    doctor = json.loads((await world.reactor("doctor", "--json")).out)
    [check] = [item for item in doctor["checks"] if item["name"] == "ledger.early"]
    assert (check["level"], "job_1" in check["found"]) == ("warning", True)
    assert await world.verdicts() == {"job_1": ("drained", "terminal")}


async def test_an_emitters_unreadable_time_is_reported_once_a_source(world: World) -> None:
    """Its jobs still end."""
    async with worker(world.env()) as process:
        for number in (1, 2):
            await world.stream(f"job_{number}")
            await world.emit(number, "SUCCESS", occurred_at="2026-01-01 00:00:00", source="host-7")
        await eventually(lambda: gone(world, "job_1", "job_2"))
        lines = [line for line in process.lines if "time cannot be read" in line]
        assert len(lines) == 1
        assert "host-7" in lines[0]


async def test_dead_letters_are_bounded(world: World) -> None:
    """The oldest go first, and the limits are those of the settings."""
    await world.reconcile(REACTOR_EVENTS_DEAD_LETTERS_MAX_MSGS=5)
    for number in range(9):
        await world.publish(f"jobs.lifecycle.{number}", b"{")
    await world.reconcile()
    info = await world.info("REACTOR_DEAD_LETTERS")
    assert info is not None
    assert (info["config"]["max_msgs"], info["config"]["max_bytes"], info["config"]["discard"]) == (5, 256 << 20, "old")
    assert info["state"]["messages"] == 5


async def test_a_flood_of_what_cannot_be_read_is_a_line_a_batch(world: World) -> None:
    """The real event after it arrives."""
    await world.declare()
    for number in range(3000):
        await world.nc.publish(f"jobs.lifecycle.{number}", b"no JSON")
    await world.zombie(1)
    async with worker(world.env()) as process:
        await eventually(lambda: gone(world, "job_1"), 30)
        lines = [json.loads(line) for line in process.lines if "malformed, kept" in line]
        assert sum(line.get("messages", 0) for line in lines) <= 3000
        assert len(lines) <= 60


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_sixty_thousand_unreadable_events_before_a_real_one(world: World) -> None:
    """A worker finds all of them at its start: each becomes a dead letter, and the real one takes effect."""
    await world.declare()
    await world.stream("job_1")
    for number in range(60_000):
        await world.nc.publish(f"jobs.lifecycle.{number}", b"no JSON")
        if number % 1000 == 0:
            await world.nc.flush()
    await world.emit(1, "SUCCESS")
    async with worker(world.env(REACTOR_LOG_LEVEL="INFO")):
        start = time.monotonic()
        await eventually(lambda: gone(world, "job_1"), 120)
        print_figure(
            f"60,000 unreadable events: the real one behind them was acted on after {time.monotonic() - start:.1f} s"
        )
        await eventually(lambda: acked(world), 120)
    info = await world.info("REACTOR_DEAD_LETTERS")
    assert info is not None
    assert info["state"]["messages"] == 60_000


async def test_the_same_mistake_has_the_same_exit_code_everywhere(world: World) -> None:
    """Another stream captures a part of the lifecycle subject: 1, because a person must fix it."""
    await world.stream("theirs", subjects=["jobs.lifecycle.5"])
    for command in (("reconcile", "--json"), ("status",), ("explain", "job_1"), ("emit", "1", "SUCCESS"), ("worker",)):
        done = await world.reactor(*command)
        assert done.code == 1, (command, done)
        assert "Traceback" not in done.err


async def test_a_redis_that_takes_nothing_is_exit_3(world: World, tmp_path: Path) -> None:
    """Even if there is nothing to delete."""
    await world.declare()
    async with (
        own_valkey(tmp_path) as server,
        connected(world.nats_url, f"redis://{HOST}:{server.port}/0", world.namespace) as own,
    ):
        await own.reconcile()
        await own.redis.replicaof(HOST, "1")
        done = await own.reactor("reconcile", "--json")
    assert done.code == 3, done
    assert "read only" in json.loads(done.out)["error"]


async def test_an_emit_without_the_right_says_so(tmp_path: Path) -> None:
    """In one line."""
    user = '{ user: u, password: p, permissions: { publish: { deny: "jobs.>" } } }'
    async with (
        own_nats(tmp_path, f"accounts {{ A: {{ jetstream: enabled, users: [{user}] }} }}\n") as server,
        own_valkey(tmp_path) as valkey,
        connected(f"nats://u:p@{HOST}:{server.port}", f"redis://{HOST}:{valkey.port}/0", "r") as world,
    ):
        done = await world.reactor("emit", "1", "SUCCESS")
    assert done.code == 3
    assert "no permission to publish to jobs.lifecycle.1" in done.err
    assert len(done.err.splitlines()) == 1


async def test_a_stream_without_the_right_to_its_barrier_is_not_left_fenced(tmp_path: Path) -> None:
    """Deleting is paused, and the fence is removed."""
    user = '{ user: u, password: p, permissions: { publish: { deny: "reactor.fence.>" } } }, { user: all, password: p }'
    async with (
        own_nats(tmp_path, f"accounts {{ A: {{ jetstream: enabled, users: [{user}] }} }}\n") as server,
        own_valkey(tmp_path) as valkey,
        connected(f"nats://all:p@{HOST}:{server.port}", f"redis://{HOST}:{valkey.port}/0", "r") as world,
    ):
        world.settings["REACTOR_NATS_URL"] = f"nats://u:p@{HOST}:{server.port}"
        async with Bench(world) as bench:
            await world.zombie(1)
            settlement = await bench.drain()
            assert (settlement.outcome, settlement.reason) == (Outcome.UNFIXABLE, Reason.DELETES_PAUSED)
            await bench.whole()
        diagnosis = json.loads((await world.reactor("doctor", "--json")).out)
        [check] = [item for item in diagnosis["checks"] if item["name"] == "nats.deleting"]
        assert "reactor.fence.>" in check["found"]


async def test_an_unknown_parameter_of_the_redis_url_is_a_settings_error(world: World) -> None:
    """The error names it; exit code 2."""
    done = await world.reactor("status", REACTOR_REDIS_URL=world.redis_url + "?retries=3")
    assert done.code == 2
    assert "REACTOR_REDIS_URL: has a parameter that redis-py does not know: retries" in done.err
