"""The worker: FastStream subscribers, the sweeper and the periodic reconcile in one process.

`faststream run reactor.app:app` and `reactor worker` start the same thing. A loop or subscriber that dies takes the
process down; an outage of NATS or Redis does not, at start or later.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar

import structlog
from faststream import FastStream

from reactor.bootstrap.connections import Connections, connections
from reactor.bootstrap.services import (
    UseCases,
    alerts_of,
    notifier_of,
    provision_missing,
    provision_safely,
    utc_now,
    worker_info,
)
from reactor.config.nats_options import api_prefix, desired_streams, nats_options
from reactor.config.settings import LOOPBACK, Settings
from reactor.core.durations import backoff
from reactor.core.subjects import SubjectTemplate
from reactor.jetstream.errors import JetStreamError, TooOld
from reactor.jetstream.pull_client import SubscriberConnection
from reactor.job_status.ledger_directory import describe_outage
from reactor.operate.actions import StreamActions
from reactor.operate.overview import STEP_S, Overview
from reactor.passes.exhausted import CHECK_S, ExhaustedQueues
from reactor.passes.first_inspections import INSPECT_S, FirstInspections
from reactor.passes.handover import Handover
from reactor.passes.subscribers import AdvisorySubscriber
from reactor.store.due_queue import WakeUps
from reactor.store.keyspace import LedgerError
from reactor.store.workers import BEAT_S
from reactor.telemetry.alerts import Kind
from reactor.telemetry.metrics import Metrics
from reactor.telemetry.notifier import EVERY_S
from reactor.telemetry.traces import tracing
from reactor.web import asyncapi
from reactor.web.server import Endpoint, HttpError, application
from reactor.worker.broker import GRACEFUL_S, App, Broker
from reactor.worker.loops import Loop, rest, run
from reactor.worker.notified import RETRY_S, Notified
from reactor.worker.periodic import PeriodicPass
from reactor.worker.preparing import PrepareService
from reactor.worker.registration import Registration
from reactor.worker.summary import LOOK_S as SUMMARY_S
from reactor.worker.summary import Summary
from reactor.worker.watchdog import WATCH_S, Watchdog

POLL_S = 30.0
"""The longest rest of the sweeper (s), in case a wake-up was lost."""

log = structlog.get_logger(__name__)

Result = TypeVar("Result")


class Worker:
    """One worker process, from the first connection to the last."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is connected before the app runs."""
        self._settings = settings
        self._stop = asyncio.Event()
        self._due = asyncio.Event()
        self._overview: Overview | None = None
        self._watchdog: Watchdog | None = None
        self._actions: StreamActions | None = None
        self._leave: Callable[[], Awaitable[None]] | None = None
        self._metrics = Metrics(
            statuses=set(settings.policy.live_statuses) | set(settings.policy.terminal_statuses),
            events=SubjectTemplate(settings.events.subject),
            interval_s=settings.reconcile.interval.total_seconds(),
        )
        subscriber_connection = SubscriberConnection(
            nats_options(settings.nats), prefix=api_prefix(settings.nats), on_error=_log_nats_error
        )
        self.broker = Broker(subscriber_connection, settings, self._metrics)
        self.app = App(self._stop, self.broker, self._lifespan)

    @asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[None]:
        log.info("worker starting", version=version("jetstream-reactor"))
        endpoint = self._endpoint()
        async with (
            tracing(os.environ),
            connections(self._settings, _log_nats_error) as connected,
            _served(endpoint) as serving,
        ):
            loops = await self._until_ready(connected)
            if loops is None:  # it was stopped while it waited for the servers
                yield
                return
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(run(loop, self._stop), name=loop.name) for loop in loops]
                tasks.append(group.create_task(self._watch_endpoint(serving), name="http"))
                yield
                self._stop.set()
                await asyncio.wait(tasks, timeout=GRACEFUL_S)
                for task in tasks:
                    task.cancel()
            if self._leave:
                with suppress(LedgerError):
                    await self._leave()
            await self.broker.subscriber_connection.close()
        log.info("worker stopped")

    def _endpoint(self) -> Endpoint | None:
        """Return the bound HTTP endpoint; None if it is off. Raises HttpError."""
        http = self._settings.http
        if not http.port:
            return None
        token = http.token.get_secret_value() if http.token else None
        contract = asyncapi.document(SubjectTemplate(self._settings.events.subject), version("jetstream-reactor"))
        hosts, stopping = LOOPBACK | {http.host, *http.hosts}, asyncio.Event()
        app = application(
            lambda: self._overview,
            self._not_ready,
            self._metrics.exposition,
            contract,
            token=token,
            hosts=hosts,
            stopping=stopping,
            actions=lambda: self._actions,
        )
        endpoint = Endpoint(app, http.host, http.port, stopping)
        log.info("HTTP endpoint", address=endpoint.address)
        if http.host not in LOOPBACK and token is None:
            log.warning("everyone who reaches the HTTP endpoint can read it", address=endpoint.address)
        return endpoint

    async def _not_ready(self) -> list[str]:
        """Return why this worker is not ready; empty if it is."""
        if self._overview is None or self._watchdog is None:
            return ["waiting for NATS and Redis"]
        paused = self._overview.paused
        reasons = [f"deletes are paused: {paused}"] if paused else []
        reasons += self._watchdog.complaints()
        try:
            await self._overview.reach()
        except (JetStreamError, LedgerError) as error:
            reasons.append(describe_outage(error))
        return reasons

    async def _until_ready(self, connected: Connections) -> list[Loop] | None:
        """Wait for NATS and Redis without a limit. Raises ProvisionError and TooOld, which waiting does not fix."""
        failures = 0
        while not self._stop.is_set():
            try:
                return await self._or_stop(self._prepare(connected))
            except TooOld:
                raise
            except (JetStreamError, LedgerError) as error:
                failures += 1
                log.warning("waiting for NATS and Redis", error=describe_outage(error), failures=failures)
                await rest(backoff(failures, first=0.2, last=5.0), self._stop)
        return None

    async def _prepare(self, connected: Connections) -> list[Loop]:
        """Provision streams, connect and subscribe. Return the loops to run."""
        provisioned = await provision_safely(connected)
        source, durable = provisioned.events, self._settings.events.durable
        alerts = alerts_of(connected)
        cases = UseCases(connected, provisioned, (self._metrics,), note_coverage=alerts.note_coverage)
        first_inspections = FirstInspections(cases.resources)
        lifecycle = await cases.lifecycle_subscriber(self._due.set, first_inspections.add)
        await self.broker.connect()
        exhausted = ExhaustedQueues(cases.resources)
        advisories = AdvisorySubscriber(cases.resources, exhausted)
        self.broker.subscribe_all(source, durable, lifecycle, advisories, PrepareService(cases.prepare))
        self.app.after_startup(_log_started)

        interval_s = self._settings.reconcile.interval.total_seconds()
        periodic = PeriodicPass(
            connected.ledger,
            cases.reconciler(lifecycle),
            interval_s,
            self._stop,
            handover=Handover(cases.resources, self._stop),
        )
        desired, rights = desired_streams(self._settings.events), cases.resources.rights
        self._watchdog = Watchdog(
            cases.resources,
            self.broker,
            source.stream,
            alerts,
            desired=desired,
            provision=partial(provision_missing, connected),
        )
        if provisioned.lacking:
            await self._watchdog.provision_missing()
        overview, notifier = cases.overview(), notifier_of(connected)
        summary = Summary(
            overview.trail,
            alerts,
            utc_now,
            connected.ledger.sent_notices.remember,
            send=notifier.send if notifier else None,
            daily=self._settings.notify.daily,
        )
        registration = Registration(
            cases.resources, worker_info(connected, cases.resources.policy), self._metrics.connected
        )
        self._leave = partial(connected.ledger.workers.leave, registration.info.instance)
        await registration.tick()
        loops = [
            Loop("register", registration.tick, BEAT_S),
            Loop("sweep", cases.sweeper(periodic.request).tick, POLL_S, self._due),
            Loop("wake", partial(self._wake, WakeUps(connected.space)), 0.0),
            Loop("reconcile", periodic.tick, interval_s, periodic.wanted),
            Loop("watch", self._watchdog.tick, WATCH_S, self.broker.subscriber_connection.lost),
            Loop("alerts", alerts.publish_changes, WATCH_S, alerts.changed),
            Loop("exhausted", exhausted.tick, CHECK_S),
            Loop("summary", summary.tick, SUMMARY_S),
            Loop("first inspections", first_inspections.tick, INSPECT_S),
        ]
        if notifier:
            alerts.on_change = notifier.note
            loops.append(Loop("notify", notifier.tick, EVERY_S, notifier.changed))
        if connected.jobs is not None and (listener := connected.jobs.listener()) is not None:
            notified = Notified(listener, connected.ledger.due, cases.resources.policy, periodic.request)
            loops.append(Loop("notifications", partial(self._notified, notified), RETRY_S))
        if self._settings.http.port:
            loops += self._loops_of_endpoint(overview, periodic.passed)
            self._actions = cases.actions() if self._settings.http.orders else None
        rights.on_change = partial(alerts.note, Kind.DELETES_PAUSED)
        return loops

    async def _wake(self, wake_ups: WakeUps) -> None:
        """Wake the sweeper if any process has scheduled something earlier."""
        if await self._or_stop(wake_ups.wait(POLL_S)):
            self._due.set()

    async def _notified(self, notified: Notified) -> float | None:
        return await self._or_stop(notified.tick())

    def _loops_of_endpoint(self, overview: Overview, passed: asyncio.Event) -> Iterable[Loop]:
        """Return the loops that sample figures for the page and the metrics, so that a scrape causes no requests."""
        self._overview = overview
        self._metrics.watch(lambda: overview.paused)
        gauges = Gauges(overview, self._metrics)
        return Loop("sample", overview.sample, STEP_S), Loop("measure", gauges.tick, STEP_S, passed)

    async def _watch_endpoint(self, serving: asyncio.Task[None]) -> None:
        """Watch the endpoint. If it dies, end the process."""
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({serving, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if serving.done():
            self._stop.set()
            serving.result()
            raise HttpError("the HTTP endpoint ended by itself")

    async def _or_stop(self, work: Coroutine[Any, Any, Result]) -> Result | None:
        """Return the result of the work, or None if the worker is stopped first."""
        task, stop = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for item in (task, stop):
                item.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)


@dataclass(eq=False, repr=False)
class Gauges:
    """Sets the gauges of `metrics` from `overview`, periodically and after each pass."""

    overview: Overview
    metrics: Metrics

    async def tick(self) -> float:
        """Set the gauges, or after an error mark them as unknown. Return the seconds until the next time."""
        try:
            self.metrics.measured(await self.overview.measure())
        except (JetStreamError, LedgerError):
            self.metrics.unmeasured()
            raise
        return STEP_S


@asynccontextmanager
async def _served(endpoint: Endpoint | None) -> AsyncIterator[asyncio.Task[None]]:
    """Run the endpoint, or, if there is none, a task that never ends. Stop it at the end."""
    serving = asyncio.create_task(endpoint.serve() if endpoint else _never(), name="endpoint")
    try:
        yield serving
    finally:
        if endpoint:
            endpoint.stop()
            await asyncio.wait({serving}, timeout=GRACEFUL_S)
        serving.cancel()


async def _never() -> None:
    await asyncio.Event().wait()


def _log_nats_error(error: str) -> None:
    log.debug("NATS reports an error", error=error)


def _log_started() -> None:
    log.info("worker started", subscribers=["lifecycle events"])


def build(settings: Settings) -> FastStream:
    """Return the application, ready to run."""
    return Worker(settings).app
