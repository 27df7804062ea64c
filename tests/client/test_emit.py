"""Publishing from a job system's own code: views, threads, forked workers, event loops."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from support.faults import is_stopped
from support.harness import ROOT, World, connected, eventually, own_nats
from support.narrow import EMITTER

from reactor.cli.embedded import HOST, free_port
from reactor.client import EmitError, aemit, counts, emit, emitter
from reactor.core.model import parse_instant


@pytest_asyncio.fixture
async def client_world(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A job system's world in which only the address of NATS is configured."""
    _clean(monkeypatch, world.nats_url)
    yield world


def _clean(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name in list(os.environ):
        if name.startswith("REACTOR_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("REACTOR_NATS_URL", url)
    monkeypatch.setattr(emitter.Process, "_current", None)


async def test_the_first_event_declares_the_lifecycle_stream(client_world: World) -> None:
    """Before any worker ran. A worker then finds all events. The time gets its offset."""
    before = datetime.now(UTC)  # noqa: TID251  # an emitter's clock
    answer = await asyncio.to_thread(emit, 42, "SUCCESS")
    assert answer
    assert (answer.stream, answer.seq, answer.error) == ("JOBS", 1, None)
    assert await aemit("a-b", "STARTED", occurred_at=before - timedelta(hours=1))
    first, second = await client_world.lifecycle_events()
    assert (first["job_id"], first["status"]) == ("42", "SUCCESS")
    assert parse_instant(first["occurred_at"]) >= parse_instant(before.isoformat())
    assert parse_instant(second["occurred_at"]) == parse_instant((before - timedelta(hours=1)).isoformat())
    await client_world.stream("job_42")
    assert (await client_world.verdicts())["job_42"] == ("drained", "terminal")


def test_who_only_emits_imports_no_redis() -> None:
    """A web process pays only for what it uses."""
    code = (
        "import sys, reactor.client; print({'redis', 'faststream'} & set(sys.modules), reactor.client.prepare.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)  # noqa: S603
    assert done.stdout.split() == ["set()", "prepare"]


async def test_every_status_is_sent(client_world: World) -> None:
    """Even an apparent repetition, because the end of an earlier attempt may arrive after it."""
    sent = counts()
    for word in ("STARTED", "started", "SUCCESS", "STARTED"):
        assert await aemit(1, word)
    assert [event["status"] for event in await client_world.lifecycle_events()] == [
        "STARTED",
        "started",
        "SUCCESS",
        "STARTED",
    ]
    assert {name: counts()[name] - sent[name] for name in sent} == {"sent": 4, "failed": 0, "waiting": 0}


async def test_a_retry_whose_predecessor_ends_late_lives(client_world: World) -> None:
    """STARTED, STARTED of the retry, then a late FAILURE of the first attempt: the job is disputed, so it is live."""
    await client_world.declare()
    await client_world.stream("job_1", messages=1)
    began = datetime.now(UTC)  # noqa: TID251  # an emitter's clock
    assert await aemit(1, "STARTED", occurred_at=began - timedelta(seconds=60))
    assert await aemit(1, "STARTED", occurred_at=began)
    assert await aemit(1, "FAILURE", occurred_at=began - timedelta(seconds=30))
    assert await client_world.verdicts() == {"job_1": ("kept", "disputed")}


RIGHTS = {
    "just what permissions.md lists": EMITTER,
    "publishing alone": 'publish: "jobs.lifecycle.*", subscribe: { deny: ">" }',
}


@pytest.mark.parametrize("rights", RIGHTS)
async def test_narrow_rights_keep_no_status_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rights: str) -> None:
    """The retry of a job arrives, whatever permissions this user lacks."""
    users = f"{{ user: all, password: pw }}, {{ user: few, password: pw, permissions: {{ {RIGHTS[rights]} }} }}"
    async with own_nats(tmp_path, f"authorization {{ users: [{users}] }}") as server:
        url = f"nats://all:pw@{HOST}:{server.port}"
        async with connected(url, "redis://unused", "none") as world:
            config = {"name": "JOBS", "subjects": ["jobs.lifecycle.*"], "storage": "file"}
            await world.api("STREAM.CREATE.JOBS", config)
            _clean(monkeypatch, f"nats://few:pw@{HOST}:{server.port}")
            words = ["STARTED", "SUCCESS", "STARTED", "STARTED"]
            answers = [await aemit(1, word, timeout=10) for word in words]
            assert [event["status"] for event in await world.lifecycle_events()] == words
            if rights == "publishing alone":
                assert all("allow this user to subscribe" in (answer.error or "") for answer in answers)
            else:
                assert all(answers)


async def test_no_stream_and_no_right_to_make_one_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The event was sent, and no stream stores it."""
    user = f"{{ user: few, password: pw, permissions: {{ {RIGHTS['just what permissions.md lists']} }} }}"
    async with own_nats(tmp_path, f"authorization {{ users: [{user}] }}") as server:
        _clean(monkeypatch, f"nats://few:pw@{HOST}:{server.port}")
        answer = await aemit(1, "STARTED", timeout=10)
        assert "no stream takes jobs.lifecycle.1 yet" in (answer.error or "")
        assert "start a worker" in (answer.error or "")


async def test_who_emits_waits_once_for_a_server_that_hangs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first event waits for its timeout, the others do not wait.

    There is one warning, and all are sent in order later.
    """
    monkeypatch.setattr(emitter, "FIRST_RETRY_S", 0.1)
    caplog.set_level("WARNING", logger="reactor.client")
    async with own_nats(tmp_path) as server:
        _clean(monkeypatch, f"nats://{HOST}:{server.port}")
        assert await aemit(0, "STARTED")
        server.signal(signal.SIGSTOP)
        await eventually(lambda: is_stopped(server.pid))
        answers = [await aemit(number, "STARTED", timeout=0.3) for number in range(1, 50)]
        server.signal(signal.SIGCONT)
        assert all(answer.waits for answer in answers)
        assert all((answer.error or "").startswith("NATS is away") for answer in answers[1:])
        assert len([record for record in caplog.records if record.name == "reactor.client"]) == 1
        await eventually(lambda: counts()["waiting"] == 0, 30)
        async with connected(f"nats://{HOST}:{server.port}", "redis://unused", "none") as world:
            jobs = [int(event["job_id"]) for event in await world.lifecycle_events()]
    assert sorted(set(jobs), key=jobs.index) == list(range(50))


async def test_many_threads_share_one_connection(client_world: World) -> None:
    """As in a web server. Each thread gets its answer."""
    with ThreadPoolExecutor(16) as threads:
        answers = await asyncio.to_thread(lambda: list(threads.map(lambda n: emit(n, "STARTED"), range(200))))
    assert all(answers)
    assert {answer.seq for answer in answers} == set(range(1, 201))
    assert len(await client_world.lifecycle_events()) == 200


async def test_forked_workers_emit(client_world: World) -> None:
    """As in Celery's prefork pool: the parent has published already, and another thread is publishing."""
    code = """
import os, sys, threading
from reactor.client import emit
assert emit(1, "STARTED", raise_errors=True)
threading.Thread(target=lambda: [emit(2, word) for word in ("A", "B") * 3], daemon=True).start()
children = []
for number in range(10, 14):
    child = os.fork()
    if not child:
        os._exit(0 if emit(number, "SUCCESS", timeout=10) else 1)
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""
    env = {name: value for name, value in os.environ.items() if not name.startswith("REACTOR_")}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "ignore", "-c", code],
        env=env | {"PYTHONPATH": str(ROOT), "REACTOR_NATS_URL": client_world.nats_url},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    heard = {event["job_id"] for event in await client_world.lifecycle_events() if event}
    assert {"1", "10", "11", "12", "13"} <= heard


async def test_a_failure_is_reported_and_raised_only_where_asked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If NATS is away, the view continues soon."""
    _clean(monkeypatch, f"nats://{HOST}:{free_port()}")
    caplog.set_level("WARNING", logger="reactor.client")
    failed = counts()["failed"]
    answer = await aemit(7, "SUCCESS", timeout=0.5)
    assert not answer
    assert answer.error
    assert counts()["failed"] == failed + 1
    assert "NATS takes no lifecycle events" in caplog.text
    with pytest.raises(EmitError, match="of job 7 was not stored"):
        await asyncio.to_thread(emit, 7, "SUCCESS", timeout=0.5, raise_errors=True)


async def test_events_that_fail_at_the_same_time_are_all_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By one task, after one warning. None is lost between two tasks that would send the same ones."""
    monkeypatch.setattr(emitter, "FIRST_RETRY_S", 0.1)
    caplog.set_level("WARNING", logger="reactor.client")
    async with own_nats(tmp_path) as server:
        _clean(monkeypatch, f"nats://{HOST}:{server.port}")
        assert await aemit(0, "STARTED")
        server.signal(signal.SIGSTOP)
        await eventually(lambda: is_stopped(server.pid))
        await asyncio.gather(*(aemit(number, "STARTED", timeout=0.3 + number / 1000) for number in range(1, 60)))
        server.signal(signal.SIGCONT)
        await eventually(lambda: counts()["waiting"] == 0, 30)
        async with connected(f"nats://{HOST}:{server.port}", "redis://unused", "none") as world:
            await eventually(lambda: _told_of(world, 60), 10)
    assert len([record for record in caplog.records if record.name == "reactor.client"]) == 1


async def _told_of(world: World, number: int) -> bool:
    return {int(event["job_id"]) for event in await world.lifecycle_events()} == set(range(number))


@pytest.mark.parametrize(("job_id", "status"), [("a.b", "SUCCESS"), ("", "SUCCESS"), (1, ""), (1, "x" * 65)])
async def test_what_a_worker_would_refuse_is_not_sent(client_world: World, job_id: Any, status: str) -> None:
    """The error says why."""
    answer = await aemit(job_id, status)
    assert not answer
    assert answer.error
    assert not await client_world.lifecycle_events()


async def test_it_goes_on_after_an_outage(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """By itself, over the same connection."""
    async with own_nats(tmp_path) as server:
        _clean(monkeypatch, f"nats://{HOST}:{server.port}")
        assert await aemit(1, "STARTED")
        await server.stop()
        assert (await aemit(1, "SUCCESS", timeout=0.5)).waits
        await server.start()
        await eventually(lambda: counts()["waiting"] == 0, 30)
        await eventually(lambda: aemit(2, "STARTED"), 30)  # a busy server may answer too late once
        async with connected(f"nats://{HOST}:{server.port}", "redis://unused", "none") as world:
            words = [(event["job_id"], event["status"]) for event in await world.lifecycle_events()]
        assert list(dict.fromkeys(words)) == [("1", "STARTED"), ("1", "SUCCESS"), ("2", "STARTED")]
