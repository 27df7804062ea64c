"""The doctor's check of the backups' folder: without a backup that is wanted, nothing is deleted."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from reactor.backups.store import BackupFailed, BackupStore
from reactor.core.checks import Check, counted, error, ok, size, warning
from reactor.operate.doctor.context import CheckFunctions


def backup_checks(backup_store: BackupStore | None) -> CheckFunctions:
    """Return the check of this machine's folder; none if no backups are wanted."""
    return {"backups.folder": partial(_folder, backup_store)} if backup_store else {}


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
    finding = (
        f"{backup_store.folder} has {counted(len(there), 'backup')} of {size(held)}, and room for {size(free)} more"
    )
    if free + held < backup_store.max_bytes:
        fix = f"give it {size(backup_store.max_bytes)}, or set REACTOR_BACKUP_MAX_BYTES to what there is"
        yield warning(name, finding, fix)
        return
    yield ok(name, finding)
