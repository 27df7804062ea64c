"""What becomes of streams, in the log: a line for each drain with its evidence; at debug, one for each new verdict."""

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import structlog

from reactor.core.model import SECOND, Outcome, Reason, Settlement, format_instant

REMEMBERED = 100_000
"""Streams whose last verdict is known; of the longest unseen one it would be told once more."""
_ENDS = {Outcome.DRAINED: "stream drained", Outcome.ALREADY_GONE: "stream already gone"}

Found = tuple[str, str]
"""Outcome and reason."""

log = structlog.get_logger(__name__)


@dataclass(eq=False, repr=False)
class Journal:
    """One process's journal, shared by all that settle streams.

    `by` names this process, as in the audit; `most` bounds the streams whose verdict is remembered.
    """

    by: str
    most: int = REMEMBERED

    def __post_init__(self) -> None:
        self._last: OrderedDict[str, Found] = OrderedDict()

    def ended(self, settlement: Settlement) -> None:
        """A drain that was begun has come to its end, whatever that is."""
        if log.is_enabled_for(logging.INFO):  # the evidence of thousands takes its time
            log.info(_ENDS.get(settlement.outcome, "drain given up"), **_evidence(settlement), by=self.by)

    def reported(self, settlement: Settlement) -> None:
        """In report mode: a stream that would have been deleted."""
        log.info("stream would be drained", **_evidence(settlement), by=self.by)

    def judged(self, *settlements: Settlement) -> None:
        """What was found of streams; told where it differs from what was found before."""
        tells = log.is_enabled_for(logging.DEBUG)  # asked once: there may be thousands
        for settlement in settlements:
            before = self._last.pop(settlement.stream.name, None)
            if settlement.outcome is not Outcome.DRAINED and settlement.reason is not Reason.GONE:  # their end was told
                self._compare(settlement, before, tells=tells)

    def _compare(self, settlement: Settlement, before: Found | None, *, tells: bool) -> None:
        found = settlement.outcome.value, settlement.reason.value
        self._last[settlement.stream.name] = found
        if len(self._last) > self.most:
            self._last.popitem(last=False)
        if before != found and settlement.reason is Reason.DISPUTED:
            log.warning("a job's last words disagree, so it lives", **_evidence(settlement))
        elif before != found and tells:
            was_outcome, was_reason = before or (None, None)
            log.debug("verdict changed", **_evidence(settlement), was_outcome=was_outcome, was_reason=was_reason)


def _evidence(settlement: Settlement) -> dict[str, Any]:
    """Return the same keys every time; null for what is not known."""
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
