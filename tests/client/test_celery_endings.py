"""All endings of a Celery task in each of Celery's pools, and what is published, as docs/adopting.md says."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from celery import Celery
from support.harness import ROOT, World, eventually, statuses_of

PROCESSES = {
    "success": ["STARTED", "SUCCESS"],
    "fail": ["STARTED", "FAILURE"],
    "retry": ["STARTED", "RETRY", "STARTED", "SUCCESS"],
    "ignore": ["STARTED"],
    "reject": ["STARTED", "FAILURE"],
    "soft": ["STARTED", "FAILURE"],
    "hard": ["STARTED", "FAILURE", "FAILURE"],
    "revoke": ["REVOKED"],
    "terminate": ["STARTED", "REVOKED"],
    "killed": ["STARTED", "FAILURE"],
    "requeue": ["STARTED", "STARTED", "SUCCESS"],
    "lost": ["STARTED", "STARTED", "SUCCESS"],
}
"""What is told by a worker whose tasks run in processes of their own."""
ONE_PROCESS = {
    **PROCESSES,
    "soft": ["STARTED", "SUCCESS"],  # it has no time limits
    "hard": ["STARTED", "SUCCESS"],
    "terminate": ["STARTED", "SUCCESS"],  # nor can it end a task
    "killed": ["STARTED"],  # and dies with it
    "lost": ["STARTED"],
}
POOLS = {
    "prefork": PROCESSES,
    "processes": PROCESSES,
    "solo": ONE_PROCESS,
    "threads": ONE_PROCESS,
    "gevent": ONE_PROCESS | {"hard": ["STARTED", "FAILURE"], "terminate": ["STARTED", "REVOKED"]},
    "eventlet": ONE_PROCESS | {"terminate": ["STARTED", "REVOKED"]},
}
LATE = {"requeue", "lost"}
"""Of a task that is acknowledged late: it runs again."""
EVERYDAY = {"prefork"}


@asynccontextmanager
async def a_worker(world: World, folder: Path, pool: str) -> AsyncIterator[Any]:
    """Run a Celery worker. Yield an app that talks to it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("REACTOR_")}
    env |= {"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "REACTOR_NATS_URL": world.nats_url}
    env |= {"BROKER": world.redis_url, "PREFIX": f"{world.namespace}-celery-"}
    command = ["-m", "celery", "-A", "celery_jobs", "worker", "-P", pool, "-c", "4", "--without-gossip"]
    with (folder / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, env=env, stdout=log, stderr=log, cwd=folder, start_new_session=True
        )
    app = cast("Any", Celery("jobs", broker=world.redis_url, backend=world.redis_url))
    app.conf.broker_transport_options = {"global_keyprefix": env["PREFIX"]}
    try:
        await eventually(lambda: asyncio.to_thread(app.control.ping, timeout=0.5), 60)
        yield app
    finally:
        app.close()
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "pool", [pytest.param(pool, marks=[] if pool in EVERYDAY else pytest.mark.versions) for pool in POOLS]
)
async def test_each_ending_is_sent(world: World, tmp_path: Path, pool: str) -> None:
    """No terminal status is published for a task that will run again."""
    await world.declare()
    expected = POOLS[pool]
    ids = {how: str(uuid4()) for how in [*expected, "timed"]}

    async def send(how: str, **limits: int) -> None:
        task = "timed" if how == "timed" else "late" if how in LATE else "work"
        await asyncio.to_thread(app.send_task, task, [how], {"job_id": how}, task_id=ids[how], **limits)

    async with a_worker(world, tmp_path, pool) as app:
        await asyncio.to_thread(app.control.revoke, ids["revoke"], reply=True)
        for how in ("success", "fail", "retry", "ignore", "reject", "revoke", "requeue"):
            await send(how)
        await send("soft", soft_time_limit=1)
        await send("hard", time_limit=1)
        await send("terminate")
        await eventually(lambda: _is_at_work(world, "terminate"), 60)
        await asyncio.to_thread(app.control.revoke, ids["terminate"], terminate=True)
        await _so_in_the_end(world, {how: expected[how] for how in expected if how not in {"killed", "lost"}})
        if expected is PROCESSES:
            await send("timed", time_limit=1)
            await eventually(lambda: _ended(world, "timed"), 60)
            assert "FAILURE" not in (await statuses_of(world))["timed"]  # though Celery gives that signal
            await send("lost")
            await _so_in_the_end(world, {"lost": expected["lost"]})
        await send("killed")
        await _so_in_the_end(world, {"killed": expected["killed"]})


async def _is_at_work(world: World, how: str) -> bool:
    return "STARTED" in (await statuses_of(world)).get(how, [])


async def _ended(world: World, how: str) -> bool:
    return "SUCCESS" in (await statuses_of(world)).get(how, [])


async def _so_in_the_end(world: World, expected: dict[str, list[str]]) -> None:
    async def so() -> bool:
        words = await statuses_of(world)
        return {how: words.get(how) for how in expected} == expected

    try:
        await eventually(so, 60)
    except AssertionError:
        words = await statuses_of(world)
        assert {how: words.get(how) for how in expected} == expected
