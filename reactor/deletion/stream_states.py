"""The last known state of each job stream, for status and page. No decision uses it.

Listing all streams costs the server time, so status and page do not. Passes and sweeps store what they find, an
advisory adds a created stream, and a lifecycle event updates the state of its job's stream.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, replace

from reactor.core.model import Coverage, Event, Malformed, Outcome, Reason, Record, Settlement, Stream
from reactor.core.policy import Policy, decide
from reactor.core.report import settlement_of
from reactor.deletion.recorder import Recorder
from reactor.store.ledger import Ledger

_GONE = {Outcome.DRAINED, Outcome.ALREADY_GONE}
_LIVES = {Reason.RUNNING, Reason.DISPUTED}
DELETED, RETRIED = "deleted", "retried"
"""What can happen to zombies that report mode kept."""
_WHOLE = Coverage(intact=True)


@dataclass(eq=False, repr=False)
class StreamStateUpdater:
    """Keeps the stored states up to date. Methods raise LedgerError, or whatever a callback raises.

    `policy` judges a stream again when its job changes. `recorder` records what happened to reported streams. With
    `events_decide=False` a job directory decides, so events change no state.
    """

    ledger: Ledger
    policy: Policy
    recorder: Recorder
    _: KW_ONLY
    events_decide: bool = True

    async def store(self, settlements: Iterable[Settlement], began: int | None = None) -> None:
        """Store states, read just now or by a listing that `began` then (ms, Redis's clock)."""
        states = {
            item.stream.name: None if item.outcome in _GONE else self._without_metadata(item)
            for item in settlements
            if item.reason is not Reason.PAUSED  # a zombie stays one
        }
        await self.ledger.stream_states.put(states, began)

    async def add_created(self, stream: str, job_id: str, created: int | None) -> None:
        """Store a created stream. Its config and messages are not known yet, its job may be."""
        state = Stream(stream, job_id, created or 0, created, counted=False)
        await self.store([self._as_of(state, None)])  # first, so that an event that arrives now finds it
        if not self.events_decide:
            return
        if record := (await self.ledger.records.read("", [job_id])).records.get(job_id):
            await self.store([self._as_of(state, record)])

    async def remove_deleted(self, stream: str) -> None:
        """Store that a stream was deleted, by reactor or by others."""
        await self.ledger.stream_states.put({stream: None})
        if self.policy.may_report:
            await self.recorder.afterwards(stream, DELETED)

    async def compare_with_pass(
        self, settlements: Iterable[Settlement], is_there: Callable[[str], Awaitable[bool]]
    ) -> None:
        """Compare the zombies that report mode kept with a full pass. `is_there` looks up streams that it missed."""
        if not self.policy.may_report:
            return
        there = {item.stream.name: item for item in settlements}
        for stream in await self.recorder.reported():
            if stream in there:
                if there[stream].reason in _LIVES:
                    await self.recorder.afterwards(stream, RETRIED)
            elif not await is_there(stream):
                await self.recorder.afterwards(stream, DELETED)

    async def apply_events(self, events: Sequence[Event | Malformed]) -> None:
        """Update the stored states of these jobs' streams."""
        if not self.events_decide:
            return
        records = {event.job_id: Record.of(event.status_event) for event in events if event.job_id is not None}
        names = [name for job_id in records for name in self.policy.names_of(job_id) or ()]
        known = await self.ledger.stream_states.of(names)
        now = [self._as_of(item.stream, records[item.stream.job_id].merged(item.record)) for item in known.values()]
        await self.store(now)
        for item in now:
            if known[item.stream.name].outcome is Outcome.WOULD_DRAIN and item.reason in _LIVES:
                await self.recorder.afterwards(item.stream.name, RETRIED)

    def _without_metadata(self, item: Settlement) -> Settlement:
        """Return the state without the stream's metadata, unless a rule needs it. This saves memory in Redis."""
        if not item.stream.metadata or any(rule.metadata for rule in self.policy.rules):
            return item
        return replace(item, stream=replace(item.stream, metadata={}))

    def _as_of(self, stream: Stream, record: Record | None) -> Settlement:
        return _judged(stream, record, self.policy)


def as_of_now(state: Settlement, policy: Policy) -> Settlement:
    """Return a stored state as of now: a stream whose last guard has passed since is a zombie."""
    if state.outcome is not Outcome.WAITING or state.record is None:
        return state
    return replace(_judged(state.stream, state.record, policy), detail=state.detail)


def _judged(stream: Stream, record: Record | None, policy: Policy) -> Settlement:
    return settlement_of(decide(stream, record, _WHOLE, policy), stream, record, _WHOLE)
