"""One connection to JetStream, and requests over it in raw JSON, with one error type for each way to fail.

nats-py's typed answers drop `missing`, `offline`, `last_ts` and page two. Subjects are those of
https://docs.nats.io/reference/reference-protocols/nats_api_reference.
"""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from reactor.core.foreign_json import Unreadable, read_json
from reactor.core.stream_info import Raw, headers_size
from reactor.jetstream.errors import (
    JetStreamError,
    NobodyThere,
    PermissionDenied,
    TooLarge,
    TooOld,
    Unanswered,
    Unreachable,
    refusal,
)
from reactor.jetstream.latency import Pace
from reactor.jetstream.requests import NO_RESPONDERS, Requests

REQUEST_TIMEOUT_S = 10.0
"""A degraded cluster needs up to 4 s to answer a listing. nats-py's default of half a second is too short."""
CONNECT_TIMEOUT_S = 5.0
PING_INTERVAL_S = 20
"""After two unanswered pings the connection is replaced, even if only its reader has died."""
OLDEST_SERVER = (2, 10)
"""The first version with stream metadata, which holds the fence, and with the server's time in each answer."""

_TIMED = "STREAM.INFO."
"""This request costs the server no work and no vote of replicas, so its latency shows how long requests queue."""
_PUBLISH_VIOLATION = re.compile(r'permissions violation for publish to "([^"]+)"', re.IGNORECASE)
_SUBSCRIBE_VIOLATION = re.compile(r'permissions violation for subscription to "([^"]+)"', re.IGNORECASE)

NO_INBOX = "no permission to subscribe to"

ErrorCallback = Callable[[str], None]


class TolerantClient(Client):
    """nats-py's client that also accepts a subject that is not UTF-8. Lone surrogates stand for its invalid bytes.

    In nats-py, decoding such a subject ends the task that reads from the connection, so no message arrives any more:
    https://github.com/nats-io/nats.py/blob/v2.16.0/nats/src/nats/aio/client.py (`_build_message`, `_read_loop`).
    A closed transport, at which uvloop raises RuntimeError and asyncio does nothing, becomes an error of nats-py.
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


@dataclass(eq=False, repr=False)
class Connection:
    """JetStream over its own connection. Requests raise the errors of `jetstream.errors`.

    `options` are those of nats-py's `connect`.

    With `buffered=False` the connection never delays a request: a broken connection is dropped, and the next request
    opens a new one. So a deletion that was given up cannot take effect after a reconnect.
    """

    options: Mapping[str, Any]
    _: KW_ONLY
    prefix: str = "$JS.API"
    """The prefix of JetStream's API. It differs for a domain or an import."""
    buffered: bool = True
    timeout: float = REQUEST_TIMEOUT_S
    on_error: ErrorCallback = lambda _: None
    pace: Pace = field(default_factory=Pace)
    """How quickly requests about single streams are answered."""

    def __post_init__(self) -> None:
        self._requests: Requests | None = None
        self._connecting = asyncio.Lock()
        self._last_error = ""
        self._opening: asyncio.Timeout | None = None
        self._refusal: str | None = None
        self._refused = 0
        self._trying: dict[str, bool] = {}
        self._one_trial = asyncio.Lock()

    async def connect(self) -> Client:
        """Return nats-py's client. Open the connection if there is none. Raises Unreachable."""
        return (await self._opened()).client

    async def _opened(self) -> Requests:
        async with self._connecting:
            if self._requests is None or self._requests.client.is_closed:
                self._requests = Requests(await self._open())
            return self._requests

    async def close(self) -> None:
        """Close the connection. No error if it is closed or broken already."""
        if self._requests is not None:
            with suppress(OSError, RuntimeError, nats.errors.Error):  # see TolerantClient
                await self._requests.client.close()

    @property
    def address(self) -> str:
        """The servers' addresses, without credentials."""
        return ", ".join(re.sub(r"//[^/@]*@", "//", server) for server in self.options["servers"])

    @property
    def is_connected(self) -> bool:
        """Whether it is connected now."""
        return self._requests is not None and self._requests.client.is_connected

    @property
    def server_version(self) -> str:
        """The version of the server, such as `2.15.1`."""
        version = self._requests.client.connected_server_version if self._requests else None
        return f"{version.major}.{version.minor}.{version.patch}" if version else "unknown"

    async def _open(self) -> Client:
        client, self._refusal, self._refused = self.make_client(), None, 0
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S) as self._opening:
                await client.connect(**self.options, **self._lifetime())
        except (TimeoutError, OSError, nats.errors.Error) as error:
            with suppress(Exception):  # a half-open client may fail to close
                await client.close()
            reason = self._refusal or self._last_error or str(error) or type(error).__name__
            raise Unreachable(f"{self.address}: {reason}") from error
        finally:
            self._opening = None
        version = client.connected_server_version
        if (version.major, version.minor) < OLDEST_SERVER:
            await client.close()
            raise TooOld(f"nats-server {version.major}.{version.minor} is too old: reactor needs 2.10 or later")
        return client

    def make_client(self) -> Client:
        """Return nats-py's client. It is not connected yet."""
        return TolerantClient()

    def _lifetime(self) -> Raw:
        callbacks = {
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnect,
            "ping_interval": PING_INTERVAL_S,
        }
        if self.buffered:
            return callbacks | {"max_reconnect_attempts": -1, "reconnect_time_wait": 1}
        return callbacks | {"allow_reconnect": False, "pending_size": 0}

    async def _on_error(self, error: Exception) -> None:
        """Handle the server's asynchronous errors. A missing permission shows only here; its request gets no answer."""
        self._last_error = str(error) or type(error).__name__
        self.on_error(self._last_error)
        if self._opening is not None and "authorization" in self._last_error.lower():
            self._refusal = self._last_error  # the error of the closed connection, which follows, says less
            self._opening.reschedule(0)
        elif self._opening is not None and self._requests is None and isinstance(error, OSError):
            self._refused += 1  # before the first connection, trying each server once is enough
            if self._refused >= len(self.options["servers"]):
                self._opening.reschedule(0)
        if violation := _PUBLISH_VIOLATION.search(self._last_error):
            if violation[1].lower() in self._trying:
                self._trying[violation[1].lower()] = False
            self._fail(PermissionDenied, "no permission to publish to", violation[1].lower())
        elif (violation := _SUBSCRIBE_VIOLATION.search(self._last_error)) and violation[1].lower() in self._trying:
            self._trying[violation[1].lower()] = False
        elif violation:
            self._fail(Unanswered, f"{NO_INBOX} {violation[1]}, so no answer can arrive to")

    async def _on_disconnect(self) -> None:
        """Handle a lost connection."""
        self._fail(Unanswered, "the connection broke before an answer to")

    def _fail(self, kind: type[JetStreamError], why: str, folded: str | None = None) -> None:
        if self._requests is not None:
            self._requests.fail(kind, why, folded)

    async def call(self, verb: str, payload: Raw | None = None) -> Raw:
        """Send a request, such as `STREAM.INFO.job_1`, and return the answer. Raises errors of `jetstream.errors`."""
        body = json.dumps(payload).encode() if payload is not None else b""
        asked_at = time.monotonic()
        try:
            return answered(await self._request(self.api(verb), body))
        finally:
            if verb.startswith(_TIMED):
                self.pace.note(time.monotonic() - asked_at)

    async def _connected(self) -> Requests:
        """Return the requests of the connected client. Raises Unreachable."""
        if self._requests is not None and self._requests.client.is_connected:
            return self._requests
        opened = await self._opened()
        if not opened.client.is_connected:
            raise Unreachable(f"{self.address}: {self._last_error or 'disconnected'}")
        return opened

    def api(self, verb: str) -> str:
        """Return the subject of a request, such as `$JS.API.STREAM.INFO.job_1`."""
        return f"{self.prefix}.{verb}"

    async def may_publish(self, subject: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bool:
        """Return whether we may publish this. The message is really sent, so it must have no effect.

        Raises Unreachable and Unanswered.
        """
        return await self._is_allowed(subject, lambda client: client.publish(subject, body, headers=headers))

    async def may_subscribe(self, subject: str) -> bool:
        """Return whether we may subscribe to the subject. Raises Unreachable and Unanswered."""

        async def listen(client: Client) -> None:
            await (await client.subscribe(subject)).unsubscribe()

        return await self._is_allowed(subject, listen)

    async def _is_allowed(self, subject: str, attempt: Callable[[Client], Awaitable[None]]) -> bool:
        """Return whether the server allows the attempt. Its refusal comes before the answer to a ping that follows."""
        client, key = (await self._connected()).client, subject.lower()
        async with self._one_trial:  # the server names only the subject in its complaint
            self._trying[key] = True
            try:
                await attempt(client)
                for _ in range(2):  # nats-py sends a ping past what it buffers, so only the second is surely behind
                    await client.flush(int(self.timeout))
            except TimeoutError as error:
                raise Unanswered(f"no answer to a ping in {self.timeout:g} s") from error
            except nats.errors.Error as error:
                raise Unreachable(str(error)) from error
            finally:
                allowed = self._trying.pop(key)
            return allowed

    async def _request(self, subject: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
        requests = await self._connected()
        size, most = len(body) + (headers_size(headers) if headers else 0), requests.client.max_payload
        if size > most:
            raise TooLarge(f"{size} bytes to {subject} are more than the server's max_payload of {most}")
        try:
            answer = await requests.ask(subject, body, headers, self.timeout)
        except TimeoutError as error:
            raise Unanswered(f"no answer to {subject} in {self.timeout:g} s") from error
        except nats.errors.Error as error:
            raise Unreachable(str(error)) from error
        if answer.headers and answer.headers.get("Status") == NO_RESPONDERS:
            raise NobodyThere("no answer: JetStream is off for this account, or the domain is wrong")
        return answer.data

    async def context(self) -> JetStreamContext:
        """Return nats-py's JetStream context, for publishing and consuming. Raises Unreachable."""
        return (await self.connect()).jetstream(prefix=self.prefix, timeout=self.timeout)


def answered(data: bytes) -> Raw:
    """Return the content of JetStream's answer. Raises Refused and NotFound; an error may stand beside a result.

    Raises Unanswered if the answer cannot be read, because the request may have taken effect.
    """
    try:
        answer = read_json(data)
        error = answer.get("error")
    except (Unreadable, AttributeError) as unreadable:
        raise Unanswered(f"an answer that cannot be read: {unreadable}") from unreadable
    if error:
        raise refusal(error)
    return answer  # type: ignore[no-any-return]  # it is an object
