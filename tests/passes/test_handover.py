"""A worker's pass hands the zombies of ended jobs to all replicas."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from support.harness import World, eventually

from reactor.bootstrap.connections import connections
from reactor.bootstrap.services import UseCases, provision_safely
from reactor.core.model import Outcome
from reactor.core.report import Report
from reactor.passes.handover import UNSETTLED, Handover
from reactor.passes.reconciler import PassOptions


@asynccontextmanager
async def cases_of(world: World) -> AsyncIterator[UseCases]:
    async with connections(world.load()) as connected:
        yield UseCases(connected, await provision_safely(connected))


async def passed(cases: UseCases, stop: asyncio.Event) -> Report:
    reconciler = cases.reconciler(await cases.lifecycle_subscriber())
    return await reconciler.run(PassOptions(handover=Handover(cases.resources, stop)))


async def is_found(cases: UseCases, stream: str) -> bool:
    return stream in await cases.resources.ledger.stream_states.of([stream])


async def nobody() -> None:
    """Request no pass."""


async def test_a_pass_reports_what_the_sweepers_did(world: World) -> None:
    """What they drained, what others deleted meanwhile, and what a restarted job keeps."""
    stop = asyncio.Event()
    async with cases_of(world) as mine, cases_of(world) as others:
        for number in range(40):
            await world.zombie(number)
        await world.stream("job_50")  # missing: the pass's own business
        passing = asyncio.create_task(passed(mine, stop))
        await eventually(lambda: is_found(mine, "job_39"))
        await world.js.delete_stream("job_0")
        await world.emit(1, "STARTED")
        sweeper = others.sweeper(nobody)
        while not passing.done():
            await sweeper.tick()
        report = passing.result()
    assert (report.error, report.count(Outcome.DRAINED), report.count(Outcome.ALREADY_GONE)) == (None, 39, 1)
    assert report.count(Outcome.KEPT) == 1
    assert await world.names() == {"job_1"}


async def test_a_stopped_pass_waits_for_nothing(world: World) -> None:
    """The next pass finds what is in the due queue."""
    stop = asyncio.Event()
    async with cases_of(world) as mine:
        await world.zombie(1)
        passing = asyncio.create_task(passed(mine, stop))
        await eventually(mine.resources.ledger.due.count)
        stop.set()
        [settlement] = (await passing).settlements
        assert (settlement.outcome, settlement.detail) == (Outcome.WAITING, UNSETTLED)
        assert await mine.resources.ledger.due.count() == 1
    assert await world.names() == {"job_1"}
