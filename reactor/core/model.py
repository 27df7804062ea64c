"""The words of the domain as frozen values: streams, records, verdicts, settlements.

Laws of this module:

* Time is data. An instant is an `int`: nanoseconds since 1970 UTC, as the server wrote it. It keeps the
  order of nanosecond timestamps, which `datetime` (microseconds) does not. A span is nanoseconds, too.
* Nothing here reads a clock, does I/O or decides anything (deciding is `reactor.policy`).
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
    """Return an instant as RFC 3339 without its fraction: nanoseconds are not for people."""
    return format_instant(instant // SECOND * SECOND)


@lru_cache(maxsize=1024)
def _seconds(text: str) -> int:
    """Return the seconds since 1970. A listing has the same text in thousands of entries, so it is cached."""
    whole = datetime.fromisoformat(text) - _EPOCH
    return whole.days * 86_400 + whole.seconds


def format_instant(instant: int) -> str:
    """Return the RFC 3339 text of an instant, in UTC with `Z`, without trailing zeros in the fraction."""
    seconds, fraction = divmod(instant, SECOND)
    return f"{_text(seconds)}.{fraction:09d}".rstrip("0").rstrip(".") + "Z"


@lru_cache(maxsize=1024)
def _text(seconds: int) -> str:
    """Return what `_seconds` reads."""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat().removesuffix("+00:00")


def nanoseconds(span: timedelta) -> int:
    """Return the span in nanoseconds, exact."""
    return span // timedelta(microseconds=1) * 1_000


UNREADABLE = "?"
"""The status of a job whose last event could not be read: it exists, and nobody may call it terminal."""


@lru_cache(maxsize=1024)
def fold(status: str) -> str:
    """Return a status as it is compared: ASCII letters in upper case, and only those."""
    return status.encode("utf-8", "surrogatepass").upper().decode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True, order=True)
class StatusEvent:
    """What one lifecycle event says of its job. Words compare by `occurred_at`, then by the event's stream sequence."""

    occurred_at: int
    """By the emitter's clock, clamped to `published_at`; `published_at` itself if the emitter left it out."""
    seq: int
    status: str = field(compare=False)
    published_at: int = field(compare=False)
    """By the clock of the server that stored the event."""
    source: str | None = field(default=None, compare=False)
    """Who says so, if the emitter tells and the event was just read: the ledger does not keep it."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one job: its last word by either order. Emitters' clocks differ, and late news comes last."""

    latest: StatusEvent
    """The last one by `occurred_at`."""
    last: StatusEvent
    """The last one by stream sequence."""

    @classmethod
    def of(cls, *events: StatusEvent) -> "Record":
        """Return the record of these events, in whatever order they come. Raises ValueError if there are none."""
        return cls(max(events), max(events, key=lambda event: event.seq))

    def merged(self, other: "Record | None") -> "Record":
        """Return what both know together."""
        return self if other is None else Record.of(self.latest, self.last, other.latest, other.last)

    @property
    def status(self) -> str:
        """The one to show: that of the latest word."""
        return self.latest.status

    @property
    def occurred_at(self) -> int:
        """Since when it has that status."""
        return self.latest.occurred_at

    @property
    def heard_at(self) -> int:
        """When the last of its words was spoken, by whichever clock says so later."""
        return max(self.latest.published_at, self.last.published_at)


@dataclass(frozen=True, slots=True)
class Event:
    """A lifecycle event that was read: the job and what it says of it."""

    job_id: str
    status_event: StatusEvent
    remark: str | None = None
    """What is odd about it, though it counts."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """A lifecycle message that could not be read. `job_id` is None if its subject names no job."""

    job_id: str | None
    status_event: StatusEvent
    reason: str


@dataclass(frozen=True, slots=True)
class DirectoryStatus:
    """What the job system's own directory says of a job."""

    status: str
    ended_at: int | None = None
    """Since when it has that status, if it is over and the directory tells."""


@dataclass(frozen=True, slots=True)
class Fence:
    """A stream's subjects taken away for a deletion: whose (`token`), until when, and what to give back."""

    token: str
    until: int
    subjects: tuple[str, ...]
    """The original subjects; empty if the metadata that holds them cannot be read."""
    lifted: dict[str, Any] = field(default_factory=dict, hash=False)
    """Further original values of the stream's config, which would keep the barrier from being answered."""


@dataclass(frozen=True, slots=True)
class Consumers:
    """What a stream's consumers show together."""

    last_active: int | None
    """The last delivery or ack; None if there never was one."""
    redelivered: int
    unchanged_since: int | None = None
    """Since when nothing about them has changed: their creation, their activity, and the first sighting of it all."""


@dataclass(frozen=True, slots=True)
class OwnTimes:
    """How long a stream asks to be kept, in its own metadata; spans and instants in ns."""

    terminal_grace: int | None = None
    age_guard: int | None = None
    keep_until: int | None = None
    unreadable: str | None = None
    """The entry that cannot be read, if there is one: then nobody knows how long."""


@dataclass(frozen=True, slots=True)
class Stream:
    """What the server said of one job stream in one answer."""

    name: str
    job_id: str
    observed_at: int
    """The server's own clock in that answer: the only `now` a verdict knows."""
    created: int | None = None
    """None if the server gave no readable time."""
    reported: bool = True
    """False if the server named the stream but could not report it whole."""
    protected: bool = False
    own: OwnTimes | None = None
    """None if it asks for nothing."""
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Its own metadata, without what the server and reactor have written there."""
    fenceable: bool = True
    """False for a mirror, and for a stream that another one mirrors or sources."""
    sealed: bool = False
    """It takes nothing in, and never will."""
    mirror_of: str | None = None
    fence: Fence | None = None
    counted: bool = True
    """False if only an advisory has told of the stream: then what it holds is not known."""
    messages: int = 0
    size: int = 0
    """Bytes of storage."""
    last_seq: int = 0
    last_publish: int | None = None
    consumers: Consumers | None = None
    """None if nobody has asked yet: it costs a request a stream, so only candidates are asked."""

    @property
    def keep_until(self) -> int | None:
        """Until when its own metadata keeps it, be that over or not; None if it says nothing of that."""
        return self.own.keep_until if self.own else None


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the ledger can vouch for: the absence of jobs whose stream was created at `since` or later."""

    intact: bool
    """False while the ledger has lost history: then nothing is drained at all."""
    since: int | None = None
    """None: it can vouch for nothing."""
    gap: str | None = None
    """Why it cannot vouch, and what to do, as text for a report."""

    def vouches_for(self, created: int) -> bool:
        """Return whether a job that the ledger does not know, with a stream of that age, does not exist."""
        return self.intact and self.since is not None and self.since <= created


class Reason(StrEnum):
    """Why a verdict is what it is: the same word in the log, the audit, the metrics and the report."""

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
    """Leave the stream alone; only an event or an operator changes that."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Wait:
    """Leave the stream alone until then, and look again."""

    reason: Reason
    until: int


@dataclass(frozen=True, slots=True)
class Drain:
    """The stream is a zombie."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Unfixable:
    """Nobody can tell, or nothing can be done: a person should look."""

    reason: Reason


Verdict = Keep | Wait | Drain | Unfixable


class Outcome(StrEnum):
    """What came of a verdict."""

    DRAINED = "drained"
    WOULD_DRAIN = "would_drain"
    ALREADY_GONE = "already_gone"
    KEPT = "kept"
    WAITING = "waiting"
    UNFIXABLE = "unfixable"


@dataclass(frozen=True, slots=True)
class Settlement:
    """What came of one stream, with the evidence."""

    outcome: Outcome
    reason: Reason
    stream: Stream
    record: Record | None = None
    until: int | None = None
    detail: str | None = None
    attempts: int = 0
    """How many in a row came to nothing, this one included."""
    retry_s: float | None = None
    """Seconds until the next attempt; None if none is planned before the next full pass."""
    backup: str | None = None
    """Of a drained stream: the machine and the folder of its backup."""
    late_s: float | None = None
    """Of a drained stream: seconds from when it fell due to when it was gone."""
