"""The effect: `drain_stream`, the only place that deletes.

STREAM.DELETE takes no precondition. Check-then-delete destroys acknowledged messages in most races with a publisher,
and looking again behind a fence proves nothing if the nodes of a cluster are milliseconds apart: what the stream's
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

from reactor.backups.store import Backup, BackupFailed
from reactor.core.model import SECOND, Drain, Outcome, Reason, Settlement, Unfixable, Wait
from reactor.core.pause import Pause
from reactor.core.policy import fell_due
from reactor.core.stream_info import recipe_of
from reactor.deletion.backup import BackupWriter
from reactor.deletion.failpoints import Point, reach
from reactor.deletion.fencing import Fenced, Fencing, HeldLease, LeaseExpired, NothingProven, Proven, finished
from reactor.deletion.inspection import (
    ANEW,
    Inspection,
    Inspector,
    Target,
    empty_settlement,
    is_same,
    paused,
    unreachable_settlement,
)
from reactor.deletion.resources import Resources
from reactor.jetstream.errors import JetStreamError, NobodyThere, NotFound, PermissionDenied, Unanswered
from reactor.job_status.ledger_directory import JobReading, Snapshot
from reactor.store.leases import Lease
from reactor.telemetry.traces import span

log = structlog.get_logger(__name__)


def _given_back(inspection: Inspection, error: BaseException) -> Settlement:
    """The settlement of a stream that was unfenced because of this error. Raises the error if it is not about it."""
    match error:
        case BackupFailed():
            return inspection.settled(Outcome.UNFIXABLE, Reason.BACKUP_FAILED, f"{error}; so it was not deleted")
        case NothingProven() | Unanswered():
            detail = f"{error}; it was given back, and is looked at again later"
            return inspection.settled(Outcome.KEPT, Reason.UNKNOWN, detail)
        case _:
            raise error


@dataclass(eq=False, repr=False)
class Drainer:
    """Settles streams one by one, from a look to a deletion or to leaving them as they are. It holds no state.

    `lease_s` is the time for one stream; `keeper` makes backups, None where none are wanted.
    """

    deps: Resources
    judge: Inspector
    lease_s: float
    monotonic: Callable[[], float] = time.monotonic
    backup_writer: BackupWriter | None = None

    def __post_init__(self) -> None:
        self._fencing = Fencing(self.deps, self.judge.policy)

    async def drain_stream(self, snapshot: Snapshot, target: Target, under: Lease | None = None) -> Settlement:
        """Settle one stream: look, and if it is a zombie, fence it, prove its end, and delete it.

        `under` is the lease of the pass it belongs to, without which nothing is begun. Raises LedgerError and
        LeaseLost; what JetStream refuses or leaves open is in the settlement.
        """
        with span("drain", stream=target.name, job_id=target.job_id) as traced:
            held_lease = HeldLease.begin(target.name, self.lease_s, self.monotonic)
            known = await self.deps.directory.lease_and_read_job(snapshot, held_lease.lease, target.job_id, under)
            if known is None:
                settlement = empty_settlement(
                    target, Outcome.WAITING, Reason.FENCED, "another replica is working on it"
                )
            else:
                settlement = await self._settle(snapshot, target, known, held_lease)
                self.deps.recorder.judged(settlement)
                await self._give_back(held_lease.lease, settlement)
            traced.set(outcome=settlement.outcome.value, reason=settlement.reason.value)
            return settlement

    async def _give_back(self, lease: Lease, settlement: Settlement) -> None:
        """Give the lease back, unless an answer is missing: then nobody touches the stream until it has run out."""
        if settlement.outcome is Outcome.DRAINED:
            await self.deps.ledger.records.retire(settlement.stream.job_id, settlement.record, lease)
            await reach(Point.FORGOTTEN, settlement.stream.name)
        elif settlement.reason is not Reason.OUTCOME_UNKNOWN:
            await self.deps.ledger.leases.release(lease)

    async def _settle(self, snapshot: Snapshot, target: Target, known: JobReading, held_lease: HeldLease) -> Settlement:
        try:
            with span("look"):
                inspection, pause = await asyncio.gather(
                    self.judge.inspect(snapshot, target, known), self.deps.pause_gate.active_pause()
                )
            await reach(Point.LOOKED, target.name)
            if not is_same(inspection, target):
                return empty_settlement(target, Outcome.KEPT, Reason.UNKNOWN, ANEW)
            if not isinstance(inspection.verdict, Drain):
                return await self._leave(inspection, held_lease)
            if not self.judge.policy.deletes:
                return await self._report(inspection, held_lease)
            if pause:
                return await self._hold_back(inspection, held_lease, paused(inspection, pause))
            if why := self.deps.rights.paused:
                settlement = inspection.settled(Outcome.UNFIXABLE, Reason.DELETES_PAUSED, why)
                return await self._hold_back(inspection, held_lease, settlement)
        except NotFound:
            return await self._gone(snapshot, target)
        except LeaseExpired as over:
            return empty_settlement(target, Outcome.WAITING, Reason.FENCED, str(over))
        except JetStreamError as error:
            return unreachable_settlement(target, error)
        return await self._drain(inspection, inspection.verdict.reason, held_lease)

    async def _leave(self, inspection: Inspection, held_lease: HeldLease) -> Settlement:
        """Leave a stream that is no zombie; lift a fence that has outlived its lease.

        A deletion of it that somebody had begun is over, too, and is accounted for.
        """
        fence = inspection.stream.fence
        if fence and inspection.verdict == Wait(Reason.FENCED, fence.until):
            return inspection.by_verdict()
        if fence and fence.subjects and not isinstance(inspection.verdict, Unfixable):
            settlement = await self._fencing.unfence(
                Fenced(inspection, inspection.raw, fence, inspection.asked_at), held_lease
            )
        else:
            settlement = inspection.by_verdict()
        await self.deps.recorder.account(settlement)
        return settlement

    async def _report(self, inspection: Inspection, held_lease: HeldLease) -> Settlement:
        """Report a zombie and leave it alone; lift a fence that stands."""
        if inspection.stream.fence:
            return await self._fencing.unfence(
                Fenced(inspection, inspection.raw, inspection.stream.fence, inspection.asked_at), held_lease
            )
        settlement = inspection.by_verdict()
        await self.deps.recorder.report(settlement)
        return settlement

    async def _hold_back(self, inspection: Inspection, held_lease: HeldLease, settlement: Settlement) -> Settlement:
        """Hold a zombie back that may not be deleted now; lift a fence that stands."""
        if inspection.stream.fence:
            with suppress(PermissionDenied):  # then it is this very right that is missing
                await self._fencing.unfence(
                    Fenced(inspection, inspection.raw, inspection.stream.fence, inspection.asked_at), held_lease
                )
        return settlement

    async def _drain(self, inspection: Inspection, reason: Reason, held_lease: HeldLease) -> Settlement:
        """Drain a zombie, with an intent in the audit before and the outcome after."""
        settlement, made_of = (
            inspection.by_verdict(),
            recipe_of(inspection.raw, inspection.stream.fence, inspection.consumers),
        )
        intent, held = await self.deps.recorder.begin(
            settlement, held_lease.lease, inspection.grounds(self.judge.policy), made_of
        )
        try:
            held_lease = await self._with_time_for_a_backup(inspection, held_lease)
            held_lease.check("fence", held=held)
            settlement = await self._fence_and_delete(inspection, reason, held_lease)
        except NotFound:
            settlement = inspection.settled(Outcome.ALREADY_GONE, reason)
        except LeaseExpired as over:
            settlement = inspection.settled(Outcome.WAITING, Reason.FENCED, str(over))
        except PermissionDenied as error:
            self.deps.rights.pause(str(error))
            settlement = inspection.settled(Outcome.UNFIXABLE, Reason.DELETES_PAUSED, str(error))
        except Unanswered as error:
            detail = f"{error}; it is looked at again later"
            return inspection.settled(Outcome.UNFIXABLE, Reason.OUTCOME_UNKNOWN, detail)
        except JetStreamError as error:
            settlement = inspection.settled(Outcome.UNFIXABLE, Reason.REFUSED, str(error))
        await self.deps.recorder.end(intent, settlement)
        return settlement

    async def _fence_and_delete(self, inspection: Inspection, reason: Reason, held_lease: HeldLease) -> Settlement:
        """Fence, prove, delete. Whatever is raised behind the fence unfences first, if no deletion is under way."""
        behind = await self._fencing.fence(inspection, held_lease)
        try:
            proof, backup = await self._prove(behind, held_lease)
        except NotFound:
            raise
        except BaseException as error:  # noqa: BLE001  # no error, bug or cancellation may leave the stream fenced
            return await self._give_up(behind, held_lease, error)
        if isinstance(proof, Pause):
            settlement = await finished(self._fencing.unfence(behind, held_lease))
            return settlement if settlement.outcome is Outcome.UNFIXABLE else paused(inspection, proof)
        if isinstance(proof, Inspection):
            return await finished(self._fencing.unfence(behind, held_lease, because=proof))
        kept = await self._delete(behind, proof, held_lease)
        if backup and self.backup_writer:
            self.backup_writer.settled(backup)
        if kept is not None:
            return kept
        late_s = self._late_s(inspection)
        await reach(Point.DELETED, inspection.stream.name)
        left = await self.deps.companions.delete(inspection.snapshot.topology, inspection.stream.job_id)
        return replace(
            inspection.settled(Outcome.DRAINED, reason, left), late_s=late_s, backup=self._address_of(backup)
        )

    async def _give_up(self, behind: Fenced, held_lease: HeldLease, error: BaseException) -> Settlement:
        """Unfence after this error, and settle the stream. Raises the error if it is not about the stream."""
        try:
            settlement = await finished(self._fencing.unfence(behind, held_lease))
        except (JetStreamError, LeaseExpired):
            if isinstance(error, Exception):
                raise
            raise error from None  # a cancellation stays one
        if not isinstance(error, Exception):
            raise error
        if settlement.outcome is Outcome.UNFIXABLE or settlement.reason is Reason.FENCED:
            return settlement
        if isinstance(error, NobodyThere):  # others have given it subjects behind our fence
            return settlement
        return _given_back(behind.inspection, error)

    async def _prove(self, behind: Fenced, held_lease: HeldLease) -> tuple[Proven | Inspection | Pause, Backup | None]:
        """Return the proof, and the backup. A backup takes its time, so all is read and proven once more."""
        await reach(Point.FENCED, behind.inspection.stream.name)
        proof = await self._fencing.prove(behind, held_lease)
        await reach(Point.PROVEN, behind.inspection.stream.name)
        if not isinstance(proof, Proven) or (backup_writer := self._backup_writer_of(behind.inspection)) is None:
            return proof, None
        backup = await backup_writer.take(behind, held_lease)
        return await self._fencing.prove(await self._fencing.read_again(behind, held_lease), held_lease), backup

    async def _delete(self, behind: Fenced, proof: Proven, held_lease: HeldLease) -> Settlement | None:
        """Delete what is proven; None, or the settlement of a stream that was not deleted after all."""
        try:
            await self._fencing.delete(proof, held_lease)
        except (NotFound, Unanswered):  # it is gone; or it may have happened, or may still happen
            raise
        except Exception as error:  # noqa: BLE001  # as above
            return await self._give_up(behind, held_lease, error)
        return None

    def _address_of(self, backup: Backup | None) -> str | None:
        return self.backup_writer.address_of(backup) if backup and self.backup_writer else None

    def _backup_writer_of(self, inspection: Inspection) -> BackupWriter | None:
        """Return who makes the backup without which this stream does not go; None if it may."""
        return self.backup_writer if self.backup_writer and self.backup_writer.wants(inspection) else None

    async def _with_time_for_a_backup(self, inspection: Inspection, held_lease: HeldLease) -> HeldLease:
        if (backup_writer := self._backup_writer_of(inspection)) is None:
            return held_lease
        longer = held_lease.lasting(backup_writer.time_for(inspection, self.lease_s))
        held_lease.check("fence", held=await self.deps.ledger.leases.renew(longer.lease))
        return longer

    def _late_s(self, inspection: Inspection) -> float | None:
        """Return seconds from due to now: up to the look by the server's clock, from there on by our monotonic one."""
        due = fell_due(inspection.stream, inspection.record, self.judge.policy)
        if due is None:
            return None
        return (inspection.stream.observed_at - due) / SECOND + self.monotonic() - inspection.asked_at

    async def _gone(self, snapshot: Snapshot, target: Target) -> Settlement:
        """Settle a stream that is gone, which is success; account for a deletion that was begun."""
        intent = (await self.deps.recorder.begun()).get(target.name)
        settlement = empty_settlement(target, Outcome.ALREADY_GONE, Reason(intent.reason) if intent else Reason.GONE)
        if intent:
            await self.deps.companions.delete(snapshot.topology, target.job_id)
            await self.deps.recorder.account(settlement)
        return settlement

    async def account_for_begun(self, snapshot: Snapshot, settled: Collection[str]) -> None:
        """Account for deletions that somebody began and did not live to account for, but for those just settled.

        Deletes nothing: what is a zombie still is for drain_stream. Raises LedgerError.
        """
        for name, intent in (await self.deps.recorder.begun()).items():
            held_lease = HeldLease.begin(name, self.lease_s, self.monotonic)
            target = Target(name, intent.job_id)
            if name in settled or not await self.deps.ledger.leases.take(held_lease.lease):
                continue
            try:
                inspection = await self.judge.inspect(snapshot, target)
                if not isinstance(inspection.verdict, Drain):
                    await self._leave(inspection, held_lease)
            except NotFound:
                await self._gone(snapshot, target)
            except (JetStreamError, LeaseExpired) as error:
                log.debug("a deletion that was begun cannot be accounted for yet", stream=name, error=str(error))
            finally:
                await self.deps.ledger.leases.release(held_lease.lease)
