"""Sinks: the recorder calls each of them for every event. The log, the metrics and the published events are sinks."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from reactor.core.model import Settlement


class EventOutcome(StrEnum):
    """What the ledger did with a lifecycle message."""

    APPLIED = "applied"
    STALE = "stale"
    """It changed nothing: the ledger had it already, or a newer one."""
    MALFORMED = "malformed"


class Sink:
    """A sink that ignores every event. Subclasses override what they show. No method may raise or block."""

    def events_received(self, messages: Mapping[tuple[str, EventOutcome], int]) -> None:
        """Handle counts of lifecycle messages, by status (upper case) and outcome."""

    def dead_lettered(self) -> None:
        """Handle one lifecycle message that was stored as a dead letter."""

    def judged(self, *settlements: Settlement) -> None:
        """Handle the verdicts of a pass or a sweep."""

    def reported(self, settlement: Settlement) -> None:
        """Handle a zombie that report mode keeps. Called once for each stream."""

    def ended(self, settlement: Settlement) -> None:
        """Handle the outcome of a deletion. Called once for each deletion."""

    def unfixable(self, settlement: Settlement, failure: Mapping[str, Any]) -> None:
        """Handle a failed attempt that needs a person. `failure` is the audit's entry."""

    def ordered(self, what: str, order: Mapping[str, Any]) -> None:
        """Handle an operator's order. `order` is the audit's entry."""

    async def exhausted(self, event: Mapping[str, Any]) -> None:
        """Handle the event that a live job's queue delivers no more messages."""

    async def scheduled(self, event: Mapping[str, Any]) -> None:
        """Handle the event that a stream will be deleted, and when. Called once for each time it is scheduled."""

    async def drained(self, event: Mapping[str, Any]) -> None:
        """Handle the event of a deleted stream. The audit has the outcome already."""
