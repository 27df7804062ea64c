"""Notices: what will be deleted, when, and how to keep it. One replica publishes each once."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from nats.aio.msg import Msg
from support.harness import World, eventually, gone, has_records, worker

from reactor.core.model import SECOND, parse_instant


@asynccontextmanager
async def listening(world: World) -> AsyncIterator[list[dict[str, Any]]]:
    """The published notices."""
    notices: list[dict[str, Any]] = []

    async def receive(msg: Msg) -> None:
        event = json.loads(msg.data)
        assert msg.subject == f"reactor.scheduled.{event['stream']}"
        notices.append(event)

    subscription = await world.nc.subscribe("reactor.scheduled.>", cb=receive)
    await world.nc.flush()
    yield notices
    await subscription.unsubscribe()


async def test_an_end_is_a_notice_once(world: World) -> None:
    """With two replicas. A retry has no notice, and a new end has a new one."""
    await world.declare()
    env = world.env(REACTOR_POLICY_TERMINAL_GRACE="1h", REACTOR_RECONCILE_INTERVAL="1s")
    await world.stream("job_1", messages=3)
    async with listening(world) as notices, worker(env), worker(env):
        await world.emit(1, "STARTED")
        await world.emit(1, "FAILURE")
        await eventually(lambda: notices)
        await world.emit(2, "SUCCESS")  # it has cleaned up after itself
        await eventually(lambda: has_records(world, 2))
        [first] = notices
        assert {key: first[key] for key in ("stream", "job_id", "status", "reason", "rule", "messages")} == {
            "stream": "job_1",
            "job_id": "1",
            "status": "FAILURE",
            "reason": "terminal",
            "rule": "default",
            "messages": 3,
        }
        assert "reactor protect job_1 --for 2h" in first["keep"]
        assert 3_590 * SECOND < parse_instant(first["due_at"]) - parse_instant(first["at"]) < 3_601 * SECOND
        passes = await _passes(world)
        await eventually(lambda: _has_passed(world, passes), 20)
        assert notices == [first]  # passes of both replicas have found it since
        await world.emit(1, "STARTED")
        await world.emit(1, "SUCCESS")
        await eventually(lambda: len(notices) > 1)
        assert (notices[1]["status"], len(notices)) == ("SUCCESS", 2)


async def _passes(world: World) -> str:
    last = json.loads((await world.reactor("status", "--json")).out)["last_reconcile"]
    return str(last and last["started_at"])


async def _has_passed(world: World, since: str) -> bool:
    return await _passes(world) > since


async def test_a_person_who_changes_the_time_is_reported(world: World) -> None:
    """A protection for a time changes when the stream is due."""
    await world.declare()
    await world.stream("job_1", messages=1)
    async with listening(world) as notices, worker(world.env(REACTOR_POLICY_TERMINAL_GRACE="1h")):
        await world.emit(1, "SUCCESS")
        await eventually(lambda: notices)
        assert (await world.reactor("protect", "job_1", "--for", "10h")).code == 0
        await eventually(lambda: len(notices) > 1)
        assert parse_instant(notices[1]["due_at"]) - parse_instant(notices[0]["due_at"]) > 8 * 3_600 * SECOND
        assert notices[1]["rule"] == "stream"


async def test_a_rule_that_changes_the_time_is_reported(world: World, tmp_path: Path) -> None:
    """After a restart with the rule. Unchanged times have no new notice."""
    await world.declare()
    await world.stream("job_1", metadata={"kind": "training"})
    await world.stream("job_2")
    env = world.env(REACTOR_POLICY_TERMINAL_GRACE="1h")
    async with listening(world) as notices:
        async with worker(env):
            await world.emit(1, "SUCCESS")
            await world.emit(2, "SUCCESS")
            await eventually(lambda: len(notices) == 2)
        rules = tmp_path / "rules.toml"
        rules.write_text('[[rule]]\nname = "long"\nmetadata = { kind = "training" }\nterminal_grace = "9h"')
        async with worker(env | {"REACTOR_POLICY_FILE": str(rules)}):
            await eventually(lambda: len(notices) > 2)
        assert [(item["stream"], item["rule"]) for item in notices[2:]] == [("job_1", "long")]


async def test_a_stream_that_wants_less_time_has_it(world: World) -> None:
    """Less than the settings and every rule. The first inspection finds it. A live job's stream has no notice."""
    await world.declare()
    await world.stream("job_1", messages=1, metadata={"reactor.terminal-grace": "1s"})
    await world.stream("job_2", messages=1)
    env = world.env(REACTOR_POLICY_TERMINAL_GRACE="1h", REACTOR_RECONCILE_INTERVAL="1h")
    async with listening(world) as notices, worker(env) as process:
        await eventually(lambda: process.logged("reconcile done"))  # else the pass of its start may find the end
        await world.emit(2, "STARTED")
        await world.emit(1, "SUCCESS")
        await eventually(lambda: gone(world, "job_1"), 20)
    assert {item["stream"] for item in notices} <= {"job_1"}


async def test_nothing_is_announced_that_will_not_be_deleted(world: World) -> None:
    """In report mode there are no notices, nor in a dry run. A full pass publishes what it finds."""
    await world.declare()
    await world.zombie(1)
    grace: dict[str, Any] = {"REACTOR_POLICY_TERMINAL_GRACE": "1h"}
    async with listening(world) as notices:
        await world.reconcile(**grace, REACTOR_POLICY_ACTION="report")
        await world.reactor("reconcile", "--dry-run", **grace)
        await world.nc.flush()
        assert notices == []
        await world.reconcile(**grace)
        await world.reconcile(**grace)
        await eventually(lambda: notices)
        await world.nc.flush()
        assert [item["stream"] for item in notices] == ["job_1"]
