"""Watch the audit: alert on mass deletions, and send a daily summary."""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import time

from reactor.core.checks import counted, size
from reactor.core.model import SECOND, format_instant, parse_instant
from reactor.core.schemas import Entry
from reactor.operate.history import AuditTrail
from reactor.telemetry.alerts import Alerts, Kind
from reactor.telemetry.notifier import Remember

LOOK_S = 30.0
QUARTER, DAY = 900 * SECOND, 86_400 * SECOND
MANY, TIMES_AS_MANY = 100, 10
"""A mass deletion: this many in a quarter of an hour, and this many times the usual, as in ReactorMassDeletion."""
LATE = 3_600 * SECOND
"""How late a summary may be sent, so that a worker that starts in the afternoon sends none for the morning."""

Send = Callable[[str, str], Awaitable[object]]


@dataclass(eq=False, repr=False)
class Summary:
    """Reads the audit periodically. `clock` is in ns. `remember` stores what was sent, for all replicas."""

    trail: AuditTrail
    alerts: Alerts
    clock: Callable[[], int]
    remember: Remember
    send: Send | None = None
    """Sends a message; None if the settings name no receiver."""
    daily: time | None = None
    """When to send the summary (UTC); None for never."""

    async def tick(self) -> None:
        """Check for a mass deletion, and send the summary if it is time. Raises LedgerError."""
        now, drained = self.clock(), await self.trail.drains()
        self.alerts.note(Kind.MASS_DELETION, mass_deletion(drained, now))
        if self.send is not None and self.daily is not None and self._is_time(now) and await self._is_ours(now):
            await self.send("reactor: the last day", daily_summary(drained, now))

    def _is_time(self, now: int) -> bool:
        assert self.daily is not None  # noqa: S101  # asked before
        at = (self.daily.hour * 3_600 + self.daily.minute * 60 + self.daily.second) * SECOND
        return 0 <= now % DAY - at < LATE

    async def _is_ours(self, now: int) -> bool:
        day, _, _ = format_instant(now).partition("T")
        return bool(await self.remember({"notify.daily": (day, 2 * DAY // 1_000_000)}))


def mass_deletion(drained: Collection[Entry], now: int) -> str | None:
    """Return a sentence if far more streams were deleted in the last quarter of an hour than usual."""
    ages = [now - parse_instant(entry["at"]) for entry in drained]
    recent = sum(age < QUARTER for age in ages)
    usual = sum(QUARTER <= age < QUARTER + DAY for age in ages) / (DAY / QUARTER)
    if recent <= MANY or recent <= TIMES_AS_MANY * usual:
        return None
    return (
        f"{recent} streams were deleted within a quarter of an hour, {usual:.0f} are usual. If this is unexpected: "
        "reactor pause stops all deleting, reactor history --since 15m shows what was deleted and why"
    )


def daily_summary(drained: Collection[Entry], now: int) -> str:
    """Return a summary of the last day's deletions: number, bytes, reasons and statuses."""
    entries = [entry for entry in drained if now - parse_instant(entry["at"]) < DAY]
    if not entries:
        return "no stream was deleted in the last day"
    by_reason = Counter(entry["reason"] for entry in entries).most_common()
    by_status = Counter(entry.get("status") or "no status" for entry in entries).most_common(5)
    held = sum(entry.get("size", 0) for entry in entries)
    return "\n".join(
        [
            f"{counted(len(entries), 'stream')} deleted, {size(held)}: {_list(by_reason)}",
            f"left behind most by: {_list(by_status)}",
        ]
    )


def _list(counts: list[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts)
