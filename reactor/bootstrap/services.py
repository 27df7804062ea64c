"""From connections to use cases: the only place that turns settings into policies and objects.

Adapters and use cases never read settings. They get what they need here.
"""

import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from urllib.parse import urlsplit

from reactor.bootstrap.backups import Places
from reactor.bootstrap.connections import Connections
from reactor.config.nats_options import desired_streams
from reactor.config.settings import Settings
from reactor.core.model import format_instant, nanoseconds, parse_instant
from reactor.core.policy import Breaker, Policy
from reactor.core.preparing import Prepared
from reactor.core.sinks import Sink
from reactor.core.subjects import SubjectTemplate
from reactor.core.workers import WorkerInfo, judged_by, policy_json
from reactor.deletion.backup import BackupWriter
from reactor.deletion.companions import Companions
from reactor.deletion.gates import PauseGate, Rights
from reactor.deletion.notices import Notices
from reactor.deletion.prepare import prepare
from reactor.deletion.recorder import Recorder
from reactor.deletion.resources import Resources
from reactor.deletion.retries import Retries
from reactor.deletion.stream_states import StreamStateUpdater
from reactor.deletion.throttle import Throttle
from reactor.jetstream.errors import Unanswered, Unreachable
from reactor.jetstream.topology import (
    NO_EVENTS,
    OWN_STREAMS,
    Provision,
    find_durable,
    find_lifecycle_stream,
    provision,
    wrong_account,
)
from reactor.job_status.external_directory import ExternalDirectory
from reactor.job_status.ledger_directory import Directory
from reactor.operate.actions import StreamActions
from reactor.operate.deleted_streams import DeletedStreams
from reactor.operate.doctor.context import DoctorContext
from reactor.operate.doctor.examine import Doctor
from reactor.operate.emit import emit
from reactor.operate.overview import Overview
from reactor.operate.replay import Scratch
from reactor.operate.restore import Progress, Restorer, ignore_progress
from reactor.passes.reconciler import Reconciler
from reactor.passes.subscribers import DeadLetters, LifecycleSubscriber, consume_pending
from reactor.passes.sweeper import Sweeper
from reactor.store.health import RedisHealth
from reactor.telemetry.alerts import Alerts
from reactor.telemetry.notifier import Notifier
from reactor.telemetry.sinks import EventSink, LogSink


async def provision_safely(connected: Connections) -> Provision:
    """Find or declare the streams. Raises ProvisionError if this looks like the wrong account."""
    if connected.jobs is not None:
        await connected.jobs.check()
    await _lifecycle_stream(connected)
    return await provision_missing(connected)


async def find_provision(connected: Connections) -> Provision:
    """Find the streams without declaring any, for commands that only read. Raises ProvisionError as above."""
    desired = desired_streams(connected.settings.events)
    stream = await _lifecycle_stream(connected)
    if stream is None:
        return Provision(NO_EVENTS)
    subjects = (desired.events_subject.wildcard,)
    events = await find_durable(connected.reads, desired.durable, stream, subjects)
    return Provision(events or NO_EVENTS, lifecycle_stream=stream)


async def _lifecycle_stream(connected: Connections) -> str | None:
    """Find the lifecycle stream. Raises ProvisionError if this looks like the wrong account.

    If Redis has a ledger, it was built from a lifecycle stream. An account without one belongs to another job system.
    """
    desired = desired_streams(connected.settings.events)
    stream = await find_lifecycle_stream(connected.reads, desired)
    if stream is None and (owner := await connected.ledger.records.owner()):
        raise wrong_account(owner, desired)
    return stream


async def provision_missing(connected: Connections) -> Provision:
    """Declare missing streams, as far as there is room, but not a lost control stream. Raises ProvisionError."""
    desired = desired_streams(connected.settings.events)
    make_control = not await connected.ledger.topology_cache.had_control()
    return await provision(connected.reads, desired, make_control=make_control, needs_events=connected.jobs is None)


def policy_of(settings: Settings, own_streams: frozenset[str] = OWN_STREAMS) -> Policy:
    """Return the policy in the settings."""
    rules = settings.policy
    return Policy(
        pattern=rules.regex,
        age_guard=nanoseconds(rules.age_guard),
        terminal_grace=nanoseconds(rules.terminal_grace),
        idle_guard=nanoseconds(rules.idle_guard),
        # Only a directory that a canary vouches for needs no longer than the idle guard.
        missing_guard=0 if settings.directory.has_canary else nanoseconds(rules.missing_guard),
        dispute_guard=nanoseconds(rules.dispute_guard),
        terminal_statuses=frozenset(rules.terminal_statuses),
        live_statuses=frozenset(rules.live_statuses),
        protect=rules.protect,
        deletes=rules.action == "delete",
        rules=rules.rules.rules,
        backup=settings.backup.when,
        own_streams=own_streams,
    )


def utc_now() -> int:
    """Return this process's clock (ns). It is for reports only; no verdict uses it."""
    return parse_instant(datetime.now(UTC).isoformat())  # noqa: TID251  # the one clock of the shell


def doctor_of(connected: Connections) -> Doctor:
    """Return the doctor. It works without any of reactor's streams."""
    settings = connected.settings
    deps = DoctorContext(
        reads=connected.reads,
        effects=connected.effects,
        health=RedisHealth(connected.space),
        ledger=connected.ledger,
        policy=policy_of(settings),
        desired=desired_streams(settings.events),
        companions=bool(settings.policy.companions),
        domain=settings.nats.domain,
        jobs=connected.jobs,
        directory_kind=settings.directory.kind,
        backup_store=places_of(connected).of_settings() if wants_backups(policy_of(settings)) else None,
        interval_s=settings.reconcile.interval.total_seconds(),
        clock=utc_now,
    )
    return Doctor(deps)


def alerts_of(connected: Connections) -> Alerts:
    """Return the alerts of this process."""
    return Alerts(connected.announce, connected.actor.by, utc_now)


def notifier_of(connected: Connections) -> Notifier | None:
    """Return the notifier, or None if the settings name no receiver."""
    urls = connected.settings.notify.addresses
    return Notifier(urls, connected.ledger.sent_notices.remember, time.monotonic) if urls else None


def places_of(connected: Connections) -> Places:
    """Return the places for backups."""
    return Places(connected, utc_now)


def wants_backups(policy: Policy) -> bool:
    """Return whether the policy backs up any stream before its deletion."""
    return any(when not in {"never", None} for when in (policy.backup, *(rule.backup for rule in policy.rules)))


def recorder_of(connected: Connections, *sinks: Sink) -> Recorder:
    """Return the recorder of this process, with the audit, the log, published events, and these `sinks`."""
    ours = (*sinks, LogSink(connected.actor.by), EventSink(connected.announce))
    return Recorder(connected.audit, connected.actor, utc_now, ours)


def pause_gate_of(connected: Connections) -> PauseGate:
    """Return the gate of the operator's pause."""
    return PauseGate(connected.reads, connected.ledger.topology_cache, connected.settings.events.replicas)


def worker_info(connected: Connections, policy: Policy) -> WorkerInfo:
    """Return the heartbeat of this worker."""
    settings = connected.settings
    return WorkerInfo(
        instance=connected.actor.by,
        host=connected.actor.host,
        version=connected.actor.version,
        since=format_instant(utc_now()),
        policy=policy_json(policy),
        directory=settings.directory.kind,
        nats=connected.reads.address,
        redis=_address_of(settings.redis.url.get_secret_value()),
        policy_file=settings.policy.rules.path,
        policy_sha256=settings.policy.rules.sha256,
    )


def _address_of(url: str) -> str:
    """Return a URL without credentials and parameters."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@dataclass(frozen=True, slots=True)
class ReadOnly:
    """Use cases for a command that only reads: they declare nothing."""

    cases: "UseCases"
    notice: str | None
    """Whose settings they judge by, if not by the shell's; or that no worker is alive."""
    nats_error: str | None = None
    """Why NATS could not be asked. Then only Redis can answer."""

    def overview(self) -> Overview:
        """Return the overview for an operator's questions."""
        return Overview(self.cases.resources, self.cases.deleted, self.notice, self.nats_error)


async def read_only(connected: Connections, *, local: bool = False) -> ReadOnly:
    """Return use cases that judge as the running workers do, or by the shell's settings if it is `local`."""
    settings, nats_error = connected.settings, None
    try:
        provisioned = await find_provision(connected)
    except (Unreachable, Unanswered) as error:
        provisioned, nats_error = Provision(NO_EVENTS), str(error)
    if local:
        return ReadOnly(UseCases(connected, provisioned), None, nats_error)
    shell = policy_of(settings, provisioned.own_streams)
    policy, notice = judged_by(shell, settings.directory.kind, await connected.ledger.workers.alive())
    return ReadOnly(UseCases(connected, provisioned, judge_as=policy), notice, nats_error)


@dataclass(eq=False, repr=False)
class UseCases:
    """The use cases for one provisioned account. They share `resources`.

    `sinks` receive all events. Each check of the ledger calls `note_coverage` with what the ledger lacks, or None.
    `assume_missing` is an operator's order for one full pass. `judge_as` replaces the policy of the settings.
    """

    connected: Connections
    provisioned: Provision
    sinks: Sequence[Sink] = ()
    _: KW_ONLY
    assume_missing: InitVar[bool] = False
    judge_as: InitVar[Policy | None] = None
    note_coverage: InitVar[Callable[[str | None], None]] = lambda _: None

    def __post_init__(
        self, assume_missing: bool, judge_as: Policy | None, note_coverage: Callable[[str | None], None]
    ) -> None:
        connected, settings = self.connected, self.connected.settings
        ledger, rules = connected.ledger, settings.sweep
        policy = judge_as or policy_of(settings, self.provisioned.own_streams)
        policy = replace(policy, assume_missing=assume_missing)
        recorder = recorder_of(connected, *self.sinks)
        places = places_of(connected)
        backup_store = places.of_settings()
        writer = BackupWriter(connected.snapshots, backup_store, connected.actor)
        self.resources = Resources(
            policy=policy,
            reads=connected.reads,
            effects=connected.effects,
            ledger=ledger,
            directory=self._directory(policy, note_coverage),
            recorder=recorder,
            retries=Retries(ledger, recorder, rules.max_attempts),
            companions=Companions(settings.policy.companions, connected.reads, connected.effects),
            rights=Rights(connected.effects),
            pause_gate=pause_gate_of(connected),
            stream_states=StreamStateUpdater(ledger, policy, recorder, events_decide=connected.jobs is None),
            notices=Notices(ledger, recorder, policy),
            throttle=Throttle(rules.concurrency, ledger.turns, rules.max_rate, connected.reads.pace),
            lease_s=rules.lease.total_seconds(),
            clock=utc_now,
            backup_writer=writer if wants_backups(policy) else None,
        )
        self.deleted = DeletedStreams(self.resources, backup_store, places.recorded)

    def _directory(self, policy: Policy, note_coverage: Callable[[str | None], None]) -> Directory:
        connected, events = self.connected, self.connected.settings.events
        directory = Directory if connected.jobs is None else partial(ExternalDirectory, jobs=connected.jobs)
        return directory(
            connected.reads,
            connected.ledger,
            policy,
            template=SubjectTemplate(events.subject),
            source=self.provisioned.events,
            durable=events.durable,
            note=note_coverage,
        )

    async def lifecycle_subscriber(
        self, wake: Callable[[], None] = lambda: None, ended: Callable[[Collection[str]], None] = lambda _: None
    ) -> LifecycleSubscriber:
        """Return the subscriber for lifecycle events. It connects, to learn the server's largest payload.

        `ended` receives the jobs that are over.
        """
        client = await self.connected.reads.connect()
        dead_letters = DeadLetters(self.connected.reads.publish, client.max_payload)
        return LifecycleSubscriber(self.resources, dead_letters, client.publish, wake, ended)

    def reconciler(self, subscriber: LifecycleSubscriber) -> Reconciler:
        """Return the reconciler. It consumes pending events through the given subscriber."""
        reads, durable = self.connected.reads, self.connected.settings.events.durable
        catch_up = partial(consume_pending, reads, self.provisioned.events.stream, durable, subscriber.handle)
        limits = self.connected.settings.breaker
        return Reconciler(self.resources, Breaker(limits.max_missing, limits.max_missing_ratio), catch_up)

    def sweeper(self, request_pass: Callable[[], Awaitable[None]]) -> Sweeper:
        """Return the sweeper. It judges jobs one by one, so it never acts on absence."""
        policy = replace(self.resources.policy, absence_counts=False)
        return Sweeper(replace(self.resources, policy=policy), request_pass)

    async def prepare(self, job_id: str, timeout_s: float) -> Prepared:
        """Make a job's stream safe to publish to, see `deletion.prepare`."""
        desired = desired_streams(self.connected.settings.events)

        async def publish(job_id: str, status: str) -> None:
            await emit(self.connected.reads, desired, job_id, status, None)

        return await prepare(self.resources, publish, job_id, timeout_s)

    def overview(self) -> Overview:
        """Return the answers for the endpoint and the page."""
        return Overview(self.resources, self.deleted)

    def actions(self, scratch: Scratch | None = None, progress: Progress = ignore_progress) -> StreamActions:
        """Return the orders about streams. `scratch` starts a temporary server, for restores that this one refuses."""
        restorer = Restorer(self.connected.snapshots, self.resources.recorder, scratch, progress)
        return StreamActions(self.resources, self.deleted, restorer)
