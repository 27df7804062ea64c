"""The listing of a full pass: every job stream with a verdict. The order of its steps makes absence reliable.

1. Rebuild the ledger if it has lost history, and consume the pending lifecycle events.
2. List all streams. A list without the lifecycle stream comes from the wrong account, and ends the pass.
3. Wait until every event that was published before the list was read is in the ledger.
4. Judge all streams at once. For the streams of missing jobs, read the consumers too.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from reactor.core.model import Coverage, Drain, Reason, Record, Settlement, Stream, Verdict
from reactor.core.policy import Policy, decide
from reactor.core.report import settlement_of
from reactor.core.stream_info import Raw, mark_if_sourced, read_stream
from reactor.deletion.inspection import with_consumers
from reactor.deletion.resources import Resources
from reactor.deletion.states import with_source_name
from reactor.jetstream.errors import NotFound, PermissionDenied
from reactor.jetstream.topology import Survey
from reactor.job_status.ledger_directory import Snapshot

log = structlog.get_logger(__name__)

CATCH_UP_S = 15.0
"""How long to wait for events that another replica is reading (s). After that, absence proves nothing."""
POLL_S = 0.05

CatchUp = Callable[[], Awaitable[object]]
"""Consumes the pending messages of the durable."""


class PassAborted(Exception):
    """The pass was aborted before the first deletion. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class JudgedStream:
    """A stream with its verdict in the listing."""

    stream: Stream
    record: Record | None
    coverage: Coverage
    verdict: Verdict

    @property
    def needs_settling(self) -> bool:
        """Whether `drain_stream` should settle it: a zombie, or a stream whose fence has outlived its lease."""
        stale = self.stream.fence is not None and self.stream.fence.until <= self.stream.observed_at
        return isinstance(self.verdict, Drain) or (stale and bool(self.stream.fence and self.stream.fence.subjects))

    def as_listed(self) -> Settlement:
        """Return the settlement according to the verdict."""
        return settlement_of(self.verdict, self.stream, self.record, self.coverage)


@dataclass(frozen=True, slots=True)
class Listing:
    """Every job stream with its verdict, and the snapshot that they were judged by."""

    snapshot: Snapshot
    judged: Sequence[JudgedStream]
    began: int
    """When the listing began (ms, Redis's clock)."""
    others: int = 0
    """The number of streams that are not job streams, without reactor's own."""

    def settlements(self) -> list[Settlement]:
        """Return the settlement of each stream according to its verdict."""
        return [with_source_name(item.as_listed(), self.snapshot.topology) for item in self.judged]


async def list_and_judge(deps: Resources, catch_up: CatchUp, only: frozenset[str]) -> Listing:
    """Judge all job streams, or `only` those. Raises PassAborted, JetStreamError and LedgerError."""
    lifecycle = (await _caught_up(deps, catch_up)).lifecycle
    began = await deps.ledger.topology_cache.now()
    listed = await _list(deps, lifecycle.stream, only)
    snapshot = await _caught_up_after_list(deps, catch_up)
    topology = listed.survey.topology
    await deps.ledger.topology_cache.remember(lifecycle.identity, began, topology.sourced, topology.advisory_streams)
    snapshot = replace(snapshot, topology=await deps.companions.survey(topology))
    streams = listed.job_streams(topology.sourced)
    others = len(listed.names - deps.policy.own_streams - {stream.name for stream in streams})
    return Listing(snapshot, await _judge(deps, snapshot, streams), began, others)


async def _caught_up(deps: Resources, catch_up: CatchUp) -> Snapshot:
    """Rebuild the ledger if it has lost history. Consume pending events, if our user may."""
    try:
        snapshot = await deps.directory.ensure()
        if snapshot.has_events:
            await catch_up()
    except PermissionDenied as error:
        log.info("lifecycle events are left to the workers", reason=str(error))
        return await deps.directory.take_snapshot()
    return snapshot


async def _list(deps: Resources, lifecycle: str, only: frozenset[str]) -> "_Pages":
    """List all streams. If the lifecycle stream is missing, this is the wrong account."""
    listed = _Pages(deps.policy, only)
    async for raws, unreported in deps.reads.pages_of_streams():
        listed.add(raws, unreported)
    if lifecycle and lifecycle not in listed.names:
        try:
            await deps.reads.stream_info(lifecycle)
        except NotFound as error:
            raise PassAborted(f"the account has no lifecycle stream {lifecycle}: wrong account or domain?") from error
    for name in only - listed.names:
        with suppress(NotFound):  # a page may have missed it; the report shows it as gone
            listed.add([await deps.reads.stream_info(name)])
    return listed


async def _caught_up_after_list(deps: Resources, catch_up: CatchUp) -> Snapshot:
    """Wait until every event published before the list was read is in the ledger: then absence counts."""
    snapshot = await deps.directory.take_snapshot()
    listed_at, deadline = snapshot.lifecycle.last_seq, time.monotonic() + CATCH_UP_S
    while snapshot.behind and time.monotonic() < deadline:
        with suppress(PermissionDenied):
            await catch_up()
        await asyncio.sleep(POLL_S)
        snapshot = await deps.directory.take_snapshot(caught_up_to=listed_at)
    return snapshot


async def _judge(deps: Resources, snapshot: Snapshot, streams: Sequence[Stream]) -> list[JudgedStream]:
    """Judge streams by the ledger or the directory. For streams of missing jobs, read the consumers, too."""
    coverage, records = await deps.directory.read_jobs(snapshot, [stream.job_id for stream in streams])
    jobs = {stream.job_id: (records.get(stream.job_id), stream.observed_at) for stream in streams}
    assessments = await deps.directory.assess_all(jobs, coverage)
    judged = [
        JudgedStream(stream, by.record, by.coverage, decide(stream, by.record, by.coverage, deps.policy))
        for stream in streams
        for by in [assessments[stream.job_id]]
    ]

    async def with_its_consumers(item: JudgedStream) -> JudgedStream:
        try:
            consumers = await deps.reads.consumers(item.stream.name)
            stream = await with_consumers(deps, item.stream, consumers, absent=True)
        except NotFound:
            return item  # it is gone; drain_stream will notice
        return replace(item, stream=stream, verdict=decide(stream, item.record, item.coverage, deps.policy))

    missing = [item for item in judged if item.verdict == Drain(Reason.MISSING)]
    asked = dict(zip(map(id, missing), await deps.throttle.each(missing, with_its_consumers), strict=True))
    return [asked.get(id(item), item) for item in judged]


class _Pages:
    """What the pages of a listing have shown. The pages themselves take far more memory and are dropped."""

    def __init__(self, policy: Policy, only: frozenset[str]) -> None:
        self._policy = policy
        self._only = only
        self._streams = dict[str, Stream]()
        self._unreported = set[str]()
        self.names = set[str]()
        self.survey = Survey()

    def add(self, raws: Iterable[Raw], unreported: Collection[str] = ()) -> None:
        """Add a page. `unreported` are streams that the server names but could not report."""
        for raw in raws:
            config = raw["config"]
            self.names.add(config["name"])
            self.survey.add(config)
            if (job_id := self._job_id(config["name"])) is not None:
                self._streams[config["name"]] = read_stream(raw, job_id)
        self.names.update(unreported)
        self._unreported.update(unreported)

    def job_streams(self, sourced: Collection[str]) -> list[Stream]:
        """Return the job streams. A stream that was not reported completely is marked as such."""
        for name in self._unreported:
            if (job_id := self._job_id(name)) is not None:
                stream = self._streams.get(name) or read_stream({"config": {"name": name}}, job_id)
                self._streams[name] = replace(stream, reported=False)
        return [mark_if_sourced(self._streams[name], sourced) for name in sorted(self._streams)]

    def _job_id(self, name: str) -> str | None:
        return None if self._only and name not in self._only else self._policy.job_id(name)
