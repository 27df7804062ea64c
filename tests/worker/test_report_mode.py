"""Report mode: everything except fences and deletions, and what happened to each zombie afterwards."""

import json
from typing import Any

from support.harness import Served, World, eventually, gone, has_records, relayed, served

from reactor.operate.history import AuditTrail
from reactor.store.audit import Audit
from reactor.store.keyspace import Keyspace

REPORT: dict[str, Any] = {"REACTOR_POLICY_ACTION": "report"}


async def test_zombies_are_reported_once_and_what_becomes_of_them(world: World) -> None:
    """One is deleted by its job system, one is retried, one stays. No pass and no sweep changes anything."""
    await world.declare()
    async with served(world, **REPORT, REACTOR_RECONCILE_INTERVAL="1s") as at:
        for number in (1, 2, 3):
            await world.zombie(number)
        await world.emit(4, "STARTED")
        await world.stream("job_4")
        before = [(await world.info(f"job_{number}") or {})["config"] for number in (1, 2, 3, 4)]
        await eventually(lambda: _would_drain(world, 3))
        status = await eventually(lambda: _zombies(at, 3))
        assert (status["action"], status["drained_today"]) == ("report", 0)
        after = [(await world.info(f"job_{number}") or {})["config"] for number in (1, 2, 3, 4)]
        assert after == before
        await world.js.delete_stream("job_1")
        await world.emit(2, "STARTED")
        would_drain = await eventually(lambda: _has_become(world, {"deleted": 1, "retried": 1, "still there": 1}))
        ends = {entry["stream"]: entry["afterwards"] for entry in would_drain["entries"]}
        assert ends == {"job_1": "deleted", "job_2": "retried", "job_3": "still there"}
        metrics = str((await at.get("/metrics"))[1])
        assert 'reactor_streams_would_drain_total{reason="terminal"} 3' in metrics
        assert len([line for line in at.process.lines if "stream would be drained" in line]) == 3
    assert await world.names() == {"job_2", "job_3", "job_4"}
    would_drain = json.loads((await world.reactor("history", "--would-drain", "--json", "--limit", "1", **REPORT)).out)
    assert (would_drain["total"], len(would_drain["entries"])) == (3, 1)
    plain = await world.reactor("history", "--would-drain", **REPORT)
    assert "3 streams would have been drained: 1 deleted, 1 retried, 1 still there" in plain.out
    assert "report: nothing is deleted" in (await world.reactor("status", **REPORT)).out


async def _would_drain(world: World, count: int) -> Any:
    would_drain = await AuditTrail(Audit(Keyspace(world.redis, world.namespace))).would_drain(10)
    return would_drain if would_drain["total"] == count else None


async def _has_become(world: World, ends: dict[str, int]) -> Any:
    would_drain = await _would_drain(world, sum(ends.values()))
    return would_drain if would_drain and would_drain["afterwards"] == ends else None


async def _zombies(at: Served, count: int) -> Any:
    status = (await at.get("/api/status"))[1]
    return status if status["zombies"] == count else None


async def test_the_command_reports_too_and_a_pass_finds_what_is_gone(world: World) -> None:
    """The advisory of the deletion was missed. Switching deleting on drains what was only reported."""
    await world.declare()
    await world.zombie(1)
    await world.zombie(2)
    report = await world.reconcile(**REPORT)
    assert {row["stream"]: row["verdict"] for row in report["streams"]} == {
        "job_1": "would_drain",
        "job_2": "would_drain",
    }
    await world.js.delete_stream("job_1")
    await world.reconcile(**REPORT)
    await eventually(lambda: _has_become(world, {"deleted": 1, "still there": 1}))
    async with served(world) as at:
        await eventually(lambda: gone(world, "job_2"))
        await eventually(lambda: has_records(world, 1, 2))
        assert at
    assert not await world.names()


async def test_a_fence_that_was_left_standing_is_taken_away(world: World) -> None:
    """Report mode was switched on after a replica was killed during a drain."""
    await world.declare()
    await world.zombie(1)
    config = (await world.info("job_1") or {})["config"]
    metadata = {
        "reactor.fence.token": "t",
        "reactor.fence.until": "2026-01-01T00:00:00Z",
        "reactor.fence.subjects": json.dumps(config["subjects"]),
    }
    await world.api("STREAM.UPDATE.job_1", config | {"subjects": ["reactor.fence.job_1.t"], "metadata": metadata})
    await world.reconcile(**REPORT)
    assert (await world.info("job_1") or {})["config"]["subjects"] == config["subjects"]


async def test_what_a_listing_has_not_is_asked_for_before_it_counts_as_deleted(world: World) -> None:
    """A page may have missed a stream, and a new one is on no page."""
    await world.declare()
    await world.zombie(1)
    await world.zombie(2)
    await world.reconcile(**REPORT)

    def miss(verb: str, answer: dict[str, Any]) -> dict[str, Any]:
        if verb.startswith("STREAM.LIST"):
            answer["streams"] = [row for row in answer["streams"] if row["config"]["name"] != "job_1"]
        return answer

    async with relayed(world, miss) as relay:
        report = await relay.reconcile(**REPORT)
    assert [row["stream"] for row in report["streams"]] == ["job_2"]
    assert await _has_become(world, {"still there": 2})
