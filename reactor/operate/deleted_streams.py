"""What became of a stream that is not there: from the audit, the lifecycle stream and this machine's backups."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reactor.backups.store import Backup, BackupStore
from reactor.core.explain import deletion_of, happened, said
from reactor.core.model import AUDIT_ENTRIES, Outcome, StatusEvent, format_instant
from reactor.core.schemas import Entry, Gone, Happened, Restorable
from reactor.deletion.resources import Resources
from reactor.operate.restore import Recipe

_DELETED = {Outcome.DRAINED.value, Outcome.ALREADY_GONE.value}


@dataclass(eq=False, repr=False)
class DeletedStreams:
    """Methods raise JetStreamError and LedgerError.

    `shelf` has this machine's backups.
    """

    deps: Resources
    backup_store: BackupStore

    async def of(self, name: str, job_id: str) -> Gone:
        """Return all that is known of a stream that is not there."""
        trail = await self.deps.recorder.audit.newest(AUDIT_ENTRIES)
        entries = [entry for entry in trail if entry["stream"] == name]
        words = await self.deps.directory.words_on(job_id)
        deletion = next((entry for entry in entries if entry.get("outcome") in _DELETED), None)
        known = "deleted" if deletion else "heard_of" if entries or words else "never_heard_of"
        events = [
            Happened(at=format_instant(item.published_at), what=said(job_id, item), by=item.source) for item in words
        ]
        acts = [Happened(at=entry["at"], what=happened(entry), by=entry["by"]) for entry in reversed(entries)]
        begins = trail[-1]["at"] if trail else None
        return Gone(
            stream=name,
            job_id=job_id,
            verdict=Outcome.ALREADY_GONE.value if known == "deleted" else "no_stream",
            known=known,
            at=format_instant(self.deps.clock()),
            sentence=self._sentence(name, job_id, deletion, begins, words),
            restorable=await self._restorable(name, entries),
            timeline=sorted([*events, *acts], key=lambda item: item["at"]),
        )

    def _sentence(
        self, name: str, job_id: str, deletion: Entry | None, begins: str | None, words: Sequence[StatusEvent]
    ) -> str:
        found = f"there is no stream {name}; {deletion_of(deletion, begins)}"
        if deletion:
            return f"{found}."
        if not words:
            return f"{found}, and no event of job {job_id}: is the name right?"
        return f"{found}. {said(job_id, words[-1])}; so somebody else deleted the stream, or it never existed."

    async def _restorable(self, name: str, entries: Sequence[Entry]) -> Restorable | None:
        """Return how to restore it: from the newest backup here, one elsewhere, or without its messages."""
        command = f"reactor restore {name}"
        if (backup := await self.backup_of(name)) is not None:
            manifest = backup.manifest
            return {"command": command, "backup": str(backup.folder), "messages": manifest.messages, "lost": 0}
        if (recipe := _recipe(entries)) is None:
            return None
        elsewhere = next((entry["backup"] for entry in entries if entry.get("backup")), None)
        return {"command": command, "backup": elsewhere, "messages": 0, "lost": recipe.messages}

    async def backup_of(self, name: str) -> Backup | None:
        """Return the newest one of that stream on this machine."""
        backups = await asyncio.to_thread(self.backup_store.backups)
        return next((item for item in backups if item.manifest.stream == name), None)

    async def recipe_of(self, name: str) -> Recipe | None:
        """Return how to create it again without its messages, if the audit still knows."""
        return _recipe(
            [entry for entry in await self.deps.recorder.audit.newest(AUDIT_ENTRIES) if entry["stream"] == name]
        )


def _recipe(entries: Sequence[Entry]) -> Recipe | None:
    """Return the recipe of the newest intent."""
    for entry in entries:
        if made_of := entry.get("made_of"):
            recipe: dict[str, Any] = json.loads(made_of)
            rest = {"config": recipe["config"], "consumers": recipe["consumers"], "last_seq": recipe["last_seq"]}
            return Recipe(job_id=entry["job_id"], messages=entry.get("messages", 0), **rest)
    return None
