"""Prepare: make a job's stream safe to publish to before the job is started again.

1. Read the end of the job's stream. Later messages belong to the new run, and stay.
2. Publish that the job is live. This event wins over every earlier one.
3. Wait for the stream's own lease, and remove a fence that was left on it. This is done even if the stream does not
   exist, because a deletion may be under way. The server reports a stream as gone before it has removed its files. A
   stream of the same name that is created meanwhile has the old sequences and answers no publisher (measured, 2.15.1).
4. Purge the stream up to that end. Its sequences go on, so a late acknowledgement from the former run cannot hit a new
   message; its consumers stay.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace

import structlog

from reactor.core.model import Stream
from reactor.core.policy import policy_for
from reactor.core.preparing import NotPrepared, Prepared
from reactor.core.stream_info import read_stream
from reactor.deletion.exclusive import StaysFenced, run_exclusively
from reactor.deletion.resources import Resources
from reactor.deletion.states import Inspection, Target
from reactor.jetstream.errors import NotFound
from reactor.jetstream.topology import Topology, streams_of_advisories
from reactor.job_status.ledger_directory import Snapshot

LIVE_STATUS = "PENDING"
"""The status that is published for the job."""
Publish = Callable[[str, str], Awaitable[object]]
"""Publishes a lifecycle event (job, status) and returns when it is stored."""

log = structlog.get_logger(__name__)


async def prepare(deps: Resources, publish: Publish, job_id: str, timeout_s: float) -> Prepared:
    """Mark the job as live, and empty its stream of the former run's messages.

    Raises NotPrepared, JetStreamError and LedgerError, and ValueError if the id is invalid.
    """
    deps.directory.subject_of(job_id)
    names = sorted(await _names(deps, job_id))
    former = {name: await _former_stream(deps, name, job_id) for name in names}
    await publish(job_id, LIVE_STATUS)
    topology = Topology(advisory_streams=await streams_of_advisories(deps.reads))
    snapshot = replace(await deps.directory.ensure(), topology=topology)
    try:
        async with asyncio.timeout(timeout_s):
            done = [await _prepare_stream(deps, snapshot, Target(name, job_id), was) for name, was in former.items()]
    except TimeoutError as error:
        raise NotPrepared(
            f"a deletion of job {job_id}'s stream is still under way after {timeout_s:g} s: try again"
        ) from error
    await deps.companions.delete(snapshot.topology, job_id)
    return next((item for item in done if item.stream), Prepared(job_id))


async def _names(deps: Resources, job_id: str) -> Collection[str]:
    """Return the names that the job's stream may have."""
    policy = deps.policy
    if (names := policy.names_of(job_id)) is None:
        known = {*await deps.reads.stream_names(), *await deps.recorder.begun()}
        names = frozenset(name for name in known if policy.job_id(name) == job_id)
    elif not names:
        raise NotPrepared(f"no stream can belong to job {job_id!r}: {policy.pattern.pattern}")
    return names


async def _former_stream(deps: Resources, name: str, job_id: str) -> Stream | None:
    """Return the stream as it is before the job is marked as live; None if there is none. Raises NotPrepared."""
    try:
        stream = read_stream(await deps.reads.stream_info(name), job_id)
    except NotFound:
        return None
    coverage, records = await deps.directory.read_jobs(await deps.directory.take_snapshot(), [job_id])
    known = await deps.directory.assess(job_id, records.get(job_id), stream.observed_at, coverage)
    if policy_for(stream, known.record, deps.policy).is_protected(stream):
        raise NotPrepared(
            f"stream {name} is protected, so it is not emptied: reactor unprotect {name}, then prepare again"
        )
    return stream


async def _prepare_stream(deps: Resources, snapshot: Snapshot, target: Target, former: Stream | None) -> Prepared:
    async def purge(inspection: Inspection) -> Prepared:
        name, job_id = target.name, target.job_id
        # A stream that was created in between holds only new messages.
        is_same = former is not None and inspection.stream.created == former.created
        purged = await deps.effects.purge_stream(name, former.last_seq) if former and is_same and former.last_seq else 0
        await deps.recorder.prepared(inspection.by_verdict(), purged)
        log.info("stream prepared", stream=name, job_id=job_id, purged=purged)
        return Prepared(job_id, name, purged)

    try:
        return await run_exclusively(deps, snapshot, target, purge)
    except NotFound:
        return Prepared(target.job_id)
    except StaysFenced as error:
        raise NotPrepared(str(error)) from error
