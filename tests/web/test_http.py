"""The worker's HTTP API, and the commands with the same answers."""

import asyncio
import json
from typing import Any

import pytest
from support.harness import Served, World, eventually, gone, has_records, own_world, served, worker

from reactor.cli.embedded import free_port


async def test_it_reports_what_there_is_and_what_was_done(world: World) -> None:
    """Counts, verdicts, the history and the leaks."""
    async with served(world, REACTOR_POLICY_TERMINAL_GRACE="1h") as at:
        await world.zombie(1)
        await world.emit(2, "STARTED")
        await world.stream("job_2", messages=2)
        await eventually(lambda: has_records(world, 1, 2))
        wanted = {"job_1": ("waiting", "grace"), "job_2": ("kept", "running")}
        await eventually(lambda: _are_found(at, wanted))
        status = await eventually(lambda: _counted(at, 2, live=1, waiting=1))
        assert status["drained_today"] == 0
    async with served(world) as at:
        await eventually(lambda: gone(world, "job_1"))
        status = await eventually(lambda: _drained(at))
        assert status["bytes_reclaimed"] > 0
        assert status["last_reconcile"]["error"] is None
        [entry] = (await at.get("/api/history"))[1]["entries"]
        assert (entry["stream"], entry["outcome"], entry["reason"]) == ("job_1", "drained", "terminal")
        assert "token" not in entry
        leaks = (await at.get("/api/leaks"))[1]
        assert (leaks["total"], leaks["statuses"][0]["status"], sum(leaks["statuses"][0]["hours"])) == (1, "SUCCESS", 1)
        points = (await at.get("/api/timeline"))[1]["points"]
        assert any(point["verdicts"].keys() >= {"kept", "zombie"} for point in points)
        assert sum(point["drained"].get("terminal", 0) for point in points) == 1  # as the tile and the history say


async def test_what_happens_between_two_passes_is_seen_at_once(world: World) -> None:
    """A stream is created, its job ends, a guard keeps it, another client deletes it."""
    async with served(world, REACTOR_POLICY_TERMINAL_GRACE="1h") as at:
        await eventually(lambda: _counted(at, 0))
        await world.emit(1, "STARTED")
        await eventually(lambda: has_records(world, 1))
        await world.stream("job_1")
        await eventually(lambda: _are_found(at, {"job_1": ("kept", "running")}))
        await world.emit(1, "SUCCESS")
        await eventually(lambda: _has_ended(at))
        await world.stream("job_2")
        rows = await eventually(lambda: _rows(at, 2))
        assert rows["job_2"]["reason"] == "unknown"
        assert rows["job_2"]["messages"] is None  # not inspected yet: 0 would be a guess
        await world.js.delete_stream("job_1")
        await world.js.delete_stream("job_2")
        await eventually(lambda: _is_empty(at))


async def _are_found(at: Served, wanted: dict[str, tuple[str, str]]) -> bool:
    rows = await _rows(at, len(wanted))
    return {name: (row["verdict"], row["reason"]) for name, row in rows.items()} == wanted


async def _counted(at: Served, count: int, **more: int) -> Any:
    status = (await at.get("/api/status"))[1]
    return status if status | {"job_streams": count} | more == status else None


async def _has_ended(at: Served) -> bool:
    return _verdict(await _rows(at, 1)) == ("waiting", "grace", "SUCCESS")


async def _is_empty(at: Served) -> bool:
    return not (await at.get("/api/streams"))[1]["streams"]


def _verdict(rows: dict[str, Any]) -> tuple[str, str, str]:
    [row] = rows.values()
    return row["verdict"], row["reason"], row["status"]


async def _rows(at: Served, count: int) -> dict[str, Any]:
    """Return the rows by stream, when there are so many."""
    rows = {row["stream"]: row for row in (await at.get("/api/streams"))[1]["streams"]}
    return rows if len(rows) == count else {}


async def _drained(at: Served) -> Any:
    status = (await at.get("/api/status"))[1]
    return status if status["drained_today"] == 1 else None


async def test_it_explains_a_stream(world: World) -> None:
    """With a sentence, the evidence, each guard's time, and what would change it. The command prints the same."""
    async with served(world, REACTOR_POLICY_AGE_GUARD="1h") as at:
        await world.zombie(1, messages=3)
        await world.consumer("job_1")
        explanation = await eventually(lambda: _explained(at, "job_1"))  # not before its ledger is whole
        assert (explanation["verdict"], explanation["reason"]) == ("waiting", "fresh")
        assert "younger than the age guard" in explanation["sentence"]
        assert explanation["evidence"]["record"]["status"] == "SUCCESS"
        assert explanation["evidence"]["consumers"][0]["pending"] == 3
        assert [(guard["guard"], guard["passed"]) for guard in explanation["guards"]] == [
            ("age_guard", False),
            ("terminal_grace", True),
        ]  # and no idle guard: nothing was published since the job's end
        assert (await at.get("/api/streams/nobodys"))[0] == 404
        code, gone_one = await at.get("/api/streams/job_99")
        assert (code, gone_one["known"], "there is no stream job_99" in gone_one["error"]) == (
            404,
            "never_heard_of",
            True,
        )
    said = await world.reactor("explain", "job_1", "--json", REACTOR_POLICY_AGE_GUARD="1h")
    assert json.loads(said.out)["sentence"] == explanation["sentence"]
    plain = await world.reactor("explain", "job_1", REACTOR_POLICY_AGE_GUARD="1h")
    assert explanation["sentence"] in plain.out
    refused = await world.reactor("explain", "nobodys")
    assert (refused.code, "is not a job stream" in refused.err) == (2, True)


async def _explained(at: Served, name: str) -> Any:
    code, explanation = await at.get(f"/api/streams/{name}")
    return explanation if code == 200 and explanation["reason"] != "unknown" else None


async def test_it_says_who_deleted_a_stream(world: World) -> None:
    """And that reactor did not delete a stream that it never touched."""
    await world.declare()
    await world.zombie(1, messages=3)
    await world.zombie(2)
    await world.js.delete_stream("job_2")
    assert (await world.reactor("explain", "job_1")).code == 0
    began = await world.reactor("explain", "job_2")
    assert began.code == 5
    assert "there is no stream job_2; the audit is empty and has no deletion of it" in began.out
    assert (await world.reconcile())["fixed"] == 1
    [intent, _] = await world.trail()
    said = await world.reactor("explain", "job_1")
    assert said.code == 5
    assert (
        f"; reactor drained it at {intent['at'][:19]}Z: terminal, its job's status SUCCESS (event 1), 3 m" in said.out
    )
    other = await world.reactor("explain", "job_2")
    assert f"; the audit begins at {intent['at'][:19]}Z and has no deletion of it" in other.out


async def test_the_commands_report_status_and_history(world: World) -> None:
    """As text and as JSON, filtered."""
    await world.declare()
    await world.zombie(1)
    await world.zombie(2, status="FAILURE")
    await world.reconcile()
    status = json.loads((await world.reactor("status", "--json")).out)
    assert (status["job_streams"], status["drained_today"], status["last_reconcile"]["fixed"]) == (0, 2, 2)
    assert "checked 2, fixed 2" in (await world.reactor("status")).out
    entries = json.loads((await world.reactor("history", "--json", "--stream", "job_2")).out)["entries"]
    assert [(entry["stream"], entry["status"]) for entry in entries] == [("job_2", "FAILURE")]
    assert len(json.loads((await world.reactor("history", "--json", "--limit", "1")).out)["entries"]) == 1
    assert not json.loads((await world.reactor("history", "--json", "--reason", "missing")).out)["entries"]
    assert (refused := await world.reactor("history", "--reason", "terminl")).code == 2
    assert "terminal" in refused.err
    assert "job_1" in (await world.reactor("history", "--since", "1h")).out
    wrong = await world.reactor("history", "--since", "yesterday")
    assert (wrong.code, "--since" in wrong.err) == (2, True)


async def test_events_report_a_drain(world: World) -> None:
    """When it happens."""
    async with served(world) as at:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(at.base.rsplit(":", 1)[1]))
        writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"event: status"), 10)
        await world.zombie(1)
        await asyncio.wait_for(reader.readuntil(b"event: settled"), 20)
        assert b"job_1" in await asyncio.wait_for(reader.readuntil(b"\n\n"), 10)
        writer.close()


async def test_all_open_pages_hear_what_is_read_once(world: World) -> None:
    """Twenty pages, and one that comes later. The audit is read no more often than for one."""
    async with served(world) as at:
        pages = [await _listening(at) for _ in range(20)]
        for reader, _ in pages:
            await asyncio.wait_for(reader.readuntil(b"event: status"), 10)
        before = await _read_audit(world)
        for _ in range(2):
            await asyncio.wait_for(pages[0][0].readuntil(b"event: status"), 10)
        assert 0 < await _read_audit(world) - before < 20
        late = await _listening(at)
        await asyncio.wait_for(late[0].readuntil(b"event: status"), 1.5)  # it need not wait for the next reading
        await world.zombie(1)
        for reader, writer in (*pages, late):
            await asyncio.wait_for(reader.readuntil(b"event: settled"), 20)
            assert b"job_1" in await asyncio.wait_for(reader.readuntil(b"\n\n"), 10)
            writer.close()


async def _listening(at: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(at.base.rsplit(":", 1)[1]))
    writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return reader, writer


async def _read_audit(world: World) -> int:
    stats = await world.redis.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in ("xrange", "xrevrange"))


async def test_a_token_guards_what_shows_jobs(world: World) -> None:
    """Not the health checks and the page, which show nothing about jobs."""
    async with served(world, REACTOR_HTTP_TOKEN="hunter2") as at:
        assert (await at.get("/api/status"))[0] == 401
        assert (await at.get("/api/status?token=wrong"))[0] == 401
        assert (await at.get("/api/status?token=hunter2"))[0] == 200
        assert (await at.get("/api/status", token="hunter2"))[0] == 200
        assert (await at.get("/healthz"))[0] == 200
        assert (await at.get("/"))[0] == 200
        assert not at.process.logged("hunter2")


async def test_an_endpoint_that_cannot_be_is_said(world: World) -> None:
    """At the start, in one line: a taken port, or a public address."""
    async with served(world) as at:
        port = at.base.rsplit(":", 1)[1]
        taken = await world.reactor("worker", REACTOR_HTTP_PORT=port)
        assert (taken.code, f"cannot listen on 127.0.0.1:{port}" in taken.err) == (2, True)
    bare = await world.reactor("worker", REACTOR_HTTP_PORT=free_port(), REACTOR_HTTP_HOST="0.0.0.0")  # noqa: S104
    assert (bare.code, "REACTOR_HTTP_TOKEN" in bare.err) == (2, True)


async def test_readiness_follows_the_servers(tmp_path: Any) -> None:
    """Alive and not ready while they are away; ready again by itself."""
    async with own_world(tmp_path) as (world, _, valkey), served(world) as at:
        await valkey.stop()
        code, problem = await at.get("/readyz")
        assert (code, problem["ready"]) == (503, False)
        assert "Redis" in problem["reasons"][0]
        assert (await at.get("/api/status"))[0] == 503
        assert (await at.get("/healthz"))[0] == 200
        await valkey.start()
        await eventually(at.is_ready, 20)


async def test_it_lives_while_it_waits_for_its_servers(world: World) -> None:
    """Alive and not ready. It says what it waits for."""
    port = free_port()
    env = world.env(REACTOR_HTTP_PORT=port, REACTOR_NATS_URL=f"nats://127.0.0.1:{free_port()}")
    async with worker(env, until="waiting for NATS") as process:
        at = Served(f"http://127.0.0.1:{port}", process)
        assert (await at.get("/healthz"))[0] == 200
        assert (await at.get("/readyz")) == (503, {"ready": False, "reasons": ["waiting for NATS and Redis"]})
        assert (await at.get("/api/status"))[0] == 503


@pytest.mark.parametrize("path", ["/api/history?limit=x", "/nothing", "/api/streams/..%2f..%2fetc%2fpasswd"])
async def test_bad_questions_get_an_answer(world: World, path: str) -> None:
    """Without a traceback."""
    async with served(world) as at:
        assert (await at.get(path))[0] in {400, 404}
        assert not at.process.logged("Traceback")
