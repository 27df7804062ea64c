"""A live job's queue that delivers nothing more: reported, and never touched."""

import json
from contextlib import suppress
from typing import Any

from support.harness import Served, World, eventually, served

from reactor.bootstrap.connections import connections
from reactor.bootstrap.services import UseCases, provision_safely
from reactor.core.stream_info import is_exhausted
from reactor.passes.exhausted import ExhaustedQueues
from reactor.store.exhausted import GivenUp


async def give_up(world: World, stream: str) -> None:
    """Let workers fail at every message until the server gives it up."""
    durable = await world.consumer(stream, ack_wait=1)
    pull = await world.js.pull_subscribe_bind(consumer=durable, stream=stream)
    while (info := await world.js.consumer_info(stream, durable)).num_pending or info.num_ack_pending:
        with suppress(TimeoutError):  # the fetch at which the server gives them up, with an advisory for each
            for msg in await pull.fetch(2, timeout=1):
                await msg.nak()
    await pull.unsubscribe()


async def test_it_is_reported_once_and_everywhere(world: World) -> None:
    """As an event, in status, in the list of streams and on the page. The stream stays."""
    subscription = await world.nc.subscribe("reactor.exhausted.*")
    async with served(world) as at:
        await world.emit(1, "STARTED")
        await world.stream("job_1", messages=2)
        await eventually(lambda: _is_found(at))
        await give_up(world, "job_1")
        event = json.loads((await subscription.next_msg(timeout=20)).data)
        assert (event["stream"], event["job_id"], event["consumer"]) == ("job_1", "1", "job-1-consumer")
        assert (await at.get("/api/status"))[1]["exhausted"] == 1
        row = await _row(at)
        assert row["exhausted"] is True
        assert "job-1-consumer has given up its last messages" in row["detail"]
        assert "running, exhausted" in (await world.reactor("streams")).out
        assert "job_1" in await world.names()
    assert subscription.pending_msgs == 0


async def test_a_queue_with_new_messages_is_not_exhausted_any_more(world: World) -> None:
    """Nor is one whose job has ended, or is not known to be live."""
    await world.declare()
    await world.emit(1, "STARTED")
    await world.stream("job_1", messages=2)
    await world.stream("job_2", messages=2)
    await world.reconcile(REACTOR_POLICY_MISSING_GUARD="24h")  # job_2 waits, and is not called live
    for stream in ("job_1", "job_2"):
        await give_up(world, stream)
    async with connections(world.load()) as connected:
        cases = UseCases(connected, await provision_safely(connected))
        queues, known = ExhaustedQueues(cases.resources, recheck_s=0), connected.ledger.exhausted
        for stream in ("job_1", "job_2", "job_3"):
            queues.note(stream, GivenUp(2, f"{stream.replace('_', '-')}-consumer"))
        queues.note("job_1", GivenUp(1, "job-1-consumer"))  # received later
        await queues.tick()
        assert await known.all() == {"job_1": GivenUp(2, "job-1-consumer")}
        queues.note("job_1", GivenUp(1, "job-1-consumer"))
        await queues.tick()
        assert await known.all() == {"job_1": GivenUp(2, "job-1-consumer")}
        await world.publish("job.1.tasks", b"more")
        await queues.tick()
        assert await known.all() == {}
        await known.put("job_4", GivenUp(1, "consumer-of-a-stream-that-is-gone"))
        await queues.tick()
        assert await known.all() == {}


def test_only_what_was_given_up_counts() -> None:
    """A consumer that has done later messages, or still delivers, is not exhausted."""
    gave_up = {"num_pending": 0, "num_ack_pending": 0, "delivered": {"stream_seq": 3}}
    assert is_exhausted(gave_up, 3)
    for change in ({"delivered": {"stream_seq": 4}}, {"num_pending": 1}, {"num_ack_pending": 1}):
        assert not is_exhausted(gave_up | change, 3)


async def _row(at: Served) -> Any:
    [row] = (await at.get("/api/streams"))[1]["streams"]
    return row


async def _is_found(at: Served) -> bool:
    rows = (await at.get("/api/streams"))[1]["streams"]
    return [row["reason"] for row in rows] == ["running"]
