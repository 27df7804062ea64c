"""An operator's orders: pause, resume, protect, unprotect; against real replicas."""

import json
from typing import Any

import pytest
from support.bench import Bench
from support.harness import Served, World, eventually, gone, served, worker

from reactor.core.model import SECOND, Outcome, Reason, format_instant, parse_instant
from reactor.deletion import failpoints
from reactor.deletion.failpoints import Point
from reactor.deletion.gates import PauseGate


async def test_nothing_is_deleted_while_deleting_is_paused(world: World) -> None:
    """Neither by events, nor passes, nor commands. Afterwards all zombies are deleted."""
    await world.declare()
    assert (await world.reactor("pause", "--reason", "a queue is gone")).code == 0
    async with served(world, REACTOR_RECONCILE_INTERVAL="1s") as at:
        for number in (1, 2):
            await world.zombie(number)
        status = await eventually(lambda: _zombies(at, 2))
        assert status["pause"]["reason"] == "a queue is gone"
        assert status["pause"]["until"] is None
        command = await world.reactor("reconcile", "--json")
        assert command.code == 4
        report = json.loads(command.out)
        assert (report["fixed"], report["waiting"], report["unfixable"]) == (0, 2, 0)
        assert {(row["verdict"], row["reason"], row["until"]) for row in report["streams"]} == {
            ("waiting", "paused", None)
        }
        assert "a queue is gone" in report["streams"][0]["detail"]
        assert (await world.reactor("reconcile", "--dry-run")).code == 0
        assert await world.names() == {"job_1", "job_2"}
        assert (await at.get("/readyz"))[0] == 200
        await eventually(lambda: _metric(at, "reactor_paused 1.0"))
        explained = json.loads((await world.reactor("explain", "job_1", "--json")).out)
        assert (explained["verdict"], explained["reason"]) == ("waiting", "paused")
        assert "paused by" in explained["sentence"]
        assert "reactor resume" in explained["changes"]
        resumed = await world.reactor("resume")
        assert resumed.code == 0
        assert "a queue is gone" in resumed.out
        await eventually(lambda: gone(world, "job_1", "job_2"))
    phases = [entry["phase"] for entry in await world.trail() if entry["stream"] == ""]
    assert phases == ["paused", "resumed"]


async def _zombies(at: Served, count: int) -> Any:
    status = (await at.get("/api/status"))[1]
    return status if status["zombies"] == count else None


async def _metric(at: Served, line: str) -> bool:
    return line in str((await at.get("/metrics"))[1])


async def test_an_emptied_redis_does_not_forget_a_pause(world: World) -> None:
    """NATS stores it, so it can also be ordered while Redis is away."""
    await world.declare()
    await world.zombie(1)
    order = await world.reactor("pause", REACTOR_REDIS_URL="redis://127.0.0.1:1/0")
    assert order.code == 0
    assert "the audit does not have this" in order.err
    async for key in world.redis.scan_iter(f"{world.namespace}:*"):
        await world.redis.delete(key)
    assert (await world.verdicts()) == {"job_1": ("waiting", "paused")}


async def test_a_pause_ends_by_itself(world: World) -> None:
    """By the server's clock."""
    await world.declare()
    await world.zombie(1)
    assert (await world.reactor("pause", "--for", "8s")).code == 0
    report = await world.reconcile()
    assert (report["streams"][0]["reason"], report["streams"][0]["until"] is None) == ("paused", False)
    async with worker(world.env()):
        await eventually(lambda: gone(world, "job_1"), 20)
    assert "was not paused" in (await world.reactor("resume")).out


async def test_what_cannot_be_read_pauses(world: World) -> None:
    """Another program has written to reactor's control stream."""
    await world.declare()
    await world.zombie(1)
    await world.publish("reactor.control.pause", b"\xff nonsense")
    assert (await world.verdicts()) == {"job_1": ("waiting", "paused")}
    assert (await world.reactor("resume")).code == 0
    assert (await world.verdicts()) == {"job_1": ("drained", "terminal")}


async def test_without_its_stream_nobody_knows(world: World) -> None:
    """A deleted control stream does not allow deleting. `resume` creates it again."""
    await world.declare()
    async with worker(world.env()) as process:
        await world.js.delete_stream("REACTOR_CONTROL")
        await world.zombie(1)
        await eventually(lambda: process.logged("REACTOR_CONTROL is gone"))
        assert await world.names() == {"job_1"}
        assert (await world.reactor("resume")).code == 0
        await eventually(lambda: gone(world, "job_1"), 30)


@pytest.mark.parametrize("command", ["reconcile --dry-run", "reconcile", "status", "explain job_1", "emit 2 STARTED"])
async def test_no_command_but_resume_restores_a_lost_pause(world: World, command: str) -> None:
    """Otherwise it would end a pause that was lost with the stream."""
    await world.declare()
    await world.zombie(1)
    assert (await world.reactor("pause")).code == 0
    await world.js.delete_stream("REACTOR_CONTROL")
    await world.reactor(*command.split())
    assert await world.info("REACTOR_CONTROL") is None
    assert "job_1" in await world.names()
    assert (await world.reactor("resume")).code == 0
    assert (await world.verdicts())["job_1"] == ("drained", "terminal")


async def test_a_pause_in_a_stream_made_again_counts(world: World) -> None:
    """Even if its sequence is that of an expired pause."""
    async with Bench(world) as bench:
        pausing = bench.resources().pause_gate
        await pausing.pause("ana", "for a moment", 1)
        assert await eventually(lambda: _is_over(pausing))
        await world.js.delete_stream("REACTOR_CONTROL")
        await pausing.declare()
        await pausing.pause("ana", "for good", None)
        standing = await pausing.active_pause()
        assert standing is not None
        assert standing.reason == "for good"


async def _is_over(pausing: PauseGate) -> bool:
    return await pausing.active_pause() is None


FORGED = {
    "a span beyond all years": b'{"paused": true, "by": "x", "reason": "y", "span_ns": 99999999999999999999999}',
    "a negative span": b'{"paused": true, "by": "x", "reason": "y", "span_ns": -1}',
    "a span of words": b'{"paused": true, "by": "x", "reason": "y", "span_ns": "1"}',
    "neither": b'{"paused": "perhaps", "by": "x", "reason": "y", "span_ns": null}',
    "deep": b"[" * 100_000,
    "no object": b"[]",
}


@pytest.mark.parametrize("forged", FORGED)
async def test_an_unreadable_pause_holds_until_it_is_resumed(world: World, forged: str) -> None:
    """`resume` always works."""
    await world.declare()
    await world.zombie(1)
    await world.publish("reactor.control.pause", FORGED[forged])
    assert (await world.verdicts()) == {"job_1": ("waiting", "paused")}
    assert (await world.reactor("resume")).code == 0
    assert (await world.verdicts()) == {"job_1": ("drained", "terminal")}


async def test_a_pause_for_ever_by_a_number_is_refused(world: World) -> None:
    """Ten years is the maximum. Without a time it lasts until it is resumed."""
    for span in ("9999999d", "0s"):
        done = await world.reactor("pause", "--for", span)
        assert (done.code, "Traceback" in done.err) == (2, False), done


async def test_every_worker_logs_a_pause(world: World) -> None:
    """With who, why and since when; and that deleting goes on."""
    await world.declare()
    async with worker(world.env()) as worker_process, worker(world.env()) as two:
        await world.reactor("pause", "--reason", "a queue is gone")
        for process in (worker_process, two):
            await eventually(lambda process=process: process.logged("a queue is gone"), 20)  # type: ignore[misc]
        await world.reactor("resume")
        for process in (worker_process, two):
            await eventually(lambda process=process: process.logged("deleting goes on"), 20)  # type: ignore[misc]


async def test_nothing_is_fenced_while_deleting_is_paused(world: World) -> None:
    """Publishers notice nothing."""
    await world.stream("job_1", messages=1)
    async with Bench(world) as bench:
        await world.emit(1, "SUCCESS")
        await bench.take_snapshot()
        await bench.resources().pause_gate.pause("ana", "stop", None)
        settlement = await bench.drain()
        assert (settlement.outcome, settlement.reason) == (Outcome.WAITING, Reason.PAUSED)
    assert await world.trail() == []


@pytest.mark.parametrize("point", [Point.INSPECTED, Point.FENCED])
async def test_a_pause_stops_a_drain_under_way(world: World, monkeypatch: pytest.MonkeyPatch, point: Point) -> None:
    """Before its fence, or behind it. Either way the fence is removed."""
    await world.stream("job_1", messages=1)
    before = ((await world.info("job_1")) or {})["config"]
    async with Bench(world) as bench:
        await world.emit(1, "SUCCESS")
        await bench.take_snapshot()
        pausing = bench.resources().pause_gate

        async def pause(reached: Point, _stream: str) -> None:
            if reached is point:
                await pausing.pause("ana", "stop", None)

        monkeypatch.setattr(failpoints, "armed", pause)
        settlement = await bench.drain()
        assert (settlement.outcome, settlement.reason) == (Outcome.WAITING, Reason.PAUSED)
    assert ((await world.info("job_1")) or {})["config"] == before
    outcomes = [(entry["phase"], entry.get("outcome")) for entry in await world.trail()]
    assert outcomes == [("intent", None), ("outcome", "waiting")]


async def test_protected_is_kept_until_it_is_not(world: World) -> None:
    """By its own metadata. A second order says that nothing has changed."""
    await world.declare()
    await world.zombie(1)
    assert (await world.reactor("protect", "job_1")).out.startswith("job_1 is protected")
    assert "as it was" in (await world.reactor("protect", "job_1")).out
    assert (await world.verdicts()) == {"job_1": ("kept", "protected")}
    explained = json.loads((await world.reactor("explain", "job_1", "--json")).out)
    assert "reactor unprotect job_1" in explained["changes"]
    assert (await world.reactor("unprotect", "job_1")).code == 0
    assert (await world.verdicts()) == {"job_1": ("drained", "terminal")}
    assert [entry["phase"] for entry in await world.trail()][:2] == ["protected", "unprotected"]


async def test_what_is_protected_no_more_is_judged_at_once(world: World) -> None:
    """Its job ended long ago and has no new event, but it need not wait for the next full pass."""
    await world.declare()
    await world.zombie(1)
    assert (await world.reactor("protect", "job_1")).code == 0
    async with worker(world.env(REACTOR_RECONCILE_INTERVAL="1h")):
        await eventually(lambda: _settled(world))
        assert await world.names() == {"job_1"}
        assert (await world.reactor("unprotect", "job_1")).code == 0
        await eventually(lambda: gone(world, "job_1"), 20)


async def _settled(world: World) -> bool:
    """Return whether the worker's first pass is over and nothing is due any more."""
    return bool(await world.redis.exists(f"{world.namespace}:last_pass")) and not await world.redis.zcard(
        f"{world.namespace}:due"
    )


async def test_what_is_not_there_cannot_be_protected(world: World) -> None:
    """Exit code 5, with what is known of it; the other streams are protected."""
    await world.declare()
    await world.zombie(1)
    await world.verdicts()
    await world.stream("job_2")
    order = await world.reactor("protect", "job_1", "job_2")
    assert order.code == 5
    assert "reactor drained it at" in order.err
    assert ((await world.info("job_2")) or {})["config"]["metadata"]["reactor.protect"] == "true"
    other = await world.reactor("protect", "orders")
    assert other.code == 2
    assert "is not a job stream" in other.err
    meant = await world.reactor("protect", "42")
    assert (meant.code, "did you mean job_42?" in meant.err) == (2, True)


async def test_a_deletion_under_way_is_waited_out(world: World) -> None:
    """A stream with another replica's fence is not touched. Afterwards it is protected, with its own subjects."""
    await world.declare()
    await world.stream("job_1", messages=1)
    await world.emit(1, "STARTED")
    info = (await world.info("job_1")) or {}
    until = parse_instant(info["ts"]) + 3 * SECOND
    fence = {"token": "t", "until": format_instant(until), "subjects": '["job.1.tasks"]'}
    metadata = {f"reactor.fence.{key}": value for key, value in fence.items()}
    await world.api(
        "STREAM.UPDATE.job_1", info["config"] | {"subjects": ["reactor.fence.job_1.t"], "metadata": metadata}
    )
    assert (await world.reactor("protect", "job_1")).code == 0
    after = (await world.info("job_1")) or {}
    assert parse_instant(after["ts"]) >= until
    assert after["config"]["subjects"] == ["job.1.tasks"]
    assert after["config"]["metadata"].get("reactor.protect") == "true"
    assert "reactor.fence.token" not in after["config"]["metadata"]
