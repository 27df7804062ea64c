"""Many streams that are created and deleted, and many events at once. The long runs are behind the marker soak."""

import asyncio
import json
from contextlib import suppress

import nats.errors
import nats.js.errors
import pytest
from support.faults import resident
from support.harness import World, acked, eventually, gone, print_figure, worker


async def churn(world: World, stop: asyncio.Event) -> int:
    """Create and delete foreign streams, so that pages shift. Return how many."""
    made = 0
    while not stop.is_set():
        name = f"a_churn_{made % 20}"
        with suppress(nats.errors.Error, nats.js.errors.Error):
            await world.stream(name)
            await world.js.delete_stream(name)
        made += 1
    return made


async def passes_until_drained(world: World, count: int) -> int:
    """Return how many passes it takes to delete all zombies while streams change. Every other stream stays."""
    await world.declare()
    for number in range(count):
        await world.stream(f"job_{number}")
        await world.emit(number, "STARTED" if number % 2 else "SUCCESS")
    stop = asyncio.Event()
    churning = asyncio.create_task(churn(world, stop))
    zombies, passes = [f"job_{n}" for n in range(0, count, 2)], 0
    while not await gone(world, *zombies):
        report = await world.reconcile()
        assert report["error"] is None
        passes += 1
        assert passes <= 5
    stop.set()
    assert await churning > 0
    assert {name for name in await world.names() if name.startswith("job_")} == {f"job_{n}" for n in range(1, count, 2)}
    return passes


async def test_zombies_are_deleted_while_pages_shift(world: World) -> None:
    """With more than 256 streams, so with more than one page."""
    await passes_until_drained(world, 300)


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_two_thousand_streams_with_churn(world: World) -> None:
    """The long run of the slice."""
    passes = await passes_until_drained(world, 2000)
    print_figure(f"2,000 streams with churn: 1,000 zombies fell within {passes} passes")


async def grown_by_a_burst(world: World, count: int) -> float:
    """Return by how many MB a worker grows during a burst of events. None is lost."""
    async with worker(world.env(REACTOR_LOG_LEVEL="INFO")) as process:
        before = resident(process.process.pid)
        for number in range(count):
            event = json.dumps({"job_id": number % 1000, "status": "STARTED"}).encode()
            await world.nc.publish(f"jobs.lifecycle.{number % 1000}", event)
            if number % 500 == 0:
                await world.nc.flush()
        await world.nc.flush()
        await eventually(lambda: stored(world, count), 60)
        await eventually(lambda: acked(world), 120)
        grown = resident(process.process.pid) - before
        assert int(await world.redis.hget(f"{world.namespace}:ledger", "applied") or 0) == count
    return grown


async def stored(world: World, count: int) -> bool:
    info = await world.info("JOBS")
    return bool(info and info["state"]["last_seq"] >= count)


async def test_a_burst_of_events_is_taken_in(world: World) -> None:
    """In bounded memory."""
    assert await grown_by_a_burst(world, 10_000) < 40


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_a_hundred_thousand_events(world: World) -> None:
    """The long run of the slice."""
    grown = await grown_by_a_burst(world, 100_000)
    assert grown < 60
    print_figure(f"100,000 events in a burst: the worker grew by {grown:.0f} MB")


HOSTILE = [
    "job_1\u202e",
    "job_\u06f1",
    "job_" + "9" * 251,
    "job_18446744073709551617",
    "job_-0",
    "job_1\u200b",
    "job_0x1",
    "job_1\u0000",
]


async def test_hostile_names_are_nobodys_or_exactly_their_own(world: World) -> None:
    """Names with NUL, bidi or 255 characters, ids beyond 64 bits. None is taken for job 1, and none breaks a line."""
    await world.declare()
    made: list[str] = []
    for name in HOSTILE:
        answer = await world.api(f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"h.{len(made)}"]})
        if "error" not in answer:
            made.append(name)
    assert len(made) >= 4
    await world.zombie(1)
    await world.emit(18446744073709551617, "STARTED")
    await world.emit("9" * 251, "STARTED")
    done = await world.reactor("reconcile", "--age-guard", "0")
    assert done.code == 0, done.err
    assert all(char.isprintable() or char == "\n" for char in done.out)
    assert await world.names() == set(made)
