"""The watchdog: it recreates deleted streams, replaces a stalled connection, and rebuilds a lost ledger."""

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

import structlog

from reactor.core.checks import counted
from reactor.core.pause import Pause
from reactor.core.schemas import PassSummary
from reactor.core.subjects import DesiredStreams
from reactor.deletion.resources import Resources
from reactor.jetstream.errors import NotFound
from reactor.jetstream.topology import Provision
from reactor.telemetry.alerts import Alerts, Kind
from reactor.worker.broker import Broker

WATCH_S = 5.0
SILENT_S = 120.0
"""A subscriber that has requested no messages for so long (s) is dead."""
STALLED_S = 30.0
"""How long events may wait without any being acked (s) before the subscribers reconnect."""

log = structlog.get_logger(__name__)


class SubscriberDied(Exception):
    """A subscriber has stopped requesting messages, and only a new process helps."""


class Flow:
    """Detects that lifecycle events are not read: some wait, and none is acked, for any reason."""

    def __init__(self) -> None:
        """Start without a reading."""
        self._floor = -1
        self._moved_at = self._reconnected_at = time.monotonic()
        self.stalled: str | None = None
        """What is wrong; None if events are read."""

    def note(self, consumer: Mapping[str, Any]) -> None:
        """Note an answer to CONSUMER.INFO."""
        floor, waiting = consumer["ack_floor"]["stream_seq"], consumer["num_pending"] + consumer["num_ack_pending"]
        if floor != self._floor or not waiting:
            self._floor, self._moved_at = floor, time.monotonic()
        since = time.monotonic() - self._moved_at
        self.stalled = (
            f"{waiting} lifecycle events wait, and none was acked for {since:.0f} s" if since > STALLED_S else None
        )

    def wants_connection(self) -> bool:
        """Return whether to reconnect now. While the flow is stalled, that is true from time to time."""
        wants = self.stalled is not None and time.monotonic() - self._reconnected_at > STALLED_S
        if wants:
            self._reconnected_at = time.monotonic()
        return wants


@dataclass(eq=False, repr=False)
class Watchdog:
    """Checks and repairs the parts of a worker.

    `provision` creates missing streams as `desired`. `stream` is the lifecycle stream.
    """

    deps: Resources
    broker: Broker
    stream: str
    alerts: Alerts
    _: KW_ONLY
    desired: DesiredStreams
    provision: Callable[[], Awaitable[Provision]]

    def __post_init__(self) -> None:
        self._lacking: tuple[str, ...] = ()
        self._flow = Flow()
        self._pause: Pause | None = None

    def complaints(self) -> Iterator[str]:
        """Yield why lifecycle events are not read; nothing if they are."""
        if self._is_silent():
            yield "the subscriber for lifecycle events is stuck"
        if self._flow.stalled:
            yield self._flow.stalled

    async def tick(self) -> None:
        """Check and repair. Raises SubscriberDied if only a new process helps, JetStreamError and LedgerError."""
        if self._is_silent():
            raise SubscriberDied(f"the subscriber for lifecycle events has asked for no messages in {SILENT_S:g} s")
        await self._check_flow()
        await self.deps.directory.ensure()
        await self.deps.rights.recheck()
        pause = await self.deps.pause_gate.active_pause()
        if pause != self._pause:
            self._pause = pause
            log.warning("deleting is paused", why=str(pause)) if pause else log.warning("deleting goes on")
        self.alerts.note(Kind.PAUSED, str(pause) if pause else None)
        self._note_last_pass(await self.deps.ledger.passes.last())

    def _is_silent(self) -> bool:
        asked_at = self.broker.subscriber_connection.asked_at
        return asked_at is not None and time.monotonic() - asked_at > SILENT_S

    async def _check_flow(self) -> None:
        is_missing = bool(self._lacking)
        try:
            self._flow.note(await self.deps.reads.consumer_info(self.stream, self.desired.durable))
        except NotFound as error:
            if not is_missing:
                log.warning("a stream or durable was deleted; it is created again", error=str(error))
            await self.broker.stop_subscribers()  # else messages of the new durable may stay unacked until ack_wait
            is_missing = True
        if is_missing:
            await self.provision_missing()
        if self._flow.wants_connection():
            log.warning("reconnecting", why=self._flow.stalled)
            await self.broker.reconnect()
        await self.broker.resubscribe()

    async def provision_missing(self) -> None:
        """Create streams and durables, as far as there is room. A lack of room is logged once."""
        lacking = (await self.provision()).lacking
        if lacking and lacking != self._lacking:
            log.error("there is no room for streams of reactor's own", streams=lacking)
        if lacking or self._lacking:
            await self.deps.ledger.topology_cache.note_lacking(lacking)
        self._lacking = lacking

    def _note_last_pass(self, report: PassSummary | None) -> None:
        """Note the alerts of the last full pass of any replica. An aborted pass changes none."""
        if report and report["error"] is None:
            self.alerts.note(Kind.BREAKER_TRIPPED, report["breaker"])
            need = f"{counted(report['unfixable'], 'stream')} need a person: reactor streams --verdict unfixable"
            self.alerts.note(Kind.UNFIXABLE, need if report["unfixable"] else None)
