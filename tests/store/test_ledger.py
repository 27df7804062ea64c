"""The ledger on a real Valkey: order, claims, leases, memory and rebuilding."""

import asyncio
import itertools
import os
import random
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.harness import World, eventually, record_of, status_event

from reactor.core.model import SECOND, Record, StatusEvent
from reactor.store.audit import Audit, Intent
from reactor.store.keyspace import Keyspace, LedgerError
from reactor.store.leases import Lease
from reactor.store.ledger import Ledger
from reactor.store.records import ForeignLedger

MINUTE = 60 * SECOND


@pytest.fixture(name="ledger")
def _ledger(world: World) -> Ledger:
    return ledger_of(world)


def ledger_of(world: World) -> Ledger:
    return Ledger.of(Keyspace(world.redis, world.namespace), 60.0)


async def write(
    ledger: Ledger, *events: tuple[str, StatusEvent, int | None], identity: str = "JOBS@1"
) -> tuple[int, int]:
    applied = await ledger.records.apply(identity, events, readable=len(events), grace=MINUTE)
    return applied.newer, applied.due


async def stored_record(ledger: Ledger, job_id: str) -> Record | None:
    return (await ledger.records.read("JOBS@1", [job_id])).records.get(job_id)


names = itertools.count()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50)), min_size=1, max_size=12, unique_by=lambda t: t[1]))
async def test_any_order_and_any_duplicates_end_in_the_same_record(world: World, times: list[tuple[int, int]]) -> None:
    """The last event by time and by sequence, in any order of arrival."""
    ledger, job = ledger_of(world), f"j{next(names)}"
    events = [(job, status_event(at, seq, f"S{seq}"), None) for at, seq in times]
    shuffled = events + random.Random(0).choices(events, k=3)  # noqa: S311  # reproducible
    random.Random(len(times)).shuffle(shuffled)  # noqa: S311  # as above
    for start in range(0, len(shuffled), 4):
        await write(ledger, *shuffled[start : start + 4])
    assert await stored_record(ledger, job) == Record.of(*(item for _, item, _ in events))


async def test_nanoseconds_decide(ledger: Ledger) -> None:
    """A double would round both to the same time."""
    at = 1_700_000_000_000_000_000
    await write(ledger, ("1", status_event(at + 1, 1, "LATER"), None))
    assert await write(ledger, ("1", status_event(at, 2, "EARLIER"), None)) == (1, 0)
    assert await stored_record(ledger, "1") == Record(status_event(at + 1, 1, "LATER"), status_event(at, 2, "EARLIER"))


async def test_due_jobs_are_claimed_once_and_fall_due_again(world: World, ledger: Ledger) -> None:
    """A claim is a lease. It is lost with its process."""
    await write(ledger, *[(str(n), status_event(n, n, "SUCCESS"), 0) for n in range(1, 6)])
    first, second = await ledger.due.claim(3, 0.2), await ledger.due.claim(3, 0.2)
    assert sorted(first.jobs + second.jobs) == ["1", "2", "3", "4", "5"]
    assert (await ledger.due.claim(3, 0.2)).jobs == ()
    assert await ledger.due.next_due() is not None
    again = await eventually(lambda: _claimed(ledger))
    assert set(again) <= {"1", "2", "3", "4", "5"}
    assert await world.redis.zcard(f"{world.namespace}:due") == 5


async def _claimed(ledger: Ledger) -> tuple[str, ...]:
    return (await ledger.due.claim(9, 5.0)).jobs


async def test_a_settled_job_is_due_again_later_or_never(ledger: Ledger) -> None:
    """Unless it was rescheduled since: a newer event is not lost with the claim."""
    await write(ledger, ("1", status_event(1, 1, "SUCCESS"), 0), ("2", status_event(1, 2, "SUCCESS"), 0))
    claim = await ledger.due.claim(9, 30.0)
    await ledger.due.settle(claim, "1", None)
    await write(ledger, ("2", status_event(2, 3, "FAILURE"), 0))
    await ledger.due.settle(claim, "2", None)
    assert (await ledger.due.claim(9, 30.0)).jobs == ("2",)
    assert await ledger.due.count() == 1


async def test_no_inspection_is_delayed_beyond_the_grace(ledger: Ledger) -> None:
    """Even if the server's clock is far ahead of Redis's."""
    await write(ledger, ("1", status_event(1, 1, "SUCCESS"), 10**19))
    delay = await ledger.due.next_due()
    assert delay is not None
    assert 59 < delay <= 60


async def test_an_earlier_inspection_is_not_delayed(ledger: Ledger) -> None:
    """Scheduling only makes an inspection earlier."""
    await ledger.due.schedule({"1": 5.0})
    await ledger.due.schedule({"1": 50.0, "2": 9.0})
    await ledger.due.schedule({})
    delay = await ledger.due.next_due()
    assert delay is not None
    assert 4 < delay <= 5.01
    await ledger.due.forget("1")
    assert await ledger.due.count() == 1


async def test_it_says_which_events_were_not_newer(ledger: Ledger) -> None:
    """By their position in the batch: an older one, and a known one."""
    await write(ledger, ("1", status_event(5, 5, "SUCCESS"), None))
    batch = [("1", status_event(4, 4, "STARTED"), None), ("2", status_event(1, 7, "STARTED"), None)]
    applied = await ledger.records.apply("JOBS@1", [*batch, batch[1]], readable=3, grace=MINUTE)
    assert (applied.newer, applied.stale) == (1, (0, 2))


async def test_a_lease_is_one_holders(ledger: Ledger) -> None:
    """Only its holder releases it."""
    ours, theirs = Lease("x", 30.0), Lease("x", 30.0)
    assert await ledger.leases.acquire(ours)
    assert not await ledger.leases.acquire(theirs)
    assert await ledger.records.lease_and_read(theirs, "JOBS@1", "1") is None
    await ledger.leases.release(theirs)
    assert not await ledger.leases.acquire(theirs)
    await ledger.leases.release(ours)
    assert await ledger.records.lease_and_read(theirs, "JOBS@1", "1") is not None


async def test_a_ledger_is_whole_only_after_a_rebuild(world: World, ledger: Ledger) -> None:
    """In this Redis, and of this lifecycle stream. A rebuild that was overtaken does not count."""
    assert not (await ledger.records.read("JOBS@1")).intact
    await ledger.records.begin_rebuild("JOBS@1", "a")
    await ledger.records.begin_rebuild("JOBS@1", "b")
    assert not await ledger.records.complete_rebuild("a", 5, 9)
    assert not (await ledger.records.read("JOBS@1")).intact
    assert await ledger.records.complete_rebuild("b", 5, 9)
    reading = await ledger.records.read("JOBS@1")
    assert (reading.intact, reading.since, reading.applied, reading.events) == (True, 5, 9, 0)
    assert not (await ledger.records.read("JOBS@2")).intact
    await world.redis.hset(f"{world.namespace}:ledger", "redis", "another")
    assert not (await ledger.records.read("JOBS@1")).intact


async def test_another_lifecycle_streams_events_are_not_mixed_in(ledger: Ledger) -> None:
    """Two job systems use one Redis by mistake. The second is refused until it has rebuilt, and then is alone."""
    await ledger.records.begin_rebuild("JOBS@1", "a")
    await write(ledger, ("1", status_event(1, 1, "SUCCESS"), 0))
    with pytest.raises(ForeignLedger, match="another lifecycle stream"):
        await write(ledger, ("1", status_event(2, 2, "STARTED"), None), identity="JOBS@2")
    assert await ledger.records.owner() == "JOBS@1"
    await ledger.records.begin_rebuild("JOBS@2", "b")
    assert await stored_record(ledger, "1") is None
    assert await ledger.due.count() == 0


@pytest.mark.parametrize("odd", ["*", "?", "[a-z]", "\\"])
async def test_a_namespace_is_taken_literally(world: World, odd: str) -> None:
    """Characters with a meaning in a glob must not drop another namespace's records, nor miss its own."""
    ours, theirs = (Ledger.of(Keyspace(world.redis, f"{world.namespace}{end}"), 60.0) for end in (odd, "x"))
    for item in (ours, theirs):
        await item.records.begin_rebuild("JOBS@1", "a")
        await write(item, ("1", status_event(1, 1, "STARTED"), None))
    assert set(await ours.records.all()) == {"1"}
    await ours.records.begin_rebuild("JOBS@2", "b")
    assert await stored_record(ours, "1") is None
    assert await stored_record(theirs, "1")


async def test_a_live_job_costs_little(world: World, ledger: Ledger) -> None:
    """At most 150 bytes of Valkey's memory for its keys. Redis 8.0 takes more."""
    most = 200 if "REDIS_SERVER" in os.environ else 150
    for start in range(0, 20_000, 500):
        await write(
            ledger, *[(f"{10**9 + start + n}", status_event(start + n, n, "STARTED"), None) for n in range(500)]
        )
    keys = [key async for key in world.redis.scan_iter(f"{world.namespace}:*")]  # the server's own buffers come and go
    used = sum([await world.redis.memory_usage(key, samples=0) or 0 for key in keys])
    assert used / 20_000 < most


async def test_every_key_expires_but_those_that_must_stay(world: World, ledger: Ledger) -> None:
    """Keys of past jobs expire. A live record never does."""
    await ledger.records.begin_rebuild("JOBS@1", "a")
    await write(ledger, ("1", status_event(1, 1, "SUCCESS"), 0), ("2", status_event(1, 2, "STARTED"), None))
    await ledger.leases.acquire(Lease("x", 30.0))
    await ledger.tallies.first_sighting("job_1", "figures", 5)
    await ledger.tallies.count_delivery("1", "max_deliveries")
    await ledger.tallies.failed("1")
    await ledger.records.retire("1", record_of(1, 1, "SUCCESS"))
    await ledger.records.retire("2", record_of(9, 9, "SUCCESS"))  # it has a newer event: not retired
    lasting = {
        key.removeprefix(f"{world.namespace}:")
        for key in [key async for key in world.redis.scan_iter(f"{world.namespace}:*")]
        if await world.redis.ttl(key) < 0
    }
    assert lasting == {"ledger", "due", "job:2"}


async def test_the_first_sighting_of_figures_is_kept(ledger: Ledger) -> None:
    """Until they change."""
    assert await ledger.tallies.first_sighting("job_1", "a", 5) == 5
    assert await ledger.tallies.first_sighting("job_1", "a", 9) == 5
    assert await ledger.tallies.first_sighting("job_1", "b", 9) == 9


async def test_an_intent_has_one_outcome(world: World) -> None:
    """The process that removes the intent writes it. Another token has no effect."""
    audit = Audit(Keyspace(world.redis, world.namespace))
    intent = Intent("job_1", "1", "terminal", "mine", "", "SUCCESS", 3, "me", "")
    await audit.intend(intent, {})
    assert await audit.open_intents() == {"job_1": intent}
    assert not await audit.conclude("job_1", "theirs", "drained", "")
    assert await audit.conclude("job_1", None, "already_gone", "found gone")
    assert not await audit.conclude("job_1", "mine", "drained", "")
    newest, _ = await audit.newest(5)
    assert (newest["phase"], newest["outcome"], newest["messages"]) == ("outcome", "already_gone", 3)


async def test_scripts_survive_a_redis_that_forgot_them(world: World) -> None:
    """Each caller gets its own answer or error from the shared pipeline."""
    space = Keyspace(world.redis, world.namespace)
    double, fail = (
        partial(space.run, "return ARGV[1] * 2", []),
        partial(space.run, "return redis.error_reply('no')", []),
    )
    await world.redis.script_flush()
    calls = [double([1]), fail(), double([3]), fail()]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [str(answer) for answer in answers] == ["2", "no", "6", "no"]
    again = await asyncio.gather(*(fail() for _ in range(2)), return_exceptions=True)
    assert all(isinstance(answer, LedgerError) for answer in again)


async def test_a_cancelled_caller_leaves_the_others_alone(world: World) -> None:
    """Its answer is dropped."""
    double = partial(Keyspace(world.redis, world.namespace).run, "return ARGV[1] * 2", [])
    first, two = asyncio.create_task(double([1])), asyncio.create_task(double([2]))
    await asyncio.sleep(0)
    first.cancel()
    assert await two == 4


async def test_what_arrives_during_a_listing_outlives_it(ledger: Ledger) -> None:
    """The listing may have been read before. What is older and not in it is removed."""
    topology_cache = ledger.topology_cache
    await topology_cache.remember("JOBS@1", await topology_cache.now() - 1_000, ["job_1"], ["former"])
    began = await topology_cache.now()
    await topology_cache.add(["job_2"], ["advisories"])
    await topology_cache.remember("JOBS@1", began, ["job_3"], [])
    among = await topology_cache.among("JOBS@1", ["job_1", "job_2", "job_3"], began)
    assert among == (frozenset({"job_2", "job_3"}), ["advisories"])
    assert await topology_cache.among("JOBS@1", [], began + 1) is None
    assert await topology_cache.among("JOBS@2", [], began) is None
