"""The tests' tools: a world for each test on shared servers, and servers to break."""

import asyncio
import json
import os
import re
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, StorageType, StreamConfig
from nats.js.errors import NoStreamResponseError
from redis.asyncio import Redis

from reactor.bootstrap.connections import connections
from reactor.bootstrap.services import UseCases, policy_of, provision_safely, worker_info
from reactor.cli.embedded import HOST, Server, free_port, nats_server, running, valkey_server
from reactor.cli.passes import one_pass
from reactor.config.settings import Settings, load_settings
from reactor.core.model import Record, StatusEvent
from reactor.passes.reconciler import PassOptions, ignore_progress
from reactor.store.audit import Audit
from reactor.store.keyspace import Keyspace
from support.faults import distant
from support.forkserver import Forked, Forkserver

ACCOUNTS = 400
EVERYTHING = PassOptions()
FORKSERVER = Forkserver()
ROOT = Path(__file__).parents[2]
ARCHIVE = Path(__file__).parents[1] / "operate" / "archive"
"""Of `job_1` of nats-server 2.12.8: six messages, the second deleted; one consumer has acknowledged three of them."""


async def eventually(predicate: Callable[[], Any], within: float = 10.0, every: float = 0.02) -> Any:
    """Wait until the predicate holds, and return its value."""
    deadline = time.monotonic() + within
    while True:
        value = predicate()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"not so within {within} s; the last value was {value!r}"
        await asyncio.sleep(every)


def record_of(occurred_at: int, seq: int, status: str) -> Record:
    """Return the record of a job with one event, published when it occurred."""
    return Record.of(status_event(occurred_at, seq, status))


def status_event(occurred_at: int, seq: int, status: str, published_at: int | None = None) -> StatusEvent:
    """Return one event."""
    return StatusEvent(occurred_at, seq, status, occurred_at if published_at is None else published_at)


def print_figure(figure: str) -> None:
    """Print a measured figure of a benchmark or a long test (with -s)."""
    print(f"\n  {figure}")  # noqa: T201  # that is what it is for


def accounts_config() -> str:
    """Return the config of one JetStream account for each test."""
    rows = [f"A{n}: {{ jetstream: enabled, users: [{_users(n)}] }}" for n in range(ACCOUNTS)]
    rows.append("NOJS: { users: [{ user: nojs, password: pw }] }\nSYS: { users: [{ user: sys, password: pw }] }")
    return "accounts {\n" + "\n".join(rows) + "\n}\nsystem_account: SYS\n"


def _users(number: int) -> str:
    """Return the users of an account: one with all permissions, and two that may not delete or update a stream."""
    may_not = {"a": "", "d": "$JS.API.STREAM.DELETE.>", "u": "$JS.API.STREAM.UPDATE.>"}
    return ", ".join(
        f'{{ user: {who}{number}, password: pw, permissions: {{ publish: {{ deny: ["{subject or "nothing"}"] }} }} }}'
        for who, subject in may_not.items()
    )


@dataclass
class World:
    """A test's JetStream account and Redis namespace, with clients for both."""

    nats_url: str
    redis_url: str
    namespace: str
    nc: Client
    redis: Redis
    number: int = 0
    """Of the account."""
    settings: dict[str, str] = field(default_factory=dict)
    """Further REACTOR_ variables for what this test runs."""

    @property
    def js(self) -> JetStreamContext:
        return self.nc.jetstream(timeout=10)

    async def api(self, verb: str, payload: dict[str, Any] | None = None) -> dict[str, Any]:
        body = json.dumps(payload).encode() if payload is not None else b""
        answer = await self.nc.request(f"$JS.API.{verb}", body, timeout=10)
        return json.loads(answer.data)  # type: ignore[no-any-return]

    async def stream(
        self,
        name: str,
        *,
        subjects: list[str] | None = None,
        messages: int = 0,
        **config: Any,
    ) -> None:
        """Create a job stream."""
        subject = name.replace("_", ".") + ".tasks" if re.fullmatch(r"job_\w+", name, re.ASCII) else f"t.{name}"
        wanted = [subject] if subjects is None else subjects
        settings: dict[str, Any] = {"storage": StorageType.FILE, "max_age": 86_400} | config
        await self.js.add_stream(StreamConfig(name, subjects=wanted, **settings))
        for _ in range(messages):
            await eventually(lambda: self._took(wanted[0]))

    async def _took(self, subject: str) -> bool:
        """Return whether a stream accepted a message.

        In a cluster other nodes learn about a new stream's subjects later.
        """
        with suppress(NoStreamResponseError):
            await self.js.publish(subject, b"task")
            return True
        return False

    async def zombie(self, number: int, status: str = "SUCCESS", messages: int = 1) -> str:
        """Create the stream of an ended job."""
        await self.stream(f"job_{number}", messages=messages)
        await self.emit(number, status)
        return f"job_{number}"

    async def consumer(self, stream: str, name: str | None = None, **config: Any) -> str:
        """Create the durable pull consumer of a job stream."""
        durable = name or stream.replace("_", "-") + "-consumer"
        await self.js.add_consumer(stream, ConsumerConfig(durable_name=durable, max_deliver=2, **config))
        return durable

    async def info(self, name: str) -> dict[str, Any] | None:
        answer = await self.api(f"STREAM.INFO.{name}")
        return None if "error" in answer else answer

    async def names(self) -> set[str]:
        """Return all streams of the account except reactor's own."""
        names: set[str] = set()
        offset, total = 0, 1
        while offset < total:
            page = await self.api("STREAM.NAMES", {"offset": offset})
            names.update(page["streams"] or ())
            offset, total = offset + page["limit"], page["total"]
        return {name for name in names if not name.startswith(("JOBS", "REACTOR_"))}

    async def emit(self, job_id: object, status: str, occurred_at: str | None = None, **extra: object) -> None:
        """Publish a lifecycle event like the simplest emitter, and wait until it is stored, if a stream captures it."""
        event = {"job_id": job_id, "status": status, **extra} | ({"occurred_at": occurred_at} if occurred_at else {})
        await self.publish(f"jobs.lifecycle.{job_id}", json.dumps(event).encode())

    async def publish(self, subject: str, data: bytes) -> None:
        """Publish and wait until it is stored, if a stream captures it. A flush waits for the server."""
        with suppress(NoRespondersError):
            await self.nc.request(subject, data, timeout=10)

    async def lifecycle_events(self) -> list[dict[str, Any]]:
        """Return all events in the lifecycle stream, oldest first."""
        last = ((await self.info("JOBS")) or {"state": {"last_seq": 0}})["state"]["last_seq"]
        return [json.loads((await self.js.get_msg("JOBS", seq)).data or b"{}") for seq in range(1, last + 1)]

    async def dead_letters(self) -> list[tuple[dict[str, str], bytes]]:
        """Return headers and bodies, oldest first."""
        letters = []
        last = ((await self.info("REACTOR_DEAD_LETTERS")) or {"state": {"last_seq": 0}})["state"]["last_seq"]
        for seq in range(1, last + 1):
            message = (await self.api("STREAM.MSG.GET.REACTOR_DEAD_LETTERS", {"seq": seq}))["message"]
            lines = b64decode(message["hdrs"]).decode().split("\r\n")[1:]
            headers = dict(line.split(": ", 1) for line in lines if ": " in line)
            letters.append((headers, b64decode(message.get("data", ""))))
        return letters

    async def declare(self) -> None:
        """Let reactor declare its streams, so that earlier events are stored."""
        async with connections(self.load()) as connected:
            cases = UseCases(connected, await provision_safely(connected))
            await cases.resources.directory.ensure()

    async def register(self, **overrides: Any) -> None:
        """Register a worker as alive."""
        async with connections(self.load(**overrides)) as connected:
            await connected.ledger.workers.beat(worker_info(connected, policy_of(connected.settings)))

    def env(self, **overrides: object) -> dict[str, str]:
        """Return the environment of a reactor process: this world, short guards, and the test's variables."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("REACTOR_")}
        ours = {
            "REACTOR_NATS_URL": self.nats_url,
            "REACTOR_REDIS_URL": self.redis_url,
            "REACTOR_REDIS_NAMESPACE": self.namespace,
            "REACTOR_HTTP_PORT": "0",
            "REACTOR_LOG_FORMAT": "json",
            "REACTOR_LOG_LEVEL": "DEBUG",
            "REACTOR_POLICY_AGE_GUARD": "0",
            "REACTOR_POLICY_TERMINAL_GRACE": "0",
            "REACTOR_POLICY_IDLE_GUARD": "0",
            "REACTOR_POLICY_MISSING_GUARD": "0",
        }
        return inherited | ours | self.settings | {name: str(value) for name, value in overrides.items()}

    async def reactor(self, *args: str, **overrides: object) -> "Completed":
        """Run a command to its end."""
        return await reactor(*args, env=self.env(**overrides))

    def load(self, **overrides: object) -> Settings:
        """Return the settings of `env`."""
        with patch.dict(os.environ, self.env(**overrides), clear=True):
            return load_settings()

    async def reconcile(
        self, order: PassOptions = EVERYTHING, *, assume_missing: bool = False, **overrides: Any
    ) -> dict[str, Any]:
        """Run one pass in this process like `reactor reconcile`, and return its report."""
        settings = self.load(**overrides)
        report = await one_pass(settings, order, ignore_progress, assume_missing=assume_missing)
        return cast("dict[str, Any]", report.as_dict())

    async def verdicts(self, order: PassOptions = EVERYTHING, **overrides: Any) -> dict[str, tuple[str, str]]:
        """Run one pass. Return verdict and reason by stream."""
        report = await self.reconcile(order, **overrides)
        assert report["error"] is None, report
        return {row["stream"]: (row["verdict"], row["reason"]) for row in report["streams"]}

    async def trail(self) -> list[dict[str, Any]]:
        """Return the audit, oldest first."""
        newest = await Audit(Keyspace(self.redis, self.namespace)).newest(1000)
        return cast("list[dict[str, Any]]", newest[::-1])


@dataclass(frozen=True)
class Completed:
    """The result of a command."""

    code: int
    out: str
    err: str


async def reactor(
    *args: str, env: dict[str, str], cwd: Path | None = None, armed: tuple[str, str] | None = None
) -> Completed:
    """Run `reactor ...` as a user would; what `armed` means stands in armed.py."""
    process = await _start(*_program(armed), *args, env=env, cwd=cwd)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return Completed(process.returncode, out.decode(), err.decode())


async def _start(*program: str, env: dict[str, str], cwd: Path | None = None) -> Forked:
    env = {"PYTHONPATH": str(ROOT), "REACTOR_HTTP_PORT": "0"} | env
    return await FORKSERVER.start(program, env, cwd or tempfile.gettempdir())


def _program(armed: tuple[str, str] | None) -> tuple[str, ...]:
    return (str(ROOT / "tests" / "support" / "armed.py"), *armed) if armed else ("-m", "reactor")


@dataclass
class WorkerProcess:
    """A `reactor worker` process and its log so far."""

    process: Forked | asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)

    async def listen(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode())

    def logged(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal, wait, and return the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 20)


@asynccontextmanager
async def worker(
    env: dict[str, str],
    *args: str,
    until: str | None = None,
    armed: tuple[str, str] | None = None,
    code: str | None = None,
) -> AsyncIterator[WorkerProcess]:
    """Run a worker process that has logged `until`, and stop it at the end.

    `armed` is explained in armed.py; an armed worker may reach its failpoint before it has started. `code` runs first,
    in the same process.
    """
    until = until or ("worker starting" if armed and armed[0] != "clock" else "worker started")
    how = ("-c", f"{code}\nfrom reactor.cli.main import main\nmain()") if code else _program(armed)
    process = await _start(*how, "worker", *args, env=env)
    worker_process = WorkerProcess(process)
    listening = asyncio.create_task(worker_process.listen())
    try:
        await eventually(lambda: worker_process.logged(until) or process.returncode is not None, 30)
        assert worker_process.logged(until), "".join(worker_process.lines)
        yield worker_process
    except BaseException:
        sys.stdout.writelines(worker_process.lines)  # for pytest to show
        raise
    finally:
        await worker_process.stop()
        await listening


@asynccontextmanager
async def connected(nats_url: str, redis_url: str, namespace: str) -> AsyncIterator[World]:
    """A world on these servers."""
    async with AsyncExitStack() as stack:
        nc = await nats.connect(nats_url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
        stack.push_async_callback(nc.close)
        redis: Redis = Redis.from_url(redis_url, decode_responses=True, protocol=2)
        stack.push_async_callback(redis.aclose)
        yield World(nats_url, redis_url, namespace, nc, redis)


@asynccontextmanager
async def own_nats(folder: Path, config: str = "") -> AsyncIterator[Server]:
    """A test's own nats-server. It can be stopped, suspended and started again on the same port and data."""
    async with running(nats_server(folder / "nats", free_port(), config)) as server:
        yield server


@asynccontextmanager
async def own_valkey(folder: Path, *options: str) -> AsyncIterator[Server]:
    """A test's own Valkey."""
    async with running(valkey_server(folder / "valkey", free_port(), *options)) as server:
        yield server


@asynccontextmanager
async def own_cluster(
    folder: Path,
    size: int = 3,
    *,
    delay_s: float | None = None,
    configs: Sequence[str] = (),
    binary: str | None = None,
) -> AsyncIterator[list[Server]]:
    """Servers in a cluster with a leader, so that a replicated stream can be created.

    With `delay_s` every byte between two of them is delayed. `configs` are added to their configs. `binary` is the
    server if it is not the installed one.
    """
    routes = [free_port() for _ in range(size)]
    async with AsyncExitStack() as stack:
        lines = [] if delay_s is None else [await stack.enter_async_context(distant(port, delay_s)) for port in routes]
        doors = [line.port for line in lines] or routes
        more = configs or [""] * size
        nodes = [
            nats_server(folder / f"n{n}", free_port(), _cluster_config(n, routes, doors) + more[n]) for n in range(size)
        ]
        for node in nodes:
            node.command = [binary or node.command[0], *node.command[1:]]
        await asyncio.gather(*(stack.enter_async_context(running(node)) for node in nodes))
        nc = await nats.connect(f"nats://{HOST}:{nodes[0].port}")
        stack.push_async_callback(nc.close)
        await eventually(lambda: _replicates(nc, size), 30, 0.1)
        yield nodes
        assert all(line.delayed for line in lines), "no route went the long way"


def _cluster_config(number: int, routes: list[int], doors: list[int]) -> str:
    """Return a node's config. `doors` are the ports where the others find its route."""
    urls = ", ".join(f'"nats://{HOST}:{port}"' for port in doors)
    where = f'listen: "{HOST}:{routes[number]}", advertise: "{HOST}:{doors[number]}"'
    cluster = f'cluster {{ name: "c", {where}, routes: [{urls}] }}'
    return f'server_name: "n{number}"\n{cluster}\n'


async def _replicates(nc: Client, replicas: int) -> bool:
    js = nc.jetstream(timeout=5)
    with suppress(nats.errors.Error):
        await js.add_stream(StreamConfig("probe", subjects=["probe"], num_replicas=replicas))
        return await js.delete_stream("probe")
    return False


@asynccontextmanager
async def own_world(folder: Path, nats_config: str = "") -> AsyncIterator[tuple[World, Server, Server]]:
    """A world on its own servers, and those servers."""
    async with (
        own_nats(folder, nats_config) as nats_one,
        own_valkey(folder) as valkey_one,
        connected(f"nats://{HOST}:{nats_one.port}", f"redis://{HOST}:{valkey_one.port}/0", "r") as world,
    ):
        yield world, nats_one, valkey_one


@asynccontextmanager
async def relayed(world: World, change: Callable[[str, dict[str, Any]], dict[str, Any] | None]) -> AsyncIterator[World]:
    """The same world through a JetStream domain of our own whose answers pass `change` (verb, answer).

    Requests are really carried out. Only the answer is changed, or dropped if `change` returns None.
    """

    async def forward(msg: Msg) -> None:
        verb = msg.subject.removeprefix("$JS.relay.API.")
        if verb.startswith("CONSUMER.MSG.NEXT"):  # answered by messages, many times
            await world.nc.publish(f"$JS.API.{verb}", msg.data, reply=msg.reply)
            return
        changed = change(verb, json.loads((await world.nc.request(f"$JS.API.{verb}", msg.data, timeout=10)).data))
        if changed is not None:
            await world.nc.publish(msg.reply, json.dumps(changed).encode())

    subscription = await world.nc.subscribe("$JS.relay.API.>", cb=forward)
    await world.nc.flush()
    yield replace(world, settings=world.settings | {"REACTOR_NATS_DOMAIN": "relay"})
    await subscription.unsubscribe()


@asynccontextmanager
async def posing_as(world: World, version: str) -> AsyncIterator[str]:
    """Return a URL of the same server that reports another version."""
    credentials, address = world.nats_url.removeprefix("nats://").split("@")
    host, port = address.split(":")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(host, port)
        info = await from_server.readline()
        writer.write(re.sub(rb'"version":"[^"]+"', f'"version":"{version}"'.encode(), info))
        await asyncio.gather(_pipe(reader, to_server), _pipe(from_server, writer))

    async with await asyncio.start_server(serve, HOST, 0) as server:
        yield f"nats://{credentials}@{HOST}:{server.sockets[0].getsockname()[1]}"


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


def account_numbers() -> Iterator[int]:
    """Yield each number once."""
    return iter(range(ACCOUNTS))


async def statuses_of(world: World) -> dict[str, list[str]]:
    """Return the published statuses of each job, oldest first."""
    words: dict[str, list[str]] = {}
    for event in await world.lifecycle_events():
        words.setdefault(event["job_id"], []).append(event["status"])
    return words


async def gone(world: World, *names: str) -> bool:
    return not set(names) & await world.names()


async def has_records(world: World, *job_ids: object) -> bool:
    """Return whether the ledger has a record of each of these jobs."""
    keys = [f"{world.namespace}:job:{job_id}" for job_id in job_ids]
    return int(await world.redis.exists(*keys)) == len(keys)


async def acked(world: World, durable: str = "reactor", stream: str = "JOBS") -> bool:
    """Return whether all messages are acked."""
    info = await world.api(f"CONSUMER.INFO.{stream}.{durable}")
    return not info["num_pending"] and not info["num_ack_pending"]


Answer = tuple[int, Any]


def _get(url: str, token: str | None) -> Answer:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310  # our own server
            body, code = answer.read(), answer.status
    except urllib.error.HTTPError as error:
        with error:
            body, code = error.read(), error.code
    return code, json.loads(body) if body.startswith((b"{", b"[")) else body.decode()


class Served:
    """A worker and its endpoint."""

    def __init__(self, base: str, process: WorkerProcess) -> None:
        self.base = base
        self.process = process

    async def get(self, path: str, token: str | None = None) -> Answer:
        return await asyncio.to_thread(_get, self.base + path, token)

    async def is_ready(self) -> bool:
        return (await self.get("/readyz"))[0] == 200


@asynccontextmanager
async def served(world: World, *, ready: bool = True, **overrides: object) -> AsyncIterator[Served]:
    """A worker with an endpoint, ready or just started."""
    port = free_port()
    async with worker(world.env(REACTOR_HTTP_PORT=port, **overrides)) as process:
        endpoint = Served(f"http://127.0.0.1:{port}", process)
        if ready:
            await eventually(endpoint.is_ready)
        yield endpoint


async def all_concluded(world: World) -> list[tuple[str, str]]:
    """Return stream and outcome of every deletion, when none is open."""
    trail = await world.trail()
    outcomes = [(entry["stream"], entry["outcome"]) for entry in trail if entry["phase"] == "outcome"]
    return outcomes if len(outcomes) * 2 == len(trail) else []
