"""From settings to parts: the one place that turns plain values into connected objects.

Adapters and use cases never read settings; what they need is handed to them here.
"""

import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import nats.errors
import structlog
from aiolimiter import AsyncLimiter
from nats.aio.msg import Msg
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from reactor.config.settings import NatsSettings, Settings
from reactor.controller.drain import Companions, Drainer
from reactor.controller.intake import DeadLetters, LifecycleSubscriber, consume_pending
from reactor.controller.reconciler import Reconciler
from reactor.controller.retries import Failures
from reactor.controller.sweeper import Sweeper
from reactor.core.events import SubjectTemplate
from reactor.core.model import nanoseconds, parse_instant
from reactor.core.observer import FORGETFUL, Observer
from reactor.core.policy import Breaker, Policy
from reactor.directories.events import Directory
from reactor.jetstream.client import REQUEST_TIMEOUT_S, JetStream, JetStreamError
from reactor.jetstream.topology import (
    DEAD_LETTERS,
    DesiredStreams,
    Provision,
    ProvisionError,
    find_lifecycle_stream,
    provision,
    wrong_account,
)
from reactor.operate.doctor.examine import Doctor
from reactor.operate.queries import Overview
from reactor.store.audit import Audit
from reactor.store.health import RedisHealth
from reactor.store.ledger import Ledger
from reactor.store.scripts import Scripts
from reactor.telemetry.alerts import Alerts
from reactor.telemetry.journal import Journal

RECORD_TTL_S = 7 * 86_400.0
INSTANCE_ID = f"{socket.gethostname()}:{os.getpid()}"
"""This process, in the audit."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Connections:
    """What every command works with, not connected yet: connections open at their first use."""

    settings: Settings
    reads: JetStream
    effects: JetStream
    hearing: JetStream
    redis: Redis
    ledger: Ledger
    audit: Audit
    wishes: DesiredStreams


@asynccontextmanager
async def parts(settings: Settings, on_error: Callable[[str], None] = lambda _: None) -> AsyncIterator[Connections]:
    """The parts, closed at the end. `on_error` hears what the NATS server complains of."""
    options, domain = nats_options(settings.nats), settings.nats.domain
    async with AsyncExitStack() as stack:
        reads = JetStream(options, domain=domain, on_error=on_error)
        effects = JetStream(options, domain=domain, on_error=on_error, buffered=False)
        hearing = JetStream(options, domain=domain, on_error=on_error)
        redis: Redis = Redis.from_url(
            settings.redis.url.get_secret_value(),
            decode_responses=True,
            encoding_errors="surrogateescape",  # what is no text must not break the connection
            socket_timeout=REQUEST_TIMEOUT_S,
            socket_connect_timeout=5.0,
            protocol=2,
            retry=Retry(NoBackoff(), 1, supported_errors=(RuntimeError,)),  # type: ignore[arg-type]  # as written below
        )
        stack.push_async_callback(redis.aclose)
        stack.push_async_callback(hearing.close)
        stack.push_async_callback(effects.close)
        stack.push_async_callback(reads.close)
        namespace = settings.redis.namespace
        scripts = Scripts(redis)
        ledger, audit = Ledger(redis, scripts, namespace, RECORD_TTL_S), Audit(redis, scripts, namespace)
        yield Connections(settings, reads, effects, hearing, redis, ledger, audit, desired_streams(settings))


async def provision_safely(parts: Connections) -> Provision:
    """Find or declare the streams. Raises ProvisionError where this looks like the wrong account.

    A ledger in Redis was built from a lifecycle stream; an account without any is hardly the same job system.
    """
    if await find_lifecycle_stream(parts.reads, parts.wishes) is None and (owner := await parts.ledger.owner()):
        raise ProvisionError(wrong_account(owner, parts.wishes))
    return await provision(parts.reads, parts.wishes)


def desired_streams(settings: Settings) -> DesiredStreams:
    """How the streams should be where reactor declares them."""
    events = settings.events
    return DesiredStreams(
        events_stream=events.stream,
        events_subject=SubjectTemplate(events.subject),
        durable=events.durable,
        replicas=events.replicas,
        max_age=nanoseconds(events.max_age),
        letters_max_msgs=events.dead_letters_max_msgs,
        letters_max_bytes=events.dead_letters_max_bytes,
    )


def policy_of(settings: Settings, own_streams: frozenset[str] = frozenset({DEAD_LETTERS})) -> Policy:
    """The rules, as the core takes them."""
    rules = settings.policy
    return Policy(
        pattern=rules.regex,
        age_guard=nanoseconds(rules.age_guard),
        terminal_grace=nanoseconds(rules.terminal_grace),
        idle_guard=nanoseconds(rules.idle_guard),
        missing_guard=nanoseconds(rules.missing_guard),
        dispute_guard=nanoseconds(rules.dispute_guard),
        terminal_statuses=frozenset(rules.terminal_statuses),
        protect=rules.protect,
        own_streams=own_streams,
    )


def nats_options(nats_settings: NatsSettings) -> dict[str, Any]:
    """nats-py's options for `connect`."""
    options: dict[str, Any] = {"servers": servers_of(nats_settings), "name": "reactor", "connect_timeout": 5}
    if nats_settings.creds:
        options["user_credentials"] = str(nats_settings.creds)
    if nats_settings.user:
        options["user"] = nats_settings.user
    if nats_settings.password:
        options["password"] = nats_settings.password.get_secret_value()
    if nats_settings.token:
        options["token"] = nats_settings.token.get_secret_value()
    if nats_settings.nkey:
        options["nkeys_seed_str"] = nats_settings.nkey.get_secret_value()
    if context := tls_context(nats_settings):
        options["tls"] = context
    return options


def servers_of(nats_settings: NatsSettings) -> list[str]:
    """The server URLs, with whatever credentials they hold."""
    return [url.strip() for url in nats_settings.url.get_secret_value().split(",")]


def tls_context(nats_settings: NatsSettings) -> ssl.SSLContext | None:
    """For a private authority or a client certificate; None leaves it to the URL."""
    if not (nats_settings.tls_ca or nats_settings.tls_cert):
        return None
    context = ssl.create_default_context(cafile=nats_settings.tls_ca and str(nats_settings.tls_ca))
    if nats_settings.tls_cert:
        context.load_cert_chain(str(nats_settings.tls_cert), nats_settings.tls_key and str(nats_settings.tls_key))
    return context


def utc_now() -> int:
    """The worker's own clock (ns), for reports only: no verdict ever sees it."""
    return parse_instant(datetime.now(UTC).isoformat())  # noqa: TID251  # the one clock of the shell


def pace_of(max_rate: float | None) -> Callable[[], Awaitable[None]]:
    """Waits for a turn, so that no more than `max_rate` a second begin."""
    if max_rate is None:
        return _at_once
    limiter = AsyncLimiter(1, 1 / max_rate)
    return limiter.acquire


async def _at_once() -> None:
    """No limit."""


def doctor_of(parts: Connections) -> Doctor:
    """Looks at what is there, provisioned or not."""
    settings = parts.settings
    return Doctor(
        reads=parts.reads,
        effects=parts.effects,
        health=RedisHealth(parts.redis, settings.redis.namespace),
        ledger=parts.ledger,
        policy=policy_of(settings),
        wishes=parts.wishes,
        companions=bool(settings.policy.companions),
        domain=settings.nats.domain,
        interval_s=settings.reconcile.interval.total_seconds(),
        clock=utc_now,
    )


async def announce(parts: Connections, subject: str, data: bytes) -> None:
    """Tell who listens; what is told has happened, so nothing that fails here may look like its failure."""
    try:
        await (await parts.reads.connect()).publish(subject, data)
    except (JetStreamError, nats.errors.Error) as error:
        log.debug("not told", subject=subject, error=str(error))


def alerts_of(parts: Connections) -> Alerts:
    """Tells of this process's alerts."""
    return Alerts(partial(announce, parts), INSTANCE_ID, utc_now)


class UseCases:
    """Use cases for one provisioned account. Each judges at its own times, by a directory and drainer of its own."""

    def __init__(
        self,
        parts: Connections,
        provisioned: Provision,
        observer: Observer = FORGETFUL,
        *,
        assume_missing: bool = False,
        note_coverage: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        """`observer` is told of what happens, `note_coverage` what the ledger lacks, whenever that was looked at.

        `assume_missing` is an operator's word for one full pass.
        """
        self._parts = parts
        self._provisioned = provisioned
        self._observer = observer
        self._note_coverage = note_coverage
        self._journal = Journal(INSTANCE_ID)
        self._pace = pace_of(parts.settings.sweep.max_rate)
        self.policy = replace(
            policy_of(parts.settings, provisioned.own_streams | {DEAD_LETTERS}), assume_missing=assume_missing
        )

    def directory(self) -> Directory:
        """A directory with a view of its own."""
        events, durable = self._provisioned.events, self._parts.wishes.durable
        template = self._parts.wishes.events_subject
        parts = self._parts
        return Directory(
            parts.reads,
            parts.ledger,
            self.policy,
            template=template,
            source=events,
            durable=durable,
            note=self._note_coverage,
        )

    def drainer(self, directory: Directory, policy: Policy) -> Drainer:
        """The effect, judging by these."""
        parts = self._parts
        return Drainer(
            reads=parts.reads,
            effects=parts.effects,
            directory=directory,
            ledger=parts.ledger,
            audit=parts.audit,
            policy=policy,
            companions=Companions(parts.settings.policy.companions),
            lease_s=parts.settings.sweep.lease.total_seconds(),
            by=INSTANCE_ID,
            announce=partial(announce, parts),
            journal=self._journal,
            observer=self._observer,
        )

    async def lifecycle_subscriber(self, wake: Callable[[], None] = lambda: None) -> LifecycleSubscriber:
        """Takes lifecycle messages; connects to learn the server's largest payload."""
        client = await self._parts.reads.connect()
        letters = DeadLetters(self._parts.reads.publish, client.max_payload)
        return LifecycleSubscriber(
            self.directory(),
            letters,
            client.publish,
            terminal_statuses=self.policy.terminal_statuses,
            wake=wake,
            observer=self._observer,
        )

    def reconciler(self, subscriber: LifecycleSubscriber) -> Reconciler:
        """The full pass, which consumes what is pending through the given subscriber."""
        parts, directory, sweep = self._parts, self.directory(), self._parts.settings.sweep

        async def catch_up() -> None:
            await self._consume(subscriber.handle)

        limits = parts.settings.breaker
        return Reconciler(
            reads=parts.reads,
            directory=directory,
            drainer=self.drainer(directory, self.policy),
            ledger=parts.ledger,
            policy=self.policy,
            breaker=Breaker(limits.max_missing, limits.max_missing_ratio),
            lifecycle_stream=self._provisioned.events.stream,
            concurrency=sweep.concurrency,
            catch_up=catch_up,
            failures=self._failures(),
            clock=utc_now,
            pace=self._pace,
            journal=self._journal,
        )

    def sweeper(self, want_pass: Callable[[], Awaitable[None]]) -> Sweeper:
        """Settles due jobs one by one, so it never acts on absence."""
        parts, directory, sweep = self._parts, self.directory(), self._parts.settings.sweep
        policy = replace(self.policy, absence_counts=False)
        lease_s = sweep.lease.total_seconds()
        within_lease = max(1, int(sweep.max_rate * lease_s / 2)) if sweep.max_rate else sweep.concurrency
        return Sweeper(
            reads=parts.reads,
            directory=directory,
            drainer=self.drainer(directory, policy),
            ledger=parts.ledger,
            audit=parts.audit,
            policy=policy,
            batch=min(sweep.concurrency, within_lease),
            lease_s=lease_s,
            failures=self._failures(),
            pace=self._pace,
            want_pass=want_pass,
        )

    def overview(self, subscriber: LifecycleSubscriber, paused: Callable[[], str | None] = lambda: None) -> Overview:
        """For whoever looks on. Each part is its own, so that looking changes no view that judges."""
        directory, parts = self.directory(), self._parts
        return Overview(
            reads=parts.reads,
            directory=directory,
            drainer=self.drainer(directory, self.policy),
            reconciler=self.reconciler(subscriber),
            ledger=parts.ledger,
            audit=parts.audit,
            policy=self.policy,
            dead_letters=DEAD_LETTERS,
            clock=utc_now,
            paused=paused,
        )

    def _failures(self) -> Failures:
        parts = self._parts
        return Failures(
            parts.ledger,
            parts.audit,
            max_attempts=parts.settings.sweep.max_attempts,
            by=INSTANCE_ID,
            clock=utc_now,
            observer=self._observer,
        )

    async def _consume(self, handle: Callable[[Sequence[Msg]], Awaitable[None]]) -> None:
        context = await self._parts.reads.context()
        await consume_pending(context, self._provisioned.events.stream, self._parts.wishes.durable, handle)
