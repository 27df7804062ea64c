"""JetStream's API, asked in raw JSON: nats-py's typed answers drop `missing`, `offline`, `last_ts` and page two.

Error codes and subjects are those of https://github.com/nats-io/nats-server/blob/main/server/errors.json and
https://docs.nats.io/reference/reference-protocols/nats_api_reference.

What can go wrong, by what the caller can do about it:

    JetStreamError
    ├── TooOld             the server lacks what the fence needs: only an upgrade helps
    ├── Unreachable        nothing was sent, or nobody is there to answer: nothing happened; try again later
    │   └── NobodyThere    the server has nobody on that subject
    ├── Unanswered         it was sent and no answer came: it may have happened, or may still happen
    ├── TooLarge           it does not fit the server's `max_payload`: nothing was sent
    ├── PermissionDenied   the server dropped the request: nothing happened; a person must mend the permissions
    └── Refused            the server said no, with its code
        └── NotFound       there is no such stream, consumer or message
"""

import asyncio
import json
import re
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig
from pydantic_core import from_json

from reactor.core.model import parse_instant

REQUEST_TIMEOUT_S = 10.0
"""A degraded cluster gathers a listing for 4 s before it answers; the client's own half second would cut that off."""
CONNECT_TIMEOUT_S = 5.0
PING_INTERVAL_S = 20
"""Two of them unanswered, and the connection is made anew: also where only its reader has died."""
OLDEST_SERVER = (2, 10)
"""The first with stream metadata, which carries the fence, and with the server's own time in each answer."""

NO_MESSAGE = 10037
SHORT_ACK_TOKENS = 9
WRONG_LAST_MSG_ID, WRONG_LAST_SEQUENCE = 10070, 10071
_NOT_FOUND_CODES = frozenset({10014, NO_MESSAGE, 10059})  # consumer, message, stream
_VIOLATION = re.compile(r'permissions violation for publish to "([^"]+)"', re.IGNORECASE)
_DEAF = re.compile(r'permissions violation for subscription to "([^"]+)"', re.IGNORECASE)

Raw = dict[str, Any]
ErrorCallback = Callable[[str], None]


class JetStreamError(Exception):
    """A request to JetStream that brought no result."""


class TooOld(JetStreamError):
    """The server lacks what the fence needs."""


class Unreachable(JetStreamError):
    """Nothing happened: the server is away, or JetStream does not answer in this account and domain."""


class NobodyThere(Unreachable):
    """The server is reached, and JetStream does not answer in this account and domain."""


class Unanswered(JetStreamError):
    """It may have happened, or may still happen."""


class PermissionDenied(JetStreamError):
    """The server dropped the request for want of a permission. Nothing happened."""


class TooLarge(JetStreamError):
    """Nothing was sent: it does not fit the server's `max_payload`."""


class Refused(JetStreamError):
    """The server said no."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        """`code` is HTTP-like, `err_code` JetStream's own."""
        super().__init__(f"{description} ({code}/{err_code})")
        self.code = code
        self.err_code = err_code


class NotFound(Refused):
    """There is no such stream, consumer or message."""


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as a stream keeps it. `published_at` is the server's own time."""

    subject: str
    seq: int
    published_at: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Delivery:
    """A stored message as a consumer handed it over."""

    message: StoredMessage
    pending: int
    """How many more the consumer has for us."""


@dataclass(slots=True)
class Listing:
    """Every stream of the account that the pages showed. A name that is not here proves nothing."""

    streams: dict[str, Raw] = field(default_factory=dict)
    unreported: set[str] = field(default_factory=set)

    def captors(self) -> dict[str, str]:
        """Which stream has each subject, as streams spell them."""
        return {subject: name for name, raw in self.streams.items() for subject in raw["config"].get("subjects") or ()}

    def sourced(self) -> frozenset[str]:
        """Streams that another one mirrors or sources."""
        configs = [raw["config"] for raw in self.streams.values()]
        origins = [origin for c in configs for origin in (c.get("mirror"), *(c.get("sources") or ())) if origin]
        return frozenset(origin["name"] for origin in origins)


class TolerantClient(Client):
    """nats-py's client, which also hears a subject that is not UTF-8; lone surrogates stand for its odd bytes.

    In nats-py's own, decoding such a subject ends the task that reads from the connection, and nothing more is heard:
    https://github.com/nats-io/nats.py/blob/v2.16.0/nats/src/nats/aio/client.py (`_build_message`, `_read_loop`).
    And what uvloop says of a transport that is closed, which asyncio's own loop passes over, is an error of nats-py's.
    """

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        text = subject.decode("utf-8", "surrogateescape")
        return Msg(_client=self, subject=text, reply=reply.decode(), data=data, headers=headers, _sid=sid)

    async def _flush_pending(self, force_flush: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002  # nats-py's signature
        try:
            return await super()._flush_pending(force_flush)
        except RuntimeError as error:
            raise nats.errors.ConnectionClosedError from error


class JetStream:
    """JetStream's API over a connection of its own."""

    def __init__(
        self,
        options: Mapping[str, Any],
        *,
        domain: str | None = None,
        buffered: bool = True,
        timeout: float = REQUEST_TIMEOUT_S,
        on_error: ErrorCallback = lambda _: None,
    ) -> None:
        """`options` are nats-py's for `connect`.

        With `buffered=False` the connection never holds a request back to send it later: once broken it is thrown
        away, and the next request opens a new one. So a deletion that was given up cannot happen after a reconnect.
        """
        self._options = options
        self._prefix = f"$JS.{domain}.API" if domain else "$JS.API"
        self._buffered = buffered
        self._timeout = timeout
        self._on_error = on_error
        self._client: Client | None = None
        self._connecting = asyncio.Lock()
        self._last_error = ""
        self._opening: asyncio.Timeout | None = None
        self._refusal: str | None = None
        self._refused = 0
        self._asking: dict[str, dict[asyncio.Task[Any], str]] = {}
        self._trying: dict[str, bool] = {}
        self._one_trial = asyncio.Lock()
        self._failed: dict[asyncio.Task[Any], JetStreamError] = {}

    async def connect(self) -> Client:
        """The connection, opened where there is none. Raises Unreachable."""
        async with self._connecting:
            if self._client is None or self._client.is_closed:
                self._client = await self._open()
            return self._client

    async def close(self) -> None:
        """Close the connection; no error where there is none, or it is broken."""
        if self._client is not None:
            with suppress(OSError, RuntimeError, nats.errors.Error):  # see TolerantClient
                await self._client.close()

    @property
    def server_version(self) -> str:
        """Of the server connected to, such as `2.15.1`."""
        version = self._client.connected_server_version if self._client else None
        return f"{version.major}.{version.minor}.{version.patch}" if version else "unknown"

    async def _open(self) -> Client:
        client, self._refusal, self._refused = self.make_client(), None, 0
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S) as self._opening:
                await client.connect(**self._options, **self._lifetime())
        except (TimeoutError, OSError, nats.errors.Error) as error:
            with suppress(Exception):  # half-open: whatever it says on the way out is not the reason
                await client.close()
            reason = self._refusal or self._last_error or str(error) or type(error).__name__
            raise Unreachable(reason) from error
        finally:
            self._opening = None
        version = client.connected_server_version
        if (version.major, version.minor) < OLDEST_SERVER:
            await client.close()
            message = f"nats-server {version.major}.{version.minor} is too old: reactor needs 2.10 or later"
            raise TooOld(message)
        return client

    def make_client(self) -> Client:
        """nats-py's client, not connected yet."""
        return TolerantClient()

    def _lifetime(self) -> Raw:
        heard = {"error_cb": self._heard, "disconnected_cb": self._broken, "ping_interval": PING_INTERVAL_S}
        if self._buffered:
            return heard | {"max_reconnect_attempts": -1, "reconnect_time_wait": 1}
        return heard | {"allow_reconnect": False, "pending_size": 0}

    async def _heard(self, error: Exception) -> None:
        """The server's asynchronous errors. A missing permission shows only here; the request itself just hangs."""
        self._last_error = str(error) or type(error).__name__
        self._on_error(self._last_error)
        if self._opening is not None and "authorization" in self._last_error.lower():
            self._refusal = self._last_error  # the server then hangs up, which is no news
            self._opening.reschedule(0)
        elif self._opening is not None and self._client is None and isinstance(error, OSError):
            self._refused += 1  # where there never was a connection, trying each server once will do
            if self._refused >= len(self._options["servers"]):
                self._opening.reschedule(0)
        if violation := _VIOLATION.search(self._last_error):
            if violation[1].lower() in self._trying:
                self._trying[violation[1].lower()] = False
            self._fail(violation[1].lower(), PermissionDenied, "no permission to publish to")
        elif (violation := _DEAF.search(self._last_error)) and violation[1].lower() in self._trying:
            self._trying[violation[1].lower()] = False
        elif violation:
            self._fail_all(f"no permission to subscribe to {violation[1]}, so no answer can arrive to")

    async def _broken(self) -> None:
        """The connection is gone."""
        self._fail_all("the connection broke before an answer to")

    def _fail_all(self, why: str) -> None:
        """No answer will come any more to what is under way."""
        for subject in list(self._asking):
            self._fail(subject, Unanswered, why)

    def _fail(self, key: str, kind: type[JetStreamError], why: str) -> None:
        """End the requests to a subject that wait for an answer."""
        for asking, subject in self._asking.get(key, {}).items():
            self._failed[asking] = kind(f"{why} {subject}")
            asking.cancel()

    async def call(self, verb: str, payload: Raw | None = None) -> Raw:
        """One request, such as `STREAM.INFO.job_1`. Raises the errors at the top of this module."""
        client = await self._connected()
        subject = self.api(verb)
        body = json.dumps(payload).encode() if payload is not None else b""
        answer = from_json(await self._request(client, subject, body))
        if error := answer.get("error"):
            raise _refusal(error)
        return answer  # type: ignore[no-any-return]  # every API answer is an object

    async def barrier(self, stream: str, subject: str, last_seq: int) -> bool:
        """Ask a stream to refuse an empty message, and by what it says whether `last_seq` is its end.

        The message goes through the stream's own queue, or its Raft log, behind all that was accepted before, and is
        stored in no case: nobody's last message id is the random one. True: the sequence is right and nothing is under
        way (10070, decided behind everything proposed before). False: somebody has published (10071). Raises Refused
        for any other answer, NobodyThere where no stream is on that subject, and as `call` does; all of them prove
        nothing. Headers: https://docs.nats.io/nats-concepts/jetstream/headers
        """
        headers = {
            "Nats-Expected-Stream": stream,
            "Nats-Expected-Last-Sequence": str(last_seq),
            "Nats-Expected-Last-Msg-Id": uuid4().hex,
        }
        client = await self._connected()
        answer = from_json(await self._request(client, subject, b"", headers))
        error = answer.get("error") or {}
        if error.get("err_code") == WRONG_LAST_MSG_ID and answer.get("stream") == stream:
            return True
        if error and error.get("err_code") != WRONG_LAST_SEQUENCE:
            raise _refusal(error)
        return False

    async def _connected(self) -> Client:
        """The connection, where it is not just broken. Raises Unreachable."""
        client = await self.connect()
        if not client.is_connected:
            message = self._last_error or "disconnected"
            raise Unreachable(message)
        return client

    def api(self, verb: str) -> str:
        """The subject of a request, such as `$JS.API.STREAM.INFO.job_1`."""
        return f"{self._prefix}.{verb}"

    async def may_publish(self, subject: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bool:
        """Whether we may publish there: for messages that come to nothing, since this one is really sent.

        Raises Unreachable and Unanswered.
        """
        return await self._is_allowed(subject, lambda client: client.publish(subject, body, headers=headers))

    async def publish(self, subject: str, body: bytes, headers: dict[str, str] | None = None) -> tuple[str, int]:
        """Store a message; the stream that took it, and its sequence there. Raises as `call` does."""
        answer = from_json(await self._request(await self._connected(), subject, body, headers))
        if error := answer.get("error"):
            raise _refusal(error)
        return answer["stream"], answer["seq"]

    async def may_subscribe(self, subject: str) -> bool:
        """Whether we may subscribe there. Raises Unreachable and Unanswered."""

        async def listen(client: Client) -> None:
            await (await client.subscribe(subject)).unsubscribe()

        return await self._is_allowed(subject, listen)

    async def _is_allowed(self, subject: str, attempt: Callable[[Client], Awaitable[None]]) -> bool:
        """Whether the server lets it happen: it complains before it answers a ping behind the attempt."""
        client, key = await self._connected(), subject.lower()
        async with self._one_trial:  # the server names only the subject in its complaint
            self._trying[key] = True
            try:
                await attempt(client)
                for _ in range(2):  # nats-py sends a ping past what it buffers, so only the second is surely behind
                    await client.flush(int(self._timeout))
            except TimeoutError as error:
                message = f"no answer to a ping in {self._timeout:g} s"
                raise Unanswered(message) from error
            except nats.errors.Error as error:
                raise Unreachable(str(error)) from error
            finally:
                allowed = self._trying.pop(key)
            return allowed

    async def _request(self, client: Client, subject: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
        if (size := len(body) + size_of(headers or {})) > client.max_payload:
            message = f"{size} bytes to {subject} are more than the server's max_payload of {client.max_payload}"
            raise TooLarge(message)
        key = subject.lower()  # nats-py writes what the server says in lower case
        task = asyncio.current_task()
        asking = self._asking.setdefault(key, {})
        if task:
            asking[task] = subject
        try:
            return (await client.request(subject, body, timeout=self._timeout, headers=headers)).data
        except asyncio.CancelledError:
            if task is None or task not in self._failed:
                raise
            task.uncancel()
            raise self._failed.pop(task) from None
        except TimeoutError as error:  # nats-py's own is one, too
            message = f"no answer to {subject} in {self._timeout:g} s"
            raise Unanswered(message) from error
        except nats.errors.NoRespondersError as error:
            message = "nobody answers: JetStream is off for this account, or the domain is wrong"
            raise NobodyThere(message) from error
        except nats.errors.Error as error:
            raise Unreachable(str(error)) from error
        finally:
            if task:
                asking.pop(task, None)
            if not asking:
                self._asking.pop(key, None)

    async def _pages(self, verb: str, request: Raw | None = None) -> AsyncIterator[Raw]:
        """Every page of a listing. A page stands for `limit` names, also where some of them did not report."""
        offset, total = 0, 1
        while offset < total:
            page = await self.call(verb, (request or {}) | {"offset": offset})
            yield page
            offset, total = offset + page["limit"], page["total"]

    async def list_streams(self) -> Listing:
        """All pages. Raises as `call` does: a page that failed is no shorter list.

        Pages shift while streams come and go, so a stream may appear twice (kept once) or not at all.
        """
        listing = Listing()
        async for page in self._pages("STREAM.LIST"):
            listing.streams.update((raw["config"]["name"], raw) for raw in page.get("streams") or ())
            listing.unreported.update(page.get("missing") or (), page.get("offline") or ())
        return listing

    async def stream_names(self, subject: str | None = None) -> set[str]:
        """The names of all streams, or of those that capture some of `subject`."""
        request = {"subject": subject} if subject else None
        return {name async for page in self._pages("STREAM.NAMES", request) for name in page.get("streams") or ()}

    async def stream_info(self, name: str) -> Raw:
        """The leader's word on one stream. Raises NotFound."""
        return await self.call(f"STREAM.INFO.{name}")

    async def create_stream(self, config: Raw) -> Raw:
        """Create a stream; no error where it exists with this very config."""
        return await self.call(f"STREAM.CREATE.{config['name']}", config)

    async def update_stream(self, config: Raw) -> Raw:
        """Replace a stream's config by this one, whole. There is no precondition."""
        return await self.call(f"STREAM.UPDATE.{config['name']}", config)

    async def delete_stream(self, name: str) -> None:
        """Delete a stream. There is no precondition; a body is refused (10038)."""
        await self.call(f"STREAM.DELETE.{name}")

    async def last_message(self, stream: str, subject: str) -> StoredMessage | None:
        """The last message on a subject, from the stream's leader (a direct get may come from a stale replica)."""
        return await self._message(stream, {"last_by_subj": subject})

    async def next_message(self, stream: str, subject: str, seq: int) -> StoredMessage | None:
        """The first message on a subject (wildcards allowed) at that sequence or after it."""
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
        """The info of all consumers of a stream."""
        return [raw async for page in self._pages(f"CONSUMER.LIST.{stream}") for raw in page.get("consumers") or ()]

    async def consumer_names(self, stream: str) -> set[str]:
        """The names of all consumers of a stream."""
        pages = self._pages(f"CONSUMER.NAMES.{stream}")
        return {name async for page in pages for name in page.get("consumers") or ()}

    async def context(self) -> JetStreamContext:
        """nats-py's own view of this connection, for publishing and consuming. Raises Unreachable."""
        return (await self.connect()).jetstream(prefix=self._prefix, timeout=self._timeout)

    async def replay(self, stream: str, subject: str, batch: int = 512) -> AsyncIterator[list[StoredMessage]]:
        """All messages on a subject (wildcards allowed), oldest first, in batches; none are acked or taken away."""
        context = await self.context()
        config = ConsumerConfig(ack_policy=AckPolicy.NONE, mem_storage=True, inactive_threshold=60.0)
        try:
            subscription = await context.pull_subscribe(subject, stream=stream, config=config)
            pending = (await subscription.consumer_info()).num_pending or 0
            while pending:
                deliveries = [read_delivery(msg) for msg in await subscription.fetch(batch, timeout=self._timeout)]
                pending = deliveries[-1].pending
                yield [delivery.message for delivery in deliveries]
            await subscription.unsubscribe()
        except (nats.errors.Error, TimeoutError) as error:
            message = f"reading stream {stream} broke off: {str(error) or type(error).__name__}"
            raise Unreachable(message) from error

    async def consumer_info(self, stream: str, consumer: str) -> Raw:
        """Raises NotFound."""
        return await self.call(f"CONSUMER.INFO.{stream}.{consumer}")

    async def create_consumer(self, stream: str, config: Raw) -> Raw:
        """Create a durable consumer; no error where it exists with this very config."""
        request = {"stream_name": stream, "config": config}
        return await self.call(f"CONSUMER.DURABLE.CREATE.{stream}.{config['durable_name']}", request)

    async def delete_consumer(self, stream: str, consumer: str) -> None:
        """Delete a consumer; no error where it is gone."""
        with suppress(NotFound):
            await self.call(f"CONSUMER.DELETE.{stream}.{consumer}")


def _refusal(error: Raw) -> Refused:
    kind = NotFound if error.get("err_code") in _NOT_FOUND_CODES else Refused
    return kind(error.get("code", 0), error.get("err_code", 0), error.get("description", "no description"))


def size_of(headers: Mapping[str, str]) -> int:
    """Bytes on the wire, at most: they count against `max_payload`, and nats-py forgets them."""
    return sum(len(key) + len(value.encode()) + len(": \r\n") for key, value in headers.items()) + len(
        "NATS/1.0\r\n\r\n"
    )


def read_delivery(msg: Msg) -> Delivery:
    """A message with what its reply subject says, in nanoseconds: nats-py's own metadata rounds to microseconds.

    `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>`, then a
    random token in the longer form:
    https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-15.md
    """
    tokens = msg.reply.split(".")
    first = 4 if len(tokens) > SHORT_ACK_TOKENS else 2  # the older, shorter form names neither domain nor account
    seq, published_at, pending = (int(tokens[first + offset]) for offset in (3, 5, 6))
    return Delivery(StoredMessage(msg.subject, seq, published_at, msg.data), pending)
