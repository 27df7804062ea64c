"""Commands judge like the workers, or say that they do not. They say nothing that they do not know."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from support.harness import World, eventually, gone, served, worker

from reactor.bootstrap.services import policy_of
from reactor.core.workers import WorkerInfo, judged_by, policy_json

AWAY = {"REACTOR_NATS_URL": "nats://127.0.0.1:1"}


def info(world: World, instance: str = "a:1", version: str = "1", **policy: object) -> WorkerInfo:
    their_policy = policy_json(policy_of(world.load())) | policy
    return WorkerInfo(instance, "a", version, "2026-01-01T00:00:00Z", their_policy, "events", "nats://x", "redis://y")


async def test_a_worker_is_listed_as_long_as_it_is_alive(world: World) -> None:
    """With its policy. It disappears when it stops."""
    none = await world.reactor("workers")
    assert none.out == "no worker is alive: start reactor worker\n"
    async with worker(world.env()):
        listed = json.loads((await world.reactor("workers", "--json")).out)
        [row] = listed["workers"]
        assert (row["deletes"], row["policy"]["action"], row["directory"]) == (True, "delete", "events")
        assert "pw@" not in json.dumps(listed)  # no credentials
        assert (await world.reactor("status")).code == 0
    assert json.loads((await world.reactor("workers", "--json")).out)["workers"] == []


async def test_a_killed_worker_is_not_believed_for_long(world: World) -> None:
    """Its heartbeat expires."""
    async with worker(world.env()) as process:
        process.process.kill()
        await process.process.wait()
    await eventually(lambda: _alive(world, 0), 40, 0.5)


async def _alive(world: World, number: int) -> bool:
    return len(json.loads((await world.reactor("workers", "--json")).out)["workers"]) == number


async def test_commands_judge_with_the_workers_settings(world: World) -> None:
    """A shell with default guards must not show "waits an hour" for a stream that the worker deletes now."""
    await world.declare()
    await world.zombie(1)
    await world.register(REACTOR_POLICY_AGE_GUARD="2h")
    said = await world.reactor("explain", "job_1")
    assert "waits until" in said.out
    assert "judged with the workers' settings: age_guard 2 h (here 0 ms); --local judges with this shell's" in said.out
    local = await world.reactor("explain", "job_1", "--local")
    assert "is drained at the next inspection" in local.out
    listed = json.loads((await world.reactor("streams", "-o", "json")).out)
    assert (listed["streams"][0]["verdict"], "age_guard 2 h" in listed["notice"]) == ("waiting", True)
    status = json.loads((await world.reactor("status", "--json")).out)
    assert (status["workers"], status["deletes"], "age_guard" in status["notice"]) == (1, True, True)


async def test_a_missing_worker_is_reported(world: World) -> None:
    """Then nothing is deleted."""
    await world.declare()
    status = await world.reactor("status")
    assert "no: no worker is alive" in status.out
    assert "no worker is alive: judged with the settings of this shell" in status.out


async def test_workers_that_differ_decide_nothing_for_others(world: World) -> None:
    """A command cannot choose between them."""
    local = policy_of(world.load())
    first, other = info(world), info(world, "b:1", idle_guard=5)
    policy, notice = judged_by(local, "events", [first, other])
    assert policy == local
    assert notice == "the workers differ in idle_guard: judged with the settings of this shell"
    policy, notice = judged_by(local, "events", [replace(first, directory="sql")])
    assert "the workers ask sql for a job's status" in str(notice)
    assert judged_by(local, "events", [first]) == (local, None)
    _, notice = judged_by(local, "events", [info(world, age_guard="soon")])
    assert "cannot be read" in str(notice)


async def test_the_doctor_says_that_no_worker_is_alive(world: World) -> None:
    """An error. If two workers differ, a warning."""
    await world.declare()
    checks = await _checks(world)
    assert checks["workers.alive"]["level"] == "error"
    await world.register()
    assert (await _checks(world))["workers.alive"]["level"] == "ok"


async def _checks(world: World) -> dict[str, dict[str, str]]:
    diagnosis = json.loads((await world.reactor("doctor", "--json")).out)
    return {check["name"]: check for check in diagnosis["checks"]}


async def test_commands_that_read_create_nothing(world: World) -> None:
    """The account may be a foreign one."""
    await world.stream("job_1", messages=1)
    looks = ("status", "streams", "history", "explain job_1", "workers", "reconcile --dry-run", "doctor")
    for command in looks:
        done = await world.reactor(*command.split())
        assert done.code in {0, 1}, (command, done)
    protect = await world.reactor("protect", "job_1")
    assert protect.code == 0, protect.err
    assert await world.names() == {"job_1"}
    said = await world.reactor("explain", "job_1")
    assert "no worker has read lifecycle events in this account yet" in (await world.reactor("status")).out
    assert "is kept" in said.out


async def test_what_redis_knows_is_reported_while_nats_is_away(world: World) -> None:
    """With exit code 3 and the address. Also as JSON."""
    await world.declare()
    await world.stream("job_2", messages=1)
    await world.emit(2, "STARTED")
    await world.zombie(1)
    assert (await world.verdicts())["job_1"] == ("drained", "terminal")
    history = await world.reactor("history", **AWAY)
    assert (history.code, "job_1" in history.out) == (0, True)
    status = await world.reactor("status", "--json", **AWAY)
    answer = json.loads(status.out)
    assert (status.code, answer["job_streams"], answer["drained_today"], answer["lag"]) == (3, 1, 1, None)
    assert "nats://127.0.0.1:1" in status.err
    explained = await world.reactor("explain", "job_2", "--json", **AWAY)
    known = json.loads(explained.out)
    assert (explained.code, known["last"]["verdict"], known["last"]["reason"]) == (3, "kept", "running")
    people = await world.reactor("explain", "job_1", **AWAY)
    assert "job_1 was not found by the last pass" in people.out
    assert "it was drained" in people.out
    redis = await world.reactor("status", "--json", REACTOR_REDIS_URL="redis://127.0.0.1:1/0")
    assert (redis.code, json.loads(redis.out)["error"].startswith("Redis: ")) == (3, True)


async def test_a_redis_url_that_leads_to_nats_is_named(world: World) -> None:
    """Its answers are not those of Redis."""
    done = await world.reactor("history", REACTOR_REDIS_URL=world.nats_url.replace("nats://", "redis://"))
    assert done.code == 3
    assert "this is a NATS server, not Redis" in done.err


async def test_one_count_for_tile_chart_and_history(world: World) -> None:
    """Also after a restart, which must not count the last minute twice."""
    await world.declare()
    for number in range(5):
        await world.zombie(number)
    for _ in range(2):
        async with served(world) as at:
            for number in range(5):
                await eventually(lambda number=number: gone(world, f"job_{number}"))  # type: ignore[misc]
            status = (await at.get("/api/status"))[1]
            points = (await at.get("/api/timeline"))[1]["points"]
            drained = sum(sum(point["drained"].values()) for point in points)
            entries = (await at.get("/api/history"))[1]["entries"]
            assert [status["drained_today"], drained, len(entries)] == [5, 5, 5]


async def test_an_emptied_redis_blames_nobody(world: World, tmp_path: Path) -> None:
    """A backup proves that reactor deleted the stream. Without one that is unknown."""
    await world.declare()
    await world.zombie(1, messages=2)
    await world.zombie(2, messages=0)
    backing: dict[str, Any] = {"REACTOR_BACKUP_WHEN": "pending", "REACTOR_BACKUP_DIR": str(tmp_path)}
    await world.verdicts(**backing)
    for key in [key async for key in world.redis.scan_iter(match=f"{world.namespace}:*")]:
        await world.redis.delete(key)
    own = await world.reactor("explain", "job_1", **backing)
    assert "right before it deleted it" in own.out
    other = await world.reactor("explain", "job_2", **backing)
    assert "the audit is empty and has no deletion of it: what was deleted before then, it cannot tell" in other.out
    assert "somebody else deleted it" in other.out


async def test_a_restore_finds_the_recorded_backup(world: World, tmp_path: Path) -> None:
    """From a shell without REACTOR_BACKUP_…: at the recorded place, or it says where that is. Never an empty stream."""
    await world.declare()
    await world.zombie(1, messages=3)
    await world.verdicts(REACTOR_BACKUP_WHEN="pending", REACTOR_BACKUP_DIR=str(tmp_path))
    elsewhere = {"REACTOR_BACKUP_DIR": str(tmp_path / "none")}
    done = await world.reactor("restore", "job_1", **elsewhere)
    assert (done.code, "with 3 messages" in done.out) == (0, True), done
    await world.js.delete_stream("job_1")
    tmp_path.rename(tmp_path.with_name("moved"))
    refused = await world.reactor("restore", "job_1", **elsewhere)
    assert refused.code == 1
    assert f"run there reactor restore job_1 --from {tmp_path}" in refused.err
    assert await world.names() == set()
    tmp_path.with_name("moved").rename(tmp_path)


async def test_small_lies_are_gone(world: World) -> None:
    """Each of these has misled somebody."""
    await world.declare()
    await world.stream("job_2", messages=1)
    await world.emit(2, "STARTED")
    await world.stream("job_10")
    await world.emit(10, "STARTED")
    typo = await world.reactor("emit", "42", "SUCESS")
    assert (typo.code, "did you mean SUCCESS?" in typo.err) == (0, True)
    assert "did you mean job_42?" in (await world.reactor("explain", "42")).err
    assert (await world.reactor("reconcile", "--stream", "job_9999")).code == 5
    none = await world.reactor("streams", "--verdict", "zombie")
    assert "none of 2 job streams matches" in none.out
    unknown = await world.reactor("history", "--outcome", "draind")
    assert (unknown.code, "did you mean drained?" in unknown.err) == (2, True)
    names = (await world.reactor("streams", "job_*", "-o", "name")).out.split()
    assert names == ["job_2", "job_10"]
    assert "job_2" in (await world.reactor("streams", "-o", "yaml")).out
    pattern = await world.reactor("streams", REACTOR_POLICY_STREAM_PATTERN="queue_(?P<job_id>.+)")
    assert "no job streams: none of 2 streams matches the pattern" in pattern.out
    changed = json.loads((await world.reactor("settings", "--changed", "--json")).out)
    assert all(row["default"] != row["value"] for row in changed["settings"])
    assert (await world.reactor("status", "-h")).code == 0
