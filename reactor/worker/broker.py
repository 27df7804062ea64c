"""FastStream: the broker whose subscribers hear lifecycle events and advisories, and the application around it.

All that differs from FastStream's own is here and in `reactor.jetstream.pull_client`, by subclasses: the connection is
ours (`_connect` is its own place for that), so credentials are mapped once, and any subject is heard.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import nats.errors
import nats.js.errors
import structlog
from faststream import AckPolicy, FastStream
from faststream.nats import JStream, NatsBroker, PullSub
from nats.aio.client import Client
from nats.js.api import ConsumerConfig

from reactor.config.settings import Settings
from reactor.core.preparing import PREPARE_SUBJECT
from reactor.jetstream.errors import JetStreamError, Unreachable
from reactor.jetstream.pull_client import SubscriberConnection
from reactor.jetstream.topology import ADVISORY_SUBJECTS, Source
from reactor.passes.subscribers import AdvisorySubscriber, LifecycleSubscriber
from reactor.telemetry.logs import FASTSTREAM
from reactor.telemetry.metrics import Metrics
from reactor.worker.preparing import PrepareService

BATCH = 256
NOT_SUBSCRIBED = (nats.errors.Error, nats.js.errors.Error, TimeoutError)
GRACEFUL_S = 8.0

log = structlog.get_logger(__name__)


class Broker(NatsBroker):
    """FastStream's broker on a connection of ours."""

    def __init__(self, hearing: SubscriberConnection, settings: Settings, metrics: Metrics) -> None:
        """Nothing is connected yet."""
        super().__init__(
            js_options={"domain": settings.nats.domain} if settings.nats.domain else {},
            graceful_timeout=GRACEFUL_S,
            log_level=logging.DEBUG,  # else two lines a batch
            apply_types=False,  # injection costs more than the whole of the handling
            logger=logging.getLogger(FASTSTREAM),
            middlewares=[metrics.middleware()] if settings.http.port else [],
        )
        self.hearing = hearing
        self._unsubscribed = False

    async def _connect(self) -> Client:
        client = await self.hearing.connect()
        self.config.connect(client)
        return client

    def hear(
        self,
        source: Source,
        durable: str,
        lifecycle: LifecycleSubscriber,
        advisories: AdvisorySubscriber,
        preparing: PrepareService,
    ) -> None:
        """Make the subscribers; they start with the broker. Those of advisories are a queue group."""
        self.subscriber(
            source.subjects[0],
            config=ConsumerConfig(filter_subjects=[]),
            stream=JStream(source.stream, declare=False),
            durable=durable,
            pull_sub=PullSub(batch_size=BATCH, timeout=5.0, batch=True),
            ack_policy=AckPolicy.MANUAL,
            decoder=_raw,
        )(lifecycle.handle)
        for subject in ADVISORY_SUBJECTS:
            self.subscriber(subject, durable, decoder=_raw)(advisories.handle)
        self.subscriber(PREPARE_SUBJECT, durable, decoder=_raw, no_reply=True)(preparing.handle)  # it answers itself
        if source.difference:
            log.warning("durable differs from the desired one", stream=source.stream, difference=source.difference)

    async def start(self) -> None:
        """Connect and subscribe; if that fails on the way, `hear_again` makes up for it."""
        try:
            await super().start()
        except (*NOT_SUBSCRIBED, JetStreamError) as error:
            log.warning("the subscribers could not start, trying again", error=str(error))
            self._unsubscribed = True

    async def stop_hearing(self) -> None:
        """Stop all subscribers, whatever has become of their connection or consumer."""
        self._unsubscribed = True
        for subscriber in self.subscribers:
            with suppress(nats.errors.Error):  # of a connection that is gone
                await subscriber.stop()

    async def resubscribe(self) -> None:
        """Start the subscribers if they were stopped. Raises JetStreamError if NATS is away."""
        if not self._unsubscribed:
            return
        await self.stop_hearing()
        self.config.connect(await self.hearing.connect())
        try:
            for subscriber in self.subscribers:
                await subscriber.start()
        except NOT_SUBSCRIBED as error:
            raise Unreachable(str(error)) from error
        self._unsubscribed = False

    async def connect_anew(self) -> None:
        """Hear over a new connection. Raises JetStreamError."""
        await self.stop_hearing()
        await self.hearing.close()
        await self.resubscribe()


class App(FastStream):
    """FastStream's application, whose exit is also heard while it still waits for its servers."""

    def __init__(self, stop: asyncio.Event, broker: Broker, lifespan: Callable[[], Any]) -> None:
        """`stop` is set when the process is to end."""
        super().__init__(broker, lifespan=lifespan, logger=logging.getLogger(FASTSTREAM))
        self._stop = stop

    def exit(self) -> None:
        """Let the process end."""
        self._stop.set()
        super().exit()

    async def stop(self) -> None:
        """End it, also if NATS is away: what it has not been told comes again."""
        try:
            await super().stop()
        except (OSError, RuntimeError, nats.errors.Error) as error:
            log.info("stopped without NATS", error=str(error))


async def _raw(message: Any) -> Any:  # noqa: ANN401  # FastStream's batch message; its raw form is a list of nats-py's
    """Return a message undecoded: `reactor.core.events` reads what it says."""
    return message.raw_message
