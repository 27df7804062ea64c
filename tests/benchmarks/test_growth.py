"""Growth to 50,000 streams and 1,000,000 jobs: what stays straight, and where the server itself does not.

    uv run pytest -m soak -n 0 -s tests/benchmarks

The streams are in memory, since nats-server keeps a file open for each of the others.
"""

import json
import time
from functools import partial
from typing import Any

import psutil
import pytest
from nats.js.api import StorageType
from support.figures import Record, ack_floor, publish_events
from support.harness import Served, World, eventually, print_figure, served

from reactor.deletion.concurrency import each

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]
STREAMS = (2_000, 8_000, 24_000, 50_000)
JOBS = (100_000, 1_000_000)


async def test_passes_over_more_and_more_live_streams(world: World, record: Record) -> None:
    """Compared with the bare listing; with the memory of the worker."""
    await world.declare()
    there = 0
    for count in STREAMS:
        await each(range(there, count), lambda number: _live(world, number), 16)
        there = count
        start = time.monotonic()
        for offset in range(0, count, 256):
            await world.api("STREAM.LIST", {"offset": offset})
        bare = time.monotonic() - start
        async with served(world, REACTOR_RECONCILE_INTERVAL="1h", REACTOR_LOG_LEVEL="INFO") as at:
            await eventually(partial(_passed_over, at, count), 300, 0.2)
            took = (await world.reconcile())["duration_s"]
            memory = psutil.Process(at.process.process.pid).memory_info().rss / 1e6
        words = f"{took:.2f} s, bare listing {bare:.2f} s, ratio {took / bare:.1f}, worker {memory:.0f} MB"
        record(f"a pass over {count:,} live streams", took / bare, words)


async def _passed_over(at: Served, count: int) -> Any:
    last = (await at.get("/api/status"))[1].get("last_reconcile")
    return last if last and last["checked"] == count else None


async def _live(world: World, number: int) -> None:
    await world.stream(f"job_{number}", storage=StorageType.MEMORY)
    await world.nc.publish(f"jobs.lifecycle.{number}", json.dumps({"job_id": number, "status": "STARTED"}).encode())


async def test_more_and_more_jobs(world: World, record: Record) -> None:
    """The first reading of all events, and the rebuild after a FLUSHALL, with the memory of worker and Redis."""
    await world.declare()
    known = 0
    for count in JOBS:
        start = time.monotonic()
        await publish_events(world, count - known, "STARTED", first=known)
        print_figure(f"{count - known:,} events published in {time.monotonic() - start:.0f} s")
        async with served(world, ready=False, REACTOR_RECONCILE_INTERVAL="1h", REACTOR_LOG_LEVEL="INFO") as at:
            measured = psutil.Process(at.process.process.pid)
            first, start = await ack_floor(world), time.monotonic()
            await eventually(partial(_read, world, count), 600, 0.05)
            took = time.monotonic() - start
            words = f"{(count - first) / took:,.0f} events/s, worker {measured.memory_info().rss / 1e6:.0f} MB"
            record(f"first reading up to {count:,} jobs", took, words)
            await world.redis.flushall()
            start = time.monotonic()
            await eventually(partial(_covers, at), 600, 0.2)
            took = time.monotonic() - start
            used = (await world.redis.info("memory"))["used_memory"]
            memory = measured.memory_info().rss / 1e6
            words = f"{count / took:,.0f} jobs/s, worker {memory:.0f} MB, Redis {used / count:.0f} B a job"
            record(f"rebuild of {count:,} jobs", took, words)
        known = count


async def _read(world: World, count: int) -> bool:
    return await ack_floor(world) >= count


async def _covers(at: Served) -> bool:
    code, status = await at.get("/api/status")
    return bool(code == 200 and status["coverage"]["complete"])
