"""The job directory of the ledger and the lifecycle stream: what is known about jobs, and for which absence counts.

Redis may be emptied, replaced or rolled back at any time. So absence from the ledger counts only if this is the Redis
and the lifecycle stream that it was built from, and no acked event is missing. Otherwise the ledger is rebuilt from the
stream. Until then no job counts as missing, and nothing is drained.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, replace

import structlog

from reactor.core.events import read_event
from reactor.core.model import UNREADABLE, Coverage, Event, Malformed, Record, StatusEvent, fold
from reactor.core.policy import Policy, due_at
from reactor.core.sinks import EventOutcome
from reactor.core.subjects import SubjectTemplate
from reactor.jetstream.client import JetStream, StoredMessage
from reactor.jetstream.coalesce import CoalescedRequest
from reactor.jetstream.errors import NotFound, Unreachable
from reactor.jetstream.topology import NO_LIFECYCLE, UNKNOWN, Lifecycle, Source, Topology, identity_of, read_lifecycle
from reactor.job_status.protocol import JobAssessment
from reactor.store.keyspace import LedgerError
from reactor.store.leases import Lease
from reactor.store.ledger import Ledger
from reactor.store.records import Applied, Reading

log = structlog.get_logger(__name__)

REBUILD_LEASE_S = 15.0
"""How long an interrupted rebuild blocks the next one. It is renewed with every batch."""
MAX_EVENTS = 100
"""How many events of a job a timeline shows. The lifecycle stream that reactor declares keeps eight."""

NEVER_BUILT = "no worker has built the ledger in this Redis yet, so nothing is drained: start reactor worker"
LOST = "the ledger has lost history and is being rebuilt; nothing is drained"

UNREAD = "no worker has read lifecycle events in this account yet, so no job is known: start reactor worker"

JobReading = tuple[Coverage, Mapping[str, Record]]
"""The coverage, and the records of the jobs that are known."""


def describe_outage(error: Exception) -> str:
    """Describe an outage, with the name of the server."""
    if isinstance(error, LedgerError) and ('"server_id"' in str(error) or 'got "I" as reply' in str(error)):
        return "Redis: this is a NATS server, not Redis"
    return f"{'Redis' if isinstance(error, LedgerError) else 'NATS'}: {error or type(error).__name__}"


@dataclass(frozen=True, slots=True)
class BatchResult:
    """A batch of messages after reading, in their order, and how the ledger changed."""

    read: tuple[Event | Malformed, ...]
    applied: Applied

    def outcomes(self) -> list[tuple[str, EventOutcome]]:
        """Return the status (upper case) and the outcome of each message."""
        named = [position for position, item in enumerate(self.read) if item.job_id is not None]
        stale = {named[position] for position in self.applied.stale}
        return [_outcome(item, stale=position in stale) for position, item in enumerate(self.read)]


def _outcome(item: Event | Malformed, *, stale: bool) -> tuple[str, EventOutcome]:
    if isinstance(item, Malformed):
        return UNREADABLE, EventOutcome.MALFORMED
    return fold(item.status_event.status), EventOutcome.STALE if stale else EventOutcome.APPLIED


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the lifecycle stream, the ledger and the topology, read once for a pass or a batch."""

    lifecycle: Lifecycle
    lost: bool
    """The ledger has lost history, so absence counts for no job."""
    behind: int
    """Lifecycle events that were not in the ledger yet."""
    topology: Topology = UNKNOWN

    @property
    def has_events(self) -> bool:
        """Whether there is a lifecycle stream."""
        return bool(self.lifecycle.stream)


@dataclass(eq=False, repr=False)
class Directory:
    """Reads jobs from the ledger, and says whether absence counts. Methods raise JetStreamError and LedgerError.

    `source` is the lifecycle stream. `durable` is its consumer; an acked event is in the ledger. Each `ensure` calls
    `note` with what the ledger lacks, or None.
    """

    decides = False
    """Whether the job system's directory decides. Then a job without events may be judged outside of a full pass."""

    js: JetStream
    ledger: Ledger
    policy: Policy
    _: KW_ONLY
    template: SubjectTemplate
    source: Source
    durable: str
    note: Callable[[str | None], None] = lambda _: None

    def __post_init__(self) -> None:
        self._gone = f"lifecycle stream {self.source.stream} is gone"
        self._end = CoalescedRequest(self._ask_end)
        self._seen_end: tuple[str, int] | None = None

    async def take_snapshot(self, caught_up_to: int | None = None) -> Snapshot:
        """Return the state of the lifecycle stream, and whether the ledger is complete.

        Events after `caught_up_to` need not be in the ledger yet. Under steady traffic there are always some.
        """
        if not self.source.stream:
            return Snapshot(NO_LIFECYCLE, lost=False, behind=0)
        lifecycle = await read_lifecycle(self.js, self.source, self.durable)
        reading = await self.ledger.records.read(lifecycle.identity)
        lost = not reading.intact or await self._has_missed(lifecycle, reading)
        caught_up = caught_up_to is not None and lifecycle.ack_floor >= caught_up_to
        return Snapshot(lifecycle, lost, 0 if caught_up else lifecycle.behind)

    async def read_jobs(self, snapshot: Snapshot, job_ids: Sequence[str] = ()) -> JobReading:
        """Return the records of these jobs now, and the coverage."""
        reading = await self.ledger.records.read(snapshot.lifecycle.identity, job_ids)
        return self._coverage(snapshot, reading), reading.records

    async def coverage(self, snapshot: Snapshot) -> Coverage:
        """Return the coverage, for status and metrics."""
        return (await self.read_jobs(snapshot))[0]

    async def lease_and_read_job(
        self, snapshot: Snapshot, lease: Lease, job_id: str, under: Lease | None = None
    ) -> JobReading | None:
        """Acquire a lease and read the job in one round trip. Return None if another process holds the lease.

        Raises LeaseLost if the caller no longer holds `under`.
        """
        reading = await self.ledger.records.lease_and_read(lease, snapshot.lifecycle.identity, job_id, under)
        return None if reading is None else (self._coverage(snapshot, reading), reading.records)

    async def last_event(self, snapshot: Snapshot, job_id: str) -> Record | None:
        """Return the job's last events from the leader of the lifecycle stream; None if there are none.

        The last message may not be the latest event: a late event may come after a newer one that is not in the ledger
        yet. So all events that may not be in the ledger are read, too.
        """
        if not snapshot.has_events:
            return None
        try:
            subject = self.template.of(job_id)
        except ValueError:
            return None  # no message can have this subject
        try:
            message = await self.js.last_message(self.source.stream, subject)
            unread = [] if message is None else await self._unread(snapshot, subject, message.seq)
        except NotFound as error:
            raise Unreachable(self._gone) from error
        return Record.of(*(self._read(item).status_event for item in (*unread, message))) if message else None

    def subject_of(self, job_id: str) -> str:
        """Return the subject of a job's events. Raises ValueError if no message can have it."""
        return self.template.of(job_id)

    async def events_of_job(self, job_id: str) -> list[StatusEvent]:
        """Return the events of a job that the lifecycle stream still has, in its order."""
        events, seq = list[StatusEvent](), 1
        if not self.source.stream:
            return events
        with suppress(ValueError):  # no message can have this subject
            subject = self.template.of(job_id)
            while len(events) < MAX_EVENTS and (
                message := await self.js.next_message(self.source.stream, subject, seq)
            ):
                events.append(self._read(message).status_event)
                seq = message.seq + 1
        return events

    async def last_event_since(self, snapshot: Snapshot, job_id: str, before: Record | None) -> Record | None:
        """Return the job's last events. `before` are those that were read after the snapshot.

        First the leader of the lifecycle stream is asked for its last sequence, once for all concurrent callers. If
        that is still the snapshot's, no job has a new event.
        """
        if not snapshot.has_events:
            return before
        end = await self._end()
        if end == (snapshot.lifecycle.identity, snapshot.lifecycle.last_seq):
            return before
        return await self.last_event(snapshot, job_id)

    async def _ask_end(self) -> tuple[str, int]:
        try:
            raw = await self.js.stream_info(self.source.stream)
        except NotFound as error:
            raise Unreachable(self._gone) from error
        end = identity_of(raw), raw["state"]["last_seq"]
        if self._seen_end not in (None, end):
            self.js.pace.note_others()
        self._seen_end = end
        return end

    async def _unread(self, snapshot: Snapshot, subject: str, end: int) -> list[StoredMessage]:
        """Return the messages on a subject before `end` that were not acked at the time of the snapshot."""
        unread: list[StoredMessage] = []
        seq = snapshot.lifecycle.ack_floor + 1
        while seq < end:
            message = await self.js.next_message(self.source.stream, subject, seq)
            if message is None or message.seq >= end:
                break
            unread.append(message)
            seq = message.seq + 1
        return unread

    async def assess(self, job_id: str, record: Record | None, now: int, coverage: Coverage) -> JobAssessment:
        """Return what one job is judged by. `now` is the server's time of the inspection (ns)."""
        return (await self.assess_all({job_id: (record, now)}, coverage))[job_id]

    async def assess_all(
        self, jobs: Mapping[str, tuple[Record | None, int]], coverage: Coverage
    ) -> Mapping[str, JobAssessment]:
        """Return what these jobs are judged by. `jobs` has each job's record and the server's time (ns)."""
        return {job_id: JobAssessment(record, coverage) for job_id, (record, _) in jobs.items()}

    async def apply_messages(self, identity: str, messages: Sequence[StoredMessage]) -> BatchResult:
        """Read messages of the lifecycle stream and write them to the ledger in one round trip.

        A malformed message proves that its job exists and that its last event cannot be read. Raises ForeignLedger if
        the ledger belongs to another lifecycle stream than `identity`.
        """
        read = tuple(self._read(message) for message in messages)
        entries = [
            (e.job_id, e.status_event, due_at(e.status_event, self.policy)) for e in read if e.job_id is not None
        ]
        readable = sum(isinstance(event, Event) for event in read)
        grace = self.policy.terminal_grace
        return BatchResult(read, await self.ledger.records.apply(identity, entries, readable=readable, grace=grace))

    async def ensure(self) -> Snapshot:
        """Take a snapshot, and rebuild the ledger if it has lost history. If that fails, the snapshot says `lost`."""
        if garbage := await self.ledger.records.tidy():
            log.warning("Redis had values that reactor did not write; they were deleted", keys=garbage)
        snapshot = await self.take_snapshot()
        self.note(LOST if snapshot.lost else None)
        if snapshot.lost:
            log.warning("the ledger has lost history, rebuilding", stream=self.source.stream)
            snapshot = await self._rebuild(snapshot)
            self.note(LOST if snapshot.lost else None)
            if not snapshot.lost:
                log.info("the ledger is complete again", stream=self.source.stream)
        return snapshot

    async def _rebuild(self, snapshot: Snapshot) -> Snapshot:
        """Replay the whole lifecycle stream. Events that arrive meanwhile do no harm, because writing is idempotent."""
        lease = Lease("rebuild", REBUILD_LEASE_S)
        if not await self.ledger.leases.acquire(lease):
            return snapshot
        lifecycle = snapshot.lifecycle
        try:
            await self.ledger.records.begin_rebuild(lifecycle.identity, lease.token)
            async for messages in self.js.replay(self.source.stream, self.template.wildcard):
                await self.apply_messages(lifecycle.identity, messages)
                await self.ledger.leases.renew(lease)
            done = await self.ledger.records.complete_rebuild(lease.token, lifecycle.since, lifecycle.last_seq)
        finally:
            await self.ledger.leases.release(lease)
        after = await self.take_snapshot()
        return replace(after, lost=after.lost or not done)

    def _read(self, message: StoredMessage) -> Event | Malformed:
        return read_event(
            self.template, message.subject, message.data, seq=message.seq, published_at=message.published_at
        )

    async def _has_missed(self, lifecycle: Lifecycle, reading: Reading) -> bool:
        """Return whether an event is missing: it expired before it was read, or was lost when Redis was rolled back."""
        if lifecycle.first_seq > reading.applied + 1:
            return True
        if reading.applied >= lifecycle.ack_floor:
            return False
        missed = await self.js.next_message(self.source.stream, self.template.wildcard, reading.applied + 1)
        return missed is not None and missed.seq <= lifecycle.ack_floor

    def _coverage(self, snapshot: Snapshot, reading: Reading) -> Coverage:
        if not snapshot.has_events:
            return Coverage(intact=False, gap=UNREAD)
        if snapshot.lost or not reading.intact:
            return Coverage(intact=False, gap=LOST if reading.built else NEVER_BUILT)
        if not reading.events:
            gap = f"no lifecycle event has arrived yet: does the job system publish on {self.template.template}?"
            return Coverage(intact=True, gap=gap)
        if snapshot.behind:
            return Coverage(intact=True, gap=f"{snapshot.behind} lifecycle events are not read yet")
        if reading.since is None:
            gap = f"stream {self.source.stream} held no event when the ledger was built, so absence proves nothing"
            return Coverage(intact=True, gap=gap)
        return Coverage(intact=True, since=reading.since)
