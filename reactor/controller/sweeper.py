"""The sweeper: takes jobs that are due and settles their streams. Fast where the reconciler is certain.

It judges one job at a time, so it never acts on absence: a job that nobody has heard of is left to the full pass.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from reactor.controller.drain import Drainer, Target
from reactor.controller.parallel import each
from reactor.controller.retries import Failures
from reactor.core.backoff import delay_until
from reactor.core.model import Outcome, Reason, Record, Settlement
from reactor.core.policy import Policy
from reactor.directories.events import Directory
from reactor.jetstream.client import JetStream
from reactor.store.audit import Audit
from reactor.store.ledger import Claim, Ledger

TOPOLOGY_MAX_AGE_S = 60.0
"""How old the knowledge of which stream sources which may be: it takes a full listing, and hardly ever changes."""


class Sweeper:
    """Settles due jobs; all resources are handed in."""

    def __init__(
        self,
        *,
        reads: JetStream,
        directory: Directory,
        drainer: Drainer,
        ledger: Ledger,
        audit: Audit,
        policy: Policy,
        batch: int,
        lease_s: float,
        failures: Failures,
        pace: Callable[[], Awaitable[None]],
        want_pass: Callable[[], Awaitable[None]],
    ) -> None:
        """`batch` jobs are taken and settled at once; `want_pass` asks for a full pass soon."""
        self._reads = reads
        self._directory = directory
        self._drainer = drainer
        self._ledger = ledger
        self._audit = audit
        self._policy = policy
        self._batch = batch
        self._lease_s = lease_s
        self._failures = failures
        self._pace = pace
        self._want_pass = want_pass
        self._listed_at = float("-inf")

    @property
    def paused(self) -> str | None:
        """Why nothing is deleted, where that is so."""
        return self._drainer.paused

    async def recheck_rights(self) -> None:
        """Resume deleting where it is allowed again. Raises JetStreamError."""
        await self._drainer.recheck_rights()

    async def tick(self) -> float | None:
        """Settle one batch of due jobs; seconds until the next one is due, None where none will be.

        Raises JetStreamError and LedgerError: the claim then runs out, and its jobs fall due again.
        """
        claim = await self._ledger.claim(self._batch, self._lease_s)
        if claim.jobs:
            await self._sweep(claim)
        return await self._ledger.next_due()

    async def _sweep(self, claim: Claim) -> None:
        await self._directory.ensure()
        await self._drainer.survey(await self._sourced())
        await self._drainer.recheck_rights()
        names = await self._names_by_job()
        _, records = await self._directory.look_up(claim.jobs)
        await each(
            claim.jobs, lambda job: self._settle_job(claim, job, names.get(job, ()), records.get(job)), self._batch
        )

    async def _sourced(self) -> frozenset[str] | None:
        """Streams that another one mirrors or sources; None where that was looked at a moment ago."""
        if time.monotonic() - self._listed_at < TOPOLOGY_MAX_AGE_S:
            return None
        listing = await self._reads.list_streams()
        self._listed_at = time.monotonic()
        return listing.sourced()

    async def _names_by_job(self) -> Mapping[str, Sequence[str]]:
        """Listed job streams by job, and streams whose deletion was begun and never accounted for."""
        names: dict[str, list[str]] = {}
        for name in await self._reads.stream_names() | (await self._audit.open_intents()).keys():
            if (job_id := self._policy.job_id(name)) is not None:
                names.setdefault(job_id, []).append(name)
        return names

    async def _settle_job(self, claim: Claim, job_id: str, names: Sequence[str], record: Record | None) -> None:
        settlements = []
        for name in names:
            await self._pace()
            settlements.append(await self._drainer.drain_stream(Target(name, job_id)))
        if record is not None and self._policy.is_terminal(record) and not settlements:
            await self._ledger.retire(job_id, record)
        delays = [delay for one in settlements if (delay := await self._next_look(one)) is not None]
        await self._ledger.settle(claim, job_id, min(delays, default=None))
        if delays:  # also where the claim was lost meanwhile: a deletion without an answer may be heard of as done
            await self._ledger.schedule({job_id: min(delays)})

    async def _next_look(self, settlement: Settlement) -> float | None:
        """Seconds until the stream should be looked at again; None for never."""
        if settlement.until is not None:
            return delay_until(settlement.until, settlement.stream.observed_at)
        if settlement.record is None and settlement.reason is Reason.UNKNOWN and settlement.stream.observed_at:
            await self._want_pass()
            return None
        if settlement.outcome is Outcome.UNFIXABLE:
            return (await self._failures.report(settlement)).retry_s
        if settlement.outcome is Outcome.WAITING or settlement.reason is Reason.UNKNOWN:
            return (await self._failures.retry(settlement)).retry_s
        return None
