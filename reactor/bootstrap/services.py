"""From connections to use cases: the one place that turns settings into policies and objects.

Adapters and use cases never read settings; what they need is handed to them here.
"""

from collections.abc import Awaitable, Callable
from dataclasses import KW_ONLY, InitVar, dataclass, replace
from datetime import UTC, datetime
from functools import partial

from reactor.backups.store import BackupStore
from reactor.bootstrap.connections import Connections
from reactor.config.nats_options import desired_streams
from reactor.config.settings import Settings
from reactor.core.events import SubjectTemplate
from reactor.core.model import nanoseconds, parse_instant
from reactor.core.observer import NULL_OBSERVER, Observer
from reactor.core.policy import Breaker, Policy
from reactor.deletion.backup import BackupWriter
from reactor.deletion.companions import Companions
from reactor.deletion.drain import Drainer
from reactor.deletion.gates import PauseGate, Rights
from reactor.deletion.inspection import Inspector
from reactor.deletion.prepare import Preparer
from reactor.deletion.recorder import Recorder
from reactor.deletion.resources import Resources
from reactor.deletion.retries import Retries
from reactor.deletion.stream_states import StreamStateUpdater
from reactor.deletion.throttle import Throttle
from reactor.jetstream.topology import (
    OWN_STREAMS,
    Provision,
    ProvisionError,
    find_lifecycle_stream,
    provision,
    wrong_account,
)
from reactor.job_status.external_directory import ExternalDirectory
from reactor.job_status.ledger_directory import Directory
from reactor.operate.actions import Orders
from reactor.operate.deleted_streams import DeletedStreams
from reactor.operate.doctor.context import DoctorContext
from reactor.operate.doctor.examine import Doctor
from reactor.operate.emit import emit
from reactor.operate.overview import Overview
from reactor.operate.protect import Protector
from reactor.operate.replay import Scratch
from reactor.operate.restore import Restorer
from reactor.passes.reconciler import Reconciler
from reactor.passes.subscribers import AdvisorySubscriber, DeadLetters, LifecycleSubscriber, consume_pending
from reactor.passes.sweeper import Sweeper
from reactor.store.health import RedisHealth
from reactor.telemetry.alerts import Alerts


async def provision_safely(connected: Connections) -> Provision:
    """Find or declare the streams. Raises ProvisionError if this looks like the wrong account.

    A ledger in Redis was built from a lifecycle stream; an account without any is hardly the same job system.
    """
    desired = desired_streams(connected.settings.events)
    if connected.jobs is not None:
        await connected.jobs.check()
    theirs = await find_lifecycle_stream(connected.reads, desired)
    if theirs is None and (owner := await connected.ledger.records.owner()):
        raise ProvisionError(wrong_account(owner, desired))
    return await provision_missing(connected)


async def provision_missing(connected: Connections) -> Provision:
    """Declare what is missing, as far as there is room; a lost control stream stays lost. Raises ProvisionError."""
    desired = desired_streams(connected.settings.events)
    make_control = not await connected.ledger.topology_cache.had_control()
    return await provision(connected.reads, desired, make_control=make_control, needs_events=connected.jobs is None)


def policy_of(settings: Settings, own_streams: frozenset[str] = OWN_STREAMS) -> Policy:
    """Return the rules, as the core takes them."""
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
        protect=rules.protect,
        deletes=rules.action == "delete",
        own_streams=own_streams,
    )


def utc_now() -> int:
    """Return the worker's own clock (ns), for reports only: no verdict ever sees it."""
    return parse_instant(datetime.now(UTC).isoformat())  # noqa: TID251  # the one clock of the shell


def doctor_of(connected: Connections) -> Doctor:
    """Looks at what is there, provisioned or not."""
    settings = connected.settings
    deps = DoctorContext(
        reads=connected.reads,
        effects=connected.effects,
        health=RedisHealth(connected.redis, connected.namespace),
        ledger=connected.ledger,
        policy=policy_of(settings),
        desired=desired_streams(settings.events),
        companions=bool(settings.policy.companions),
        domain=settings.nats.domain,
        jobs=connected.jobs,
        directory_kind=settings.directory.kind,
        backup_store=backup_store_of(settings) if settings.backup.when != "never" else None,
        interval_s=settings.reconcile.interval.total_seconds(),
        clock=utc_now,
    )
    return Doctor(deps)


def alerts_of(connected: Connections) -> Alerts:
    """Tells of this process's alerts."""
    return Alerts(connected.announce, connected.actor.by, utc_now)


def backup_store_of(settings: Settings) -> BackupStore:
    """Return where backups are, on this machine."""
    rules = settings.backup
    return BackupStore(rules.dir, rules.max_age.total_seconds(), int(rules.max_bytes), utc_now)


def recorder_of(connected: Connections, observer: Observer = NULL_OBSERVER) -> Recorder:
    """Tells what this process does; `observer` is told, too."""
    return Recorder(connected.audit, connected.announce, connected.actor, utc_now, observer)


@dataclass(eq=False, repr=False)
class UseCases:
    """Use cases for one provisioned account; what they share is made once.

    `observer` is told of what happens, `note_coverage` what the ledger lacks, whenever that was looked at.

    `assume_missing` is an operator's word for one full pass.
    """

    connected: Connections
    provisioned: Provision
    observer: Observer = NULL_OBSERVER
    _: KW_ONLY
    assume_missing: InitVar[bool] = False
    note_coverage: InitVar[Callable[[str | None], None]] = lambda _: None

    def __post_init__(self, assume_missing: bool, note_coverage: Callable[[str | None], None]) -> None:
        settings = self.connected.settings
        self._settings = settings
        self.backup_store = backup_store_of(settings)
        self.policy = replace(policy_of(settings, self.provisioned.own_streams), assume_missing=assume_missing)
        recorder = recorder_of(self.connected, self.observer)
        self.resources = Resources(
            reads=self.connected.reads,
            effects=self.connected.effects,
            ledger=self.connected.ledger,
            directory=self._directory(note_coverage),
            recorder=recorder,
            retries=Retries(self.connected.ledger, recorder, utc_now, settings.sweep.max_attempts),
            companions=Companions(settings.policy.companions, self.connected.reads, self.connected.effects),
            rights=Rights(self.connected.effects),
            pause_gate=PauseGate(self.connected.reads, self.connected.ledger.topology_cache, settings.events.replicas),
            stream_states=StreamStateUpdater(
                self.connected.ledger, self.policy, recorder, events_decide=self.connected.jobs is None
            ),
            throttle=Throttle(
                settings.sweep.concurrency,
                self.connected.ledger.turns,
                settings.sweep.max_rate,
                self.connected.reads.pace,
            ),
            clock=utc_now,
        )

    def _directory(self, note_coverage: Callable[[str | None], None]) -> Directory:
        events = self._settings.events
        made = Directory if self.connected.jobs is None else partial(ExternalDirectory, jobs=self.connected.jobs)
        return made(
            self.connected.reads,
            self.connected.ledger,
            self.policy,
            template=SubjectTemplate(events.subject),
            source=self.provisioned.events,
            durable=events.durable,
            note=note_coverage,
        )

    async def lifecycle_subscriber(self, wake: Callable[[], None] = lambda: None) -> LifecycleSubscriber:
        """Takes lifecycle messages; connects to learn the server's largest payload."""
        client = await self.connected.reads.connect()
        return LifecycleSubscriber(
            self.resources.directory,
            DeadLetters(self.connected.reads.publish, client.max_payload),
            self.resources.stream_states,
            client.publish,
            terminal_statuses=self.policy.terminal_statuses,
            wake=wake,
            observer=self.observer,
        )

    def advisory_subscriber(self) -> AdvisorySubscriber:
        """Takes advisories."""
        return AdvisorySubscriber(self.resources, self.connected.audit, self.policy)

    def reconciler(self, subscriber: LifecycleSubscriber) -> Reconciler:
        """Return the full pass, which consumes what is pending through the given subscriber."""

        async def catch_up() -> None:
            await consume_pending(
                self.connected.reads, self.provisioned.events.stream, self._settings.events.durable, subscriber.handle
            )

        judge, limits = Inspector(self.resources, self.policy), self._settings.breaker
        breaker = Breaker(limits.max_missing, limits.max_missing_ratio)
        return Reconciler(self.resources, judge, self._drainer(judge), breaker, catch_up)

    def sweeper(self, want_pass: Callable[[], Awaitable[None]]) -> Sweeper:
        """Settles due jobs one by one, so it never acts on absence."""
        judge = Inspector(self.resources, replace(self.policy, absence_counts=False))
        lease_s = self._settings.sweep.lease.total_seconds()
        return Sweeper(self.resources, judge, self._drainer(judge), lease_s, want_pass)

    def _drainer(self, judge: Inspector) -> Drainer:
        connected, when = self.connected, self._settings.backup.when
        backup_writer = (
            BackupWriter(connected.snapshots, self.backup_store, when, connected.actor) if when != "never" else None
        )
        return Drainer(self.resources, judge, self._settings.sweep.lease.total_seconds(), backup_writer=backup_writer)

    def preparer(self) -> Preparer:
        """Makes a job's name clean and safe before the job is started again."""
        desired = desired_streams(self._settings.events)

        async def say(job_id: str, status: str) -> None:
            await emit(self.connected.reads, desired, job_id, status, None)

        judge = Inspector(self.resources, self.policy)
        return Preparer(self.resources, judge, self._settings.sweep.lease.total_seconds(), say)

    def protector(self) -> Protector:
        """Protects streams."""
        judge = Inspector(self.resources, self.policy)
        return Protector(self.resources, judge, self._settings.sweep.lease.total_seconds())

    def overview(self) -> Overview:
        """For whoever looks on."""
        audit = self.connected.audit
        return Overview(
            self.resources,
            Inspector(self.resources, self.policy),
            audit,
            DeletedStreams(self.resources, audit, self.backup_store),
        )

    def orders(self) -> Orders:
        """For the page, where orders are taken there."""
        past = DeletedStreams(self.resources, self.connected.audit, self.backup_store)
        return Orders(self.resources, self.policy, self.protector(), self.restorer(), past)

    def restorer(self, scratch: Scratch | None = None) -> Restorer:
        """Brings back what was deleted."""
        return Restorer(self.connected.snapshots, self.resources.recorder, scratch)
