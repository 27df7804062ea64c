"""Backups before deletions: which streams get one, and the time it takes. Without it nothing is deleted."""

import asyncio
from typing import Literal

from reactor.backups.store import Backup, BackupFailed, Manifest, Shelf
from reactor.core.actor import Actor
from reactor.core.model import SECOND, format_instant
from reactor.core.stream_info import LONGEST_LEASE, has_work_left, recipe_of
from reactor.deletion.fencing import Fenced, Tenure
from reactor.deletion.inspection import Look
from reactor.jetstream.client import JetStream
from reactor.jetstream.errors import JetStreamError
from reactor.jetstream.snapshots import snapshot
from reactor.telemetry.traces import span

When = Literal["pending", "always"]
"""`pending`: where work is left that nobody has acknowledged."""
AT_ONCE = 4
"""Backups that one process writes: each may be large."""
SLOWEST = 8 * 1024 * 1024
"""Bytes a second that a backup is given time for."""
BESIDE_S = 5.0
"""Time for whatever is not writing."""
MARGIN_S = 60.0
"""What a lease must be shorter than the longest by, so that its fence can be told from garbage."""


class Keeper:
    """One process's."""

    def __init__(self, js: JetStream, shelf: Shelf, when: When, actor: Actor) -> None:
        """`when` says which streams get one; `actor` is told of in each."""
        self._js = js
        self._shelf = shelf
        self._when = when
        self._actor = actor
        self._room = asyncio.Semaphore(AT_ONCE)

    def wants(self, look: Look) -> bool:
        """Whether there must be a backup before this stream goes."""
        return self._when == "always" or has_work_left(look.stream.messages, look.consumers)

    def time_for(self, look: Look, lease_s: float) -> float:
        """Seconds for fence, backup and deletion, where the lease alone would not do."""
        longest = LONGEST_LEASE / SECOND - MARGIN_S
        return max(lease_s, min(lease_s + BESIDE_S + look.stream.size / SLOWEST, longest))

    async def take(self, behind: Fenced, tenure: Tenure) -> Backup:
        """The backup of a stream whose end is proven. Raises BackupFailed."""
        look = behind.look
        try:
            async with asyncio.timeout(tenure.deadline - tenure.monotonic()), self._room:
                await asyncio.to_thread(self._shelf.make_room, look.stream.size)
                with span("backup"):
                    return await self._write(behind)
        except TimeoutError as error:
            raise BackupFailed("the backup took longer than the stream could be held; it is tried again") from error
        except JetStreamError as error:
            message = f"the server gave no snapshot of it: {error}"
            raise BackupFailed(message) from error

    def settled(self, backup: Backup) -> None:
        """Say that the deletion that relied on this backup is over."""
        self._shelf.settled(backup)

    async def _write(self, behind: Fenced) -> Backup:
        look = behind.look
        made_of = recipe_of(behind.raw, behind.fence, look.consumers)
        manifest = Manifest(
            stream=look.stream.name,
            job_id=look.stream.job_id,
            at=format_instant(look.stream.observed_at),
            by=self._actor.by,
            reason=look.verdict.reason.value,
            messages=look.stream.messages,
            last_seq=look.stream.last_seq,
            consumers=made_of["consumers"],
        )
        async with self._shelf.draft() as draft:
            described = await snapshot(self._js, look.stream.name, draft.write)
            description = {"config": made_of["config"], "state": described["state"]}
            return await self._shelf.place(draft, manifest, description)

    def address_of(self, backup: Backup) -> str:
        """Where it is, for the audit: each machine has its own."""
        return f"{self._actor.host}:{backup.folder.resolve()}"
