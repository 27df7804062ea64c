"""A drainer on a world, with interference."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from reactor.backups.folder import FolderStore
from reactor.bootstrap.services import policy_of, utc_now
from reactor.config.nats_options import desired_streams, nats_options
from reactor.core.actor import Actor
from reactor.core.model import Settlement
from reactor.core.policy import Policy
from reactor.core.sinks import Sink
from reactor.core.stream_info import FENCE_TOKEN_KEY, Raw
from reactor.deletion.backup import BackupWriter
from reactor.deletion.companions import Companions
from reactor.deletion.drain import drain_stream
from reactor.deletion.gates import PauseGate, Rights
from reactor.deletion.inspection import preview
from reactor.deletion.notices import Notices
from reactor.deletion.recorder import Recorder
from reactor.deletion.resources import Resources
from reactor.deletion.retries import Retries
from reactor.deletion.states import Target
from reactor.deletion.stream_states import StreamStateUpdater
from reactor.deletion.throttle import Throttle
from reactor.jetstream.client import JetStream
from reactor.jetstream.topology import provision
from reactor.job_status.ledger_directory import Directory, Snapshot
from reactor.store.audit import Audit
from reactor.store.keyspace import Keyspace
from reactor.store.ledger import Ledger
from reactor.telemetry.sinks import EventSink, LogSink
from support.harness import World

Act = Callable[[], Awaitable[object]]


class Killed(BaseException):
    """The effect of kill -9 within one process: nothing more is sent."""


class Interrupted(JetStream):
    """A JetStream client that runs a function once right before a certain request."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options, buffered=False, timeout=2.0)
        self.before: dict[str, Act] = {}
        self.dead = False

    async def call(self, verb: str, payload: Raw | None = None) -> Raw:
        if self.dead:
            raise Killed
        for prefix in [prefix for prefix in self.before if verb.startswith(prefix)]:
            await self.before.pop(prefix)()
        return await super().call(verb, payload)

    async def barrier(self, stream: str, subject: str) -> int:
        if act := self.before.pop("barrier", None):
            await act()
        return await super().barrier(stream, subject)


class Ends(Sink):
    """The outcomes of deletions."""

    def __init__(self) -> None:
        self.directory_status: list[Settlement] = []

    def ended(self, settlement: Settlement) -> None:
        self.directory_status.append(settlement)


class Bench:
    """A drainer on a world, with interference."""

    def __init__(self, world: World, lease_s: float = 5.0) -> None:
        settings = world.load()
        options = nats_options(settings.nats)
        self.world = world
        self.settings = settings
        self.reads, self.effects = Interrupted(options), Interrupted(options)
        space = Keyspace(world.redis, world.namespace)
        self.ledger, self.audit = Ledger.of(space, 60.0), Audit(space)
        self.policy: Policy = policy_of(settings)
        self.lease_s = lease_s
        self.ends = Ends()
        self.clock = asyncio.get_running_loop().time
        self.directory: Directory
        self.snapshot: Snapshot

    async def __aenter__(self) -> Self:
        desired = desired_streams(self.settings.events)
        provisioned = await provision(self.reads, desired, make_control=True)
        template, durable = desired.events_subject, desired.durable
        self.directory = Directory(
            self.reads, self.ledger, self.policy, template=template, source=provisioned.events, durable=durable
        )
        self.snapshot = await self.directory.ensure()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.reads.close()
        await self.effects.close()

    async def take_snapshot(self) -> None:
        """Take a snapshot of the lifecycle stream and the ledger."""
        self.snapshot = await self.directory.ensure()

    def backing_up(self, folder: Path) -> Resources:
        """Return resources that back up each stream to a folder."""
        deps = self.resources()
        writer = BackupWriter(self.effects, FolderStore(folder, 60, 1_000_000, lambda: 0), deps.recorder.actor)
        return replace(deps, backup_writer=writer, policy=replace(deps.policy, backup="always"))

    def resources(self, by: str = "bench") -> Resources:
        actor = Actor("worker", by, 1, "nobody", "0")
        recorder = Recorder(self.audit, actor, utc_now, (self.ends, LogSink(actor.by), EventSink(self._announce)))

        def monotonic() -> float:
            return self.clock()  # a test may change the clock on the way

        return Resources(
            policy=self.policy,
            reads=self.reads,
            effects=self.effects,
            ledger=self.ledger,
            directory=self.directory,
            recorder=recorder,
            retries=Retries(self.ledger, recorder, 8),
            companions=Companions((), self.reads, self.effects),
            rights=Rights(self.effects),
            pause_gate=PauseGate(self.reads),
            throttle=Throttle(1),
            stream_states=StreamStateUpdater(self.ledger, self.policy, recorder),
            notices=Notices(self.ledger, recorder, self.policy),
            lease_s=self.lease_s,
            clock=utc_now,
            monotonic=monotonic,
        )

    async def drain(
        self, name: str = "job_1", *, by: str = "bench", resources: Resources | None = None, created: int | None = None
    ) -> Settlement:
        target = Target(name, name.removeprefix("job_"), created)
        return await drain_stream(resources or self.resources(by), self.snapshot, target)

    async def preview(self, name: str = "job_1") -> Settlement:
        return await preview(self.resources("onlooker"), self.snapshot, Target(name, name.removeprefix("job_")))

    async def _announce(self, subject: str, data: bytes) -> None:
        await self.world.nc.publish(subject, data)

    async def whole(self, name: str = "job_1") -> dict[str, Any]:
        """Return the stream's info. It must have its own subjects and no fence."""
        info = await self.world.info(name)
        assert info is not None, f"{name} is gone"
        assert info["config"]["subjects"] == [name.replace("_", ".") + ".tasks"]
        assert not [key for key in info["config"]["metadata"] if key.startswith("reactor.fence")]
        return info

    async def fenced(self, name: str = "job_1") -> bool:
        info = await self.world.info(name)
        return bool(info and FENCE_TOKEN_KEY in info["config"]["metadata"])

    async def outcomes(self) -> list[str]:
        """Return the outcome of each deletion. The audit and the sinks must agree."""
        outcomes = [entry["outcome"] for entry in await self.world.trail() if entry["phase"] == "outcome"]
        assert [settlement.outcome.value for settlement in self.ends.directory_status] == outcomes
        return outcomes
