"""The job system's own directory decides; lifecycle events say when to look, and who was alive a moment ago."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from reactor.core.model import Coverage, DirectoryStatus, Record
from reactor.core.policy import by_directory
from reactor.jetstream.errors import NotFound
from reactor.jetstream.topology import NO_LIFECYCLE
from reactor.job_status.ledger_directory import Directory, Snapshot
from reactor.job_status.protocol import JobAssessment
from reactor.job_status.witness import WitnessedDirectory
from reactor.store.records import Reading

AT_ONCE = 32


@dataclass(eq=False, repr=False)
class ExternalDirectory(Directory):
    """As the directory of events, whose records are overruled."""

    jobs: WitnessedDirectory = field(kw_only=True)
    """Is asked for every verdict."""
    decides = True

    async def take_snapshot(self, caught_up_to: int | None = None) -> Snapshot:
        """Take the snapshot of the events; without a lifecycle stream (no room for it), the directory is enough."""
        try:
            return await super().take_snapshot(caught_up_to)
        except NotFound:
            return Snapshot(NO_LIFECYCLE, lost=False, behind=0)

    async def coverage(self, snapshot: Snapshot) -> Coverage:  # noqa: ARG002  # as the ledger's
        """Return whether absence counts now: whether the directory answers as it should."""
        faults = await self.jobs.faults()
        return Coverage(intact=not faults, gap=f"the job directory: {faults[0]}" if faults else None)

    def _coverage(self, snapshot: Snapshot, reading: Reading) -> Coverage:
        return super()._coverage(snapshot, reading) if snapshot.has_events else Coverage(intact=True)

    async def assess_all(
        self, jobs: Mapping[str, tuple[Record | None, int]], coverage: Coverage
    ) -> Mapping[str, JobAssessment]:
        """Return what the job system says now of each job (with its record, and the server's time at the look)."""
        answer = await self.jobs.ask(list(jobs))
        slots = asyncio.Semaphore(AT_ONCE)

        async def settle(job_id: str, record: Record | None, now: int) -> JobAssessment:
            if why := answer.unknown.get(job_id):
                gap = f"the job directory cannot tell: {why}"
                return JobAssessment(record, Coverage(intact=False, gap=gap))
            current = answer.found.get(job_id)
            vouched = Coverage(intact=coverage.intact, since=0, gap=None if coverage.intact else coverage.gap)
            async with slots:
                since = await self._since(job_id, current, now)
            return JobAssessment(by_directory(record, current, since, now, self.policy), vouched, current)

        settled = await asyncio.gather(*(settle(job_id, *rest) for job_id, rest in jobs.items()))
        return dict(zip(jobs, settled, strict=True))

    async def _since(self, job_id: str, current: DirectoryStatus | None, now: int) -> int:
        """Return since when the job has this status: as the directory says, or from the first sight of it."""
        if current is None:
            return now
        if current.ended_at is not None:
            return min(current.ended_at, now)
        return await self.ledger.tallies.first_sighting(f"job:{job_id}", current.status, now)
