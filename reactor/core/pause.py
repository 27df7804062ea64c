"""An operator's pause of all deleting, as it is stored in NATS. Pure."""

import json
from dataclasses import dataclass

from reactor.core.foreign_json import read_json
from reactor.core.model import SECOND, format_instant, to_the_second
from reactor.core.schemas import PauseJson

LONGEST_PAUSE = 10 * 366 * 86_400 * SECOND
"""Nanoseconds. A message with a longer pause counts as unreadable."""
UNREADABLE = "the message that paused it cannot be read: reactor resume, or reactor pause again"


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause: who, why, since when and until when (ns by the server's clock; None: until it is resumed)."""

    by: str
    reason: str
    since: int
    until: int | None = None

    def is_active(self, now: int) -> bool:
        """Return whether the pause is active at the server's time `now`."""
        return self.until is None or now < self.until

    def __str__(self) -> str:
        """Return the pause as a sentence for reports."""
        until = f" until {to_the_second(self.until)}" if self.until else ""
        return f"deleting is paused by {self.by} since {to_the_second(self.since)}{until}: {self.reason}"

    def as_dict(self) -> PauseJson:
        """Return the pause's JSON object."""
        until = None if self.until is None else format_instant(self.until)
        return {"by": self.by, "reason": self.reason, "since": format_instant(self.since), "until": until}


def pausing(by: str, reason: str, span_ns: int | None) -> bytes:
    """Return the message that pauses for `span_ns`, or until it is resumed."""
    return json.dumps({"paused": True, "by": by, "reason": reason, "span_ns": span_ns}).encode()


def resuming(by: str) -> bytes:
    """Return the message that ends a pause."""
    return json.dumps({"paused": False, "by": by}).encode()


def read_pause(body: bytes, stored_at: int) -> Pause | None:
    """Return the pause in the last message, stored at the server's time `stored_at`. An unreadable message pauses."""
    try:
        order = read_json(body)
        if order["paused"] is False:
            return None
        span = order["span_ns"]
        if order["paused"] is not True or not (span is None or (type(span) is int and 0 < span <= LONGEST_PAUSE)):
            return Pause("somebody", UNREADABLE, stored_at)
        until = None if span is None else stored_at + span
        return Pause(str(order["by"]), str(order["reason"]), stored_at, until)
    except (ValueError, TypeError, KeyError):
        return Pause("somebody", UNREADABLE, stored_at)
