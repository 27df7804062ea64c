"""The doctor's check of the backups' folder: without a backup that is wanted, nothing is deleted."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

from reactor.backups.store import BackupFailed, BackupStore
from reactor.core.checks import Check, counted, error, ok, size, warning
from reactor.operate.doctor.context import CheckFunctions


@dataclass(eq=False, repr=False)
class BackupSection:
    """This machine's folder.

    None if no backups are wanted.
    """

    backup_store: BackupStore | None

    def examinations(self) -> CheckFunctions:
        """Return the checks: one, or none."""
        return {"backups.folder": partial(_folder, self.backup_store)} if self.backup_store else {}


async def _folder(backup_store: BackupStore) -> AsyncIterator[Check]:
    name = "backups.folder"
    try:
        async with backup_store.draft() as draft:
            await draft.write(b"reactor doctor")
    except BackupFailed as failed:
        yield error(name, f"{failed}, so nothing is deleted", "let REACTOR_BACKUP_DIR be a folder that can be written")
        return
    there = await asyncio.to_thread(backup_store.backups)
    held, free = sum(item.manifest.size for item in there), backup_store.free()
    found = f"{backup_store.folder} has {counted(len(there), 'backup')} of {size(held)}, and room for {size(free)} more"
    if free + held < backup_store.max_bytes:
        fix = f"give it {size(backup_store.max_bytes)}, or set REACTOR_BACKUP_MAX_BYTES to what there is"
        yield warning(name, found, fix)
        return
    yield ok(name, found)
