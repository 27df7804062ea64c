"""The worker's heartbeat: it shows other processes that the worker is alive, and its policy."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from reactor.core.model import format_instant
from reactor.core.workers import WorkerInfo
from reactor.deletion.resources import Resources
from reactor.store.keyspace import LedgerError
from reactor.store.workers import BEAT_S


@dataclass(eq=False, repr=False)
class Registration:
    """Sends the heartbeats of one worker. Calls `connected` with whether NATS and Redis are connected."""

    deps: Resources
    info: WorkerInfo
    connected: Callable[[bool, bool], None]

    def __post_init__(self) -> None:
        self._nats_away_since: str | None = None

    async def tick(self) -> float:
        """Send a heartbeat. Return the seconds until the next one. Raises LedgerError."""
        is_connected = self.deps.reads.is_connected
        if is_connected:
            self._nats_away_since = None
        elif self._nats_away_since is None:
            self._nats_away_since = format_instant(self.deps.clock())
        info = replace(self.info, deletes_paused=self.deps.rights.paused, nats_away_since=self._nats_away_since)
        try:
            await self.deps.ledger.workers.beat(info)
        except LedgerError:
            self.connected(is_connected, False)  # noqa: FBT003  # NATS, Redis
            raise
        self.connected(is_connected, True)  # noqa: FBT003  # as above
        return BEAT_S
