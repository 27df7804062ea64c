"""Answer what reactor did, what it will do next, and why: read only, for commands, HTTP endpoint and page."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

from reactor.core.explain import changes, paused_sentence, sentence
from reactor.core.model import (
    SECOND,
    Coverage,
    Drain,
    Reason,
    format_instant,
    parse_instant,
    to_the_second,
)
from reactor.core.pause import Pause
from reactor.core.policy import Policy
from reactor.core.report import describe, directory_json, event_json, guards_json, mark_exhausted
from reactor.core.schemas import (
    ConsumerEvidence,
    Evidence,
    Explanation,
    Gone,
    LastKnown,
    Measures,
    Point,
    Status,
    Streams,
    Timeline,
    Workers,
)
from reactor.core.stream_info import Raw
from reactor.core.workers import WorkerInfo, workers_json
from reactor.deletion.inspection import inspect
from reactor.deletion.resources import Resources
from reactor.deletion.states import Inspection, Target, with_source_name
from reactor.jetstream.errors import JetStreamError, NotFound, Unanswered, Unreachable
from reactor.jetstream.topology import DEAD_LETTERS, Topology, list_topology
from reactor.job_status.ledger_directory import Snapshot
from reactor.operate.counts import StreamCounts
from reactor.operate.deleted_streams import DeletedStreams
from reactor.operate.history import AuditTrail

FRESH_S = 2.0
"""How long an event may stay unread before it counts as a gap."""
STEP_S = 60.0
STEPS = 24 * 60


class NoJobStream(Exception):
    """The stream is not a job stream."""

    def __init__(self, name: str, policy: Policy) -> None:
        """`policy` has the pattern of job streams, for the message."""
        names = sorted(policy.names_of(name) or ())
        hint = f"; did you mean {names[0]}?" if names else ""
        super().__init__(f"{name!r} is not a job stream: its name does not match {policy.pattern.pattern}{hint}")


class NoSuchStream(Exception):
    """The job stream does not exist."""

    def __init__(self, gone: Gone) -> None:
        """`gone` has everything that is known about it."""
        super().__init__(gone["sentence"])
        self.gone = gone


def job_of(name: str, policy: Policy) -> str:
    """Return the job of a stream. Raises NoJobStream."""
    if (job_id := policy.job_id(name)) is None:
        raise NoJobStream(name, policy)
    return job_id


@dataclass(eq=False, repr=False)
class Overview:
    """Answers about streams, passes and the ledger. Methods raise JetStreamError and LedgerError.

    `deleted` answers about streams that do not exist.
    """

    deps: Resources
    deleted: DeletedStreams
    notice: str | None = None
    """Whose settings it judges by, if not by the shell's own."""
    nats_error: str | None = None
    """Why NATS could not be asked before. It is not asked again then."""

    def __post_init__(self) -> None:
        self.trail = AuditTrail(self.deps.recorder.audit)
        self._stream_counts = StreamCounts(self.deps.ledger.stream_states, self.deps.policy)
        self._started_at = self.deps.clock()
        self._points: deque[Point] = deque(maxlen=STEPS)
        self._last_seqs: deque[int] = deque(maxlen=2)
        """The last sequences of the lifecycle stream at the last snapshots, oldest first."""
        self._snapshot_at = float("-inf")

    @property
    def paused(self) -> str | None:
        """Why this process deletes nothing; None if it does."""
        return self.deps.rights.paused

    async def pause(self) -> Pause | None:
        """Return the operator's active pause; None in report mode."""
        return await self.deps.pause_gate.active_pause() if self.deps.policy.may_delete else None

    def now(self) -> str:
        """Return the time by this process's clock, as text."""
        return format_instant(self.deps.clock())

    async def reach(self) -> None:
        """Raise if NATS or Redis is away, or if the lifecycle stream or its durable is missing."""
        await self.deps.directory.take_snapshot()

    async def streams(self) -> Streams:
        """Return every job stream with its stored verdict."""
        last, rows = await self.deps.ledger.passes.last(), await self._stream_counts.rows()
        exhausted = await self.deps.ledger.exhausted.consumers()
        return {
            "at": format_instant(self.deps.clock()),
            "error": last["error"] if last else None,
            "streams": mark_exhausted([describe(item, self.deps.policy) for item in rows], exhausted),
        }

    async def status(self) -> Status:
        """Return the status: counts, ledger, due queue, the last full pass."""
        workers = await self.deps.ledger.workers.alive()
        measures, drains = await self._measure(workers), await self.deps.recorder.audit.drains()
        today = self.deps.clock() // SECOND // 86_400
        last = measures["last_reconcile"]
        return {
            **measures,
            "notice": self.notice,
            "deletes": measures["pause"] is None and any(worker.deletes for worker in workers),
            "action": "delete" if self.deps.policy.deletes else "report",
            "would_drain": await self.trail.report_mode_totals() if self.deps.policy.may_report else None,
            "drained_today": drains.days.get(today, 0),
            "bytes_reclaimed": drains.size,
            "version": version("jetstream-reactor"),
            "started_at": format_instant(self._started_at),
            "deletes_paused": next((worker.deletes_paused for worker in workers if worker.deletes_paused), self.paused),
            "breaker": last["breaker"] if last else None,
            "due": await self.deps.ledger.due.count(),
            "next_due_s": await self.deps.ledger.due.next_due(),
            "dead_letters": None if measures["nats_error"] else await self._dead_letter_count(),
        }

    async def measure(self) -> Measures:
        """Return the figures that are the same for all replicas: streams by verdict, ledger, the last full pass."""
        return await self._measure(await self.deps.ledger.workers.alive())

    async def _measure(self, workers: Sequence[WorkerInfo]) -> Measures:
        counts, last_pass = await self._stream_counts.counts(), await self.deps.ledger.passes.last()
        nats_error, lag, pause = None, None, None
        try:
            snapshot, pause = await self._take_snapshot(), await self.pause()
            coverage = await self.deps.directory.coverage(snapshot)
            lag = snapshot.lifecycle.behind
        except JetStreamError as error:
            nats_error = str(error) or type(error).__name__
            coverage = Coverage(intact=False, gap=f"NATS is away: {nats_error}")
        return {
            **counts,
            "at": self.now(),
            "error": last_pass["error"] if last_pass else None,
            "nats_error": nats_error,
            "nats_away_since": next((item.nats_away_since for item in workers if item.nats_away_since), None),
            "workers": len(workers),
            "exhausted": len(await self.deps.ledger.exhausted.all()),
            "coverage": {
                "complete": coverage.intact and coverage.gap is None,
                "since": None if coverage.since is None else format_instant(coverage.since),
                "gap": coverage.gap,
            },
            "lag": lag,
            "pause": pause.as_dict() if pause else None,
            "last_reconcile": last_pass,
        }

    async def workers(self) -> Workers:
        """Return the workers that are alive, and where they differ."""
        return workers_json(await self.deps.ledger.workers.alive(), self.now())

    async def _take_snapshot(self) -> Snapshot:
        """Take a snapshot in which events of the last moment may be unread, because some always are."""
        if self.nats_error:
            raise Unreachable(self.nats_error)
        snapshot = await self.deps.directory.take_snapshot(self._last_seqs[0] if self._last_seqs else None)
        if time.monotonic() - self._snapshot_at > FRESH_S:
            self._last_seqs.append(snapshot.lifecycle.last_seq)
            self._snapshot_at = time.monotonic()
        return snapshot

    async def _dead_letter_count(self) -> int:
        try:
            return int((await self.deps.reads.stream_info(DEAD_LETTERS))["state"]["messages"])
        except NotFound:
            return 0

    @property
    def last_point(self) -> Point | None:
        """The last sampled point."""
        return self._points[-1] if self._points else None

    async def timeline(self) -> Timeline:
        """Return the last day: verdicts sampled by this process, and all drains by minute."""
        drains = await self.deps.recorder.audit.drains()
        first = self.deps.clock() // SECOND // 60 - STEPS
        drained: list[Point] = [
            {"at": format_instant(minute * 60 * SECOND), "verdicts": {}, "drained": dict(reasons)}
            for minute, reasons in drains.minutes.items()
            if minute >= first
        ]
        now = await self._sampled()
        return {"step_s": STEP_S, "points": sorted([*self._points, *drained, now], key=lambda point: point["at"])}

    async def _sampled(self) -> Point:
        """Return the verdicts now; none before the first full pass."""
        verdicts = (await self._stream_counts.counts())["verdicts"]
        return {"at": self.now(), "verdicts": verdicts, "drained": {}}

    async def sample(self) -> float:
        """Sample the verdicts. Return the seconds until the next time."""
        if (point := await self._sampled())["verdicts"]:
            self._points.append(point)
        return STEP_S

    async def explain_or_last_known(self, name: str) -> Explanation | LastKnown:
        """Return the result of `explain`; if NATS is away, what Redis knows. Raises NoJobStream and NoSuchStream."""
        if self.nats_error:
            return await self._last_known(name, job_of(name, self.deps.policy), self.nats_error)
        try:
            return await self.explain(name)
        except (Unreachable, Unanswered) as error:
            return await self._last_known(name, job_of(name, self.deps.policy), str(error))

    async def _last_known(self, name: str, job_id: str, nats_error: str) -> LastKnown:
        """Return what Redis knows about a stream while NATS is away."""
        known = (await self.deps.ledger.stream_states.of([name])).get(name)
        records = (await self.deps.ledger.records.read("", [job_id])).records
        workers = await self.deps.ledger.workers.alive()
        since = next((worker.nats_away_since for worker in workers if worker.nats_away_since), None)
        away = f"NATS is away{f' since {to_the_second(parse_instant(since))}' if since else ''} ({nats_error})"
        last = f"{known.outcome.value.replace('_', ' ')} ({known.reason.value})" if known else None
        record = records.get(job_id)
        status = f"; its job's last event is {record.status}" if record else ""
        state = f"was last found {last}" if last else "was not found by the last pass"
        return LastKnown(
            stream=name,
            job_id=job_id,
            at=self.now(),
            sentence=f"{away}. {name} {state}{status}.",
            nats_error=nats_error,
            last=describe(known, self.deps.policy) if known else None,
            timeline=await self.deleted.acts(name),
        )

    async def explain(self, name: str) -> Explanation:
        """Return the verdict on one stream now, with the evidence. Raises NoJobStream and NoSuchStream."""
        job_id = job_of(name, self.deps.policy)
        snapshot = await self.deps.directory.take_snapshot()
        snapshot = replace(snapshot, topology=await self._topology(snapshot, name))
        try:
            inspection = await inspect(self.deps, snapshot, Target(name, job_id))
            consumers = await self.deps.reads.consumers(name)
        except NotFound as error:
            raise NoSuchStream(await self.deleted.of(name, job_id)) from error
        deliveries = await self.deps.ledger.tallies.deliveries(job_id)
        pause = await self.pause() if isinstance(inspection.verdict, Drain) else None
        settlement = (
            inspection.paused(pause)
            if pause
            else with_source_name(inspection.by_verdict(), await self._named(inspection, snapshot))
        )
        return {
            **describe(settlement, self.deps.policy),
            "at": format_instant(inspection.stream.observed_at),
            "notice": self.notice,
            "sentence": (
                paused_sentence(inspection.stream, pause)
                if pause
                else sentence(name, inspection.verdict, inspection.record, inspection.coverage)
            ),
            "changes": changes(settlement.reason, inspection.stream),
            "guards": guards_json(inspection.stream, inspection.record, self.deps.policy),
            "evidence": self._evidence(inspection, consumers, deliveries),
        }

    async def _named(self, inspection: Inspection, snapshot: Snapshot) -> Topology:
        """Return the topology, with the streams that source this one if that prevents a fence."""
        if inspection.verdict.reason is not Reason.NOT_FENCEABLE:
            return snapshot.topology
        return await list_topology(self.deps.reads)

    async def _topology(self, snapshot: Snapshot, name: str) -> Topology:
        """Return the topology of the last full pass, or of a new listing if that is too old."""
        known = await self.deps.ledger.topology_cache.among(snapshot.lifecycle.identity, [name], 0)
        return Topology(known[0], advisory_streams=known[1]) if known else await list_topology(self.deps.reads)

    def _evidence(self, inspection: Inspection, consumers: Sequence[Raw], deliveries: dict[str, int]) -> Evidence:
        coverage, record, event = inspection.coverage, inspection.record, inspection.event
        disputed = record if record is not None and self.deps.policy.is_disputed(record) else None
        return {
            "directory": directory_json(inspection.directory_status),
            "record": event_json(record.latest) if record else None,
            "last_event": event_json(event.last) if event else None,
            "disputed": (
                {"by_time": event_json(disputed.latest), "by_sequence": event_json(disputed.last)} if disputed else None
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
