"""The domain model as frozen values: streams, records, verdicts, settlements.

Laws of this module:

* Time is data. An instant is an `int`: nanoseconds since 1970 UTC, as the server wrote it. It keeps the
  order of nanosecond timestamps, which `datetime` (microseconds) does not. A span is nanoseconds, too.
* Nothing here reads a clock, does I/O or decides anything. Decisions are in `core.policy`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any

SECOND = 1_000_000_000
"""Nanoseconds in a second."""

AUDIT_ENTRIES = 10_000
"""How many entries the audit keeps."""

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_instant(text: str) -> int:
    """Return nanoseconds since 1970 UTC of an RFC 3339 time. Raises ValueError, also if the offset is left out."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is not an RFC 3339 time such as 2026-01-31T12:00:00Z")
    date, clock, fraction, offset = match.groups()
    return _seconds(f"{date}T{clock}{offset.upper()}") * SECOND + int((fraction or "")[:9].ljust(9, "0"))


def to_the_second(instant: int) -> str:
    """Return an instant as RFC 3339, cut to whole seconds."""
    return format_instant(instant // SECOND * SECOND)


@lru_cache(maxsize=1024)
def _seconds(text: str) -> int:
    """Return the seconds since 1970. Cached, because a listing repeats the same text in thousands of entries."""
    whole = datetime.fromisoformat(text) - _EPOCH
    return whole.days * 86_400 + whole.seconds


def format_instant(instant: int) -> str:
    """Return the RFC 3339 text of an instant, in UTC with `Z`, without trailing zeros in the fraction."""
    seconds, fraction = divmod(instant, SECOND)
    return f"{_text(seconds)}.{fraction:09d}".rstrip("0").rstrip(".") + "Z"


@lru_cache(maxsize=1024)
def _text(seconds: int) -> str:
    """Return the time as text that `_seconds` can read."""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat().removesuffix("+00:00")


def nanoseconds(span: timedelta) -> int:
    """Return the span in nanoseconds, without rounding."""
    return span // timedelta(microseconds=1) * 1_000


def delay_until(until: int, observed_at: int) -> float:
    """Return the seconds from the server's time `observed_at` to `until` (both ns). No worker clock is needed."""
    return max(0.0, (until - observed_at) / SECOND)


UNREADABLE = "?"
"""The status of a job whose last event could not be read. The job exists, and it never counts as terminal."""


@lru_cache(maxsize=1024)
def fold(status: str) -> str:
    """Return a status in the form in which statuses are compared: ASCII letters in upper case, all else unchanged."""
    return status.encode("utf-8", "surrogatepass").upper().decode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True, order=True)
class StatusEvent:
    """The status of a job in one lifecycle event. Events compare by `occurred_at`, then by stream sequence."""

    occurred_at: int
    """By the emitter's clock, clamped to `published_at`; `published_at` itself if the emitter left it out."""
    seq: int
    status: str = field(compare=False)
    published_at: int = field(compare=False)
    """By the clock of the server that stored the event."""
    source: str | None = field(default=None, compare=False)
    """The emitter, if the event names one. The ledger does not store it, so only a fresh event has it."""


@dataclass(frozen=True, slots=True)
class Record:
    """The last event of one job, by time and by sequence. They differ if clocks differ or events come late."""

    latest: StatusEvent
    """The last one by `occurred_at`."""
    last: StatusEvent
    """The last one by stream sequence."""

    @classmethod
    def of(cls, *events: StatusEvent) -> "Record":
        """Return the record of these events, given in any order. Raises ValueError if there are none."""
        return cls(max(events), max(events, key=lambda event: event.seq))

    def merged(self, other: "Record | None") -> "Record":
        """Return the record of the events of both."""
        return self if other is None else Record.of(self.latest, self.last, other.latest, other.last)

    @property
    def status(self) -> str:
        """The status to show: that of the latest event by time."""
        return self.latest.status

    @property
    def occurred_at(self) -> int:
        """When the job got that status."""
        return self.latest.occurred_at

    @property
    def last_published_at(self) -> int:
        """When the newer of its two events was stored, by the server's clock."""
        return max(self.latest.published_at, self.last.published_at)


@dataclass(frozen=True, slots=True)
class Event:
    """A lifecycle event that was read: the job and its status."""

    job_id: str
    status_event: StatusEvent
    remark: str | None = None
    """A problem with the event that does not invalidate it, such as an unreadable time."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """A lifecycle message that could not be read. `job_id` is None if its subject names no job."""

    job_id: str | None
    status_event: StatusEvent
    reason: str


@dataclass(frozen=True, slots=True)
class DirectoryStatus:
    """The status of a job in the job system's own directory."""

    status: str
    ended_at: int | None = None
    """When the job ended, if it has ended and the directory knows."""


@dataclass(frozen=True, slots=True)
class Fence:
    """A fence on a stream: the deletion that set it (`token`), when it expires (ns), and what to restore."""

    token: str
    until: int
    subjects: tuple[str, ...]
    """The original subjects; empty if the metadata that holds them cannot be read."""
    lifted: dict[str, Any] = field(default_factory=dict, hash=False)
    """Original values of further config fields, lifted because the barrier would get no answer with them."""


@dataclass(frozen=True, slots=True)
class Consumers:
    """The state of all consumers of a stream, combined."""

    last_active: int | None
    """The last delivery or ack (ns); None if there never was one."""
    redelivered: int
    unchanged_since: int | None = None
    """The latest of their creation, their activity, and the time when these figures were first seen (ns)."""


@dataclass(frozen=True, slots=True)
class OwnTimes:
    """The retention times in a stream's own metadata; spans and instants in ns."""

    terminal_grace: int | None = None
    age_guard: int | None = None
    keep_until: int | None = None
    unreadable: str | None = None
    """The entry that cannot be read, if there is one. Then the retention is unknown."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A job stream, as the server described it in one answer."""

    name: str
    job_id: str
    observed_at: int
    """The server's clock in that answer (ns). It is the only `now` that a verdict uses."""
    created: int | None = None
    """None if the server gave no readable time."""
    reported: bool = True
    """False if the server named the stream but could not report it whole."""
    protected: bool = False
    own: OwnTimes | None = None
    """None if its metadata has no retention times."""
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Its metadata, without the keys of the server and of reactor."""
    fenceable: bool = True
    """False for a mirror, and for a stream that another one mirrors or sources."""
    sealed: bool = False
    """It accepts no messages, and this cannot be undone."""
    mirror_of: str | None = None
    fence: Fence | None = None
    counted: bool = True
    """False if the stream is known from an advisory alone. Then its number of messages is unknown."""
    messages: int = 0
    size: int = 0
    """Bytes of storage."""
    last_seq: int = 0
    last_publish: int | None = None
    consumers: Consumers | None = None
    """None if they were not read. Reading costs a request for each stream, so only candidates are read."""

    @property
    def keep_until(self) -> int | None:
        """The `keep-until` of its own metadata (ns), in the past or in the future; None if it has none."""
        return self.own.keep_until if self.own else None


@dataclass(frozen=True, slots=True)
class Coverage:
    """For which jobs absence from the ledger counts: those whose stream was created at `since` or later."""

    intact: bool
    """False if the ledger has lost history. Then nothing is drained."""
    since: int | None = None
    """None if absence counts for no job."""
    gap: str | None = None
    """Why absence does not count, and what to do, as text for a report."""

    def vouches_for(self, created: int) -> bool:
        """Return whether a job that is not in the ledger does not exist. `created` is its stream's time (ns)."""
        return self.intact and self.since is not None and self.since <= created


class Reason(StrEnum):
    """The reason of a verdict. Log, audit, metrics and reports use these values."""

    PROTECTED = "protected"
    RETENTION_UNREADABLE = "retention-unreadable"
    UNREPORTED = "unreported"
    FENCED = "fenced"
    FENCE_UNREADABLE = "fence-unreadable"
    CREATED_UNREADABLE = "created-unreadable"
    RUNNING = "running"
    DISPUTED = "disputed"
    FRESH = "fresh"
    GRACE = "grace"
    ACTIVE = "active"
    TERMINAL = "terminal"
    MISSING = "missing"
    UNKNOWN = "unknown"
    NOT_FENCEABLE = "not-fenceable"
    DELETES_PAUSED = "deletes-paused"
    PAUSED = "paused"
    OUTCOME_UNKNOWN = "outcome-unknown"
    REFUSED = "refused"
    BACKUP_FAILED = "backup-failed"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Keep:
    """Keep the stream. Only an event or an operator can change this."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Wait:
    """Keep the stream until then, and inspect it again."""

    reason: Reason
    until: int


@dataclass(frozen=True, slots=True)
class Drain:
    """The stream is a zombie."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Unfixable:
    """Keep the stream: its state is unknown or cannot be changed, and a person must look."""

    reason: Reason


Verdict = Keep | Wait | Drain | Unfixable


class Outcome(StrEnum):
    """The result of a verdict."""

    DRAINED = "drained"
    WOULD_DRAIN = "would_drain"
    ALREADY_GONE = "already_gone"
    KEPT = "kept"
    WAITING = "waiting"
    UNFIXABLE = "unfixable"


@dataclass(frozen=True, slots=True)
class Settlement:
    """The result for one stream, with the evidence."""

    outcome: Outcome
    reason: Reason
    stream: Stream
    record: Record | None = None
    until: int | None = None
    detail: str | None = None
    attempts: int = 0
    """How many attempts in a row have failed, including this one."""
    retry_s: float | None = None
    """Seconds until the next attempt; None if none is planned before the next full pass."""
    backup: str | None = None
    """The address of the backup of a drained stream."""
    late_s: float | None = None
    """Seconds from when a drained stream fell due to when it was deleted."""
