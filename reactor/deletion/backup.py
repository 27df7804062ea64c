"""Backups before deletions: which streams get one, and how long that may take. Without a backup nothing is deleted."""

import asyncio
from dataclasses import dataclass

from reactor.backups.store import Backup, BackupFailed, BackupStore, Manifest
from reactor.core.actor import Actor
from reactor.core.model import SECOND, format_instant
from reactor.core.rules import When
from reactor.core.stream_info import LONGEST_LEASE, has_work_left, recipe_of
from reactor.deletion.states import Fenced, HeldLease, Inspection
from reactor.jetstream.client import JetStream
from reactor.jetstream.errors import JetStreamError
from reactor.jetstream.snapshots import snapshot
from reactor.telemetry.traces import span

AT_ONCE = 4
"""How many backups one process writes at once. Each may be large."""
SLOWEST = 8 * 1024 * 1024
"""The lowest speed that a backup is given time for, in bytes a second."""
BESIDE_S = 5.0
"""Time for the steps besides writing."""
MARGIN_S = 60.0
"""How much shorter than the longest lease a lease must be, so that its fence is recognized as valid."""


@dataclass(eq=False, repr=False)
class BackupWriter:
    """Writes the backups of one process. Each backup names the `actor`."""

    js: JetStream
    backup_store: BackupStore
    actor: Actor

    def __post_init__(self) -> None:
        self._room = asyncio.Semaphore(AT_ONCE)

    def wants(self, inspection: Inspection, when: When) -> bool:
        """Return whether this stream must be backed up before it is deleted."""
        return when == "always" or (
            when == "pending" and has_work_left(inspection.stream.messages, inspection.consumers)
        )

    def time_for(self, inspection: Inspection, lease_s: float) -> float:
        """Return the seconds that fence, backup and deletion may take: the lease, or longer for a large stream."""
        longest = LONGEST_LEASE / SECOND - MARGIN_S
        return max(lease_s, min(lease_s + BESIDE_S + inspection.stream.size / SLOWEST, longest))

    async def write_backup(self, behind: Fenced, held_lease: HeldLease) -> Backup:
        """Write and return the backup of a stream whose end is proven. Raises BackupFailed."""
        inspection = behind.inspection
        try:
            left_s = held_lease.deadline - held_lease.monotonic() - BESIDE_S  # leave time to remove the fence
            async with asyncio.timeout(left_s), self._room:
                await self.backup_store.make_room(inspection.stream.size)
                with span("backup"):
                    return await self._write(behind)
        except TimeoutError as error:
            raise BackupFailed(
                "the backup took longer than the stream could be held; it is tried again, "
                "and a longer REACTOR_SWEEP_LEASE gives it more time"
            ) from error
        except JetStreamError as error:
            raise BackupFailed(f"the server gave no snapshot of it: {error}") from error

    def release(self, backup: Backup) -> None:
        """Mark the deletion that relied on this backup as over, so that the backup may be tidied."""
        self.backup_store.release(backup)

    async def _write(self, behind: Fenced) -> Backup:
        inspection = behind.inspection
        made_of = recipe_of(behind.raw, behind.fence, inspection.consumers)
        manifest = Manifest(
            stream=inspection.stream.name,
            job_id=inspection.stream.job_id,
            at=format_instant(inspection.stream.observed_at),
            by=self.actor.by,
            reason=inspection.verdict.reason.value,
            messages=inspection.stream.messages,
            last_seq=inspection.stream.last_seq,
            consumers=made_of["consumers"],
        )
        async with self.backup_store.draft(manifest.stream) as draft:
            described = await snapshot(self.js, inspection.stream.name, draft.write)
            description = {"config": made_of["config"], "state": described["state"]}
            return await self.backup_store.place(draft, manifest, description)

    def address_of(self, backup: Backup) -> str:
        """Return the address of a backup for the audit."""
        return backup.recorded_by(self.actor.host)
