"""Read the audit trail, for the commands, the HTTP endpoint and the page."""

import asyncio
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import cast

from reactor.core.model import AUDIT_ENTRIES, Outcome
from reactor.core.schemas import Entry, History, LeakRow, Leaks, ReportTotals, WouldDrain, WouldDrains
from reactor.store.audit import Audit

BATCH = 1_000
STILL_THERE = "still there"
DAY_CHARS = len("2026-01-31")


@dataclass(eq=False, repr=False)
class AuditTrail:
    """Reads the audit trail. Methods raise LedgerError."""

    audit: Audit

    def __post_init__(self) -> None:
        self._reading = asyncio.Lock()
        self._key = "0"
        self._drained: deque[Entry] = deque(maxlen=AUDIT_ENTRIES)

    async def history(self, limit: int) -> History:
        """Return the entries without intents, newest first."""
        entries = await self.audit.newest(min(2 * limit, AUDIT_ENTRIES))
        return {"entries": [_public(entry) for entry in entries if entry["phase"] != "intent"][:limit]}

    async def would_drain(self, limit: int) -> WouldDrains:
        """Return the zombies that report mode kept, and what happened to them, newest first."""
        rows = dict[tuple[str, str], WouldDrain]()
        for entry in reversed(await self.audit.newest(AUDIT_ENTRIES)):
            key = entry["stream"], entry.get("created", "")
            if entry["phase"] == "would_drain":
                rows[key] = _would_drain(entry)
            elif entry["phase"] == "afterwards" and key in rows:
                row = rows[key]
                row["afterwards"], row["afterwards_at"] = entry["outcome"], entry.get("afterwards_at")
        newest = list(rows.values())[::-1]
        ends = Counter(row["afterwards"] for row in newest)
        return {"total": len(newest), "afterwards": dict(ends), "entries": newest[:limit]}

    async def report_mode_totals(self) -> ReportTotals:
        """Return how many zombies report mode kept, and what happened to them."""
        totals = await self.would_drain(1)
        return {"total": totals["total"], "afterwards": totals["afterwards"]}

    async def entries_since(self, key: str) -> tuple[str, list[Entry]]:
        """Return the next key, and the entries after `key`, oldest first. An empty key means now."""
        if not key:
            newest = await self.audit.newest(1)
            return (newest[0]["key"] if newest else "0"), []
        entries, last = await self.audit.since(key, 100)
        return last, [_public(item) for item in entries if item["phase"] != "intent"]

    async def leaks(self) -> Leaks:
        """Return how many zombies each final status left behind, by the hour of the day (UTC)."""
        drained = await self.drains()
        statuses: dict[str, list[int]] = {}
        for entry in drained:
            hour = int(entry["at"][DAY_CHARS + 1 : DAY_CHARS + 3])
            statuses.setdefault(entry["status"] or entry["reason"], [0] * 24)[hour] += 1
        rows: list[LeakRow] = [
            {"status": status, "drained": sum(hours), "hours": hours} for status, hours in statuses.items()
        ]
        return {"total": len(drained), "statuses": sorted(rows, key=lambda row: -sum(row["hours"]))}

    async def drains(self) -> Collection[Entry]:
        """Return all deletions in the trail, oldest first. Entries that were read before are not read again."""
        async with self._reading:
            if not await self.audit.has_entry(self._key):  # the first call, or Redis was emptied
                self._key = "0"
                self._drained.clear()
            entries, last = await self.audit.since(self._key, BATCH)
            while last != self._key:
                self._drained.extend(item for item in entries if item.get("outcome") == Outcome.DRAINED.value)
                self._key = last
                entries, last = await self.audit.since(self._key, BATCH)
            return tuple(self._drained)


def _would_drain(entry: Entry) -> WouldDrain:
    return {
        "stream": entry["stream"],
        "job_id": entry["job_id"],
        "reason": entry["reason"],
        "status": entry.get("status") or None,
        "created": entry.get("created"),
        "messages": entry.get("messages", 0),
        "size": entry.get("size", 0),
        "at": entry["at"],
        "afterwards": STILL_THERE,
        "afterwards_at": None,
    }


def _public(entry: Entry) -> Entry:
    """Return the entry without its token and its recipe."""
    return cast("Entry", {name: value for name, value in entry.items() if name not in {"token", "made_of"}})
