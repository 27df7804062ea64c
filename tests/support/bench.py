"""A drainer on a world, with somebody in between."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

from harness import World

from reactor.controller.drain import Companions, Drainer, Target
from reactor.core.model import Settlement
from reactor.core.observer import Observer
from reactor.core.policy import Policy
from reactor.core.stream_info import FENCE_TOKEN_KEY
from reactor.directories.events import Directory
from reactor.jetstream.client import JetStream, Raw
from reactor.jetstream.topology import provision
from reactor.store.audit import Audit
from reactor.store.ledger import Ledger
from reactor.store.scripts import Scripts
from reactor.telemetry.journal import Journal
from reactor.worker.wiring import desired_streams, nats_options, policy_of

Act = Callable[[], Awaitable[object]]


class Interrupted(JetStream):
    """JetStream with somebody who acts right before a request is sent, once each."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options, buffered=False, timeout=2.0)
        self.before: dict[str, Act] = {}

    async def call(self, verb: str, payload: Raw | None = None) -> Raw:
        for prefix in [prefix for prefix in self.before if verb.startswith(prefix)]:
            await self.before.pop(prefix)()
        return await super().call(verb, payload)

    async def barrier(self, stream: str, subject: str, last_seq: int) -> bool:
        if act := self.before.pop("barrier", None):
            await act()
        return await super().barrier(stream, subject, last_seq)


class Ends(Observer):
    """What came of deletions that were begun."""

    def __init__(self) -> None:
        self.told: list[Settlement] = []

    def ended(self, settlement: Settlement) -> None:
        self.told.append(settlement)


class Bench:
    """A drainer on a world, with somebody in between."""

    def __init__(self, world: World, lease_s: float = 5.0) -> None:
        settings = world.load()
        options = nats_options(settings.nats)
        self.world = world
        self.settings = settings
        self.reads, self.effects = Interrupted(options), Interrupted(options)
        scripts = Scripts(world.redis)
        self.ledger = Ledger(world.redis, scripts, world.namespace, 60.0)
        self.audit = Audit(world.redis, scripts, world.namespace)
        self.policy: Policy = policy_of(settings)
        self.lease_s = lease_s
        self.ends = Ends()
        self.clock = asyncio.get_running_loop().time
        self.directory: Directory

    async def __aenter__(self) -> Self:
        wishes = desired_streams(self.settings)
        provisioned = await provision(self.reads, wishes)
        template, durable = wishes.events_subject, wishes.durable
        self.directory = Directory(
            self.reads, self.ledger, self.policy, template=template, source=provisioned.events, durable=durable
        )
        await self.directory.ensure()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.reads.close()
        await self.effects.close()

    def drainer(self, by: str = "bench") -> Drainer:
        return Drainer(
            reads=self.reads,
            effects=self.effects,
            directory=self.directory,
            ledger=self.ledger,
            audit=self.audit,
            policy=self.policy,
            companions=Companions(),
            lease_s=self.lease_s,
            by=by,
            announce=self._announce,
            journal=Journal(by),
            observer=self.ends,
            monotonic=lambda: self.clock(),  # noqa: PLW0108  # a test may change the clock on the way
        )

    async def drain(self, name: str = "job_1", *, by: str = "bench") -> Settlement:
        return await self.drainer(by).drain_stream(Target(name, name.removeprefix("job_")))

    async def _announce(self, subject: str, data: bytes) -> None:
        await self.world.nc.publish(subject, data)

    async def whole(self, name: str = "job_1") -> dict[str, Any]:
        """The stream's info; it must be there with its own subjects and no fence."""
        info = await self.world.info(name)
        assert info is not None, f"{name} is gone"
        assert info["config"]["subjects"] == [name.replace("_", ".") + ".tasks"]
        assert not [key for key in info["config"]["metadata"] if key.startswith("reactor.fence")]
        return info

    async def fenced(self, name: str = "job_1") -> bool:
        info = await self.world.info(name)
        return bool(info and FENCE_TOKEN_KEY in info["config"]["metadata"])

    async def outcomes(self) -> list[str]:
        """What came of each deletion that was begun: the audit and whoever observes are told the same."""
        outcomes = [entry["outcome"] for entry in await self.world.trail() if entry["phase"] == "outcome"]
        assert [settlement.outcome.value for settlement in self.ends.told] == outcomes
        return outcomes
