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
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from reactor.controller.failpoints import Point, reach, reach_during
from reactor.controller.look import ANEW, Judge, Look, Target, blank, is_same, unseen
from reactor.controller.resources import Resources
from reactor.core.model import SECOND, Drain, Fence, Outcome, Reason, Settlement, Stream, Unfixable, Wait
from reactor.core.policy import decide, fell_due
from reactor.core.stream_info import Raw, fenced, fenced_subject, instant, lifted_of, read_fence, read_stream, unfenced
from reactor.directories.events import Known, Snapshot
from reactor.jetstream.errors import JetStreamError, NobodyThere, NotFound, PermissionDenied, Refused, Unanswered
from reactor.store.leases import Lease
from reactor.store.scripts import LedgerError
from reactor.telemetry.traces import span

log = structlog.get_logger(__name__)

_PATIENCE_S = (0.005, 0.02, 0.1, 0.4)
"""Pauses between barriers that nobody heard; four are more than any cluster needs to tell its nodes of a subject."""


@dataclass(frozen=True, slots=True)
class Tenure:
    """The time for which a stream is ours to work on: a lease, and when it ends by our own monotonic clock."""

    lease: Lease
    deadline: float
    monotonic: Callable[[], float]

    @classmethod
    def begin(cls, stream: str, seconds: float, monotonic: Callable[[], float]) -> "Tenure":
        """Begun before the lease is taken, so that it ends before that does."""
        return cls(Lease(f"stream:{stream}", seconds), monotonic() + seconds, monotonic)

    def check(self, effect: str, *, held: bool = True) -> None:
        """Raises TenureOver where the lease has run out: somebody else may have taken over by now.

        `held` is what Redis says of it: one that was emptied may have given it to another.
        """
        if not held or self.monotonic() >= self.deadline:
            message = f"the lease ran out before the {effect}"
            raise TenureOver(message)


class TenureOver(Exception):
    """Nothing more of this stream is ours to do; the next look goes on from what stands there."""


@dataclass(frozen=True, slots=True)
class Fenced:
    """The state behind a fence of ours. It is left by a proof, or by giving back what the fence took."""

    look: Look
    raw: Raw
    """The stream as the server has it now."""
    fence: Fence


@dataclass(frozen=True, slots=True)
class Proven:
    """The state behind the barrier: the stream ends where the look saw its end. Only this one may be deleted."""

    look: Look


class Drainer:
    """Settles streams one by one, from a look to a deletion or to leaving them as they are. It holds no state."""

    def __init__(
        self,
        resources: Resources,
        judge: Judge,
        lease_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`lease_s` is the time for one stream."""
        self._reads = resources.reads
        self._effects = resources.effects
        self._ledger = resources.ledger
        self._directory = resources.directory
        self._companions = resources.companions
        self._rights = resources.rights
        self._recorder = resources.recorder
        self._judge = judge
        self._lease_s = lease_s
        self._monotonic = monotonic

    async def drain_stream(self, snapshot: Snapshot, target: Target, under: Lease | None = None) -> Settlement:
        """Settle one stream: look, and where it is a zombie, fence it, prove its end, and delete it.

        `under` is the lease of the pass it belongs to, without which nothing is begun. Raises LedgerError and
        LeaseLost; what JetStream refuses or leaves open is in the settlement.
        """
        with span("drain", stream=target.name, job_id=target.job_id) as traced:
            tenure = Tenure.begin(target.name, self._lease_s, self._monotonic)
            known = await self._directory.lease_and_look_up(snapshot, tenure.lease, target.job_id, under)
            if known is None:
                settlement = blank(target, Outcome.WAITING, Reason.FENCED, "another replica is working on it")
            else:
                settlement = await self._settle(snapshot, target, known, tenure)
                self._recorder.judged(settlement)
                await self._give_back(tenure.lease, settlement)
            traced.set(outcome=settlement.outcome.value, reason=settlement.reason.value)
            return settlement

    async def _give_back(self, lease: Lease, settlement: Settlement) -> None:
        """The lease; but where an answer is missing nobody touches the stream until the lease has run out."""
        if settlement.outcome is Outcome.DRAINED:
            await self._ledger.records.retire(settlement.stream.job_id, settlement.record, lease)
            await reach(Point.FORGOTTEN, settlement.stream.name)
        elif settlement.reason is not Reason.OUTCOME_UNKNOWN:
            await self._ledger.leases.release(lease)

    async def _settle(self, snapshot: Snapshot, target: Target, known: Known, tenure: Tenure) -> Settlement:
        try:
            with span("look"):
                look = await self._judge.look(snapshot, target, known)
            await reach(Point.LOOKED, target.name)
            if not is_same(look, target):
                return blank(target, Outcome.KEPT, Reason.UNKNOWN, ANEW)
            if not isinstance(look.verdict, Drain):
                return await self._leave(look, tenure)
            if self._rights.paused:
                return await self._hold_back(look, tenure, self._rights.paused)
        except NotFound:
            return await self._gone(snapshot, target)
        except TenureOver as over:
            return blank(target, Outcome.WAITING, Reason.FENCED, str(over))
        except JetStreamError as error:
            return unseen(target, error)
        return await self._drain(look, look.verdict.reason, tenure)

    async def _leave(self, look: Look, tenure: Tenure) -> Settlement:
        """Not a zombie: give it its subjects back where a fence has outlived its lease.

        A deletion of it that somebody had begun is over, too, and is accounted for.
        """
        fence = look.stream.fence
        if fence and look.verdict == Wait(Reason.FENCED, fence.until):
            return look.by_verdict()
        if fence and fence.subjects and not isinstance(look.verdict, Unfixable):
            settlement = await self._unfence(Fenced(look, look.raw, fence), tenure)
        else:
            settlement = look.by_verdict()
        await self._recorder.account(settlement)
        return settlement

    async def _hold_back(self, look: Look, tenure: Tenure, why: str) -> Settlement:
        """A zombie that may not be deleted now; no stream stays fenced for that."""
        if look.stream.fence:
            with suppress(PermissionDenied):  # then it is this very right that is missing
                await self._unfence(Fenced(look, look.raw, look.stream.fence), tenure)
        return look.settled(Outcome.UNFIXABLE, Reason.DELETES_PAUSED, why)

    async def _drain(self, look: Look, reason: Reason, tenure: Tenure) -> Settlement:
        """Fence, prove, delete. From the fence on, a missing answer leaves everything as it is."""
        intent, held = await self._recorder.begin(look.by_verdict(), tenure.lease)
        try:
            tenure.check("fence", held=held)
            settlement = await self._fence_and_delete(look, reason, tenure)
        except NotFound:
            settlement = look.settled(Outcome.ALREADY_GONE, reason)
        except TenureOver as over:
            settlement = look.settled(Outcome.WAITING, Reason.FENCED, str(over))
        except PermissionDenied as error:
            self._rights.pause(str(error))
            settlement = look.settled(Outcome.UNFIXABLE, Reason.DELETES_PAUSED, str(error))
        except Unanswered as error:
            detail = f"{error}; it is looked at again later"
            return look.settled(Outcome.UNFIXABLE, Reason.OUTCOME_UNKNOWN, detail)
        except JetStreamError as error:
            settlement = look.settled(Outcome.UNFIXABLE, Reason.REFUSED, str(error))
        await self._recorder.end(intent, settlement)
        return settlement

    async def _fence_and_delete(self, look: Look, reason: Reason, tenure: Tenure) -> Settlement:
        behind = await self._fence(look, tenure)
        try:
            proof = await self._prove(behind, tenure)
            await reach(Point.PROVEN, look.stream.name)
            if isinstance(proof, Proven):
                await self._delete(proof, tenure)
        except (NotFound, Unanswered):  # it is gone; or it may have happened, or may still happen
            raise
        except JetStreamError as error:  # nothing is proven, and nothing has happened
            if isinstance(error, NobodyThere) and not await self._is_ours(look.stream, behind.fence):
                return look.settled(Outcome.WAITING, Reason.FENCED, "the fence is not ours any more")
            settlement = await self._unfence(behind, tenure)
            if settlement.outcome is Outcome.UNFIXABLE:
                return settlement
            raise
        if isinstance(proof, Look):
            return await self._unfence(behind, tenure, because=proof)
        late_s = self._late_s(look)
        await reach(Point.DELETED, look.stream.name)
        left = await self._companions.delete(look.snapshot.topology, look.stream.job_id)
        return replace(look.settled(Outcome.DRAINED, reason, left), late_s=late_s)

    async def _fence(self, look: Look, tenure: Tenure) -> Fenced:
        """Take the stream's subjects away; or take a fence over that has outlived its lease, with all it gives back."""
        config, standing, stream = look.raw["config"], look.stream.fence, look.stream
        until = stream.observed_at + int(self._lease_s * SECOND)
        lifted = lifted_of(config, look.raw.get("state") or {})
        subjects = tuple(config["subjects"])
        if standing:
            subjects, lifted = standing.subjects, lifted | standing.lifted
        fence = Fence(tenure.lease.token, until, subjects, lifted)
        with span("fence"):
            update = self._effects.update_stream(fenced(config, fence))
            raw = await reach_during(Point.FENCE_SENT, stream.name, update)
        await reach(Point.FENCED, stream.name)
        return Fenced(look, raw, fence)

    async def _prove(self, behind: Fenced, tenure: Tenure) -> Proven | Look:
        """A proof behind the fence that the stream is what was judged; or the look that keeps it.

        Whoever got our lease from a Redis that was emptied before our fence stood may be at this stream, too: so the
        lease is asked for once more. Who got it later respects the fence. Raises TenureOver.
        """
        look = behind.look
        with span("recheck"):
            event, held = await asyncio.gather(
                self._directory.last_event(look.snapshot, look.stream.job_id), self._ledger.leases.holds(tenure.lease)
            )
        tenure.check("deletion", held=held)
        record = event.merged(look.record) if event else look.record
        again = replace(look, event=event, record=record)
        if event != look.event or instant(behind.raw.get("created")) != look.stream.created:
            return again
        with span("barrier"):
            proven = await self._barrier(look.stream, fenced_subject(look.stream.name, behind.fence.token))
        return Proven(look) if proven else again

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

    async def _delete(self, proven: Proven, tenure: Tenure) -> None:
        """The deletion: what all of this is about."""
        name = proven.look.stream.name
        with span("delete"):
            tenure.check("deletion")
            await reach_during(Point.DELETE_SENT, name, self._effects.delete_stream(name))

    async def _is_ours(self, stream: Stream, fence: Fence) -> bool:
        """Whether the fence that stands now is this one."""
        raw = await self._reads.stream_info(stream.name)
        standing = read_fence(raw["config"], stream.observed_at)
        return standing is not None and standing.token == fence.token

    def _late_s(self, look: Look) -> float | None:
        """Seconds from due to now: up to the look by the server's clock, from there on by our monotonic one."""
        due = fell_due(look.stream, look.record, self._judge.policy)
        if due is None:
            return None
        return (look.stream.observed_at - due) / SECOND + self._monotonic() - look.asked_at

    async def _unfence(self, behind: Fenced, tenure: Tenure, because: Look | None = None) -> Settlement:
        """Give a stream back what its fence has taken, and judge it without; `because` of what was seen behind it."""
        look, fence = behind.look, behind.fence
        try:
            with span("unfence"):
                with suppress(LedgerError):  # no replica has a lease now: the clock's word will do, the job may live
                    tenure.check("unfence", held=await self._ledger.leases.holds(tenure.lease))
                tenure.check("unfence")
                raw = await self._effects.update_stream(unfenced(behind.raw["config"], fence))
        except Refused as error:
            if isinstance(error, NotFound):
                raise
            subjects = ", ".join(fence.subjects)
            detail = f"stays fenced, since it cannot get {subjects} back: {error}; free them, then it is tried again"
            return look.settled(Outcome.UNFIXABLE, Reason.REFUSED, detail)
        look = because or look
        sourced = look.snapshot.topology.sourced
        stream = replace(read_stream(raw, look.stream.job_id, sourced=sourced), consumers=look.stream.consumers)
        verdict = decide(stream, look.record, look.coverage, self._judge.policy)
        if isinstance(verdict, Drain):
            detail = "it changed on the way; it is looked at again later"
            return look.settled(Outcome.WAITING, Reason.ACTIVE, detail)
        return replace(look, raw=raw, stream=stream, verdict=verdict).by_verdict()

    async def _gone(self, snapshot: Snapshot, target: Target) -> Settlement:
        """Already gone is success. A deletion that was begun and never accounted for is accounted for now."""
        intent = (await self._recorder.begun()).get(target.name)
        settlement = blank(target, Outcome.ALREADY_GONE, Reason(intent.reason) if intent else Reason.GONE)
        if intent:
            await self._companions.delete(snapshot.topology, target.job_id)
            await self._recorder.account(settlement)
        return settlement

    async def account_for_begun(self, snapshot: Snapshot, settled: Collection[str]) -> None:
        """Account for deletions that somebody began and did not live to account for, but for those just settled.

        Deletes nothing: what is a zombie still is for drain_stream. Raises LedgerError.
        """
        for name, intent in (await self._recorder.begun()).items():
            tenure = Tenure.begin(name, self._lease_s, self._monotonic)
            target = Target(name, intent.job_id)
            if name in settled or not await self._ledger.leases.take(tenure.lease):
                continue
            try:
                look = await self._judge.look(snapshot, target)
                if not isinstance(look.verdict, Drain):
                    await self._leave(look, tenure)
            except NotFound:
                await self._gone(snapshot, target)
            except (JetStreamError, TenureOver) as error:
                log.debug("a deletion that was begun cannot be accounted for yet", stream=name, error=str(error))
            finally:
                await self._ledger.leases.release(tenure.lease)
