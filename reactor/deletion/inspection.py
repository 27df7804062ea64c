"""Inspection: read everything that a verdict on one stream needs, and decide. It does not change the stream."""

from collections.abc import Sequence
from dataclasses import replace

from reactor.core.model import Drain, Outcome, Reason, Record, Settlement, Stream
from reactor.core.policy import decide
from reactor.core.stream_info import Raw, figures_of, is_silent, mark_if_sourced, read_consumers, read_stream
from reactor.deletion.concurrency import both
from reactor.deletion.resources import Resources
from reactor.deletion.states import REPLACED, Inspection, Target, empty_settlement, unreachable_settlement
from reactor.jetstream.errors import JetStreamError, NotFound
from reactor.job_status.ledger_directory import JobReading, Snapshot


async def inspect(deps: Resources, snapshot: Snapshot, target: Target, known: JobReading | None = None) -> Inspection:
    """Read what the verdict needs, and decide. Of the job's record and its last event the newer one counts.

    `known` is the job's record, if it was just read. Raises JetStreamError and LedgerError.
    """
    coverage, records = known or await deps.directory.read_jobs(snapshot, [target.job_id])
    asked_at = deps.monotonic()
    raw = await deps.reads.stream_info(target.name)
    stream = mark_if_sourced(read_stream(raw, target.job_id), snapshot.topology.sourced)
    record = records.get(target.job_id)
    is_zombie = not deps.directory.decides and isinstance(decide(stream, record, coverage, deps.policy), Drain)
    event, consumers = await _event_and_consumers(deps, snapshot, target, is_zombie=is_zombie)
    record = event.merged(record) if event else record
    assessment = await deps.directory.assess(target.job_id, record, stream.observed_at, coverage)
    record, coverage = assessment.record, assessment.coverage
    verdict = decide(stream, record, coverage, deps.policy)
    if isinstance(verdict, Drain):
        if consumers is None:
            consumers = await deps.reads.consumers(target.name)
        stream = await with_consumers(deps, stream, consumers, absent=record is None)
        verdict = decide(stream, record, coverage, deps.policy)
    return Inspection(
        raw=raw,
        stream=stream,
        record=record,
        event=event,
        coverage=coverage,
        verdict=verdict,
        asked_at=asked_at,
        consumers=consumers or (),
        directory_status=assessment.directory_status,
    )


async def _event_and_consumers(
    deps: Resources, snapshot: Snapshot, target: Target, *, is_zombie: bool
) -> tuple[Record | None, list[Raw] | None]:
    """Return the job's last event. Also return the consumers if the stream looks like a zombie so far.

    With a job directory the consumers are read later, because they must not be older than the directory's answer.
    """
    event = deps.directory.last_event(snapshot, target.job_id)
    if not is_zombie:
        return await event, None
    return await both(event, deps.reads.consumers(target.name))


async def with_consumers(deps: Resources, stream: Stream, raws: Sequence[Raw], *, absent: bool) -> Stream:
    """Return the stream with the state of its consumers; `raws` are their CONSUMER.INFO answers.

    Redis stores when these figures were first seen. That is needed if the server has forgotten when they changed, or if
    the job is not in the ledger (`absent`), because then any change is a sign of life.
    """
    first_seen = None
    if absent or is_silent(raws):
        first_seen = await deps.ledger.tallies.first_sighting(stream.name, figures_of(raws), stream.observed_at)
    return replace(stream, consumers=read_consumers(raws, first_seen))


async def preview(deps: Resources, snapshot: Snapshot, target: Target) -> Settlement:
    """Return what `drain_stream` would do with the stream now. Raises LedgerError."""
    try:
        inspection = await inspect(deps, snapshot, target)
    except NotFound:
        # We have no lease, so another replica may be deleting it right now. That replica records the outcome.
        return empty_settlement(target, Outcome.ALREADY_GONE, Reason.GONE)
    except JetStreamError as error:
        return unreachable_settlement(target, error)
    if not inspection.is_incarnation_of(target):
        return empty_settlement(target, Outcome.KEPT, Reason.UNKNOWN, REPLACED)
    return inspection.by_verdict()
