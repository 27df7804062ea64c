"""What reactor did, from the audit: for the commands, the HTTP endpoint and the page."""

import asyncio
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import cast

from reactor.core.model import AUDIT_ENTRIES, Outcome
from reactor.core.schemas import Entry, History, LeakRow, Leaks, ReportedEnds, WouldDrain, WouldDrains
from reactor.store.audit import Audit

BATCH = 1_000
STILL_THERE = "still there"
DAY_CHARS = len("2026-01-31")


@dataclass(eq=False, repr=False)
class Trail:
    """The audit trail, asked. Methods raise LedgerError.

    Nothing is written here.
    """

    audit: Audit

    def __post_init__(self) -> None:
        self._reading = asyncio.Lock()
        self._key = "0"
        self._drained: deque[Entry] = deque(maxlen=AUDIT_ENTRIES)

    async def history(self, limit: int) -> History:
        """Return what came of deletions, and what failed; newest first."""
        entries = await self.audit.newest(min(2 * limit, AUDIT_ENTRIES))
        return {"entries": [_public(entry) for entry in entries if entry["phase"] != "intent"][:limit]}

    async def would_drain(self, limit: int) -> WouldDrains:
        """Return what report mode would have deleted, and what has become of it; newest first."""
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

    async def report_mode_totals(self) -> ReportedEnds:
        """Return how many streams report mode would have deleted, and what has become of them."""
        found = await self.would_drain(1)
        return {"total": found["total"], "afterwards": found["afterwards"]}

    async def entries_since(self, key: str) -> tuple[str, list[Entry]]:
        """Return the history after an entry's key, oldest first, and the next key; an empty key means now."""
        if not key:
            newest = await self.audit.newest(1)
            return (newest[0]["key"] if newest else "0"), []
        entries, last = await self.audit.since(key, 100)
        return last, [_public(item) for item in entries if item["phase"] != "intent"]

    async def leaks(self) -> Leaks:
        """Return which ends of jobs leave streams behind most, by status and hour of the day (UTC)."""
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
        """Return every deletion that is still in it, oldest first. What was read once is not read again."""
        async with self._reading:
            if not await self.audit.holds(self._key):  # nothing was read yet, or it is another trail
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
    """Return the entry without the replicas' token and without the recipe of the stream."""
    return cast("Entry", {name: value for name, value in entry.items() if name not in {"token", "made_of"}})
