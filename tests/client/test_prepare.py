"""Preparing a job before it is started again."""

import asyncio
import random
import signal
from typing import Any

import pytest
from nats.js.api import ConsumerConfig
from support.faults import is_stopped
from support.harness import World, eventually, gone, worker

from reactor import client
from reactor.bootstrap.connections import actor_of, connections
from reactor.bootstrap.services import UseCases, provision_safely
from reactor.client import NotPrepared, Prepared, emitter
from reactor.config.settings import load_settings
from reactor.deletion.failpoints import Point
from reactor.store.leases import Lease


async def aprepare(job_id: int, timeout: float = 60.0) -> Prepared:  # noqa: ASYNC109  # the client's
    """Prepare in this process, like a worker that a job system asks."""
    async with connections(load_settings(), actor=actor_of("prepare")) as connected:
        cases = UseCases(connected, await provision_safely(connected))
        return await cases.prepare(str(job_id), timeout)


RACES = {"slice": 40, "soak": 500}


@pytest.fixture
def client_world(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A job system that knows NATS and Redis, and prepares with reactor's settings."""
    for name, value in world.env().items():
        if name.startswith("REACTOR_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(emitter.Process, "_current", None)
    return world


async def test_the_stream_is_emptied_in_place(client_world: World) -> None:
    """Sequences continue, consumers stay, late acknowledgements have no effect. Companions are deleted."""
    await client_world.declare()
    await client_world.stream("advisories", subjects=["$JS.EVENT.ADVISORY.CONSUMER.>"])
    await client_world.js.add_consumer("advisories", ConsumerConfig(durable_name="job-1-dlq"))
    await client_world.zombie(1, messages=3)
    durable = await client_world.consumer("job_1")
    pull = await client_world.js.pull_subscribe_bind(consumer=durable, stream="job_1")
    (late,) = await pull.fetch(1, timeout=5)
    assert await aprepare(1) == Prepared("1", "job_1", 3)
    ack = await client_world.js.publish("job.1.tasks", b"new")
    assert ack.seq == 4
    await late.ack()
    (new,) = await pull.fetch(1, timeout=5)
    assert new.data == b"new"
    await new.ack()
    assert (await client_world.api("CONSUMER.NAMES.advisories"))["consumers"] in (None, [])
    assert (await client_world.verdicts())["job_1"] == ("kept", "running")
    assert [entry["phase"] for entry in await client_world.trail()] == ["prepared"]


async def test_a_job_system_asks_a_worker(client_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs no Redis, and gets the reason of a failure."""
    monkeypatch.setenv("REACTOR_REDIS_URL", "redis://127.0.0.1:1/0")
    await client_world.declare()
    with pytest.raises(NotPrepared, match="no worker listens on"):
        await client.aprepare(1)
    async with worker(client_world.env(REACTOR_POLICY_TERMINAL_GRACE="1h")):
        await client_world.zombie(1, messages=3)
        assert await asyncio.to_thread(client.prepare, 1) == Prepared("1", "job_1", 3)
        assert await client.aprepare(2) == Prepared("2")
        with pytest.raises(NotPrepared, match="cannot be part of a subject"):
            await client.aprepare("a b")
        assert (await client_world.reactor("protect", "job_1")).code == 0
        with pytest.raises(NotPrepared, match="is protected"):
            await client.aprepare(1)


async def test_where_there_is_no_stream_it_may_be_made(client_world: World) -> None:
    """The new stream stays."""
    await client_world.declare()
    await client_world.emit(1, "SUCCESS")
    assert await aprepare(1) == Prepared("1")
    await client_world.stream("job_1", messages=1)
    assert (await client_world.verdicts())["job_1"] == ("kept", "running")


@pytest.mark.parametrize("point", [Point.INSPECTED, Point.FENCED, Point.PROVEN])
async def test_a_drain_under_way_is_waited_out(client_world: World, point: Point) -> None:
    """A replica that was stopped during the drain does nothing more when it continues."""
    await client_world.declare()
    async with worker(client_world.env(REACTOR_SWEEP_LEASE="2s"), armed=(point, "stop")) as stopped:
        await client_world.zombie(1)
        await eventually(lambda: is_stopped(stopped.process.pid))
        with pytest.raises(NotPrepared, match="still under way after 0"):
            await aprepare(1, timeout=0.1)
        assert await aprepare(1, timeout=20) == Prepared("1", "job_1", 1)
        await client_world.js.publish("job.1.tasks", b"new")
        stopped.process.send_signal(signal.SIGCONT)
        await client_world.zombie(2)
        await eventually(lambda: gone(client_world, "job_2"), 20)
        info: Any = await client_world.info("job_1")
        assert (info["state"]["messages"], info["config"]["subjects"]) == (1, ["job.1.tasks"])


@pytest.mark.parametrize("is_there", [False, True])
async def test_a_deletion_that_is_not_over_is_waited_for(client_world: World, *, is_there: bool) -> None:
    """Even if the server reports the stream as gone: a stream created at that moment answers no publisher."""
    await client_world.declare()
    if is_there:
        await client_world.stream("job_1", messages=1)
    async with connections(load_settings(), actor=actor_of("prepare")) as connected:
        lease = Lease("stream:job_1", 60.0)
        assert await connected.ledger.leases.acquire(lease)
        with pytest.raises(NotPrepared, match=r"still under way after 0\.5 s"):
            await aprepare(1, timeout=0.5)
        preparing = asyncio.create_task(aprepare(1))
        await connected.ledger.leases.release(lease)
        assert await preparing == Prepared("1", "job_1" if is_there else None, 1 if is_there else 0)


async def test_two_at_once_lose_nothing_of_the_new_life(client_world: World) -> None:
    """The second one purges nothing that the first caller has published since."""
    await client_world.declare()
    for number in range(30):
        await client_world.zombie(number, messages=2)

    async def start_again(number: int) -> None:
        await aprepare(number)
        await client_world.js.publish(f"job.{number}.tasks", b"new")

    await asyncio.gather(*(start_again(number) for number in range(30) for _ in range(2)))
    states = [((await client_world.info(f"job_{number}")) or {})["state"]["messages"] for number in range(30)]
    assert states == [2] * 30


async def test_a_protected_stream_is_not_emptied(client_world: World) -> None:
    """A person inspects it. The job is not marked as live either."""
    await client_world.declare()
    await client_world.stream("job_1", messages=2, metadata={"reactor.protect": "true"})
    with pytest.raises(NotPrepared, match="reactor unprotect job_1"):
        await aprepare(1)
    assert ((await client_world.info("job_1")) or {})["state"]["messages"] == 2
    assert await client_world.lifecycle_events() == []


async def test_the_command_says_it(client_world: World) -> None:
    """Exit code 0 means that publishing is safe."""
    await client_world.declare()
    await client_world.zombie(1)
    done = await client_world.reactor("prepare", "1")
    assert (done.code, done.out) == (
        0,
        "job 1 is live, job_1 is empty (1 messages deleted): publishing is safe\n",
    )
    assert (await client_world.reactor("prepare", "a.b")).code == 2
    assert "no stream can belong" in (await client_world.reactor("prepare", "x1")).err


@pytest.mark.parametrize(
    "races", [RACES["slice"], pytest.param(RACES["soak"], marks=[pytest.mark.soak, pytest.mark.timeout(900)])]
)
async def test_races_with_the_sweeper(client_world: World, races: int) -> None:
    """No message that was published after `prepare` is lost, and none of the former run is delivered."""
    async with worker(client_world.env(REACTOR_LOG_LEVEL="INFO")):
        for number in range(races):
            await client_world.stream(f"job_{number}", messages=1)
            await client_world.consumer(f"job_{number}")
            ending = asyncio.create_task(client_world.emit(number, "SUCCESS"))
            await asyncio.sleep(random.uniform(0, 0.02))  # noqa: S311  # no secret
            prepared = await aprepare(number, timeout=60)
            await ending
            if prepared.stream is None:
                await client_world.stream(f"job_{number}")
                await client_world.consumer(f"job_{number}")
            await client_world.js.publish(f"job.{number}.tasks", b"new")
        await client_world.zombie(races)
        await eventually(lambda: gone(client_world, f"job_{races}"), 20)
        for number in range(races):
            durable = f"job-{number}-consumer"
            pull = await client_world.js.pull_subscribe_bind(consumer=durable, stream=f"job_{number}")
            assert [message.data for message in await pull.fetch(5, timeout=0.2)] == [b"new"], number
