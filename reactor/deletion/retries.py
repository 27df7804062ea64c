"""Count failed attempts, and compute when the next one is, with growing pauses."""

from dataclasses import dataclass, replace

from reactor.core.durations import backoff
from reactor.core.model import Settlement
from reactor.deletion.recorder import Recorder
from reactor.store.ledger import Ledger


@dataclass(eq=False, repr=False)
class Retries:
    """Counts failed attempts in a row, by job. Methods raise LedgerError.

    After `max_attempts` in a row the job is left to the next full pass.
    """

    ledger: Ledger
    recorder: Recorder
    max_attempts: int

    async def count(self, settlement: Settlement) -> Settlement:
        """Count one more failed attempt. Return the settlement with the number, and when the next attempt is."""
        attempt = await self.ledger.tallies.failed(settlement.stream.job_id)
        retry_s = backoff(attempt) if attempt < self.max_attempts else None
        return replace(settlement, attempts=attempt, retry_s=retry_s)

    async def report(self, settlement: Settlement) -> Settlement:
        """Count one more failed attempt, and record it as unfixable."""
        settlement = await self.count(settlement)
        await self.recorder.failed(settlement)
        return settlement
