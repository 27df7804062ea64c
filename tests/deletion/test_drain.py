"""drain_stream, step by step, with interference between the steps."""

import asyncio
from dataclasses import replace
from typing import Any

import nats.js.errors
import psutil
import pytest
from support.bench import Bench, Killed
from support.harness import World, eventually, relayed

from reactor.bootstrap.connections import connections
from reactor.cli.embedded import free_port
from reactor.config.nats_options import nats_options
from reactor.core.model import Outcome, Reason, Settlement
from reactor.core.pause import pausing
from reactor.core.stream_info import FENCE_TOKEN_KEY
from reactor.deletion.states import REPLACED
from reactor.jetstream.client import JetStream
from reactor.jetstream.errors import Unanswered, Unreachable
from reactor.jetstream.topology import PAUSE_SUBJECT
from reactor.store.keyspace import LedgerError
from reactor.store.leases import Leases


async def test_a_zombie_is_drained(world: World) -> None:
    """Without interference."""
    async with Bench(world) as bench:
        await world.zombie(1, messages=2)
        settlement = await bench.drain()
        assert (settlement.outcome, settlement.reason) == (Outcome.DRAINED, Reason.TERMINAL)
        assert settlement.stream.messages == 2
        assert settlement.late_s is not None
        assert 0 < settlement.late_s < 5
        assert await world.info("job_1") is None
        assert await bench.outcomes() == ["drained"]


async def test_the_intent_is_written_before_anything_happens(world: World) -> None:
    """The audit must have the deletion of a process that is killed."""
    async with Bench(world) as bench:
        await world.zombie(1)
        phases: list[str] = []

        async def read() -> None:
            phases.extend([entry["phase"] for entry in await world.trail()])

        bench.effects.before["STREAM.UPDATE"] = read
        await bench.drain()
        assert phases == ["intent"]


async def test_a_dry_run_accounts_for_no_deletion(world: World) -> None:
    """If a stream is gone and its intent is open, its deletion may be under way right now."""
    async with Bench(world) as bench:
        await world.zombie(1)
        seen: list[Outcome] = []

        async def preview_meanwhile() -> None:
            await world.js.delete_stream("job_1")  # as the deletion itself will have done, a moment before its outcome
            onlooker = await bench.preview()
            seen.append(onlooker.outcome)
            assert await bench.audit.is_open("job_1")

        bench.effects.before["STREAM.DELETE.job_1"] = preview_meanwhile
        await bench.drain()
        assert seen == [Outcome.ALREADY_GONE]
        assert len(await bench.outcomes()) == 1


async def test_a_publisher_before_the_fence_keeps_its_stream(world: World) -> None:
    """The message was acknowledged, so it must not be lost."""
    async with Bench(world) as bench:
        await world.zombie(1)
        bench.effects.before["STREAM.UPDATE"] = lambda: world.js.publish("job.1.tasks", b"late")
        settlement = await bench.drain()
        assert settlement.outcome is Outcome.WAITING
        assert (await bench.whole())["state"]["messages"] == 2


async def test_a_publisher_behind_the_fence_is_refused_loudly(world: World) -> None:
    """It gets an error instead of an acknowledgement for a message that would be lost."""
    async with Bench(world) as bench:
        await world.zombie(1)
        refused: list[Exception] = []

        async def publish() -> None:
            try:
                await world.js.publish("job.1.tasks", b"late")
            except nats.js.errors.NoStreamResponseError as error:
                refused.append(error)

        bench.effects.before["STREAM.DELETE.job_1"] = publish
        settlement = await bench.drain()
        assert settlement.outcome is Outcome.DRAINED, settlement
        assert len(refused) == 1


async def test_making_a_fenced_stream_again_fails_loudly(world: World) -> None:
    """A job system that retries at that moment gets an error."""
    async with Bench(world) as bench:
        await world.zombie(1)
        errors: list[Any] = []

        async def create() -> None:
            try:
                await world.stream("job_1")
            except nats.js.errors.BadRequestError as error:
                errors.append(error.err_code)

        bench.effects.before["STREAM.DELETE.job_1"] = create
        await bench.drain()
        assert errors == [10058]


@pytest.mark.parametrize("step", ["STREAM.UPDATE", "look again"])
async def test_a_job_retried_on_the_way_keeps_its_stream(world: World, step: str) -> None:
    """On the same stream. Its last event is read behind the fence."""
    async with Bench(world) as bench:
        await world.zombie(1, messages=3)

        async def retry() -> None:
            await world.emit(1, "STARTED")

        async def later() -> None:
            bench.reads.before["STREAM.MSG.GET.JOBS"] = retry

        bench.effects.before["STREAM.UPDATE"] = retry if step == "STREAM.UPDATE" else later
        settlement = await bench.drain()
        assert (settlement.outcome, settlement.reason) == (Outcome.KEPT, Reason.RUNNING)
        assert (await bench.whole())["state"]["messages"] == 3
        assert await bench.outcomes() == ["kept"]


async def test_a_stream_made_again_before_the_fence_survives(world: World) -> None:
    """Another incarnation is another stream: the fence is removed, and its messages stay."""
    async with Bench(world) as bench:
        await world.zombie(1)

        async def make_anew() -> None:
            await world.js.delete_stream("job_1")
            await world.stream("job_1", messages=1)

        bench.effects.before["STREAM.UPDATE"] = make_anew
        settlement = await bench.drain()
        assert settlement.outcome is not Outcome.DRAINED
        assert (await bench.whole())["state"]["messages"] == 1


async def test_a_stream_made_again_since_it_was_judged_is_judged_again(world: World) -> None:
    """The listing had another incarnation."""
    async with Bench(world) as bench:
        await world.zombie(1)
        settlement = await bench.drain(created=1)
        assert (settlement.outcome, settlement.detail) == (
            Outcome.KEPT,
            REPLACED,
        )
        await bench.whole()


async def test_a_fence_that_another_has_taken_over_is_not_ours_to_lift(world: World) -> None:
    """The metadata has the other's token."""
    async with Bench(world) as bench:
        await world.zombie(1)

        async def take_over() -> None:
            info = await world.info("job_1")
            assert info is not None
            info["config"]["metadata"][FENCE_TOKEN_KEY] = "another"
            info["config"]["subjects"] = ["reactor.fence.job_1.another"]
            await world.api("STREAM.UPDATE.job_1", info["config"])

        bench.effects.before["barrier"] = take_over
        settlement = await bench.drain()
        assert (settlement.outcome, settlement.reason) == (Outcome.WAITING, Reason.FENCED)
        assert await bench.fenced()


async def test_subjects_given_back_by_another_hand_are_respected(world: World) -> None:
    """An operator who repairs the stream by hand ends the deletion, with or without the token."""
    async with Bench(world) as bench:
        await world.zombie(1)

        async def repair() -> None:
            info = await world.info("job_1")
            assert info is not None
            await world.api("STREAM.UPDATE.job_1", info["config"] | {"subjects": ["job.1.tasks"]})

        bench.effects.before["barrier"] = repair
        assert (await bench.drain()).outcome is Outcome.WAITING
        info = await world.info("job_1")
        assert info is not None
        assert info["config"]["subjects"] == ["job.1.tasks"]
        assert (await bench.drain()).outcome is Outcome.DRAINED


async def test_a_replica_whose_lease_ran_out_does_not_delete(world: World) -> None:
    """It was suspended, so another replica may have taken over."""
    async with Bench(world, lease_s=0.5) as bench:
        await world.zombie(1)
        real = bench.clock

        async def pause() -> None:
            bench.clock = lambda: real() + 10

        bench.effects.before["STREAM.UPDATE"] = pause
        settlement = await bench.drain()
        assert (settlement.outcome, settlement.reason) == (Outcome.WAITING, Reason.FENCED)
        assert await bench.fenced()
        bench.clock = real
        again = await eventually(lambda: _drained(bench))
        assert again.outcome is Outcome.DRAINED


async def test_a_replica_whose_lease_redis_forgot_does_nothing_more(world: World) -> None:
    """Redis was emptied, so another replica may have the lease and work on the stream."""
    async with Bench(world) as bench:
        await world.zombie(1)
        bench.effects.before["STREAM.UPDATE"] = lambda: world.redis.delete(f"{world.namespace}:lease:stream:job_1")
        settlement = await bench.drain()
        assert (settlement.outcome, settlement.reason) == (Outcome.WAITING, Reason.FENCED)
        assert await bench.fenced()


async def test_nothing_is_fenced_while_deleting_is_paused(world: World) -> None:
    """The deletion would be refused, so publishers are not disturbed."""
    async with Bench(world) as bench:
        await world.zombie(1)
        touched: list[str] = []

        async def touch() -> None:
            touched.append("fence")

        bench.effects.before["STREAM.UPDATE"] = touch
        resources = bench.resources()
        resources.rights.pause("no right")
        settlement = await bench.drain(resources=resources)
        assert (settlement.outcome, settlement.reason) == (Outcome.UNFIXABLE, Reason.DELETES_PAUSED)
        assert not touched


async def _drained(bench: Bench) -> Settlement | None:
    settlement = await bench.drain(by="the next one")
    return None if settlement.reason is Reason.FENCED else settlement


async def test_the_fence_of_a_killed_replica_is_taken_over_after_its_lease(world: World) -> None:
    """With the original subjects, and one outcome in the audit."""
    async with Bench(world, lease_s=0.5) as bench:
        await world.zombie(1)
        await _die_behind_the_fence(bench)
        assert (await bench.drain()).reason is Reason.FENCED
        assert (await eventually(lambda: _drained(bench))).outcome is Outcome.DRAINED
        assert await bench.outcomes() == ["drained"]
        assert await bench.audit.open_intents() == {}


async def test_the_fence_of_a_killed_replica_is_lifted_where_the_job_lives(world: World) -> None:
    """After its lease. No stream stays fenced."""
    async with Bench(world, lease_s=0.5) as bench:
        await world.zombie(1, messages=2)
        await _die_behind_the_fence(bench)
        await world.emit(1, "STARTED")
        settlement = await eventually(lambda: _drained(bench))
        assert (settlement.outcome, settlement.reason) == (Outcome.KEPT, Reason.RUNNING)
        assert (await bench.whole())["state"]["messages"] == 2
        await world.js.publish("job.1.tasks", b"on with it")


async def _die_behind_the_fence(bench: Bench) -> None:
    async def die() -> None:
        bench.effects.dead = True
        raise Killed

    bench.effects.before["barrier"] = die
    with pytest.raises(Killed):
        await bench.drain()
    bench.effects.dead = False
    assert await bench.fenced()


@pytest.mark.parametrize("what", ["redis", "bug", "cancelled"])
async def test_whatever_is_raised_behind_a_fence_unfences_first(
    world: World, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis fails, a bug, a cancellation: no stream stays fenced."""
    raised = {"redis": LedgerError("gone"), "bug": KeyError("a bug"), "cancelled": asyncio.CancelledError()}[what]
    async with Bench(world) as bench:
        await world.zombie(1, messages=2)

        async def fail(*_: object) -> None:
            raise raised

        async def redis_dies() -> None:
            monkeypatch.setattr(Leases, "is_held", fail)

        async def raise_it() -> None:
            assert await bench.fenced()
            raise raised

        if what == "redis":
            bench.effects.before["STREAM.UPDATE"] = redis_dies
        else:
            bench.effects.before["barrier"] = raise_it
        with pytest.raises(type(raised)):
            await bench.drain()
        monkeypatch.undo()
        assert (await bench.whole())["state"]["messages"] == 2


async def test_a_fence_whose_sender_is_cancelled_is_lifted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request is under way. Its answer is awaited, and the fence is removed before the task ends."""
    async with Bench(world) as bench:
        await world.zombie(1)
        tasks: list[asyncio.Task[Settlement]] = []

        send = bench.effects.update_stream

        async def send_and_cancel(config: dict[str, Any]) -> dict[str, Any]:
            answer = await send(config)
            tasks[0].cancel()
            await eventually(bench.fenced)  # the answer is still on its way
            monkeypatch.undo()
            return answer

        monkeypatch.setattr(bench.effects, "update_stream", send_and_cancel)
        tasks.append(asyncio.create_task(bench.drain()))
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        await bench.whole()


async def test_a_barrier_without_an_answer_unfences(world: World) -> None:
    """It proves nothing, and nothing has happened."""
    async with Bench(world) as bench:
        await world.zombie(1)

        async def mute() -> None:
            raise Unanswered("no answer")

        bench.effects.before["barrier"] = mute
        settlement = await bench.drain()
        assert (settlement.outcome, settlement.reason) == (Outcome.KEPT, Reason.UNKNOWN)
        await bench.whole()


async def test_what_others_change_behind_the_fence_stays(world: World) -> None:
    """A limit, a description, a protection: the fence is removed from the current config."""
    async with Bench(world) as bench:
        await world.zombie(1)

        async def change() -> None:
            info = await world.info("job_1")
            assert info is not None
            metadata = info["config"]["metadata"] | {"theirs": "new"}
            await world.api(
                "STREAM.UPDATE.job_1", info["config"] | {"max_age": 3600 * 10**9, "max_msgs": 9, "metadata": metadata}
            )
            await world.publish(PAUSE_SUBJECT, pausing("an operator", "a reason", None))

        bench.reads.before["STREAM.INFO.JOBS"] = change  # behind the fence, before the barrier
        assert (await bench.drain()).reason is Reason.PAUSED
        config = (await bench.whole())["config"]
        assert (config["max_age"], config["max_msgs"], config["metadata"].get("theirs")) == (3600 * 10**9, 9, "new")


async def test_a_sealed_stream_is_deleted_without_a_fence(world: World) -> None:
    """It accepts no messages and cannot be unsealed. Its job must be over all the same."""
    async with Bench(world) as bench:
        for number in (1, 2):
            await world.zombie(number)
            info = await world.info(f"job_{number}")
            assert info is not None
            assert "error" not in await world.api(f"STREAM.UPDATE.job_{number}", info["config"] | {"sealed": True})
        bench.reads.before["STREAM.MSG.GET.JOBS"] = lambda: world.emit(2, "STARTED")
        settlement = await bench.drain("job_2")
        assert (settlement.outcome, settlement.reason) == (Outcome.KEPT, Reason.RUNNING)
        assert (await bench.drain()).outcome is Outcome.DRAINED
    assert await world.names() == {"job_2"}


async def test_a_fence_that_was_taken_over_keeps_the_first_subjects(world: World) -> None:
    """Removing it restores the subjects from before the first fence."""
    async with Bench(world, lease_s=0.5) as bench:
        await world.zombie(1)
        await _die_behind_the_fence(bench)
        bench.effects.before["STREAM.UPDATE"] = lambda: world.emit(1, "STARTED")
        settlement = await eventually(lambda: _drained(bench))
        assert (settlement.outcome, settlement.reason) == (Outcome.KEPT, Reason.RUNNING)
        await bench.whole()


async def test_a_full_pass_lifts_a_forgotten_fence(world: World) -> None:
    """Even if Redis was emptied."""
    async with Bench(world, lease_s=1.0) as bench:
        await world.zombie(1)
        await _die_behind_the_fence(bench)
    await world.redis.delete(f"{world.namespace}:intents", f"{world.namespace}:due")
    await world.emit(1, "STARTED")
    await eventually(lambda: _lifted(world))
    await bench.whole()


async def _lifted(world: World) -> bool:
    verdicts = await world.verdicts()
    return verdicts == {"job_1": ("kept", "running")}


async def test_a_fence_that_cannot_be_read_is_a_persons_business(world: World) -> None:
    """The original subjects are unknown."""
    await world.declare()
    await world.stream("job_1", subjects=["reactor.fence.job_1.x"], metadata={FENCE_TOKEN_KEY: "x"})
    await world.emit(1, "SUCCESS")
    assert await world.verdicts() == {"job_1": ("unfixable", "fence-unreadable")}


async def test_a_delete_without_an_answer_is_settled_by_looking(world: World) -> None:
    """It is not repeated blindly, its lease is kept, and the audit has one outcome."""
    await world.declare()
    await world.zombie(1)

    def swallow(verb: str, answer: dict[str, Any]) -> dict[str, Any] | None:
        return None if verb == "STREAM.DELETE.job_1" else answer

    async with relayed(world, swallow) as relay, Bench(relay, lease_s=2.0) as bench:
        bench.effects.prefix, bench.effects.timeout = "$JS.relay.API", 0.3
        settlement = await bench.drain()
        assert (settlement.outcome, settlement.reason) == (Outcome.UNFIXABLE, Reason.OUTCOME_UNKNOWN)
        assert await bench.outcomes() == []
        assert (await bench.drain()).detail == "another replica is working on it"
        assert (await eventually(lambda: _drained(bench))).outcome is Outcome.ALREADY_GONE
        assert await bench.outcomes() == ["already_gone"]


async def test_a_fence_without_an_answer_is_settled_by_looking(world: World) -> None:
    """The stream is fenced although the sender does not know."""
    await world.declare()
    await world.zombie(1)

    def swallow(verb: str, answer: dict[str, Any]) -> dict[str, Any] | None:
        return None if verb == "STREAM.UPDATE.job_1" else answer

    async with relayed(world, swallow) as relay, Bench(relay, lease_s=1.0) as bench:
        bench.effects.prefix = "$JS.relay.API"
        assert (await bench.drain()).reason is Reason.OUTCOME_UNKNOWN
        assert await bench.fenced()
        bench.effects.prefix = "$JS.API"
        assert (await eventually(lambda: _drained(bench))).outcome is Outcome.DRAINED


async def test_two_replicas_delete_a_stream_once(world: World) -> None:
    """However close they come."""
    async with Bench(world) as item, Bench(world) as two:
        for number in range(1, 30):
            await world.zombie(number)
        names = [f"job_{number}" for number in range(1, 30)]
        both = await asyncio.gather(*(bench.drain(name, by=str(id(bench))) for name in names for bench in (item, two)))
        drained = [settlement.stream.name for settlement in both if settlement.outcome is Outcome.DRAINED]
        assert sorted(drained) == sorted(names)
        element = [settlement.outcome for bench in (item, two) for settlement in bench.ends.directory_status]
        assert element == [Outcome.DRAINED] * 29
        outcomes = [entry["outcome"] for entry in await world.trail() if entry["phase"] == "outcome"]
        assert outcomes == ["drained"] * 29


async def test_the_last_event_in_the_stream_counts_where_the_ledger_is_behind(world: World) -> None:
    """An unread STARTED in the stream, and SUCCESS in the ledger."""
    async with Bench(world) as bench:
        await world.zombie(1)
        await world.verdicts(REACTOR_POLICY_AGE_GUARD="1h")
        await world.emit(1, "STARTED")
        settlement = await bench.drain()
        assert (settlement.outcome, settlement.reason) == (Outcome.KEPT, Reason.RUNNING)


async def test_a_late_event_does_not_hide_an_unread_one(world: World) -> None:
    """The ledger is behind, and the last message is older than the one before it."""
    async with Bench(world) as bench:
        await world.zombie(1)
        await _take_all(bench)
        await world.emit(1, "STARTED")
        await world.emit(1, "SUCCESS", occurred_at="2020-01-01T00:00:00Z")
        settlement = await bench.drain()
        assert (settlement.outcome, settlement.reason) == (Outcome.KEPT, Reason.DISPUTED)
        await bench.whole()


async def _take_all(bench: Bench) -> None:
    """Write all pending events to the ledger, like a worker."""
    stored = await bench.reads.last_message("JOBS", "jobs.lifecycle.1")
    assert stored is not None
    await bench.directory.apply_messages(bench.snapshot.lifecycle.identity, [stored])


async def test_the_ledger_counts_where_the_last_event_came_late(world: World) -> None:
    """A late publisher's older event is the last in the stream, but not the latest."""
    async with Bench(world) as bench:
        await world.emit(1, "STARTED")
        await world.stream("job_1")
        await world.emit(1, "SUCCESS", occurred_at="2020-01-01T00:00:00Z")
        await world.verdicts(REACTOR_POLICY_AGE_GUARD="1h")
        await bench.take_snapshot()  # both are acked: only the record has the last event
        settlement = await bench.drain()
        assert (settlement.outcome, settlement.reason) == (Outcome.KEPT, Reason.DISPUTED)


async def test_nothing_is_drained_while_the_lifecycle_stream_is_away(world: World) -> None:
    """The last event cannot be read, and its 404 does not mean that the job stream is gone."""
    async with Bench(world) as bench:
        await world.zombie(1)
        await world.verdicts(REACTOR_POLICY_AGE_GUARD="1h")
        await world.js.delete_stream("JOBS")
        settlement = await bench.drain()
        assert (settlement.outcome, settlement.reason) == (Outcome.KEPT, Reason.UNKNOWN)
        assert "lifecycle stream JOBS is gone" in (settlement.detail or "")
        await bench.whole()


async def test_an_unbuffered_connection_sends_nothing_later(world: World) -> None:
    """A request that was given up must not take effect after a reconnect."""
    effects = JetStream(nats_options(world.load().nats), buffered=False, timeout=0.3)
    client = await effects.connect()
    assert not client.options["allow_reconnect"]
    assert client._max_pending_size == 0
    await world.stream("job_1")
    await client.close()
    await effects.delete_stream("job_1")  # a new connection, in the open
    assert await world.info("job_1") is None
    await effects.close()


@pytest.mark.parametrize("buffered", [True, False])
async def test_servers_that_refuse_are_tried_once_each(world: World, *, buffered: bool) -> None:
    """Each time, so that a command with a wrong address does not wait. A server that answers is found."""
    dead = [f"nats://127.0.0.1:{free_port()}" for _ in range(2)]
    heard: list[str] = []
    away = JetStream({"servers": dead}, buffered=buffered, on_error=heard.append)
    for attempt in (1, 2):
        with pytest.raises(Unreachable, match="Connect call failed"):
            await away.connect()
        assert len(heard) == 2 * attempt
    there = JetStream({"servers": [*dead, world.nats_url]}, buffered=buffered)
    assert (await there.connect()).is_connected
    await there.close()


async def test_deletions_go_over_an_unbuffered_connection(world: World) -> None:
    """A separate one. Reads may be repeated."""
    async with connections(world.load()) as connected:
        effects, reads = await connected.effects.connect(), await connected.reads.connect()
        assert (effects.options["allow_reconnect"], effects._max_pending_size) == (False, 0)
        assert reads.options["allow_reconnect"]


async def test_no_answer_is_unknown_not_failure(world: World) -> None:
    """A subscriber gets the request and does not answer."""
    await world.nc.subscribe("$JS.mute.API.>")
    await world.nc.flush()
    mute = JetStream(nats_options(world.load().nats), prefix="$JS.mute.API", timeout=0.2)
    with pytest.raises(Unanswered, match="no answer to"):
        await mute.stream_info("job_1")
    await mute.close()


async def test_consumers_without_a_time_count_from_the_first_sighting(world: World) -> None:
    """After a server restart they show no time, and may have been active just before."""
    async with Bench(world) as bench:
        await world.emit(2, "STARTED")
        await world.stream("job_1", messages=1)
        pull = await world.js.pull_subscribe_bind(consumer=await world.consumer("job_1"), stream="job_1")
        await pull.fetch(1, timeout=5)
        await world.verdicts(REACTOR_POLICY_AGE_GUARD="1h")
        await bench.take_snapshot()
        bench.policy = replace(bench.policy, idle_guard=10**15)

        def forget(verb: str, answer: dict[str, Any]) -> dict[str, Any]:
            for consumer in answer["consumers"] if verb.startswith("CONSUMER.LIST") else ():
                if isinstance(consumer, dict):
                    consumer["delivered"].pop("last_active", None)
                    consumer["ack_floor"].pop("last_active", None)
            entries = answer["streams"] if verb == "STREAM.LIST" else [answer] if verb == "STREAM.INFO.job_1" else []
            for entry in entries:
                entry["state"]["last_ts"] = "0001-01-01T00:00:00Z"
            return answer

        async with relayed(world, forget) as relay:
            first = await relay.verdicts(REACTOR_POLICY_IDLE_GUARD="1h")
        assert first == {"job_1": ("waiting", "active")}
        keys = [key async for key in world.redis.scan_iter(f"{world.namespace}:sighting:*")]
        assert len(keys) == 1


async def test_parts_close_without_ever_having_been_used(world: World) -> None:
    """A command that fails early has opened no connection and leaves none."""
    before = psutil.Process().net_connections()
    async with connections(world.load()):
        assert len(psutil.Process().net_connections()) == len(before)
    assert len(psutil.Process().net_connections()) == len(before)
