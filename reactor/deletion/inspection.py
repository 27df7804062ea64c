"""Looking: everything that a verdict on one stream needs, read afresh, and the verdict."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reactor.core.model import (
    SECOND,
    Coverage,
    DirectoryStatus,
    Drain,
    Outcome,
    Reason,
    Record,
    Settlement,
    StatusEvent,
    Stream,
    Verdict,
    format_instant,
)
from reactor.core.pause import Pause
from reactor.core.policy import Policy, decide, guards_of
from reactor.core.report import settlement_of
from reactor.core.stream_info import Raw, figures_of, is_silent, mark_if_sourced, read_consumers, read_stream
from reactor.deletion.resources import Resources
from reactor.jetstream.errors import JetStreamError, NotFound
from reactor.jetstream.topology import Topology
from reactor.job_status.ledger_directory import JobReading, Snapshot

ANEW = "made anew since it was judged"


@dataclass(frozen=True, slots=True)
class Target:
    """A stream to settle, by the exact name that was listed; `created` where an incarnation was judged already."""

    name: str
    job_id: str
    created: int | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """What one look saw, and the verdict on it."""

    raw: Raw
    stream: Stream
    record: Record | None
    event: Record | None
    coverage: Coverage
    verdict: Verdict
    snapshot: Snapshot
    """What it was judged by beside what it saw."""
    asked_at: float
    """When the server was asked, by this process's monotonic clock."""
    consumers: Sequence[Raw] = ()
    """What the server says of each, if they were asked."""
    directory_status: DirectoryStatus | None = None
    """What the job system's own directory said, if there is one."""

    def settled(self, outcome: Outcome, reason: Reason, detail: str | None = None) -> Settlement:
        """Return what was seen, with what came of it."""
        return Settlement(outcome, reason, self.stream, self.record, detail=detail)

    def grounds(self, policy: Policy) -> dict[str, Any]:
        """Return why it may go, as the audit keeps it: who said that its job is over, and which guards have passed."""
        told, guards = self.directory_status, guards_of(self.stream, self.record, policy)
        ended_at = format_instant(told.ended_at) if told and told.ended_at else None
        return {
            "event": _word(self.record.latest) if self.record else None,
            "told": {"status": told.status, "ended_at": ended_at} if told else None,
            "guards": [
                {
                    "guard": guard.name,
                    "length_s": getattr(policy, guard.name) / SECOND,
                    "passed_at": format_instant(guard.passes_at),
                }
                for guard in guards
            ],
        }

    def by_verdict(self) -> Settlement:
        """Return what was seen, where nothing comes of it."""
        return settlement_of(self.verdict, self.stream, self.record, self.coverage)


def _word(word: StatusEvent) -> dict[str, Any]:
    told = {"status": word.status, "seq": word.seq, "source": word.source}
    times = {"occurred_at": word.occurred_at, "published_at": word.published_at}
    return told | {name: format_instant(time) for name, time in times.items()}


@dataclass(eq=False, repr=False)
class Inspector:
    """Looks at streams and decides on them, by one policy; without any effect.

    `monotonic` (s) tells how old a look is.
    """

    deps: Resources
    policy: Policy
    monotonic: Callable[[], float] = time.monotonic

    async def inspect(self, snapshot: Snapshot, target: Target, known: JobReading | None = None) -> Inspection:
        """Read everything that a verdict needs afresh, and decide. Whichever of record and last event is newer counts.

        `known` is what was just read of the job. Raises JetStreamError and LedgerError.
        """
        coverage, records = known or await self.deps.directory.read_jobs(snapshot, [target.job_id])
        asked_at = self.monotonic()
        raw = await self.deps.reads.stream_info(target.name)
        stream = mark_if_sourced(read_stream(raw, target.job_id), snapshot.topology.sourced)
        record = records.get(target.job_id)
        falls = not self.deps.directory.decides and isinstance(decide(stream, record, coverage, self.policy), Drain)
        event, consumers = await self._event_and_consumers(snapshot, target, falls=falls)
        record = event.merged(record) if event else record
        assessment = await self.deps.directory.assess(target.job_id, record, stream.observed_at, coverage)
        record, coverage = assessment.record, assessment.coverage
        verdict = decide(stream, record, coverage, self.policy)
        if isinstance(verdict, Drain):
            if consumers is None:
                consumers = await self.deps.reads.consumers(target.name)
            stream = await self.with_consumers(stream, consumers, absent=record is None)
            verdict = decide(stream, record, coverage, self.policy)
        return Inspection(
            raw,
            stream,
            record,
            event,
            coverage,
            verdict,
            snapshot,
            asked_at,
            consumers or (),
            assessment.directory_status,
        )

    async def _event_and_consumers(
        self, snapshot: Snapshot, target: Target, *, falls: bool
    ) -> tuple[Record | None, list[Raw] | None]:
        """Return the job's last event; beside it the consumers, if the stream `falls` by what is known already.

        Not where a table or an API is asked as well, which may take its time: they would be as old as that.
        """
        event = self.deps.directory.last_event(snapshot, target.job_id)
        if not falls:
            return await event, None
        return await asyncio.gather(event, self.deps.reads.consumers(target.name))

    async def with_consumers(self, stream: Stream, raws: Sequence[Raw], *, absent: bool) -> Stream:
        """Return the stream with what its consumers show; `raws` is all that the server says of them.

        When these very figures were seen first matters where the server has forgotten when they came about, and where
        the job is `absent` from the ledger: then any change is a sign of life.
        """
        first_seen = None
        if absent or is_silent(raws):
            first_seen = await self.deps.ledger.tallies.first_sighting(
                stream.name, figures_of(raws), stream.observed_at
            )
        return replace(stream, consumers=read_consumers(raws, first_seen))

    async def preview(self, snapshot: Snapshot, target: Target) -> Settlement:
        """Return what `drain_stream` would do now. Raises LedgerError."""
        try:
            inspection = await self.inspect(snapshot, target)
        except NotFound:
            # Without the lease it may be another's deletion that goes on right now: theirs to account for.
            return empty_settlement(target, Outcome.ALREADY_GONE, Reason.GONE)
        except JetStreamError as error:
            return unreachable_settlement(target, error)
        return (
            inspection.by_verdict()
            if is_same(inspection, target)
            else empty_settlement(target, Outcome.KEPT, Reason.UNKNOWN, ANEW)
        )


def is_same(inspection: Inspection, target: Target) -> bool:
    """Return whether it is the incarnation that was judged."""
    return target.created is None or inspection.stream.created == target.created


def empty_settlement(target: Target, outcome: Outcome, reason: Reason, detail: str | None = None) -> Settlement:
    """Return a settlement of a stream that could not be seen."""
    return Settlement(outcome, reason, Stream(target.name, target.job_id, 0, created=target.created), detail=detail)


def paused(inspection: Inspection, pause: Pause) -> Settlement:
    """Return a settlement of a zombie that an operator's word keeps."""
    return held_back(inspection.by_verdict(), pause)


def held_back(found: Settlement, pause: Pause) -> Settlement:
    """Return the same of what was found in a listing."""
    return replace(found, outcome=Outcome.WAITING, reason=Reason.PAUSED, until=pause.until, detail=pause.describe())


def with_source_name(found: Settlement, topology: Topology) -> Settlement:
    """With the stream that keeps it from being fenced, if a listing has shown it."""
    other = topology.sourced_by.get(found.stream.name)
    if found.reason is not Reason.NOT_FENCEABLE or found.detail or other is None:
        return found
    return replace(found, detail=f"stream {other} mirrors or sources it")


def unreachable_settlement(target: Target, error: JetStreamError) -> Settlement:
    """Return a settlement of a stream that did not answer: it stays."""
    return empty_settlement(target, Outcome.KEPT, Reason.UNKNOWN, f"could not be looked at: {error}")
