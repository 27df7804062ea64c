"""What the doctor looks at where backups are wanted: without them nothing is deleted."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from reactor.backups.store import BackupFailed, Shelf
from reactor.core.checks import Check, counted, error, ok, size, warning
from reactor.operate.doctor.context import Examinations


class BackupSection:
    """This machine's folder."""

    def __init__(self, shelf: Shelf | None) -> None:
        """None where no backups are wanted."""
        self._shelf = shelf

    def examinations(self) -> Examinations:
        """One, or none."""
        return {"backups.folder": partial(_folder, self._shelf)} if self._shelf else {}


async def _folder(shelf: Shelf) -> AsyncIterator[Check]:
    name = "backups.folder"
    try:
        async with shelf.draft() as draft:
            await draft.write(b"reactor doctor")
    except BackupFailed as failed:
        yield error(name, f"{failed}, so nothing is deleted", "let REACTOR_BACKUP_DIR be a folder that can be written")
        return
    there = await asyncio.to_thread(shelf.backups)
    held, free = sum(one.manifest.size for one in there), shelf.free()
    found = f"{shelf.folder} has {counted(len(there), 'backup')} of {size(held)}, and room for {size(free)} more"
    if free + held < shelf.max_bytes:
        mend = f"give it {size(shelf.max_bytes)}, or set REACTOR_BACKUP_MAX_BYTES to what there is"
        yield warning(name, found, mend)
        return
    yield ok(name, found)
