"""The subscribers: lifecycle events go to the ledger, advisories to the due queue, unreadable events to dead letters.

A lifecycle event is acked only after Redis has it. After a fault on our side it is redelivered with a delay, without a
limit. An unreadable event is stored in the dead-letter stream and then not delivered again. An advisory is only a hint;
if it is lost, the full pass finds its stream later.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import nats.errors
import structlog
from nats.aio.msg import Msg

from reactor.core.explain import unknown_value
from reactor.core.foreign_json import read_json
from reactor.core.model import SECOND, Event, Malformed, fold
from reactor.core.sinks import EventOutcome
from reactor.core.stream_info import ADVISORY, headers_size, instant
from reactor.deletion.failpoints import Point, reach
from reactor.deletion.resources import Resources
from reactor.jetstream.client import JetStream, read_delivery
from reactor.jetstream.errors import JetStreamError, NotFound
from reactor.jetstream.topology import DEAD_LETTER_SUBJECT, topology_of
from reactor.job_status.ledger_directory import BatchResult
from reactor.passes.exhausted import ExhaustedQueues
from reactor.store.exhausted import GivenUp
from reactor.store.keyspace import LedgerError
from reactor.store.records import ForeignLedger
from reactor.telemetry.traces import Span, span

RETRY_S = 2.0
"""The delay (s) before a message is redelivered that could not be stored."""
MAX_HEADER_CHARS = 256
"""The longest subject or reason in a dead letter's headers if the server's `max_payload` is small (characters)."""

STORED, REDELIVERED, DROPPED = "stored", "redelivered", "dropped"
"""The outcomes of messages in traces."""
SOON = 5 * SECOND
"""With a terminal grace up to this, a first inspection is not needed: the stream is inspected soon anyway."""
MANY = 100
"""How many remarks are remembered, so that a faulty emitter cannot fill the memory."""

log = structlog.get_logger(__name__)

Publish = Callable[[str, bytes, dict[str, str]], Awaitable[object]]


@dataclass(eq=False, repr=False)
class DeadLetters:
    """Stores messages that could not be read, completely.

    `publish` returns when the stream has the message. `max_payload` is the server's, and includes headers.
    """

    publish: Publish
    max_payload: int

    async def keep(self, msg: Msg, malformed: Malformed) -> None:
        """Publish the message with its subject, sequence and the reason, in parts if it does not fit.

        The message id prevents a second letter if the message is delivered again.
        """
        headers = self._headers(msg, malformed)
        parts = list(self._parts(msg.data, headers))
        for number, part in enumerate(parts, 1):
            numbered = {
                "Reactor-Part": f"{number}/{len(parts)}",
                "Nats-Msg-Id": f"{malformed.status_event.seq}:{malformed.status_event.published_at}:{number}",
            }
            await self.publish(DEAD_LETTER_SUBJECT, part, headers | numbered)

    def _headers(self, msg: Msg, malformed: Malformed) -> dict[str, str]:
        """Return the headers, cut if they would leave no room for the message. Invalid bytes are escaped."""
        subject = _readable(msg.subject)
        reason = malformed.reason.encode("ascii", "backslashreplace").decode().replace("\n", " ")
        headers = {
            "Reactor-Subject": subject,
            "Reactor-Sequence": str(malformed.status_event.seq),
            "Reactor-Reason": reason,
        }
        if headers_size(headers) <= self.max_payload // 2:
            return headers
        return {name: value[: min(MAX_HEADER_CHARS, self.max_payload // 8)] for name, value in headers.items()}

    def _parts(self, data: bytes, headers: dict[str, str]) -> Iterator[bytes]:
        largest = headers | {"Reactor-Part": "9" * 16, "Nats-Msg-Id": "9" * 56}
        room = max(self.max_payload - headers_size(largest), 1)
        return (data[start : start + room] for start in range(0, max(len(data), 1), room))


@dataclass(eq=False, repr=False)
class LifecycleSubscriber:
    """Handles batches of lifecycle messages.

    `reply` publishes over core NATS, to end deliveries. `wake` is called when a job became due, and `ended` with the
    jobs that have just ended.
    """

    deps: Resources
    dead_letters: DeadLetters
    reply: Callable[[str, bytes], Awaitable[object]]
    wake: Callable[[], None]
    ended: Callable[[Collection[str]], None] = lambda _: None

    def __post_init__(self) -> None:
        self._known = self.deps.policy.known_statuses
        self._remarked: set[str] = set()
        self._identity: str | None = None
        """The identity of the lifecycle stream; None if it must be read again, because the stream may be replaced."""

    async def handle(self, messages: Sequence[Msg]) -> None:
        """Settle every message of a batch: ack it, store it as a dead letter, or have it redelivered."""
        with span("lifecycle events", messages=len(messages)) as traced:
            await self._settle(messages, traced)

    async def _settle(self, messages: Sequence[Msg], traced: Span) -> None:
        try:
            written = await self._write(messages)
        except (LedgerError, JetStreamError) as error:
            traced.set(outcome=REDELIVERED)
            await _redeliver(messages, error)
            return
        await reach(Point.EVENT_WRITTEN, messages[0].subject)
        traced.set(outcome=STORED)
        outcomes = written.outcomes()
        self.deps.recorder.events_received(Counter(outcomes))
        malformed: list[tuple[Msg, Malformed]] = []
        for msg, read, (status, outcome) in zip(messages, written.read, outcomes, strict=True):
            with span("lifecycle event", job_id=read.job_id or "", status=status, outcome=outcome.value):
                if isinstance(read, Event):
                    self._remark(read)
                    await msg.ack()
                else:
                    malformed.append((msg, read))
        if written.applied.due:
            self.wake()
            self.ended(self._jobs_that_ended(written.read, outcomes))
        with suppress(LedgerError):  # status and page are corrected by the next pass
            await self.deps.stream_states.apply_events(written.read)
        await self._keep_malformed(malformed)

    def _jobs_that_ended(
        self, read: Sequence[Event | Malformed], outcomes: Sequence[tuple[str, EventOutcome]]
    ) -> set[str]:
        """Return the jobs that ended now, without those whose streams are inspected soon anyway."""
        policy = self.deps.policy
        return {
            item.job_id
            for item, (status, outcome) in zip(read, outcomes, strict=True)
            if isinstance(item, Event)
            and outcome is EventOutcome.APPLIED
            and policy.ends(item.status_event)
            and policy.shortest("terminal_grace", status) > SOON
        }

    async def _write(self, messages: Sequence[Msg]) -> BatchResult:
        if self._identity is None:
            self._identity = (await self.deps.directory.take_snapshot()).lifecycle.identity
        try:
            return await self.deps.directory.apply_messages(
                self._identity, [read_delivery(msg).message for msg in messages]
            )
        except ForeignLedger:
            self._identity = None  # the next attempt reads it
            raise

    def _remark(self, event: Event) -> None:
        """Log a problem with an event that counts anyway, once for each status and each source."""
        status = fold(event.status_event.status)
        if status not in self._known and self._is_new(f"status {status}"):
            suggestion = unknown_value(status, sorted(self._known))
            log.warning(
                "unknown status, the job counts as live",
                status=event.status_event.status,
                job_id=event.job_id,
                reason=suggestion,
            )
        if event.remark and self._is_new(f"source {event.status_event.source}"):
            log.warning(
                "an emitter's time cannot be read, so the server's time is used",
                source=event.status_event.source,
                job_id=event.job_id,
                reason=event.remark,
            )

    def _is_new(self, what: str) -> bool:
        if what in self._remarked or len(self._remarked) >= MANY:
            return False
        self._remarked.add(what)
        return True

    async def _keep_malformed(self, malformed: Sequence[tuple[Msg, Malformed]]) -> None:
        """Store unreadable messages as dead letters, and log one line for the batch."""
        kept = [item for item in await asyncio.gather(*(self._keep(*item) for item in malformed)) if item]
        if kept:
            first = kept[0]
            log.warning(
                "lifecycle events malformed, kept in the dead letters",
                messages=len(kept),
                subject=_readable(first[0].subject),
                sequence=first[1].status_event.seq,
                reason=first[1].reason,
            )

    async def _keep(self, msg: Msg, malformed: Malformed) -> tuple[Msg, Malformed] | None:
        try:
            await self.dead_letters.keep(msg, malformed)
        except JetStreamError as error:
            await _redeliver([msg], error)
            return None
        # The reason is for the server's MSG_TERMINATED advisory. nats-py's `term` takes none.
        await self.reply(msg.reply, b"+TERM " + malformed.reason.encode("utf-8", "replace")[:200])
        self.deps.recorder.dead_lettered()
        return msg, malformed


@dataclass(eq=False, repr=False)
class AdvisorySubscriber:
    """Handles advisories. They are hints to inspect a stream, never proof."""

    deps: Resources
    exhausted: ExhaustedQueues

    async def handle(self, msg: Msg) -> None:
        """Handle an advisory. If Redis or JetStream fails, it is dropped, and the full pass finds the stream."""
        with span("advisory", subject=msg.subject) as traced:
            try:
                await self._hint(msg)
            except (LedgerError, JetStreamError) as error:
                log.debug("an advisory is dropped", subject=msg.subject, error=str(error))
                traced.set(outcome=DROPPED)
            else:
                traced.set(outcome=STORED)

    async def _hint(self, msg: Msg) -> None:
        """Handle `$JS.EVENT.ADVISORY.<STREAM|CONSUMER>.<action>.<stream>[.<consumer>]`."""
        _, action, stream, *_ = msg.subject.removeprefix(f"{ADVISORY}.").split(".")
        job_id = self.deps.policy.job_id(stream)
        if job_id is None:
            if action in {"CREATED", "UPDATED"}:
                await self._store_origins(stream)
            return
        match action:
            case "CREATED":
                self.deps.recorder.forget_own(stream)
                await self.deps.ledger.due.hint(job_id, self.deps.policy.shortest("age_guard") / SECOND)
                await self.deps.stream_states.add_created(stream, job_id, _published_at(msg))
                await self._store_origins(stream)
            case "UPDATED":
                if not self.deps.recorder.is_own_deletion(stream):  # else it is our own fence
                    await self._store_origins(stream)
            case "DELETED":
                if not self.deps.recorder.is_own_deletion(stream):
                    await self.deps.stream_states.remove_deleted(stream)
                    await self._forget(stream, job_id)
            case _:
                if action == "MAX_DELIVERIES" and (given_up := _given_up(msg)):
                    self.exhausted.note(stream, given_up)
                await self.deps.ledger.tallies.count_delivery(job_id, action.lower())

    async def _store_origins(self, stream: str) -> None:
        """Store which streams this one mirrors or sources, and whether it captures advisories.

        A job's own stream may source another job's, too.
        """
        with suppress(NotFound):
            topology = topology_of([(await self.deps.reads.stream_info(stream))["config"]])
            if topology.sourced or topology.advisory_streams:
                await self.deps.ledger.topology_cache.add(sorted(topology.sourced), topology.advisory_streams)

    async def _forget(self, stream: str, job_id: str) -> None:
        """Remove a deleted stream's job from the due queue, unless it has an open intent."""
        if await self.deps.recorder.audit.is_open(stream):
            return
        record = (await self.deps.ledger.records.read("", [job_id])).records.get(job_id)
        if record is not None and self.deps.policy.is_terminal(record):
            await self.deps.ledger.records.retire(job_id, record)
        await self.deps.ledger.due.forget(job_id)


def _published_at(advisory: Msg) -> int | None:
    """Return the time of an advisory by the server's clock (ns)."""
    return instant(_content(advisory).get("timestamp"))


def _given_up(advisory: Msg) -> GivenUp | None:
    """Return the message in a MAX_DELIVERIES advisory."""
    seq = _content(advisory).get("stream_seq")
    return GivenUp(seq, advisory.subject.rpartition(".")[2]) if isinstance(seq, int) else None


def _content(advisory: Msg) -> Mapping[str, Any]:
    """Return the content of an advisory; empty if it cannot be read."""
    with suppress(ValueError):
        if isinstance(content := read_json(advisory.data), dict):
            return content
    return {}


def _readable(subject: str) -> str:
    """Return the subject with invalid UTF-8 bytes escaped."""
    return subject.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


async def _redeliver(messages: Sequence[Msg], error: Exception) -> None:
    log.warning(
        "messages could not be stored, and are redelivered soon",
        messages=len(messages),
        error=str(error),
        retry_s=RETRY_S,
    )
    for msg in messages:
        await msg.nak(delay=RETRY_S)


async def consume_pending(
    js: JetStream, stream: str, durable: str, handle: Callable[[Sequence[Msg]], Awaitable[None]]
) -> int:
    """Handle the pending messages of a durable like a worker. Return how many there were. Raises JetStreamError."""
    handled, batch = 0, await js.largest_batch(stream, durable, 256)
    subscription = await (await js.context()).pull_subscribe_bind(consumer=durable, stream=stream)
    try:
        pending = (await subscription.consumer_info()).num_pending or 0
        while pending > 0:
            messages = await subscription.fetch(min(pending, batch), timeout=2.0)
            if not messages:
                raise JetStreamError(f"stream {stream} was not read: the server refused a batch of {batch}")
            await handle(messages)
            handled += len(messages)
            pending = read_delivery(messages[-1]).pending
    except TimeoutError:
        log.debug("another replica took what was pending", stream=stream)
    except nats.errors.Error as error:
        raise JetStreamError(f"reading stream {stream} broke off: {error}") from error
    finally:
        await subscription.unsubscribe()
    return handled
