"""What reactor did, what it will do next, and why: read only, for the commands, the HTTP endpoint and the page."""

import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

from reactor.core.explain import changes, sentence, would_be
from reactor.core.model import SECOND, Drain, Reason, StatusEvent, format_instant
from reactor.core.pause import Pause
from reactor.core.policy import Policy, guards_of
from reactor.core.report import describe
from reactor.core.schemas import (
    ConsumerEvidence,
    Evidence,
    Explanation,
    Gone,
    Measures,
    Point,
    Status,
    StatusEventJson,
    Streams,
    Timeline,
)
from reactor.core.stream_info import Raw
from reactor.deletion.inspection import inspect
from reactor.deletion.resources import Resources
from reactor.deletion.states import Inspection, Target, with_source_name
from reactor.jetstream.errors import NotFound
from reactor.jetstream.topology import DEAD_LETTERS, Topology, topology_of
from reactor.job_status.ledger_directory import Snapshot
from reactor.operate.counts import StreamCounts
from reactor.operate.deleted_streams import DeletedStreams
from reactor.operate.history import DAY_CHARS, Trail

FRESH_S = 2.0
"""How long what was on its way at the look before may stay unread before it counts as a gap."""
STEP_S = 60.0
STEPS = 24 * 60
MINUTE_CHARS = len("2026-01-31T12:00")


class NoJobStream(Exception):
    """The stream that was asked for is none of the job streams."""

    def __init__(self, name: str, policy: Policy) -> None:
        """`policy` says what would be one."""
        super().__init__(f"{name!r} is no job stream: its name does not match {policy.pattern.pattern}")


class NoSuchStream(Exception):
    """It could be a job stream, and is not there."""

    def __init__(self, gone: Gone) -> None:
        """`gone` is all that is known of it."""
        super().__init__(gone["sentence"])
        self.gone = gone


@dataclass(eq=False, repr=False)
class Overview:
    """Answers about streams, passes and the ledger. Methods raise JetStreamError and LedgerError.

    `deleted` answers about streams that do not exist.
    """

    deps: Resources
    deleted: DeletedStreams

    def __post_init__(self) -> None:
        self.trail = Trail(self.deps.recorder.audit)
        self._census = StreamCounts(self.deps.ledger.stream_states, self.deps.policy)
        self._started_at = self.deps.clock()
        self._points: deque[Point] = deque(maxlen=STEPS)
        self._last_seqs: deque[int] = deque(maxlen=2)
        """If the lifecycle stream ended when it was looked at, the older one first."""
        self._looked_at = float("-inf")

    @property
    def paused(self) -> str | None:
        """Why nothing is deleted by this process, if that is so."""
        return self.deps.rights.paused

    async def pause(self) -> Pause | None:
        """Return the operator's active pause; in report mode there is nothing to pause."""
        return await self.deps.pause_gate.active_pause() if self.deps.policy.deletes else None

    def now(self) -> str:
        """Return the time by this process's clock, for people."""
        return format_instant(self.deps.clock())

    async def reach(self) -> None:
        """Raise if NATS or Redis is away, or if the lifecycle stream or its durable is gone."""
        await self.deps.directory.take_snapshot()

    async def streams(self) -> Streams:
        """Return every job stream with its verdict, as last found."""
        last, rows = await self.deps.ledger.passes.last(), await self._census.rows()
        return {
            "at": format_instant(self.deps.clock()),
            "error": last["error"] if last else None,
            "streams": [describe(item, self.deps.policy) for item in rows],
        }

    async def status(self) -> Status:
        """Return one screen's worth: counts, ledger, queue, the last full pass."""
        measures, drained = await self.measure(), await self.trail.drains()
        today = format_instant(self.deps.clock())[:DAY_CHARS]
        last = measures["last_reconcile"]
        return {
            **measures,
            "action": "delete" if self.deps.policy.deletes else "report",
            "would_drain": None if self.deps.policy.deletes else await self.trail.report_mode_totals(),
            "drained_today": sum(entry["at"].startswith(today) for entry in drained),
            "bytes_reclaimed": sum(entry.get("size", 0) for entry in drained),
            "version": version("jetstream-reactor"),
            "started_at": format_instant(self._started_at),
            "deletes_paused": self.paused,
            "breaker": last["breaker"] if last else None,
            "due": await self.deps.ledger.due.count(),
            "next_due_s": await self.deps.ledger.due.next_due(),
            "dead_letters": await self._dead_letter_count(),
        }

    async def measure(self) -> Measures:
        """Return what all replicas see alike: streams by verdict, ledger, the last full pass."""
        counts, snapshot = await self._census.counts(), await self._look_around()
        coverage, _ = await self.deps.directory.read_jobs(snapshot)
        last_pass, pause = await self.deps.ledger.passes.last(), await self.pause()
        return {
            **counts,
            "at": format_instant(self.deps.clock()),
            "error": last_pass["error"] if last_pass else None,
            "coverage": {
                "complete": coverage.intact and coverage.gap is None,
                "since": None if coverage.since is None else format_instant(coverage.since),
                "gap": coverage.gap,
            },
            "lag": snapshot.lifecycle.behind,
            "pause": pause.as_dict() if pause else None,
            "last_reconcile": last_pass,
        }

    async def _look_around(self) -> Snapshot:
        """Take a snapshot that forgives unread events of the last moment: some always are on their way."""
        snapshot = await self.deps.directory.take_snapshot(self._last_seqs[0] if self._last_seqs else None)
        if time.monotonic() - self._looked_at > FRESH_S:
            self._last_seqs.append(snapshot.lifecycle.last_seq)
            self._looked_at = time.monotonic()
        return snapshot

    async def _dead_letter_count(self) -> int:
        try:
            return int((await self.deps.reads.stream_info(DEAD_LETTERS))["state"]["messages"])
        except NotFound:
            return 0

    @property
    def last_point(self) -> Point | None:
        """The last one that was remembered."""
        return self._points[-1] if self._points else None

    async def timeline(self) -> Timeline:
        """Return counts over time, a day at most: what this process remembers, and how it is now."""
        now: Point = {**await self._point(), "live": True}
        return {"step_s": STEP_S, "points": [*self._points, now]}

    async def _point(self) -> Point:
        """Return how it is now, with what was drained since the last point, or in the last day if there is none."""
        last = self.last_point
        since = last["at"] if last else format_instant(self.deps.clock() - int(STEPS * STEP_S) * SECOND)
        drained = Counter(entry["reason"] for entry in await self.trail.drains() if entry["at"] > since)
        verdicts = (await self._census.counts())["verdicts"]  # empty if nobody has looked yet
        return {"at": format_instant(self.deps.clock()), "verdicts": verdicts, "drained": dict(drained)}

    async def sample(self) -> float:
        """Remember one point; seconds until the next one. The first time, what was drained before comes back."""
        if not self._points:
            self._points.extend(await self._points_of_the_past())
        if (point := await self._point())["verdicts"]:
            self._points.append(point)
        return STEP_S

    async def _points_of_the_past(self) -> list[Point]:
        """Return the points of the last day from the audit: what was drained, without verdicts."""
        first = format_instant(self.deps.clock() - int(STEPS * STEP_S) * SECOND)
        minutes = dict[str, Counter[str]]()
        for entry in await self.trail.drains():
            if entry["at"] > first:
                minutes.setdefault(f"{entry['at'][:MINUTE_CHARS]}:00Z", Counter())[entry["reason"]] += 1
        return [{"at": at, "verdicts": {}, "drained": dict(drained)} for at, drained in sorted(minutes.items())]

    async def explain(self, name: str) -> Explanation:
        """Return the verdict on one stream now, with the evidence. Raises NoJobStream and NoSuchStream."""
        job_id = self.deps.policy.job_id(name)
        if job_id is None:
            raise NoJobStream(name, self.deps.policy)
        snapshot = await self.deps.directory.take_snapshot()
        snapshot = replace(snapshot, topology=await self._topology(snapshot, name))
        try:
            inspection = await inspect(self.deps, snapshot, Target(name, job_id))
            consumers = await self.deps.reads.consumers(name)
        except NotFound as error:
            raise NoSuchStream(await self.deleted.of(name, job_id)) from error
        deliveries = await self.deps.ledger.tallies.deliveries(job_id)
        guards = guards_of(inspection.stream, inspection.record, self.deps.policy)
        pause = await self.pause() if isinstance(inspection.verdict, Drain) else None
        found = (
            inspection.paused(pause)
            if pause
            else with_source_name(inspection.by_verdict(), await self._named(inspection, snapshot))
        )
        return {
            **describe(found, self.deps.policy),
            "at": format_instant(inspection.stream.observed_at),
            "sentence": (
                would_be(inspection.stream, pause)
                if pause
                else sentence(name, inspection.verdict, inspection.record, inspection.coverage)
            ),
            "changes": changes(found.reason, inspection.stream),
            "guards": [
                {"guard": guard.name, "passes_at": format_instant(guard.passes_at), "passed": guard.passed}
                for guard in guards
            ],
            "evidence": self._evidence(inspection, consumers, deliveries),
        }

    async def _named(self, inspection: Inspection, snapshot: Snapshot) -> Topology:
        """Return the topology with the names of streams that source this one, if that is what matters."""
        if inspection.verdict.reason is not Reason.NOT_FENCEABLE:
            return snapshot.topology
        return topology_of((await self.deps.reads.list_streams()).configs())

    async def _topology(self, snapshot: Snapshot, name: str) -> Topology:
        """Return the topology of the last full pass, or of a listing if no pass ran lately."""
        known = await self.deps.ledger.topology_cache.among(snapshot.lifecycle.identity, [name], 0)
        return (
            Topology(known[0], advisory_streams=known[1])
            if known
            else topology_of((await self.deps.reads.list_streams()).configs())
        )

    def _evidence(self, inspection: Inspection, consumers: Sequence[Raw], deliveries: dict[str, int]) -> Evidence:
        coverage, record, event = inspection.coverage, inspection.record, inspection.event
        disputed = record if record is not None and self.deps.policy.is_disputed(record) else None
        status = inspection.directory_status
        return {
            "directory": (
                {
                    "status": status.status,
                    "ended_at": None if status.ended_at is None else format_instant(status.ended_at),
                }
                if status
                else None
            ),
            "record": _event_json(record.latest) if record else None,
            "last_event": _event_json(event.last) if event else None,
            "disputed": (
                {"by_time": _event_json(disputed.latest), "by_sequence": _event_json(disputed.last)}
                if disputed
                else None
            ),
            "coverage": {
                "intact": coverage.intact,
                "since": None if coverage.since is None else format_instant(coverage.since),
                "gap": coverage.gap,
            },
            "stream": {
                "created": inspection.raw.get("created"),
                "subjects": inspection.raw["config"].get("subjects"),
                "messages": inspection.stream.messages,
                "bytes": inspection.stream.size,
                "last_publish": None
                if inspection.stream.last_publish is None
                else format_instant(inspection.stream.last_publish),
                "fenced": inspection.stream.fence is not None,
            },
            "consumers": [_consumer(raw) for raw in consumers],
            "advisories": deliveries,
        }


def _event_json(event: StatusEvent) -> StatusEventJson:
    return {
        "status": event.status,
        "occurred_at": format_instant(event.occurred_at),
        "published_at": format_instant(event.published_at),
        "seq": event.seq,
    }


def _consumer(raw: Raw) -> ConsumerEvidence:
    delivered, floor = raw.get("delivered") or {}, raw.get("ack_floor") or {}
    return {
        "name": raw.get("name"),
        "pending": raw.get("num_pending"),
        "ack_pending": raw.get("num_ack_pending"),
        "redelivered": raw.get("num_redelivered"),
        "delivered": delivered.get("stream_seq"),
        "ack_floor": floor.get("stream_seq"),
        "last_active": delivered.get("last_active"),
    }
