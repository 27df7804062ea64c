"""What an operator may order from the page: the same as by command, with who asks and why."""

from dataclasses import dataclass

from reactor.backups.store import Backup
from reactor.core.policy import Policy
from reactor.deletion.inspection import Target
from reactor.deletion.resources import Resources
from reactor.jetstream.errors import NotFound
from reactor.operate.deleted_streams import DeletedStreams
from reactor.operate.overview import NoJobStream, NoSuchStream
from reactor.operate.protect import Protector
from reactor.operate.restore import Restored, Restorer

PATIENCE_S = 60.0
"""How long a deletion under way is waited out while somebody looks at a page."""


@dataclass(eq=False, repr=False)
class Orders:
    """Methods raise NoJobStream, NoSuchStream, ProvisionError, JetStreamError and LedgerError beside what is theirs.

    `policy` knows job streams by their names.
    """

    deps: Resources
    policy: Policy
    protector: Protector
    restorer: Restorer
    past: DeletedStreams

    async def pause(self, who: str, why: str) -> None:
        """Nobody deletes anything, until it is resumed."""
        await self.deps.pause_gate.declare()
        await self.deps.pause_gate.pause(who, why, None)
        await self.deps.recorder.ordered("paused", why=_by(who, why))

    async def resume(self, who: str, why: str) -> None:
        """Deleting goes on."""
        await self.deps.pause_gate.declare()
        await self.deps.pause_gate.resume(who)
        await self.deps.recorder.ordered("resumed", why=_by(who, why))

    async def protect(self, name: str, who: str, why: str, *, protected: bool) -> None:
        """Keep a stream, or judge it again. Raises NotProtected."""
        target = Target(name, self._job_of(name))
        try:
            await self.protector.protect(target, PATIENCE_S, protected=protected, why=_by(who, why))
        except NotFound as error:
            raise NoSuchStream(await self.past.of(name, target.job_id)) from error

    async def restore(self, name: str, who: str, why: str) -> Restored:
        """Under its own name. Raises NotRestored and BackupCorrupt."""
        job_id = self._job_of(name)
        if (done := await bring_back(self.past, self.restorer, name, why=_by(who, why))) is None:
            raise NoSuchStream(await self.past.of(name, job_id))
        return done

    def _job_of(self, name: str) -> str:
        if (job_id := self.policy.job_id(name)) is None:
            raise NoJobStream(name, self.policy)
        return job_id


async def bring_back(
    past: DeletedStreams,
    restorer: Restorer,
    stream: str,
    *,
    name: str | None = None,
    backup: Backup | None = None,
    why: str = "",
) -> Restored | None:
    """From this backup, or the newest one here, or by what the audit remembers; None if there is neither."""
    if (found := backup or await past.backup_of(stream)) is not None:
        return await restorer.from_backup(found, name or stream, why)
    if (recipe := await past.recipe_of(stream)) is not None:
        return await restorer.from_recipe(recipe, name or stream, why)
    return None


def _by(who: str, why: str) -> str:
    return f"{why}, says {who} on the page" if why else f"asked for by {who} on the page"
