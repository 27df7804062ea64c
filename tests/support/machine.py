"""A job system, a JetStream in memory and real replicas of reactor, for a state machine to play against each other.

The policy, the ledger's Lua, the directory, the drainer, the sweeper and the reconciler are the product's own, on a
real Valkey. JetStream is a model of what they ask of it, with a clock that the machine turns; Redis's TIME is turned
with it. What may be deleted is judged here anew, from everything that was ever told, and not by the product's policy.
"""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any, TypeVar, cast

import nats
import nats.errors
from nats.aio.client import Client
from redis.asyncio import Redis

from reactor.config.settings import PolicySettings
from reactor.core.actor import Actor
from reactor.core.model import SECOND, format_instant
from reactor.core.pause import pausing
from reactor.core.policy import Breaker, Policy
from reactor.core.report import Report
from reactor.core.subjects import SubjectTemplate
from reactor.deletion.companions import Companions
from reactor.deletion.gates import PauseGate, Rights
from reactor.deletion.notices import Notices
from reactor.deletion.recorder import Recorder
from reactor.deletion.resources import Resources
from reactor.deletion.retries import Retries
from reactor.deletion.stream_states import StreamStateUpdater
from reactor.deletion.throttle import Throttle
from reactor.jetstream.client import JetStream, StoredMessage
from reactor.jetstream.errors import NobodyThere, Unanswered
from reactor.jetstream.topology import CONTROL, PAUSE_SUBJECT, Source
from reactor.job_status.ledger_directory import Directory
from reactor.passes.reconciler import PassOptions, Reconciler
from reactor.passes.sweeper import Sweeper
from reactor.store.audit import Audit
from reactor.store.keyspace import Keyspace
from reactor.store.ledger import Ledger

Result = TypeVar("Result")

LEASE_S = 30
GUARDS = {
    "age_guard": 60 * SECOND,
    "terminal_grace": 20 * SECOND,
    "idle_guard": 10 * SECOND,
    "missing_guard": 30 * SECOND,
    "dispute_guard": 90 * SECOND,
}
LIFECYCLE = "JOBS"
TEMPLATE = SubjectTemplate("jobs.lifecycle.{job_id}")
START = 1_700_000_000 * SECOND
TIMES = {"ts", "created", "time", "first_ts", "last_ts"}
TERMINAL = {"SUCCESS", "FAILURE", "REVOKED", "DELETED"}


class Killed(BaseException):
    """Kill -9: no handler of the product may run."""


@dataclass
class DirectoryStatus:
    """A stored lifecycle message. `status` is None if it cannot be read."""

    seq: int
    at: int
    occurred_at: int
    status: str | None
    data: bytes

    @property
    def is_terminal(self) -> bool:
        return (self.status or "").upper() in TERMINAL


@dataclass
class Kept:
    """A stream of the model."""

    config: dict[str, Any]
    created: int
    published: list[int] = field(default_factory=list)

    @property
    def fenced(self) -> bool:
        return bool(self.config["subjects"] != [self.config["name"].replace("_", ".") + ".tasks"])


@dataclass
class Server:
    """JetStream's state. It checks every deletion of reactor."""

    now: int = START
    streams: dict[str, Kept] = field(default_factory=dict)
    statuses: dict[str, list[DirectoryStatus]] = field(default_factory=dict)
    """By job, oldest first."""
    log: list[StoredMessage] = field(default_factory=list)
    ack_floor: int = 0
    asked: dict[str, int] = field(default_factory=dict)
    """By job: the highest sequence of the lifecycle stream when its last word was asked for last."""
    wrongs: list[str] = field(default_factory=list)
    paused: bool = False
    """By an operator, before whatever reactor does now."""

    def emit(self, job: str, status: str | None, occurred_at: int | None = None) -> None:
        """Store a lifecycle message."""
        self.now += 1000
        body: dict[str, Any] = {"job_id": job, "status": status}
        if occurred_at is not None:
            body["occurred_at"] = format_instant(occurred_at)
        data = json.dumps(body).encode() if status else b"no JSON"
        seq, when = len(self.log) + 1, min(occurred_at or self.now, self.now)
        self.log.append(StoredMessage(TEMPLATE.of(job), seq, self.now, data))
        self.statuses.setdefault(job, []).append(
            DirectoryStatus(seq, self.now, when if status else self.now, status, data)
        )

    def create(self, name: str, **config: Any) -> bool:
        """Create a stream like a job system. Return False if it exists."""
        self.now += 1000
        if name in self.streams:
            return False
        subject = name.replace("_", ".") + ".tasks"
        self.streams[name] = Kept({"name": name, "subjects": [subject], "metadata": {}} | config, self.now)
        return True

    def publish(self, name: str) -> bool:
        """Publish a message. Return whether it was acknowledged; behind a fence it is not."""
        self.now += 1000
        stream = self.streams.get(name)
        if stream is None or stream.fenced:
            return False
        stream.published.append(self.now)
        return True

    def delete_by_its_owner(self, name: str) -> None:
        """Delete a stream, not by reactor."""
        self.streams.pop(name, None)

    def close(self) -> None:
        """The game is over."""

    def last_events(self, job: str, upto: int | None = None) -> tuple[DirectoryStatus, DirectoryStatus] | None:
        """Return the last event by time and by sequence of those up to a sequence."""
        words = [word for word in self.statuses.get(job, ()) if upto is None or word.seq <= upto]
        return (max(words, key=lambda word: (word.occurred_at, word.seq)), words[-1]) if words else None

    def is_over(self, job: str) -> bool | None:
        """Return whether its last event is terminal, when all guards have passed; None if it has no event."""
        words = self.last_events(job)
        return None if words is None else words[1].is_terminal

    def delete(self, name: str) -> dict[str, Any]:
        """Handle a deletion of reactor, and note everything that makes it wrong."""
        stream = self.streams.pop(name, None)
        if stream is None:
            return _error(404, 10059)
        self.wrongs += [f"{name}: {why}" for why in self._objections(stream)]
        return {"success": True}

    def _objections(self, stream: Kept) -> list[str]:
        job, now = stream.config["name"].removeprefix("job_"), self.now
        words = self.last_events(job, self.asked.get(job, 0))
        wrongs = []
        if not stream.fenced:
            wrongs.append("not fenced")
        if self.paused:
            wrongs.append("while deleting is paused")
        if stream.config["metadata"].get("reactor.protect") == "true":
            wrongs.append("protected")
        if now < stream.created + GUARDS["age_guard"]:
            wrongs.append("younger than the age guard")
        last = stream.published[-1] if stream.published else 0
        recently = now < last + GUARDS["idle_guard"]
        if words is None:
            in_use = now < max(last, stream.created) + GUARDS["missing_guard"]
            return [*wrongs, "in use, or nobody vouches"] if in_use or not self.log else wrongs
        latest, last_one = words
        if not last_one.is_terminal:
            wrongs.append(f"its job lives: {last_one}")
        if not latest.is_terminal and now < max(latest.at, last_one.at, last) + GUARDS["dispute_guard"]:
            wrongs.append(f"its job may live: {latest}, {last_one}")
        if now < latest.occurred_at + GUARDS["terminal_grace"]:
            wrongs.append("within the terminal grace")
        if recently and last > latest.occurred_at:
            wrongs.append("published to since its job ended")
        return wrongs

    def answer(self, verb: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Answer one request of reactor."""
        kind, _, name = verb.rpartition(".")
        match kind or verb, name:
            case "STREAM", "LIST":
                return _page(streams=[self._info(stream) for stream in [LIFECYCLE, *sorted(self.streams)]])
            case "STREAM", "NAMES":
                return _page(streams=[LIFECYCLE, *sorted(self.streams)])
            case "STREAM.INFO", _:
                return self._info(name) if name in self.streams or name == LIFECYCLE else _error(404, 10059)
            case "STREAM.UPDATE", _ if name in self.streams:
                self.streams[name].config = payload
                return self._info(name)
            case "STREAM.UPDATE", _ if "/" in name:
                return _error(500, 10052)  # no stream can have this name; a deletion finds none instead
            case "STREAM.DELETE", _:
                return self.delete(name)
            case "STREAM.MSG.GET", _:
                return self._message(payload) if name == LIFECYCLE else self._pause()
            case "CONSUMER.LIST", _:
                return _page(consumers=[]) if name in self.streams else _error(404, 10059)
            case "CONSUMER.INFO.JOBS", _:
                pending = len(self.log) - self.ack_floor
                return {"ack_floor": {"stream_seq": self.ack_floor}, "num_pending": pending, "num_ack_pending": 0}
            case _:
                return _error(404, 10059)

    def _pause(self) -> dict[str, Any]:
        if not self.paused:
            return _error(404, 10037)
        data = b64encode(pausing("an operator", "a reason", None)).decode()
        return {"message": {"subject": PAUSE_SUBJECT, "seq": 1, "time": format_instant(START), "data": data}}

    def barrier(self, subject: str, headers: dict[str, str]) -> dict[str, Any] | None:
        """Return the answer of the stream on that subject; None if there is none."""
        name = headers["Nats-Expected-Stream"]
        stream = self.streams.get(name)
        if stream is None or stream.config["subjects"] != [subject]:
            return None
        end = len(stream.published)
        error = {"code": 400, "err_code": 10071, "description": f"wrong last sequence: {end}"}
        return {"error": error, "stream": name, "seq": 0}

    def _info(self, name: str) -> dict[str, Any]:
        if name == LIFECYCLE:
            times, created = [message.published_at for message in self.log], START
            config: dict[str, Any] = {"name": LIFECYCLE, "subjects": ["jobs.lifecycle.*"]}
        else:
            times, created, config = (stream := self.streams[name]).published, stream.created, stream.config
        state = {"messages": len(times), "first_seq": 1, "last_seq": len(times)}
        last = format_instant(times[-1]) if times else "0001-01-01T00:00:00Z"
        return {
            "config": json.loads(json.dumps(config)),
            "created": format_instant(created),
            "state": state | {"first_ts": format_instant(times[0]) if times else last, "last_ts": last},
            "ts": format_instant(self.now),
        }

    def _message(self, payload: dict[str, Any]) -> dict[str, Any]:
        if subject := payload.get("last_by_subj"):
            self.asked[str(TEMPLATE.job_id(subject))] = len(self.log)
            found = [message for message in self.log if message.subject == subject][-1:]
        else:
            found = [message for message in self.log if message.seq >= payload["seq"]][:1]
        if not found:
            return _error(404, 10037)
        item = found[0]
        data, time = b64encode(item.data).decode(), format_instant(item.published_at)
        return {"message": {"subject": item.subject, "seq": item.seq, "time": time, "data": data}}


class RealServer(Server):
    """The model with a real nats-server.

    Every request goes to both, and they must agree. Only the times are the model's. Requests run in a separate thread,
    because an action may happen during a call.
    """

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._nc = self._wait(nats.connect(url))
        assert "error" not in self._api("STREAM.CREATE.JOBS", {"name": LIFECYCLE, "subjects": ["jobs.lifecycle.*"]})

    def _wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def _api(self, verb: str, payload: dict[str, Any] | None = None) -> dict[str, Any]:
        body = json.dumps(payload).encode() if payload else b""
        answer = json.loads(self._wait(self._nc.request(f"$JS.API.{verb}", body, timeout=10)).data)
        # The files of a deleted stream go later. As long as they are there, deleting the next one of that name fails
        # without an error, and the one after that has its messages: server/filestore.go, Delete, of 2.15.
        while verb.startswith("STREAM.DELETE") and any(self._folder.glob("jetstream/jetstream/*/streams/.*")):
            sleep(0.001)
        return cast("dict[str, Any]", answer)

    def _is_acked(self, subject: str, data: bytes) -> bool:
        with suppress(nats.errors.NoRespondersError):
            return "stream" in json.loads(self._wait(self._nc.request(subject, data, timeout=10)).data)
        return False

    def emit(self, job: str, status: str | None, occurred_at: int | None = None) -> None:
        super().emit(job, status, occurred_at)
        assert self._is_acked(self.log[-1].subject, self.log[-1].data)

    def create(self, name: str, **config: Any) -> bool:
        made = super().create(name, **config)
        wish = self.streams[name].config if made else {"name": name, "subjects": [f"other.{name}"]}
        assert ("error" not in self._api(f"STREAM.CREATE.{name}", wish)) is made
        return made

    def publish(self, name: str) -> bool:
        acked = super().publish(name)
        assert self._is_acked(name.replace("_", ".") + ".tasks", b"task") is acked
        return acked

    def delete_by_its_owner(self, name: str) -> None:
        there = name in self.streams
        super().delete_by_its_owner(name)
        assert ("error" not in self._api(f"STREAM.DELETE.{name}")) is there

    def answer(self, verb: str, payload: dict[str, Any]) -> dict[str, Any]:
        model = super().answer(verb, payload)
        if verb.startswith("CONSUMER.INFO") or verb.endswith(CONTROL):
            return model  # who consumes and who pauses here is the machine
        real = self._api(verb, payload)
        assert model.get("error", {}).get("err_code") == real.get("error", {}).get("err_code"), (verb, model, real)
        return cast("dict[str, Any]", _with_times(real, model))

    def barrier(self, subject: str, headers: dict[str, str]) -> dict[str, Any] | None:
        model, real = super().barrier(subject, headers), None
        with suppress(nats.errors.NoRespondersError):
            real = json.loads(self._wait(self._nc.request(subject, b"", timeout=10, headers=headers)).data)
        assert model == real, (subject, headers, model, real)
        return model

    def close(self) -> None:
        """Leave nothing behind for the next game."""
        for name in self._api("STREAM.NAMES")["streams"]:
            self._api(f"STREAM.DELETE.{name}")
        self._wait(self._nc.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _with_times(real: Any, model: Any) -> Any:
    """Return the real answer with the model's times."""
    if isinstance(real, dict) and isinstance(model, dict):
        times = {"ts", "created", "time", "first_ts", "last_ts"}
        return {
            key: model.get(key) if key in times else _with_times(value, model.get(key)) for key, value in real.items()
        }
    if isinstance(real, list) and isinstance(model, list) and len(real) == len(model):
        return [_with_times(item, other) for item, other in zip(real, model, strict=True)]
    return real


def _page(**entries: list[Any]) -> dict[str, Any]:
    return entries | {"total": 1, "limit": 1, "offset": 0}


def _error(code: int, err_code: int) -> dict[str, Any]:
    return {"error": {"code": code, "err_code": err_code, "description": "as the server says"}}


Meddle = Callable[[], Awaitable[None]]


class Memory(JetStream):
    """The product's client on the model. Before a request something may happen, and its answer may be lost."""

    def __init__(self, server: Server) -> None:
        super().__init__({})
        self.server = server
        self.dead = False
        self.calls = 0
        self.meddling: dict[int, Meddle | str] = {}

    async def connect(self) -> Client:
        """Do nothing."""
        return cast("Client", self)

    @property
    def is_connected(self) -> bool:
        return not self.dead

    async def may_publish(self, subject: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bool:
        """Allow everything."""
        del subject, body, headers
        return True

    async def _request(self, subject: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
        await asyncio.sleep(0)
        if self.dead:
            raise Killed
        self.calls += 1
        act = self.meddling.pop(self.calls, None)
        if callable(act) and ".STREAM.DELETE." not in subject:  # in there lies the one race that is left
            await act()
        if act in {"kill before", "lose request"}:
            self._fall(act)
        self.server.now += 1000
        answer = self._answer(subject, body, headers)
        if act in {"kill after", "lose answer"}:
            self._fall(act)
        return json.dumps(answer).encode()

    def _answer(self, subject: str, body: bytes, headers: dict[str, str] | None) -> dict[str, Any]:
        if headers is None:
            return self.server.answer(subject.removeprefix("$JS.API."), json.loads(body) if body else {})
        answer = self.server.barrier(subject, headers)
        if answer is None:
            message = "no stream is there"
            raise NobodyThere(message)
        return answer

    def _fall(self, act: object) -> None:
        if act in {"kill before", "kill after"}:
            self.dead = True
            raise Killed
        message = "no answer"
        raise Unanswered(message)

    async def replay(self, stream: str, subject: str, batch: int = 512) -> AsyncIterator[list[StoredMessage]]:
        """Yield all messages."""
        del stream, subject, batch
        if self.dead:
            raise Killed
        if self.server.log:
            yield list(self.server.log)


class DyingKeyspace(Keyspace):
    """A keyspace whose scripts read the machine's clock. No script of a killed replica runs any more."""

    js: Memory

    async def run(self, lua: str, keys: Any, args: Any = ()) -> Any:
        if self.js.dead:
            raise Killed
        clock = f"tonumber(redis.call('GET', '{self.namespace}:clock'))"
        time = f"(function() local c = {clock} return {{math.floor(c / 1000), (c % 1000) * 1000}} end)()"
        return await super().run(lua.replace("redis.call('TIME')", time), keys, args)


class Replica:
    """One reactor: a sweeper, a reconciler, and a consumer of events."""

    def __init__(self, server: Server, redis: Redis, namespace: str) -> None:
        self.server, self.js = server, Memory(server)
        space = DyingKeyspace(redis, namespace)
        space.js = self.js
        self.ledger, self.audit = Ledger.of(space, 3600.0), Audit(space)
        policy = Policy(
            pattern=PolicySettings().regex,
            terminal_statuses=frozenset(TERMINAL),
            age_guard=GUARDS["age_guard"],
            terminal_grace=GUARDS["terminal_grace"],
            idle_guard=GUARDS["idle_guard"],
            missing_guard=GUARDS["missing_guard"],
            dispute_guard=GUARDS["dispute_guard"],
        )
        self.resources = self._resources(policy)
        self.reconciler = Reconciler(self.resources, Breaker(20, 0.5), self.consume)
        sweeping = replace(self.resources, policy=replace(policy, absence_counts=False))
        self.sweeper = Sweeper(sweeping, _at_once)

    def monotonic(self) -> float:
        return self.server.now / SECOND

    def _resources(self, policy: Policy) -> Resources:
        source = Source(LIFECYCLE, (TEMPLATE.wildcard,))
        recorder = Recorder(self.audit, Actor("worker", "replica", 1, "nobody", "0"), lambda: START)
        return Resources(
            policy=policy,
            reads=self.js,
            effects=self.js,
            ledger=self.ledger,
            directory=Directory(self.js, self.ledger, policy, template=TEMPLATE, source=source, durable="reactor"),
            recorder=recorder,
            retries=Retries(self.ledger, recorder, 8),
            companions=Companions((), self.js, self.js),
            rights=Rights(self.js),
            pause_gate=PauseGate(self.js),
            throttle=Throttle(4),
            stream_states=StreamStateUpdater(self.ledger, policy, recorder),
            notices=Notices(self.ledger, recorder, policy),
            lease_s=LEASE_S,
            clock=lambda: self.server.now,
            monotonic=self.monotonic,
        )

    async def consume(self) -> None:
        """Read pending events, and ack them when Redis has them."""
        directory = self.resources.directory
        identity = (await directory.ensure()).lifecycle.identity
        if pending := self.server.log[self.server.ack_floor :]:
            await directory.apply_messages(identity, pending)
            self.server.ack_floor = max(self.server.ack_floor, pending[-1].seq)

    async def reconcile(self) -> Report:
        """Run a full pass."""
        return await self.reconciler.run(PassOptions())


async def _at_once() -> None:
    """Return no limit."""
