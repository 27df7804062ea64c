"""Answers to status and page."""

from typing import Any

import pytest
from support.harness import World, eventually, relayed

from reactor.bootstrap.connections import Connections, connections
from reactor.bootstrap.services import UseCases, provision_safely
from reactor.core.model import Outcome, Reason, Settlement, Stream
from reactor.operate.history import AuditTrail
from reactor.operate.overview import Overview
from reactor.passes import listing
from reactor.store.audit import Audit
from reactor.store.keyspace import Keyspace


async def test_events_of_the_last_moment_are_no_gap(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under steady traffic there are always some. One that stays unread is a gap."""
    monkeypatch.setattr("reactor.operate.overview.FRESH_S", -1.0)
    monkeypatch.setattr(listing, "CATCH_UP_S", 0.1)
    async with connections(world.load()) as connected:
        cases = UseCases(connected, await provision_safely(connected))
        overview = cases.overview()
        await world.emit(1, "STARTED")
        await world.reconcile()  # takes what is pending
        await overview.measure()
        pull = await world.js.pull_subscribe_bind(consumer="reactor", stream="JOBS")
        await world.emit(2, "STARTED")
        (unread,) = await pull.fetch(1, timeout=5)
        gaps = [(await overview.measure())["coverage"]["gap"] for _ in range(4)]
        assert gaps[0] is None
        assert gaps[-1] == "1 lifecycle events are not read yet"
        await unread.nak()


async def test_no_reader_makes_the_server_list_anything(world: World) -> None:
    """Before the first pass counts are unknown. Then they come from the stored states and the time since."""
    asked = list[str]()

    def note(verb: str, answer: dict[str, Any]) -> dict[str, Any]:
        asked.append(verb)
        return answer

    guards: dict[str, Any] = {"REACTOR_POLICY_TERMINAL_GRACE": "2s", "REACTOR_POLICY_IDLE_GUARD": "0s"}
    await world.declare()
    async with relayed(world, note) as relay, connections(relay.load(**guards)) as connected:
        overview = UseCases(connected, await provision_safely(connected)).overview()
        asked.clear()
        assert (await overview.status())["job_streams"] is None
        await world.emit(2, "STARTED")
        await world.stream("job_2")
        await world.zombie(1)
        await world.reconcile(**guards)
        rows = (await overview.streams())["streams"]
        assert [(row["stream"], row["verdict"]) for row in rows] == [("job_1", "waiting"), ("job_2", "kept")]
        assert (await overview.status())["verdicts"] == {"kept": 1, "waiting": 1, "zombie": 0, "unfixable": 0}
        await eventually(lambda: _falls_due(overview))
        overview._stream_counts._counted_at = float("-inf")
        overview._stream_counts._version = ""
        status = await overview.status()
        assert status["zombies"] == 1
        assert (status["oldest_zombie_s"] or 0) > 0
        await overview.explain("job_1")
    assert not [verb for verb in asked if verb.startswith(("STREAM.LIST", "STREAM.NAMES"))]


async def _falls_due(overview: Overview) -> bool:
    return (await overview.streams())["streams"][0]["verdict"] == "would_drain"


async def test_a_pass_leaves_alone_what_was_found_since_it_began(world: World) -> None:
    """A stream that was created or deleted during its listing. It removes what it did not find."""
    async with connections(world.load()) as connected:
        stream_states = connected.ledger.stream_states
        found = [Settlement(Outcome.KEPT, Reason.RUNNING, Stream(f"job_{n}", str(n), 0)) for n in range(4)]
        await stream_states.put({"job_0": found[0], "job_1": found[1]})
        began = await connected.ledger.topology_cache.now() + 1
        await eventually(lambda: _is_after(connected, began))
        await stream_states.put({"job_1": None, "job_2": found[2]})
        await stream_states.put({"job_1": found[1], "job_3": found[3]}, began)
        await stream_states.forget_older(began)
        assert {state.stream.name async for state in stream_states.all()} == {"job_2", "job_3"}


async def _is_after(connected: Connections, then: int) -> bool:
    return await connected.ledger.topology_cache.now() > then


async def test_deletions_are_read_once_and_again_if_the_audit_is_another(world: World) -> None:
    """New ones are added. After an emptied Redis there are none."""
    await world.declare()
    trail = AuditTrail(Audit(Keyspace(world.redis, world.namespace)))
    for number in (1, 2):
        await world.zombie(number)
        await world.reconcile()
        assert [entry["stream"] for entry in await trail.drains()] == [f"job_{n}" for n in range(1, number + 1)]
    await world.redis.delete(f"{world.namespace}:audit")
    await world.zombie(3)
    await world.reconcile()
    assert [entry["stream"] for entry in await trail.drains()] == ["job_3"]
    await world.redis.delete(f"{world.namespace}:audit")
    assert not await trail.drains()
