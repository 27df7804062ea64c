"""What happened to a stream that does not exist, from the audit, the lifecycle stream and the backups."""

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from socket import gethostname
from typing import Any

from reactor.backups.folder import read_backup, recorded_folder
from reactor.backups.store import Backup, BackupFailed, BackupStore
from reactor.core.explain import deletion_of, entry_line, event_line
from reactor.core.model import AUDIT_ENTRIES, Outcome, StatusEvent, format_instant, parse_instant, to_the_second
from reactor.core.schemas import Entry, Gone, Happened, Restorable
from reactor.deletion.resources import Resources
from reactor.operate.restore import Recipe

_DELETED = {Outcome.DRAINED.value, Outcome.ALREADY_GONE.value}


@dataclass(eq=False, repr=False)
class DeletedStreams:
    """Answers about streams that do not exist. Methods raise JetStreamError and LedgerError.

    `place_at` returns the place for backups at a URL, or None if this machine cannot open it.
    """

    deps: Resources
    backup_store: BackupStore
    place_at: Callable[[str], BackupStore | None] = lambda _: None

    async def of(self, name: str, job_id: str) -> Gone:
        """Return all that is known of a stream that does not exist."""
        trail = await self.deps.recorder.audit.newest(AUDIT_ENTRIES)
        entries = [entry for entry in trail if entry["stream"] == name]
        events = await self.deps.directory.events_of_job(job_id)
        deletion = next((entry for entry in entries if entry.get("outcome") in _DELETED), None)
        backup = await self.backup_of(name)
        known = "heard_of" if entries or events else "never_heard_of"
        known = "deleted" if deletion or _is_own(backup) else known
        timeline = [
            Happened(at=format_instant(item.published_at), what=event_line(job_id, item), by=item.source)
            for item in events
        ]
        return Gone(
            stream=name,
            job_id=job_id,
            verdict=Outcome.ALREADY_GONE.value if known == "deleted" else "no_stream",
            known=known,
            at=format_instant(self.deps.clock()),
            sentence=_sentence(
                name,
                job_id,
                deletion=deletion,
                begins=trail[-1]["at"] if trail else None,
                events=events,
                backup=backup,
            ),
            restorable=await self._restorable(name, entries),
            timeline=sorted([*timeline, *_acts(entries)], key=lambda item: item["at"]),
        )

    async def acts(self, name: str) -> list[Happened]:
        """Return the audit's entries about a stream, oldest first."""
        trail = await self.deps.recorder.audit.newest(AUDIT_ENTRIES)
        return _acts([entry for entry in trail if entry["stream"] == name])

    async def _restorable(self, name: str, entries: Sequence[Entry]) -> Restorable | None:
        """Return how to restore it: from the newest backup here, from one elsewhere, or without messages."""
        command = f"reactor restore {name}"
        if (backup := await self.backup_of(name)) is not None:
            manifest = backup.manifest
            return {"command": command, "backup": backup.address, "messages": manifest.messages, "lost": 0}
        if (recipe := _recipe(entries)) is None:
            return None
        elsewhere = next((entry["backup"] for entry in entries if entry.get("backup")), None)
        return {"command": command, "backup": elsewhere, "messages": 0, "lost": recipe.messages}

    async def backup_of(self, name: str) -> Backup | None:
        """Return the stream's newest backup, in the place of the settings or in the one that the audit names."""
        if newest := await _newest_in(self.backup_store, name):
            return newest
        if (address := await self.backup_address_of(name)) is None:
            return None
        if (of_machine := recorded_folder(address)) is not None:
            host, folder = of_machine
            recorded = await asyncio.to_thread(read_backup, folder) if host == gethostname() else None
            return recorded if recorded and recorded.manifest.stream == name else None
        place = self.place_at(address.rpartition("/")[0])
        return await _newest_in(place, name) if place else None

    async def backup_address_of(self, name: str) -> str | None:
        """Return `host:folder` of the newest backup that the audit names."""
        trail = await self.deps.recorder.audit.newest(AUDIT_ENTRIES)
        return next((entry["backup"] for entry in trail if entry["stream"] == name and entry.get("backup")), None)

    async def recipe_of(self, name: str) -> Recipe | None:
        """Return the recipe to create it again without its messages, if the audit still has it."""
        return _recipe(
            [entry for entry in await self.deps.recorder.audit.newest(AUDIT_ENTRIES) if entry["stream"] == name]
        )


async def _newest_in(place: BackupStore, name: str) -> Backup | None:
    """Return the newest backup of a stream in a place; None also if the place cannot be reached."""
    with suppress(BackupFailed):
        return next((item for item in await place.backups() if item.manifest.stream == name), None)
    return None


def _is_own(backup: Backup | None) -> bool:
    """Return whether reactor wrote the backup. Then it deleted the stream right afterwards."""
    return backup is not None and bool(backup.manifest.job_id)


def _acts(entries: Sequence[Entry]) -> list[Happened]:
    return [Happened(at=entry["at"], what=entry_line(entry), by=entry["by"]) for entry in reversed(entries)]


def _sentence(
    name: str,
    job_id: str,
    *,
    deletion: Entry | None,
    begins: str | None,
    events: Sequence[StatusEvent],
    backup: Backup | None,
) -> str:
    """Return a sentence that says who deleted the stream, as far as is known."""
    there_is_none = f"there is no stream {name}"
    if deletion:
        return f"{there_is_none}; {deletion_of(deletion)}."
    audit = f"the audit begins at {to_the_second(parse_instant(begins))}" if begins else "the audit is empty"
    if backup and _is_own(backup):
        at = to_the_second(parse_instant(backup.manifest.at))
        by = backup.manifest.by
        return f"{there_is_none}; {audit}, but reactor backed it up at {at}, right before it deleted it ({by})."
    if not events:
        return (
            f"{there_is_none}; {audit} and has no deletion of it, and no event names job {job_id}: is the name right?"
        )
    last = event_line(job_id, events[-1])
    return (
        f"{there_is_none}; {audit} and has no deletion of it: what was deleted before then, it cannot tell. {last}. "
        "If the stream existed since then, somebody else deleted it."
    )


def _recipe(entries: Sequence[Entry]) -> Recipe | None:
    """Return the recipe of the newest intent."""
    for entry in entries:
        if made_of := entry.get("made_of"):
            recipe: dict[str, Any] = json.loads(made_of)
            rest = {"config": recipe["config"], "consumers": recipe["consumers"], "last_seq": recipe["last_seq"]}
            return Recipe(job_id=entry["job_id"], messages=entry.get("messages", 0), **rest)
    return None
