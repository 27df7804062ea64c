"""Notices: publish that a stream will be deleted, and when, so that its owner can still keep it."""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha1

from reactor.core.model import Outcome, Reason, Settlement
from reactor.core.policy import Policy, fell_due, policy_for
from reactor.core.rules import GUARDS
from reactor.deletion.recorder import Recorder
from reactor.store.ledger import Ledger

_NOTIFIED = {Reason.FRESH, Reason.GRACE, Reason.ACTIVE, Reason.PROTECTED}
"""The reasons to wait of a stream that will be deleted unless somebody acts."""
_KEPT_MS = 86_400_000
"""How long a notice is remembered after the stream fell due."""


@dataclass(eq=False, repr=False)
class Notices:
    """Publishes each notice once among all replicas. Methods raise LedgerError."""

    ledger: Ledger
    recorder: Recorder
    policy: Policy

    async def announce(self, settlements: Iterable[Settlement]) -> None:
        """Publish a notice for each stream that waits for its last guard, unless it was published before.

        There is a new notice if the job runs and ends again, or if a rule or a person changes the time. A stream that
        is used meanwhile is deleted later than its notice says.
        """
        waiting = {item.stream.name: (item, due) for item in settlements if (due := self._due(item)) is not None}
        notices = {
            f"scheduled.{name}": (self._fingerprint(item), (due - item.stream.observed_at) // 1_000_000 + _KEPT_MS)
            for name, (item, due) in waiting.items()
        }
        for subject in sorted(await self.ledger.sent_notices.remember(notices)) if notices else ():
            item, due = waiting[subject.removeprefix("scheduled.")]
            await self.recorder.scheduled(item, policy_for(item.stream, item.record, self.policy).rule, due)

    def _due(self, item: Settlement) -> int | None:
        """Return when a stream that waits for its last guard falls due (ns); None for any other stream."""
        if item.outcome is not Outcome.WAITING or item.reason not in _NOTIFIED or item.until is None:
            return None
        if item.record is not None and not self.policy.is_terminal(item.record):
            return None
        if item.record is None and item.reason is Reason.PROTECTED:
            return None  # no source says that its job is over
        policy = policy_for(item.stream, item.record, self.policy)
        return fell_due(item.stream, item.record, self.policy) if policy.deletes else None

    def _fingerprint(self, item: Settlement) -> str:
        """Return a value that changes when a new notice is needed: with the stream, its job's end, or its guards."""
        policy = policy_for(item.stream, item.record, self.policy)
        ended = item.record.latest if item.record else None
        parts = (item.stream.created, ended and (ended.occurred_at, ended.seq), item.stream.keep_until)
        spans = [getattr(policy, guard) for guard in GUARDS]
        return sha1(repr((parts, policy.rule, spans)).encode(), usedforsecurity=False).hexdigest()
