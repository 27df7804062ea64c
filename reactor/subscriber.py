"""Hearing: lifecycle events into the ledger, advisories into the due queue, what cannot be read to the dead letters.

A message is acked only after Redis has it. A fault on our side gives it back with a delay, for ever; a fault of the
message itself ends its deliveries, after it was kept whole in the dead-letter stream.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence

import nats.errors
import nats.js.errors
import structlog
from nats.aio.msg import Msg
from nats.js.client import JetStreamContext

from reactor.audit import Audit
from reactor.directory import Directory
from reactor.failpoints import Point, reach
from reactor.jetstream import JetStreamError, read_delivery
from reactor.ledger import Ledger, LedgerError
from reactor.model import SECOND, Event, Malformed
from reactor.observer import FORGETFUL, Observer
from reactor.policy import Policy
from reactor.provision import ADVISORY, DEAD_LETTER_SUBJECT
from reactor.traces import Span, span

RETRY_S = 2.0
"""How long a message waits that Redis or JetStream did not take."""
HEADER_ROOM = 8 * 1024
"""Bytes of a dead letter left for its headers, so that it stays under the server's `max_payload`."""

KNOWN_LIVE = frozenset({"PENDING", "RECEIVED", "STARTED", "PROGRESS", "RETRY", "CANCELING"})
TAKEN, GIVEN_BACK = "taken", "given-back"
"""What became of a batch, in traces."""
MANY = 100
"""Strange words remembered: an emitter gone mad must not fill the memory."""

log = structlog.get_logger(__name__)

Publish = Callable[[str, bytes, dict[str, str]], Awaitable[object]]


class DeadLetters:
    """Keeps whole what could not be read."""

    def __init__(self, publish: Publish, max_payload: int) -> None:
        """`publish` waits until the stream has the message."""
        self._publish = publish
        self._room = max(max_payload - HEADER_ROOM, HEADER_ROOM)

    async def keep(self, msg: Msg, malformed: Malformed) -> None:
        """Publish the message with its subject, sequence and the reason; in parts where the headers would not fit.

        The message id makes a second delivery of the same message no second letter.
        """
        parts = list(self._parts(msg.data))
        for number, part in enumerate(parts, 1):
            headers = {
                "Reactor-Subject": msg.subject,
                "Reactor-Sequence": str(malformed.record.seq),
                "Reactor-Reason": malformed.reason.encode("ascii", "backslashreplace").decode().replace("\n", " "),
                "Reactor-Part": f"{number}/{len(parts)}",
                "Nats-Msg-Id": f"{msg.subject}:{malformed.record.seq}:{malformed.record.occurred_at}:{number}",
            }
            await self._publish(DEAD_LETTER_SUBJECT, part, headers)

    def _parts(self, data: bytes) -> Iterator[bytes]:
        return (data[start : start + self._room] for start in range(0, max(len(data), 1), self._room))


class LifecycleSubscriber:
    """Takes batches of lifecycle messages."""

    def __init__(
        self,
        directory: Directory,
        dead_letters: DeadLetters,
        terminal_statuses: frozenset[str],
        wake: Callable[[], None],
        observer: Observer = FORGETFUL,
    ) -> None:
        """`wake` is called when a job became due."""
        self._terminal = terminal_statuses
        self._directory = directory
        self._dead_letters = dead_letters
        self._wake = wake
        self._observer = observer
        self._strange: set[str] = set()

    async def handle(self, messages: Sequence[Msg]) -> None:
        """Settle every message of a batch: acked, kept as a dead letter, or given back."""
        with span("lifecycle events", messages=len(messages)) as traced:
            await self._settle(messages, traced)

    async def _settle(self, messages: Sequence[Msg], traced: Span) -> None:
        try:
            taken = await self._directory.take([read_delivery(msg).message for msg in messages])
        except (LedgerError, JetStreamError) as error:
            traced.set(outcome=GIVEN_BACK)
            await _give_back(messages, error)
            return
        await reach(Point.EVENT_WRITTEN, messages[0].subject)
        traced.set(outcome=TAKEN)
        outcomes = taken.outcomes()
        self._observer.heard(Counter(outcomes))
        for msg, read, (status, heard) in zip(messages, taken.read, outcomes, strict=True):
            with span("lifecycle event", job_id=read.job_id or "", status=status, outcome=heard.value):
                await self._answer(msg, read)
        if taken.applied.due:
            self._wake()

    async def _answer(self, msg: Msg, read: Event | Malformed) -> None:
        match read:
            case Event():
                self._wonder(read.record.status)
                await msg.ack()
            case Malformed():
                await self._bury(msg, read)

    def _wonder(self, status: str) -> None:
        """A word that nobody has heard of is live; it may also be a misspelt end. Said once a word."""
        word = status.upper()
        if word in KNOWN_LIVE or word in self._terminal or word in self._strange or len(self._strange) >= MANY:
            return
        self._strange.add(word)
        log.warning("unknown status, taken for a live one", status=status)

    async def _bury(self, msg: Msg, malformed: Malformed) -> None:
        try:
            await self._dead_letters.keep(msg, malformed)
        except (nats.errors.Error, TimeoutError) as error:
            await _give_back([msg], error)
            return
        await _terminate(msg, malformed.reason)
        self._observer.buried()
        log.warning(
            "lifecycle event malformed, kept in the dead letters",
            subject=msg.subject,
            sequence=malformed.record.seq,
            reason=malformed.reason,
        )


class AdvisorySubscriber:
    """Takes batches of advisories: hints to look, never proof."""

    def __init__(self, directory: Directory, ledger: Ledger, audit: Audit, policy: Policy) -> None:
        """Advisories name streams; which of them are job streams, the policy knows."""
        self._audit = audit
        self._directory = directory
        self._ledger = ledger
        self._policy = policy

    async def handle(self, messages: Sequence[Msg]) -> None:
        """Take hints in their order, then ack; give all back where Redis or JetStream fails."""
        with span("advisories", messages=len(messages)) as traced:
            traced.set(outcome=TAKEN if await self._take(messages) else GIVEN_BACK)

    async def _take(self, messages: Sequence[Msg]) -> bool:
        try:
            for msg in messages:
                await self._hint(msg.subject)
        except (LedgerError, JetStreamError) as error:
            await _give_back(messages, error)
            return False
        for msg in messages:
            await msg.ack()
        return True

    async def _hint(self, subject: str) -> None:
        """`$JS.EVENT.ADVISORY.<STREAM|CONSUMER>.<action>.<stream>[.<consumer>]`."""
        _, action, stream, *_ = subject.removeprefix(f"{ADVISORY}.").split(".")
        job_id = self._policy.job_id(stream)
        if job_id is None:
            return
        match action:
            case "CREATED":
                await self._ledger.schedule({job_id: self._policy.age_guard / SECOND})
            case "DELETED":
                await self._forget(stream, job_id)
            case _:
                await self._ledger.count_delivery(job_id, action.lower())

    async def _forget(self, stream: str, job_id: str) -> None:
        """There is nothing to look at any more; but a deletion of ours is still to be accounted for by a look."""
        if await self._audit.is_open(stream):
            return
        _, records = await self._directory.look_up([job_id])
        record = records.get(job_id)
        if record is not None and self._policy.is_terminal(record):
            await self._ledger.retire(job_id, record)
        await self._ledger.forget(job_id)


async def _give_back(messages: Sequence[Msg], error: Exception) -> None:
    log.warning("messages given back, tried again soon", messages=len(messages), error=str(error), retry_s=RETRY_S)
    for msg in messages:
        await msg.nak(delay=RETRY_S)


async def _terminate(msg: Msg, reason: str) -> None:
    """End the deliveries of a message, with the reason in the server's MSG_TERMINATED advisory (nats-py takes none)."""
    await msg._client.publish(msg.reply, b"+TERM " + reason.encode()[:200])  # noqa: SLF001  # nats-py offers no other way
    msg._ackd = True  # noqa: SLF001


class EagerPull:
    """nats-py's pull subscription, as FastStream's batch subscriber should find it.

    Three measured faults are mended: a batch is handed on as soon as there is one, instead of at the end of the
    time-out; the bare TimeoutError of an idle fetch no longer kills the task; and a consumer that is gone ends in a
    pause and a call to `lost` instead of thousands of requests a second.
    """

    def __init__(
        self, subscription: JetStreamContext.PullSubscription, batch: int, lost: Callable[[str], None]
    ) -> None:
        """`batch` is the subscriber's own batch size: a smaller one means that it has a part in hand."""
        self._subscription = subscription
        self._batch = batch
        self._lost = lost
        self.asked_at = time.monotonic()
        """When the subscriber last asked for messages, by the monotonic clock: a sign of life."""

    async def fetch(self, batch: int, timeout: float | None) -> list[Msg]:  # noqa: ASYNC109  # nats-py's signature
        """Messages, or nats-py's TimeoutError where there are none."""
        self.asked_at = time.monotonic()
        if batch < self._batch:
            raise nats.errors.TimeoutError
        try:
            return await self._subscription.fetch(batch, timeout)
        except TimeoutError:
            raise nats.errors.TimeoutError from None
        except (nats.errors.Error, nats.js.errors.Error) as error:
            self._lost(str(error))
            await asyncio.sleep(RETRY_S)
            raise nats.errors.TimeoutError from None

    async def unsubscribe(self) -> None:
        """Stop receiving; no error where the connection is gone."""
        try:
            await self._subscription.unsubscribe()
        except nats.errors.Error as error:
            log.debug("unsubscribe failed", error=str(error))


async def consume_pending(
    context: JetStreamContext, stream: str, durable: str, handle: Callable[[Sequence[Msg]], Awaitable[None]]
) -> int:
    """Take what a durable has pending now, as a worker would; how many messages that were. Raises JetStreamError."""
    taken = 0
    subscription = await context.pull_subscribe_bind(consumer=durable, stream=stream)
    try:
        pending = (await subscription.consumer_info()).num_pending or 0
        while pending > 0:
            messages = await subscription.fetch(min(pending, 256), timeout=2.0)
            await handle(messages)
            taken += len(messages)
            pending = read_delivery(messages[-1]).pending
    except TimeoutError:
        log.debug("another replica took what was pending", stream=stream)
    except nats.errors.Error as error:
        message = f"reading stream {stream} broke off: {error}"
        raise JetStreamError(message) from error
    finally:
        await subscription.unsubscribe()
    return taken
