"""The JSON that leaves the process, by `--json`, the HTTP API and the audit: each shape once.

Times are RFC 3339 in UTC. Keys are the contract's: none is renamed or taken away.
"""

from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict


class StreamRow(TypedDict):
    """One job stream with its verdict; None is "not known" or "not asked"."""

    stream: str
    job_id: str
    verdict: str
    reason: str
    status: str | None
    age_s: float | None
    terminal_at: str | None
    until: str | None
    messages: int | None
    redelivered: int | None
    detail: str | None
    rule: str
    """By which rule it is judged; `default` for the settings, `stream` for its own metadata."""
    exhausted: NotRequired[bool]
    """Its job is live, but its last messages were given up (max_deliver)."""


class PassInShort(TypedDict):
    """A pass without its streams."""

    checked: int
    fixed: int
    unfixable: int
    already_gone: int
    kept: int
    waiting: int
    dry_run: bool
    breaker: str | None
    error: str | None
    started_at: str
    duration_s: float


class Pass(PassInShort):
    """A pass: what `reconcile --json` prints."""

    streams: list[StreamRow]


class Streams(TypedDict):
    """Every job stream."""

    at: str
    error: str | None
    streams: list[StreamRow]


class CoverageTold(TypedDict):
    """For whose jobs the ledger can vouch."""

    since: str | None
    gap: str | None


class CoverageOfAll(CoverageTold):
    """If `complete`, absence from the ledger means something."""

    complete: bool


class CoverageOfOne(CoverageTold):
    """If not `intact`, history was lost."""

    intact: bool


class Counts(TypedDict):
    """Job streams, counted as passes and sweeps have left them; None and empty before the first full pass."""

    job_streams: int | None
    verdicts: dict[str, int]
    reasons: dict[str, int]
    live: int | None
    waiting: int | None
    zombies: int | None
    oldest_zombie_s: float | None


class PauseJson(TypedDict):
    """Who has paused deleting, why, since when, and until when; None for until it is resumed."""

    by: str
    reason: str
    since: str
    until: str | None


class Measures(Counts):
    """What all replicas see alike."""

    at: str
    error: str | None
    """Why the last full pass broke off."""
    nats_error: str | None
    """Why NATS could not be asked; None if it answered. Then lag and pause are unknown."""
    nats_away_since: str | None
    """Since when the workers have no connection to NATS; None if they have one."""
    workers: int
    """Workers that are alive."""
    exhausted: int
    """Streams of live jobs whose last messages were given up (max_deliver)."""
    coverage: CoverageOfAll
    lag: int | None
    pause: PauseJson | None
    """None if deleting is not paused."""
    last_reconcile: PassInShort | None


class Status(Measures):
    """One screen's worth."""

    notice: str | None
    """A line that says by whose settings this was judged, if not by the shell's own, or if no worker is alive."""
    deletes: bool
    """Whether a worker is alive, may delete, and no operator has paused deleting."""
    action: str
    """`delete`, or `report`: nothing is deleted."""
    would_drain: "ReportedEnds | None"
    """In report mode alone."""
    drained_today: int
    bytes_reclaimed: int
    version: str
    started_at: str
    deletes_paused: str | None
    breaker: str | None
    due: int
    next_due_s: float | None
    dead_letters: int | None


class WorkerJson(TypedDict):
    """A worker that is alive."""

    instance: str
    host: str
    version: str
    since: str
    policy: dict[str, Any]
    directory: str
    nats: str
    redis: str
    policy_file: str | None
    policy_sha256: str | None
    deletes_paused: str | None
    nats_away_since: str | None
    seen_s: float
    deletes: bool
    """Whether it deletes zombies now."""


class Workers(TypedDict):
    """The workers that are alive."""

    at: str
    differ: list[str]
    """The settings in which they differ; empty if they agree."""
    versions: list[str]
    workers: list[WorkerJson]


@dataclass(frozen=True, slots=True)
class ScheduledDeletion:
    """What `reactor.scheduled.<stream>` tells: a stream was condemned, and falls unless somebody keeps it."""

    stream: str
    job_id: str
    status: str | None
    """Of the job's last event; None if the job does not exist."""
    reason: str
    """`terminal` or `missing`."""
    rule: str
    due_at: str
    """When its last guard passes; later if it is used meanwhile."""
    messages: int | None
    keep: str
    """How to keep it."""
    by: str
    at: str


class RuleJson(TypedDict):
    """A retention rule, with what the settings add to it."""

    name: str
    streams: list[str]
    status: list[str]
    metadata: dict[str, str]
    guards_s: dict[str, float]
    sets: list[str]
    """What the rule itself sets."""
    protect: bool
    action: str
    backup: str
    matches: int
    """Streams that it matches now."""


class WorkerRules(TypedDict):
    """Which file of rules a worker runs with; None if it has none."""

    instance: str
    file: str | None
    sha256: str | None


class Rules(TypedDict):
    """The retention rules in force."""

    at: str
    notice: str | None
    rules: list[RuleJson]
    unmatched: list[str]
    by_default: int
    """Streams that no rule matches."""
    by_their_metadata: int
    """Streams with times of their own."""
    workers: list[WorkerRules]


class Entry(TypedDict):
    """One of the audit. Which keys there are depends on its phase (see `store/audit`)."""

    key: str
    phase: str
    stream: str
    job_id: str
    reason: str
    by: str
    at: str
    token: NotRequired[str]
    created: NotRequired[str]
    status: NotRequired[str]
    messages: NotRequired[int]
    size: NotRequired[int]
    outcome: NotRequired[str]
    detail: NotRequired[str]
    actor: NotRequired[dict[str, Any]]
    event: NotRequired[dict[str, Any] | None]
    directory: NotRequired[dict[str, Any] | None]
    guards: NotRequired[list[dict[str, Any]] | None]
    rule: NotRequired[str]
    proof: NotRequired[str]
    backup: NotRequired[str]
    made_of: NotRequired[str]
    """JSON: what it takes to make the stream again. Of an intent alone."""
    attempts: NotRequired[int]
    retry_s: NotRequired[float | None]
    afterwards_at: NotRequired[str]


class History(TypedDict):
    """What came of deletions, newest first."""

    entries: list[Entry]


class ListedRow(StreamRow):
    """One of `reactor streams`."""

    bytes: int
    created: str | None
    due_at: str | None
    """Since when it is due, or when it will be as things stand; None if nothing says so."""


class Listed(TypedDict):
    """Every job stream with its verdict now."""

    at: str
    notice: str | None
    """As in a status."""
    total: int
    """Job streams, also those that were not asked for."""
    others: int
    """Streams of the account that do not match the pattern, without reactor's own."""
    streams: list[ListedRow]


class Happened(TypedDict):
    """One thing that happened to a stream or was said of its job."""

    at: str
    what: str
    by: str | None


class Restorable(TypedDict):
    """How a stream can be brought back: with so many messages, or without those that are lost.

    A backup on another machine is shown as `host:folder`: copy it here, and use --from.
    """

    command: str
    backup: str | None
    messages: int
    lost: int


class Gone(TypedDict):
    """All that is known of a stream that is not there."""

    stream: str
    job_id: str
    verdict: str
    """`already_gone` if reactor has deleted it, else `no_stream`."""
    known: str
    """`deleted`, `heard_of` (it or its job), or `never_heard_of`."""
    at: str
    sentence: str
    restorable: Restorable | None
    timeline: list[Happened]
    """Oldest first."""


class LastKnown(TypedDict):
    """What Redis knows about a stream while NATS is away."""

    stream: str
    job_id: str
    at: str
    sentence: str
    nats_error: str
    last: StreamRow | None
    """As it was found last; None if it was not found."""
    timeline: list[Happened]


class WouldDrain(TypedDict):
    """A stream that would have been deleted, and what has become of it."""

    stream: str
    job_id: str
    reason: str
    status: str | None
    created: str | None
    messages: int
    size: int
    at: str
    afterwards: str
    """`still there`, `deleted` (by others) or `retried`."""
    afterwards_at: str | None


class ReportedEnds(TypedDict):
    """How many streams report mode would have deleted, and how many of them came to which end."""

    total: int
    afterwards: dict[str, int]


class WouldDrains(TypedDict):
    """What report mode has found, newest first, and how many there are of each end."""

    total: int
    afterwards: dict[str, int]
    entries: list[WouldDrain]


class LeakRow(TypedDict):
    """How many streams the ends of jobs with this status left behind, by the hour of the day (UTC)."""

    status: str
    drained: int
    hours: list[int]


class Leaks(TypedDict):
    """Which statuses leave zombies behind, and when."""

    total: int
    statuses: list[LeakRow]


class Point(TypedDict):
    """Counts at a time, and drains by reason since the point before."""

    at: str
    verdicts: dict[str, int]
    drained: dict[str, int]


class Timeline(TypedDict):
    """Counts over time, one point every `step_s`."""

    step_s: float
    points: list[Point]


class GuardTold(TypedDict):
    """A guard of the policy on this stream."""

    guard: str
    length_s: float
    passes_at: str
    passed: bool


class StatusEventJson(TypedDict):
    """One lifecycle event."""

    status: str
    occurred_at: str
    published_at: str
    seq: int


class Dispute(TypedDict):
    """The last events by either order, if they disagree."""

    by_time: StatusEventJson
    by_sequence: StatusEventJson


class StreamEvidence(TypedDict):
    """What the server says of the stream."""

    created: str | None
    subjects: list[str] | None
    messages: int
    bytes: int
    last_publish: str | None
    fenced: bool


class ConsumerEvidence(TypedDict):
    """What the server says of a consumer."""

    name: str | None
    pending: int | None
    ack_pending: int | None
    redelivered: int | None
    delivered: int | None
    ack_floor: int | None
    last_active: str | None


class DirectoryTold(TypedDict):
    """What the job system's own directory says of the job."""

    status: str
    ended_at: str | None


class Evidence(TypedDict):
    """All that a verdict was made of."""

    directory: DirectoryTold | None
    record: StatusEventJson | None
    last_event: StatusEventJson | None
    disputed: Dispute | None
    coverage: CoverageOfOne
    stream: StreamEvidence
    consumers: list[ConsumerEvidence]
    advisories: dict[str, int]


class Explanation(StreamRow):
    """The verdict on one stream, and why."""

    at: str
    notice: NotRequired[str | None]
    """As in a status."""
    sentence: str
    changes: str
    guards: list[GuardTold]
    evidence: Evidence
