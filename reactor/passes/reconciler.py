"""The full pass over all streams. It finds what events have missed, and works without events.

It is a pipeline of four values: Listing → Plan → results → Report. The listing judges every stream. The plan says which
streams this process settles, which all replicas settle, and whether the breaker or a pause keeps the zombies. A dry run
previews the plan. A real pass executes it: it passes each stream to `drain_stream`, which judges it again.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import structlog

from reactor.core.model import Drain, Outcome, Reason, Settlement, Stream, Wait, delay_until
from reactor.core.pause import Pause
from reactor.core.policy import Breaker, policy_for
from reactor.core.report import Report
from reactor.core.stream_info import instant
from reactor.deletion.companions import orphaned
from reactor.deletion.drain import account_for_begun, drain_stream
from reactor.deletion.inspection import preview
from reactor.deletion.resources import Resources
from reactor.deletion.states import Target, held_back
from reactor.jetstream.errors import JetStreamError
from reactor.job_status.ledger_directory import describe_outage
from reactor.passes.handover import Handover
from reactor.passes.listing import CatchUp, JudgedStream, Listing, PassAborted, list_and_judge
from reactor.store.keyspace import LedgerError
from reactor.store.leases import Lease, LeaseLost

log = structlog.get_logger(__name__)

STATE_BATCH = 100
"""How many settlements are stored at once, for status and page."""
INTERRUPTED = "interrupted; deletions that had begun were finished"
NOT_BEGUN = "not begun: the pass was interrupted"
HELD_BY_BREAKER = "held back by the breaker"

Result = TypeVar("Result")
Progress = Callable[[int, int], None]
Settle = Callable[[JudgedStream], Awaitable[Settlement]]


def ignore_progress(_done: int, _total: int) -> None:
    """Ignore the progress of a pass."""


@dataclass(frozen=True, slots=True)
class PassOptions:
    """The options of one pass."""

    dry_run: bool = False
    override_breaker: bool = False
    only: frozenset[str] = frozenset()
    """Settle only these streams (exact names); empty for all."""
    under: Lease | None = None
    """The lease of a periodic pass. If it is lost, nothing more is deleted."""
    handover: Handover | None = None
    """Lets all replicas settle the zombies of ended jobs. With None this process settles them."""
    stop: asyncio.Event | None = None
    """When this is set, drains that have begun are finished, and no others begin."""

    @property
    def is_stopped(self) -> bool:
        """Whether no more drains may begin."""
        return self.stop is not None and self.stop.is_set()


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a pass for the streams of its listing."""

    listing: Listing
    breaker: str | None
    """Why the breaker keeps all zombies; None if it does not."""
    pause: Pause | None
    """The operator's pause; None if there is none."""
    settlements: Sequence[Settlement]
    """The settlement of every stream according to the listing."""
    delegated: Sequence[Settlement] = field(default=())
    """Zombies that all replicas settle through the due queue."""

    def own(self) -> list[JudgedStream]:
        """Return the streams that this process settles."""
        others = {item.stream.name for item in self.delegated}
        return [item for item in self.listing.judged if item.needs_settling and item.stream.name not in others]


@dataclass(eq=False, repr=False)
class Reconciler:
    """Runs full passes, one at a time."""

    deps: Resources
    breaker: Breaker
    catch_up: CatchUp

    async def run(self, options: PassOptions, progress: Progress = ignore_progress) -> Report:
        """Run one pass and return its report. An outage is the report's `error`, never an exception."""
        if options.dry_run:
            return await self._report(options, self._preview, progress)
        report = await self._report(options, self._execute, progress)
        return report if options.only else await self._remember(report)

    async def listing(self) -> Listing:
        """Return every job stream with its verdict now. Raises JetStreamError, LedgerError and PassAborted."""
        return await list_and_judge(self.deps, self.catch_up, frozenset())

    async def _report(
        self,
        options: PassOptions,
        results_of: Callable[[Plan, PassOptions, Progress], Awaitable[list[Settlement]]],
        progress: Progress,
    ) -> Report:
        """List the streams, plan, and report the results that `results_of` returns for the plan."""
        started_at, start = self.deps.clock(), time.monotonic()
        report = Report((), self.deps.policy, options.dry_run, started_at, 0.0)
        try:
            listing = await _unless_stopped(options.stop, self._list(options.only))
            plan = await self._plan(listing, options)
            settlements = await results_of(plan, options, progress)
            settlements += self._absent(options.only, listing)
            paused = str(plan.pause) if plan.pause else None
            error = INTERRUPTED if options.is_stopped else None
            report = replace(report, settlements=settlements, breaker=plan.breaker, paused=paused, error=error)
        except (JetStreamError, LedgerError) as error:
            report = replace(report, error=describe_outage(error), away=True)
        except (PassAborted, LeaseLost) as error:
            report = replace(report, error=str(error), away=not options.is_stopped)
        return replace(report, duration_s=time.monotonic() - start)

    # Listing → Plan

    async def _list(self, only: frozenset[str]) -> Listing:
        listing = await list_and_judge(self.deps, self.catch_up, only)
        if self.deps.policy.may_delete:
            await self.deps.rights.check()
        return listing

    async def _plan(self, listing: Listing, options: PassOptions) -> Plan:
        missing = sum(item.verdict == Drain(Reason.MISSING) for item in listing.judged)
        breaker = None if options.override_breaker else self.breaker.trips(missing, len(listing.judged))
        pause = await self.deps.pause_gate.active_pause() if self.deps.policy.may_delete else None
        plan = Plan(listing, breaker, pause, listing.settlements())
        if options.handover and self.deps.policy.may_delete and not (breaker or pause):
            return replace(plan, delegated=[item for item in plan.settlements if self._is_handed_over(item)])
        return plan

    def _is_handed_over(self, item: Settlement) -> bool:
        is_zombie = (item.outcome, item.reason) == (Outcome.WOULD_DRAIN, Reason.TERMINAL)
        return is_zombie and policy_for(item.stream, item.record, self.deps.policy).deletes

    def _absent(self, only: frozenset[str], listing: Listing) -> list[Settlement]:
        """Return settlements for the requested streams that do not exist."""
        gone = sorted(only - {item.stream.name for item in listing.judged})
        streams = [Stream(name, self.deps.policy.job_id(name) or "", 0) for name in gone]
        return [Settlement(Outcome.ALREADY_GONE, Reason.GONE, stream) for stream in streams]

    # Plan → results

    async def _preview(self, plan: Plan, _options: PassOptions, progress: Progress) -> list[Settlement]:
        """Return the settlement that the pass would reach for each stream."""

        async def settle(item: JudgedStream) -> Settlement:
            if plan.breaker and isinstance(item.verdict, Drain):
                return replace(item.as_listed(), outcome=Outcome.WOULD_DRAIN, detail=HELD_BY_BREAKER)
            return _with_listed_stream(await preview(self.deps, plan.listing.snapshot, _target(item)), item)

        settled = await self._settle_own(plan, settle, progress)
        return [settled.get(item.stream.name, item) for item in plan.settlements]

    async def _execute(self, plan: Plan, options: PassOptions, progress: Progress) -> list[Settlement]:
        """Settle each stream and return the settlements."""
        await self._schedule(plan.listing.judged)
        await self._store_states(plan, options)
        states = _StateBatches(self.deps)
        settled = await self._settle_own(plan, self._settler(plan, options, states), progress)
        await states.flush()

        delegated = {item.stream.name for item in plan.delegated}
        rest = [settled.get(item.stream.name, item) for item in plan.settlements if item.stream.name not in delegated]
        settled |= _by_name(await self._report_failures(rest))
        if options.handover:
            settled |= _by_name(await options.handover.settle(plan.delegated, plan.listing.began))
        results = [settled.get(item.stream.name, item) for item in plan.settlements]

        needed = {item.stream.name for item in plan.listing.judged if item.needs_settling}
        await account_for_begun(self.deps, plan.listing.snapshot, needed)
        if not options.only and self.deps.policy.may_delete and not plan.pause:
            await self._sweep_companions(plan.listing)
        self.deps.recorder.judged(*results)
        await self.deps.notices.announce(results)
        return results

    async def _settle_own(self, plan: Plan, settle: Settle, progress: Progress) -> dict[str, Settlement]:
        """Settle this process's streams. Return the settlements by name."""
        own, done = plan.own(), 0

        async def settle_one(item: JudgedStream) -> Settlement:
            nonlocal done
            settlement = await settle(item)
            done += 1
            progress(done, len(own))
            return settlement

        return _by_name(await self.deps.throttle.each(own, settle_one))

    def _settler(self, plan: Plan, options: PassOptions, states: "_StateBatches") -> Settle:
        """Return the function that settles one stream: it keeps it for a pause or the breaker, or drains it."""

        async def settle(item: JudgedStream) -> Settlement:
            if isinstance(item.verdict, Drain):  # an expired fence is removed even then
                if plan.pause:
                    return held_back(item.as_listed(), plan.pause)
                if plan.breaker:
                    return replace(item.as_listed(), outcome=Outcome.KEPT, detail=HELD_BY_BREAKER)
            settlement = await self._drain(plan.listing, item, options)
            await states.add(settlement)
            return settlement

        return settle

    async def _drain(self, listing: Listing, item: JudgedStream, options: PassOptions) -> Settlement:
        try:
            await self.deps.throttle.turn()
            if options.is_stopped:
                return replace(item.as_listed(), outcome=Outcome.KEPT, detail=NOT_BEGUN)
            settlement = await drain_stream(self.deps, listing.snapshot, _target(item), options.under)
        except LedgerError as error:
            detail = f"Redis failed during the drain: {error}"
            return Settlement(Outcome.UNFIXABLE, Reason.OUTCOME_UNKNOWN, item.stream, item.record, detail=detail)
        return _with_listed_stream(settlement, item)

    async def _schedule(self, judged: Sequence[JudgedStream]) -> None:
        """Schedule the streams that wait for a guard, so that the sweeper inspects them on time."""
        waits = [(item.stream, item.verdict.until) for item in judged if isinstance(item.verdict, Wait)]
        await self.deps.ledger.due.schedule({s.job_id: delay_until(until, s.observed_at) for s, until in waits})

    async def _store_states(self, plan: Plan, options: PassOptions) -> None:
        """Store the state of every stream for status and page, before the first deletion."""
        await self.deps.stream_states.store(plan.settlements, plan.listing.began)
        if not options.only:
            await self.deps.ledger.stream_states.forget_older(plan.listing.began)
            await self.deps.stream_states.compare_with_pass(plan.settlements, self.deps.reads.has_stream)

    async def _report_failures(self, settlements: Sequence[Settlement]) -> list[Settlement]:
        """Count the attempts of unfixable streams, and schedule the next ones. Reset the counts of all other jobs."""
        failed = [item for item in settlements if item.outcome is Outcome.UNFIXABLE]
        await self.deps.ledger.tallies.forgive({item.stream.job_id for item in failed})
        reported = await self.deps.throttle.each(failed, self.deps.retries.report)
        await self.deps.ledger.due.schedule(
            {item.stream.job_id: item.retry_s for item in reported if item.retry_s is not None}
        )
        return reported

    async def _sweep_companions(self, listing: Listing) -> None:
        """Delete the companions of ended jobs whose stream another program has deleted.

        A page of the listing may have missed a stream, so all names are listed again.
        """
        topology = listing.snapshot.topology
        if not (jobs := self.deps.companions.jobs(topology)):
            return
        jobs -= {item.stream.job_id for item in listing.judged}
        jobs -= {self.deps.policy.job_id(name) or "" for name in await self.deps.reads.stream_names()}
        if not listing.snapshot.has_events:
            return
        now = instant((await self.deps.reads.stream_info(listing.snapshot.lifecycle.stream)).get("ts")) or 0
        coverage, records = await self.deps.directory.read_jobs(listing.snapshot, sorted(jobs))
        assessments = await self.deps.directory.assess_all({job: (records.get(job), now) for job in jobs}, coverage)
        over = {job: by.record for job, by in assessments.items() if by.record is not None and by.coverage.intact}
        for job_id in orphaned(coverage, over, self.deps.policy, now):
            left = await self.deps.companions.delete(topology, job_id)
            log.info("companions deleted, their stream is gone", job_id=job_id, left=left)

    # Results → Report

    async def _remember(self, report: Report) -> Report:
        """Store the report for status and page. If Redis refuses the write, that is an outage."""
        try:
            await self.deps.ledger.passes.remember(json.dumps(report.summary()))
        except LedgerError as error:
            return report if report.error else replace(report, error=describe_outage(error), away=True)
        return report


@dataclass(eq=False, repr=False)
class _StateBatches:
    """Stores settlements in batches. Call `add` for each, and `flush` at the end."""

    deps: Resources

    def __post_init__(self) -> None:
        self._waiting = list[Settlement]()

    async def add(self, settlement: Settlement) -> None:
        """Add a settlement. Store the batch if it is full."""
        self._waiting.append(settlement)
        if len(self._waiting) >= STATE_BATCH:
            await self.flush()

    async def flush(self) -> None:
        """Store the last batch."""
        batch, self._waiting = self._waiting, []
        await self.deps.stream_states.store(batch)


async def _unless_stopped(stop: asyncio.Event | None, work: Coroutine[Any, Any, Result]) -> Result:
    """Do the work. If the pass is stopped, cancel it, because nothing is fenced yet, and raise PassAborted."""
    if stop is None:
        return await work
    working, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise PassAborted(INTERRUPTED)
    finally:
        stopped.cancel()
        working.cancel()


def _target(item: JudgedStream) -> Target:
    return Target(item.stream.name, item.stream.job_id, item.stream.created)


def _with_listed_stream(settlement: Settlement, item: JudgedStream) -> Settlement:
    """Return the settlement. If the stream could not be read again, use the listed one."""
    return settlement if settlement.stream.observed_at else replace(settlement, stream=item.stream)


def _by_name(settlements: Sequence[Settlement]) -> dict[str, Settlement]:
    return {item.stream.name: item for item in settlements}
