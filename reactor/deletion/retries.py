"""What could not be settled is tried again: counted, and with growing pauses."""

from collections.abc import Callable
from dataclasses import replace

from reactor.core.backoff import backoff
from reactor.core.model import Settlement
from reactor.deletion.recorder import Recorder
from reactor.store.ledger import Ledger


class Retries:
    """Failed attempts in a row, by job. Methods raise LedgerError."""

    def __init__(self, ledger: Ledger, recorder: Recorder, clock: Callable[[], int], max_attempts: int) -> None:
        """After `max_attempts` in a row a job is left to the next full pass. `clock` (ns) is for the audit alone."""
        self._ledger = ledger
        self._recorder = recorder
        self._clock = clock
        self._max_attempts = max_attempts

    async def count(self, settlement: Settlement) -> Settlement:
        """Count one more attempt; with its number, and when the next one is."""
        attempt = await self._ledger.tallies.failed(settlement.stream.job_id)
        retry_s = backoff(attempt) if attempt < self._max_attempts else None
        return replace(settlement, attempts=attempt, retry_s=retry_s)

    async def report(self, settlement: Settlement) -> Settlement:
        """Count one more attempt of something unfixable, and tell a person."""
        settlement = await self.count(settlement)
        await self._recorder.failed(settlement, self._clock())
        return settlement
