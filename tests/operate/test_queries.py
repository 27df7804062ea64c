"""What is told to whoever looks on."""

from dataclasses import replace

import pytest
from harness import World

from reactor.controller import review
from reactor.operate import queries
from reactor.operate.history import Trail
from reactor.store.audit import Audit
from reactor.store.scripts import Scripts
from reactor.worker.connections import connections
from reactor.worker.wiring import UseCases, provision_safely


async def test_events_of_the_last_moment_are_no_gap(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under steady traffic some always are on their way; one that stays unread is a gap."""
    monkeypatch.setattr(queries, "FRESH_S", -1.0)
    monkeypatch.setattr(review, "CATCH_UP_S", 0.1)
    async with connections(world.load()) as connected:
        cases = UseCases(connected, await provision_safely(connected))
        overview = cases.overview(await cases.lifecycle_subscriber())
        await world.emit(1, "STARTED")
        await overview.measure()  # its pass takes what is pending
        pull = await world.js.pull_subscribe_bind(consumer="reactor", stream="JOBS")
        await world.emit(2, "STARTED")
        (unread,) = await pull.fetch(1, timeout=5)
        gaps = [(await overview.measure())["coverage"]["gap"] for _ in range(4)]
        assert gaps[0] is None
        assert gaps[-1] == "1 lifecycle events are not read yet"
        await unread.nak()


async def test_judging_for_onlookers_takes_a_bounded_share_of_the_time(world: World) -> None:
    """However long a listing takes: a twentieth while somebody looks, else a hundredth; within limits."""
    async with connections(world.load()) as connected:
        cases = UseCases(connected, await provision_safely(connected))
        overview = cases.overview(await cases.lifecycle_subscriber())
        report = await overview.judged()
        for took, step in ((0.001, 60.0), (2.0, 200.0), (60.0, 900.0)):
            overview._judged = replace(report, duration_s=took)
            assert overview.step_s == step
            assert (await overview.judged()) is overview._judged  # looked at again at once
        overview._judged_at -= 3  # a listing that takes 0.1 s is fresh for two seconds, one of 1 s for twenty
        overview._judged = replace(report, duration_s=1.0)
        assert (await overview.judged()).duration_s == 1.0
        overview._judged = replace(report, duration_s=0.1)
        assert (await overview.judged()).duration_s != 0.1


async def test_deletions_are_read_once_and_anew_where_the_trail_is_another(world: World) -> None:
    """New ones are added; an emptied Redis forgets them all."""
    await world.declare()
    trail = Trail(Audit(world.redis, Scripts(world.redis), world.namespace))
    for number in (1, 2):
        await world.zombie(number)
        await world.reconcile()
        assert [one["stream"] for one in await trail.drains()] == [f"job_{n}" for n in range(1, number + 1)]
    await world.redis.delete(f"{world.namespace}:audit")
    await world.zombie(3)
    await world.reconcile()
    assert [one["stream"] for one in await trail.drains()] == ["job_3"]
    await world.redis.delete(f"{world.namespace}:audit")
    assert not await trail.drains()
