"""The job system's own directory decides. Lifecycle events only say when to inspect, and which jobs were just alive."""

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
    """The job directory if the job system's own table or API decides. It overrules the ledger's records."""

    jobs: WitnessedDirectory = field(kw_only=True)
    """It is asked for every verdict."""
    decides = True

    async def take_snapshot(self, caught_up_to: int | None = None) -> Snapshot:
        """Take a snapshot. A missing lifecycle stream (no room for it) is no error here."""
        try:
            return await super().take_snapshot(caught_up_to)
        except NotFound:
            return Snapshot(NO_LIFECYCLE, lost=False, behind=0)

    async def coverage(self, snapshot: Snapshot) -> Coverage:  # noqa: ARG002  # as the ledger's
        """Return the coverage: absence counts if the directory answers as it should."""
        faults = await self.jobs.faults()
        return Coverage(intact=not faults, gap=f"the job directory: {faults[0]}" if faults else None)

    def _coverage(self, snapshot: Snapshot, reading: Reading) -> Coverage:
        return super()._coverage(snapshot, reading) if snapshot.has_events else Coverage(intact=True)

    async def assess_all(
        self, jobs: Mapping[str, tuple[Record | None, int]], coverage: Coverage
    ) -> Mapping[str, JobAssessment]:
        """Return what these jobs are judged by: their status in the job system's directory now."""
        answer = await self.jobs.ask(list(jobs))
        slots = asyncio.Semaphore(AT_ONCE)

        async def settle(job_id: str, record: Record | None, now: int) -> JobAssessment:
            if why := answer.unknown.get(job_id):
                gap = f"the job directory does not know the job's status: {why}"
                return JobAssessment(record, Coverage(intact=False, gap=gap))
            current = answer.found.get(job_id)
            vouched = Coverage(intact=coverage.intact, since=0, gap=None if coverage.intact else coverage.gap)
            async with slots:
                since = await self._since(job_id, current, now)
            return JobAssessment(by_directory(record, current, since, now, self.policy), vouched, current)

        settled = await asyncio.gather(*(settle(job_id, *rest) for job_id, rest in jobs.items()))
        return dict(zip(jobs, settled, strict=True))

    async def _since(self, job_id: str, current: DirectoryStatus | None, now: int) -> int:
        """Return when the job got this status (ns): as the directory says, or when we first saw it."""
        if current is None:
            return now
        if current.ended_at is not None:
            return min(current.ended_at, now)
        return await self.ledger.tallies.first_sighting(f"job:{job_id}", current.status, now)
