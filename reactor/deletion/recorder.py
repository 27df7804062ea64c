"""Record what happens: in the audit, before and after each deletion, and in the sinks (log, metrics, events).

There is one method for each thing that happens, so that no part of its record can be forgotten.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from reactor.core.actor import Actor
from reactor.core.model import Outcome, Reason, Settlement, format_instant
from reactor.core.schemas import ScheduledDeletion
from reactor.core.sinks import EventOutcome, Sink
from reactor.deletion.failpoints import Point, reach
from reactor.store.audit import Audit, Failure, Intent, Order
from reactor.store.leases import Lease
from reactor.telemetry.traces import span

Grounds = Mapping[str, Any]
"""Why a stream may go: `event`, `told` and `guards` of an intent."""

MAX_OWN = 10_000
"""Deletions of this process that are remembered: the server sends an advisory for each of them."""
BATCH = 1_000
LATER = "found so at a later look"


@dataclass(eq=False, repr=False)
class Recorder:
    """The record of one process. Methods that write into the audit raise LedgerError.

    `actor` names this process in the audit; `clock` (ns) is for the audit alone.
    """

    audit: Audit
    actor: Actor
    clock: Callable[[], int]
    sinks: Sequence[Sink] = ()

    def __post_init__(self) -> None:
        self._own = dict[str, None]()
        self._actor_json = self.actor.as_dict()

    def heard(self, messages: Mapping[tuple[str, EventOutcome], int]) -> None:
        """Record the numbers of lifecycle messages by status (upper case) and outcome."""
        for sink in self.sinks:
            sink.heard(messages)

    def dead_lettered(self) -> None:
        """Record a lifecycle message that was kept as a dead letter."""
        for sink in self.sinks:
            sink.dead_lettered()

    def judged(self, *settlements: Settlement) -> None:
        """Record the verdicts that were found."""
        for sink in self.sinks:
            sink.judged(*settlements)

    async def begin(
        self, settlement: Settlement, lease: Lease, grounds: Grounds, made_of: Mapping[str, Any]
    ) -> tuple[Intent, bool]:
        """Record a deletion before it begins. Return the intent, and whether Redis still holds the lease.

        `made_of` is what it takes to create the stream again.
        """
        intent = self._intent(settlement, lease.token, **grounds)
        self._own[intent.stream] = None
        if len(self._own) > MAX_OWN:
            del self._own[next(iter(self._own))]
        with span("audit"):
            return intent, await self.audit.intend(intent, made_of)

    async def end(self, intent: Intent, settlement: Settlement) -> None:
        """Record the outcome of a deletion; subscribers of `reactor.drained.>` hear of it last."""
        is_drained = settlement.outcome is Outcome.DRAINED
        self._ended(settlement)
        if not is_drained:
            self._own.pop(intent.stream, None)
        with span("conclude"):
            proof = f"barrier: its end is sequence {settlement.stream.last_seq}" if is_drained else ""
            await self.audit.conclude(
                intent.stream,
                intent.token,
                settlement.outcome,
                settlement.detail or "",
                proof=proof,
                backup=settlement.backup or "",
            )
        await reach(Point.AUDITED, intent.stream)
        if is_drained:
            for sink in self.sinks:
                await sink.drained({name: getattr(intent, name) for name in Intent.TOLD_TO_ALL})

    async def account(self, settlement: Settlement) -> None:
        """Record the outcome of a deletion that another process began and did not conclude, if there is one."""
        if await self.audit.conclude(settlement.stream.name, None, settlement.outcome, LATER):
            self._ended(settlement)

    def _ended(self, settlement: Settlement) -> None:
        for sink in self.sinks:
            sink.ended(settlement)

    async def failed(self, settlement: Settlement) -> None:
        """Record an attempt that failed, so that a person should look."""
        failure = Failure(
            stream=settlement.stream.name,
            job_id=settlement.stream.job_id,
            reason=settlement.reason.value,
            detail=settlement.detail or "",
            attempts=settlement.attempts,
            retry_s=settlement.retry_s,
            by=self.actor.by,
            at=self._now(),
        )
        for sink in self.sinks:
            sink.unfixable(settlement, asdict(failure))
        await self.audit.fail(failure)

    async def report(self, settlement: Settlement, grounds: Grounds) -> None:
        """Record a stream that would have been deleted (report mode), once for each stream."""
        if await self.audit.report(self._intent(settlement, token="", **grounds)):
            for sink in self.sinks:
                sink.reported(settlement)

    async def afterwards(self, stream: str, what: str) -> None:
        """Record what became of a stream that would have been deleted, if it was one."""
        await self.audit.afterwards(stream, what, self._now())

    async def prepared(self, settlement: Settlement, purged: int) -> None:
        """Record that a stream was emptied for a job that is started again."""
        await self.audit.prepared(replace(self._intent(settlement, token=""), messages=purged))

    async def ordered(self, what: str, stream: str = "", job_id: str = "", why: str = "") -> None:
        """Record an operator's order: `paused`, `resumed`, `protected`, `unprotected`, `restored`."""
        order = Order(stream, job_id, why, self.actor.by, self._now(), self._actor_json)
        await self.audit.ordered(what, order)
        for sink in self.sinks:
            sink.ordered(what, asdict(order))

    async def exhausted(self, stream: str, job_id: str, consumer: str) -> None:
        """Record that a live job's queue delivers nothing more."""
        event = {"stream": stream, "job_id": job_id, "consumer": consumer, "by": self.actor.by, "at": self._now()}
        for sink in self.sinks:
            await sink.exhausted(event)

    async def scheduled(self, settlement: Settlement, rule: str, due: int) -> None:
        """Record that a stream falls at `due` (ns), by that rule, unless somebody keeps it."""
        stream, record = settlement.stream, settlement.record
        event = ScheduledDeletion(
            stream=stream.name,
            job_id=stream.job_id,
            status=record.status if record else None,
            reason=(Reason.TERMINAL if record else Reason.MISSING).value,
            rule=rule,
            due_at=format_instant(due),
            messages=stream.messages if stream.counted else None,
            keep=f"reactor protect {stream.name} --for 2h; if the job lives: reactor emit {stream.job_id} STARTED",
            by=self.actor.by,
            at=format_instant(stream.observed_at),
        )
        for sink in self.sinks:
            await sink.scheduled(asdict(event))

    def is_own_deletion(self, stream: str) -> bool:
        """Return whether this process deletes or has deleted the stream, and does all that follows."""
        return stream in self._own

    def forget_own(self, stream: str) -> None:
        """Forget that this process deleted the stream: one of that name was created again."""
        self._own.pop(stream, None)

    async def reported(self) -> set[str]:
        """Return the streams that would have been deleted, and that nothing has happened to since."""
        return await self.audit.reported()

    async def begun(self) -> Mapping[str, Intent]:
        """Return the deletions that were begun and are not accounted for, by stream."""
        return await self.audit.open_intents()

    async def ended_since(self, key: str) -> tuple[str, list[tuple[str, Outcome, str | None]]]:
        """Return the deletions that ended after `key`, as stream, outcome and detail; and the key for the next call.

        The first key is a time (ms, Redis's clock).
        """
        ended, last = list[tuple[str, Outcome, str | None]](), ""
        while last != key:
            key = last or key
            entries, last = await self.audit.since(key, BATCH)
            ended += [
                (item["stream"], Outcome(item["outcome"]), item.get("detail") or None)
                for item in entries
                if item["phase"] == "outcome"
            ]
        return key, ended

    def _intent(self, settlement: Settlement, token: str, **grounds: Any) -> Intent:  # noqa: ANN401  # see Grounds
        stream, record = settlement.stream, settlement.record
        return Intent(
            stream=stream.name,
            job_id=stream.job_id,
            reason=settlement.reason.value,
            token=token,
            created=format_instant(stream.created or 0),
            status=record.status if record else "",
            messages=stream.messages,
            by=self.actor.by,
            at=format_instant(stream.observed_at),
            size=stream.size,
            actor=self._actor_json,
            **grounds,
        )

    def _now(self) -> str:
        return format_instant(self.clock())
