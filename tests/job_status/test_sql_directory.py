"""The job system's own table, in SQLite and in a real PostgreSQL."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import Engine, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from support.harness import World, eventually, gone, has_records, worker
from support.postgres import Postgres
from support.postgres import execute as run

from reactor.cli.embedded import HOST, free_port
from reactor.core.model import DirectoryStatus, parse_instant
from reactor.job_status.protocol import DirectoryConfigError
from reactor.job_status.sql import SqlDirectory

QUERY = "SELECT id, status, ended_at FROM jobs WHERE id IN :ids"


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def jobs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """An empty table of jobs."""
    sqlite = f"sqlite+aiosqlite:///{tmp_path / 'jobs.db'}"
    url = sqlite if request.param == "sqlite" else request.getfixturevalue("postgres")
    engine = create_async_engine(url)
    kind = "TEXT" if request.param == "sqlite" else "timestamptz"
    await run(engine, "DROP TABLE IF EXISTS jobs")
    await run(engine, f"CREATE TABLE jobs (id INTEGER, status TEXT, ended_at {kind})")
    yield engine
    await engine.dispose()


def url_of(engine: AsyncEngine) -> str:
    return engine.url.render_as_string(hide_password=False)


async def asked(engine: AsyncEngine, *ids: str, query: str = QUERY, **options: Any) -> Any:
    """Return the answer about these jobs."""
    directory = SqlDirectory(url_of(engine), query, **{"timeout_s": 5.0} | options)
    try:
        return await directory.ask(ids)
    finally:
        await directory.close()


async def test_jobs_are_found_or_absent(jobs: AsyncEngine) -> None:
    """With the end in the table, if it has an offset. Ids are numbers here."""
    await run(
        jobs,
        "INSERT INTO jobs VALUES (1, 'STARTED', NULL), (2, 'SUCCESS', '2026-01-31T12:00:00+01:00')",
        "INSERT INTO jobs VALUES (3, 'FAILURE', NULL)",
    )
    answer = await asked(jobs, "1", "2", "3", "4", "x", "99999999999999999999999")
    ended = parse_instant("2026-01-31T11:00:00Z")
    assert answer.found == {
        "1": DirectoryStatus("STARTED"),
        "2": DirectoryStatus("SUCCESS", ended),
        "3": DirectoryStatus("FAILURE"),
    }
    assert set(answer.unknown) <= {"99999999999999999999999"}


async def test_ids_may_be_texts(jobs: AsyncEngine) -> None:
    """A column of texts is compared with texts."""
    await run(jobs, "DROP TABLE jobs", "CREATE TABLE jobs (id TEXT, status TEXT, ended_at TEXT)")
    await run(jobs, "INSERT INTO jobs VALUES ('1', 'STARTED', NULL), ('a-b', 'SUCCESS', '2026-01-31 12:00:00')")
    answer = await asked(jobs, "1", "a-b", "c")
    assert answer.found == {
        "1": DirectoryStatus("STARTED"),
        "a-b": DirectoryStatus("SUCCESS"),
    }  # a time without offset may be hours off
    assert not answer.unknown


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("SELECT id, status FROM jobs WHERE id IN :ids OR 1 = 1", "not asked for"),
        ("SELECT 5 AS id, 'SUCCESS' AS status FROM jobs WHERE id IN :ids", "not asked for"),
        ("SELECT id FROM jobs WHERE id IN :ids", "no column status"),
        ("SELECT id, status FROM nowhere WHERE id IN :ids", "nowhere"),
    ],
)
async def test_an_answer_that_does_not_fit_is_unknown(jobs: AsyncEngine, query: str, why: str) -> None:
    """Never absent."""
    await run(jobs, "INSERT INTO jobs VALUES (1, 'STARTED', NULL), (2, 'SUCCESS', NULL)")
    answer = await asked(jobs, "1", "3", query=query)
    assert not answer.found
    assert set(answer.unknown) == {"1", "3"}
    assert why in answer.unknown["1"] or "syntax" in answer.unknown["1"]


async def test_rows_that_disagree_are_unknown(jobs: AsyncEngine) -> None:
    """Only for that job; two equal rows are one. A status that is not a word is not an answer."""
    await run(jobs, "INSERT INTO jobs VALUES (1, 'STARTED', NULL), (1, 'SUCCESS', NULL), (2, 'SUCCESS', NULL)")
    await run(jobs, "INSERT INTO jobs VALUES (2, 'SUCCESS', NULL), (3, NULL, NULL), (4, ' ', NULL)")
    answer = await asked(jobs, "1", "2", "3", "4")
    assert answer.found == {"2": DirectoryStatus("SUCCESS")}
    assert set(answer.unknown) == {"1", "3", "4"}


def _insert(number: int) -> str:
    return f"INSERT INTO jobs VALUES ({number}, 'STARTED', NULL)"  # noqa: S608  # numbers of our own


async def test_more_jobs_than_a_query_takes(jobs: AsyncEngine) -> None:
    """In chunks."""
    await run(jobs, *[_insert(number) for number in range(0, 1200, 2)])
    answer = await asked(jobs, *map(str, range(1200)))
    assert set(answer.found) == {str(number) for number in range(0, 1200, 2)}
    assert not answer.unknown


async def test_a_pooler_in_front_is_named(postgres: str) -> None:
    """PgBouncer gives each transaction another connection, so the server lacks the prepared statements."""
    forgetful = "SELECT 1 AS id, 'STARTED' AS status FROM jobs_prepared() WHERE 1 IN :ids"
    engine = create_async_engine(postgres)
    body = "BEGIN RAISE 'prepared statement \"__asyncpg_stmt_1__\" does not exist'; END"
    await run(engine, f"CREATE OR REPLACE FUNCTION jobs_prepared() RETURNS SETOF int AS $$ {body} $$ LANGUAGE plpgsql")
    answer = await asked(engine, "1", query=forgetful)
    await engine.dispose()
    assert "postgresql+psycopg://" in answer.unknown["1"]


async def test_who_asks_at_the_same_time_shares_a_query(jobs: AsyncEngine) -> None:
    """Each gets only its own jobs. A later caller does not get an earlier answer."""
    await run(jobs, *(f"INSERT INTO jobs VALUES ({number}, 'STARTED', NULL)" for number in range(100)))  # noqa: S608  # as above
    directory, queries = SqlDirectory(url_of(jobs), QUERY, timeout_s=5.0), list[str]()

    def count(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        queries.extend([statement] if "FROM jobs" in statement else [])

    event.listen(Engine, "before_cursor_execute", count)
    try:
        answers = await asyncio.gather(*(directory.ask([str(number)]) for number in range(120)))
        asked_first, later = len(queries), asyncio.create_task(directory.ask(["1"]))
        await run(jobs, "UPDATE jobs SET status = 'SUCCESS' WHERE id = 1")
        now = await directory.ask(["1"])
        await later
    finally:
        event.remove(Engine, "before_cursor_execute", count)
        await directory.close()
    found = DirectoryStatus("STARTED")
    assert [answer.found for answer in answers] == [{str(n): found} if n < 100 else {} for n in range(120)]
    assert now.found == {"1": DirectoryStatus("SUCCESS")}
    assert asked_first <= 3, "one to learn the type of the ids, and one or two"


async def test_a_database_that_is_away_is_unknown_and_no_mistake() -> None:
    """Also at the start."""
    directory = SqlDirectory(f"postgresql+asyncpg://jobs@{HOST}:{free_port()}/x", QUERY, timeout_s=2.0)
    await directory.check()
    assert set((await directory.ask(["1"])).unknown) == {"1"}
    await directory.close()


async def test_a_server_that_is_killed_in_the_middle_of_a_query_proves_nothing() -> None:
    """Nor do its old connections when it is back."""
    query = "SELECT id, status FROM (SELECT id, status, pg_sleep(wait) FROM jobs) j WHERE id IN :ids"
    with Postgres.installed() as server:
        engine = create_async_engine(server.url)
        await run(engine, "CREATE TABLE jobs (id INTEGER, status TEXT, wait FLOAT)")
        await run(engine, "INSERT INTO jobs VALUES (1, 'STARTED', 0)")
        directory = SqlDirectory(server.url, query, timeout_s=20.0)
        assert (await directory.ask(["1", "2"])).found == {"1": DirectoryStatus("STARTED")}
        await run(engine, "UPDATE jobs SET wait = 30")
        asking = asyncio.create_task(directory.ask(["1", "2"]))
        await eventually(lambda: _sleeps(engine))
        await asyncio.to_thread(server.kill)
        assert set((await asking).unknown) == {"1", "2"}
        assert set((await directory.ask(["1", "2"])).unknown) == {"1", "2"}
        await engine.dispose()
        await asyncio.to_thread(server.start)
        await run(engine, "UPDATE jobs SET wait = 0")
        answer = await directory.ask(["1", "2"])
        assert (answer.found, set(answer.unknown)) == ({"1": DirectoryStatus("STARTED")}, set())
        await directory.close()
        await engine.dispose()


async def _sleeps(engine: AsyncEngine) -> bool:
    async with engine.connect() as connection:
        asked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        return bool((await connection.execute(text(asked))).scalar())


async def test_a_query_takes_no_longer_than_it_may(postgres: str) -> None:
    """The server itself gives up, and a pool without a free connection is no answer either."""
    directory = SqlDirectory(
        postgres,
        "SELECT id, status FROM (SELECT 1 AS id, 'a' AS status, pg_sleep(30)) j WHERE id IN :ids",
        timeout_s=0.5,
    )
    answers = await asyncio.gather(*(directory.ask(["1"]) for _ in range(8)))
    assert all(set(answer.unknown) == {"1"} for answer in answers)
    await directory.close()


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("SELECT id FROM jobs WHERE id IN :ids", "no column status"),
        ("SELECT id, status FROM no WHERE id IN :ids", "refuses"),
    ],
)
async def test_a_query_that_cannot_work_is_said_at_the_start(jobs: AsyncEngine, query: str, why: str) -> None:
    """It is the user's mistake."""
    directory = SqlDirectory(url_of(jobs), query, timeout_s=5.0)
    with pytest.raises(DirectoryConfigError, match=why):
        await directory.check()
    await directory.close()


async def test_it_cannot_write(jobs: AsyncEngine) -> None:
    """Whatever the query does."""
    await run(jobs, "INSERT INTO jobs VALUES (1, 'STARTED', NULL)")
    answer = await asked(jobs, "1", query="DELETE FROM jobs WHERE id IN :ids RETURNING id, status")
    assert set(answer.unknown) == {"1"}
    assert (await asked(jobs, "1")).found


async def test_the_table_decides_without_any_event(world: World, jobs: AsyncEngine) -> None:
    """A running job's stream stays; an ended one's is deleted, and one without a row.

    A rolled back end ends nothing.
    """
    await run(
        jobs,
        "INSERT INTO jobs VALUES (1, 'STARTED', NULL), (2, 'SUCCESS', '2026-01-31T12:00:00+01:00')",
        "INSERT INTO jobs VALUES (4, 'STARTED', NULL)",
    )
    for number in (1, 2, 3, 4):
        await world.stream(f"job_{number}", messages=1)
    env = world.env(
        REACTOR_DIRECTORY_KIND="sql",
        REACTOR_DIRECTORY_URL=url_of(jobs),
        REACTOR_DIRECTORY_QUERY=QUERY,
        REACTOR_RECONCILE_INTERVAL="1s",
        REACTOR_BREAKER_MAX_MISSING="0",
        REACTOR_BREAKER_MAX_MISSING_RATIO="0.9",
    )
    async with worker(env):
        await eventually(lambda: gone(world, "job_2", "job_3"), 20)
        await world.emit(4, "SUCCESS")  # of a transaction that is rolled back
        await eventually(lambda: has_records(world, 4))
        await run(jobs, "UPDATE jobs SET status = 'REVOKED' WHERE id = 1")
        await eventually(lambda: gone(world, "job_1"), 20)
    assert await world.names() == {"job_4"}


async def test_postgresql_notifies_at_once(world: World, postgres: str, tmp_path: Path) -> None:
    """A changed status and a deleted row. After a broken connection it listens again."""
    engine = create_async_engine(postgres)
    await run(engine, "DROP TABLE IF EXISTS tasks", "CREATE TABLE tasks (key INTEGER, state TEXT)")
    trigger = tmp_path / "trigger.sql"
    trigger.write_text((await world.reactor("export", "postgres-trigger")).out)
    plain = postgres.replace("+asyncpg", "")
    names = ("-v", "table=tasks", "-v", "id=key", "-v", "status=state", "-v", "channel=told")
    await asyncio.to_thread(subprocess.run, ["psql", "-q", plain, *names, "-f", str(trigger)], check=True)
    await run(engine, "ALTER TABLE tasks ALTER COLUMN state TYPE VARCHAR(32)")  # the next migration is not blocked
    for number in (1, 2, 3, 4):
        await run(engine, f"INSERT INTO tasks VALUES ({number}, 'STARTED')")  # noqa: S608  # numbers of our own
        await world.stream(f"job_{number}", messages=1)
    env = world.env(
        REACTOR_DIRECTORY_KIND="sql",
        REACTOR_DIRECTORY_URL=postgres,
        REACTOR_DIRECTORY_QUERY="SELECT key AS id, state AS status FROM tasks WHERE key IN :ids",
        REACTOR_DIRECTORY_CHANNEL="told",
        REACTOR_RECONCILE_INTERVAL="1h",
    )
    async with worker(env) as process:
        await eventually(lambda: process.logged("listening to the job system"))
        await run(engine, "UPDATE tasks SET state = 'SUCCESS' WHERE key = 1")
        await eventually(lambda: gone(world, "job_1"))
        await run(engine, "DELETE FROM tasks WHERE key = 2")
        await eventually(lambda: gone(world, "job_2"), 20)
        await run(engine, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        await engine.dispose()
        await run(engine, "UPDATE tasks SET state = 'FAILURE' WHERE key = 3")
        await eventually(lambda: gone(world, "job_3"), 60)
        assert process.process.returncode is None
    assert await world.names() == {"job_4"}
    await engine.dispose()
