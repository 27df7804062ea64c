"""JetStream's API, request by request, with its answers as values."""

import asyncio
import re
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import nats
import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig

from reactor.core.foreign_json import Unreadable, read_json
from reactor.core.model import parse_instant
from reactor.core.stream_info import Raw, barrier_headers
from reactor.jetstream.connection import Connection, answered
from reactor.jetstream.errors import NO_MESSAGE, NotFound, Refused, Unreachable, refusal

SHORT_ACK_TOKENS = 9
WRONG_LAST_SEQUENCE = 10071
INACTIVE_TOO_LONG = 10153
_END = re.compile(r"wrong last sequence: (0|[1-9][0-9]{0,18})", re.ASCII)
"""The text of the refusal in nats-server 2.10 to 2.15."""


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message in a stream. `published_at` is the server's time (ns)."""

    subject: str
    seq: int
    published_at: int
    data: bytes
    headers: Mapping[str, str] | None = None
    """The headers, if a consumer delivered the message."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A stored message, as a consumer delivered it."""

    message: StoredMessage
    pending: int
    """How many more messages the consumer has for us."""


@dataclass(slots=True)
class Listing:
    """The streams that the pages of a listing showed. A missing name proves nothing."""

    streams: dict[str, Raw] = field(default_factory=dict)
    unreported: set[str] = field(default_factory=set)

    def streams_by_subject(self) -> dict[str, str]:
        """Return the stream of each subject, as the streams' configs spell it."""
        return {subject: name for name, raw in self.streams.items() for subject in raw["config"].get("subjects") or ()}

    def configs(self) -> Iterator[Raw]:
        """Return the config of each stream that the pages showed."""
        return (raw["config"] for raw in self.streams.values())


class JetStream(Connection):
    """JetStream's API. Methods raise the errors of `jetstream.errors`."""

    async def barrier(self, stream: str, subject: str) -> int:
        """Ask a stream for its end: its last sequence, behind all that was accepted before.

        The message is empty and expects an impossible last sequence, so the stream refuses it (10071) and names its
        end. One replica decides in the stream's queue; several decide in their log (up to 2.11) or on the leader,
        against everything proposed so far (from 2.12 on). Nothing is stored, and the stream stays as it was.

        Raises Refused for any other answer, NobodyThere if no stream is on that subject, and as `call` does. None of
        them proves anything.
        """
        data = await self._request(subject, b"", barrier_headers(stream))
        with suppress(Unreadable, AttributeError, TypeError):
            answer = read_json(data)
            error = answer.get("error") or {}
            end = _END.fullmatch(str(error.get("description")))
            if end and error.get("err_code") == WRONG_LAST_SEQUENCE and answer.get("stream") == stream:
                return int(end[1])
            if error:
                raise refusal(error)
        message = f"the barrier got an answer that proves nothing: {data[:200]!r}"
        raise Refused(0, 0, message)

    async def publish(self, subject: str, body: bytes, headers: dict[str, str] | None = None) -> tuple[str, int]:
        """Store a message. Return the stream and the sequence. Raises the errors of `call`."""
        answer = answered(await self._request(subject, body, headers))
        return answer["stream"], answer["seq"]

    async def _pages(self, verb: str, request: Raw | None = None) -> AsyncIterator[Raw]:
        """Yield every page of a listing. The next page is requested while the caller reads this one.

        A page covers `limit` names, even if some of them did not report.
        """
        request = request or {}
        page = await self.call(verb, request | {"offset": 0})
        while (offset := page["offset"] + page["limit"]) < page["total"]:
            coming = asyncio.create_task(self.call(verb, request | {"offset": offset}))
            try:
                yield page
                page = await coming
            finally:
                coming.cancel()
                await asyncio.wait({coming})
                if not coming.cancelled():
                    coming.exception()  # the page is not needed any more
        yield page

    async def pages_of_streams(self) -> AsyncIterator[tuple[list[Raw], set[str]]]:
        """Yield all streams, page by page, with the names of those that the server could not report completely.

        Pages shift while streams are created and deleted, so a stream may appear twice or not at all. Raises the errors
        of `call`, so a failed page is never taken for a shorter list.
        """
        async for page in self._pages("STREAM.LIST"):
            yield page.get("streams") or [], {*(page.get("missing") or ()), *(page.get("offline") or ())}

    async def list_streams(self) -> Listing:
        """Return all streams."""
        listing = Listing()
        async for raws, unreported in self.pages_of_streams():
            listing.streams.update((raw["config"]["name"], raw) for raw in raws)
            listing.unreported |= unreported
        return listing

    async def stream_names(self, subject: str | None = None) -> set[str]:
        """Return the names of all streams, or of those that capture some of `subject`."""
        request = {"subject": subject} if subject else None
        return {name async for page in self._pages("STREAM.NAMES", request) for name in page.get("streams") or ()}

    async def stream_info(self, name: str) -> Raw:
        """Return the answer to STREAM.INFO, from the stream's leader. Raises NotFound."""
        return await self.call(f"STREAM.INFO.{name}")

    async def has_stream(self, name: str) -> bool:
        """Return whether a stream of that name exists, as the leader says."""
        try:
            await self.stream_info(name)
        except NotFound:
            return False
        return True

    async def create_stream(self, config: Raw) -> Raw:
        """Create a stream. No error if it exists with the same config."""
        return await self.call(f"STREAM.CREATE.{config['name']}", config)

    async def update_stream(self, config: Raw) -> Raw:
        """Replace the whole config of a stream. The server checks no precondition."""
        return await self.call(f"STREAM.UPDATE.{config['name']}", config)

    async def purge_stream(self, name: str, upto: int) -> int:
        """Delete a stream's messages up to this sequence. Return how many. Sequences continue and consumers stay."""
        return int((await self.call(f"STREAM.PURGE.{name}", {"seq": upto + 1}))["purged"])

    async def delete_stream(self, name: str) -> None:
        """Delete a stream. The server checks no precondition, and refuses a body (10038)."""
        await self.call(f"STREAM.DELETE.{name}")

    async def last_message(self, stream: str, subject: str) -> StoredMessage | None:
        """Return the last message on a subject, from the stream's leader. A direct get of a replica may be outdated."""
        return await self._message(stream, {"last_by_subj": subject})

    async def next_message(self, stream: str, subject: str, seq: int) -> StoredMessage | None:
        """Return the first message on a subject (wildcards allowed) from that sequence on."""
        return await self._message(stream, {"seq": seq, "next_by_subj": subject})

    async def _message(self, stream: str, which: Raw) -> StoredMessage | None:
        try:
            message = (await self.call(f"STREAM.MSG.GET.{stream}", which))["message"]
        except NotFound as error:
            if error.err_code != NO_MESSAGE:  # a stream that is gone says nothing about its messages
                raise
            return None
        data = b64decode(message.get("data") or "")
        return StoredMessage(message["subject"], message["seq"], parse_instant(message["time"]), data)

    async def consumers(self, stream: str) -> list[Raw]:
        """Return CONSUMER.INFO of all consumers of a stream."""
        return [raw async for page in self._pages(f"CONSUMER.LIST.{stream}") for raw in page.get("consumers") or ()]

    async def consumer_names(self, stream: str) -> set[str]:
        """Return the names of all consumers of a stream."""
        pages = self._pages(f"CONSUMER.NAMES.{stream}")
        return {name async for page in pages for name in page.get("consumers") or ()}

    async def replay(self, stream: str, subject: str, batch: int = 512) -> AsyncIterator[list[StoredMessage]]:
        """Yield all messages on a subject (wildcards allowed) in batches, oldest first. It acknowledges none."""
        try:
            subscription = await self._reader(stream, subject)
            info = await subscription.consumer_info()
            pending = info.num_pending or 0
            batch = await self.largest_batch(stream, info.name, batch)
            while pending:
                deliveries = [read_delivery(msg) for msg in await subscription.fetch(batch, timeout=self.timeout)]
                if not deliveries:
                    raise Unreachable(f"stream {stream} was not read: the server refused a batch of {batch}")
                pending = deliveries[-1].pending
                yield [delivery.message for delivery in deliveries]
            await subscription.unsubscribe()
        except (nats.errors.Error, TimeoutError) as error:
            raise Unreachable(f"reading stream {stream} broke off: {str(error) or type(error).__name__}") from error

    async def largest_batch(self, stream: str, consumer: str, wanted: int) -> int:
        """Return how many messages to request at once. A server may limit it: a larger request is answered by a 409."""
        limit = (await self.consumer_info(stream, consumer))["config"].get("max_batch", 0)
        return min(wanted, limit) if limit > 0 else wanted

    async def _reader(self, stream: str, subject: str) -> JetStreamContext.PullSubscription:
        """Return a subscription with a temporary consumer. A stream may limit how long that lives."""
        context = await self.context()
        config = ConsumerConfig(ack_policy=AckPolicy.NONE, mem_storage=True, inactive_threshold=60.0)
        try:
            return await context.pull_subscribe(subject, stream=stream, config=config)
        except nats.js.errors.APIError as error:
            if error.err_code != INACTIVE_TOO_LONG:
                raise
            config.inactive_threshold = None
            return await context.pull_subscribe(subject, stream=stream, config=config)

    async def consumer_info(self, stream: str, consumer: str) -> Raw:
        """Return CONSUMER.INFO. Raises NotFound."""
        return await self.call(f"CONSUMER.INFO.{stream}.{consumer}")

    async def create_consumer(self, stream: str, config: Raw) -> Raw:
        """Create a durable consumer. No error if it exists with the same config."""
        request = {"stream_name": stream, "config": config}
        return await self.call(f"CONSUMER.DURABLE.CREATE.{stream}.{config['durable_name']}", request)

    async def delete_consumer(self, stream: str, consumer: str) -> None:
        """Delete a consumer. No error if it is gone."""
        with suppress(NotFound):
            await self.call(f"CONSUMER.DELETE.{stream}.{consumer}")


def read_delivery(msg: Msg) -> Delivery:
    """Return a message with the metadata in its reply subject. nats-py's own metadata is rounded to microseconds.

    `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>`, then a
    random token in the longer form:
    https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-15.md
    """
    tokens = msg.reply.split(".")
    first = 4 if len(tokens) > SHORT_ACK_TOKENS else 2  # the older, shorter form names neither domain nor account
    seq, published_at, pending = (int(tokens[first + offset]) for offset in (3, 5, 6))
    return Delivery(StoredMessage(msg.subject, seq, published_at, msg.data, msg.headers), pending)
