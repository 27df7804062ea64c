"""Two sinks of the recorder: the log, and the events that other systems subscribe to."""

import json
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from reactor.core.model import SECOND, Outcome, Reason, Settlement, format_instant
from reactor.core.sinks import Sink

REMEMBERED = 100_000
"""How many streams' last verdicts are remembered. Beyond that a stream is logged once more."""
_ENDS = {Outcome.DRAINED: "stream drained", Outcome.ALREADY_GONE: "stream already gone"}


log = structlog.get_logger(__name__)


@dataclass(eq=False, repr=False)
class LogSink(Sink):
    """Logs a line for each drain with its evidence and, at debug level, one for each verdict that changed.

    `by` names this process. `most` is how many streams' verdicts are remembered.
    """

    by: str
    most: int = REMEMBERED

    def __post_init__(self) -> None:
        self._last: OrderedDict[str, tuple[str, str]] = OrderedDict()

    def ended(self, settlement: Settlement) -> None:
        """Log how a drain ended."""
        if log.is_enabled_for(logging.INFO):  # the evidence of thousands takes its time
            log.info(_ENDS.get(settlement.outcome, "drain given up"), **_evidence(settlement), by=self.by)

    def reported(self, settlement: Settlement) -> None:
        """Log a zombie that report mode keeps."""
        log.info("stream would be drained", **_evidence(settlement), by=self.by)

    def judged(self, *settlements: Settlement) -> None:
        """Log the verdicts that have changed."""
        is_debug = log.is_enabled_for(logging.DEBUG)  # read once, because there may be thousands
        for settlement in settlements:
            before = self._last.pop(settlement.stream.name, None)
            if settlement.outcome is not Outcome.DRAINED and settlement.reason is not Reason.GONE:  # logged by `ended`
                self._compare(settlement, before, is_debug=is_debug)

    def unfixable(self, settlement: Settlement, failure: Mapping[str, Any]) -> None:  # noqa: ARG002  # the entry has all
        """Log an attempt that failed."""
        log.warning("unfixable", **failure)

    def ordered(self, what: str, order: Mapping[str, Any]) -> None:
        """Log an operator's order."""
        actor = order["actor"]
        by = f"{actor['user']}@{actor['host']}"
        log.info(what, stream=order["stream"] or None, why=order["detail"] or None, by=by)

    async def exhausted(self, event: Mapping[str, Any]) -> None:
        """Log an exhausted queue."""
        log.warning("queue exhausted, and its job is live", **event)

    def _compare(self, settlement: Settlement, before: tuple[str, str] | None, *, is_debug: bool) -> None:
        now = settlement.outcome.value, settlement.reason.value
        self._last[settlement.stream.name] = now
        if len(self._last) > self.most:
            self._last.popitem(last=False)
        if before != now and settlement.reason is Reason.DISPUTED:
            log.warning("a job's last events disagree, so it counts as live", **_evidence(settlement))
        elif before != now and is_debug:
            was_outcome, was_reason = before or (None, None)
            log.debug("verdict changed", **_evidence(settlement), was_outcome=was_outcome, was_reason=was_reason)


@dataclass(frozen=True, slots=True)
class EventSink(Sink):
    """Publishes `reactor.drained.<stream>`, `.exhausted.<stream>` and `.scheduled.<stream>`.

    `announce` publishes and never fails.
    """

    announce: Callable[[str, bytes], Awaitable[None]]

    async def drained(self, event: Mapping[str, Any]) -> None:
        """Publish the event."""
        await self.announce(f"reactor.drained.{event['stream']}", json.dumps(event).encode())

    async def exhausted(self, event: Mapping[str, Any]) -> None:
        """Publish the event."""
        await self.announce(f"reactor.exhausted.{event['stream']}", json.dumps(event).encode())

    async def scheduled(self, event: Mapping[str, Any]) -> None:
        """Publish the event."""
        await self.announce(f"reactor.scheduled.{event['stream']}", json.dumps(event).encode())


def _evidence(settlement: Settlement) -> dict[str, Any]:
    """Return the evidence for a log line, always with the same keys; None for unknown values."""
    stream, record, consumers = settlement.stream, settlement.record, settlement.stream.consumers
    age = stream.observed_at - stream.created if stream.created is not None and stream.observed_at else None
    return {
        "stream": stream.name,
        "job_id": stream.job_id,
        "outcome": settlement.outcome.value,
        "reason": settlement.reason.value,
        "status": record.status if record else None,
        "occurred_at": _time(record.occurred_at if record else None),
        "created": _time(stream.created),
        "age_s": None if age is None else round(age / SECOND, 3),
        "messages": stream.messages,
        "size": stream.size,
        "last_seq": stream.last_seq,
        "last_publish": _time(stream.last_publish),
        "last_active": _time(consumers.last_active if consumers else None),
        "late_s": None if settlement.late_s is None else round(settlement.late_s, 3),
        "detail": settlement.detail,
    }


def _time(instant: int | None) -> str | None:
    return None if instant is None else format_instant(instant)
