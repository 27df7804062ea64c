"""Telling: the audit before and after each deletion, the journal, whoever observes, and the outcome event.

One call for each thing that happens, so that none of them can be forgotten.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog

from reactor.core.actor import Actor
from reactor.core.model import Outcome, Settlement, format_instant
from reactor.core.observer import NULL_OBSERVER, Observer
from reactor.deletion.failpoints import Point, reach
from reactor.store.audit import Audit, Failure, Intent, Order
from reactor.store.leases import Lease
from reactor.telemetry.journal import Journal
from reactor.telemetry.traces import span

Grounds = Mapping[str, Any]
"""Why a stream may go: `event`, `told` and `guards` of an intent."""
Announce = Callable[[str, bytes], Awaitable[None]]

log = structlog.get_logger(__name__)

MAX_OWN = 10_000
"""Deletions of this process that are remembered: an advisory tells of each of them a moment later."""
BATCH = 1_000
LATER = "found so at a later look"


@dataclass(eq=False, repr=False)
class Recorder:
    """One process's. Methods that write into the audit raise LedgerError.

    `announce` publishes and never fails; `actor` is this process in the audit, `clock` (ns) is for it.
    """

    audit: Audit
    announce: Announce
    actor: Actor
    clock: Callable[[], int]
    observer: Observer = NULL_OBSERVER

    def __post_init__(self) -> None:
        self._by, self._told = self.actor.by, self.actor.as_dict()
        self._journal = Journal(self.actor.by)
        self._own = dict[str, None]()

    def judged(self, *settlements: Settlement) -> None:
        """What was found of streams."""
        self._journal.judged(*settlements)

    async def begin(
        self, settlement: Settlement, lease: Lease, grounds: Grounds, made_of: Mapping[str, Any]
    ) -> tuple[Intent, bool]:
        """Say what is going to be deleted and why, before it is; and whether the lease is still held.

        `made_of` is what it takes to make it again.
        """
        intent = replace(self._intent(settlement, lease.token), **grounds)
        self._own[intent.stream] = None
        if len(self._own) > MAX_OWN:
            del self._own[next(iter(self._own))]
        with span("audit"):
            return intent, await self.audit.intend(intent, made_of)

    def _intent(self, settlement: Settlement, token: str) -> Intent:
        stream, record = settlement.stream, settlement.record
        return Intent(
            stream=stream.name,
            job_id=stream.job_id,
            reason=settlement.reason.value,
            token=token,
            created=format_instant(stream.created or 0),
            status=record.status if record else "",
            messages=stream.messages,
            by=self._by,
            at=format_instant(stream.observed_at),
            size=stream.size,
            actor=self._told,
        )

    def is_own_deletion(self, stream: str) -> bool:
        """Return whether it is this process that deletes or has deleted it, and does all that follows from it."""
        return stream in self._own

    def forget_own(self, stream: str) -> None:
        """It was made anew."""
        self._own.pop(stream, None)

    async def report(self, settlement: Settlement) -> None:
        """Say what would have been deleted, once for each stream."""
        if await self.audit.report(self._intent(settlement, token="")):
            self.observer.reported(settlement)
            self._journal.reported(settlement)

    async def prepared(self, settlement: Settlement, purged: int) -> None:
        """Say that a stream was emptied for a job that is started again."""
        await self.audit.prepared(replace(self._intent(settlement, token=""), messages=purged))

    async def ordered(self, what: str, stream: str = "", job_id: str = "", why: str = "") -> None:
        """Say what an operator has ordered: `paused`, `resumed`, `protected`, `unprotected`, `restored`."""
        at = format_instant(self.clock())
        await self.audit.ordered(what, Order(stream, job_id, why, self.actor.by, at, self.actor.as_dict()))
        log.info(what, stream=stream or None, why=why or None, by=self.actor.person)

    async def afterwards(self, stream: str, what: str) -> None:
        """Say what has become of a stream that would have been deleted, if there is such a one."""
        await self.audit.afterwards(stream, what, format_instant(self.clock()))

    async def reported(self) -> set[str]:
        """Return streams that would have been deleted, and of which nothing was heard since."""
        return await self.audit.reported()

    async def end(self, intent: Intent, settlement: Settlement) -> None:
        """Say what came of it, last of all to whoever listens for drained streams."""
        self._ended(settlement)
        if settlement.outcome is not Outcome.DRAINED:
            self._own.pop(intent.stream, None)
        with span("conclude"):
            proven = settlement.outcome is Outcome.DRAINED
            proof = f"barrier: its end is sequence {settlement.stream.last_seq}" if proven else ""
            await self.audit.conclude(
                intent.stream,
                intent.token,
                settlement.outcome,
                settlement.detail or "",
                proof=proof,
                backup=settlement.backup or "",
            )
        await reach(Point.AUDITED, intent.stream)
        if settlement.outcome is Outcome.DRAINED:
            await self.announce(f"reactor.drained.{intent.stream}", _outcome_event(intent))

    async def begun(self) -> Mapping[str, Intent]:
        """Return deletions that somebody began, and that are not accounted for yet; by stream."""
        return await self.audit.open_intents()

    async def ended_since(self, key: str) -> tuple[str, list[tuple[str, Outcome, str | None]]]:
        """Return deletions that have ended since then (ms, Redis's clock, or what came with the last answer).

        Stream, outcome and detail of each; and what to ask with next.
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

    async def account(self, settlement: Settlement) -> None:
        """Say what came of a deletion that somebody began and did not live to end, if there is one."""
        if await self.audit.conclude(settlement.stream.name, None, settlement.outcome, LATER):
            self._ended(settlement)

    async def failed(self, settlement: Settlement, at: int) -> None:
        """Say that an attempt came to nothing, and that a person should look."""
        failure = Failure(
            stream=settlement.stream.name,
            job_id=settlement.stream.job_id,
            reason=settlement.reason.value,
            detail=settlement.detail or "",
            attempts=settlement.attempts,
            retry_s=settlement.retry_s,
            by=self._by,
            at=format_instant(at),
        )
        self.observer.unfixable(settlement)
        await self.audit.fail(failure)
        log.warning("unfixable", **failure.fields())

    def _ended(self, settlement: Settlement) -> None:
        """Once for each."""
        self.observer.ended(settlement)
        self._journal.ended(settlement)


def _outcome_event(intent: Intent) -> bytes:
    return json.dumps({name: getattr(intent, name) for name in Intent.TOLD_TO_ALL}).encode()
