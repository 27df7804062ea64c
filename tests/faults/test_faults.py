"""Faults and what must hold: killed replicas, lost answers, servers that are away, full or replaced."""

import asyncio
import json
import re
import shutil
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import nats.errors
import nats.js.errors
import pytest
from nats.js.api import StreamConfig, StreamSource
from support.faults import is_stopped
from support.faulty import is_whole, none_is_open, outcomes, through_proxies
from support.harness import World, acked, all_concluded, connected, eventually, gone, has_records, own_world, worker

from reactor.cli.embedded import HOST, Server, free_port, running, valkey_server
from reactor.core.model import SECOND, parse_instant
from reactor.deletion import failpoints
from reactor.deletion.failpoints import Point
from reactor.passes.reconciler import PassOptions
from reactor.store.keyspace import Keyspace
from reactor.store.ledger import Ledger

SHORT_LEASE = {"REACTOR_SWEEP_LEASE": "1s"}
RUNNING = 100


@pytest.mark.parametrize("point", list(Point))
async def test_killed_at_any_point_another_replica_goes_on(world: World, point: Point) -> None:
    """It converges, no stream stays fenced, and the audit has one outcome."""
    await world.declare()
    await world.stream("job_2", messages=1)
    await world.emit(2, "STARTED")
    async with worker(world.env(**SHORT_LEASE), armed=(point, "kill")) as killed:
        await world.zombie(1)
        assert await asyncio.wait_for(killed.process.wait(), 20) == -signal.SIGKILL
    async with worker(world.env(**SHORT_LEASE)):
        await eventually(lambda: gone(world, "job_1"), 45)  # what was on its way to the killed one comes again after 30
        await eventually(lambda: none_is_open(world), 20)
        assert [stream for stream, _ in await outcomes(world)] == ["job_1"]
        assert await is_whole(world, "job_2", 1)


async def test_a_replica_stopped_past_its_lease_deletes_nothing(world: World) -> None:
    """It had the proof. Meanwhile others deleted the stream and created it again for a retried job."""
    await world.declare()
    async with worker(world.env(**SHORT_LEASE), armed=(Point.PROVEN, "stop")) as stopped:
        await world.zombie(1)
        await eventually(lambda: is_stopped(stopped.process.pid))
        await world.js.delete_stream("job_1")
        await world.emit(1, "STARTED")
        await world.stream("job_1", messages=3)
        await eventually(lambda: lease_is_over(world, "job_1"))
        stopped.process.send_signal(signal.SIGCONT)
        await eventually(lambda: stopped.logged("lease ran out"))
        await eventually(lambda: has_records(world, 1))
        assert await is_whole(world, "job_1", 3)


async def lease_is_over(world: World, stream: str) -> bool:
    return not await world.redis.exists(f"{world.namespace}:lease:stream:{stream}")


Act = Callable[[World], Awaitable[None]]


async def retry_same(world: World) -> None:
    """Retry a job on its stream."""
    await world.emit(1, "STARTED")


async def retry_recreated(world: World) -> None:
    """Retry a job on a recreated stream."""
    await world.js.delete_stream("job_1")
    await world.stream("job_1", messages=2)
    await world.emit(1, "STARTED")


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch, world: World) -> Callable[[Point, Act], None]:
    """Do something once, when a pass in this process reaches a failpoint."""

    def do(point: Point, act: Act) -> None:
        async def hook(reached: Point, _what: str) -> None:
            if reached is point:
                monkeypatch.setattr(failpoints, "armed", None)
                await act(world)

        monkeypatch.setattr(failpoints, "armed", hook)

    return do


@pytest.mark.parametrize("act", [retry_same, retry_recreated])
@pytest.mark.parametrize("point", [Point.INSPECTED, Point.FENCED])
async def test_a_job_retried_between_two_steps_keeps_its_stream(
    world: World, between: Callable[[Point, Act], None], point: Point, act: Act
) -> None:
    """Its subjects are restored, and all its messages are there."""
    await world.declare()
    await world.zombie(1, messages=2)
    between(point, act)
    verdicts = await world.verdicts()
    assert verdicts["job_1"][0] != "drained"
    assert await is_whole(world, "job_1", 2)
    assert await world.verdicts() == {"job_1": ("kept", "running")}


async def test_a_job_retried_behind_the_barrier_gets_a_clear_error(
    world: World, between: Callable[[Point, Act], None]
) -> None:
    """At the last moment publishing or creating the stream fails with an error; nothing is lost silently."""
    await world.declare()
    await world.zombie(1)
    heard_of: list[str] = []

    async def retry(world: World) -> None:
        try:
            await world.js.publish("job.1.tasks", b"new")
        except nats.js.errors.NoStreamResponseError:
            heard_of.append("publish")
        try:
            await world.stream("job_1")
        except nats.js.errors.BadRequestError:
            heard_of.append("create")

    between(Point.PROVEN, retry)
    assert await world.verdicts() == {"job_1": ("drained", "terminal")}
    assert heard_of == ["publish", "create"]


async def test_an_answer_to_a_deletion_that_is_lost_is_found_out_by_looking(tmp_path: Path) -> None:
    """The deletion happened. It gets one outcome, and is not repeated."""
    async with through_proxies(tmp_path) as (world, behind, proxy, *_), worker(behind.env(**SHORT_LEASE)) as process:
        proxy.cut_at = b"STREAM.DELETE.job_1 "
        await world.zombie(1)
        await eventually(lambda: gone(world, "job_1"))
        assert await eventually(lambda: outcomes(world), 20) == [("job_1", "already_gone")]
        assert proxy.hits == 1
        assert process.logged("the connection broke before an answer to $JS.API.STREAM.DELETE.job_1")


async def _is_kept_in_the_end(world: World) -> bool:
    """Return whether the stream is kept. On a busy machine the first lease may run out before the deletion is sent."""
    found = await outcomes(world)
    assert ("job_1", "drained") not in found
    return found[-1:] == [("job_1", "kept")]


async def test_a_deletion_that_never_arrived_is_not_sent_later(tmp_path: Path) -> None:
    """The connection broke during it. The job is created again before reactor is back."""
    async with through_proxies(tmp_path) as (world, behind, proxy, *_), worker(behind.env(**SHORT_LEASE)) as process:
        proxy.drop_at = b"STREAM.DELETE.job_1 "
        await world.zombie(1)
        await eventually(lambda: proxy.hits)
        proxy.refusing = True
        proxy.cut()
        await world.js.delete_stream("job_1")
        await world.emit(1, "STARTED")
        await world.stream("job_1", messages=3)
        proxy.refusing = False
        await eventually(lambda: acked(world), 20)
        await eventually(lambda: _is_kept_in_the_end(world), 20)
        assert await is_whole(world, "job_1", 3)
        assert process.logged("outcome-unknown")


async def test_nats_killed_under_a_deletion(tmp_path: Path) -> None:
    """The job is created again before reactor is back: settled by an inspection, without a delayed deletion."""
    async with through_proxies(tmp_path) as (world, behind, proxy, _, nats_one, _), worker(behind.env(**SHORT_LEASE)):
        proxy.drop_at = b"STREAM.DELETE.job_1 "
        await world.zombie(1)
        await eventually(lambda: proxy.hits)
        proxy.refusing = True
        nats_one.signal(signal.SIGKILL)
        await nats_one.stop()
        await nats_one.start()
        await eventually(lambda: world.nc.is_connected)
        await eventually(lambda: recreated(world), 20)
        await world.emit(1, "STARTED")
        proxy.refusing = False
        await eventually(lambda: has_status(world, "STARTED"), 50)  # what was in a dead hand comes again after 30 s
        await world.zombie(2)
        await eventually(lambda: gone(world, "job_2"), 20)
        assert await is_whole(world, "job_1", 1)


async def has_status(world: World, status: str) -> bool:
    """Return whether the ledger has this status of job 1."""
    return str(await world.redis.get(f"{world.namespace}:job:1")).endswith(status)


async def recreated(world: World) -> bool:
    """Create the stream of job 1 again, like a job system that retries after an error of a starting server."""
    try:
        await world.js.delete_stream("job_1")
        await world.stream("job_1", messages=1)
    except (nats.errors.Error, nats.js.errors.Error):
        return False
    return True


async def test_a_deaf_nats_is_waited_out(tmp_path: Path) -> None:
    """Connections that look alive and are dead, then broken: events wait, and zombies are deleted afterwards."""
    async with through_proxies(tmp_path) as (world, behind, proxy, *_), worker(behind.env(**SHORT_LEASE)):
        proxy.deaf = True
        await world.zombie(1)
        await world.emit(2, "STARTED")
        await world.stream("job_2", messages=1)
        await eventually(lambda: proxy.swallowed, 20)
        proxy.cut()
        proxy.deaf = False
        await eventually(lambda: gone(world, "job_1"), 60)  # what a dead line swallowed comes again after 30 s
        assert await is_whole(world, "job_2", 1)


async def test_slow_lines_change_nothing(tmp_path: Path) -> None:
    """100 ms each way to NATS and to Redis."""
    async with through_proxies(tmp_path) as (world, behind, nats_proxy, redis_proxy, *_):
        nats_proxy.delay_s = redis_proxy.delay_s = 0.1
        async with worker(behind.env()):
            await world.zombie(1)
            await world.emit(2, "STARTED")
            await world.stream("job_2", messages=1)
            await eventually(lambda: gone(world, "job_1"), 30)
            assert await is_whole(world, "job_2", 1)
        assert nats_proxy.delayed > 10
        assert redis_proxy.delayed > 10


async def flush(world: World, _valkey: Server, _folder: Path) -> None:
    """FLUSHALL."""
    await world.redis.flushall()


async def exchange(_world: World, valkey: Server, folder: Path) -> None:
    """Replace Redis by another, empty one at the same address."""
    valkey.signal(signal.SIGKILL)
    await valkey.stop()
    shutil.rmtree(folder / "valkey" / "appendonlydir")
    await valkey.start()


async def restore(_world: World, valkey: Server, folder: Path) -> None:
    """Restore Redis from an old dump."""
    valkey.signal(signal.SIGKILL)
    await valkey.stop()
    shutil.rmtree(folder / "valkey" / "appendonlydir")
    shutil.copytree(folder / "dump", folder / "valkey" / "appendonlydir")
    await valkey.start()


@pytest.mark.parametrize("lose", [flush, exchange, restore])
async def test_a_redis_that_lost_history_is_rebuilt(
    tmp_path: Path, lose: Callable[[World, Server, Path], Awaitable[None]]
) -> None:
    """With 100 running jobs: nothing is drained until it is rebuilt by itself. Then zombies are deleted."""
    async with own_world(tmp_path) as (world, _, valkey), worker(world.env(REACTOR_RECONCILE_INTERVAL="1s")):
        for number in range(RUNNING):
            await world.emit(number, "STARTED")  # first: a stream without a job would be missing at once
            await world.stream(f"job_{number}", messages=1)
            if number < 50:
                await world.emit(number, "SUCCESS")
            if number == 0:
                await eventually(lambda: gone(world, "job_0"))
                shutil.copytree(tmp_path / "valkey" / "appendonlydir", tmp_path / "dump")
        await eventually(lambda: gone(world, *(f"job_{n}" for n in range(50))), 20)
        await lose(world, valkey, tmp_path)
        await eventually(lambda: has_records(world, *range(50, RUNNING)), 30)
        await world.emit(99, "FAILURE")
        await eventually(lambda: gone(world, "job_99"), 30)
        assert await world.names() == {f"job_{n}" for n in range(50, 99)}


async def test_a_promoted_replica_that_lost_writes_is_rebuilt(tmp_path: Path) -> None:
    """The replica's ledger is older than the last ack, and the address is the same."""
    async with AsyncExitStack() as stack:
        world, behind, _, proxy, _, primary = await stack.enter_async_context(through_proxies(tmp_path))
        second = valkey_server(tmp_path / "second", free_port(), "--replicaof", f"{HOST} {primary.port}")
        await stack.enter_async_context(running(second))
        replica = await stack.enter_async_context(connected(world.nats_url, f"redis://{HOST}:{second.port}/0", "r"))
        await stack.enter_async_context(worker(behind.env(REACTOR_RECONCILE_INTERVAL="1s")))
        await world.emit(1000, "STARTED")
        await world.stream("job_1000", messages=1)
        await eventually(lambda: has_records(replica, 1000), 20)
        await replica.redis.replicaof("NO", "ONE")  # from here on it misses what the primary hears
        for number in range(RUNNING):
            await world.emit(number, "STARTED")
            await world.stream(f"job_{number}", messages=1)
        await eventually(lambda: has_records(world, *range(RUNNING)), 20)
        proxy.target = second.port
        await primary.stop()
        proxy.cut()
        await eventually(lambda: has_records(replica, *range(RUNNING)), 30)
        await world.emit(7, "SUCCESS")
        await eventually(lambda: gone(world, "job_7"), 30)
        assert await world.names() == {"job_1000", *(f"job_{n}" for n in range(RUNNING) if n != 7)}


async def full(world: World, _valkey: Server) -> None:
    """Make Redis refuse writes because it is out of memory."""
    await world.redis.config_set("maxmemory", "1")


async def read_only(world: World, _valkey: Server) -> None:
    """Make Redis a replica of a server that does not exist: it refuses writes, and answers reads."""
    await world.redis.config_set("replica-serve-stale-data", "yes")
    await world.redis.replicaof(HOST, "1")


async def away(_world: World, valkey: Server) -> None:
    """Stop Redis."""
    await valkey.stop()


async def back(world: World, valkey: Server) -> None:
    """Undo it."""
    if not await asyncio.to_thread(lambda: valkey.pid and is_running(valkey)):
        await valkey.start()
    await world.redis.config_set("maxmemory", "0")
    await world.redis.replicaof("NO", "ONE")


def is_running(server: Server) -> bool:
    """Return whether its process is alive."""
    return server._process is not None and server._process.poll() is None


@pytest.mark.parametrize("trouble", [full, read_only, away])
async def test_a_redis_that_takes_nothing_is_waited_out(
    tmp_path: Path, trouble: Callable[[World, Server], Awaitable[None]]
) -> None:
    """Events wait and none is lost; no job counts as missing."""
    async with own_world(tmp_path) as (world, _, valkey), worker(world.env(REACTOR_RECONCILE_INTERVAL="1s")) as process:
        await world.emit(1, "STARTED")
        await world.stream("job_1", messages=1)
        await eventually(lambda: has_records(world, 1))
        await trouble(world, valkey)
        await world.zombie(2)
        for number in range(3, 20):
            await world.emit(number, "STARTED")
            await world.stream(f"job_{number}", messages=1)
        await eventually(lambda: process.logged("messages could not be stored"), 30)
        await eventually(lambda: process.logged("failed, trying again"), 30)
        assert len(await world.names()) == 19
        assert not await acked(world)  # nothing is acked that Redis does not have
        await back(world, valkey)
        await eventually(lambda: gone(world, "job_2"), 40)
        await eventually(lambda: acked(world), 20)
        assert await has_records(world, *range(1, 20))
        assert await world.names() == {"job_1", *(f"job_{n}" for n in range(3, 20))}


async def test_nats_restarted_and_hung(tmp_path: Path) -> None:
    """When it is back zombies are deleted, and live jobs' streams are not."""
    await hang(tmp_path, 1.0)


@pytest.mark.soak
async def test_nats_hung_for_half_a_minute(tmp_path: Path) -> None:
    """Like the test above, beyond every timeout."""
    await hang(tmp_path, 30.0)


async def hang(folder: Path, seconds: float) -> None:
    """Suspend NATS for this long, then restart it."""
    async with own_world(folder) as (world, nats_one, _), worker(world.env(REACTOR_RECONCILE_INTERVAL="1s")):
        await world.emit(1, "STARTED")
        await world.stream("job_1", messages=1)
        await eventually(lambda: has_records(world, 1))
        nats_one.signal(signal.SIGSTOP)
        await eventually(lambda: is_stopped(nats_one.pid))
        await asyncio.sleep(seconds)
        nats_one.signal(signal.SIGCONT)
        await world.zombie(2)
        await eventually(lambda: gone(world, "job_2"), 30)
        await nats_one.stop()
        await nats_one.start()
        await eventually(lambda: world.nc.is_connected)
        await world.zombie(3)
        await eventually(lambda: gone(world, "job_3"), 40)
        assert await is_whole(world, "job_1", 1)


@pytest.mark.parametrize("seconds", [86_400, -86_400])
async def test_a_worker_whose_clock_is_a_day_off_judges_the_same(world: World, seconds: int) -> None:
    """Every age is a difference of the server's times."""
    guards = {"REACTOR_POLICY_AGE_GUARD": "1h", "REACTOR_RECONCILE_INTERVAL": "1s"}
    await world.declare()
    async with worker(world.env(**guards), armed=("clock", str(seconds))) as process:
        await world.zombie(1)
        await world.emit(2, "STARTED")
        await world.stream("job_2", messages=1)
        await eventually(lambda: sum("reconcile done" in line for line in process.lines) > 1, 20)
        assert await is_whole(world, "job_1", 1)
    async with worker(world.env(), armed=("clock", str(seconds))):
        await eventually(lambda: gone(world, "job_1"), 20)
        assert await is_whole(world, "job_2", 1)


async def test_three_days_of_downtime_are_caught_up_within_the_rate(world: World) -> None:
    """All advisories are lost. The full pass finds everything, no faster than REACTOR_SWEEP_MAX_RATE."""
    await world.declare()
    for number in range(40):
        await world.zombie(number)
    await world.redis.delete(f"{world.namespace}:due")
    async with worker(world.env(REACTOR_SWEEP_MAX_RATE=20)):
        await eventually(lambda: gone(world, *(f"job_{n}" for n in range(40))), 30)
        begun = [parse_instant(entry["at"]) for entry in await world.trail() if entry["phase"] == "intent"]
        assert max(begun) - min(begun) >= 38 * SECOND // 20


async def test_five_hundred_zombies_and_two_replicas(world: World) -> None:
    """Each is deleted once."""
    names = [f"job_{number}" for number in range(500)]
    async with worker(world.env(REACTOR_LOG_LEVEL="INFO")), worker(world.env(REACTOR_LOG_LEVEL="INFO")):
        for number in range(500):
            await world.zombie(number, messages=0)
        await eventually(lambda: gone(world, *names), 40)
        assert sorted(await eventually(lambda: all_concluded(world))) == sorted((name, "drained") for name in names)


async def test_replicas_take_turns_with_the_periodic_pass(world: World) -> None:
    """One at a time, and one in an interval among all of them, unless one is requested sooner."""
    ledger = Ledger.of(Keyspace(world.redis, world.namespace), 60)
    mine, _ = await ledger.passes.begin_pass(60)
    assert mine
    others, wait = await ledger.passes.begin_pass(60)
    assert (others, 50 < wait <= 60) == (None, True)
    await ledger.passes.end_pass(mine, 900)
    assert not await ledger.leases.renew(mine)
    others, wait = await ledger.passes.begin_pass(60)
    assert (others, 890 < wait <= 900) == (None, True)
    await ledger.passes.request_pass()
    others, _ = await ledger.passes.begin_pass(60)
    assert others
    assert await ledger.leases.renew(others)
    await ledger.passes.end_pass(mine, 900)  # not ours any more
    assert await ledger.leases.renew(others)


async def unfixable(world: World, least: int) -> list[dict[str, Any]]:
    """Return the unfixable entries in the audit, when there are enough."""
    failures = [entry for entry in await world.trail() if entry["phase"] == "unfixable"]
    return failures if len(failures) >= least else []


async def test_what_cannot_be_fixed_is_reported_in_full(world: World) -> None:
    """Reason, detail, attempts and the next try.

    In the report, in the log (once a minute) and each time in the audit.
    """
    await world.declare()
    await world.zombie(1)
    await world.js.add_stream(StreamConfig("copy", sources=[StreamSource("job_1")]))
    async with worker(world.env()) as process:
        failures = await eventually(lambda: unfixable(world, 2))
        line, *others = [json.loads(line) for line in process.lines if '"event": "unfixable"' in line]
        assert all(other["detail"] != line["detail"] for other in others)  # a pass names who sources it, a sweep cannot
    for row in (line, failures[0]):
        assert (row["stream"], row["reason"], row["attempts"], row["retry_s"]) == (
            "job_1",
            "not-fenceable",
            1,
            2.0,
        )
    assert failures[1]["attempts"] == 2
    report = await world.reconcile()
    assert re.search(r"attempt \d, tried again in \d+ s", report["streams"][0]["detail"])
    await world.js.delete_stream("copy")
    assert await world.verdicts() == {"job_1": ("drained", "terminal")}
    assert not await world.redis.exists(f"{world.namespace}:attempts")


async def test_a_pass_that_another_replica_took_over_deletes_nothing_more(world: World) -> None:
    """Its number is no longer the highest."""
    ledger = Ledger.of(Keyspace(world.redis, world.namespace), 60)
    await world.declare()
    await world.zombie(1)
    old, _ = await ledger.passes.begin_pass(60)
    assert old
    await ledger.passes.end_pass(old, None)
    new, _ = await ledger.passes.begin_pass(60)
    assert new
    assert int(new.token) > int(old.token)
    report = await world.reconcile(PassOptions(under=old))
    assert "another replica has taken over the reconcile" in str(report["error"])
    assert await is_whole(world, "job_1", 1)
    assert (await world.reconcile(PassOptions(under=new)))["fixed"] == 1
