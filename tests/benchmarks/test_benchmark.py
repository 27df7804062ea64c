"""Speed, as ratios against a bare client in the same run. Figures are printed, not asserted: machines differ.

uv run pytest -m benchmark -n 0 --no-cov -s
"""

import asyncio
import json
import statistics
import time

import psutil
import pytest
from harness import World, eventually, say, worker
from nats.js.api import AckPolicy, ConsumerConfig

from reactor.controller.parallel import each

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(600)]
EVENTS = 30_000
ZOMBIES = 1_500
LIVE = 4_000


async def publish_events(world: World, count: int, status: str, first: int = 0) -> None:
    """Through core NATS, in bursts that the server can store."""
    for number in range(first, first + count):
        event = json.dumps({"job_id": number, "status": status}).encode()
        await world.nc.publish(f"jobs.lifecycle.{number}", event)
        if number % 500 == 0:
            await world.nc.flush()
    await world.nc.flush()
    await eventually(lambda: stored(world, first + count), 60)


async def stored(world: World, count: int) -> bool:
    info = await world.info("JOBS")
    return bool(info and info["state"]["last_seq"] >= count)


async def ack_floor(world: World) -> int:
    return int((await world.api("CONSUMER.INFO.JOBS.reactor"))["ack_floor"]["stream_seq"])


async def test_events_are_taken_in(world: World) -> None:
    """Against a bare fetch-and-ack loop."""
    await world.declare()
    await publish_events(world, EVENTS, "STARTED")
    await world.js.add_consumer(
        "JOBS", ConsumerConfig(durable_name="bare", ack_policy=AckPolicy.EXPLICIT, max_ack_pending=4096)
    )
    pull = await world.js.pull_subscribe_bind(consumer="bare", stream="JOBS")
    start, taken = time.monotonic(), 0
    while taken < EVENTS:
        for msg in await pull.fetch(256, timeout=5):
            await msg.ack()
            taken += 1
    bare = EVENTS / (time.monotonic() - start)
    async with worker(world.env(REACTOR_LOG_LEVEL="INFO", REACTOR_RECONCILE_INTERVAL="1h"), until="worker starting"):
        await eventually(lambda: ack_floor(world), 60, 0.005)
        first, start = await ack_floor(world), time.monotonic()
        await eventually(lambda: _reached(world, EVENTS), 60, 0.005)
        rate = (EVENTS - first) / (time.monotonic() - start)
    say(f"events taken in: {rate:,.0f}/s, bare fetch and ack {bare:,.0f}/s, ratio {rate / bare:.2f} (wished: 0.4)")


async def _reached(world: World, seq: int) -> bool:
    return await ack_floor(world) >= seq


async def make_zombies(world: World, count: int) -> None:
    for number in range(count):
        await world.stream(f"job_{number}")
        await world.consumer(f"job_{number}")


async def test_a_pass_over_zombies(world: World, other: World) -> None:
    """Against consumer info, consumer delete and stream delete, one after another, in an account that is set up alike.

    And against what a fenced deletion costs the server at least: bare info, update, info and delete, 32 at once.
    """
    await other.declare()
    await make_zombies(other, ZOMBIES)
    bare = await fenced_bare(other)
    await make_zombies(other, ZOMBIES)
    start = time.monotonic()
    for number in range(ZOMBIES):
        await other.js.consumer_info(f"job_{number}", f"job-{number}-consumer")
        await other.js.delete_consumer(f"job_{number}", f"job-{number}-consumer")
        await other.js.delete_stream(f"job_{number}")
    usual = time.monotonic() - start
    await world.declare()
    await make_zombies(world, ZOMBIES)
    await publish_events(world, ZOMBIES, "SUCCESS")
    await world.reconcile(REACTOR_POLICY_AGE_GUARD="1h")
    start = time.monotonic()
    report = await world.reconcile()
    took = time.monotonic() - start
    assert report["fixed"] == ZOMBIES
    say(
        f"a pass over 1,500 zombies: {took:.2f} s, the usual three calls {usual:.2f} s, ratio {took / usual:.2f} "
        f"(wished: 1), bare info, update, info, delete at once {bare:.2f} s",
    )


async def fenced_bare(world: World) -> float:
    """Seconds that the server needs for a look, a fence, another look and a deletion of each, and nothing else."""

    async def fence_and_delete(number: int) -> None:
        name = f"job_{number}"
        config = (await world.api(f"STREAM.INFO.{name}"))["config"]
        await world.api(f"STREAM.UPDATE.{name}", config | {"subjects": [f"reactor.fence.{name}"]})
        await world.api(f"STREAM.INFO.{name}")
        await world.api(f"STREAM.DELETE.{name}")

    start = time.monotonic()
    await each(range(ZOMBIES), fence_and_delete, 32)
    return time.monotonic() - start


async def test_a_pass_over_live_streams(world: World) -> None:
    """Against the bare listing."""
    await world.declare()
    for number in range(LIVE):
        await world.stream(f"job_{number}")
    await publish_events(world, LIVE, "STARTED")
    await world.reconcile()
    lists, passes = [], []
    for _ in range(5):
        start = time.monotonic()
        for offset in range(0, LIVE, 256):
            await world.api("STREAM.LIST", {"offset": offset})
        lists.append(time.monotonic() - start)
        start = time.monotonic()
        report = await world.reconcile()
        passes.append(time.monotonic() - start)
        assert report["kept"] == LIVE
    bare, full = statistics.median(lists), statistics.median(passes)
    say(
        f"a pass over 4,000 live streams: {full:.2f} s, bare listing {bare:.2f} s, ratio {full / bare:.1f} (wished: 5)",
    )


async def test_from_due_to_deleted(world: World) -> None:
    """A job a moment ends; its stream should fall on the dot."""
    heard = await world.nc.subscribe("reactor.drained.*")
    ended: dict[str, float] = {}
    delays: list[float] = []
    grace = 1.0
    async with worker(world.env(REACTOR_LOG_LEVEL="INFO", REACTOR_POLICY_TERMINAL_GRACE=f"{grace}s")):

        async def listen() -> None:
            while len(delays) < 400:
                msg = await heard.next_msg(timeout=30)
                delays.append(time.monotonic() - ended[json.loads(msg.data)["stream"]] - grace)

        listening = asyncio.create_task(listen())
        for number in range(400):
            await world.stream(f"job_{number}", messages=1)
            ended[f"job_{number}"] = time.monotonic()
            await world.emit(number, "SUCCESS")
            await asyncio.sleep(0.02)
        await listening
    ordered = sorted(delays)
    say(
        f"from due to deleted: median {ordered[200] * 1000:.0f} ms, p99 {ordered[396] * 1000:.0f} ms "
        "(wished: under 500)"
    )


async def test_at_rest(world: World) -> None:
    """With 2,000 live jobs known and nothing to do."""
    await world.declare()
    await publish_events(world, 2_000, "STARTED")
    before = (await world.redis.info("memory"))["used_memory"]
    await publish_events(world, 20_000, "STARTED", first=2_000)
    async with worker(world.env(REACTOR_LOG_LEVEL="INFO")) as process:
        await eventually(lambda: _reached(world, 22_000), 60)
        used = (await world.redis.info("memory"))["used_memory"] - before
        one = psutil.Process(process.process.pid)
        await asyncio.sleep(3)
        cpu, commands = one.cpu_times(), await processed(world)
        await asyncio.sleep(15)
        after, commands_after = one.cpu_times(), await processed(world)
        busy = (after.user + after.system - cpu.user - cpu.system) / 15
        say(
            f"at rest: {busy:.1%} of a core (wished: 2%), "
            f"{(commands_after - commands) / 15:.1f} Redis commands/s (wished: 5)"
        )
        say(f"memory of the worker: {one.memory_info().rss / 1e6:.0f} MB (wished: 160)")
        say(f"memory of Redis: {used / 22_000:.0f} bytes a live job (wished: 250)")


async def processed(world: World) -> int:
    return int((await world.redis.info("stats"))["total_commands_processed"])
