"""Record what happens, in the audit and in the sinks (log, metrics, events).

Each kind of event has one method, so no part of its record can be forgotten. The audit is written before and after each
deletion.
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
"""Why a stream may be deleted: the fields `event`, `directory`, `guards` and `rule` of an intent."""

MAX_OWN = 10_000
"""How many of its own deletions this process remembers. The server sends an advisory for each of them."""
BATCH = 1_000
LATER = "found at a later inspection"


@dataclass(eq=False, repr=False)
class Recorder:
    """Records what one process does. Methods that write to the audit raise LedgerError.

    `actor` names this process in the audit. `clock` (ns) gives the audit's times; no decision uses it.
    """

    audit: Audit
    actor: Actor
    clock: Callable[[], int]
    sinks: Sequence[Sink] = ()

    def __post_init__(self) -> None:
        self._own = dict[str, None]()
        self._actor_json = self.actor.as_dict()

    def events_received(self, messages: Mapping[tuple[str, EventOutcome], int]) -> None:
        """Record how many lifecycle messages arrived, by status (upper case) and outcome."""
        for sink in self.sinks:
            sink.events_received(messages)

    def dead_lettered(self) -> None:
        """Record that a lifecycle message was stored as a dead letter."""
        for sink in self.sinks:
            sink.dead_lettered()

    def judged(self, *settlements: Settlement) -> None:
        """Record the verdicts of a pass or a sweep."""
        for sink in self.sinks:
            sink.judged(*settlements)

    async def begin_deletion(
        self, settlement: Settlement, lease: Lease, grounds: Grounds, made_of: Mapping[str, Any]
    ) -> tuple[Intent, bool]:
        """Record a deletion before it begins. Return the intent, and whether we still hold the lease in Redis.

        `made_of` is the recipe to create the stream again.
        """
        intent = self._intent(settlement, lease.token, **grounds)
        self._own[intent.stream] = None
        if len(self._own) > MAX_OWN:
            del self._own[next(iter(self._own))]
        with span("audit"):
            return intent, await self.audit.intend(intent, made_of)

    async def end_deletion(self, intent: Intent, settlement: Settlement) -> None:
        """Record the outcome of a deletion. Publish `reactor.drained.<stream>` last, when the audit has the outcome."""
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
                await sink.drained({name: getattr(intent, name) for name in Intent.PUBLIC_FIELDS})

    async def account(self, settlement: Settlement) -> None:
        """Record the outcome of a deletion that another process began and did not finish, if there is one."""
        if await self.audit.conclude(settlement.stream.name, None, settlement.outcome, LATER):
            self._ended(settlement)

    def _ended(self, settlement: Settlement) -> None:
        for sink in self.sinks:
            sink.ended(settlement)

    async def failed(self, settlement: Settlement) -> None:
        """Record a failed attempt that needs a person."""
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
        """Record a zombie that report mode keeps. Each stream is recorded once."""
        if await self.audit.report(self._intent(settlement, token="", **grounds)):
            for sink in self.sinks:
                sink.reported(settlement)

    async def afterwards(self, stream: str, what: str) -> None:
        """Record what happened to a zombie that report mode kept. No effect for any other stream."""
        await self.audit.afterwards(stream, what, self._now())

    async def prepared(self, settlement: Settlement, purged: int) -> None:
        """Record that a stream was emptied before its job is started again."""
        await self.audit.prepared(replace(self._intent(settlement, token=""), messages=purged))

    async def ordered(self, what: str, stream: str = "", job_id: str = "", why: str = "") -> None:
        """Record an operator's order: `paused`, `resumed`, `protected`, `unprotected`, `restored`."""
        order = Order(stream, job_id, why, self.actor.by, self._now(), self._actor_json)
        await self.audit.ordered(what, order)
        for sink in self.sinks:
            sink.ordered(what, asdict(order))

    async def exhausted(self, stream: str, job_id: str, consumer: str) -> None:
        """Record that the queue of a live job delivers no more messages."""
        event = {"stream": stream, "job_id": job_id, "consumer": consumer, "by": self.actor.by, "at": self._now()}
        for sink in self.sinks:
            await sink.exhausted(event)

    async def scheduled(self, settlement: Settlement, rule: str, due: int) -> None:
        """Record that a stream will be deleted at `due` (ns) by that rule, unless somebody protects it."""
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
        """Return whether this process deletes or has deleted the stream, and so does the clean-up after it."""
        return stream in self._own

    def forget_own(self, stream: str) -> None:
        """Forget that this process deleted the stream. Call this when a stream of that name is created again."""
        self._own.pop(stream, None)

    async def reported(self) -> set[str]:
        """Return the zombies that report mode kept and that have not changed since."""
        return await self.audit.reported()

    async def begun(self) -> Mapping[str, Intent]:
        """Return the open intents: deletions that began and have no outcome yet, by stream."""
        return await self.audit.open_intents()

    async def ended_since(self, key: str) -> tuple[str, list[tuple[str, Outcome, str | None]]]:
        """Return the key for the next call, and the deletions that ended after `key`: stream, outcome, detail.

        The first key is a time in ms by Redis's clock.
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
