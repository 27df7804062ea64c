"""A whole job system on Django, Celery and PostgreSQL (tests/project) that uses the client as in docs/adopting.md."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import nats.errors
import pytest
from celery import Celery
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from support.harness import ROOT, World, eventually, gone, worker

PROJECT = ROOT / "tests" / "project"
KINDS = ["works on"] * 3 + ["leaves"] * 3 + ["again"] * 2 + ["tidy", "raises", "updated", "deleted", "killed"] * 2
LIVE = [job for job, kind in enumerate(KINDS, 1) if kind in {"works on", "again"}]


class Project:
    """The job system's processes, rows and queue."""

    def __init__(self, world: World, postgres: str, database: str) -> None:
        self.world, self.database = world, database
        self.admin = postgres
        self.url = postgres.removesuffix("postgres") + database
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("REACTOR_")}
        self.env = inherited | {
            "PYTHONPATH": f"{ROOT}:{PROJECT}",
            "DATABASE": database,
            "PG_PORT": str(urlsplit(postgres).port),
            "NATS_URL": world.nats_url,
            "REACTOR_NATS_URL": world.nats_url,
            "BROKER": world.redis_url,
            "PREFIX": f"{world.namespace}-celery-",
            "WORK_S": "6",
        }
        self.queue = Celery("project", broker=world.redis_url)
        self.queue.conf.broker_transport_options = {"global_keyprefix": self.env["PREFIX"]}

    async def sql(self, statement: str, url: str | None = None) -> list[tuple[Any, ...]]:
        engine = create_async_engine(url or self.url, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            answer = await connection.execute(text(statement))
            rows = [tuple(row) for row in answer] if answer.returns_rows else []
        await engine.dispose()
        return rows

    async def manage(self, *args: str) -> str:
        command = [sys.executable, "manage.py", *args]
        process = await asyncio.create_subprocess_exec(*command, cwd=PROJECT, env=self.env, stdout=PIPE, stderr=STDOUT)
        out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()
        return out.decode()

    async def begin(self) -> None:
        """Create the rows. Nothing works yet."""
        await self.sql(f"CREATE DATABASE {self.database}", self.admin)
        await self.manage("migrate", "-v", "0")
        for kind in KINDS:
            await self.sql(f"INSERT INTO jobs_job (kind, status, published) VALUES ('{kind}', 'QUEUED', 0)")  # noqa: S608

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Run Celery's worker. At the end let its tasks end."""
        command = ["-m", "celery", "-A", "celery_app", "worker", "-c", "6", "-l", "warning"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, cwd=PROJECT, env=self.env, start_new_session=True
        )
        try:
            yield
            process.terminate()
            await asyncio.wait_for(process.wait(), 60)
        finally:
            self.queue.close()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    async def send(self, task: str, *jobs: int) -> None:
        for job in jobs:
            await asyncio.to_thread(self.queue.send_task, task, [job])

    async def has_ended(self, *jobs: int) -> bool:
        rows = await self.sql("SELECT id FROM jobs_job WHERE status NOT IN ('QUEUED', 'STARTED')")
        return set(jobs) <= {row[0] for row in rows}

    async def has_published(self, least: int, *jobs: int) -> bool:
        rows = await self.sql(f"SELECT id FROM jobs_job WHERE published >= {least}")  # noqa: S608
        return set(jobs) <= {row[0] for row in rows}


async def poll(world: World) -> None:
    """Run external workers, which take the messages in jobs' streams."""
    while True:
        for name in await world.names():
            with suppress(nats.errors.Error):
                pull = await world.js.pull_subscribe("", durable="worker", stream=name)
                for message in await pull.fetch(10, timeout=0.05):
                    await message.ack()
                await pull.unsubscribe()
        await asyncio.sleep(0.05)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("source", ["events", pytest.param("sql", marks=pytest.mark.versions)])
async def test_a_job_system_loses_its_zombies_and_nothing_else(world: World, postgres: str, source: str) -> None:
    """While it works, restarts jobs whose streams are being deleted, and runs its own tests."""
    project = Project(world, postgres, f"jobs_{source}")
    await project.begin()
    overrides: dict[str, object] = {"REACTOR_RECONCILE_INTERVAL": "1s", "REACTOR_BREAKER_MAX_MISSING": "100"}
    if source == "sql":
        overrides |= {
            "REACTOR_DIRECTORY_KIND": "sql",
            "REACTOR_DIRECTORY_URL": project.url,
            "REACTOR_DIRECTORY_QUERY": "SELECT id, status, finished_at AS ended_at FROM jobs_job WHERE id IN :ids",
            "REACTOR_DIRECTORY_CANARY": "1",
        }
    by_kind = {kind: [job for job, item in enumerate(KINDS, 1) if item == kind] for kind in KINDS}
    zombies = {"leaves", "raises", "deleted", "updated", *(["killed"] if source == "events" else [])}
    async with worker(world.env(**overrides)), project.at_work():
        polling = asyncio.create_task(poll(world))
        await project.send("jobs.run", *range(1, len(KINDS) + 1))
        await eventually(lambda: project.has_ended(*by_kind["again"]), 60)
        await project.send("jobs.restart", *by_kind["again"])
        tests = asyncio.create_task(project.manage("test", "-v", "1"))
        await eventually(lambda: project.has_ended(*by_kind["leaves"], *by_kind["raises"], *by_kind["updated"]), 60)
        if source == "events":
            await project.manage("announce_jobs")  # update() gives no signal
        await eventually(lambda: project.has_published(5, *by_kind["killed"]), 60)
        await eventually(lambda: gone(world, *(f"job_{job}" for kind in zombies for job in by_kind[kind])), 60)
        assert "OK" in await tests
        await eventually(lambda: project.has_published(len(by_kind) + 1, *LIVE), 60)  # also those run again
        polling.cancel()
    rows = {row[0]: row[1] for row in await project.sql("SELECT id, published FROM jobs_job")}
    for job in LIVE:
        assert (await world.js.stream_info(f"job_{job}")).state.messages == rows[job], job
    kept = LIVE if source == "events" else [*LIVE, *by_kind["killed"]]
    assert await world.names() == {f"job_{job}" for job in kept}
    words = Counter((event["job_id"], event["status"]) for event in await world.lifecycle_events())
    assert not [word for word in words if word[0] in map(str, by_kind["works on"]) and word[1] != "STARTED"]
