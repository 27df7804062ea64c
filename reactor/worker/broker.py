"""The FastStream broker with the subscribers of lifecycle events and advisories, and the FastStream application.

Subclasses here and in `reactor.jetstream.pull_client` change FastStream's behaviour. The connection is ours (`_connect`
is FastStream's own hook for that), so credentials are mapped in one place, and any subject can be received.
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
    """FastStream's broker on our own connection."""

    def __init__(self, subscriber_connection: SubscriberConnection, settings: Settings, metrics: Metrics) -> None:
        """Create the broker. It does not connect yet."""
        super().__init__(
            js_options={"domain": settings.nats.domain} if settings.nats.domain else {},
            graceful_timeout=GRACEFUL_S,
            log_level=logging.DEBUG,  # FastStream would log two lines for each batch
            apply_types=False,  # dependency injection would cost more than the handling
            logger=logging.getLogger(FASTSTREAM),
            middlewares=[metrics.middleware()] if settings.http.port else [],
        )
        self.subscriber_connection = subscriber_connection
        self._unsubscribed = False

    async def _connect(self) -> Client:
        client = await self.subscriber_connection.connect()
        self.config.connect(client)
        return client

    def subscribe_all(
        self,
        source: Source,
        durable: str,
        lifecycle: LifecycleSubscriber,
        advisories: AdvisorySubscriber,
        preparing: PrepareService,
    ) -> None:
        """Create the subscribers. They start with the broker. Those of advisories form a queue group."""
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
        """Connect and subscribe. If subscribing fails, `resubscribe` repeats it."""
        try:
            await super().start()
        except (*NOT_SUBSCRIBED, JetStreamError) as error:
            log.warning("the subscribers could not start, trying again", error=str(error))
            self._unsubscribed = True

    async def stop_subscribers(self) -> None:
        """Stop all subscribers, even if their connection or consumer is gone."""
        self._unsubscribed = True
        for subscriber in self.subscribers:
            with suppress(nats.errors.Error):  # of a connection that is gone
                await subscriber.stop()

    async def resubscribe(self) -> None:
        """Start the subscribers again if they were stopped. Raises JetStreamError if NATS is away."""
        if not self._unsubscribed:
            return
        await self.stop_subscribers()
        self.config.connect(await self.subscriber_connection.connect())
        try:
            for subscriber in self.subscribers:
                await subscriber.start()
        except NOT_SUBSCRIBED as error:
            raise Unreachable(str(error)) from error
        self._unsubscribed = False

    async def reconnect(self) -> None:
        """Subscribe over a new connection. Raises JetStreamError."""
        await self.stop_subscribers()
        await self.subscriber_connection.close()
        await self.resubscribe()


class App(FastStream):
    """FastStream's application. It can also exit while it waits for its servers."""

    def __init__(self, stop: asyncio.Event, broker: Broker, lifespan: Callable[[], Any]) -> None:
        """`stop` is set to end the process."""
        super().__init__(broker, lifespan=lifespan, logger=logging.getLogger(FASTSTREAM))
        self._stop = stop

    def exit(self) -> None:
        """End the process."""
        self._stop.set()
        super().exit()

    async def stop(self) -> None:
        """Stop the application, even if NATS is away. Unacked messages are delivered again."""
        try:
            await super().stop()
        except (OSError, RuntimeError, nats.errors.Error) as error:
            log.info("stopped without NATS", error=str(error))


async def _raw(message: Any) -> Any:  # noqa: ANN401  # FastStream's batch message; its raw form is a list of nats-py's
    """Return the message undecoded. `reactor.core.events` reads it."""
    return message.raw_message
