"""The full pass over all streams: certain where the event path is fast, and enough alone.

It consumes what is pending, lists, judges all of it from one listing and the ledger, asks the consumers of the
candidates only, lets the breaker look at the whole, and hands each candidate to `drain_stream`, which judges again.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import InitVar, dataclass, replace
from typing import Any

import structlog

from reactor.core.backoff import delay_until
from reactor.core.model import Drain, Outcome, Reason, Settlement, Stream, Wait
from reactor.core.pause import Pause
from reactor.core.policy import Breaker
from reactor.core.report import Report, settlement_of
from reactor.core.stream_info import instant
from reactor.deletion.companions import orphaned
from reactor.deletion.drain import Drainer
from reactor.deletion.inspection import Inspector, Target, held_back, with_source_name
from reactor.deletion.resources import Resources
from reactor.jetstream.errors import JetStreamError
from reactor.job_status.ledger_directory import Snapshot, describe_outage
from reactor.passes.handover import Handover
from reactor.passes.review import Judged, PassAborted, Review, Reviewer
from reactor.store.leases import Lease, LeaseLost
from reactor.store.scripts import LedgerError

log = structlog.get_logger(__name__)

STATE_BATCH = 100
"""Settlements that onlookers are told of at once."""
INTERRUPTED = "interrupted; what was begun is finished"


@dataclass(frozen=True, slots=True)
class PassOptions:
    """What is asked of one pass."""

    dry_run: bool = False
    override_breaker: bool = False
    only: frozenset[str] = frozenset()
    """Just these streams, by their exact names; empty for all."""
    under: Lease | None = None
    """The lease of a periodic pass: once it is lost, nothing more is deleted."""
    handover: Handover | None = None
    """Who settles terminal zombies, if it is not the pass itself: all replicas."""
    stop: asyncio.Event | None = None
    """Set from outside: what is begun is finished, and nothing more is begun."""

    @property
    def is_stopped(self) -> bool:
        """Whether nothing more is to be begun."""
        return self.stop is not None and self.stop.is_set()


Progress = Callable[[int, int], None]
Hold = Callable[[Judged], Settlement]


def ignore_progress(_done: int, _total: int) -> None:
    """For a pass that nobody watches."""


@dataclass(eq=False, repr=False)
class Reconciler:
    """One pass at a time.

    `catch_up` consumes what the durable has pending.
    """

    deps: Resources
    judge: Inspector
    drainer: Drainer
    breaker: Breaker
    catch_up: InitVar[Callable[[], Awaitable[object]]]

    def __post_init__(self, catch_up: Callable[[], Awaitable[object]]) -> None:
        self._reviewer = Reviewer(self.deps, self.judge, catch_up)

    async def run(self, options: PassOptions, progress: Progress = ignore_progress) -> Report:
        """Run one pass and return its report; an outage is in the report's `error`, never an exception."""
        started_at, start = self.deps.clock(), time.monotonic()
        report = Report((), self.judge.policy, options.dry_run, started_at, 0.0)
        try:
            review = await self._unless_stopped(options, self._review(options.only))
            breaker = self._check_breaker(review.judged)
            breaker = None if options.override_breaker else breaker
            pause = await self.deps.pause_gate.active_pause() if self.judge.policy.deletes else None
            hold = _hold(breaker, pause, options)
            found = _found(review)
            if not options.dry_run:
                await self._schedule(review.judged)
                await self._publish_states(found, review.began, options)
            settlements = await self._settle_all(review, found, options, progress, hold)
            if not options.dry_run:
                await self._wrap_up(review, settlements, options, pause)
            settlements += self._absent(options, review.judged)
            paused = pause.describe() if pause else None
            report = replace(report, settlements=settlements, breaker=breaker, paused=paused)
            if options.is_stopped:
                report = replace(report, error=INTERRUPTED)
        except (JetStreamError, LedgerError) as error:
            report = replace(report, error=describe_outage(error), away=True)
        except (PassAborted, LeaseLost) as error:
            report = replace(report, error=str(error), away=not options.is_stopped)
        return await self._remember(replace(report, duration_s=time.monotonic() - start), options)

    async def inspect(self) -> list[Settlement]:
        """Every job stream with its verdict now, and nothing more. Raises JetStreamError, LedgerError, PassAborted."""
        return _found(await self._reviewer.review(frozenset()))

    async def _remember(self, report: Report, options: PassOptions) -> Report:
        """For whoever looks on. A Redis that takes nothing is an outage, also if there was nothing to delete."""
        if options.dry_run or options.only:
            return report
        try:
            await self.deps.ledger.passes.remember(json.dumps(report.summary()))
        except LedgerError as error:
            return report if report.error else replace(report, error=describe_outage(error), away=True)
        return report

    async def _wrap_up(
        self, review: Review, settlements: Sequence[Settlement], options: PassOptions, pause: Pause | None
    ) -> None:
        """What follows from the settlements: deletions that others began, companions, the journal."""
        settled = {item.stream.name for item in review.judged if item.needs_settling}
        await self.drainer.account_for_begun(review.snapshot, settled)
        if not options.only and self.judge.policy.deletes and not pause:
            await self._sweep_companions(review)
        self.deps.recorder.judged(*settlements)

    async def _unless_stopped(self, options: PassOptions, work: Coroutine[Any, Any, Review]) -> Review:
        """Do the work, or break it off: nothing is fenced yet. Raises PassAborted."""
        if options.stop is None:
            return await work
        judging, stopped = asyncio.create_task(work), asyncio.create_task(options.stop.wait())
        try:
            await asyncio.wait({judging, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if judging.done():
                return judging.result()
            raise PassAborted(INTERRUPTED)
        finally:
            stopped.cancel()
            judging.cancel()

    async def _review(self, only: frozenset[str]) -> Review:
        review = await self._reviewer.review(only)
        if self.judge.policy.deletes:
            await self.deps.rights.check()
        return review

    async def _sweep_companions(self, review: Review) -> None:
        """Of streams that others have deleted. A page may have missed one, so their names are asked for once more."""
        topology = review.snapshot.topology
        if not (jobs := self.deps.companions.jobs(topology)):
            return
        jobs -= {item.stream.job_id for item in review.judged}
        jobs -= {self.judge.policy.job_id(name) or "" for name in await self.deps.reads.stream_names()}
        if not review.snapshot.has_events:
            return
        now = instant((await self.deps.reads.stream_info(review.snapshot.lifecycle.stream)).get("ts"))
        coverage, records = await self.deps.directory.read_jobs(review.snapshot, sorted(jobs))
        assessments = await self.deps.directory.assess_all(
            {job: (records.get(job), now or 0) for job in jobs}, coverage
        )
        over = {job: by.record for job, by in assessments.items() if by.record is not None and by.coverage.intact}
        for job_id in orphaned(coverage, over, self.judge.policy, now or 0):
            left = await self.deps.companions.delete(topology, job_id)
            log.info("companions deleted, their stream is gone", job_id=job_id, left=left)

    def _check_breaker(self, judged: Sequence[Judged]) -> str | None:
        missing = sum(item.verdict == Drain(Reason.MISSING) for item in judged)
        return self.breaker.trips(missing, len(judged))

    async def _schedule(self, judged: Sequence[Judged]) -> None:
        """What waits is looked at on time, by the sweeper."""
        waits = [(item.stream, item.verdict.until) for item in judged if isinstance(item.verdict, Wait)]
        await self.deps.ledger.due.schedule({s.job_id: delay_until(until, s.observed_at) for s, until in waits})

    async def _publish_states(self, found: Sequence[Settlement], began: int, options: PassOptions) -> None:
        """For whoever looks on, before zombies begin to fall: how every stream was found."""
        await self.deps.stream_states.found(found, began)
        if not options.only:
            await self.deps.ledger.stream_states.forget_older(began)
            await self.deps.stream_states.passed(found, self.deps.reads.has_stream)

    async def _settle_all(
        self,
        review: Review,
        found: Sequence[Settlement],
        options: PassOptions,
        progress: Progress,
        hold: Hold | None,
    ) -> list[Settlement]:
        """Return what becomes of each; of terminal zombies at the hands of all replicas, if they are handed over."""
        delegates = options.handover and self.judge.policy.deletes and not hold
        handed = [item for item in found if _is_terminal_zombie(item)] if delegates else []
        others = {item.stream.name for item in handed}
        hands = [item for item in review.judged if item.needs_settling and item.stream.name not in others]
        settled = {item.stream.name: item for item in await self._settle_own(review, hands, options, progress, hold)}
        if not options.dry_run:
            rest = [settled.get(item.stream.name, item) for item in found if item.stream.name not in others]
            settled |= {item.stream.name: item for item in await self._report_failures(rest)}
        if options.handover:
            settled |= {item.stream.name: item for item in await options.handover.settle(handed, review.began)}
        return [settled.get(item.stream.name, item) for item in found]

    async def _settle_own(
        self,
        review: Review,
        hands: Sequence[Judged],
        options: PassOptions,
        progress: Progress,
        hold: Hold | None,
    ) -> list[Settlement]:
        done, unpublished = 0, list[Settlement]()

        async def tell() -> None:
            some, unpublished[:] = unpublished[:], []
            if not options.dry_run:
                await self.deps.stream_states.found(some)

        async def settle(item: Judged) -> Settlement:
            nonlocal done
            if hold and isinstance(item.verdict, Drain):  # a fence that stands too long goes
                settlement = hold(item)
            else:
                settlement = await self._settle(review.snapshot, item, options)
                unpublished.append(settlement)
            if len(unpublished) >= STATE_BATCH:
                await tell()
            done += 1
            progress(done, len(hands))
            return settlement

        settled = await self.deps.throttle.each(hands, settle)
        await tell()
        return settled

    async def _report_failures(self, settlements: Sequence[Settlement]) -> list[Settlement]:
        """Unfixable ones, with their attempts, and the next one in the due queue. The others begin anew."""
        failed = [item for item in settlements if item.outcome is Outcome.UNFIXABLE]
        await self.deps.ledger.tallies.forgive({item.stream.job_id for item in failed})
        reported = await self.deps.throttle.each(failed, self.deps.retries.report)
        await self.deps.ledger.due.schedule(
            {item.stream.job_id: item.retry_s for item in reported if item.retry_s is not None}
        )
        return reported

    def _absent(self, options: PassOptions, judged: Sequence[Judged]) -> list[Settlement]:
        """Return streams that were named and are not there."""
        gone = sorted(options.only - {item.stream.name for item in judged})
        streams = [Stream(name, self.judge.policy.job_id(name) or "", 0) for name in gone]
        return [Settlement(Outcome.ALREADY_GONE, Reason.GONE, stream) for stream in streams]

    async def _settle(self, snapshot: Snapshot, item: Judged, options: PassOptions) -> Settlement:
        target = Target(item.stream.name, item.stream.job_id, item.stream.created)
        try:
            if options.dry_run:
                settlement = await self.judge.preview(snapshot, target)
            else:
                await self.deps.throttle.turn()
                if options.is_stopped:
                    return replace(_as_it_is(item), outcome=Outcome.KEPT, detail=INTERRUPTED)
                settlement = await self.drainer.drain_stream(snapshot, target, options.under)
        except LedgerError as error:
            detail = f"Redis failed on the way: {error}"
            return Settlement(Outcome.UNFIXABLE, Reason.OUTCOME_UNKNOWN, item.stream, item.record, detail=detail)
        return settlement if settlement.stream.observed_at else replace(settlement, stream=item.stream)


def _is_terminal_zombie(found: Settlement) -> bool:
    return (found.outcome, found.reason) == (Outcome.WOULD_DRAIN, Reason.TERMINAL)


def _hold(breaker: str | None, pause: Pause | None, options: PassOptions) -> Hold | None:
    """Return what becomes of the zombies of a pass that may not delete; None if it may."""
    if pause and not options.dry_run:
        return lambda item: held_back(_as_it_is(item), pause)
    if breaker:
        outcome = Outcome.WOULD_DRAIN if options.dry_run else Outcome.KEPT
        return lambda item: replace(_as_it_is(item), outcome=outcome, detail="held back by the breaker")
    return None


def _found(review: Review) -> list[Settlement]:
    return [with_source_name(_as_it_is(item), review.snapshot.topology) for item in review.judged]


def _as_it_is(item: Judged) -> Settlement:
    return settlement_of(item.verdict, item.stream, item.record, item.coverage)
