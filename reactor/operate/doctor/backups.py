"""The doctor's check of the place for backups."""

from collections.abc import AsyncIterator
from functools import partial

from reactor.backups.store import BackupFailed, BackupStore
from reactor.core.checks import Check, counted, error, ok, size, warning
from reactor.operate.doctor.context import CheckFunctions


def backup_checks(backup_store: BackupStore | None) -> CheckFunctions:
    """Return the check of the place for backups; none if the settings ask for no backups."""
    return {"backups.folder": partial(_place, backup_store)} if backup_store else {}


async def _place(backup_store: BackupStore) -> AsyncIterator[Check]:
    name = "backups.folder"
    try:
        async with backup_store.draft("reactor-doctor") as draft:
            await draft.write(b"reactor doctor")
            await draft.stored()
        there = await backup_store.backups()
    except BackupFailed as failed:
        fix = "let REACTOR_BACKUP_URL or REACTOR_BACKUP_DIR name a place that this process may read and write"
        yield error(name, f"{failed}, so nothing is deleted", fix)
        return
    held, free = sum(item.manifest.size for item in there), await backup_store.free()
    room = "" if free is None else f", and room for {size(free)} more"
    finding = f"{backup_store.address} has {counted(len(there), 'backup')} of {size(held)}{room}"
    if free is not None and free + held < backup_store.max_bytes:
        fix = f"give it {size(backup_store.max_bytes)}, or set REACTOR_BACKUP_MAX_BYTES to what there is"
        yield warning(name, finding, fix)
        return
    yield ok(name, finding)
