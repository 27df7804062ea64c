"""Notices: a stream was condemned, and when it falls, so that its owner can still keep it."""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha1

from reactor.core.model import Outcome, Reason, Settlement
from reactor.core.policy import Policy, fell_due, policy_for
from reactor.core.rules import GUARDS
from reactor.deletion.recorder import Recorder
from reactor.store.ledger import Ledger

_LAST_GUARDS = {Reason.FRESH, Reason.GRACE, Reason.ACTIVE, Reason.PROTECTED}
"""Why a stream waits that will fall unless somebody does something."""
_KEPT_MS = 86_400_000
"""How long a notice is remembered after the stream was due."""


@dataclass(eq=False, repr=False)
class Notices:
    """Tells of each condemnation once, whoever of the replicas finds it. Methods raise LedgerError."""

    ledger: Ledger
    recorder: Recorder
    policy: Policy

    async def found(self, settlements: Iterable[Settlement]) -> None:
        """Tell of those streams that wait for their last guard, if that was not told yet.

        A retry and a new end are a new condemnation; a time that a rule or a person has changed is told, too. A stream
        that is used meanwhile falls later than it was told.
        """
        ahead = {item.stream.name: (item, due) for item in settlements if (due := self._due(item)) is not None}
        told = {
            f"scheduled.{name}": (self._fingerprint(item), (due - item.stream.observed_at) // 1_000_000 + _KEPT_MS)
            for name, (item, due) in ahead.items()
        }
        for subject in sorted(await self.ledger.told.remember(told)) if told else ():
            item, due = ahead[subject.removeprefix("scheduled.")]
            await self.recorder.scheduled(item, policy_for(item.stream, item.record, self.policy).rule, due)

    def _due(self, item: Settlement) -> int | None:
        """Return when a stream falls that waits for its last guard; None of any other one."""
        if item.outcome is not Outcome.WAITING or item.reason not in _LAST_GUARDS or item.until is None:
            return None
        if item.record is not None and not self.policy.is_terminal(item.record):
            return None
        if item.record is None and item.reason is Reason.PROTECTED:
            return None  # nobody has said yet that its job is over
        its = policy_for(item.stream, item.record, self.policy)
        return fell_due(item.stream, item.record, self.policy) if its.deletes else None

    def _fingerprint(self, item: Settlement) -> str:
        """Return what makes a condemnation another one: the stream, the end of its job, and how long it is kept."""
        its = policy_for(item.stream, item.record, self.policy)
        ended = item.record.latest if item.record else None
        parts = (item.stream.created, ended and (ended.occurred_at, ended.seq), item.stream.keep_until)
        spans = [getattr(its, guard) for guard in GUARDS]
        return sha1(repr((parts, its.rule, spans)).encode(), usedforsecurity=False).hexdigest()
