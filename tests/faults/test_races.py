"""Publishers that strike the moment reactor looks at a stream, or fences it.

The everyday suite runs a slice. The long runs: uv run pytest -m soak -n 0 --no-cov -s
"""

import asyncio
import json
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import nats
import nats.errors
import nats.js.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from support.harness import World, connected, own_cluster, own_valkey, print_figure

from reactor.cli.embedded import HOST

AUDIT = "$JS.EVENT.ADVISORY.API"
"""Tells every API call, the moment it is answered."""


@dataclass
class Striker:
    """Publishes to a job's stream when it sees an inspection or a fence, once for each, or a moment later."""

    nc: Client
    acked: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    unsure: Counter[str] = field(default_factory=Counter)
    jitter: Random = field(default_factory=lambda: Random(1))  # noqa: S311  # a schedule, no secret
    advisories: Counter[str] = field(default_factory=Counter)
    _strikes: set[asyncio.Task[None]] = field(default_factory=set)

    async def receive(self, msg: Msg) -> None:
        """Handle an advisory of an API call."""
        subject = json.loads(msg.data).get("subject", "")
        verb, _, name = subject.removeprefix("$JS.API.STREAM.").partition(".")
        if verb not in {"INFO", "UPDATE"} or not name.startswith("job_"):
            return
        self.advisories[name] += 1
        if self.advisories[name] == 1 + int(name[4:]) % 2:
            task = asyncio.create_task(self.publish_meanwhile(name))
            self._strikes.add(task)
            task.add_done_callback(self._strikes.discard)

    async def publish_meanwhile(self, name: str) -> None:
        """Publish one message. Note whether it was acknowledged, refused, or got no answer."""
        await asyncio.sleep(self.jitter.random() * 0.002)  # so that it meets every moment between two steps
        try:
            await self.nc.jetstream(timeout=5).publish(name.replace("_", ".") + ".tasks", b"strike")
            self.acked[name] += 1
        except nats.js.errors.NoStreamResponseError:
            self.refused[name] += 1
        except nats.errors.TimeoutError:
            self.unsure[name] += 1

    async def finish(self) -> None:
        """Wait for the missing answers."""
        while self._strikes:
            await asyncio.gather(*self._strikes)


async def lost_in_races(world: World, trials: int, replicas: int = 1) -> tuple[int, Striker]:
    """Run a pass over attacked zombies. Return the acknowledged messages that no stream has any more."""
    for number in range(trials):
        await world.stream(f"job_{number}", num_replicas=replicas)
        await world.emit(number, "SUCCESS")
    nc = await nats.connect(world.nats_url)
    striker = Striker(nc)
    await nc.subscribe(AUDIT, cb=striker.receive)
    await nc.flush()
    report = await world.reconcile(REACTOR_SWEEP_CONCURRENCY=2)  # steps as close as they come
    await striker.finish()
    await nc.close()
    assert report["error"] is None
    assert sum(striker.acked.values()) + sum(striker.refused.values()) >= trials * 0.9
    lost = 0
    for name, acked in striker.acked.items():
        info = await world.info(name)
        lost += max(0, acked - (info["state"]["messages"] if info else 0))
    print_figure(
        f"{trials} races, R{replicas}: {report['fixed']} drained, {report['waiting']} kept for a publisher, "
        f"{sum(striker.acked.values())} messages acknowledged, {sum(striker.refused.values())} refused loudly, "
        f"{sum(striker.unsure.values())} without an answer, {lost} lost"
    )
    return lost, striker


async def test_a_slice_of_the_races(world: World) -> None:
    """No acknowledged message is destroyed."""
    await world.declare()
    lost, _ = await lost_in_races(world, 60)
    assert lost == 0


async def test_a_slice_of_the_races_on_replicated_streams(tmp_path: Path) -> None:
    """The leader has to ask two others."""
    assert await lost_on_a_cluster(tmp_path, 8) == 0


async def lost_on_a_cluster(folder: Path, trials: int) -> int:
    async with AsyncExitStack() as stack:
        nodes = await stack.enter_async_context(own_cluster(folder))
        valkey = await stack.enter_async_context(own_valkey(folder))
        urls = f"nats://{HOST}:{nodes[0].port}", f"redis://{HOST}:{valkey.port}/0"
        world = await stack.enter_async_context(connected(*urls, "r"))
        await world.declare()
        lost, _ = await lost_in_races(world, trials, replicas=3)
        return lost


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_a_thousand_races(world: World) -> None:
    """The long run of the slice."""
    await world.declare()
    lost, striker = await lost_in_races(world, 1000)
    assert lost == 0
    assert sum(striker.refused.values()) > 0


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_a_hundred_races_on_replicated_streams(tmp_path: Path) -> None:
    """The long run of the slice."""
    assert await lost_on_a_cluster(tmp_path, 100) == 0
