"""The worker: FastStream subscribers, the sweeper and the periodic reconcile in one process.

`faststream run reactor.app:app` and `reactor worker` start the same thing. A loop or subscriber that dies takes the
process down; an outage of NATS or Redis does not, at start or later.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import Any, TypeVar

import nats.errors
import structlog
from faststream import AckPolicy, FastStream
from faststream.nats import JStream, NatsBroker, PullSub
from faststream.nats.security import NatsCredentials, NatsNKey, NatsSecurity, NatsToken, NatsUserPassword
from faststream.security import BaseSecurity
from nats.js.api import ConsumerConfig

from reactor.config.settings import LOOPBACK, NatsSettings, Settings
from reactor.controller.intake import KNOWN_LIVE, AdvisorySubscriber, EagerPull, LifecycleSubscriber
from reactor.controller.reconciler import PassOptions, Reconciler
from reactor.core.backoff import backoff
from reactor.core.events import SubjectTemplate
from reactor.core.report import Report
from reactor.directories.events import describe_outage
from reactor.jetstream.client import PING_INTERVAL_S, JetStream, JetStreamError, NotFound, TooOld
from reactor.jetstream.topology import (
    ADVISORY_SUBJECTS,
    FORMER_ADVISORIES,
    Provision,
    provision,
    remove_former_advisories,
)
from reactor.operate.queries import STEP_S, Overview
from reactor.store.ledger import Lease, Ledger, LedgerError
from reactor.telemetry.alerts import Alerts, Kind
from reactor.telemetry.logs import FASTSTREAM
from reactor.telemetry.metrics import Metrics
from reactor.telemetry.traces import tracing
from reactor.web import asyncapi
from reactor.web.server import Endpoint, HttpError, application
from reactor.worker.wiring import Connections, UseCases, alerts_of, parts, provision_safely, servers_of, tls_context

BATCH = 256
POLL_S = 2.0
"""How long the sweeper rests at most: jobs that other replicas left behind wake nobody here."""
WATCH_S = 5.0
SILENT_S = 120.0
"""A subscriber that has not asked for messages for so long is dead."""
STALLED_S = 30.0
"""Events that wait for so long while none is acked: whoever should hear them is asked to connect anew."""
GRACEFUL_S = 8.0
PASS_GAP_S = 5.0
"""Between two full passes, however many are wanted."""
PASS_LEASE_S = 30.0
"""How long after a replica's end another one may begin a pass; renewed as long as it lives."""

log = structlog.get_logger(__name__)

Result = TypeVar("Result")
Tick = Callable[[], Awaitable[float | None]]
Loop = tuple[str, Tick, float, asyncio.Event]
"""Name, what to do (the answer is when to do it again), how long to rest at most (s), and what ends the rest."""


class SubscriberDied(Exception):
    """A subscriber has stopped asking for messages, and nothing else would show it."""


class Worker:
    """One process's worth of work, from the first connection to the last."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is connected before the app runs."""
        self._settings = settings
        self._stop = asyncio.Event()
        self._due = asyncio.Event()
        self._pass_wanted = asyncio.Event()
        self._lost = asyncio.Event()
        self._passed = asyncio.Event()
        self._pulls: dict[str, EagerPull] = {}
        self._flow = Flow()
        self._overview: Overview | None = None
        self._metrics = _metrics(settings)
        self.broker = _broker(settings, self._metrics)
        self.app = _App(self._stop, self.broker, self._lifespan)

    @asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[None]:
        log.info("worker starting", version=version("jetstream-reactor"))
        endpoint = self._endpoint()
        async with (
            tracing(os.environ),
            parts(self._settings, _complain) as connected,
            _served(endpoint) as serving,
        ):
            ticks = await self._until_ready(connected)
            if ticks is None:  # stopped while waiting for the servers
                yield
                return
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._loop(*tick), name=tick[0]) for tick in ticks]
                tasks.append(group.create_task(self._as_long_as(serving), name="http"))
                yield
                self._stop.set()
                await asyncio.wait(tasks, timeout=GRACEFUL_S)
                for task in tasks:
                    task.cancel()
        log.info("worker stopped")

    def _endpoint(self) -> Endpoint | None:
        """The HTTP endpoint, bound already; None where it is off. Raises HttpError."""
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
        )
        endpoint = Endpoint(app, http.host, http.port, stopping)
        log.info("HTTP endpoint", address=endpoint.address)
        if http.host not in LOOPBACK and token is None:
            log.warning("everyone who reaches the HTTP endpoint can read it", address=endpoint.address)
        return endpoint

    async def _not_ready(self) -> list[str]:
        """Why this worker cannot do its work now."""
        if self._overview is None:
            return ["waiting for NATS and Redis"]
        paused = self._overview.paused
        reasons = [f"deletes are paused: {paused}"] if paused else []
        reasons += [f"the subscriber for {name} is stuck" for name in self._stuck()]
        reasons += [self._flow.stalled] if self._flow.stalled else []
        try:
            await self._overview.reach()
        except (JetStreamError, LedgerError) as error:
            reasons.append(describe_outage(error))
        return reasons

    async def _until_ready(self, connected: Connections) -> list[Loop] | None:
        """Wait for NATS and Redis, as long as it takes. Raises ProvisionError and TooOld: waiting would not help."""
        failures = 0
        while not self._stop.is_set():
            try:
                return await self._or_stop(self._prepare(connected))
            except TooOld:
                raise
            except (JetStreamError, LedgerError) as error:
                failures += 1
                log.warning("waiting for NATS and Redis", error=describe_outage(error), failures=failures)
                await self._rest(backoff(failures, first=0.2, last=5.0), self._stop)
        return None

    async def _prepare(self, connected: Connections) -> list[Loop]:
        """Provision, connect, subscribe; the loops to run."""
        provisioned = await provision_safely(connected)
        await self._make_room(connected)
        alerts = alerts_of(connected)
        crew = UseCases(connected, provisioned, self._metrics, note_coverage=alerts.note_coverage)
        lifecycle = await crew.lifecycle_subscriber(self._due.set)
        reconciler = crew.reconciler(lifecycle)
        await self.broker.connect()
        subscribers = self._subscribe(connected, crew, provisioned, lifecycle)
        self.app.after_startup(lambda: self._begin(subscribers))
        look_after = self._watch_tick(connected, crew, provisioned, subscribers)
        every = self._settings.reconcile.interval.total_seconds()

        async def want_pass() -> None:
            await connected.ledger.hasten_pass()
            self._pass_wanted.set()

        async def watch() -> None:
            await look_after()
            for one in (sweeper, reconciler):
                await one.recheck_rights()
            _note_breaker(alerts, await connected.ledger.last_pass())

        def paused() -> str | None:
            return sweeper.paused or reconciler.paused

        def note_paused() -> None:
            alerts.note(Kind.DELETES_PAUSED, paused())

        sweeper = crew.sweeper(want_pass)
        overview = crew.overview(lifecycle, paused)
        loops: list[Loop] = [
            ("sweep", _then(sweeper.tick, note_paused), POLL_S, self._due),
            ("reconcile", _then(self._reconcile_tick(connected, reconciler), note_paused), every, self._pass_wanted),
            ("watch", _then(watch, note_paused), WATCH_S, self._lost),
            ("alerts", alerts.tell, WATCH_S, alerts.changed),
        ]
        if self._settings.http.port:
            self._overview = overview
            self._metrics.watch(lambda: overview.paused)
            loops.append(("sample", overview.sample, STEP_S, asyncio.Event()))
            loops.append(("measure", self._measure_tick(overview), STEP_S, self._passed))
        return loops

    async def _make_room(self, connected: Connections) -> None:
        """For a job system's own stream of advisories."""
        if await remove_former_advisories(connected.reads, connected.wishes.durable):
            log.info("removed the stream that reactor 0.1 made, as advisories need none", stream=FORMER_ADVISORIES)

    def _subscribe(
        self, connected: Connections, crew: UseCases, provisioned: Provision, lifecycle: LifecycleSubscriber
    ) -> dict[str, Any]:
        """FastStream's subscribers, by name; they start with the broker. Those of advisories are a queue group."""
        source, durable = provisioned.events, connected.wishes.durable
        subscriber = self.broker.subscriber(
            source.subjects[0],
            config=ConsumerConfig(filter_subjects=[]),
            stream=JStream(source.stream, declare=False),
            durable=durable,
            pull_sub=PullSub(batch_size=BATCH, timeout=5.0, batch=True),
            ack_policy=AckPolicy.MANUAL,
            decoder=_raw,
        )
        subscriber(lifecycle.handle)
        self._mend("lifecycle events", subscriber, connected.hearing)
        advisories = AdvisorySubscriber(crew.directory(), connected.ledger, connected.audit, crew.policy)
        for subject in ADVISORY_SUBJECTS:
            self.broker.subscriber(subject, durable, decoder=_raw)(advisories.handle)
        if source.difference:
            log.warning("durable differs from the wished one", stream=source.stream, difference=source.difference)
        return {"lifecycle events": subscriber}

    def _begin(self, subscribers: Mapping[str, Any]) -> None:
        log.info("worker started", subscribers=list(subscribers))

    def _mend(self, name: str, subscriber: Any, hearing: JetStream) -> None:  # noqa: ANN401  # FastStream's type is internal
        """See EagerPull for what is wrong with the subscription as FastStream makes it, from its first fetch on.

        The messages come over a connection of our own, whose client survives any subject.
        """

        def lost(error: str) -> None:
            log.warning("subscriber lost its consumer", subscriber=name, error=error)
            self._lost.set()

        async def create_subscription() -> None:
            if subscriber.subscription:
                return
            context = await hearing.context()
            pull = await context.pull_subscribe(
                subject=subscriber.subject.broker_address, config=subscriber.config, **subscriber.extra_options
            )
            subscriber.subscription = self._pulls[name] = EagerPull(pull, BATCH, lost)
            subscriber.add_task(subscriber._consume_pull)  # noqa: SLF001  # FastStream offers no place in between

        subscriber._create_subscription = create_subscription  # noqa: SLF001  # as above

    def _reconcile_tick(self, connected: Connections, reconciler: Reconciler) -> Tick:
        """One pass an interval among all replicas, never two at once; and one at the start, as settings may be new."""
        ledger = connected.ledger
        every, failures, first = self._settings.reconcile.interval.total_seconds(), 0, True

        async def tick() -> float | None:
            nonlocal failures, first
            if first:
                await ledger.hasten_pass()
            lease, wait = await ledger.begin_pass(PASS_LEASE_S)
            if lease is None:
                return wait
            rest, first = None, False
            try:
                async with _renewed(ledger, lease):
                    await self._make_room(connected)  # an old replica may have made it again
                    report = await reconciler.run(PassOptions(under=lease))
                _log_pass(report)
                self._passed.set()
                failures = failures + 1 if report.error else 0
                rest = backoff(failures, first=PASS_GAP_S, last=every) if failures else every
            finally:
                await ledger.end_pass(lease, rest)
            await self._rest(min(PASS_GAP_S, every), self._stop)
            return rest

        return tick

    def _measure_tick(self, overview: Overview) -> Tick:
        """The gauges, now and then and after each pass, so that a scrape need ask nobody."""

        async def tick() -> float | None:
            try:
                self._metrics.measured(await overview.measure())
            except (JetStreamError, LedgerError):
                self._metrics.unmeasured()
                raise
            return None

        return tick

    def _watch_tick(
        self, connected: Connections, crew: UseCases, provisioned: Provision, subscribers: Mapping[str, Any]
    ) -> Tick:
        """The watchdog: a durable or stream that was deleted is made again, a ledger that lost history rebuilt."""
        directory, durable, stream = crew.directory(), connected.wishes.durable, provisioned.events.stream

        async def tick() -> float | None:
            self._check_alive()
            try:
                self._flow.note(await connected.reads.consumer_info(stream, durable))
            except NotFound as error:
                log.warning("a stream or durable was deleted; making it again", error=str(error))
                await provision(connected.reads, connected.wishes)
                await self._restart(subscribers)
            if self._flow.wants_connection():
                log.warning("connecting anew", why=self._flow.stalled)
                await connected.hearing.close()
                await self._restart(subscribers)
            await directory.ensure()
            return None

        return tick

    def _check_alive(self) -> None:
        for name in self._stuck():
            message = f"the subscriber for {name} has asked for no messages in {SILENT_S:g} s"
            raise SubscriberDied(message)

    def _stuck(self) -> list[str]:
        """Subscribers that do not ask for messages any more."""
        return [name for name, pull in self._pulls.items() if time.monotonic() - pull.asked_at > SILENT_S]

    async def _restart(self, subscribers: Mapping[str, Any]) -> None:
        for subscriber in subscribers.values():
            await subscriber.stop()
            await subscriber.start()

    async def _loop(self, name: str, tick: Tick, every: float, wake: asyncio.Event) -> None:
        """Tick until the worker is to stop. A loop that dies stops the others: cancelling them is not enough.

        Python 3.11's `wait_for` swallows a cancellation that arrives together with its answer.
        """
        try:
            await self._ticks(name, tick, every, wake)
        finally:
            self._stop.set()

    async def _ticks(self, name: str, tick: Tick, every: float, wake: asyncio.Event) -> None:
        """Tick, rest, again. An outage is said, and when it is over; anything else ends the process."""
        failures = 0
        while not self._stop.is_set():
            wake.clear()
            try:
                delay = await tick()
            except (JetStreamError, LedgerError) as error:
                failures += 1
                delay = backoff(failures, first=0.5, last=15.0)
                _say_failure(name, failures, error)
            else:
                if failures:
                    log.info("works again", loop=name, after_failures=failures)
                failures = 0
            await self._rest(every if delay is None else min(delay, every), wake)

    async def _as_long_as(self, serving: asyncio.Task[None]) -> None:
        """An endpoint that dies takes the process down with it."""
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({serving, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if serving.done():
            self._stop.set()
            serving.result()
            raise HttpError("the HTTP endpoint ended by itself")

    async def _or_stop(self, work: Coroutine[Any, Any, Result]) -> Result | None:
        """The result, or None where the worker is to stop first."""
        task, stop = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if task.done():
            return task.result()
        task.cancel()
        return None

    async def _rest(self, seconds: float, wake: asyncio.Event) -> None:
        """Until the time is over, or `wake`, or the worker is to stop."""
        waits = [asyncio.ensure_future(event.wait()) for event in {wake, self._stop}]
        try:
            await asyncio.wait(waits, timeout=max(seconds, 0.0), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


class Flow:
    """Whether lifecycle events are heard: some wait, and none is acked, whatever ended or stalls the reading."""

    def __init__(self) -> None:
        """Nothing has been seen yet."""
        self._floor = -1
        self._moved_at = self._mended_at = time.monotonic()
        self.stalled: str | None = None
        """What is wrong, in words; None where all is well."""

    def note(self, consumer: Mapping[str, Any]) -> None:
        """An answer of CONSUMER.INFO."""
        floor, waiting = consumer["ack_floor"]["stream_seq"], consumer["num_pending"] + consumer["num_ack_pending"]
        if floor != self._floor or not waiting:
            self._floor, self._moved_at = floor, time.monotonic()
        since = time.monotonic() - self._moved_at
        self.stalled = (
            f"{waiting} lifecycle events wait, and none was acked for {since:.0f} s" if since > STALLED_S else None
        )

    def wants_connection(self) -> bool:
        """Whether to connect anew now: while it is stalled, once in a while."""
        wants = self.stalled is not None and time.monotonic() - self._mended_at > STALLED_S
        if wants:
            self._mended_at = time.monotonic()
        return wants


class _App(FastStream):
    """FastStream's application, whose exit is also heard while it still waits for its servers."""

    def __init__(self, stop: asyncio.Event, broker: NatsBroker, lifespan: Callable[[], Any]) -> None:
        super().__init__(broker, lifespan=lifespan, logger=logging.getLogger(FASTSTREAM))
        self._stop = stop

    def exit(self) -> None:
        self._stop.set()
        super().exit()

    async def stop(self) -> None:
        try:
            await super().stop()
        except (OSError, RuntimeError, nats.errors.Error) as error:  # what it has not been told comes again
            log.info("stopped without NATS", error=str(error))


async def _raw(message: Any) -> Any:  # noqa: ANN401  # FastStream's batch message; its raw form is a list of nats-py's
    """No decoding: what a message says is read by `reactor.events`."""
    return message.raw_message


def _metrics(settings: Settings) -> Metrics:
    return Metrics(
        statuses=KNOWN_LIVE | set(settings.policy.terminal_statuses),
        events=SubjectTemplate(settings.events.subject),
        interval_s=settings.reconcile.interval.total_seconds(),
    )


def _broker(settings: Settings, metrics: Metrics) -> NatsBroker:
    return NatsBroker(
        servers_of(settings.nats),
        name="reactor",
        security=_security(settings.nats),
        max_reconnect_attempts=-1,  # after the default 60 FastStream's pull loop spins and freezes the process
        reconnect_time_wait=1,
        ping_interval=PING_INTERVAL_S,
        js_options={"domain": settings.nats.domain} if settings.nats.domain else {},
        graceful_timeout=GRACEFUL_S,
        log_level=logging.DEBUG,  # else two lines a batch
        apply_types=False,  # injection costs more than the whole of the handling
        logger=logging.getLogger(FASTSTREAM),
        middlewares=[metrics.middleware()] if settings.http.port else [],
    )


def _security(nats: NatsSettings) -> BaseSecurity | None:
    """FastStream's form of the credentials; those in a URL need none."""
    tls = tls_context(nats)
    if nats.creds:
        return NatsCredentials(str(nats.creds), ssl_context=tls)
    if nats.nkey:
        return NatsNKey.from_seed(nats.nkey.get_secret_value(), ssl_context=tls)
    if nats.token:
        return NatsToken(nats.token.get_secret_value(), ssl_context=tls)
    if nats.user:
        password = nats.password.get_secret_value() if nats.password else ""
        return NatsUserPassword(nats.user, password, ssl_context=tls)
    return NatsSecurity(ssl_context=tls) if tls else None


@asynccontextmanager
async def _served(endpoint: Endpoint | None) -> AsyncIterator[asyncio.Task[None]]:
    """The endpoint at work, ended at the end; where there is none, something that never ends by itself."""
    serving = asyncio.create_task(endpoint.serve() if endpoint else _for_ever(), name="endpoint")
    try:
        yield serving
    finally:
        if endpoint:
            endpoint.stop()
            await asyncio.wait({serving}, timeout=GRACEFUL_S)
        serving.cancel()


async def _for_ever() -> None:
    await asyncio.Event().wait()


@asynccontextmanager
async def _renewed(ledger: Ledger, lease: Lease) -> AsyncIterator[None]:
    """Hold a lease for as long as this takes. Where Redis is away or it is lost, it runs out, and drains find out."""

    async def renew() -> None:
        held = True
        while held:
            await asyncio.sleep(lease.seconds / 4)
            with suppress(LedgerError):
                held = await ledger.renew(lease)

    renewing = asyncio.create_task(renew(), name="renew lease")
    try:
        yield
    finally:
        renewing.cancel()


def _complain(error: str) -> None:
    log.debug("NATS says", error=error)


def _say_failure(name: str, failures: int, error: Exception) -> None:
    log.warning("failed, trying again", loop=name, error=describe_outage(error), failures=failures)


def _then(tick: Tick, note: Callable[[], None]) -> Tick:
    """The same, and a note of how it is after it, also where it failed."""

    async def both() -> float | None:
        try:
            return await tick()
        finally:
            note()

    return both


def _note_breaker(alerts: Alerts, report: Mapping[str, Any] | None) -> None:
    """Whichever replica or command ran the last full pass. One that broke off says nothing of the breaker."""
    if report and report["error"] is None:
        alerts.note(Kind.BREAKER_TRIPPED, report["breaker"])


def _log_pass(report: Report) -> None:
    counts = {key: value for key, value in report.as_dict().items() if key not in {"streams", "started_at"}}
    log.info("reconcile done", **counts)
    if why := report.error or report.breaker:
        log.warning("reconcile incomplete", why=why)


def build(settings: Settings) -> FastStream:
    """The application, ready to run."""
    return Worker(settings).app
