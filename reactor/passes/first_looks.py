"""First looks: what an end condemns, as soon as it is heard, for the notice; and if the stream asks for less time.

Nothing is deleted here, and nothing fenced. What is missed under load, the look at its time and full passes find.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reactor.core.backoff import delay_until
from reactor.core.model import Outcome, Settlement
from reactor.deletion.inspection import preview
from reactor.deletion.resources import Resources
from reactor.deletion.states import Target

LOOK_S = 1.0
MOST_WAITING = 10_000
"""Jobs that wait for a first look; further ones have none."""
AT_ONCE = 8


@dataclass(eq=False, repr=False)
class FirstLooks:
    """The first looks of one process."""

    deps: Resources

    def __post_init__(self) -> None:
        self._wanted = dict[str, None]()
        self._room = asyncio.Semaphore(AT_ONCE)

    def want(self, jobs: Iterable[str]) -> None:
        """Look at these jobs' streams soon: they were just said to be over."""
        for job in jobs:
            if len(self._wanted) < MOST_WAITING:
                self._wanted[job] = None

    async def tick(self) -> None:
        """Look at what is wanted. Raises JetStreamError and LedgerError."""
        if not self._wanted:
            return
        jobs, self._wanted = list(self._wanted), {}
        snapshot = await self.deps.directory.take_snapshot()

        async def look(job_id: str, name: str) -> Settlement:
            async with self._room:
                return await preview(self.deps, snapshot, Target(name, job_id))

        names = [(job_id, name) for job_id in jobs for name in self.deps.policy.names_of(job_id) or ()]
        found = await asyncio.gather(*(look(job_id, name) for job_id, name in names))
        await self.deps.notices.found(found)
        await self._schedule(found)

    async def _schedule(self, found: Sequence[Settlement]) -> None:
        """Have the streams looked at when they are due, which may be earlier than by the settings."""
        due = {item.stream.job_id: 0.0 for item in found if item.outcome is Outcome.WOULD_DRAIN}
        for item in found:
            if item.outcome is Outcome.WAITING and item.until is not None:
                due[item.stream.job_id] = delay_until(item.until, item.stream.observed_at)
        await self.deps.ledger.due.schedule(due)
