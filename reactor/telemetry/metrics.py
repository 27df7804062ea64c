"""Metrics of a worker, for Prometheus.

Laws of this module:

* Label values are reactor's own. A job, stream, subject or unknown status is never a label.
* A counter counts what this worker did: add it up over the replicas. A gauge of streams, ledger or passes is the same
  for all replicas, as last measured: take the highest. A scrape causes no request to a server.
* A registry belongs to one worker; nothing here is global.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, cast

from faststream.message import StreamMessage
from faststream.prometheus import ConsumeAttrs, MetricsSettingsProvider, PrometheusMiddleware
from faststream.response import PublishCommand
from nats.aio.msg import Msg
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.exposition import choose_encoder

from reactor.core.model import SECOND, UNREADABLE, Outcome, Reason, Settlement, parse_instant
from reactor.core.schemas import Measures, PassSummary
from reactor.core.sinks import EventOutcome, Sink
from reactor.core.stream_info import ADVISORY
from reactor.core.subjects import SubjectTemplate

UNKNOWN = float("nan")
OTHER = "other"
"""The label for all statuses and subjects that reactor does not know."""
UNREAD = "unreadable"
LATENESS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
UNFIXABLE = (
    *(Reason.UNREPORTED, Reason.FENCE_UNREADABLE, Reason.CREATED_UNREADABLE, Reason.NOT_FENCEABLE),
    *(Reason.DELETES_PAUSED, Reason.OUTCOME_UNKNOWN, Reason.REFUSED, Reason.BACKUP_FAILED),
)
ABORTED = (
    *(Reason.RUNNING, Reason.DISPUTED, Reason.GRACE, Reason.ACTIVE, Reason.FENCED, Reason.UNKNOWN),
    *(Reason.DELETES_PAUSED, Reason.REFUSED, Reason.BACKUP_FAILED),
)


class Metrics(Sink):
    """The metrics of one worker."""

    def __init__(self, *, statuses: Collection[str], events: SubjectTemplate, interval_s: float) -> None:
        """Only `statuses` (upper case) become labels. `events` is the subject of lifecycle events."""
        self._statuses = {status: status for status in statuses} | {UNREADABLE: UNREAD}
        self._bounded = _Bounded(events)
        self._registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self._registry)
        Info("reactor_build", "The version that runs.", registry=self._registry).info(
            {"version": version("jetstream-reactor")}
        )
        self._count()
        self._gauge(interval_s)

    def _count(self) -> None:
        """Create the counters at zero for every known label value, so that the first increment is seen."""
        self._drained = self._one_counter("streams_drained", "Zombie streams deleted.", "reason")
        self._unfixable = self._one_counter("streams_unfixable", "Failed attempts.", "reason")
        self._would_drain = self._one_counter("streams_would_drain", "Zombies that report mode kept.", "reason")
        self._aborted = self._one_counter("drain_aborted", "Drains that began and kept the stream.", "reason")
        self._events = self._one_counter("events", "Lifecycle messages received.", "status", "outcome")
        self._dead_letters = self._one_counter("dead_letters", "Lifecycle messages kept as dead letters.")
        self._reclaimed = self._one_counter("bytes_reclaimed", "Bytes that drained streams held.")
        self._late = Histogram(
            "reactor_due_to_drained_seconds",
            "From when the stream of an ended job fell due to its deletion.",
            buckets=LATENESS_S,
            registry=self._registry,
        )
        for counter, reasons in (
            (self._drained, (Reason.TERMINAL, Reason.MISSING)),
            (self._unfixable, UNFIXABLE),
            (self._aborted, ABORTED),
        ):
            for reason in reasons:
                counter.labels(reason.value)

    def _gauge(self, interval_s: float) -> None:
        self._streams = self._one_gauge("streams", "Job streams by verdict.", "verdict")
        self._disputed = self._one_gauge("streams_disputed", "Job streams whose job's last events disagree.")
        self._oldest = self._one_gauge("oldest_zombie_seconds", "How long the oldest zombie has been one; 0 for none.")
        self._lag = self._one_gauge("ledger_lag_messages", "Lifecycle messages that are not in the ledger yet.")
        self._covered = self._one_gauge(
            "coverage_complete",
            "1 if the ledger is complete, so that absence counts; 0 if it is not, or cannot be read.",
        )
        self._judged = self._one_gauge("streams_judged_timestamp_seconds", "When the streams were last judged.")
        self._paused = self._one_gauge("deletes_paused", "1 while this worker lacks a permission to delete.")
        self._pause = self._one_gauge("paused", "1 while an operator has paused all deleting.")
        self._breaker = self._one_gauge("breaker_tripped", "1 if the breaker stopped the last full pass.")
        self._took = self._one_gauge("reconcile_duration_seconds", "How long the last full pass took.")
        self._succeeded = self._one_gauge(
            "reconcile_last_success_timestamp_seconds", "When a full pass last completed; 0 for never."
        )
        self._workers = self._one_gauge("workers", "Workers that are alive.")
        self._exhausted = self._one_gauge(
            "queues_exhausted", "Live job streams whose last messages were given up (max_deliver)."
        )
        self._nats = self._one_gauge("nats_connected", "1 while this worker has a connection to NATS.")
        self._redis = self._one_gauge("redis_connected", "1 while this worker reaches Redis.")
        self.unmeasured()
        for gauge in (self._oldest, self._disputed):
            gauge.set(UNKNOWN)
        self._one_gauge("reconcile_interval_seconds", "The interval of full passes.").set(interval_s)

    def _one_counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"reactor_{name}", text, labels, registry=self._registry)

    def _one_gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"reactor_{name}", text, labels, registry=self._registry)

    def events_received(self, messages: Mapping[tuple[str, EventOutcome], int]) -> None:
        """Count the messages by status. A status that is not configured counts as `other`."""
        for (status, outcome), count in messages.items():
            self._events.labels(self._statuses.get(status, OTHER), outcome.value).inc(count)

    def dead_lettered(self) -> None:
        """Count it."""
        self._dead_letters.inc()

    def ended(self, settlement: Settlement) -> None:
        """Count a drained stream with its lateness and size, or an aborted drain. A stream already gone is neither."""
        match settlement.outcome:
            case Outcome.DRAINED:
                self._drained.labels(settlement.reason.value).inc()
                self._reclaimed.inc(settlement.stream.size)
                if settlement.reason is Reason.TERMINAL and settlement.late_s is not None:
                    self._late.observe(settlement.late_s)
            case Outcome.ALREADY_GONE:
                pass
            case _:
                self._aborted.labels(settlement.reason.value).inc()

    def reported(self, settlement: Settlement) -> None:
        """Count it."""
        self._would_drain.labels(settlement.reason.value).inc()

    def unfixable(self, settlement: Settlement, failure: Mapping[str, Any]) -> None:  # noqa: ARG002  # counts only
        """Count the attempt."""
        self._unfixable.labels(settlement.reason.value).inc()

    def watch(self, paused: Callable[[], str | None]) -> None:
        """Let each scrape read whether a permission to delete is missing."""
        self._paused.set_function(lambda: paused() is not None)

    def measured(self, measures: Measures) -> None:
        """Set the gauges of streams, ledger and passes."""
        if measures["error"] is None and measures["verdicts"]:
            for verdict, count in measures["verdicts"].items():
                self._streams.labels(verdict).set(count)
            self._disputed.set(measures["reasons"].get(Reason.DISPUTED.value, 0))
            self._oldest.set(measures["oldest_zombie_s"] or 0.0)
            self._judged.set(_seconds(measures["at"]))
        is_away = measures["lag"] is None  # NATS could not be asked
        self._lag.set(UNKNOWN if measures["lag"] is None else measures["lag"])
        self._pause.set(UNKNOWN if is_away else measures["pause"] is not None)
        self._covered.set(measures["coverage"]["complete"])
        self._workers.set(measures["workers"])
        self._exhausted.set(measures["exhausted"])
        if measures["last_reconcile"]:
            self._passed(measures["last_reconcile"])

    def _passed(self, report: PassSummary) -> None:
        self._breaker.set(report["breaker"] is not None)
        if report["error"] is None:
            self._took.set(report["duration_s"])
            self._succeeded.set(_seconds(report["started_at"]) + report["duration_s"])

    def unmeasured(self) -> None:
        """Mark the gauges as unknown, because the servers could not be asked."""
        self._covered.set(0)
        for gauge in (self._lag, self._pause, self._workers, self._exhausted):
            gauge.set(UNKNOWN)

    def connected(self, nats: bool, redis: bool) -> None:  # noqa: FBT001  # of each server, whether it is reached
        """Set whether this worker is connected to NATS and Redis."""
        self._nats.set(nats)
        self._redis.set(redis)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the format that an Accept header asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def middleware(self) -> PrometheusMiddleware[Any, Any]:
        """Return FastStream's own metrics, with bounded subjects."""
        return PrometheusMiddleware(
            settings_provider_factory=lambda _: self._bounded, registry=self._registry, app_name="reactor"
        )


@dataclass(eq=False, repr=False)
class _Bounded(MetricsSettingsProvider[list[Msg], PublishCommand]):
    """The labels for FastStream's middleware. Its default would use the job's subject."""

    messaging_system = "nats"

    events: SubjectTemplate

    def get_publish_destination_name_from_cmd(self, cmd: PublishCommand) -> str:
        return self._without_job(cmd.destination)

    def get_consume_attrs_from_message(self, msg: StreamMessage[list[Msg]]) -> ConsumeAttrs:
        raw = cast("list[Msg] | Msg", msg.raw_message)  # a batch of events, or one advisory
        batch = raw if isinstance(raw, list) else [raw]
        return {
            "destination_name": self._without_job(batch[0].subject),
            "message_size": sum(len(item.data) for item in batch),
            "messages_count": len(batch),
        }

    def _without_job(self, subject: str) -> str:
        if self.events.job_id(subject) is not None:
            return self.events.wildcard
        return f"{ADVISORY}.>" if subject.startswith(f"{ADVISORY}.") else OTHER


def _seconds(text: str) -> float:
    return parse_instant(text) / SECOND
