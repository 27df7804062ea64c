"""What is told to whoever looks on."""

import pytest
from harness import World

from reactor.controller import review
from reactor.operate import queries
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
        await unread.ack()
        assert (await overview.measure())["coverage"]["gap"] is None
