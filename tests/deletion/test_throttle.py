"""Limiting how much runs at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from nats.aio.msg import Msg
from support.harness import World, eventually

from reactor.deletion.throttle import AdaptiveLimit
from reactor.jetstream.latency import BOUND_S, FELT_S, LATELY, WINDOW, Pace


def is_slow(pace: Pace) -> bool:
    """Read the property again, which the type checker does not expect to change."""
    return pace.is_slow


def test_what_is_far_away_is_not_slow() -> None:
    """The distance is in each answer, a queue only in some."""
    pace = Pace()
    assert not pace.p95_s
    for _ in range(WINDOW):
        pace.note(0.3)
    assert not is_slow(pace)
    for _ in range(WINDOW // 8):
        pace.note(0.3 + BOUND_S + 0.1)
    assert is_slow(pace)
    for _ in range(WINDOW):
        pace.note(0.3)
    assert not is_slow(pace)


def test_a_slow_server_that_comes_after_a_quick_one_is_what_there_is() -> None:
    """A connection that moved to a slower server does not stay throttled."""
    pace = Pace()
    pace.note(0.1)
    for _ in range(2_500):
        pace.note(0.5)
    assert not is_slow(pace)


def is_felt(pace: Pace) -> bool:
    """Read the property again, as above."""
    return pace.is_felt


def test_a_queue_counts_sooner_while_others_wait_in_it() -> None:
    """Alone, full speed harms no other client. Clients that were seen long ago no longer count."""
    pace = Pace()
    pace.note(0.001)
    for _ in range(WINDOW):
        pace.note(0.001 + 2 * FELT_S)
    assert not is_felt(pace)
    pace.note_others()
    assert is_felt(pace)
    assert not is_slow(pace)
    for _ in range(LATELY):
        pace.note(0.001 + 2 * FELT_S)
    assert not is_felt(pace)


async def test_room_shrinks_for_the_sake_of_others() -> None:
    """The server itself is quick enough."""
    pace, limits = Pace(), []
    limit = AdaptiveLimit(32, pace)
    pace.note(0.001)
    for _ in range(5):
        for _ in range(WINDOW):
            pace.note(0.001 + 2 * FELT_S)
        pace.note_others()
        async with limit.slot():
            limits.append(limit._limit)
    assert limits == [16, 8, 4, 4, 4]


async def test_room_shrinks_by_halves_to_an_eighth_and_grows_again() -> None:
    """It is adapted after every few answers."""
    pace, limits = Pace(), []
    limit = AdaptiveLimit(32, pace)

    async def answered(seconds: float) -> None:
        for _ in range(WINDOW):
            pace.note(seconds)
        async with limit.slot():
            limits.append(limit._limit)

    for seconds in (0.01, 1, 1, 1, 1, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01):
        await answered(seconds)
    assert limits == [32, 16, 8, 4, 4, 6, 8, 11, 14, 18, 23, 29, 32, 32, 32]


async def test_a_pass_leaves_room_where_jetstream_answers_slowly(world: World) -> None:
    """Fewer and fewer requests are under way, and all work is done."""
    async with slowed(world) as (slow, under_way):
        await world.declare()
        for number in range(60):
            await world.zombie(number, messages=0)
        report = await slow.reconcile()
        assert report["fixed"] == 60
    assert max(under_way[:60]) >= 28
    assert max(under_way[-20:]) <= 8


@asynccontextmanager
async def slowed(world: World) -> AsyncIterator[tuple[World, list[int]]]:
    """A world whose JetStream delays answers about single streams, and how many such requests were under way."""
    under_way, now = list[int](), 0

    async def forward(msg: Msg) -> None:
        nonlocal now
        verb = msg.subject.removeprefix("$JS.relay.API.")
        if verb.startswith("CONSUMER.MSG.NEXT"):  # answered by messages, many times
            await world.nc.publish(f"$JS.API.{verb}", msg.data, reply=msg.reply)
            return
        late = verb.startswith(("STREAM.INFO.job", "STREAM.UPDATE.", "STREAM.DELETE."))
        now += late
        if late:
            under_way.append(now)
            await asyncio.sleep(0.3)
        answer = await world.nc.request(f"$JS.API.{verb}", msg.data, timeout=10)
        now -= late
        if msg.reply:  # else a right is tried
            await world.nc.publish(msg.reply, answer.data)

    async def serve(msg: Msg) -> None:
        tasks.add(task := asyncio.create_task(forward(msg)))
        task.add_done_callback(tasks.discard)

    tasks = set[asyncio.Task[None]]()
    subscription = await world.nc.subscribe("$JS.relay.API.>", cb=serve)
    await world.nc.flush()
    yield replace(world, settings=world.settings | {"REACTOR_NATS_DOMAIN": "relay"}), under_way
    await subscription.unsubscribe()
    await eventually(lambda: not tasks)
