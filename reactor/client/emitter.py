"""One connection a process, kept in an event loop of its own thread: made at the first event, and anew after a fork."""

import asyncio
import json
import logging
import os
import threading
from collections import Counter, OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime

from reactor.config.settings import EventsSettings, NatsSettings
from reactor.core.model import fold
from reactor.jetstream.client import JetStream
from reactor.jetstream.errors import JetStreamError, NobodyThere
from reactor.jetstream.topology import DesiredStreams, ProvisionError, lifecycle_stream
from reactor.operate.emit import payload_of
from reactor.worker.options import desired_streams, nats_options

TIMEOUT_S = 2.0
REMEMBERED = 10_000
"""Jobs of which this process knows what it said last."""

log = logging.getLogger("reactor.client")

JobId = int | str


class EmitError(Exception):
    """An event is not known to be safe: says of which job, and why."""


@dataclass(frozen=True, slots=True)
class Emitted:
    """What became of an event. It is true where the lifecycle stream has it."""

    job_id: str
    status: str
    stream: str | None = None
    seq: int | None = None
    repeated: bool = False
    """It was the last word on the job already, and was not sent again."""
    error: str | None = None

    def __bool__(self) -> bool:
        """Whether the event is safe."""
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

    `occurred_at` is now where it is left out; one without an offset is local time. Raises EmitError only where
    `raise_errors` says so.
    """
    future = _submitted(job_id, status, occurred_at, timeout)
    return _told(future.result(), raise_errors=raise_errors)


async def aemit(
    job_id: JobId,
    status: str,
    *,
    occurred_at: datetime | None = None,
    timeout: float = TIMEOUT_S,  # noqa: ASYNC109  # as emit's
    raise_errors: bool = False,
) -> Emitted:
    """As `emit`, without holding up the event loop."""
    future = _submitted(job_id, status, occurred_at, timeout)
    return _told(await asyncio.wrap_future(future), raise_errors=raise_errors)


def counts() -> dict[str, int]:
    """What became of this process's events so far: `sent`, `repeated`, `failed`."""
    return {name: _counted[name] for name in ("sent", "repeated", "failed")}


def _submitted(job_id: JobId, status: str, occurred_at: datetime | None, timeout_s: float) -> "Future[Emitted]":
    process = Process.ours()
    return asyncio.run_coroutine_threadsafe(process.publish(job_id, status, occurred_at, timeout_s), process.loop)


_counted = Counter[str]()


def _told(answer: Emitted, *, raise_errors: bool) -> Emitted:
    _counted["failed" if answer.error else "repeated" if answer.repeated else "sent"] += 1
    if answer.error:
        log.warning("lifecycle event %s of job %s was not stored: %s", answer.status, answer.job_id, answer.error)
        if raise_errors:
            message = f"lifecycle event {answer.status} of job {answer.job_id} was not stored: {answer.error}"
            raise EmitError(message)
    return answer


class Process:
    """This process's loop and connection."""

    _one: "Process | None" = None
    _making = threading.Lock()

    @classmethod
    def ours(cls) -> "Process":
        """Made where there is none, also after a fork, which leaves the thread behind."""
        with cls._making:
            if cls._one is None or cls._one.pid != os.getpid():
                cls._one = cls()
            return cls._one

    def __init__(self) -> None:
        """The thread is a daemon: it holds up no exit."""
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self._js: JetStream | None = None
        self._desired: DesiredStreams | None = None
        self._last = OrderedDict[str, str]()
        threading.Thread(target=self.loop.run_forever, name="reactor.client", daemon=True).start()

    async def publish(self, job_id: JobId, status: str, occurred_at: datetime | None, timeout_s: float) -> Emitted:
        """One event. What fails is in the answer."""
        job, at = str(job_id), (occurred_at or datetime.now(UTC)).astimezone(UTC)  # noqa: TID251  # an emitter's clock
        try:
            async with asyncio.timeout(timeout_s):
                return await self._publish(job, status, at.isoformat())
        except TimeoutError:
            return Emitted(job, status, error=f"no answer within {timeout_s:g} s")
        except (JetStreamError, ProvisionError, ValueError) as error:
            return Emitted(job, status, error=str(error))

    async def _publish(self, job: str, status: str, at: str) -> Emitted:
        body = payload_of(job, status, at)
        js, desired = self._connection()
        subject = desired.events_subject.of(job)
        if self._last.get(job) == fold(status) and await _is_last_word(js, desired, subject, status):
            return Emitted(job, status, repeated=True)
        try:
            stream, seq = await js.publish(subject, body)
        except NobodyThere:  # no stream takes it yet
            await lifecycle_stream(js, desired)
            stream, seq = await js.publish(subject, body)
        self._last[job] = fold(status)
        self._last.move_to_end(job)
        if len(self._last) > REMEMBERED:
            self._last.popitem(last=False)
        return Emitted(job, status, stream, seq)

    def _connection(self) -> tuple[JetStream, DesiredStreams]:
        if self._js is None or self._desired is None:
            nats, self._desired = NatsSettings(), desired_streams(EventsSettings())
            self._js = JetStream(nats_options(nats), domain=nats.domain)
        return self._js, self._desired


async def _is_last_word(js: JetStream, desired: DesiredStreams, subject: str, status: str) -> bool:
    """Whether the stream's last event of the job says just this. Other processes emit, too: only it can tell."""
    message = await js.last_message(await lifecycle_stream(js, desired), subject)
    if message is None:
        return False
    try:
        return fold(str(json.loads(message.data)["status"])) == fold(status)
    except (ValueError, KeyError, TypeError):
        return False


def _after_fork() -> None:
    Process._making = threading.Lock()  # noqa: SLF001  # ours: another thread may have held it
    Process._one = None  # noqa: SLF001  # as above


os.register_at_fork(after_in_child=_after_fork)
