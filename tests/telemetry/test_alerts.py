"""A worker's alerts: each is published once when it begins and once when it ends."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

from support.alerting import alerts, changes, passes
from support.faults import is_stopped
from support.harness import World, acked, eventually, has_records, own_world, worker

from reactor.job_status.ledger_directory import LOST
from reactor.telemetry.alerts import MANY, Alerts, Kind

EVERY_SECOND = {"REACTOR_RECONCILE_INTERVAL": "1s"}


async def vouched(world: World) -> bool:
    return bool(await world.redis.hget(f"{world.namespace}:ledger", "state") == "complete")


async def test_a_tripped_breaker_is_reported_once_and_once_when_it_is_over(world: World) -> None:
    """Over many refused passes; by every worker, with its own name."""
    await world.declare()
    await world.emit(1000, "STARTED")
    for number in range(25):
        await world.stream(f"job_{number}")
    published = await alerts(world)
    env = world.env(**EVERY_SECOND)
    async with worker(env) as worker_process, worker(env) as two:
        await eventually(lambda: len(published) == 2, 20)
        assert changes(published) == [("breaker_tripped", False)] * 2
        assert len({alert["by"] for alert in published}) == 2
        assert all("25 of 25" in alert["message"] for alert in published)
        seen = passes(worker_process) + passes(two)
        await eventually(lambda: passes(worker_process) + passes(two) >= seen + 6, 30)
        assert len(published) == 2
        for number in range(25):
            await world.emit(number, "STARTED")
        await eventually(lambda: len(published) == 4, 30)
    assert changes(published[2:]) == [("breaker_tripped", True)] * 2
    assert {(alert["by"], alert["message"]) for alert in published[2:]} == {
        (a["by"], a["message"]) for a in published[:2]
    }


async def test_what_a_command_did_to_the_breaker_is_reported_too(world: World) -> None:
    """The command itself publishes nothing."""
    await world.declare()
    await world.emit(1000, "STARTED")
    published = await alerts(world)
    async with worker(world.env()) as worker_process:
        await eventually(lambda: passes(worker_process))
        for number in range(25):
            await world.stream(f"job_{number}")
        assert (await world.reactor("reconcile")).code == 4
        await eventually(lambda: published)
        assert (await world.reactor("reconcile", "--yes")).code == 0
        await eventually(lambda: len(published) > 1)
        pid = worker_process.process.pid
    assert changes(published) == [("breaker_tripped", False), ("breaker_tripped", True)]
    assert {alert["by"].split(":")[1] for alert in published} == {str(pid)}


async def test_a_redis_that_was_flushed_is_reported_and_that_it_is_whole_again(world: World) -> None:
    """However fast the rebuild is. The first build of a new worker is not a loss."""
    published = await alerts(world)
    async with worker(world.env()):
        await world.emit(1, "STARTED")
        await eventually(lambda: vouched(world))
        await eventually(lambda: acked(world))
        keys = [key async for key in world.redis.scan_iter(f"{world.namespace}:*")]
        await world.redis.delete(*keys)
        await eventually(lambda: len(published) > 1, 20)
        await eventually(lambda: has_records(world, 1))
    assert changes(published) == [("coverage_lost", False), ("coverage_lost", True)]
    assert {alert["message"] for alert in published} == {LOST}


async def test_a_nats_that_is_away_holds_nothing_up(tmp_path: Path) -> None:
    """The worker continues, works when NATS is back, and publishes later changes."""
    async with (
        own_world(tmp_path) as (world, nats_one, _),
        worker(world.env(**EVERY_SECOND)) as process,
    ):
        await eventually(lambda: vouched(world))
        await eventually(lambda: passes(process))  # so the worker itself has seen that nothing is lacking
        published = await alerts(world)
        nats_one.signal(signal.SIGSTOP)
        await eventually(lambda: is_stopped(nats_one.pid))
        await world.redis.flushall()
        await eventually(lambda: process.logged("failed, trying again"), 40)
        nats_one.signal(signal.SIGCONT)
        await world.emit(1, "STARTED")
        await eventually(lambda: changes(published)[-1:] == [("coverage_lost", True)], 40)
        seen = passes(process)
        await eventually(lambda: passes(process) > seen, 30)
        assert process.process.returncode is None


class Ear:
    """Receives alerts, but only when it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.received: list[dict[str, Any]] = []

    async def publish(self, _subject: str, data: bytes) -> None:
        await self.open.wait()
        self.received.append(json.loads(data))


async def test_noting_waits_for_nobody() -> None:
    """A slow receiver delays only the publishing, and does not fill the memory."""
    ear = Ear()
    alerts_sent = Alerts(ear.publish, "me", lambda: 0)
    for _ in range(MANY):
        alerts_sent.note(Kind.DELETES_PAUSED, "no right")
        alerts_sent.note(Kind.DELETES_PAUSED, None)
    telling = asyncio.create_task(alerts_sent.publish_changes())
    await asyncio.wait({telling}, timeout=0.01)
    assert not telling.done()
    ear.open.set()
    await telling
    assert len(ear.received) == MANY
    assert ear.received[-1]["resolved"]


async def test_another_wording_is_no_change() -> None:
    """One begin and one end, with the first message."""
    ear = Ear()
    ear.open.set()
    alerts_sent = Alerts(ear.publish, "me", lambda: 0)
    for message in (None, "25 of 26", "24 of 26", None, None):
        alerts_sent.note(Kind.BREAKER_TRIPPED, message)
    await alerts_sent.publish_changes()
    assert [(alert["message"], alert["resolved"]) for alert in ear.received] == [
        ("25 of 26", False),
        ("25 of 26", True),
    ]


async def test_a_ledger_that_was_never_whole_is_not_lost() -> None:
    """A new worker builds it first."""
    ear = Ear()
    ear.open.set()
    alerts_sent = Alerts(ear.publish, "me", lambda: 0)
    for gap in (LOST, None, LOST, LOST, None):
        alerts_sent.note_coverage(gap)
    await alerts_sent.publish_changes()
    assert [alert["resolved"] for alert in ear.received] == [False, True]
