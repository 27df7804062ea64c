"""Sinks: the recorder tells each of them what happens. The log, the metrics and the published events are sinks."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from reactor.core.model import Settlement


class EventOutcome(StrEnum):
    """What became of a lifecycle message."""

    APPLIED = "applied"
    STALE = "stale"
    """It changed nothing: it, or a newer one, was known already."""
    MALFORMED = "malformed"


class Sink:
    """A sink that ignores everything: subclasses override what they show. No method may fail or take long."""

    def heard(self, messages: Mapping[tuple[str, EventOutcome], int]) -> None:
        """Take the numbers of lifecycle messages by status (upper case) and outcome."""

    def dead_lettered(self) -> None:
        """Take one lifecycle message that was kept as a dead letter."""

    def judged(self, *settlements: Settlement) -> None:
        """Take the verdicts that a pass or a sweep found."""

    def reported(self, settlement: Settlement) -> None:
        """Take a stream that would have been deleted (report mode); once for each stream."""

    def ended(self, settlement: Settlement) -> None:
        """Take the outcome of a deletion that was begun; once for each deletion."""

    def unfixable(self, settlement: Settlement, failure: Mapping[str, Any]) -> None:
        """Take an attempt that failed, so that a person should look; `failure` is the audit's entry."""

    def ordered(self, what: str, order: Mapping[str, Any]) -> None:
        """Take an operator's order; `order` is the audit's entry."""

    async def exhausted(self, event: Mapping[str, Any]) -> None:
        """Take the event of a live job's queue that delivers nothing more."""

    async def scheduled(self, event: Mapping[str, Any]) -> None:
        """Take the event of a stream that was condemned, and when it falls; once for each condemnation."""

    async def drained(self, event: Mapping[str, Any]) -> None:
        """Take the event of a deleted stream, after the audit has the outcome."""
