"""The effect: `drain_stream`, the only place that deletes.

STREAM.DELETE takes no precondition, and check-then-delete destroys acknowledged messages in most races with a
publisher (measured). So a stream is looked at afresh, fenced (its subjects are taken away, so that a publisher gets a
loud error instead of an acknowledgement that would be lost), verified behind the fence, and only then deleted:

    look    one fresh STREAM.INFO, the record read again, the job's last event read from the lifecycle stream's leader
    fence   one STREAM.UPDATE: the server's own config, other subjects, and a token in the metadata
    verify  the same incarnation, the same last sequence, our token, and no newer event; else the subjects go back
    delete  while the lease has time left; then companions, and the outcome in the audit

Killed anywhere, the fence tells the next look whose it is and until when: it is taken over, or taken away. A request
without an answer may still happen: its stream is left alone until the lease has run out, then looked at again.
"""

import json
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from reactor.audit import Audit, Intent
from reactor.directory import Directory, Known
from reactor.failpoints import Point, reach, reach_during
from reactor.jetstream import JetStream, JetStreamError, NotFound, PermissionDenied, Raw, Refused, Unanswered
from reactor.journal import Journal
from reactor.ledger import Lease, Ledger
from reactor.model import (
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
from reactor.observer import FORGETFUL, Observer
from reactor.policy import Policy, decide, fell_due
from reactor.rights import PROBE
from reactor.traces import span
from reactor.wire import fenced, read_consumers, read_stream, restarted_figures, unfenced

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """A stream to settle, by the exact name that was listed; `created` where an incarnation was judged already."""

    name: str
    job_id: str
    created: int | None = None


@dataclass(frozen=True, slots=True)
class Companions:
    """Consumers that exist for a job outside its stream: name templates, and the streams they may be on."""

    templates: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()


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
        for stream in self._companions.streams if self._companions.templates else ():
            try:
                consumers = await self._reads.consumer_names(stream)
            except JetStreamError as error:  # a node away takes its streams along; companions are untidy, no more
                self._unseen.append(f"companions on {stream} could not be looked up: {error}")
                continue
            for consumer in consumers:
                self._homes.setdefault(consumer, []).append(stream)

    async def check_rights(self) -> None:
        """Ask to update and delete a stream that cannot exist, and resume deleting where both are allowed."""
        try:
            with suppress(Refused):
                await self._effects.update_stream({"name": PROBE})
            with suppress(NotFound):
                await self._effects.delete_stream(PROBE)
        except PermissionDenied as error:
            self.paused = str(error)
        else:
            self.paused = None

    async def recheck_rights(self) -> None:
        """The same where deleting is paused: nothing else may be due that would ask."""
        if self.paused is not None:
            await self.check_rights()

    async def drain_stream(self, target: Target, *, dry_run: bool = False, under: Lease | None = None) -> Settlement:
        """Settle one stream: look, and where it is a zombie, fence, verify and delete it.

        `under` is the lease of the pass it belongs to, without which nothing is begun. Raises LedgerError and
        LeaseLost; what JetStream refuses or leaves open is in the settlement.
        """
        with span("drain", stream=target.name, job_id=target.job_id, dry_run=dry_run) as traced:
            settlement = await self._drain_stream(target, under, dry_run=dry_run)
            traced.set(outcome=settlement.outcome.value, reason=settlement.reason.value)
            return settlement

    async def _drain_stream(self, target: Target, under: Lease | None, *, dry_run: bool) -> Settlement:
        lease, deadline = Lease(f"stream:{target.name}", self._lease_s), self._monotonic() + self._lease_s
        if dry_run:
            return await self._settle(target, await self._directory.look_up([target.job_id]), None, deadline)
        known = await self._directory.lease_and_look_up(lease, target.job_id, under)
        if known is None:
            return _blank(target, Outcome.WAITING, Reason.FENCED, "another replica is working on it")
        settlement = await self._settle(target, known, lease, deadline)
        self._journal.judged(settlement)
        await self._give_back(lease, settlement)
        return settlement

    async def _give_back(self, lease: Lease, settlement: Settlement) -> None:
        """The lease; but where an answer is missing nobody touches the stream until the lease has run out."""
        if settlement.outcome is Outcome.DRAINED:
            await self._ledger.retire(settlement.stream.job_id, settlement.record, lease)
            await reach(Point.FORGOTTEN, settlement.stream.name)
        elif settlement.reason is not Reason.OUTCOME_UNKNOWN:
            await self._ledger.release(lease)

    async def _settle(self, target: Target, known: Known, lease: Lease | None, deadline: float) -> Settlement:
        try:
            with span("look"):
                look = await self._look(target, known)
            await reach(Point.LOOKED, target.name)
            if target.created is not None and look.stream.created != target.created:
                return _blank(target, Outcome.KEPT, Reason.UNKNOWN, "made anew since it was judged")
            if not isinstance(look.verdict, Drain):
                return await self._leave(look, dry_run=lease is None)
        except NotFound:
            # Without the lease it may be another's deletion that goes on right now: theirs to account for.
            return await self._gone(target) if lease else _blank(target, Outcome.ALREADY_GONE, Reason.GONE)
        except JetStreamError as error:
            return _blank(target, Outcome.KEPT, Reason.UNKNOWN, f"could not be looked at: {error}")
        if lease is None:
            return _of(look, Outcome.WOULD_DRAIN, look.verdict.reason)
        if self.paused:
            return _of(look, Outcome.UNFIXABLE, Reason.DELETES_PAUSED, self.paused)
        return await self._drain(look, look.verdict.reason, lease.token, deadline)

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
        record = max((r for r in (records.get(target.job_id), event) if r is not None), default=None)
        verdict = decide(stream, record, coverage, self._policy)
        if isinstance(verdict, Drain):
            stream = await self.with_consumers(stream)
            verdict = decide(stream, record, coverage, self._policy)
        return Look(raw, stream, record, event, coverage, verdict, asked_at)

    async def _look_behind(self, look: Look) -> Look:
        """What stands behind the fence: the stream, and whether anybody has spoken for the job since."""
        raw = await self._reads.stream_info(look.stream.name)
        stream = read_stream(raw, look.stream.job_id, sourced=self._sourced)
        event = await self._directory.last_event(look.stream.job_id)
        record = max((r for r in (look.record, event) if r is not None), default=None)
        return replace(look, raw=raw, stream=stream, event=event, record=record)

    async def with_consumers(self, stream: Stream) -> Stream:
        """The stream with what its consumers show. Raises JetStreamError."""
        raws = await self._reads.consumers(stream.name)
        first_seen = None
        if figures := restarted_figures(raws):
            first_seen = await self._ledger.first_sighting(stream.name, figures, stream.observed_at)
        return replace(stream, consumers=read_consumers(raws, first_seen))

    async def _leave(self, look: Look, *, dry_run: bool) -> Settlement:
        """Not a zombie: give it its subjects back where a fence has outlived its lease.

        A deletion of it that somebody had begun is over, too, and is accounted for.
        """
        fence = look.stream.fence
        if dry_run or (fence and look.verdict == Wait(Reason.FENCED, fence.until)):
            return _by_verdict(look)
        if fence and not isinstance(look.verdict, Unfixable):
            settlement = await self._unfence(look, fence)
        else:
            settlement = _by_verdict(look)
        if await self._audit.conclude(look.stream.name, None, settlement.outcome, "found so at a later look"):
            self._ended(settlement)
        return settlement

    async def _drain(self, look: Look, reason: Reason, token: str, deadline: float) -> Settlement:
        """Fence, verify, delete. From the fence on, a missing answer leaves everything as it is."""
        intent = self._intent(look, reason, token)
        with span("audit"):
            await self._audit.intend(intent)
        try:
            settlement = await self._fence_verify_delete(look, reason, token, deadline)
        except NotFound:
            settlement = _of(look, Outcome.ALREADY_GONE, reason)
        except PermissionDenied as error:
            self.paused = str(error)
            settlement = _of(look, Outcome.UNFIXABLE, Reason.DELETES_PAUSED, str(error))
        except Unanswered as error:
            return _of(look, Outcome.UNFIXABLE, Reason.OUTCOME_UNKNOWN, f"{error}; it is looked at again later")
        except JetStreamError as error:
            settlement = _of(look, Outcome.UNFIXABLE, Reason.REFUSED, str(error))
        return await self._conclude(intent, settlement)

    async def _fence_verify_delete(self, look: Look, reason: Reason, token: str, deadline: float) -> Settlement:
        with span("fence"):
            await self._effects.update_stream(fenced(look.raw["config"], self._fence(look, token)))
        await reach(Point.FENCED, look.stream.name)
        with span("verify"):
            again = await self._look_behind(look)
        if not _is_unchanged(look, again, token):
            return await self._abort(again, token)
        await reach(Point.VERIFIED, look.stream.name)
        if self._monotonic() >= deadline:  # paused on the way: somebody else may have taken over by now
            return _of(again, Outcome.WAITING, Reason.FENCED, "the lease ran out before the deletion")
        with span("delete"):
            await reach_during(Point.DELETE_SENT, look.stream.name, self._effects.delete_stream(look.stream.name))
        late_s = self._late_s(look)
        await reach(Point.DELETED, look.stream.name)
        settlement = _of(look, Outcome.DRAINED, reason, await self._delete_companions(look.stream.job_id))
        return replace(settlement, late_s=late_s)

    def _late_s(self, look: Look) -> float | None:
        """Seconds from due to now: up to the look by the server's clock, from there on by our monotonic one."""
        due = fell_due(look.stream, look.record, self._policy)
        if due is None:
            return None
        return (look.stream.observed_at - due) / SECOND + self._monotonic() - look.asked_at

    def _fence(self, look: Look, token: str) -> Fence:
        """A fence of ours; where one has outlived its lease, it is taken over with the subjects it has kept."""
        subjects = look.stream.fence.subjects if look.stream.fence else tuple(look.raw["config"]["subjects"])
        return Fence(token, look.stream.observed_at + int(self._lease_s * SECOND), subjects)

    async def _abort(self, again: Look, token: str) -> Settlement:
        """Something changed on the way: the job may live. Give the subjects back, if the fence is ours."""
        if again.stream.fence is None or again.stream.fence.token != token:
            return _of(again, Outcome.WAITING, Reason.FENCED, "it changed on the way, and the fence is not ours")
        return await self._unfence(again, again.stream.fence)

    async def _unfence(self, look: Look, fence: Fence) -> Settlement:
        """Give a stream its subjects back, and judge it without its fence."""
        with span("unfence"):
            raw = await self._effects.update_stream(unfenced(look.raw["config"], fence))
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
            lease, target = Lease(f"stream:{name}", self._lease_s), Target(name, intent.job_id)
            if name in settled or not await self._ledger.lease(lease):
                continue
            try:
                look = await self.look(target)
                if not isinstance(look.verdict, Drain):
                    await self._leave(look, dry_run=False)
            except NotFound:
                await self._gone(target)
            except JetStreamError as error:
                log.debug("a deletion that was begun cannot be accounted for yet", stream=name, error=str(error))
            finally:
                await self._ledger.release(lease)

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


def _is_unchanged(look: Look, again: Look, token: str) -> bool:
    """Whether what stands behind the fence is what was judged, and nobody has spoken for the job since."""
    return (
        again.stream.created == look.stream.created
        and again.stream.last_seq == look.stream.last_seq
        and again.stream.fence is not None
        and again.stream.fence.token == token
        and again.raw["config"]["subjects"] == [f"reactor.fence.{look.stream.name}"]
        and again.event == look.event
    )


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
            return Settlement(Outcome.KEPT, reason, stream, record, detail=detail)
        case Wait(reason, until):
            return Settlement(Outcome.WAITING, reason, stream, record, until=until)
        case Drain(reason):
            return Settlement(Outcome.WOULD_DRAIN, reason, stream, record)
        case Unfixable(reason):
            return Settlement(Outcome.UNFIXABLE, reason, stream, record)
