"""The review: every job stream with a verdict from one listing, read so that absence can mean something."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from reactor.core.model import Coverage, Drain, Reason, Record, Stream, Verdict
from reactor.core.policy import Policy, decide
from reactor.core.stream_info import Raw, mark_if_sourced, read_stream
from reactor.deletion.inspection import Inspector
from reactor.deletion.resources import Resources
from reactor.jetstream.errors import NotFound
from reactor.jetstream.topology import Survey
from reactor.job_status.ledger_directory import Snapshot

CATCH_UP_S = 15.0
"""How long events that are on their way to another replica are waited for; after that, absence proves nothing."""

POLL_S = 0.05


class PassAborted(Exception):
    """The pass ended before the first deletion: says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A stream with the verdict from the listing."""

    stream: Stream
    record: Record | None
    coverage: Coverage
    verdict: Verdict

    @property
    def needs_settling(self) -> bool:
        """Whether `drain_stream` should settle it: a zombie, or a fence that has outlived its lease."""
        stale = self.stream.fence is not None and self.stream.fence.until <= self.stream.observed_at
        return isinstance(self.verdict, Drain) or (stale and bool(self.stream.fence and self.stream.fence.subjects))


@dataclass(frozen=True, slots=True)
class Review:
    """Every job stream with its verdict, and what all of them were judged by."""

    snapshot: Snapshot
    judged: Sequence[Judged]
    began: int
    """When the listing was (ms, Redis's clock)."""


@dataclass(eq=False, repr=False)
class Reviewer:
    """Lists and judges; without any effect on streams.

    `catch_up` consumes what the durable has pending.
    """

    deps: Resources
    judge: Inspector
    catch_up: Callable[[], Awaitable[object]]

    async def review(self, only: frozenset[str]) -> Review:
        """Review all job streams, or `only` those. Raises PassAborted, JetStreamError and LedgerError."""
        before = await self.deps.directory.ensure()
        lifecycle = before.lifecycle
        if before.has_events:
            await self.catch_up()
        began = await self.deps.ledger.topology_cache.now()
        listed = await self._list(lifecycle.stream, only)
        snapshot = await self._caught_up_after_list()
        topology = listed.survey.topology
        await self.deps.ledger.topology_cache.remember(
            lifecycle.identity, began, topology.sourced, topology.advisory_streams
        )
        snapshot = replace(snapshot, topology=await self.deps.companions.survey(topology))
        streams = listed.job_streams(topology.sourced)
        coverage, records = await self.deps.directory.read_jobs(snapshot, [stream.job_id for stream in streams])
        jobs = {stream.job_id: (records.get(stream.job_id), stream.observed_at) for stream in streams}
        assessments = await self.deps.directory.assess_all(jobs, coverage)
        judged = [
            Judged(stream, by.record, by.coverage, decide(stream, by.record, by.coverage, self.judge.policy))
            for stream in streams
            for by in [assessments[stream.job_id]]
        ]
        absent = [item for item in judged if item.verdict == Drain(Reason.MISSING)]
        asked = dict(zip(map(id, absent), await self.deps.throttle.each(absent, self._ask_consumers), strict=True))
        return Review(snapshot, [asked.get(id(item), item) for item in judged], began)

    async def _list(self, lifecycle: str, only: frozenset[str]) -> "_Listed":
        """List all streams; the lifecycle stream among them shows that this is the right account."""
        listed = _Listed(self.judge.policy, only)
        async for raws, unreported in self.deps.reads.pages_of_streams():
            listed.add(raws, unreported)
        if lifecycle and lifecycle not in listed.names:
            try:
                await self.deps.reads.stream_info(lifecycle)
            except NotFound as error:
                raise PassAborted(
                    f"the account has no lifecycle stream {lifecycle}: wrong account or domain?"
                ) from error
        for name in only - listed.names:
            with suppress(NotFound):  # a page may have missed it; what is gone is told by the report
                listed.add([await self.deps.reads.stream_info(name)])
        return listed

    async def _caught_up_after_list(self) -> Snapshot:
        """Wait until every event published before the list was read is in the ledger: then absence counts."""
        snapshot = await self.deps.directory.take_snapshot()
        listed_at, deadline = snapshot.lifecycle.last_seq, time.monotonic() + CATCH_UP_S
        while snapshot.behind and time.monotonic() < deadline:
            await self.catch_up()
            await asyncio.sleep(POLL_S)
            snapshot = await self.deps.directory.take_snapshot(caught_up_to=listed_at)
        return snapshot

    async def _ask_consumers(self, item: Judged) -> Judged:
        """Of a missing job's stream: they say whether anybody still works on its messages."""
        try:
            consumers = await self.deps.reads.consumers(item.stream.name)
            stream = await self.judge.with_consumers(item.stream, consumers, absent=True)
        except NotFound:
            return item  # gone since: for drain_stream to find out
        return replace(item, stream=stream, verdict=decide(stream, item.record, item.coverage, self.judge.policy))


class _Listed:
    """What pages have shown, without the pages: they take far more room than what is read of them."""

    def __init__(self, policy: Policy, only: frozenset[str]) -> None:
        self._policy = policy
        self._only = only
        self._streams = dict[str, Stream]()
        self._unreported = set[str]()
        self.names = set[str]()
        self.survey = Survey()

    def add(self, raws: Iterable[Raw], unreported: Collection[str] = ()) -> None:
        """A page."""
        for raw in raws:
            config = raw["config"]
            self.names.add(config["name"])
            self.survey.add(config)
            if (job_id := self._job_id(config["name"])) is not None:
                self._streams[config["name"]] = read_stream(raw, job_id)
        self.names.update(unreported)
        self._unreported.update(unreported)

    def job_streams(self, sourced: Collection[str]) -> list[Stream]:
        """By their exact listed names; one that the server could not report whole is taken as such."""
        for name in self._unreported:
            if (job_id := self._job_id(name)) is not None:
                stream = self._streams.get(name) or read_stream({"config": {"name": name}}, job_id)
                self._streams[name] = replace(stream, reported=False)
        return [mark_if_sourced(self._streams[name], sourced) for name in sorted(self._streams)]

    def _job_id(self, name: str) -> str | None:
        return None if self._only and name not in self._only else self._policy.job_id(name)
