"""An operator's orders, by command or on the page: pause, resume, protect, restore."""

from dataclasses import dataclass

from reactor.backups.folder import recorded_folder
from reactor.backups.store import Backup
from reactor.core.pause import Pause
from reactor.deletion.gates import PauseGate
from reactor.deletion.recorder import Recorder
from reactor.deletion.resources import Resources
from reactor.deletion.states import Target
from reactor.jetstream.errors import NotFound
from reactor.operate.deleted_streams import DeletedStreams
from reactor.operate.overview import NoSuchStream, job_of
from reactor.operate.protect import HowLong, Protection, protect
from reactor.operate.restore import NotRestored, Restored, Restorer
from reactor.store.keyspace import LedgerError


@dataclass(frozen=True, slots=True)
class Operator:
    """Who gives an order, and why."""

    name: str
    reason: str = ""
    on_page: bool = False

    @property
    def note(self) -> str:
        """The reason for the audit, with the person's name: the audit's actor does not know the user of the page."""
        if not self.on_page:
            return self.reason
        return (
            f"{self.reason}, says {self.name} on the page" if self.reason else f"asked for by {self.name} on the page"
        )


@dataclass(frozen=True, slots=True)
class PauseOrder:
    """The result of `pause` or `resume`."""

    pause: Pause | None
    """The pause that is active now, or that was resumed."""
    unrecorded: str | None = None
    """Why the audit lacks the order; None if it has it. NATS has it in any case."""


async def pause(gate: PauseGate, recorder: Recorder, operator: Operator, span_ns: int | None = None) -> PauseOrder:
    """Pause all deleting, for `span_ns` or until it is resumed. NATS stores the pause, so Redis may be away.

    After ProvisionError or JetStreamError nothing has changed.
    """
    await gate.declare()
    await gate.pause(operator.name, operator.reason, span_ns)
    return PauseOrder(await gate.active_pause(), await _record(recorder, "paused", operator))


async def resume(gate: PauseGate, recorder: Recorder, operator: Operator) -> PauseOrder:
    """End a pause. After ProvisionError or JetStreamError nothing has changed."""
    await gate.declare()
    if (active := await gate.active_pause()) is None:
        return PauseOrder(None)
    await gate.resume(operator.name)
    return PauseOrder(active, await _record(recorder, "resumed", operator))


async def _record(recorder: Recorder, what: str, operator: Operator) -> str | None:
    try:
        await recorder.ordered(what, why=operator.note)
    except LedgerError as error:
        return str(error)
    return None


@dataclass(frozen=True, slots=True)
class StreamActions:
    """An operator's orders about single streams.

    All methods raise NoJobStream, NoSuchStream, JetStreamError and LedgerError.
    """

    deps: Resources
    deleted: DeletedStreams
    restorer: Restorer

    async def protect(self, name: str, timeout_s: float, operator: Operator, how_long: HowLong | None) -> Protection:
        """Protect a stream; with `how_long` None remove its protection. Raises NotProtected."""
        target = Target(name, job_of(name, self.deps.policy))
        try:
            return await protect(self.deps, target, timeout_s, how_long, operator.note)
        except NotFound as error:
            raise NoSuchStream(await self.deleted.of(name, target.job_id)) from error

    async def restore(
        self,
        name: str,
        operator: Operator,
        *,
        new_name: str | None = None,
        backup: Backup | None = None,
        without_messages: bool = False,
    ) -> Restored:
        """Restore a stream from `backup`, or from its newest one.

        `without_messages` creates the stream empty if there is no backup. Raises NotRestored and BackupCorrupt.
        """
        job_id = job_of(name, self.deps.policy)
        if (source := backup or await self.deleted.backup_of(name)) is not None:
            return await self.restorer.from_backup(source, new_name or name, operator.note)
        if (recipe := await self.deleted.recipe_of(name)) is not None:
            if recipe.messages and not without_messages:
                raise NotRestored(await self._where_they_are(name, recipe.messages))
            return await self.restorer.from_recipe(recipe, new_name or name, operator.note)
        raise NoSuchStream(await self.deleted.of(name, job_id))

    async def _where_they_are(self, name: str, messages: int) -> str:
        """Return why the messages cannot be restored here, and where their backup is."""
        empty = f"reactor restore {name} --without-messages creates the empty stream"
        if address := await self.deleted.backup_address_of(name):
            if (of_machine := recorded_folder(address)) is None:
                return f"the backup of {name} is in {address}, which cannot be read from here; {empty}"
            host, folder = of_machine
            return f"the backup of {name} is on {host}: run there reactor restore {name} --from {folder}; or {empty}"
        return f"there is no backup of {name}, so its {messages} messages are lost; {empty}"
