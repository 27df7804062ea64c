"""The sweeper: it takes jobs that are due and settles their streams.

It judges one job at a time, so it never acts on absence. A job without a record is left to the full pass.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from reactor.core.model import Outcome, Reason, Record, Settlement, delay_until
from reactor.deletion.drain import drain_stream
from reactor.deletion.resources import Resources
from reactor.deletion.states import Target
from reactor.jetstream.topology import Topology, list_topology
from reactor.job_status.ledger_directory import Snapshot
from reactor.store.due_queue import Claim

PAUSED_S = 2.0
"""How often to inspect a zombie again while deleting is paused (s)."""
HINTS = 1_000
"""How many hints are looked up at once."""


@dataclass(eq=False, repr=False)
class Sweeper:
    """Settles due jobs. Claimed jobs fall due again after the time of a lease. `request_pass` requests a full pass."""

    deps: Resources
    request_pass: Callable[[], Awaitable[None]]

    def __post_init__(self) -> None:
        self._here_since: int | None = None
        """When this process began to sweep (ms, Redis's clock); None before the first tick."""

    async def tick(self) -> float | None:
        """Settle a batch of due jobs, or of hints if none is due. Return the seconds until the next one, or None.

        After JetStreamError and LedgerError the claim expires, and its jobs fall due again.
        """
        if self.deps.policy.may_delete and await self.deps.pause_gate.active_pause():
            return PAUSED_S
        if self._here_since is None:
            self._here_since = await self.deps.ledger.topology_cache.now()
        claim = await self.deps.ledger.due.claim(
            self.deps.throttle.batch_size(self.deps.lease_s / 4), self.deps.lease_s
        )
        if claim.jobs:
            await self._sweep(claim)
        else:
            await self._take_hints()
        return await self.deps.ledger.due.next_due()

    async def _take_hints(self) -> None:
        """Handle hints about created streams: an ended job is due, and an unknown one needs a full pass."""
        claim = await self.deps.ledger.due.claim_hints(HINTS, self.deps.lease_s)
        if not claim.jobs:
            return
        records = (await self.deps.ledger.records.read("", claim.jobs)).records
        over = {job_id for job_id, record in records.items() if self.deps.policy.is_terminal(record)}
        unknown = set(claim.jobs) - records.keys()
        if self.deps.directory.decides:
            over |= unknown
        elif unknown:
            await self.request_pass()
        await self.deps.ledger.due.schedule(dict.fromkeys(over, 0.0))
        await self.deps.ledger.due.drop_hints(claim)

    async def _sweep(self, claim: Claim) -> None:
        snapshot = await self.deps.directory.ensure()
        names = await self._names_by_job(claim.jobs)
        topology = await self._topology(snapshot, [name for some in names.values() for name in some])
        snapshot = replace(snapshot, topology=topology)
        await self.deps.rights.recheck()
        _, records = await self.deps.directory.read_jobs(snapshot, claim.jobs)

        async def settle(job_id: str) -> Sequence[Settlement]:
            return await self._settle_job(snapshot, claim, job_id, names.get(job_id, ()), records.get(job_id))

        settled = await self.deps.throttle.each(claim.jobs, settle)
        settlements = [item for of_job in settled for item in of_job]
        await self.deps.stream_states.store(settlements)
        await self.deps.notices.announce(settlements)

    async def _topology(self, snapshot: Snapshot, names: Sequence[str]) -> Topology:
        """Return the topology of a listing that began after this process, updated by advisories since."""
        topology_cache, identity = self.deps.ledger.topology_cache, snapshot.lifecycle.identity
        if known := await topology_cache.among(identity, names, self._here_since or 0):
            return Topology(known[0], advisory_streams=known[1])
        began = await topology_cache.now()
        topology = await list_topology(self.deps.reads)
        await topology_cache.remember(identity, began, topology.sourced, topology.advisory_streams)
        return topology

    async def _names_by_job(self, jobs: Sequence[str]) -> Mapping[str, Collection[str]]:
        """Return the possible names of the jobs' streams, and the names in open intents.

        If the pattern allows several names, only existing streams are returned.
        """
        names = {job_id: set(some) for job_id in jobs if (some := self.deps.policy.names_of(job_id)) is not None}
        others = set(await self.deps.recorder.begun())
        if len(names) < len(jobs):
            others |= await self.deps.reads.stream_names()
        for name in others:
            if (job_id := self.deps.policy.job_id(name)) is not None:
                names.setdefault(job_id, set()).add(name)
        return names

    async def _settle_job(
        self, snapshot: Snapshot, claim: Claim, job_id: str, names: Collection[str], record: Record | None
    ) -> Sequence[Settlement]:
        settlements = []
        for name in names:
            # Most jobs clean up after themselves. A stream that does not exist must not take a turn.
            if self.deps.throttle.is_limited and await self.deps.reads.has_stream(name):
                await self.deps.throttle.turn()
            settlements.append(await drain_stream(self.deps, snapshot, Target(name, job_id)))
        there = [item for item in settlements if item.reason is not Reason.GONE]
        if record is not None and self.deps.policy.is_terminal(record) and not there:
            await self.deps.ledger.records.retire(job_id, record)
        delays = [delay for item in settlements if (delay := await self._next_look(item)) is not None]
        await self.deps.ledger.due.settle(claim, job_id, min(delays, default=None))
        if delays:  # even if the claim was lost: an advisory may have removed a job whose deletion got no answer
            await self.deps.ledger.due.schedule({job_id: min(delays)})
        return settlements

    async def _next_look(self, settlement: Settlement) -> float | None:
        """Return the seconds until the stream must be inspected again; None for never."""
        if settlement.reason is Reason.PAUSED:
            return PAUSED_S
        if settlement.until is not None:
            return delay_until(settlement.until, settlement.stream.observed_at)
        if settlement.record is None and settlement.reason is Reason.UNKNOWN and settlement.stream.observed_at:
            await self.request_pass()
            return None
        if settlement.outcome is Outcome.UNFIXABLE:
            return (await self.deps.retries.report(settlement)).retry_s
        if settlement.outcome is Outcome.WAITING or settlement.reason is Reason.UNKNOWN:
            return (await self.deps.retries.count(settlement)).retry_s
        return None
