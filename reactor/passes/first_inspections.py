"""Inspect the streams of jobs that have just ended, to publish a notice, and to schedule streams with shorter guards.

It deletes and fences nothing. A stream that is missed under load is inspected when it is due, and by full passes.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reactor.core.model import Outcome, Settlement, delay_until
from reactor.deletion.inspection import preview
from reactor.deletion.resources import Resources
from reactor.deletion.states import Target

INSPECT_S = 1.0
MOST_WAITING = 10_000
"""How many jobs may wait for a first inspection. Further ones get none."""
AT_ONCE = 8


@dataclass(eq=False, repr=False)
class FirstInspections:
    """The first inspections of one process."""

    deps: Resources

    def __post_init__(self) -> None:
        self._wanted = dict[str, None]()
        self._room = asyncio.Semaphore(AT_ONCE)

    def add(self, jobs: Iterable[str]) -> None:
        """Add jobs that have just ended. Their streams are inspected at the next tick."""
        for job in jobs:
            if len(self._wanted) < MOST_WAITING:
                self._wanted[job] = None

    async def tick(self) -> None:
        """Inspect the waiting jobs' streams. Raises JetStreamError and LedgerError."""
        if not self._wanted:
            return
        jobs, self._wanted = list(self._wanted), {}
        snapshot = await self.deps.directory.take_snapshot()

        async def inspect(job_id: str, name: str) -> Settlement:
            async with self._room:
                return await preview(self.deps, snapshot, Target(name, job_id))

        names = [(job_id, name) for job_id in jobs for name in self.deps.policy.names_of(job_id) or ()]
        settlements = await asyncio.gather(*(inspect(job_id, name) for job_id, name in names))
        await self.deps.notices.announce(settlements)
        await self._schedule(settlements)

    async def _schedule(self, settlements: Sequence[Settlement]) -> None:
        """Schedule the streams for when they are due, which may be earlier than by the settings."""
        due = {item.stream.job_id: 0.0 for item in settlements if item.outcome is Outcome.WOULD_DRAIN}
        for item in settlements:
            if item.outcome is Outcome.WAITING and item.until is not None:
                due[item.stream.job_id] = delay_until(item.until, item.stream.observed_at)
        await self.deps.ledger.due.schedule(due)
