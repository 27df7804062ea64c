"""Alerts: what needs a person, told to others once when it begins and once when it is over.

A state is noted as often as one likes, wherever it becomes known: that takes no time and cannot fail. A loop of its own
tells of what changed, so no pass waits for whoever listens; what cannot be told then is dropped.
"""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from enum import StrEnum

from reactor.core.model import format_instant

MANY = 100
"""Changes kept until they are published: a server that takes nothing must not fill the memory."""


class Kind(StrEnum):
    """What needs a person; the last token of the subject."""

    BREAKER_TRIPPED = "breaker_tripped"
    """The breaker held back the last full pass, of any replica."""
    DELETES_PAUSED = "deletes_paused"
    """A right is missing, so this worker deletes nothing."""
    PAUSED = "paused"
    """An operator has paused all deleting."""
    COVERAGE_LOST = "coverage_lost"
    """Redis has lost history; nothing is deleted until the ledger is rebuilt."""
    UNFIXABLE = "unfixable"
    """The last full pass, of any replica, found streams that need a person."""
    MASS_DELETION = "mass_deletion"
    """Far more streams fall than usual."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One change, as it is published. A resolved alert keeps the message it began with."""

    kind: Kind
    message: str
    at: str
    by: str
    resolved: bool


@dataclass(eq=False, repr=False)
class Alerts:
    """What one worker sees, and what of it is not told yet.

    `publish` never raises; `by` names this process; `clock` (ns) is only for telling when.
    """

    publish: Callable[[str, bytes], Awaitable[None]]
    by: str
    clock: Callable[[], int]

    def __post_init__(self) -> None:
        self._open: dict[Kind, str] = {}
        self._untold: deque[Alert] = deque(maxlen=MANY)
        self._covered = False
        self.on_change: Callable[[Alert], None] = lambda _: None
        """Told of each change at once."""
        self.changed = asyncio.Event()
        """There is something to tell."""

    def note(self, kind: Kind, message: str | None) -> None:
        """Note why an alert holds, or None if it does not. Only a change counts, not another wording."""
        if (message is not None) == (kind in self._open):
            return
        if message is None:
            self._change(kind, self._open.pop(kind), resolved=True)
        else:
            self._open[kind] = message
            self._change(kind, message, resolved=False)

    def note_coverage(self, gap: str | None) -> None:
        """Note what the ledger lacks, or None. Only a ledger that was whole can be lost; a new one is not."""
        self._covered = self._covered or gap is None
        if self._covered:
            self.note(Kind.COVERAGE_LOST, gap)

    def _change(self, kind: Kind, message: str, *, resolved: bool) -> None:
        alert = Alert(kind, message, format_instant(self.clock()), self.by, resolved)
        self._untold.append(alert)
        self.on_change(alert)
        self.changed.set()

    async def tell(self) -> None:
        """Publish what changed, oldest first."""
        while self._untold:
            alert = self._untold.popleft()
            await self.publish(f"reactor.alert.{alert.kind}", json.dumps(asdict(alert)).encode())
