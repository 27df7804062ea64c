"""Prepare: make a job's name clean and safe before the job is started again.

The end of its stream is read first: what comes later is of its new life, and stays. Then the job is said to live, by an
event that wins. Whatever is being done to its stream is waited out under the stream's own lease; a fence that was left
standing is taken away. Then the stream is emptied in place, up to that end: its sequences go on, so that a late
acknowledgement of the former life cannot hit a new message, and its consumers stay.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import InitVar, dataclass, replace
from functools import partial

import structlog

from reactor.core.model import Stream
from reactor.core.stream_info import read_stream
from reactor.deletion.exclusive import ExclusiveAccess, StaysFenced
from reactor.deletion.inspection import Inspection, Inspector, Target
from reactor.deletion.resources import Resources
from reactor.jetstream.errors import NotFound
from reactor.jetstream.topology import Topology, streams_of_advisories
from reactor.job_status.ledger_directory import Snapshot

LIVES = "PENDING"
"""What is said of the job: live, whatever comes next."""

log = structlog.get_logger(__name__)


class NotPrepared(Exception):
    """Publishing is not known to be safe: says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Publishing is safe. `stream` is None if there is none, and it must be made; else its former life is gone."""

    job_id: str
    stream: str | None = None
    purged: int = 0
    """Messages of the former life."""


@dataclass(eq=False, repr=False)
class Preparer:
    """Prepares jobs. Raises JetStreamError and LedgerError beside NotPrepared.

    `say` publishes a lifecycle event (job, status), and returns once it is stored.
    """

    deps: Resources
    judge: Inspector
    lease_s: InitVar[float]
    say: Callable[[str, str], Awaitable[object]]

    def __post_init__(self, lease_s: float) -> None:
        self._exclusive = ExclusiveAccess(self.deps, self.judge, lease_s)

    async def prepare(self, job_id: str, timeout_s: float) -> Prepared:
        """The job lives, and nothing of its former life is in its stream. Raises ValueError for an odd job id, too."""
        self.deps.directory.subject_of(job_id)
        names = sorted(await self._names(job_id))
        former = [await self._former_life(name, job_id) for name in names]
        await self.say(job_id, LIVES)
        topology = Topology(advisory_streams=await streams_of_advisories(self.deps.reads))
        snapshot = replace(await self.deps.directory.ensure(), topology=topology)
        try:
            async with asyncio.timeout(timeout_s):
                done = [await self._prepare(snapshot, item) for item in former if item is not None]
        except TimeoutError as error:
            raise NotPrepared(
                f"a deletion of job {job_id}'s stream is still under way after {timeout_s:g} s: try again"
            ) from error
        await self.deps.companions.delete(snapshot.topology, job_id)
        return next((item for item in done if item.stream), Prepared(job_id))

    async def _former_life(self, name: str, job_id: str) -> Stream | None:
        """Return the stream as it is before the job is said to live; None if there is none. Raises NotPrepared."""
        try:
            stream = read_stream(await self.deps.reads.stream_info(name), job_id)
        except NotFound:
            return None
        if self.judge.policy.is_protected(stream):
            raise NotPrepared(
                f"stream {name} is protected, so it is not emptied: reactor unprotect {name}, then prepare again"
            )
        return stream

    async def _names(self, job_id: str) -> Collection[str]:
        policy = self.judge.policy
        if (names := policy.names_of(job_id)) is None:
            names = frozenset(name for name in await self.deps.reads.stream_names() if policy.job_id(name) == job_id)
        elif not names:
            raise NotPrepared(f"no stream can belong to job {job_id!r}: {policy.pattern.pattern}")
        return names

    async def _prepare(self, snapshot: Snapshot, former: Stream) -> Prepared:
        try:
            return await self._exclusive.run(snapshot, Target(former.name, former.job_id), partial(self._empty, former))
        except NotFound:
            return Prepared(former.job_id)
        except StaysFenced as error:
            raise NotPrepared(str(error)) from error

    async def _empty(self, former: Stream, inspection: Inspection) -> Prepared:
        name, job_id = inspection.stream.name, inspection.stream.job_id
        is_same = (
            inspection.stream.created == former.created
        )  # one that was made since holds nothing of the former life
        purged = await self.deps.effects.purge_stream(name, former.last_seq) if is_same and former.last_seq else 0
        await self.deps.recorder.prepared(inspection.by_verdict(), purged)
        log.info("stream prepared", stream=name, job_id=job_id, purged=purged)
        return Prepared(job_id, name, purged)
