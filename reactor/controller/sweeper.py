"""The sweeper: takes jobs that are due and settles their streams. Fast where the reconciler is certain.

It judges one job at a time, so it never acts on absence: a job that nobody has heard of is left to the full pass.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from reactor.controller.drain import Drainer
from reactor.controller.look import Judge, Target
from reactor.controller.resources import Resources
from reactor.core.backoff import delay_until
from reactor.core.model import Outcome, Reason, Record, Settlement
from reactor.directories.events import Snapshot
from reactor.store.due_queue import Claim

TOPOLOGY_MAX_AGE_S = 60.0
"""How old the knowledge of which stream sources which may be: it takes a full listing, and hardly ever changes."""


class Sweeper:
    """Settles due jobs."""

    def __init__(
        self,
        resources: Resources,
        judge: Judge,
        drainer: Drainer,
        lease_s: float,
        want_pass: Callable[[], Awaitable[None]],
    ) -> None:
        """Claimed jobs fall due again after `lease_s`; `want_pass` asks for a full pass soon."""
        self._reads = resources.reads
        self._directory = resources.directory
        self._ledger = resources.ledger
        self._companions = resources.companions
        self._rights = resources.rights
        self._recorder = resources.recorder
        self._retries = resources.retries
        self._throttle = resources.throttle
        self._policy = judge.policy
        self._drainer = drainer
        self._lease_s = lease_s
        self._want_pass = want_pass
        self._sourced: frozenset[str] = frozenset()
        self._listed_at = float("-inf")

    async def tick(self) -> float | None:
        """Settle one batch of due jobs; seconds until the next one is due, None where none will be.

        Raises JetStreamError and LedgerError: the claim then runs out, and its jobs fall due again.
        """
        claim = await self._ledger.due.claim(self._throttle.within(self._lease_s / 2), self._lease_s)
        if claim.jobs:
            await self._sweep(claim)
        return await self._ledger.due.next_due()

    async def _sweep(self, claim: Claim) -> None:
        snapshot = await self._directory.ensure()
        snapshot = replace(snapshot, topology=await self._companions.survey(await self._sourced_lately()))
        await self._rights.recheck()
        names = await self._names_by_job()
        _, records = await self._directory.look_up(snapshot, claim.jobs)

        async def settle(job_id: str) -> None:
            await self._settle_job(snapshot, claim, job_id, names.get(job_id, ()), records.get(job_id))

        await self._throttle.each(claim.jobs, settle)

    async def _sourced_lately(self) -> frozenset[str]:
        """Streams that another one mirrors or sources, as they were a moment ago."""
        if time.monotonic() - self._listed_at > TOPOLOGY_MAX_AGE_S:
            self._sourced = (await self._reads.list_streams()).sourced()
            self._listed_at = time.monotonic()
        return self._sourced

    async def _names_by_job(self) -> Mapping[str, Sequence[str]]:
        """Listed job streams by job, and streams whose deletion was begun and never accounted for."""
        names: dict[str, list[str]] = {}
        for name in await self._reads.stream_names() | (await self._recorder.begun()).keys():
            if (job_id := self._policy.job_id(name)) is not None:
                names.setdefault(job_id, []).append(name)
        return names

    async def _settle_job(
        self, snapshot: Snapshot, claim: Claim, job_id: str, names: Sequence[str], record: Record | None
    ) -> None:
        settlements = []
        for name in names:
            await self._throttle.turn()
            settlements.append(await self._drainer.drain_stream(snapshot, Target(name, job_id)))
        if record is not None and self._policy.is_terminal(record) and not settlements:
            await self._ledger.records.retire(job_id, record)
        delays = [delay for one in settlements if (delay := await self._next_look(one)) is not None]
        await self._ledger.due.settle(claim, job_id, min(delays, default=None))
        if delays:  # also where the claim was lost meanwhile: a deletion without an answer may be heard of as done
            await self._ledger.due.schedule({job_id: min(delays)})

    async def _next_look(self, settlement: Settlement) -> float | None:
        """Seconds until the stream should be looked at again; None for never."""
        if settlement.until is not None:
            return delay_until(settlement.until, settlement.stream.observed_at)
        if settlement.record is None and settlement.reason is Reason.UNKNOWN and settlement.stream.observed_at:
            await self._want_pass()
            return None
        if settlement.outcome is Outcome.UNFIXABLE:
            return (await self._retries.report(settlement)).retry_s
        if settlement.outcome is Outcome.WAITING or settlement.reason is Reason.UNKNOWN:
            return (await self._retries.count(settlement)).retry_s
        return None
