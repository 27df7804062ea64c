"""The states of a stream on its way to deletion: Target → Inspection → Fenced → Proven.

`drain` moves a stream from one state to the next. Only a Proven stream may be deleted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reactor.core.model import (
    Coverage,
    DirectoryStatus,
    Fence,
    Outcome,
    Reason,
    Record,
    Settlement,
    Stream,
    Verdict,
)
from reactor.core.pause import Pause
from reactor.core.policy import Policy, policy_for
from reactor.core.report import directory_json, event_json, guards_json, settlement_of
from reactor.core.stream_info import FENCE_KEYS, Raw
from reactor.jetstream.errors import JetStreamError
from reactor.jetstream.topology import Topology
from reactor.store.leases import Lease

REPLACED = "another stream of this name has been created since it was judged"


@dataclass(frozen=True, slots=True)
class Target:
    """A stream to settle, by its exact name. `created` (ns) names the incarnation that was judged, if one was."""

    name: str
    job_id: str
    created: int | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """What one inspection read about a stream, and its verdict."""

    raw: Raw
    """The server's answer to STREAM.INFO."""
    stream: Stream
    record: Record | None
    event: Record | None
    """The job's last events, read from the leader of the lifecycle stream."""
    coverage: Coverage
    verdict: Verdict
    asked_at: float
    """When STREAM.INFO was requested (s, monotonic clock)."""
    consumers: Sequence[Raw] = ()
    """The answers to CONSUMER.INFO, if the verdict needed them."""
    directory_status: DirectoryStatus | None = None
    """The status in the job system's directory, if there is one."""

    def judged_by(self, policy: Policy) -> Policy:
        """Return the policy of this stream, with its rule and its own metadata."""
        return policy_for(self.stream, self.record, policy)

    def is_incarnation_of(self, target: Target) -> bool:
        """Return whether this is the incarnation that was judged, not a later stream of the same name."""
        return target.created is None or self.stream.created == target.created

    def settled(self, outcome: Outcome, reason: Reason, detail: str | None = None) -> Settlement:
        """Return a settlement of this stream with the given outcome."""
        return Settlement(outcome, reason, self.stream, self.record, detail=detail)

    def by_verdict(self) -> Settlement:
        """Return the settlement that the verdict alone gives."""
        return settlement_of(self.verdict, self.stream, self.record, self.coverage)

    def paused(self, pause: Pause) -> Settlement:
        """Return the settlement of a zombie that an operator's pause keeps."""
        return held_back(self.by_verdict(), pause)

    def grounds(self, policy: Policy) -> dict[str, Any]:
        """Return why the stream may be deleted, for the audit: event, directory status, guards."""
        return {
            "rule": self.judged_by(policy).rule,
            "event": event_json(self.record.latest) if self.record else None,
            "directory": directory_json(self.directory_status),
            "guards": guards_json(self.stream, self.record, policy),
        }


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A stream's lease, and the deadline by which this process must stop working on it (s, monotonic clock)."""

    lease: Lease
    deadline: float
    monotonic: Callable[[], float]

    @classmethod
    def start(cls, stream: str, seconds: float, monotonic: Callable[[], float]) -> "HeldLease":
        """Start the deadline. Call this before acquiring the lease, so that the deadline is before the lease's end."""
        return cls(Lease(f"stream:{stream}", seconds), monotonic() + seconds, monotonic)

    def lasting(self, seconds: float) -> "HeldLease":
        """Return this lease, lasting `seconds` from now. Renew it in Redis to that length afterwards."""
        return replace(self, lease=replace(self.lease, seconds=seconds), deadline=self.monotonic() + seconds)

    def check(self, effect: str, *, held: bool = True) -> None:
        """Raise LeaseExpired if the deadline has passed, or if we no longer hold the lease in Redis (`held`)."""
        if not held or self.monotonic() >= self.deadline:
            raise LeaseExpired(f"the lease ran out before the {effect}")


class LeaseExpired(Exception):
    """Our lease on the stream is over, so another replica may work on it."""


class NothingProven(Exception):
    """The answer of the barrier is no longer a proof. The message says why."""


@dataclass(frozen=True, slots=True)
class Fenced:
    """A stream behind our fence. It becomes Proven, or the fence is removed."""

    inspection: Inspection
    raw: Raw
    """The server's answer to STREAM.INFO behind the fence."""
    fence: Fence | None
    """None for a sealed stream: it accepts no messages and needs no fence."""
    asked_at: float
    """When `raw` was requested (s, monotonic clock)."""

    @classmethod
    def as_found(cls, inspection: Inspection) -> "Fenced":
        """Return the state of a stream that is sealed, or that already had a fence when it was inspected."""
        return cls(inspection, inspection.raw, inspection.stream.fence, inspection.asked_at)

    def is_as_judged(self) -> bool:
        """Return whether this is still the stream that was judged, with the same metadata.

        The metadata could protect it, or set how long to keep it.
        """
        return _identity(self.raw) == _identity(self.inspection.raw)


def _identity(raw: Raw) -> tuple[object, ...]:
    config = raw["config"]
    metadata = (config.get("metadata") or {}).items()
    theirs = {key: value for key, value in metadata if key not in FENCE_KEYS and not key.startswith("_nats.")}
    return raw.get("created"), bool(config.get("sealed")), theirs


@dataclass(frozen=True, slots=True)
class Proven:
    """A fenced stream that the barrier has proven to be unchanged since its inspection. Only this may be deleted."""

    behind: Fenced


def empty_settlement(target: Target, outcome: Outcome, reason: Reason, detail: str | None = None) -> Settlement:
    """Return a settlement of a stream that could not be read."""
    return Settlement(outcome, reason, Stream(target.name, target.job_id, 0, created=target.created), detail=detail)


def unreachable_settlement(target: Target, error: JetStreamError) -> Settlement:
    """Return the settlement of a stream that did not answer: it is kept."""
    return empty_settlement(target, Outcome.KEPT, Reason.UNKNOWN, f"could not be read: {error}")


def held_back(settlement: Settlement, pause: Pause) -> Settlement:
    """Return the settlement of a zombie that an operator's pause keeps."""
    return replace(settlement, outcome=Outcome.WAITING, reason=Reason.PAUSED, until=pause.until, detail=str(pause))


def with_source_name(settlement: Settlement, topology: Topology) -> Settlement:
    """Return the settlement, with the name of the stream that mirrors or sources this one if that prevents a fence."""
    other = topology.sourced_by.get(settlement.stream.name)
    if settlement.reason is not Reason.NOT_FENCEABLE or settlement.detail or other is None:
        return settlement
    return replace(settlement, detail=f"stream {other} mirrors or sources it")
