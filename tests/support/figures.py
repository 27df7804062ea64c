"""Shared by the benchmarks."""

import json
from collections.abc import Callable

from support.harness import World, eventually

Record = Callable[[str, float, str], None]
RECORDED = {
    "events taken in": 1 / 0.7,
    "a rebuild of 60,000 jobs": 5.0,
    "a pass over 1,500 zombies": 1.6,
    "CPU of a drain": 1.3,
    "CPU of a drain in the sweeper": 1.8,
    "a pass by a table": 1.3,
    "2,000 jobs due at once": 4.0,
    "the job system's own requests": 0.1,
    "a pass over 4,000 live streams": 4.5,
    "from due to deleted, by events": 0.1,
    "from due to deleted, by NOTIFY": 0.1,
    "at rest": 0.012,
    "Redis commands a second at rest": 4.0,
    "memory of the worker": 100.0,
    "memory of Redis": 800.0,
    "start of --help": 1.4,
}
"""The worst that was seen where the figures of docs/benchmarks.md were measured, without distance; more is worse."""


async def publish_events(world: World, count: int, status: str, first: int = 0) -> None:
    """Publish events over core NATS, in bursts that the server can store."""
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
