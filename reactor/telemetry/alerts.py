"""Alerts: states that need a person. Each alert is published once when it begins and once when it ends.

`note` may be called as often as one likes; it is quick and cannot fail. A loop publishes the changes, so no pass waits
for that. A change that cannot be published is dropped.
"""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from enum import StrEnum

from reactor.core.model import format_instant

MANY = 100
"""How many changes may wait to be published, so that an unreachable server cannot fill the memory."""


class Kind(StrEnum):
    """The kinds of alerts. The kind is the last token of the subject."""

    BREAKER_TRIPPED = "breaker_tripped"
    """The breaker held back the last full pass, of any replica."""
    DELETES_PAUSED = "deletes_paused"
    """A permission is missing, so this worker deletes nothing."""
    PAUSED = "paused"
    """An operator has paused all deleting."""
    COVERAGE_LOST = "coverage_lost"
    """Redis has lost history; nothing is deleted until the ledger is rebuilt."""
    UNFIXABLE = "unfixable"
    """The last full pass, of any replica, found streams that need a person."""
    MASS_DELETION = "mass_deletion"
    """Far more streams are deleted than usual."""


@dataclass(frozen=True, slots=True)
class Alert:
    """The published form of a change. A resolved alert repeats the message it began with."""

    kind: Kind
    message: str
    at: str
    by: str
    resolved: bool


@dataclass(eq=False, repr=False)
class Alerts:
    """The alerts of one worker, and the changes that are not published yet.

    `publish` never raises. `by` names this process. `clock` (ns) is only for the time in the message.
    """

    publish: Callable[[str, bytes], Awaitable[None]]
    by: str
    clock: Callable[[], int]

    def __post_init__(self) -> None:
        self._open: dict[Kind, str] = {}
        self._unpublished: deque[Alert] = deque(maxlen=MANY)
        self._covered = False
        self.on_change: Callable[[Alert], None] = lambda _: None
        """Called at each change."""
        self.changed = asyncio.Event()
        """Set if there is a change to publish."""

    def note(self, kind: Kind, message: str | None) -> None:
        """Note why an alert is active, or None if it is not. Another message alone is not a change."""
        if (message is not None) == (kind in self._open):
            return
        if message is None:
            self._change(kind, self._open.pop(kind), resolved=True)
        else:
            self._open[kind] = message
            self._change(kind, message, resolved=False)

    def note_coverage(self, gap: str | None) -> None:
        """Note what the ledger lacks, or None. A ledger that was never complete is not lost."""
        self._covered = self._covered or gap is None
        if self._covered:
            self.note(Kind.COVERAGE_LOST, gap)

    def _change(self, kind: Kind, message: str, *, resolved: bool) -> None:
        alert = Alert(kind, message, format_instant(self.clock()), self.by, resolved)
        self._unpublished.append(alert)
        self.on_change(alert)
        self.changed.set()

    async def publish_changes(self) -> None:
        """Publish the changes, oldest first."""
        while self._unpublished:
            alert = self._unpublished.popleft()
            await self.publish(f"reactor.alert.{alert.kind}", json.dumps(asdict(alert)).encode())
