"""The steps behind a drain: fence, proof, deletion, and the way back. `drain` says why they stand in this order.

Each effect begins only while the own lease has time left by the monotonic clock, and is still there in Redis. The
states are types: `delete` takes nothing but what is Proven.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from reactor.core.model import SECOND, Drain, Fence, Outcome, Reason, Record, Settlement
from reactor.core.pause import Pause
from reactor.core.policy import Policy, decide
from reactor.core.stream_info import (
    FENCE_TOKEN_KEY,
    Raw,
    fenced,
    fenced_subject,
    lifted_of,
    mark_if_sourced,
    read_stream,
    silent_followers,
    unfenced,
)
from reactor.deletion.failpoints import Point, reach_during
from reactor.deletion.inspection import Inspection
from reactor.deletion.resources import Resources
from reactor.jetstream.errors import NobodyThere, NotFound, Refused
from reactor.store.leases import Lease
from reactor.store.scripts import LedgerError
from reactor.telemetry.traces import span

Result = TypeVar("Result")
_BARRIER_RETRY_DELAYS_S = (0.005, 0.02, 0.1, 0.4)
"""Pauses between barriers that nobody heard; four are more than any cluster needs to tell its nodes of a subject."""


@dataclass(frozen=True, slots=True)
class HeldLease:
    """The time for which a stream is ours to work on: a lease, and when it ends by our own monotonic clock."""

    lease: Lease
    deadline: float
    monotonic: Callable[[], float]

    @classmethod
    def begin(cls, stream: str, seconds: float, monotonic: Callable[[], float]) -> "HeldLease":
        """Begin before the lease is taken, so that it ends before the lease does."""
        return cls(Lease(f"stream:{stream}", seconds), monotonic() + seconds, monotonic)

    def lasting(self, seconds: float) -> "HeldLease":
        """Return it for so long from now on: the lease must be renewed to that length after this."""
        return replace(self, lease=replace(self.lease, seconds=seconds), deadline=self.monotonic() + seconds)

    def check(self, effect: str, *, held: bool = True) -> None:
        """Raises LeaseExpired if the lease has run out: somebody else may have taken over by now.

        `held` is what Redis says of it: one that was emptied may have given it to another.
        """
        if not held or self.monotonic() >= self.deadline:
            raise LeaseExpired(f"the lease ran out before the {effect}")


class LeaseExpired(Exception):
    """Nothing more of this stream is ours to do; the next look goes on from what stands there."""


class NothingProven(Exception):
    """The barrier was answered, and its answer proves nothing any more: says why."""


@dataclass(frozen=True, slots=True)
class Fenced:
    """The state behind a fence of ours. It is left by a proof, or by giving back what the fence took."""

    inspection: Inspection
    raw: Raw
    """The stream as the server has it now."""
    fence: Fence | None
    """None for a sealed stream, which takes nothing in and needs no fence."""
    asked_at: float
    """When the server was asked for `raw`, by this process's monotonic clock."""


@dataclass(frozen=True, slots=True)
class Proven:
    """The state behind the barrier: the stream ends where the look saw its end. Only this one may be deleted."""

    behind: Fenced


async def finished(work: Coroutine[Any, Any, Result]) -> Result:
    """Do the work to its end, even if this task is cancelled meanwhile. The next await then raises the cancellation."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.cancelled():
            raise
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        if current := asyncio.current_task():
            current.uncancel()
            current.cancel()
        return task.result()


@dataclass(eq=False, repr=False)
class Fencing:
    """Takes a stream's subjects away, proves its end, deletes it, or gives back what was taken.

    `policy` judges a stream that was given back.
    """

    deps: Resources
    policy: Policy

    async def fence(self, inspection: Inspection, held_lease: HeldLease) -> Fenced:
        """Take the stream's subjects away; or take a fence over that has outlived its lease, with all it gives back."""
        config, standing, stream = inspection.raw["config"], inspection.stream.fence, inspection.stream
        if stream.sealed:
            return Fenced(inspection, inspection.raw, None, inspection.asked_at)
        # Not before our own deadline: we asked the server no later than it answered.
        until = stream.observed_at + int((held_lease.deadline - inspection.asked_at) * SECOND)
        subjects, lifted = tuple(config["subjects"]), lifted_of(config)
        if standing:
            subjects, lifted = standing.subjects, lifted | standing.lifted
        fence = Fence(held_lease.lease.token, until, subjects, lifted)
        asked_at = held_lease.monotonic()
        with span("fence"):
            update = self.deps.effects.update_stream(fenced(config, fence))
            raw = await finished(reach_during(Point.FENCE_SENT, stream.name, update))
        return Fenced(inspection, raw, fence, asked_at)

    async def read_again(self, behind: Fenced, held_lease: HeldLease) -> Fenced:
        """Return the same state with the stream as it stands now: others may have changed it meanwhile."""
        asked_at = held_lease.monotonic()
        return replace(
            behind, raw=await self.deps.effects.stream_info(behind.inspection.stream.name), asked_at=asked_at
        )

    async def prove(self, behind: Fenced, held_lease: HeldLease) -> Proven | Inspection | Pause:
        """Return a proof behind the fence that the stream is what was judged; or the look, or the pause, that keeps it.

        Whoever got our lease from a Redis that was emptied before our fence stood may be at this stream, too: so the
        lease is asked for once more. Who got it later respects the fence. Raises LeaseExpired.
        """
        inspection = behind.inspection
        with span("recheck"):
            event, held = await asyncio.gather(
                self.deps.directory.last_event_since(inspection.snapshot, inspection.stream.job_id, inspection.event),
                self.deps.ledger.leases.holds(held_lease.lease),
            )
        held_lease.check("deletion", held=held)
        again = await self._again(inspection, event)
        is_unchanged = event == inspection.event and again.directory_status == inspection.directory_status
        if not (is_unchanged and again.coverage.intact):
            return again
        if behind.fence is None:
            behind = await self.read_again(behind, held_lease)
        if not _is_as_judged(inspection, behind.raw):
            return again
        with span("barrier"):
            end, pause = await asyncio.gather(self._end(behind), self.deps.pause_gate.active_pause())
        if pause:
            return pause
        if end != inspection.stream.last_seq:
            return again
        return Proven(behind)

    async def _again(self, inspection: Inspection, event: Record | None) -> Inspection:
        """Return the look with what is said of the job behind the fence."""
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
        """Return the last sequence of the stream, by the barrier. Raises NobodyThere if our fence does not stand.

        The server that we are connected to may hear a moment later that somebody listens to the new subject.
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

    async def delete(self, proven: Proven, held_lease: HeldLease) -> None:
        """Delete the stream if the proof still holds. Raises LeaseExpired and NothingProven if it does not."""
        name = proven.behind.inspection.stream.name
        with span("delete"):
            held_lease.check("deletion")
            if why := silent_followers(proven.behind.raw, held_lease.monotonic() - proven.behind.asked_at):
                raise NothingProven(why)
            await reach_during(Point.DELETE_SENT, name, self.deps.effects.delete_stream(name))

    async def unfence(self, behind: Fenced, held_lease: HeldLease, because: Inspection | None = None) -> Settlement:
        """Give a stream back what its fence has taken, and judge it without; `because` of what was seen behind it.

        The config is read again first, so what others have changed behind the fence stays. Raises LeaseExpired.
        """
        inspection, fence, raw = behind.inspection, behind.fence, behind.raw
        try:
            with span("unfence"):
                with suppress(LedgerError):  # no replica has a lease now: the clock's word will do, the job may live
                    held_lease.check("unfence", held=await self.deps.ledger.leases.holds(held_lease.lease))
                if fence is not None:
                    raw = await self.deps.effects.stream_info(inspection.stream.name)
                    if not _stands(raw, fence):
                        return inspection.settled(Outcome.WAITING, Reason.FENCED, "the fence is not ours any more")
                    held_lease.check("unfence")
                    raw = await self.deps.effects.update_stream(unfenced(raw["config"], fence))
        except Refused as error:
            if isinstance(error, NotFound):
                raise
            subjects = ", ".join(fence.subjects) if fence else ""
            detail = f"stays fenced, since it cannot get {subjects} back: {error}; free them, then it is tried again"
            return inspection.settled(Outcome.UNFIXABLE, Reason.REFUSED, detail)
        inspection = because or inspection
        sourced = inspection.snapshot.topology.sourced
        stream = replace(
            mark_if_sourced(read_stream(raw, inspection.stream.job_id), sourced), consumers=inspection.stream.consumers
        )
        verdict = decide(stream, inspection.record, inspection.coverage, self.policy)
        if isinstance(verdict, Drain):
            detail = "it changed on the way; it is looked at again later"
            return inspection.settled(Outcome.WAITING, Reason.ACTIVE, detail)
        return replace(inspection, raw=raw, stream=stream, verdict=verdict).by_verdict()


def _is_as_judged(inspection: Inspection, raw: Raw) -> bool:
    """Return whether it is the incarnation that was judged, and nobody has protected it since."""
    stream = read_stream(raw, inspection.stream.job_id)
    same = (stream.created, stream.sealed) == (inspection.stream.created, inspection.stream.sealed)
    return same and not stream.protected


def _stands(raw: Raw, fence: Fence) -> bool:
    """Return whether what this fence has taken is still to be given back."""
    return bool((raw["config"].get("metadata") or {}).get(FENCE_TOKEN_KEY) == fence.token)
