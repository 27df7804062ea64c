"""The connection for events and advisories. It has nats-py's interface, so that FastStream can use it."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import nats.errors
import nats.js.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from reactor.jetstream.client import JetStream
from reactor.jetstream.connection import TolerantClient

LOST_REST_S = 2.0
"""How long a subscriber that has lost its consumer waits before it requests messages again."""

log = structlog.get_logger(__name__)


class SubscriberConnection(JetStream):
    """The connection of one pull subscriber. It knows whether the subscriber is alive and has its consumer."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401  # as JetStream's
        """As JetStream's."""
        super().__init__(*args, **options)
        self.lost = asyncio.Event()
        """Set when the subscriber finds that its consumer is gone."""
        self.asked_at: float | None = None
        """When the subscriber last requested messages (s, monotonic clock): a sign of life."""

    def make_client(self) -> Client:
        """Return a client whose pull subscriptions are eager."""
        return _Client(self)


class _Client(TolerantClient):
    def __init__(self, connection: SubscriberConnection) -> None:
        super().__init__()
        self._connection = connection

    def jetstream(self, **options: Any) -> JetStreamContext:  # noqa: ANN401  # as nats-py's
        return _Context(self._connection, self, **options)


class _Context(JetStreamContext):
    def __init__(self, connection: SubscriberConnection, client: Client, **options: Any) -> None:  # noqa: ANN401  # as nats-py's
        super().__init__(client, **options)
        self._connection = connection

    async def pull_subscribe(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401  # as nats-py's
        return EagerPull(await super().pull_subscribe(*args, **options), self._connection)


@dataclass(eq=False, repr=False)
class EagerPull:
    """nats-py's pull subscription with three fixes for FastStream's batch subscriber (each fault was measured).

    A batch is delivered as soon as there is one, not at the end of the timeout. The bare TimeoutError of an idle fetch
    does not end the task. A consumer that is gone causes a pause and sets `lost`, instead of thousands of requests a
    second. This depends on FastStream's `BatchPullStreamSubscriber._consume_pull`, whose second fetch requests the rest
    of a batch:
    https://github.com/ag2ai/faststream/blob/main/faststream/nats/subscriber/usecases/stream_pull_subscriber.py

    `connection` learns when messages are requested and when the consumer is lost.
    """

    subscription: JetStreamContext.PullSubscription
    connection: SubscriberConnection

    def __post_init__(self) -> None:
        self._batch = 0
        self._limit: int | None = None
        """How many messages the server allows in one request; None if that is not known yet."""

    async def fetch(self, batch: int, timeout: float | None) -> list[Msg]:  # noqa: ASYNC109  # nats-py's signature
        """Fetch messages. Raises nats-py's TimeoutError if there are none."""
        self.connection.asked_at = time.monotonic()
        self._batch = max(self._batch, batch)
        if batch < self._batch:  # the subscriber has received a part of the batch
            raise nats.errors.TimeoutError
        try:
            messages = await self.subscription.fetch(min(batch, self._limit or batch), timeout)
            if messages:
                return messages
            self._limit = await self._largest(batch)
            raise nats.errors.TimeoutError  # nats-py's sign that no message came
        except TimeoutError:
            raise nats.errors.TimeoutError from None
        except (nats.errors.Error, nats.js.errors.Error) as error:
            log.warning("subscriber lost its consumer", error=str(error))
            self.connection.lost.set()
            await asyncio.sleep(LOST_REST_S)
            raise nats.errors.TimeoutError from None

    async def _largest(self, batch: int) -> int:
        """Return how many messages the server allows in one request, after it refused more (409)."""
        info = await self.subscription.consumer_info()
        limit = await self.connection.largest_batch(info.stream_name, info.name, batch)
        log.warning("the server limits how many messages may be asked for at once", limit=limit)
        return limit

    async def unsubscribe(self) -> None:
        """Stop receiving. No error if the connection is gone."""
        try:
            await self.subscription.unsubscribe()
        except nats.errors.Error as error:
            log.debug("unsubscribe failed", error=str(error))
