"""The effect: `drain_stream`, the only place that deletes.

STREAM.DELETE takes no precondition. Check-then-delete destroys acknowledged messages in most races with a publisher.
A second STREAM.INFO behind a fence proves nothing if the nodes of a cluster are milliseconds apart: a message that the
leader has proposed but not committed is in no STREAM.INFO, and is acknowledged a moment later (measured). Only the
stream's own order proves the end. So a drain takes these steps, each a state in `states`:

    inspect  one fresh STREAM.INFO (its last sequence is L), the record, and the job's last event from the leader
    fence    one STREAM.UPDATE: the server's config with another subject, and in the metadata what to restore.
             From now on publishers get an error. The answer shows which incarnation was fenced
    recheck  the job's last event once more: an event from before the fence still keeps the stream
    barrier  a message that the stream refuses after everything it had accepted. The refusal proves that L is the end
    delete   then delete companions, and write the outcome to the audit

Each effect (fence, unfence, delete) begins only while our lease has time left by the monotonic clock and Redis still
has it. So a replica that was suspended stops, and so does one whose lease was lost with an emptied Redis. After a kill,
the fence shows the next inspection who set it and until when. That inspection takes the fence over, with a barrier of
its own, or removes it. A request without an answer may still take effect: its stream is not touched until the lease has
run out, then it is inspected again. docs/safety.md has the argument.
"""

import asyncio
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from reactor.backups.store import Backup, BackupFailed
from reactor.core.model import SECOND, Drain, Fence, Outcome, Reason, Record, Settlement, Unfixable, Wait
from reactor.core.pause import Pause
from reactor.core.policy import decide, fell_due
from reactor.core.stream_info import (
    FENCE_TOKEN_KEY,
    fenced,
    fenced_subject,
    lifted_of,
    mark_if_sourced,
    read_stream,
    recipe_of,
    silent_followers,
    unfenced,
)
from reactor.deletion.backup import BackupWriter
from reactor.deletion.concurrency import both, finished
from reactor.deletion.failpoints import Point, reach, reach_during
from reactor.deletion.inspection import inspect
from reactor.deletion.resources import Resources
from reactor.deletion.states import (
    REPLACED,
    Fenced,
    HeldLease,
    Inspection,
    LeaseExpired,
    NothingProven,
    Proven,
    Target,
    empty_settlement,
    unreachable_settlement,
)
from reactor.jetstream.errors import JetStreamError, NobodyThere, NotFound, PermissionDenied, Refused, Unanswered
from reactor.job_status.ledger_directory import JobReading, Snapshot
from reactor.store.keyspace import LedgerError
from reactor.store.leases import Lease
from reactor.telemetry.traces import span

log = structlog.get_logger(__name__)

_BARRIER_RETRY_DELAYS_S = (0.005, 0.02, 0.1, 0.4)
"""Pauses between barriers that had no subscriber. A cluster may need a moment to propagate a new subject."""


async def drain_stream(deps: Resources, snapshot: Snapshot, target: Target, under: Lease | None = None) -> Settlement:
    """Settle one stream: inspect it, and if it is a zombie, fence it, prove its end and delete it.

    `under` is the lease of the calling pass; without it nothing begins. Raises LedgerError and LeaseLost. Failures of
    JetStream are in the settlement.
    """
    with span("drain", stream=target.name, job_id=target.job_id) as traced:
        stream = HeldStream.start(deps, snapshot, target)
        known = await deps.directory.lease_and_read_job(snapshot, stream.held_lease.lease, target.job_id, under)
        if known is None:
            busy = "another replica is working on it"
            settlement = empty_settlement(target, Outcome.WAITING, Reason.FENCED, busy)
        else:
            settlement = await stream.settle(known)
            deps.recorder.judged(settlement)
            await stream.release(settlement)
        traced.set(outcome=settlement.outcome.value, reason=settlement.reason.value)
        return settlement


async def account_for_begun(deps: Resources, snapshot: Snapshot, settled: Collection[str]) -> None:
    """Record the outcome of deletions that began and never ended, except those of streams `settled` just now.

    It deletes nothing. A stream that is still a zombie is left to `drain_stream`. Raises LedgerError.
    """
    for name, intent in (await deps.recorder.begun()).items():
        stream = HeldStream.start(deps, snapshot, Target(name, intent.job_id))
        if name in settled or not await deps.ledger.leases.acquire(stream.held_lease.lease):
            continue
        try:
            await stream.account()
        except (JetStreamError, LeaseExpired) as error:
            log.debug("the outcome of an open intent is not known yet", stream=name, error=str(error))
        finally:
            await deps.ledger.leases.release(stream.held_lease.lease)


@dataclass(eq=False, repr=False)
class HeldStream:
    """A stream whose lease this process has, from its inspection to its settlement."""

    deps: Resources
    snapshot: Snapshot
    target: Target
    held_lease: HeldLease

    @classmethod
    def start(cls, deps: Resources, snapshot: Snapshot, target: Target) -> "HeldStream":
        """Start the deadline of its lease. Call this before acquiring the lease."""
        return cls(deps, snapshot, target, HeldLease.start(target.name, deps.lease_s, deps.monotonic))

    async def release(self, settlement: Settlement) -> None:
        """Release the lease. Keep it if an answer is missing, so no replica touches the stream until it runs out."""
        lease = self.held_lease.lease
        if settlement.outcome is Outcome.DRAINED:
            await self.deps.ledger.records.retire(settlement.stream.job_id, settlement.record, lease)
            await reach(Point.FORGOTTEN, settlement.stream.name)
        elif settlement.reason is not Reason.OUTCOME_UNKNOWN:
            await self.deps.ledger.leases.release(lease)

    async def settle(self, known: JobReading) -> Settlement:
        """Inspect the stream, and drain it if it is a zombie that may be deleted now. Raises LedgerError.

        `known` is what was read of the job when the lease was acquired.
        """
        target = self.target
        try:
            with span("inspect"):
                inspecting = inspect(self.deps, self.snapshot, target, known)
                inspection, pause = await both(inspecting, self.deps.pause_gate.active_pause())
            await reach(Point.INSPECTED, target.name)
            if not inspection.is_incarnation_of(target):
                return empty_settlement(target, Outcome.KEPT, Reason.UNKNOWN, REPLACED)
            if not isinstance(inspection.verdict, Drain):
                return await self._leave(inspection)
            if not inspection.judged_by(self.deps.policy).deletes:
                return await self._report(inspection)
            if pause:
                return await self._hold_back(inspection, inspection.paused(pause))
            if why := self.deps.rights.paused:
                settlement = inspection.settled(Outcome.UNFIXABLE, Reason.DELETES_PAUSED, why)
                return await self._hold_back(inspection, settlement)
        except NotFound:
            return await self._gone()
        except LeaseExpired as over:
            return empty_settlement(target, Outcome.WAITING, Reason.FENCED, str(over))
        except JetStreamError as error:
            return unreachable_settlement(target, error)
        return await self._drain(inspection, inspection.verdict.reason)

    async def _leave(self, inspection: Inspection) -> Settlement:
        """Keep a stream that is not a zombie, and remove a fence that has outlived its lease.

        If a deletion of it had begun, that deletion is over, and its outcome is recorded here.
        """
        fence = inspection.stream.fence
        if fence and inspection.verdict == Wait(Reason.FENCED, fence.until):
            return inspection.by_verdict()
        if fence and fence.subjects and not isinstance(inspection.verdict, Unfixable):
            settlement = await self.unfence(Fenced.as_found(inspection))
        else:
            settlement = inspection.by_verdict()
        await self.deps.recorder.account(settlement)
        return settlement

    async def _report(self, inspection: Inspection) -> Settlement:
        """Report a zombie and keep it (report mode). Remove a fence that was left on it."""
        if inspection.stream.fence:
            return await self.unfence(Fenced.as_found(inspection))
        settlement = inspection.by_verdict()
        await self.deps.recorder.report(settlement, inspection.grounds(self.deps.policy))
        return settlement

    async def _hold_back(self, inspection: Inspection, settlement: Settlement) -> Settlement:
        """Keep a zombie that may not be deleted now. Remove a fence that was left on it."""
        if inspection.stream.fence:
            with suppress(PermissionDenied):  # the fence needs the same permission
                await self.unfence(Fenced.as_found(inspection))
        return settlement

    async def _drain(self, inspection: Inspection, reason: Reason) -> Settlement:
        """Drain a zombie, with an intent in the audit before and the outcome after."""
        intent, held = await self.deps.recorder.begin_deletion(
            inspection.by_verdict(),
            self.held_lease.lease,
            inspection.grounds(self.deps.policy),
            recipe_of(inspection.raw, inspection.stream.fence, inspection.consumers),
        )
        try:
            await self._extend_lease_for_a_backup(inspection)
            self.held_lease.check("fence", held=held)
            settlement = await self._fence_and_delete(inspection, reason)
        except NotFound:
            settlement = inspection.settled(Outcome.ALREADY_GONE, reason)
        except LeaseExpired as over:
            settlement = inspection.settled(Outcome.WAITING, Reason.FENCED, str(over))
        except PermissionDenied as error:
            self.deps.rights.pause(str(error))
            settlement = inspection.settled(Outcome.UNFIXABLE, Reason.DELETES_PAUSED, str(error))
        except Unanswered as error:
            detail = f"{error}; it is inspected again later"
            return inspection.settled(Outcome.UNFIXABLE, Reason.OUTCOME_UNKNOWN, detail)
        except JetStreamError as error:
            settlement = inspection.settled(Outcome.UNFIXABLE, Reason.REFUSED, str(error))
        await self.deps.recorder.end_deletion(intent, settlement)
        return settlement

    async def _fence_and_delete(self, inspection: Inspection, reason: Reason) -> Settlement:
        """Fence, prove, delete. After an error, remove the fence, unless a deletion may be under way."""
        behind = await self._fence(inspection)
        try:
            proof, backup = await self._prove_with_backup(behind)
        except NotFound:
            raise
        except BaseException as error:  # noqa: BLE001  # no error, bug or cancellation may leave the stream fenced
            return await self._give_up(behind, error)
        if isinstance(proof, Pause):
            settlement = await finished(self.unfence(behind))
            return settlement if settlement.outcome is Outcome.UNFIXABLE else inspection.paused(proof)
        if isinstance(proof, Inspection):
            return await finished(self.unfence(behind, because=proof))
        kept = await self._delete_or_give_up(behind, proof)
        if backup and self.deps.backup_writer:
            self.deps.backup_writer.release(backup)
        if kept is not None:
            return kept
        late_s = self._late_s(inspection)
        await reach(Point.DELETED, inspection.stream.name)
        left = await self.deps.companions.delete(self.snapshot.topology, inspection.stream.job_id)
        address = self.deps.backup_writer.address_of(backup) if backup and self.deps.backup_writer else None
        return replace(inspection.settled(Outcome.DRAINED, reason, left), late_s=late_s, backup=address)

    async def _prove_with_backup(self, behind: Fenced) -> tuple[Proven | Inspection | Pause, Backup | None]:
        """Return the proof, and the backup if one is wanted. Writing a backup takes time, so the proof is repeated."""
        await reach(Point.FENCED, behind.inspection.stream.name)
        proof = await self._prove(behind)
        await reach(Point.PROVEN, behind.inspection.stream.name)
        if not isinstance(proof, Proven) or (backup_writer := self._backup_writer_of(behind.inspection)) is None:
            return proof, None
        backup = await backup_writer.write_backup(behind, self.held_lease)
        return await self._prove(await self._read_again(behind)), backup

    async def _delete_or_give_up(self, behind: Fenced, proof: Proven) -> Settlement | None:
        """Delete what is proven and return None; or return the settlement of a stream that was unfenced instead."""
        try:
            await self._delete(proof)
        except (NotFound, Unanswered):  # it is gone; or the deletion took effect, or still may
            raise
        except Exception as error:  # noqa: BLE001  # as in _fence_and_delete
            return await self._give_up(behind, error)
        return None

    async def _give_up(self, behind: Fenced, error: BaseException) -> Settlement:
        """Remove the fence after this error and settle the stream. Reraise the error if it is not about the stream."""
        try:
            settlement = await finished(self.unfence(behind))
        except (JetStreamError, LeaseExpired):
            if isinstance(error, Exception):
                raise
            raise error from None  # a cancellation stays a cancellation
        if not isinstance(error, Exception):
            raise error
        if settlement.outcome is Outcome.UNFIXABLE or settlement.reason is Reason.FENCED:
            return settlement
        if isinstance(error, NobodyThere):  # another client gave the stream new subjects behind our fence
            return settlement
        return _settlement_after(behind.inspection, error)

    def _backup_writer_of(self, inspection: Inspection) -> BackupWriter | None:
        """Return the backup writer if this stream may only be deleted after a backup, else None."""
        writer = self.deps.backup_writer
        return writer if writer and writer.wants(inspection, inspection.judged_by(self.deps.policy).backup) else None

    async def _extend_lease_for_a_backup(self, inspection: Inspection) -> None:
        """Extend our lease by the time that a backup may take, if this stream gets one. Raises LeaseExpired."""
        if backup_writer := self._backup_writer_of(inspection):
            longer = self.held_lease.lasting(backup_writer.time_for(inspection, self.deps.lease_s))
            self.held_lease.check("fence", held=await self.deps.ledger.leases.renew(longer.lease))
            self.held_lease = longer

    def _late_s(self, inspection: Inspection) -> float | None:
        """Return the seconds since the stream fell due: by the server's clock until the inspection, then by ours."""
        due = fell_due(inspection.stream, inspection.record, self.deps.policy)
        if due is None:
            return None
        return (inspection.stream.observed_at - due) / SECOND + self.deps.monotonic() - inspection.asked_at

    # The steps from one state to the next.

    async def _fence(self, inspection: Inspection) -> Fenced:
        """Replace the stream's subjects. An expired fence is taken over, with everything that it must restore."""
        config, old, stream = inspection.raw["config"], inspection.stream.fence, inspection.stream
        if stream.sealed:
            return replace(Fenced.as_found(inspection), fence=None)
        # The fence never ends before our own deadline, because we asked before the server answered.
        until = stream.observed_at + int((self.held_lease.deadline - inspection.asked_at) * SECOND)
        subjects, lifted = tuple(config["subjects"]), lifted_of(config)
        if old:
            subjects, lifted = old.subjects, lifted | old.lifted
        fence = Fence(self.held_lease.lease.token, until, subjects, lifted)
        asked_at = self.held_lease.monotonic()
        with span("fence"):
            update = self.deps.effects.update_stream(fenced(config, fence))
            raw = await finished(reach_during(Point.FENCE_SENT, stream.name, update))
        return Fenced(inspection, raw, fence, asked_at)

    async def _read_again(self, behind: Fenced) -> Fenced:
        """Return the same state with a fresh STREAM.INFO, because others may have changed the stream."""
        asked_at = self.held_lease.monotonic()
        raw = await self.deps.effects.stream_info(behind.inspection.stream.name)
        return replace(behind, raw=raw, asked_at=asked_at)

    async def _prove(self, behind: Fenced) -> Proven | Inspection | Pause:
        """Return the proof that no message came since the inspection; or the inspection or pause that keeps the stream.

        The lease is checked in Redis again: if Redis was emptied before our fence, another replica may have it now. A
        replica that gets it later respects the fence. Raises LeaseExpired.
        """
        inspection = behind.inspection
        with span("recheck"):
            event, held = await both(
                self.deps.directory.last_event_since(self.snapshot, inspection.stream.job_id, inspection.event),
                self.deps.ledger.leases.is_held(self.held_lease.lease),
            )
        self.held_lease.check("deletion", held=held)
        again = await self._rechecked(inspection, event)
        is_unchanged = event == inspection.event and again.directory_status == inspection.directory_status
        if not (is_unchanged and again.coverage.intact):
            return again
        if behind.fence is None:
            behind = await self._read_again(behind)
        if not behind.is_as_judged():
            return again
        with span("barrier"):
            end, pause = await both(self._end(behind), self.deps.pause_gate.active_pause())
        if pause:
            return pause
        if end != inspection.stream.last_seq:
            return again
        return Proven(behind)

    async def _rechecked(self, inspection: Inspection, event: Record | None) -> Inspection:
        """Return the inspection with the job's status as its sources report it behind the fence."""
        record = event.merged(inspection.record) if event else inspection.record
        stream = inspection.stream
        assessment = await self.deps.directory.assess(stream.job_id, record, stream.observed_at, inspection.coverage)
        return replace(
            inspection,
            event=event,
            record=assessment.record,
            coverage=assessment.coverage,
            directory_status=assessment.directory_status,
        )

    async def _end(self, behind: Fenced) -> int:
        """Return the stream's last sequence, from the barrier. Raises NobodyThere if our fence is gone.

        Our server may learn about the fence's subject a moment later, so the barrier is repeated.
        """
        name = behind.inspection.stream.name
        if behind.fence is None:
            return read_stream(behind.raw, "").last_seq
        subject = fenced_subject(name, behind.fence.token)
        for pause_s in _BARRIER_RETRY_DELAYS_S:
            try:
                return await self.deps.effects.barrier(name, subject)
            except NobodyThere:
                await asyncio.sleep(pause_s)
        return await self.deps.effects.barrier(name, subject)

    async def _delete(self, proven: Proven) -> None:
        """Delete the stream if the proof still holds. Else raise LeaseExpired or NothingProven."""
        name = proven.behind.inspection.stream.name
        with span("delete"):
            self.held_lease.check("deletion")
            if why := silent_followers(proven.behind.raw, self.held_lease.monotonic() - proven.behind.asked_at):
                raise NothingProven(why)
            await reach_during(Point.DELETE_SENT, name, self.deps.effects.delete_stream(name))

    async def unfence(self, behind: Fenced, because: Inspection | None = None) -> Settlement:
        """Remove the fence, restore what it replaced, and judge the stream again.

        `because` is the inspection behind the fence that keeps the stream. The config is read again first, so changes
        of others stay. Raises LeaseExpired.
        """
        inspection, fence, raw = behind.inspection, behind.fence, behind.raw
        try:
            with span("unfence"):
                with suppress(LedgerError):  # no replica can get a lease now, so our clock decides
                    self.held_lease.check("unfence", held=await self.deps.ledger.leases.is_held(self.held_lease.lease))
                if fence is not None:
                    raw = await self.deps.effects.stream_info(inspection.stream.name)
                    if (raw["config"].get("metadata") or {}).get(FENCE_TOKEN_KEY) != fence.token:
                        return inspection.settled(Outcome.WAITING, Reason.FENCED, "the fence is not ours any more")
                    self.held_lease.check("unfence")
                    raw = await self.deps.effects.update_stream(unfenced(raw["config"], fence))
        except Refused as error:
            if isinstance(error, NotFound):
                raise
            subjects = ", ".join(fence.subjects) if fence else ""
            detail = f"stays fenced, since it cannot get {subjects} back: {error}; free them, then it is tried again"
            return inspection.settled(Outcome.UNFIXABLE, Reason.REFUSED, detail)
        inspection = because or inspection
        stream = mark_if_sourced(read_stream(raw, inspection.stream.job_id), self.snapshot.topology.sourced)
        stream = replace(stream, consumers=inspection.stream.consumers)
        verdict = decide(stream, inspection.record, inspection.coverage, self.deps.policy)
        if isinstance(verdict, Drain):
            detail = "it changed meanwhile; it is inspected again later"
            return inspection.settled(Outcome.WAITING, Reason.ACTIVE, detail)
        return replace(inspection, raw=raw, stream=stream, verdict=verdict).by_verdict()

    # Deletions that another process began and did not finish.

    async def account(self) -> None:
        """Record the outcome of a deletion that began and never ended, unless the stream is still a zombie."""
        try:
            inspection = await inspect(self.deps, self.snapshot, self.target)
            if not isinstance(inspection.verdict, Drain):
                await self._leave(inspection)
        except NotFound:
            await self._gone()

    async def _gone(self) -> Settlement:
        """Settle a stream that is gone, which is a success. Record the outcome of an open intent."""
        intent = (await self.deps.recorder.begun()).get(self.target.name)
        reason = Reason(intent.reason) if intent else Reason.GONE
        settlement = empty_settlement(self.target, Outcome.ALREADY_GONE, reason)
        if intent:
            await self.deps.companions.delete(self.snapshot.topology, self.target.job_id)
            await self.deps.recorder.account(settlement)
        return settlement


def _settlement_after(inspection: Inspection, error: BaseException) -> Settlement:
    """Return the settlement of a stream that was unfenced after this error. Raise any other error again."""
    match error:
        case BackupFailed():
            return inspection.settled(Outcome.UNFIXABLE, Reason.BACKUP_FAILED, f"{error}; so it was not deleted")
        case NothingProven() | Unanswered():
            detail = f"{error}; its fence was removed, and it is inspected again later"
            return inspection.settled(Outcome.KEPT, Reason.UNKNOWN, detail)
        case _:
            raise error
