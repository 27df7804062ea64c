"""The JSON of `--json`, the HTTP API and the audit: each shape is defined once.

Times are RFC 3339 in UTC. The keys are part of the contract: none is renamed or removed.
"""

from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict


class StreamRow(TypedDict):
    """One job stream with its verdict. None means unknown, or not read."""

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
    """The rule it is judged by; `default` for the settings, `stream` for its own metadata."""
    exhausted: NotRequired[bool]
    """Its job is live, but its last messages were given up (max_deliver)."""


class PassSummary(TypedDict):
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


class Pass(PassSummary):
    """A pass: what `reconcile --json` prints."""

    streams: list[StreamRow]


class Streams(TypedDict):
    """Every job stream."""

    at: str
    error: str | None
    streams: list[StreamRow]


class CoverageJson(TypedDict):
    """For which jobs absence from the ledger counts."""

    since: str | None
    gap: str | None


class CoverageOfAll(CoverageJson):
    """Coverage for a status. If it is `complete`, absence from the ledger counts."""

    complete: bool


class CoverageOfOne(CoverageJson):
    """Coverage for one stream. If it is not `intact`, history was lost."""

    intact: bool


class Counts(TypedDict):
    """Job streams counted from the states that passes and sweeps stored; None and empty before the first full pass."""

    job_streams: int | None
    verdicts: dict[str, int]
    reasons: dict[str, int]
    live: int | None
    waiting: int | None
    zombies: int | None
    oldest_zombie_s: float | None


class PauseJson(TypedDict):
    """An operator's pause. `until` is None if it lasts until it is resumed."""

    by: str
    reason: str
    since: str
    until: str | None


class Measures(Counts):
    """Figures that are the same for all replicas."""

    at: str
    error: str | None
    """Why the last full pass was aborted."""
    nats_error: str | None
    """Why NATS could not be asked; None if it answered. Then lag and pause are unknown."""
    nats_away_since: str | None
    """When the workers lost their connection to NATS; None if they have one."""
    workers: int
    """Workers that are alive."""
    exhausted: int
    """Streams of live jobs whose last messages were given up (max_deliver)."""
    coverage: CoverageOfAll
    lag: int | None
    pause: PauseJson | None
    """None if deleting is not paused."""
    last_reconcile: PassSummary | None


class Status(Measures):
    """The output of `status`."""

    notice: str | None
    """Whose settings this was judged by, if not by the shell's own; or that no worker is alive."""
    deletes: bool
    """Whether zombies are deleted now: a worker is alive and may delete, and deleting is not paused."""
    action: str
    """`delete`, or `report`: nothing is deleted."""
    would_drain: "ReportTotals | None"
    """Only in report mode."""
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
    """The event `reactor.scheduled.<stream>`: a stream will be deleted unless somebody protects it."""

    stream: str
    job_id: str
    status: str | None
    """The status in the job's last event; None if the job does not exist."""
    reason: str
    """`terminal` or `missing`."""
    rule: str
    due_at: str
    """When its last guard passes. It is later if the stream is used meanwhile."""
    messages: int | None
    keep: str
    """The command that keeps it."""
    by: str
    at: str


class RuleJson(TypedDict):
    """A retention rule, completed with the settings."""

    name: str
    streams: list[str]
    status: list[str]
    metadata: dict[str, str]
    guards_s: dict[str, float]
    sets: list[str]
    """The guards and options that the rule itself sets."""
    protect: bool
    action: str
    backup: str
    matches: int
    """How many streams it matches now."""


class WorkerRules(TypedDict):
    """The file of rules that a worker uses; None if it has none."""

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
    """How many streams no rule matches."""
    by_their_metadata: int
    """How many streams have retention times in their own metadata."""
    workers: list[WorkerRules]


class Entry(TypedDict):
    """An entry of the audit. Its keys depend on its phase (see `store/audit`)."""

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
    """JSON: the recipe to create the stream again. Only an intent has it."""
    attempts: NotRequired[int]
    retry_s: NotRequired[float | None]
    afterwards_at: NotRequired[str]


class History(TypedDict):
    """The audit trail, newest first."""

    entries: list[Entry]


class ListedRow(StreamRow):
    """A row of `reactor streams`."""

    bytes: int
    created: str | None
    due_at: str | None
    """When it fell due or will fall due, if nothing changes; None if unknown."""


class Listed(TypedDict):
    """Every job stream with its verdict now."""

    at: str
    notice: str | None
    """See `Status.notice`."""
    total: int
    """The number of job streams, including those that were filtered out."""
    others: int
    """The number of streams in the account that do not match the pattern, without reactor's own."""
    streams: list[ListedRow]


class Happened(TypedDict):
    """One line of a timeline: an action on a stream, or an event of its job."""

    at: str
    what: str
    by: str | None


class Restorable(TypedDict):
    """How a stream can be restored: with `messages` of them, or without those that are `lost`.

    A backup on another machine is shown as `host:folder`. Copy it to this machine and use --from.
    """

    command: str
    backup: str | None
    messages: int
    lost: int


class Gone(TypedDict):
    """All that is known of a stream that does not exist."""

    stream: str
    job_id: str
    verdict: str
    """`already_gone` if reactor deleted it, else `no_stream`."""
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
    """Its last stored state; None if there is none."""
    timeline: list[Happened]


class WouldDrain(TypedDict):
    """A zombie that report mode kept, and what happened to it afterwards."""

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


class ReportTotals(TypedDict):
    """How many zombies report mode kept, and what happened to them afterwards."""

    total: int
    afterwards: dict[str, int]


class WouldDrains(TypedDict):
    """The zombies that report mode kept, newest first, with totals."""

    total: int
    afterwards: dict[str, int]
    entries: list[WouldDrain]


class LeakRow(TypedDict):
    """How many zombies jobs with this final status left behind, by the hour of the day (UTC)."""

    status: str
    drained: int
    hours: list[int]


class Leaks(TypedDict):
    """Zombies by the final status of their jobs and the hour of the day."""

    total: int
    statuses: list[LeakRow]


class Point(TypedDict):
    """Counts at one time, and drains by reason since the previous point."""

    at: str
    verdicts: dict[str, int]
    drained: dict[str, int]


class Timeline(TypedDict):
    """Counts over time, one point every `step_s`."""

    step_s: float
    points: list[Point]


class GuardJson(TypedDict):
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
    source: str | None
    """The emitter, if the event names one. The ledger does not store it."""


class Dispute(TypedDict):
    """The last events by either order, if they disagree."""

    by_time: StatusEventJson
    by_sequence: StatusEventJson


class StreamEvidence(TypedDict):
    """The stream, as the server describes it."""

    created: str | None
    subjects: list[str] | None
    messages: int
    bytes: int
    last_publish: str | None
    fenced: bool


class ConsumerEvidence(TypedDict):
    """A consumer, as the server describes it."""

    name: str | None
    pending: int | None
    ack_pending: int | None
    redelivered: int | None
    delivered: int | None
    ack_floor: int | None
    last_active: str | None


class DirectoryJson(TypedDict):
    """The job, as the job system's directory describes it."""

    status: str
    ended_at: str | None


class Evidence(TypedDict):
    """Everything that a verdict is based on."""

    directory: DirectoryJson | None
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
    """See `Status.notice`."""
    sentence: str
    changes: str
    guards: list[GuardJson]
    evidence: Evidence
