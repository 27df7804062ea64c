"""The minimal permissions in docs/permissions.md: enough for reactor, and too few to forge an event."""

import asyncio
import json
import re
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import nats
import nats.errors
import pytest
import pytest_asyncio
from nats.js.api import ConsumerConfig
from support.alerting import alerts, passes
from support.harness import ARCHIVE, World, acked, eventually, gone, has_records, served, worker
from support.narrow import BACKUPS, DELETING, REACTOR, log_of, narrow_world, reload

from reactor.cli.embedded import HOST, Server


@pytest_asyncio.fixture
async def narrow(tmp_path: Path) -> AsyncIterator[tuple[World, Server]]:
    """A world, and its nats-server."""
    async with narrow_world(tmp_path) as world_and_server:
        yield world_and_server


async def test_the_listed_rights_are_enough(narrow: tuple[World, Server]) -> None:
    """For everything that it does, with a page open, and for every command.

    Neither server has refused anything. Publishing events is the job system's permission, not reactor's.
    """
    world, nats_one = narrow
    async with served(world, REACTOR_RECONCILE_INTERVAL="1s") as at:
        page = await asyncio.to_thread(urllib.request.urlopen, at.base + "/events", None, 20)
        await world.stream("advisories", subjects=["$JS.EVENT.ADVISORY.CONSUMER.>"])
        for durable in ("job-1-dlq", "theirs"):
            await world.js.add_consumer("advisories", ConsumerConfig(durable_name=durable))
        await world.stream("job_1", messages=1)
        await world.consumer("job_1")
        await world.emit(2, "STARTED")
        await world.stream("job_2", messages=1)
        await deliver_twice_too_often(world)
        await world.emit(1, "SUCCESS")
        await world.publish("jobs.lifecycle.3", b"no JSON")
        await eventually(lambda: gone(world, "job_1"))
        await eventually(world.dead_letters)
        await eventually(lambda: acked(world))
        await eventually(lambda: world.redis.exists("reactor:deliveries:2"))
        for path in ("status", "streams", "streams/job_2", "history", "timeline", "leaks"):
            assert (await at.get(f"/api/{path}"))[0] == 200
        await world.redis.flushall()
        await eventually(lambda: has_records(world, 1, 2), 20)
        await eventually(lambda: world.redis.exists("reactor:workers"), 20)
        assert (await world.api("CONSUMER.NAMES.advisories"))["consumers"] == ["theirs"]
        orders = ("protect job_2", "unprotect job_2", "pause --for 1h", "resume")
        for command in ("status", "history", "explain job_2", "streams", "backups", *orders, "doctor", "reconcile"):
            done = await world.reactor(*command.split())
            assert done.code == 0, (command, done)
        assert not [line for line in at.process.lines if re.search("permission|NOPERM", line, re.IGNORECASE)]
        page.close()
    assert await cast("Any", world.redis).execute_command("ACL", "LOG") == []
    assert "iolation" not in log_of(nats_one).read_text()


async def test_the_listed_rights_are_enough_for_backups(tmp_path: Path) -> None:
    """Also for restoring a stream, with its messages and without."""
    async with narrow_world(tmp_path, *BACKUPS) as (world, nats_one):
        world.settings |= {"REACTOR_BACKUP_WHEN": "pending", "REACTOR_BACKUP_DIR": str(tmp_path / "backups")}
        await world.declare()
        await world.zombie(1, messages=1)
        await world.zombie(2, messages=0)
        await world.consumer("job_2")
        assert {verdict for verdict, _ in (await world.verdicts()).values()} == {"drained"}
        await world.register()
        for command in ("restore job_1", "restore job_2", "doctor"):
            done = await world.reactor(*command.split())
            assert done.code == 0, (command, done)
        restored = await world.reactor("restore", "job_1", "--from", str(ARCHIVE), "--as", "job_1_was")
        assert restored.code == 0, restored
        assert await world.names() == {"job_1", "job_1_was", "job_2"}
    assert "iolation" not in log_of(nats_one).read_text()


async def test_report_mode_needs_no_right_to_delete(tmp_path: Path) -> None:
    """It judges and reports all the same.

    The doctor says what is lacking, and the server had nothing to refuse. Only the doctor tries a missing permission.
    """
    async with narrow_world(tmp_path, without=DELETING) as (world, nats_one):
        world.settings |= {"REACTOR_POLICY_ACTION": "report", "REACTOR_RECONCILE_INTERVAL": "1s"}
        await world.stream("advisories", subjects=["$JS.EVENT.ADVISORY.CONSUMER.>"])
        await world.js.add_consumer("advisories", ConsumerConfig(durable_name="job-1-dlq"))
        async with worker(world.env()):
            await world.zombie(1, messages=1)
            await eventually(lambda: _would_drain(world))
            await eventually(lambda: acked(world))
        assert (await world.reactor("reconcile")).code == 0
        assert "iolation" not in log_of(nats_one).read_text()
        await world.register()
        doctor = await world.reactor("doctor")
        assert (doctor.code, "to delete it lacks $JS.API.STREAM.UPDATE.*, reactor.fence.>" in doctor.out) == (0, True)
        assert await world.names() == {"advisories", "job_1"}


async def _would_drain(world: World) -> bool:
    return "job_1" in (await world.reactor("history", "--would-drain")).out


async def deliver_twice_too_often(world: World) -> None:
    """Fail at messages until the server gives up and sends the advisory."""
    pull = await world.js.pull_subscribe_bind(consumer=await world.consumer("job_2", ack_wait=0.05), stream="job_2")
    for _ in range(2):
        await pull.fetch(1, timeout=5)
    with pytest.raises(TimeoutError):
        await pull.fetch(1, timeout=0.5)


async def test_a_forged_end_is_refused_by_the_server(narrow: tuple[World, Server]) -> None:
    """A client without the permission to publish lifecycle events cannot make reactor delete a running job's stream."""
    world, nats_one = narrow
    async with worker(world.env(REACTOR_RECONCILE_INTERVAL="1s")):
        await world.emit(1, "STARTED")
        await world.stream("job_1", messages=1)
        refusals: list[str] = []

        async def refused(error: Exception) -> None:
            refusals.append(str(error))

        poller = await nats.connect(f"nats://poller:pw@{HOST}:{nats_one.port}", error_cb=refused)
        await poller.publish("jobs.lifecycle.1", json.dumps({"job_id": 1, "status": "SUCCESS"}).encode())
        await poller.flush()
        await eventually(lambda: refusals)
        assert "jobs.lifecycle.1" in refusals[0]
        await poller.close()
        await world.zombie(2)
        await eventually(lambda: gone(world, "job_2"))
        assert await world.names() == {"job_1"}


@pytest.mark.parametrize("verb", ["DELETE", "UPDATE"])
async def test_a_right_taken_away_pauses_deleting_until_it_is_back(narrow: tuple[World, Server], verb: str) -> None:
    """It says what is missing, deletes nothing, and continues by itself."""
    world, nats_one = narrow
    await reload(nats_one, REACTOR.replace(f'"$JS.API.STREAM.{verb}.*"', '"nothing"'))
    async with worker(world.env(REACTOR_RECONCILE_INTERVAL="2s", REACTOR_SWEEP_LEASE="2s")) as process:
        await world.zombie(1)
        await eventually(lambda: process.logged("deletes-paused"), 20)
        assert process.logged(f"STREAM.{verb}")
        assert await world.names() == {"job_1"}
        await reload(nats_one, REACTOR)
        await eventually(lambda: gone(world, "job_1"), 40)


@pytest.mark.parametrize("verb", ["DELETE", "UPDATE"])
async def test_paused_deleting_is_an_alert_until_the_right_is_back(narrow: tuple[World, Server], verb: str) -> None:
    """It is published once at the begin and once at the end, with only the listed permissions."""
    world, nats_one = narrow
    published = await alerts(world)

    def paused_alerts() -> list[dict[str, Any]]:
        return [
            alert for alert in published if alert["kind"] == "deletes_paused"
        ]  # the stream needs a person meanwhile, too

    async with worker(world.env(REACTOR_RECONCILE_INTERVAL="1s", REACTOR_SWEEP_LEASE="2s")) as process:
        await reload(nats_one, REACTOR.replace(f'"$JS.API.STREAM.{verb}.*"', '"nothing"'))
        await world.zombie(1)
        await eventually(paused_alerts, 30)
        seen = passes(process)
        await eventually(lambda: passes(process) >= seen + 3, 30)
        assert [(alert["kind"], alert["resolved"]) for alert in paused_alerts()] == [("deletes_paused", False)]
        assert f"$JS.API.STREAM.{verb}." in paused_alerts()[0]["message"]
        await reload(nats_one, REACTOR)
        await eventually(lambda: len(paused_alerts()) > 1, 40)
        await eventually(lambda: gone(world, "job_1"), 40)
    assert [(alert["kind"], alert["resolved"]) for alert in paused_alerts()] == [
        ("deletes_paused", False),
        ("deletes_paused", True),
    ]


async def test_a_missing_inbox_is_said(narrow: tuple[World, Server]) -> None:
    """Without it no answer arrives. That is not an empty account."""
    world, nats_one = narrow
    await reload(nats_one, REACTOR.replace("_INBOX.>", "nothing"))
    done = await world.reactor("reconcile", "--json")
    report = json.loads(done.out)
    assert done.code == 3
    assert "_inbox" in report["error"].lower()
    assert report["unfixable"] == 1
