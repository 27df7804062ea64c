"""The steps behind a drain: fence, proof, deletion, and the way back. `drain` says why they stand in this order.

Each effect begins only while the own lease has time left by the monotonic clock, and is still there in Redis. The
states are types: `delete` takes nothing but what is Proven.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from reactor.controller.failpoints import Point, reach, reach_during
from reactor.controller.look import Look
from reactor.controller.resources import Resources
from reactor.core.model import SECOND, Drain, Fence, Outcome, Reason, Record, Settlement, Stream
from reactor.core.pause import Pause
from reactor.core.policy import Policy, decide
from reactor.core.stream_info import (
    Raw,
    beside,
    fenced,
    fenced_subject,
    instant,
    lifted_of,
    read_fence,
    read_stream,
    unfenced,
)
from reactor.jetstream.errors import NobodyThere, NotFound, Refused
from reactor.store.leases import Lease
from reactor.store.scripts import LedgerError
from reactor.telemetry.traces import span

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

    def lasting(self, seconds: float) -> "Tenure":
        """The same for so long from now on: the lease must be renewed to that length after this."""
        return replace(self, lease=replace(self.lease, seconds=seconds), deadline=self.monotonic() + seconds)

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


class Fencing:
    """Takes a stream's subjects away, proves its end, deletes it, or gives back what was taken."""

    def __init__(self, resources: Resources, policy: Policy) -> None:
        """`policy` judges a stream that was given back."""
        self._reads = resources.reads
        self._effects = resources.effects
        self._ledger = resources.ledger
        self._directory = resources.directory
        self._pausing = resources.pausing
        self._policy = policy

    async def fence(self, look: Look, tenure: Tenure) -> Fenced:
        """Take the stream's subjects away; or take a fence over that has outlived its lease, with all it gives back."""
        config, standing, stream = look.raw["config"], look.stream.fence, look.stream
        # Not before our own deadline: we asked the server no later than it answered.
        until = stream.observed_at + int((tenure.deadline - look.asked_at) * SECOND)
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

    async def prove(self, behind: Fenced, tenure: Tenure) -> Proven | Look | Pause:
        """A proof behind the fence that the stream is what was judged; or the look, or the pause, that keeps it.

        Whoever got our lease from a Redis that was emptied before our fence stood may be at this stream, too: so the
        lease is asked for once more. Who got it later respects the fence. Raises TenureOver.
        """
        look = behind.look
        with span("recheck"):
            event, held = await asyncio.gather(
                self._directory.last_event_since(look.snapshot, look.stream.job_id, look.event),
                self._ledger.leases.holds(tenure.lease),
            )
        tenure.check("deletion", held=held)
        again = await self._again(look, event)
        if (event, again.told) != (look.event, look.told) or not again.coverage.intact:
            return again
        if instant(behind.raw.get("created")) != look.stream.created:
            return again
        with span("barrier"):
            subject = fenced_subject(look.stream.name, behind.fence.token)
            proven, pause = await asyncio.gather(self._barrier(look.stream, subject), self._pausing.standing())
        if pause:
            return pause
        return Proven(look) if proven else again

    async def _again(self, look: Look, event: Record | None) -> Look:
        """The look with what is said of the job behind the fence."""
        record = event.merged(look.record) if event else look.record
        stream = look.stream
        opinion = await self._directory.opinion(stream.job_id, record, stream.observed_at, look.coverage)
        return replace(look, event=event, record=opinion.record, coverage=opinion.coverage, told=opinion.told)

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

    async def delete(self, proven: Proven, tenure: Tenure) -> None:
        """The deletion: what all of this is about."""
        name = proven.look.stream.name
        with span("delete"):
            tenure.check("deletion")
            await reach_during(Point.DELETE_SENT, name, self._effects.delete_stream(name))

    async def is_ours(self, stream: Stream, fence: Fence) -> bool:
        """Whether the fence that stands now is this one."""
        raw = await self._reads.stream_info(stream.name)
        standing = read_fence(raw["config"], stream.observed_at)
        return standing is not None and standing.token == fence.token

    async def unfence(self, behind: Fenced, tenure: Tenure, because: Look | None = None) -> Settlement:
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
        stream = replace(beside(read_stream(raw, look.stream.job_id), sourced), consumers=look.stream.consumers)
        verdict = decide(stream, look.record, look.coverage, self._policy)
        if isinstance(verdict, Drain):
            detail = "it changed on the way; it is looked at again later"
            return look.settled(Outcome.WAITING, Reason.ACTIVE, detail)
        return replace(look, raw=raw, stream=stream, verdict=verdict).by_verdict()
