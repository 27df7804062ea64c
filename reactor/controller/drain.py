"""The effect: `drain_stream`, the only place that deletes.

STREAM.DELETE takes no precondition. Check-then-delete destroys acknowledged messages in most races with a publisher,
and looking again behind a fence proves nothing where the nodes of a cluster are milliseconds apart: what the stream's
leader has proposed and not committed is in no STREAM.INFO, and is acknowledged a moment later (measured). Only the
stream's own order can tell. So:

    look     one fresh STREAM.INFO (its last sequence is L), the record read again, the job's last event from the leader
    fence    one STREAM.UPDATE: the server's own config with another subject, and in the metadata what is to be given
             back. From here on a publisher gets a loud error. The answer tells the incarnation
    recheck  the job's last event once more: whoever says that it lives before the fence stood is heard
    barrier  a message that the stream refuses behind all that it had accepted: its refusal proves that L is the end
    delete   then companions, and the outcome in the audit

Each effect (fence, unfence, delete) begins only while the own lease has time left by the monotonic clock, and is still
there in Redis, so a replica that was paused, or whose lease an emptied Redis forgot, does nothing more. Killed
anywhere, the fence tells the next look whose it is and until when: then it is taken over, through a barrier of its own,
or taken away. A request without an answer may still happen: its stream is left alone until the lease has run out, then
looked at again. docs/safety.md has the argument.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from reactor.controller.failpoints import Point, reach, reach_during
from reactor.core.explain import both_words
from reactor.core.model import (
    SECOND,
    Coverage,
    Drain,
    Fence,
    Keep,
    Outcome,
    Reason,
    Record,
    Settlement,
    Stream,
    Unfixable,
    Verdict,
    Wait,
    format_instant,
)
from reactor.core.observer import FORGETFUL, Observer
from reactor.core.policy import Policy, decide, fell_due, is_over
from reactor.core.stream_info import (
    fenced,
    fenced_subject,
    figures_of,
    instant,
    is_silent,
    lifted_of,
    read_consumers,
    read_fence,
    read_stream,
    unfenced,
)
from reactor.directories.events import Directory, Known
from reactor.jetstream.client import (
    JetStream,
    JetStreamError,
    NobodyThere,
    NotFound,
    PermissionDenied,
    Raw,
    Refused,
    Unanswered,
)
from reactor.jetstream.permissions import for_deleting
from reactor.jetstream.topology import streams_of_advisories
from reactor.store.audit import Audit, Intent
from reactor.store.ledger import Lease, Ledger, LedgerError
from reactor.telemetry.journal import Journal
from reactor.telemetry.traces import span

log = structlog.get_logger(__name__)

_PATIENCE_S = (0.005, 0.02, 0.1, 0.4)
"""Pauses between barriers that nobody heard; four are more than any cluster needs to tell its nodes of a subject."""


@dataclass(frozen=True, slots=True)
class Target:
    """A stream to settle, by the exact name that was listed; `created` where an incarnation was judged already."""

    name: str
    job_id: str
    created: int | None = None


@dataclass(frozen=True, slots=True)
class Companions:
    """Consumers that exist for a job outside its stream, on whichever streams capture advisories: name templates."""

    templates: tuple[str, ...] = ()

    def job_of(self, consumer: str) -> str | None:
        """The job that a consumer of that name exists for; None where it is no companion."""
        for template in self.templates:
            before, _, after = template.partition("{job_id}")
            job_id = consumer.removeprefix(before).removesuffix(after)
            if job_id and before + job_id + after == consumer:
                return job_id
        return None


@dataclass(frozen=True, slots=True)
class Look:
    """What one look saw, and the verdict on it."""

    raw: Raw
    stream: Stream
    record: Record | None
    event: Record | None
    coverage: Coverage
    verdict: Verdict
    asked_at: float
    """When the server was asked, by this process's monotonic clock."""


Announce = Callable[[str, bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Tenure:
    """The time for which a stream is ours to work on: a lease, and when it ends by our own monotonic clock."""

    lease: Lease
    deadline: float
    monotonic: Callable[[], float]

    def check(self, effect: str, *, held: bool = True) -> None:
        """Raises TenureOver where the lease has run out: somebody else may have taken over by now.

        `held` is what Redis says of it: one that was emptied may have given it to another.
        """
        if not held or self.monotonic() >= self.deadline:
            message = f"the lease ran out before the {effect}"
            raise TenureOver(message)


class TenureOver(Exception):
    """Nothing more of this stream is ours to do; the next look goes on from what stands there."""


class Drainer:
    """Settles verdicts. All its resources are handed in; it holds no other state than why deleting is paused."""

    def __init__(
        self,
        *,
        reads: JetStream,
        effects: JetStream,
        directory: Directory,
        ledger: Ledger,
        audit: Audit,
        policy: Policy,
        companions: Companions,
        lease_s: float,
        by: str,
        announce: Announce,
        journal: Journal,
        observer: Observer = FORGETFUL,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`effects` must be an unbuffered connection; `by` names this process in the audit."""
        self._reads = reads
        self._effects = effects
        self._directory = directory
        self._ledger = ledger
        self._audit = audit
        self._policy = policy
        self._companions = companions
        self._lease_s = lease_s
        self._by = by
        self._announce = announce
        self._journal = journal
        self._observer = observer
        self._monotonic = monotonic
        self._sourced: frozenset[str] = frozenset()
        self._homes: dict[str, list[str]] = {}
        self._unseen: list[str] = []
        self.paused: str | None = None
        """Why nothing is deleted: a permission is missing. Cleared by `check_rights`."""

    async def survey(self, sourced: frozenset[str] | None = None) -> None:
        """Look around once for many streams: which consumers there are where companions live.

        `sourced` are the streams that another one mirrors or sources, where the caller has just listed all.
        """
        self._sourced = self._sourced if sourced is None else sourced
        self._homes, self._unseen = {}, []
        if not self._companions.templates:
            return
        try:
            for stream in await streams_of_advisories(self._reads):
                await self._find_companions(stream)
        except JetStreamError as error:  # companions are untidy, no more
            self._unseen.append(f"companions could not be looked for: {error}")

    async def _find_companions(self, stream: str) -> None:
        try:
            for consumer in await self._reads.consumer_names(stream):
                self._homes.setdefault(consumer, []).append(stream)
        except JetStreamError as error:  # a node away takes its streams along
            self._unseen.append(f"companions on {stream} could not be looked up: {error}")

    @property
    def sees_companions(self) -> bool:
        """Whether the last survey found any."""
        return any(self._companions.job_of(consumer) for consumer in self._homes)

    async def sweep_companions(self, standing: Collection[str], now: int) -> None:
        """Delete companions that were left behind: of jobs without a stream that have been over for long enough.

        `standing` are the jobs that have a stream; `now` is the server's time. Raises LedgerError.
        """
        jobs = {consumer: self._companions.job_of(consumer) for consumer in self._homes}
        orphans = sorted({job for job in jobs.values() if job is not None} - set(standing))
        coverage, records = await self._directory.look_up(orphans)
        for job_id in orphans:
            record = records.get(job_id)
            if coverage.intact and record is not None and is_over(record, self._policy, now):
                left = await self._delete_companions(job_id)
                log.info("companions deleted, their stream is gone", job_id=job_id, left=left)

    async def check_rights(self) -> None:
        """Ask for all that it takes, on a stream that cannot exist, and resume deleting where it is allowed."""
        barred = [one.allow for one in for_deleting(self._effects) if not await self._effects.may_publish(*one.trial)]
        self.paused = f"no permission to publish to {', '.join(barred)}" if barred else None

    async def recheck_rights(self) -> None:
        """The same where deleting is paused: nothing else may be due that would ask."""
        if self.paused is not None:
            await self.check_rights()

    async def drain_stream(self, target: Target, under: Lease | None = None) -> Settlement:
        """Settle one stream: look, and where it is a zombie, fence it, prove its end, and delete it.

        `under` is the lease of the pass it belongs to, without which nothing is begun. Raises LedgerError and
        LeaseLost; what JetStream refuses or leaves open is in the settlement.
        """
        with span("drain", stream=target.name, job_id=target.job_id) as traced:
            settlement = await self._drain_stream(target, under)
            traced.set(outcome=settlement.outcome.value, reason=settlement.reason.value)
            return settlement

    async def preview(self, target: Target) -> Settlement:
        """What `drain_stream` would do now, without any effect. Raises LedgerError."""
        try:
            look = await self.look(target)
        except NotFound:
            # Without the lease it may be another's deletion that goes on right now: theirs to account for.
            return _blank(target, Outcome.ALREADY_GONE, Reason.GONE)
        except JetStreamError as error:
            return _blank(target, Outcome.KEPT, Reason.UNKNOWN, f"could not be looked at: {error}")
        if target.created is not None and look.stream.created != target.created:
            return _blank(target, Outcome.KEPT, Reason.UNKNOWN, "made anew since it was judged")
        return _by_verdict(look)

    async def _drain_stream(self, target: Target, under: Lease | None) -> Settlement:
        tenure = self._tenure(target.name)
        known = await self._directory.lease_and_look_up(tenure.lease, target.job_id, under)
        if known is None:
            return _blank(target, Outcome.WAITING, Reason.FENCED, "another replica is working on it")
        settlement = await self._settle(target, known, tenure)
        self._journal.judged(settlement)
        await self._give_back(tenure.lease, settlement)
        return settlement

    def _tenure(self, name: str) -> Tenure:
        """Begun before the lease is taken, so that it ends before that does."""
        deadline = self._monotonic() + self._lease_s
        return Tenure(Lease(f"stream:{name}", self._lease_s), deadline, self._monotonic)

    async def _give_back(self, lease: Lease, settlement: Settlement) -> None:
        """The lease; but where an answer is missing nobody touches the stream until the lease has run out."""
        if settlement.outcome is Outcome.DRAINED:
            await self._ledger.retire(settlement.stream.job_id, settlement.record, lease)
            await reach(Point.FORGOTTEN, settlement.stream.name)
        elif settlement.reason is not Reason.OUTCOME_UNKNOWN:
            await self._ledger.release(lease)

    async def _settle(self, target: Target, known: Known, tenure: Tenure) -> Settlement:
        try:
            with span("look"):
                look = await self._look(target, known)
            await reach(Point.LOOKED, target.name)
            if target.created is not None and look.stream.created != target.created:
                return _blank(target, Outcome.KEPT, Reason.UNKNOWN, "made anew since it was judged")
            if not isinstance(look.verdict, Drain):
                return await self._leave(look, tenure)
            if self.paused:
                return await self._hold_back(look, tenure, self.paused)
        except NotFound:
            return await self._gone(target)
        except TenureOver as over:
            return _blank(target, Outcome.WAITING, Reason.FENCED, str(over))
        except JetStreamError as error:
            return _blank(target, Outcome.KEPT, Reason.UNKNOWN, f"could not be looked at: {error}")
        return await self._drain(look, look.verdict.reason, tenure)

    async def look(self, target: Target) -> Look:
        """What drain_stream would see now, and judge, without any effect. Raises JetStreamError and LedgerError."""
        return await self._look(target, await self._directory.look_up([target.job_id]))

    async def _look(self, target: Target, known: Known) -> Look:
        """Everything a verdict needs, read afresh. Whichever of record and last event is newer counts."""
        asked_at = self._monotonic()
        raw = await self._reads.stream_info(target.name)
        stream = read_stream(raw, target.job_id, sourced=self._sourced)
        event = await self._directory.last_event(target.job_id)
        coverage, records = known
        record = event.merged(records.get(target.job_id)) if event else records.get(target.job_id)
        verdict = decide(stream, record, coverage, self._policy)
        if isinstance(verdict, Drain):
            stream = await self.with_consumers(stream, absent=record is None)
            verdict = decide(stream, record, coverage, self._policy)
        return Look(raw, stream, record, event, coverage, verdict, asked_at)

    async def with_consumers(self, stream: Stream, *, absent: bool) -> Stream:
        """The stream with what its consumers show. Raises JetStreamError.

        When these very figures were seen first matters where the server has forgotten when they came about, and where
        the job is `absent` from the ledger: then any change is a sign of life.
        """
        raws, first_seen = await self._reads.consumers(stream.name), None
        if absent or is_silent(raws):
            first_seen = await self._ledger.first_sighting(stream.name, figures_of(raws), stream.observed_at)
        return replace(stream, consumers=read_consumers(raws, first_seen))

    async def _leave(self, look: Look, tenure: Tenure) -> Settlement:
        """Not a zombie: give it its subjects back where a fence has outlived its lease.

        A deletion of it that somebody had begun is over, too, and is accounted for.
        """
        fence = look.stream.fence
        if fence and look.verdict == Wait(Reason.FENCED, fence.until):
            return _by_verdict(look)
        if fence and fence.subjects and not isinstance(look.verdict, Unfixable):
            settlement = await self._unfence(look, look.raw, fence, tenure)
        else:
            settlement = _by_verdict(look)
        if await self._audit.conclude(look.stream.name, None, settlement.outcome, "found so at a later look"):
            self._ended(settlement)
        return settlement

    async def _hold_back(self, look: Look, tenure: Tenure, why: str) -> Settlement:
        """A zombie that may not be deleted now; no stream stays fenced for that."""
        if look.stream.fence:
            with suppress(PermissionDenied):  # then it is this very right that is missing
                await self._unfence(look, look.raw, look.stream.fence, tenure)
        return _of(look, Outcome.UNFIXABLE, Reason.DELETES_PAUSED, why)

    async def _drain(self, look: Look, reason: Reason, tenure: Tenure) -> Settlement:
        """Fence, prove, delete. From the fence on, a missing answer leaves everything as it is."""
        intent = self._intent(look, reason, tenure.lease.token)
        with span("audit"):
            held = await self._audit.intend(intent)
        try:
            tenure.check("fence", held=held)
            settlement = await self._fence_and_delete(look, reason, tenure)
        except NotFound:
            settlement = _of(look, Outcome.ALREADY_GONE, reason)
        except TenureOver as over:
            settlement = _of(look, Outcome.WAITING, Reason.FENCED, str(over))
        except PermissionDenied as error:
            self.paused = str(error)
            settlement = _of(look, Outcome.UNFIXABLE, Reason.DELETES_PAUSED, str(error))
        except Unanswered as error:
            return _of(look, Outcome.UNFIXABLE, Reason.OUTCOME_UNKNOWN, f"{error}; it is looked at again later")
        except JetStreamError as error:
            settlement = _of(look, Outcome.UNFIXABLE, Reason.REFUSED, str(error))
        return await self._conclude(intent, settlement)

    async def _fence_and_delete(self, look: Look, reason: Reason, tenure: Tenure) -> Settlement:
        name, job_id = look.stream.name, look.stream.job_id
        fence = self._fence(look, tenure.lease.token)
        with span("fence"):
            update = self._effects.update_stream(fenced(look.raw["config"], fence))
            fenced_raw = await reach_during(Point.FENCE_SENT, name, update)
        await reach(Point.FENCED, name)
        try:
            kept = await self._prove(look, fenced_raw, fence, tenure)
            await reach(Point.PROVEN, name)
            if kept is None:
                with span("delete"):
                    tenure.check("deletion")
                    await reach_during(Point.DELETE_SENT, name, self._effects.delete_stream(name))
        except (NotFound, Unanswered):  # it is gone; or it may have happened, or may still happen
            raise
        except JetStreamError as error:  # nothing is proven, and nothing has happened
            if isinstance(error, NobodyThere) and not await self._is_ours(look.stream, fence):
                return _of(look, Outcome.WAITING, Reason.FENCED, "the fence is not ours any more")
            settlement = await self._unfence(look, fenced_raw, fence, tenure)
            if settlement.outcome is Outcome.UNFIXABLE:
                return settlement
            raise
        if kept is not None:
            return await self._unfence(look, fenced_raw, fence, tenure, because=kept)
        late_s = self._late_s(look)
        await reach(Point.DELETED, name)
        return replace(_of(look, Outcome.DRAINED, reason, await self._delete_companions(job_id)), late_s=late_s)

    async def _prove(self, look: Look, fenced_raw: Raw, fence: Fence, tenure: Tenure) -> Look | None:
        """None where it is proven behind the fence that the stream is what was judged; else the look that keeps it.

        Whoever got our lease from a Redis that was emptied before our fence stood may be at this stream, too: so the
        lease is asked for once more. Who got it later respects the fence. Raises TenureOver.
        """
        with span("recheck"):
            asked = self._directory.last_event(look.stream.job_id), self._ledger.holds(tenure.lease)
            event, held = await asyncio.gather(*asked)
        tenure.check("deletion", held=held)
        record = event.merged(look.record) if event else look.record
        again = replace(look, event=event, record=record)
        if event != look.event or instant(fenced_raw.get("created")) != look.stream.created:
            return again
        with span("barrier"):
            proven = await self._barrier(look.stream, fenced_subject(look.stream.name, fence.token))
        return None if proven else again

    async def _barrier(self, stream: Stream, subject: str) -> bool:
        """Whether the stream ends where the look saw its end. Raises NobodyThere where the fence is not ours.

        The server that we are connected to may hear a moment later that somebody listens to the new subject.
        """
        for pause_s in _PATIENCE_S:
            try:
                return await self._effects.barrier(stream.name, subject, stream.last_seq)
            except NobodyThere:
                await asyncio.sleep(pause_s)
        return await self._effects.barrier(stream.name, subject, stream.last_seq)

    async def _is_ours(self, stream: Stream, fence: Fence) -> bool:
        """Whether the fence that stands now is this one."""
        raw = await self._reads.stream_info(stream.name)
        standing = read_fence(raw["config"], stream.observed_at)
        return standing is not None and standing.token == fence.token

    def _late_s(self, look: Look) -> float | None:
        """Seconds from due to now: up to the look by the server's clock, from there on by our monotonic one."""
        due = fell_due(look.stream, look.record, self._policy)
        if due is None:
            return None
        return (look.stream.observed_at - due) / SECOND + self._monotonic() - look.asked_at

    def _fence(self, look: Look, token: str) -> Fence:
        """A fence of ours; where one has outlived its lease, it is taken over with all that it is to give back."""
        config, standing = look.raw["config"], look.stream.fence
        until = look.stream.observed_at + int(self._lease_s * SECOND)
        lifted = lifted_of(config, look.raw.get("state") or {})
        if standing:
            return Fence(token, until, standing.subjects, lifted | standing.lifted)
        return Fence(token, until, tuple(config["subjects"]), lifted)

    async def _unfence(
        self, look: Look, raw: Raw, fence: Fence, tenure: Tenure, because: Look | None = None
    ) -> Settlement:
        """Give a stream back what its fence has taken, and judge it without. `raw` is the stream behind the fence."""
        try:
            with span("unfence"):
                with suppress(LedgerError):  # no replica has a lease now: the clock's word will do, the job may live
                    tenure.check("unfence", held=await self._ledger.holds(tenure.lease))
                tenure.check("unfence")
                raw = await self._effects.update_stream(unfenced(raw["config"], fence))
        except Refused as error:
            if isinstance(error, NotFound):
                raise
            subjects = ", ".join(fence.subjects)
            detail = f"stays fenced, since it cannot get {subjects} back: {error}; free them, then it is tried again"
            return _of(look, Outcome.UNFIXABLE, Reason.REFUSED, detail)
        look = because or look
        stream = replace(read_stream(raw, look.stream.job_id, sourced=self._sourced), consumers=look.stream.consumers)
        verdict = decide(stream, look.record, look.coverage, self._policy)
        if isinstance(verdict, Drain):
            return _of(look, Outcome.WAITING, Reason.ACTIVE, "it changed on the way; it is looked at again later")
        return _by_verdict(replace(look, raw=raw, stream=stream, verdict=verdict))

    async def _gone(self, target: Target) -> Settlement:
        """Already gone is success. A deletion that was begun and never accounted for is accounted for now."""
        intent = (await self._audit.open_intents()).get(target.name)
        settlement = _blank(target, Outcome.ALREADY_GONE, Reason(intent.reason) if intent else Reason.GONE)
        if intent:
            await self._delete_companions(target.job_id)
            if await self._audit.conclude(target.name, None, Outcome.ALREADY_GONE, "found gone at a later look"):
                self._ended(settlement)
        return settlement

    async def account_for_begun(self, settled: Collection[str]) -> None:
        """Account for deletions that somebody began and did not live to account for, but for those just settled.

        Deletes nothing: what is a zombie still is for drain_stream. Raises LedgerError.
        """
        for name, intent in (await self._audit.open_intents()).items():
            tenure, target = self._tenure(name), Target(name, intent.job_id)
            if name in settled or not await self._ledger.lease(tenure.lease):
                continue
            try:
                look = await self.look(target)
                if not isinstance(look.verdict, Drain):
                    await self._leave(look, tenure)
            except NotFound:
                await self._gone(target)
            except (JetStreamError, TenureOver) as error:
                log.debug("a deletion that was begun cannot be accounted for yet", stream=name, error=str(error))
            finally:
                await self._ledger.release(tenure.lease)

    async def _delete_companions(self, job_id: str) -> str | None:
        """Best effort, after the stream is gone. Says what was left behind."""
        names = [template.replace("{job_id}", job_id) for template in self._companions.templates]
        left = list(self._unseen)
        for stream, consumer in [(stream, name) for name in names for stream in self._homes.get(name, ())]:
            try:
                await self._effects.delete_consumer(stream, consumer)
            except JetStreamError as error:
                left.append(f"companion {consumer} on {stream} is left: {error}")
        return "; ".join(left) or None

    def _intent(self, look: Look, reason: Reason, token: str) -> Intent:
        return Intent(
            stream=look.stream.name,
            job_id=look.stream.job_id,
            reason=reason,
            token=token,
            created=format_instant(look.stream.created or 0),
            status=look.record.status if look.record else "",
            messages=look.stream.messages,
            by=self._by,
            at=format_instant(look.stream.observed_at),
            size=look.stream.size,
        )

    def _ended(self, settlement: Settlement) -> None:
        """Tell of a deletion that was begun and is over; once for each."""
        self._observer.ended(settlement)
        self._journal.ended(settlement)

    async def _conclude(self, intent: Intent, settlement: Settlement) -> Settlement:
        self._ended(settlement)
        with span("conclude"):
            await self._audit.conclude(intent.stream, intent.token, settlement.outcome, settlement.detail or "")
        await reach(Point.AUDITED, intent.stream)
        if settlement.outcome is Outcome.DRAINED:
            await self._announce(f"reactor.drained.{intent.stream}", _outcome_event(intent))
        return settlement


def _outcome_event(intent: Intent) -> bytes:
    return json.dumps({name: value for name, value in intent.fields().items() if name not in Intent.PRIVATE}).encode()


def _blank(target: Target, outcome: Outcome, reason: Reason, detail: str | None = None) -> Settlement:
    """A settlement of a stream that could not be seen."""
    return Settlement(outcome, reason, Stream(target.name, target.job_id, 0, created=target.created), detail=detail)


def _of(look: Look, outcome: Outcome, reason: Reason, detail: str | None = None) -> Settlement:
    return Settlement(outcome, reason, look.stream, look.record, detail=detail)


def _by_verdict(look: Look) -> Settlement:
    return settlement_of(look.verdict, look.stream, look.record, look.coverage)


def settlement_of(verdict: Verdict, stream: Stream, record: Record | None, coverage: Coverage) -> Settlement:
    """A verdict that has no effect, as a settlement."""
    match verdict:
        case Keep(reason):
            detail = coverage.gap if reason is Reason.UNKNOWN else None
            if record and reason is Reason.DISPUTED:
                detail = both_words(record)
            return Settlement(Outcome.KEPT, reason, stream, record, detail=detail)
        case Wait(reason, until):
            return Settlement(Outcome.WAITING, reason, stream, record, until=until)
        case Drain(reason):
            return Settlement(Outcome.WOULD_DRAIN, reason, stream, record)
        case Unfixable(reason):
            return Settlement(Outcome.UNFIXABLE, reason, stream, record)
