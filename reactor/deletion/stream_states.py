"""The last known state of each job stream, for status and page. No decision uses it.

A listing costs the server time for every stream there is. So passes and sweeps leave behind what they have found, an
advisory adds what was made, and an event says what has become of the job since.
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
"""What becomes of streams that would have been deleted."""
_WHOLE = Coverage(intact=True)


@dataclass(eq=False, repr=False)
class StreamStateUpdater:
    """Methods raise LedgerError, and what they are given to ask with raises.

    `policy` judges a stream again when its job changes; `recorder` records what became of reported streams.

    If a directory decides (`events_decide` is false), events change no state: only an inspection does.
    """

    ledger: Ledger
    policy: Policy
    recorder: Recorder
    _: KW_ONLY
    events_decide: bool = True

    async def found(self, settlements: Iterable[Settlement], began: int | None = None) -> None:
        """Store states from an inspection just now, or from a listing that `began` then (ms, Redis's clock)."""
        found = {
            item.stream.name: None if item.outcome in _GONE else self._without_metadata(item)
            for item in settlements
            if item.reason is not Reason.PAUSED  # a zombie stays one
        }
        await self.ledger.stream_states.put(found, began)

    async def made(self, stream: str, job_id: str, created: int | None) -> None:
        """Store a created stream. Its config and state are not known yet; its job may be."""
        made = Stream(stream, job_id, created or 0, created, counted=False)
        await self.found([self._as_of(made, None)])  # first: an event that arrives from now on finds it
        if not self.events_decide:
            return
        if record := (await self.ledger.records.read("", [job_id])).records.get(job_id):
            await self.found([self._as_of(made, record)])

    async def deleted(self, stream: str) -> None:
        """Store that a stream was deleted, by anybody."""
        await self.ledger.stream_states.put({stream: None})
        if self.policy.may_report:
            await self.recorder.afterwards(stream, DELETED)

    async def passed(self, found: Iterable[Settlement], is_there: Callable[[str], Awaitable[bool]]) -> None:
        """Compare what report mode would have deleted with what a full pass found; ask for streams it did not find."""
        if not self.policy.may_report:
            return
        there = {item.stream.name: item for item in found}
        for stream in await self.recorder.reported():
            if stream in there:
                if there[stream].reason in _LIVES:
                    await self.recorder.afterwards(stream, RETRIED)
            elif not await is_there(stream):
                await self.recorder.afterwards(stream, DELETED)

    async def as_dict(self, events: Sequence[Event | Malformed]) -> None:
        """Store what the lifecycle events of jobs change for their streams, if those are known."""
        if not self.events_decide:
            return
        words = {event.job_id: Record.of(event.status_event) for event in events if event.job_id is not None}
        names = [name for job_id in words for name in self.policy.names_of(job_id) or ()]
        known = await self.ledger.stream_states.of(names)
        now = [self._as_of(item.stream, words[item.stream.job_id].merged(item.record)) for item in known.values()]
        await self.found(now)
        for item in now:
            if known[item.stream.name].outcome is Outcome.WOULD_DRAIN and item.reason in _LIVES:
                await self.recorder.afterwards(item.stream.name, RETRIED)

    def _without_metadata(self, item: Settlement) -> Settlement:
        """Return the state without the stream's metadata, unless a rule asks for it: Redis holds one a stream."""
        if not item.stream.metadata or any(rule.metadata for rule in self.policy.rules):
            return item
        return replace(item, stream=replace(item.stream, metadata={}))

    def _as_of(self, stream: Stream, record: Record | None) -> Settlement:
        return _judged(stream, record, self.policy)


def as_of_now(found: Settlement, policy: Policy) -> Settlement:
    """Return a state as of now: a stream whose last guard has passed since is a zombie."""
    if found.outcome is not Outcome.WAITING or found.record is None:
        return found
    return replace(_judged(found.stream, found.record, policy), detail=found.detail)


def _judged(stream: Stream, record: Record | None, policy: Policy) -> Settlement:
    return settlement_of(decide(stream, record, _WHOLE, policy), stream, record, _WHOLE)
