"""What could not be settled: counted, tried again with growing pauses, and told in full wherever a person may look."""

from collections.abc import Callable
from dataclasses import replace

import structlog

from reactor.core.backoff import backoff
from reactor.core.model import Settlement, format_instant
from reactor.core.observer import FORGETFUL, Observer
from reactor.store.audit import Audit, Failure
from reactor.store.ledger import Ledger

log = structlog.get_logger(__name__)


class Failures:
    """The book of failures; all resources are handed in. Methods raise LedgerError."""

    def __init__(
        self,
        ledger: Ledger,
        audit: Audit,
        *,
        max_attempts: int,
        by: str,
        clock: Callable[[], int],
        observer: Observer = FORGETFUL,
    ) -> None:
        """After `max_attempts` in a row a job is left to the next full pass; `by` names this process in the audit.

        `clock` gives the time (ns) for the audit; no decision sees it.
        """
        self._ledger = ledger
        self._audit = audit
        self._max_attempts = max_attempts
        self._by = by
        self._clock = clock
        self._observer = observer

    async def retry(self, settlement: Settlement) -> Settlement:
        """Count one more attempt; with its number, and when the next one is."""
        attempt = await self._ledger.failed(settlement.stream.job_id)
        retry_s = backoff(attempt) if attempt < self._max_attempts else None
        return replace(settlement, attempts=attempt, retry_s=retry_s)

    async def report(self, settlement: Settlement) -> Settlement:
        """Count one more attempt of something unfixable, and write it into the audit and the log."""
        self._observer.unfixable(settlement)
        settlement = await self.retry(settlement)
        failure = Failure(
            stream=settlement.stream.name,
            job_id=settlement.stream.job_id,
            reason=settlement.reason.value,
            detail=settlement.detail or "",
            attempts=settlement.attempts,
            retry_s=settlement.retry_s,
            by=self._by,
            at=format_instant(self._clock()),
        )
        await self._audit.fail(failure)
        log.warning("unfixable", **failure.fields())
        return settlement
