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
from dataclasses import replace

import structlog

from reactor.backups.store import Backup, BackupFailed
from reactor.core.model import SECOND, Drain, Outcome, Reason, Settlement, Unfixable, Wait
from reactor.core.pause import Pause
from reactor.core.policy import fell_due
from reactor.core.stream_info import recipe_of
from reactor.deletion.backup import Keeper
from reactor.deletion.failpoints import Point, reach
from reactor.deletion.fencing import Fenced, Fencing, NothingProven, Proven, Tenure, TenureOver, finished
from reactor.deletion.inspection import ANEW, Judge, Look, Target, blank, is_same, paused, unseen
from reactor.deletion.resources import Resources
from reactor.jetstream.errors import JetStreamError, NobodyThere, NotFound, PermissionDenied, Unanswered
from reactor.job_status.ledger_directory import Known, Snapshot
from reactor.store.leases import Lease
from reactor.telemetry.traces import span

log = structlog.get_logger(__name__)


def _given_back(look: Look, error: BaseException) -> Settlement:
    """The settlement of a stream that was unfenced because of this error. Raises the error if it is not about it."""
    match error:
        case BackupFailed():
            return look.settled(Outcome.UNFIXABLE, Reason.BACKUP_FAILED, f"{error}; so it was not deleted")
        case NothingProven() | Unanswered():
            detail = f"{error}; it was given back, and is looked at again later"
            return look.settled(Outcome.KEPT, Reason.UNKNOWN, detail)
        case _:
            raise error


class Drainer:
    """Settles streams one by one, from a look to a deletion or to leaving them as they are. It holds no state."""

    def __init__(
        self,
        resources: Resources,
        judge: Judge,
        lease_s: float,
        monotonic: Callable[[], float] = time.monotonic,
        keeper: Keeper | None = None,
    ) -> None:
        """`lease_s` is the time for one stream; `keeper` makes backups, None where none are wanted."""
        self._ledger = resources.ledger
        self._directory = resources.directory
        self._companions = resources.companions
        self._rights = resources.rights
        self._pausing = resources.pausing
        self._keeper = keeper
        self._recorder = resources.recorder
        self._judge = judge
        self._fencing = Fencing(resources, judge.policy)
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
                look, pause = await asyncio.gather(self._judge.look(snapshot, target, known), self._pausing.standing())
            await reach(Point.LOOKED, target.name)
            if not is_same(look, target):
                return blank(target, Outcome.KEPT, Reason.UNKNOWN, ANEW)
            if not isinstance(look.verdict, Drain):
                return await self._leave(look, tenure)
            if not self._judge.policy.deletes:
                return await self._report(look, tenure)
            if pause:
                return await self._hold_back(look, tenure, paused(look, pause))
            if why := self._rights.paused:
                settlement = look.settled(Outcome.UNFIXABLE, Reason.DELETES_PAUSED, why)
                return await self._hold_back(look, tenure, settlement)
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
            settlement = await self._fencing.unfence(Fenced(look, look.raw, fence, look.asked_at), tenure)
        else:
            settlement = look.by_verdict()
        await self._recorder.account(settlement)
        return settlement

    async def _report(self, look: Look, tenure: Tenure) -> Settlement:
        """A zombie that is told of, and left alone; what a fence has taken it gets back."""
        if look.stream.fence:
            return await self._fencing.unfence(Fenced(look, look.raw, look.stream.fence, look.asked_at), tenure)
        settlement = look.by_verdict()
        await self._recorder.report(settlement)
        return settlement

    async def _hold_back(self, look: Look, tenure: Tenure, settlement: Settlement) -> Settlement:
        """A zombie that may not be deleted now; no stream stays fenced for that."""
        if look.stream.fence:
            with suppress(PermissionDenied):  # then it is this very right that is missing
                await self._fencing.unfence(Fenced(look, look.raw, look.stream.fence, look.asked_at), tenure)
        return settlement

    async def _drain(self, look: Look, reason: Reason, tenure: Tenure) -> Settlement:
        """Fence, prove, delete. From the fence on, a missing answer leaves everything as it is."""
        settlement, made_of = look.by_verdict(), recipe_of(look.raw, look.stream.fence, look.consumers)
        intent, held = await self._recorder.begin(settlement, tenure.lease, look.grounds(self._judge.policy), made_of)
        try:
            tenure = await self._with_time_for_a_backup(look, tenure)
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
        """Fence, prove, delete. Whatever is raised behind the fence unfences first, if no deletion is under way."""
        behind = await self._fencing.fence(look, tenure)
        try:
            proof, backup = await self._prove(behind, tenure)
        except NotFound:
            raise
        except BaseException as error:  # noqa: BLE001  # no error, bug or cancellation may leave the stream fenced
            return await self._give_up(behind, tenure, error)
        if isinstance(proof, Pause):
            settlement = await self._fencing.unfence(behind, tenure)
            return settlement if settlement.outcome is Outcome.UNFIXABLE else paused(look, proof)
        if isinstance(proof, Look):
            return await self._fencing.unfence(behind, tenure, because=proof)
        kept = await self._delete(behind, proof, tenure)
        if backup and self._keeper:
            self._keeper.settled(backup)
        if kept is not None:
            return kept
        late_s = self._late_s(look)
        await reach(Point.DELETED, look.stream.name)
        left = await self._companions.delete(look.snapshot.topology, look.stream.job_id)
        return replace(look.settled(Outcome.DRAINED, reason, left), late_s=late_s, backup=self._address_of(backup))

    async def _give_up(self, behind: Fenced, tenure: Tenure, error: BaseException) -> Settlement:
        """Unfence after this error, and settle the stream. Raises the error if it is not about the stream."""
        try:
            settlement = await finished(self._fencing.unfence(behind, tenure))
        except (JetStreamError, TenureOver):
            if isinstance(error, Exception):
                raise
            raise error from None  # a cancellation stays one
        if not isinstance(error, Exception):
            raise error
        if settlement.outcome is Outcome.UNFIXABLE or settlement.reason is Reason.FENCED:
            return settlement
        if isinstance(error, NobodyThere):  # others have given it subjects behind our fence
            return settlement
        return _given_back(behind.look, error)

    async def _prove(self, behind: Fenced, tenure: Tenure) -> tuple[Proven | Look | Pause, Backup | None]:
        """The proof, and the backup. A backup takes its time, so all is read and proven once more."""
        await reach(Point.FENCED, behind.look.stream.name)
        proof = await self._fencing.prove(behind, tenure)
        await reach(Point.PROVEN, behind.look.stream.name)
        if not isinstance(proof, Proven) or (keeper := self._keeper_of(behind.look)) is None:
            return proof, None
        backup = await keeper.take(behind, tenure)
        return await self._fencing.prove(await self._fencing.read_again(behind, tenure), tenure), backup

    async def _delete(self, behind: Fenced, proof: Proven, tenure: Tenure) -> Settlement | None:
        """Delete what is proven; None, or the settlement of a stream that was not deleted after all."""
        try:
            await self._fencing.delete(proof, tenure)
        except (NotFound, Unanswered):  # it is gone; or it may have happened, or may still happen
            raise
        except Exception as error:  # noqa: BLE001  # as above
            return await self._give_up(behind, tenure, error)
        return None

    def _address_of(self, backup: Backup | None) -> str | None:
        return self._keeper.address_of(backup) if backup and self._keeper else None

    def _keeper_of(self, look: Look) -> Keeper | None:
        """Who makes the backup without which this stream does not go; None where it may."""
        return self._keeper if self._keeper and self._keeper.wants(look) else None

    async def _with_time_for_a_backup(self, look: Look, tenure: Tenure) -> Tenure:
        if (keeper := self._keeper_of(look)) is None:
            return tenure
        longer = tenure.lasting(keeper.time_for(look, self._lease_s))
        tenure.check("fence", held=await self._ledger.leases.renew(longer.lease))
        return longer

    def _late_s(self, look: Look) -> float | None:
        """Seconds from due to now: up to the look by the server's clock, from there on by our monotonic one."""
        due = fell_due(look.stream, look.record, self._judge.policy)
        if due is None:
            return None
        return (look.stream.observed_at - due) / SECOND + self._monotonic() - look.asked_at

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
