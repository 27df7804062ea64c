"""A degraded cluster: stopped or killed nodes, and a lost quorum."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from support.bench import Bench
from support.harness import World, connected, eventually, gone, own_cluster, own_valkey, worker

from reactor.cli.embedded import HOST, Server
from reactor.core.model import Outcome, Reason
from reactor.core.stream_info import silent_followers
from reactor.deletion import failpoints
from reactor.deletion.failpoints import Point

Cluster = tuple[World, list[Server]]
ZOMBIES = [f"job_{number}" for number in range(9)]


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Three nodes that replicate reactor's streams; zombies and a live stream, each on one node."""
    async with AsyncExitStack() as stack:
        nodes = await stack.enter_async_context(own_cluster(tmp_path))
        valkey = await stack.enter_async_context(own_valkey(tmp_path))
        urls = [f"nats://{HOST}:{node.port}" for node in nodes]
        redis_url = f"redis://{HOST}:{valkey.port}/0"
        world = await stack.enter_async_context(connected(urls[0], redis_url, "r"))
        world = replace(world, nats_url=",".join(urls), settings={"REACTOR_EVENTS_REPLICAS": "3"})
        await world.declare()
        for name in [*ZOMBIES, "job_100"]:
            await world.stream(name, messages=1)
            await world.emit(name[4:], "STARTED" if name == "job_100" else "SUCCESS")
        yield world, nodes


async def consumer_locations(world: World) -> dict[str, str]:
    """Return the node of each stream's leader."""
    infos = {name: await world.info(name) for name in await world.names()}
    return {name: info["cluster"]["leader"] for name, info in infos.items() if info}


async def passed(world: World) -> bool:
    """Return whether a pass completed without an error."""
    return (await world.reconcile())["error"] is None


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_node_is_gone_with_streams_of_its_own(cluster: Cluster, how: signal.Signals) -> None:
    """They are untouched, counted and reported. Others are deleted; these are when the node is back."""
    world, nodes = cluster
    lost = {name for name, node in (await consumer_locations(world)).items() if node == "n2"}
    nodes[2].signal(how)
    await nodes[2].stop()
    report = await eventually(lambda: one_pass(world), 60)
    unreported = {row["stream"] for row in report["streams"] if row["reason"] == "unreported"}
    assert unreported == lost
    assert report["unfixable"] == len(lost)
    assert {row["stream"] for row in report["streams"] if row["verdict"] == "drained"} == set(ZOMBIES) - lost
    await nodes[2].start()
    await eventually(lambda: all_gone(world), 60, 0.5)
    info = await eventually(lambda: world.info("job_100"), 20)
    assert info["state"]["messages"] == 1


async def one_pass(world: World) -> dict[str, object]:
    """Return a report without an error, or an empty one while the cluster elects leaders."""
    report = await world.reconcile()
    return report if report["error"] is None else {}


async def all_gone(world: World) -> bool:
    await world.reconcile()
    return await gone(world, *ZOMBIES)


async def test_a_lost_quorum_is_no_empty_list(cluster: Cluster) -> None:
    """Nothing is deleted, and it is reported. A worker continues by itself when the quorum is back."""
    world, nodes = cluster
    for node in nodes[1:]:
        node.signal(signal.SIGKILL)
        await node.stop()
    report = await world.reconcile()
    assert report["error"]
    assert report["unfixable"] == 1
    assert report["fixed"] == 0
    # The node that is left may believe for some seconds that it leads: then the worker finds out after its start.
    async with worker(world.env(REACTOR_RECONCILE_INTERVAL="2s"), until='"error": "NATS: ') as process:
        await asyncio.gather(*(node.start() for node in nodes[1:]))
        await eventually(lambda: gone(world, *ZOMBIES), 90, 0.5)
        assert process.process.returncode is None
    info = await world.info("job_100")
    assert info is not None
    assert info["state"]["messages"] == 1


async def test_a_leader_that_is_cut_off_from_its_followers_proves_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the fence the followers may have elected another leader, which has acknowledged a message since."""
    world, nodes = cluster
    await world.stream("job_50", num_replicas=3, messages=1)
    await world.emit(50, "SUCCESS")
    info = await eventually(lambda: _led(world, "job_50"))
    leader = int(info["cluster"]["leader"][1:])
    near_leader = replace(world, nats_url=f"nats://{HOST}:{nodes[leader].port}")
    followers = [node for number, node in enumerate(nodes) if number != leader]
    sent: list[str] = []

    async def cut_off(point: Point, _: str) -> None:
        if point is Point.PROVEN:
            for node in followers:
                node.signal(signal.SIGSTOP)
            await eventually(lambda: _unheard(near_leader), 20)

    async def note() -> None:
        sent.append("delete")

    async with connected(near_leader.nats_url, world.redis_url, world.namespace) as near:
        near_leader = replace(near, settings=world.settings)
        async with Bench(near_leader, lease_s=60.0) as bench:
            bench.effects.before["STREAM.DELETE"] = note
            monkeypatch.setattr(failpoints, "armed", cut_off)
            try:
                settlement = await bench.drain("job_50")
            finally:
                for node in followers:
                    node.signal(signal.SIGCONT)
            assert settlement.outcome is not Outcome.DRAINED, settlement
            assert not sent
    assert await eventually(lambda: world.info("job_50"), 20)


async def test_a_stream_that_gives_no_proof_is_given_back_and_unfixable(cluster: Cluster) -> None:
    """A replicated counter answers the barrier with its own error. It stays unchanged, with the reason."""
    world, _ = cluster
    config = {"name": "job_60", "subjects": ["job.60.tasks"], "num_replicas": 3, "allow_msg_counter": True}
    made = await world.api("STREAM.CREATE.job_60", config)
    assert "error" not in made, made
    await world.emit(60, "SUCCESS")
    await eventually(lambda: _led(world, "job_60"))
    async with Bench(world) as bench:
        settlement = await bench.drain("job_60")
    assert (settlement.outcome, settlement.reason) == (Outcome.UNFIXABLE, Reason.REFUSED)
    assert "10169" in (settlement.detail or "")
    info = await world.info("job_60")
    assert info is not None
    assert info["config"] == made["config"]


async def _led(world: World, name: str) -> dict[str, Any] | None:
    info = await world.info(name)
    return info if info and info["cluster"].get("leader") else None


async def _unheard(world: World) -> bool:
    info = await world.info("job_50")
    return info is not None and all(replica["active"] > 3.6e9 for replica in info["cluster"]["replicas"])


@pytest.mark.parametrize(
    ("followers", "why"),
    [
        ([{"active": 1, "current": True}, {"active": 2_000_000_000, "current": True}], None),
        ([{"active": 0, "current": True}, {"active": 20_000_000_000, "offline": True}], None),
        ([{"active": 0, "current": False, "offline": True}, {"active": 1, "current": True}], None),
        ([{"active": 0, "current": False}, {"active": 1, "current": True}], "may be electing"),
        ([{"active": 5_000_000_000, "current": True}, {"active": 1, "current": True}], "may be electing"),
        ([{"active": 2_600_000_000, "current": True}] * 2, "has heard 0 of its 2 followers"),
        ([{"active": 20_000_000_000, "current": False}] * 2, "has heard 0 of its 2 followers"),
        ([{"active": 1, "current": True}], None),
        ([], "has heard 0 of its 2 followers"),
    ],
)
def test_which_leaders_are_believed(followers: list[dict[str, Any]], why: str | None) -> None:
    """A second after the answer, with three replicas."""
    said = silent_followers({"config": {"num_replicas": 3}, "cluster": {"replicas": followers}}, 1.0)
    assert (said is None) if why is None else (why in (said or ""))
    assert silent_followers({"config": {"num_replicas": 1}}, 100.0) is None
