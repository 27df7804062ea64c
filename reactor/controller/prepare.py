"""Prepare: make a job's name clean and safe before the job is started again.

The job is said to live, by an event that wins. Whatever is being done to its stream is waited out under the stream's
own lease; a fence that was left standing is taken away. Then the stream is emptied in place: its sequences go on, so
that a late acknowledgement of the former life cannot hit a new message, and its consumers stay.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace

import structlog

from reactor.controller.fencing import Fenced, Fencing, Tenure, TenureOver
from reactor.controller.look import Judge, Target
from reactor.controller.resources import Resources
from reactor.core.model import SECOND, Outcome
from reactor.directories.events import Snapshot
from reactor.jetstream.errors import NotFound
from reactor.jetstream.topology import Topology, streams_of_advisories

LIVES = "PENDING"
"""What is said of the job: live, whatever comes next."""
LOOK_S = 0.05

log = structlog.get_logger(__name__)


class NotPrepared(Exception):
    """Publishing is not known to be safe: says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Publishing is safe. `stream` is None where there is none, and it must be made; else it holds nothing."""

    job_id: str
    stream: str | None = None
    purged: int = 0
    """Messages of the former life."""


class Preparer:
    """Prepares jobs. Raises JetStreamError and LedgerError beside NotPrepared."""

    def __init__(
        self, resources: Resources, judge: Judge, lease_s: float, say: Callable[[str, str], Awaitable[object]]
    ) -> None:
        """`say` publishes a lifecycle event (job, status), and returns once it is stored."""
        self._reads = resources.reads
        self._effects = resources.effects
        self._ledger = resources.ledger
        self._directory = resources.directory
        self._companions = resources.companions
        self._recorder = resources.recorder
        self._judge = judge
        self._fencing = Fencing(resources, judge.policy, lease_s)
        self._lease_s = lease_s
        self._say = say

    async def prepare(self, job_id: str, timeout_s: float) -> Prepared:
        """The job lives, and nothing of its former life is in its stream."""
        await self._say(job_id, LIVES)
        names = await self._names(job_id)
        topology = Topology(captors=await streams_of_advisories(self._reads))
        snapshot = replace(await self._directory.ensure(), topology=topology)
        try:
            async with asyncio.timeout(timeout_s):
                done = [await self._prepare(snapshot, Target(name, job_id)) for name in sorted(names)]
        except TimeoutError as error:
            message = f"a deletion of job {job_id}'s stream is still under way after {timeout_s:g} s: try again"
            raise NotPrepared(message) from error
        await self._companions.delete(snapshot.topology, job_id)
        return next((one for one in done if one.stream), Prepared(job_id))

    async def _names(self, job_id: str) -> Collection[str]:
        policy = self._judge.policy
        if (names := policy.names_of(job_id)) is None:
            names = frozenset(name for name in await self._reads.stream_names() if policy.job_id(name) == job_id)
        elif not names:
            message = f"no stream can belong to job {job_id!r}: {policy.pattern.pattern}"
            raise NotPrepared(message)
        return names

    async def _prepare(self, snapshot: Snapshot, target: Target) -> Prepared:
        while True:
            tenure = Tenure.begin(target.name, self._lease_s, time.monotonic)
            if await self._ledger.leases.take(tenure.lease):
                try:
                    if (prepared := await self._empty(snapshot, target, tenure)) is not None:
                        return prepared
                finally:
                    await self._ledger.leases.release(tenure.lease)
            await asyncio.sleep(LOOK_S)

    async def _empty(self, snapshot: Snapshot, target: Target, tenure: Tenure) -> Prepared | None:
        """None where a fence still stands that is another's to take away."""
        try:
            look = await self._judge.look(snapshot, target)
            fence = look.stream.fence
            if fence and fence.until > look.stream.observed_at:
                await asyncio.sleep(min((fence.until - look.stream.observed_at) / SECOND, 1.0))
                return None
            if fence:
                settlement = await self._fencing.unfence(Fenced(look, look.raw, fence), tenure)
                if settlement.outcome is Outcome.UNFIXABLE:
                    message = f"stream {target.name} {settlement.detail}"
                    raise NotPrepared(message)
            tenure.check("purge", held=await self._ledger.leases.holds(tenure.lease))
            purged = await self._effects.purge_stream(target.name)
        except NotFound:
            return Prepared(target.job_id)
        except TenureOver:
            return None
        await self._recorder.prepared(look.by_verdict(), purged)
        log.info("stream prepared", stream=target.name, job_id=target.job_id, purged=purged)
        return Prepared(target.job_id, target.name, purged)
