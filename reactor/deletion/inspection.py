"""Inspection: read everything that a verdict on one stream needs, and decide. It has no effect on the stream."""

from collections.abc import Sequence
from dataclasses import replace

from reactor.core.model import Drain, Outcome, Reason, Record, Settlement, Stream
from reactor.core.policy import decide
from reactor.core.stream_info import Raw, figures_of, is_silent, mark_if_sourced, read_consumers, read_stream
from reactor.deletion.resources import Resources
from reactor.deletion.states import REPLACED, Inspection, Target, empty_settlement, unreachable_settlement
from reactor.deletion.together import both
from reactor.jetstream.errors import JetStreamError, NotFound
from reactor.job_status.ledger_directory import JobReading, Snapshot


async def inspect(deps: Resources, snapshot: Snapshot, target: Target, known: JobReading | None = None) -> Inspection:
    """Read what the verdict needs and decide. The newer one of the job's record and its last event counts.

    `known` is what was just read about the job. Raises JetStreamError and LedgerError.
    """
    coverage, records = known or await deps.directory.read_jobs(snapshot, [target.job_id])
    asked_at = deps.monotonic()
    raw = await deps.reads.stream_info(target.name)
    stream = mark_if_sourced(read_stream(raw, target.job_id), snapshot.topology.sourced)
    record = records.get(target.job_id)
    falls = not deps.directory.decides and isinstance(decide(stream, record, coverage, deps.policy), Drain)
    event, consumers = await _event_and_consumers(deps, snapshot, target, falls=falls)
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
        snapshot=snapshot,
        asked_at=asked_at,
        consumers=consumers or (),
        directory_status=assessment.directory_status,
    )


async def _event_and_consumers(
    deps: Resources, snapshot: Snapshot, target: Target, *, falls: bool
) -> tuple[Record | None, list[Raw] | None]:
    """Return the job's last event; and the consumers, if what is known so far says that the stream `falls`.

    With a directory the consumers are read after its answer, which may take long: they must not be older than it.
    """
    event = deps.directory.last_event(snapshot, target.job_id)
    if not falls:
        return await event, None
    return await both(event, deps.reads.consumers(target.name))


async def with_consumers(deps: Resources, stream: Stream, raws: Sequence[Raw], *, absent: bool) -> Stream:
    """Return the stream with the state of its consumers; `raws` are their CONSUMER.INFO answers.

    Redis remembers when these figures were first seen. That matters if the server has forgotten when they changed, or
    if the ledger does not know the job (`absent`): then any change is a sign of life.
    """
    first_seen = None
    if absent or is_silent(raws):
        first_seen = await deps.ledger.tallies.first_sighting(stream.name, figures_of(raws), stream.observed_at)
    return replace(stream, consumers=read_consumers(raws, first_seen))


async def preview(deps: Resources, snapshot: Snapshot, target: Target) -> Settlement:
    """Return what `drain_stream` would do now. Raises LedgerError."""
    try:
        inspection = await inspect(deps, snapshot, target)
    except NotFound:
        # Without the lease, another replica may be deleting it right now: that replica accounts for it.
        return empty_settlement(target, Outcome.ALREADY_GONE, Reason.GONE)
    except JetStreamError as error:
        return unreachable_settlement(target, error)
    if not inspection.is_incarnation_of(target):
        return empty_settlement(target, Outcome.KEPT, Reason.UNKNOWN, REPLACED)
    return inspection.by_verdict()
