"""From settings to connections. Each connection opens at its first use."""

import getpass
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, cast

import nats.errors
import structlog
from redis.asyncio import ConnectionPool, Redis, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from reactor.config.nats_options import api_prefix, nats_options
from reactor.config.redis_url import RedisAddress, parse_redis_url
from reactor.config.settings import DirectorySettings, Settings
from reactor.core.actor import Actor
from reactor.jetstream.client import JetStream
from reactor.jetstream.connection import CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S
from reactor.jetstream.errors import JetStreamError
from reactor.job_status.protocol import DirectoryConfigError, JobDirectory
from reactor.job_status.witness import WitnessedDirectory
from reactor.store.audit import Audit
from reactor.store.clients import Cluster, pack_quickly
from reactor.store.keyspace import Keyspace
from reactor.store.ledger import Ledger

RECORD_TTL_S = 7 * 86_400.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Connections:
    """The connections of one process. Each opens at its first use."""

    settings: Settings
    actor: Actor
    """This process, as the audit names it."""
    reads: JetStream
    effects: JetStream
    snapshots: JetStream
    """For backups and restores, which may fill the connection for some time."""
    space: Keyspace
    """The namespace in Redis."""
    ledger: Ledger
    audit: Audit
    jobs: WitnessedDirectory | None
    """The job system's directory, if the settings name one."""

    async def announce(self, subject: str, data: bytes) -> None:
        """Publish an event to subscribers. A failure is only logged, because the event has already happened."""
        try:
            await (await self.reads.connect()).publish(subject, data)
        except (JetStreamError, nats.errors.Error) as error:
            log.debug("not published", subject=subject, error=str(error))


@asynccontextmanager
async def connections(
    settings: Settings, on_error: Callable[[str], None] = lambda _: None, *, actor: Actor | None = None
) -> AsyncIterator[Connections]:
    """Provide the connections, and close them at the end. `on_error` receives the NATS server's asynchronous errors."""
    options, prefix = nats_options(settings.nats), api_prefix(settings.nats)
    async with AsyncExitStack() as stack:
        reads = JetStream(options, prefix=prefix, on_error=on_error)
        effects = JetStream(options, prefix=prefix, on_error=on_error, buffered=False, pace=reads.pace)
        snapshots = JetStream(options, prefix=prefix, on_error=on_error)
        address = parse_redis_url(settings.redis.url.get_secret_value())
        namespace = address.namespace(settings.redis.namespace)
        redis = await stack.enter_async_context(redis_of(address, namespace))
        stack.push_async_callback(effects.close)
        stack.push_async_callback(reads.close)
        stack.push_async_callback(snapshots.close)
        space = Keyspace(redis, namespace)
        ledger, audit = Ledger.of(space, RECORD_TTL_S), Audit(space)
        jobs = job_directory(settings.directory)
        if jobs is not None:
            stack.push_async_callback(jobs.close)
        yield Connections(settings, actor or actor_of("worker"), reads, effects, snapshots, space, ledger, audit, jobs)


@asynccontextmanager
async def redis_of(address: RedisAddress, namespace: str) -> AsyncIterator[Redis]:
    """Provide the client of the Redis that holds the ledger, and close it at the end."""
    timeouts = {"socket_timeout": REQUEST_TIMEOUT_S, "socket_connect_timeout": CONNECT_TIMEOUT_S, "protocol": 2}
    options = {
        **timeouts,
        "decode_responses": True,
        "encoding_errors": "surrogateescape",  # bytes that are not text must not break the connection
        **address.options,
    }
    # uvloop raises RuntimeError if the transport is closed. Nothing was written then, so the command is repeated.
    retry: Any = Retry(NoBackoff(), 1, supported_errors=(RuntimeError,))  # type: ignore[arg-type]
    async with AsyncExitStack() as stack:
        if address.kind == "cluster":
            nodes = [ClusterNode(*node) for node in address.nodes]
            redis = cast("Redis", Cluster(namespace, startup_nodes=nodes, **options))
        elif address.kind == "sentinel":
            own = (
                timeouts | {"retry": Retry(NoBackoff(), 0)} | address.sentinel_options
            )  # the next one is asked at once
            sentinels: Any = Sentinel(address.nodes, sentinel_kwargs=own, retry=retry, **options)  # type: ignore[no-untyped-call]
            for sentinel in sentinels.sentinels:
                stack.push_async_callback(sentinel.aclose)
            redis = sentinels.master_for(address.service)
            pack_quickly(redis.connection_pool)
        else:
            redis = Redis.from_pool(pool := ConnectionPool(retry=retry, **options))
            pack_quickly(pool)
        stack.push_async_callback(redis.aclose)
        yield redis


def job_directory(settings: DirectorySettings) -> WitnessedDirectory | None:
    """Return the job system's directory, or None if the lifecycle events decide. Raises DirectoryConfigError."""
    jobs = _job_directory(settings)
    return WitnessedDirectory(jobs, settings.canary) if jobs else None


def _job_directory(settings: DirectorySettings) -> JobDirectory | None:
    if settings.kind == "events" or settings.url is None:
        return None
    url, timeout_s = settings.url.get_secret_value(), settings.timeout.total_seconds()
    try:
        if settings.kind == "sql":
            from reactor.job_status.sql import SqlDirectory  # noqa: PLC0415  # an extra

            return SqlDirectory(url, settings.query or "", timeout_s=timeout_s, channel=settings.channel)
        from reactor.job_status.http import HttpDirectory  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise DirectoryConfigError(
            f"REACTOR_DIRECTORY_KIND={settings.kind} needs an extra ({error})",
            f"pip install 'jetstream-reactor[{settings.kind}]'",
        ) from error
    return HttpDirectory(
        url,
        status=settings.status,
        ended_at=settings.ended_at,
        authorization=settings.authorization,
        timeout_s=timeout_s,
        at_once=settings.concurrency,
    )


def actor_of(role: str, *overrides: str) -> Actor:
    """Return this process as an actor. `overrides` are flags that override a setting, a guard or the breaker."""
    return Actor(role, socket.gethostname(), os.getpid(), _user(), version("jetstream-reactor"), overrides)


def _user() -> str:
    """Return the user of the operating system. In a container it may be only a number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
