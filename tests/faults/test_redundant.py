"""Redis on several machines: the main job, and a failover during a drain."""

import json
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio
from support.faults import is_stopped
from support.harness import World, eventually, gone, worker
from support.redundant import Redundant, a_cluster, with_a_sentinel

from reactor.deletion.failpoints import Point

KINDS = {"sentinel": with_a_sentinel, "cluster": a_cluster}


@pytest_asyncio.fixture(params=KINDS)
async def redundant(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Redundant]:
    """A Redis that survives the loss of its primary."""
    async with KINDS[request.param](tmp_path) as redis:
        yield redis


@pytest.mark.parametrize("point", [Point.FENCED, Point.PROVEN])
async def test_a_failover_in_the_middle_of_a_drain(world: World, redundant: Redundant, point: Point) -> None:
    """Nothing is deleted wrongly, deletions that began end, and work continues by itself."""
    env = world.env(REACTOR_REDIS_URL=redundant.url, REACTOR_REDIS_NAMESPACE="reactor", REACTOR_SWEEP_LEASE="5s")
    await world.declare()
    async with worker(env, armed=(point, "stop")) as process:
        await world.emit(2, "STARTED")
        await world.stream("job_2", messages=1)
        await world.zombie(1)
        await eventually(lambda: is_stopped(process.process.pid))
        for number in range(3, 20):
            await world.zombie(number)
        await redundant.fail_over()
        process.process.send_signal(signal.SIGCONT)
        for number in (1, *range(3, 20)):
            await eventually(partial(gone, world, f"job_{number}"), 60)
        await world.zombie(20)
        await eventually(lambda: gone(world, "job_20"), 60)
        assert process.process.returncode is None
    info = await world.info("job_2")
    assert info
    assert (info["state"]["messages"], info["config"]["subjects"]) == (1, ["job.2.tasks"])


async def test_commands_work_there(world: World, redundant: Redundant) -> None:
    """A pass, an operator's questions, and the doctor, which finds nothing wrong."""
    env = {"REACTOR_REDIS_URL": redundant.url, "REACTOR_REDIS_NAMESPACE": "reactor"}
    await world.declare()
    await world.zombie(1)
    await world.stream("job_2")
    await world.emit(2, "STARTED")
    report = json.loads((await world.reactor("reconcile", "--json", **env)).out)
    assert (report["error"], report["fixed"], report["kept"]) == (None, 1, 1)
    for command in ("status", "history", "explain job_2"):
        done = await world.reactor(*command.split(), **env)
        assert done.code == 0, (command, done)
    diagnosis = json.loads((await world.reactor("doctor", "--json", **env)).out)
    redis = {
        item["name"]: item["level"] for item in diagnosis["checks"] if item["name"].startswith(("redis", "ledger"))
    }
    assert "error" not in redis.values(), diagnosis
