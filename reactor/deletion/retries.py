"""What could not be settled is tried again: counted, and with growing pauses."""

from dataclasses import dataclass, replace

from reactor.core.backoff import backoff
from reactor.core.model import Settlement
from reactor.deletion.recorder import Recorder
from reactor.store.ledger import Ledger


@dataclass(eq=False, repr=False)
class Retries:
    """Failed attempts in a row, by job. Methods raise LedgerError.

    After `max_attempts` in a row a job is left to the next full pass.
    """

    ledger: Ledger
    recorder: Recorder
    max_attempts: int

    async def count(self, settlement: Settlement) -> Settlement:
        """Count one more attempt; with its number, and when the next one is."""
        attempt = await self.ledger.tallies.failed(settlement.stream.job_id)
        retry_s = backoff(attempt) if attempt < self.max_attempts else None
        return replace(settlement, attempts=attempt, retry_s=retry_s)

    async def report(self, settlement: Settlement) -> Settlement:
        """Count one more attempt of something unfixable, and tell a person."""
        settlement = await self.count(settlement)
        await self.recorder.failed(settlement)
        return settlement
