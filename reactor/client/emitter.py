"""Publish events over one connection for each process, in an event loop of its own thread.

The connection opens at the first event, and again after a fork. Every event is sent without a request before it, so no
failed request can hold a status back. While NATS is away, events wait in memory, and callers do not wait. When NATS is
back, they are sent in their order.
"""

import asyncio
import logging
import os
import sys
import threading
import time
from collections import Counter, deque
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from nats.aio.client import Client

from reactor.client.environment import access_of, desired_streams_of
from reactor.core.checks import Misconfigured
from reactor.core.durations import backoff
from reactor.core.subjects import DesiredStreams, payload_of
from reactor.jetstream.client import JetStream
from reactor.jetstream.connection import NO_INBOX
from reactor.jetstream.errors import JetStreamError, NobodyThere, PermissionDenied, Refused, Unanswered, Unreachable
from reactor.jetstream.topology import ProvisionError, lifecycle_stream

TIMEOUT_S = 2.0
MAX_WAITING = 10_000
"""How many events may wait in memory. Beyond that the oldest are dropped, and `announce_jobs` publishes them."""
SWITCH = "REACTOR_CLIENT_EMIT"
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 30.0

log = logging.getLogger("reactor.client")

JobId = int | str


class EmitError(Exception):
    """An event may not be stored. The message says of which job, and why."""


@dataclass(frozen=True, slots=True)
class Emitted:
    """The result of publishing an event. It is true if the lifecycle stream has the event."""

    job_id: str
    status: str
    stream: str | None = None
    seq: int | None = None
    error: str | None = None
    waits: bool = False
    """It waits in memory and is sent again while this process lives."""
    skipped: bool = False
    """It was not sent, because emitting is off. Tests of a job system must not end the jobs of a live one."""

    def __bool__(self) -> bool:
        """Return whether the event is stored, or was skipped on purpose."""
        return self.error is None


def emit(
    job_id: JobId,
    status: str,
    *,
    occurred_at: datetime | None = None,
    timeout: float = TIMEOUT_S,
    raise_errors: bool = False,
) -> Emitted:
    """Publish a lifecycle event and wait until it is stored, for `timeout` seconds at most.

    `occurred_at` is now by default; a time without an offset is local time. While NATS is away, this does not wait.
    Raises EmitError only with `raise_errors`.
    """
    if is_off():
        return Emitted(str(job_id), status, skipped=True)
    future = _submitted(job_id, status, occurred_at, timeout)
    return _settled(future.result(), raise_errors=raise_errors)


async def aemit(
    job_id: JobId,
    status: str,
    *,
    occurred_at: datetime | None = None,
    timeout: float = TIMEOUT_S,  # noqa: ASYNC109  # as emit's
    raise_errors: bool = False,
) -> Emitted:
    """Publish an event like `emit`, without blocking the event loop."""
    if is_off():
        return Emitted(str(job_id), status, skipped=True)
    future = _submitted(job_id, status, occurred_at, timeout)
    return _settled(await asyncio.wrap_future(future), raise_errors=raise_errors)


def is_off() -> bool:
    """Return whether emitting is off, by REACTOR_CLIENT_EMIT or because Django's tests are running.

    A test suite commits its own rows. With a live NATS, their ends would delete the queues of live jobs with the same
    ids. REACTOR_CLIENT_EMIT=on emits in tests, too.
    """
    setting = os.environ.get(SWITCH, "").strip().lower()
    if setting in {"on", "1", "true", "yes"}:
        return False
    test_utils = sys.modules.get("django.test.utils")
    in_tests = test_utils is not None and hasattr(test_utils._TestState, "saved_data")  # noqa: SLF001  # set up by every runner
    if setting in {"off", "0", "false", "no"} or in_tests:
        why = f"{SWITCH}={setting}" if setting else f"Django's tests are running ({SWITCH}=on emits in tests, too)"
        if why not in _logged:
            _logged.add(why)
            log.warning("no lifecycle event is sent: %s", why)
        return True
    return False


def counts() -> dict[str, int]:
    """Return how many events this process has `sent`, `failed` to send, and has `waiting` in memory."""
    process = Process.existing()
    return {"sent": _counted["sent"], "failed": _counted["failed"], "waiting": process.waiting if process else 0}


def _submitted(job_id: JobId, status: str, occurred_at: datetime | None, timeout_s: float) -> "Future[Emitted]":
    process = Process.of_this_process()
    return asyncio.run_coroutine_threadsafe(process.publish(job_id, status, occurred_at, timeout_s), process.loop)


_counted = Counter[str]()
_logged = set[str]()


def _settled(answer: Emitted, *, raise_errors: bool) -> Emitted:
    _counted["failed" if answer.error else "sent"] += 1
    if answer.error:
        message = f"lifecycle event {answer.status} of job {answer.job_id} was not stored: {answer.error}"
        log.log(logging.DEBUG if answer.waits else logging.WARNING, "%s", message)
        if raise_errors:
            raise EmitError(message)
    return answer


class Event(NamedTuple):
    """An event to send. `job_id` and `status` are for the result; the rest is the message."""

    job_id: str
    status: str
    subject: str
    body: bytes


class Process:
    """The event loop and the connection of this process."""

    _current: "Process | None" = None
    _making = threading.Lock()

    @classmethod
    def of_this_process(cls) -> "Process":
        """Return the instance of this process. It is created at first use and after a fork, which has no threads."""
        with cls._making:
            if cls._current is None or cls._current.pid != os.getpid():
                cls._current = cls()
            return cls._current

    @classmethod
    def existing(cls) -> "Process | None":
        """Return the instance of this process, or None."""
        return cls._current if cls._current is not None and cls._current.pid == os.getpid() else None

    def __init__(self) -> None:
        """Start the thread. It is a daemon, so it does not delay the exit."""
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self._js: JetStream | None = None
        self._desired: DesiredStreams | None = None
        self._waiting = deque[Event](maxlen=MAX_WAITING)
        self._sending: asyncio.Task[None] | None = None
        self._cannot_receive = False
        """Whether we lack the permission to receive answers, so that waiting for one is useless."""
        threading.Thread(target=self.loop.run_forever, name="reactor.client", daemon=True).start()

    @property
    def waiting(self) -> int:
        """The number of events in memory."""
        return len(self._waiting)

    async def publish(self, job_id: JobId, status: str, occurred_at: datetime | None, timeout_s: float) -> Emitted:
        """Send one event and return the result. It does not raise."""
        job, at = str(job_id), (occurred_at or datetime.now(UTC)).astimezone(UTC)  # noqa: TID251  # an emitter's clock
        try:
            body = payload_of(job, status, at.isoformat())
            event = Event(job, status, self._connection()[1].events_subject.of(job), body)
        except ValueError as error:
            return Emitted(job, status, error=str(error))
        if self._sending is not None:  # behind what waits already
            return self._kept(event, "NATS is away")
        try:
            async with asyncio.timeout(timeout_s):
                return await self._send(event)
        except (TimeoutError, Unreachable, Unanswered) as error:
            why = str(error) or f"no answer within {timeout_s:g} s"
            answer = self._kept(event, why)
            if self._sending is None:  # else another event that was under way has found it out
                log.warning("NATS takes no lifecycle events (%s); they wait in memory, and are sent once it does", why)
                self._sending = asyncio.create_task(self._send_waiting(), name="waiting events")
            return answer
        except (JetStreamError, Misconfigured) as error:
            return Emitted(job, status, error=str(error))

    def _kept(self, event: Event, why: str) -> Emitted:
        self._waiting.append(event)
        return Emitted(event.job_id, event.status, error=f"{why}; it waits in memory and is sent again", waits=True)

    async def _send_waiting(self) -> None:
        """Send the waiting events in their order. Sending a stored event again has no effect."""
        failures, sent, began = 1, 0, time.monotonic()
        try:
            while self._waiting:
                await asyncio.sleep(backoff(failures, FIRST_RETRY_S, LAST_RETRY_S) if failures else 0)
                event = self._waiting.popleft()
                try:
                    async with asyncio.timeout(TIMEOUT_S):
                        await self._send(event)
                    failures, sent = 0, sent + 1
                except (TimeoutError, Unreachable, Unanswered):
                    failures += 1
                    if len(self._waiting) < MAX_WAITING:  # else it is the oldest of too many
                        self._waiting.appendleft(event)
                except (JetStreamError, Misconfigured) as error:  # waiting longer changes nothing
                    log.warning("lifecycle event of job %s was not stored: %s", event.job_id, error)
        finally:
            self._sending = None
        log.info("NATS takes lifecycle events again: %d sent after %.0f s", sent, time.monotonic() - began)

    async def _send(self, event: Event) -> Emitted:
        """Send the event. If no stream captures it, create the lifecycle stream and send it again."""
        js, desired = self._connection()
        if self._cannot_receive:
            return await self._send_without_answer(js, event)
        try:
            return await self._stored(js, event)
        except NobodyThere:
            try:
                await lifecycle_stream(js, desired)
            except (PermissionDenied, Refused) as error:
                raise ProvisionError(
                    f"no stream takes {event.subject} yet, and this user cannot create it ({error})", "start a worker"
                ) from error
            return await self._stored(js, event)

    async def _stored(self, js: JetStream, event: Event) -> Emitted:
        try:
            stream, seq = await js.publish(event.subject, event.body)
        except Unanswered as error:
            if NO_INBOX not in str(error):
                raise
            self._cannot_receive = True  # it was sent before the server said so
            log.warning(
                "%s: allow this user to subscribe to _INBOX.>; until then no event is known to be stored", error
            )
            return _unconfirmed(event)
        return Emitted(event.job_id, event.status, stream, seq)

    async def _send_without_answer(self, js: JetStream, event: Event) -> Emitted:
        client = await js.connect()
        await client.publish(event.subject, event.body)
        await client.flush()
        return _unconfirmed(event)

    async def connected(self) -> Client:
        """Return nats-py's client. Raises ValueError and JetStreamError."""
        return await self._connection()[0].connect()

    def _connection(self) -> tuple[JetStream, DesiredStreams]:
        if self._js is None or self._desired is None:
            access, self._desired = access_of(), desired_streams_of()
            self._js = JetStream(access.options(), prefix=access.prefix)
        return self._js, self._desired


def _unconfirmed(event: Event) -> Emitted:
    why = "it was sent, and its answer cannot be received: allow this user to subscribe to _INBOX.>"
    return Emitted(event.job_id, event.status, error=why)


def _after_fork() -> None:
    Process._making = threading.Lock()  # noqa: SLF001  # ours: another thread may have held it
    Process._current = None  # noqa: SLF001  # as above


os.register_at_fork(after_in_child=_after_fork)
