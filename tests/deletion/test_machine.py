"""A state machine plays jobs, faults and replicas against each other; see machine.py."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis.asyncio import Redis
from support.machine import GUARDS, LEASE_S, START, Killed, Meddle, RealServer, Replica, Server

from reactor.cli.embedded import HOST, free_port, nats_server, valkey_server
from reactor.core.model import SECOND
from reactor.jetstream.errors import JetStreamError
from reactor.store.audit import Audit
from reactor.store.keyspace import Keyspace

JOBS = st.sampled_from(["1", "2", "3"])
STATUSES = st.sampled_from(["SUCCESS", "FAILURE", "revoked", "DELETED", "STARTED", "RETRY", "odd"])
ACTS = st.sampled_from(
    [
        *("publish", "retry", "retry", "recreate", "end", "flush", "roll back", "pause", "other", "usurp"),
        *("kill before", "kill after", "lose request", "lose answer"),
    ]
)
PLANS = st.dictionaries(st.integers(1, 25), st.tuples(ACTS, JOBS), max_size=3)
NAMESPACES = count()
Result = TypeVar("Result")


class JobsAndReplicas(RuleBasedStateMachine):
    """Three jobs, two replicas, one Redis."""

    redis_url = ""
    real: tuple[str, Path] | None = None
    """None for the model alone."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.redis: Redis = Redis.from_url(self.redis_url, decode_responses=True, protocol=2)
        self.raw = redis.Redis.from_url(self.redis_url, protocol=2)
        """For what happens in mid-call: it needs no loop."""
        self.namespace = f"m{next(NAMESPACES)}"
        self.server = RealServer(*self.real) if self.real else Server()
        self.replicas = [self.replica(), self.replica()]
        self.dump: dict[bytes, Any] | None = None

    def replica(self) -> Replica:
        return Replica(self.server, self.redis, self.namespace)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        self.loop.run_until_complete(self._sync_clock())
        return self.loop.run_until_complete(work)

    # What job systems do.

    @rule(job=JOBS, protect=st.booleans())
    def create(self, job: str, protect: bool) -> None:  # noqa: FBT001  # hypothesis draws it
        metadata = {"reactor.protect": "true"} if protect and job == "3" else {}
        self.server.create(f"job_{job}", metadata=metadata)

    @rule(job=JOBS, status=STATUSES)
    def run_and_leave_behind(self, job: str, status: str) -> None:
        """Create a zombie, if the status is terminal."""
        self.server.create(f"job_{job}")
        self.server.emit(job, "STARTED")
        self.server.publish(f"job_{job}")
        self.server.emit(job, status)

    @rule(job=JOBS, status=STATUSES)
    def emit(self, job: str, status: str) -> None:
        self.server.emit(job, status)

    @rule(job=JOBS, status=STATUSES, off=st.integers(-300, 300))
    def emit_out_of_order(self, job: str, status: str, off: int) -> None:
        self.server.emit(job, status, max(START, self.server.now + off * SECOND))

    @rule(job=JOBS, nonsense=st.booleans())
    def emit_twice_or_nonsense(self, job: str, nonsense: bool) -> None:  # noqa: FBT001  # as above
        events = self.server.last_events(job)
        if nonsense:
            self.server.emit(job, None)
        elif events:
            self.server.emit(job, events[0].status, events[0].occurred_at)

    @rule(job=JOBS)
    def publish(self, job: str) -> None:
        self.server.publish(f"job_{job}")

    @rule(job=JOBS)
    def delete_by_its_owner(self, job: str) -> None:
        self.server.delete_by_its_owner(f"job_{job}")

    @rule(job=JOBS)
    def recreate(self, job: str) -> None:
        self.delete_by_its_owner(job)
        self.server.create(f"job_{job}")
        self.server.emit(job, "STARTED")
        self.server.publish(f"job_{job}")

    @rule(paused=st.booleans())
    def pause_or_resume(self, paused: bool) -> None:  # noqa: FBT001  # hypothesis draws it
        self.server.paused = paused

    # What time and trouble do.

    @rule(seconds=st.sampled_from([9, 25, 31, 61]))
    def time_passes(self, seconds: int) -> None:
        self.server.now += seconds * SECOND
        if seconds > LEASE_S:
            self._forget("lease:*")

    @rule()
    def flush_redis(self) -> None:
        self._forget("*")

    @rule()
    def dump_redis(self) -> None:
        self.dump = {key: self.raw.dump(key) for key in self.raw.scan_iter(f"{self.namespace}:*")}

    @rule()
    def roll_redis_back(self) -> None:
        if self.dump is not None:
            self._forget("*")
            for key, value in self.dump.items():
                self.raw.restore(key, 0, value, replace=True)
            self._forget("lease:*")

    def _forget(self, pattern: str) -> None:
        for key in self.raw.scan_iter(f"{self.namespace}:{pattern}"):
            if not key.endswith(b":clock"):
                self.raw.delete(key)

    # What reactor does, with somebody in between.

    @rule(which=st.integers(0, 1))
    def consume(self, which: int) -> None:
        self._do(which, {}, "consume")

    @rule(seconds=st.sampled_from([0, 9, 25, 41, 61, 100]))
    def wait_and_reconcile(self, seconds: int) -> None:
        self.time_passes(seconds)
        self._do(0, {}, "reconcile")

    @rule(which=st.integers(0, 1), plan=PLANS)
    def reconcile(self, which: int, plan: dict[int, tuple[str, str]]) -> None:
        self._do(which, plan, "reconcile")

    @rule(which=st.integers(0, 1), plan=PLANS)
    def sweep(self, which: int, plan: dict[int, tuple[str, str]]) -> None:
        self._do(which, plan, "sweep")

    @rule(
        which=st.integers(0, 1),
        job=JOBS,
        at=st.integers(1, 20),
        act=ACTS,
        what=st.sampled_from(["reconcile", "sweep"]),
    )
    def interfere(self, which: int, job: str, at: int, act: str, what: str) -> None:
        """Drain a due zombie, and act on its job meanwhile."""
        self.run_and_leave_behind(job, "SUCCESS")
        self._do(which, {}, "consume")
        self.dump_redis()
        self.time_passes(61)
        self._do(which, {at: (act, job)}, what)

    def _do(self, which: int, plan: dict[int, tuple[str, str]], what: str) -> None:
        replica = self.replicas[which]
        replica.js.calls = 0
        replica.js.meddling = {number: self._meddle(which, *act) for number, act in plan.items()}
        work = {"consume": replica.consume, "reconcile": replica.reconcile, "sweep": replica.sweeper.tick}[what]
        with suppress(JetStreamError, Killed):
            self.run(work())
        replica.js.meddling = {}
        if replica.js.dead:
            self.replicas[which] = self.replica()

    def _meddle(self, which: int, act: str, job: str) -> Meddle | str:
        """Return the action to take during a call, or what happens to the call itself."""
        if act.startswith(("kill", "lose")):
            return act
        other = self.replicas[1 - which]
        sudden: dict[str, Callable[[], object]] = {
            "publish": lambda: self.publish(job),
            "retry": lambda: self.server.emit(job, "STARTED"),
            "end": lambda: self.server.emit(job, "SUCCESS"),
            "recreate": lambda: self._recreate_if_not_fenced(job),
            "flush": self.flush_redis,
            "roll back": self.roll_redis_back,
            "pause": lambda: self.time_passes(LEASE_S + 1),
        }

        async def meddle() -> None:
            if act in sudden:
                sudden[act]()
                return
            if act == "usurp":
                self.time_passes(LEASE_S + 1)
                await self._sync_clock()
            await other.reconcile()
            if act == "usurp":
                self._recreate_if_not_fenced(job)

        return meddle

    async def _sync_clock(self) -> None:
        await self.redis.set(f"{self.namespace}:clock", self.server.now // 1_000_000)

    def _recreate_if_not_fenced(self, job: str) -> None:
        """Behind a fence this is the remaining race: a foreign deletion after the verification."""
        stream = self.server.streams.get(f"job_{job}")
        if stream is None or not stream.fenced:
            self.recreate(job)

    # What must hold.

    @invariant()
    def nothing_live_was_deleted(self) -> None:
        assert not self.server.wrongs

    def teardown(self) -> None:
        """When everything works again, ended jobs' streams are deleted within a few passes, and nothing else is."""
        try:
            self.server.emit("9", "STARTED")
            self.server.paused = False
            for _ in range(4):
                self.server.now += (max(GUARDS.values()) // SECOND + LEASE_S + 400) * SECOND
                self._forget("lease:*")
                self.run(self.replicas[0].reconcile())
            assert not self.server.wrongs
            for name, stream in self.server.streams.items():
                assert not stream.fenced, f"{name} stays fenced"
                protected = stream.config["metadata"].get("reactor.protect") == "true"
                assert protected or self.server.is_over(name[4:]) is False, f"{name} is left"
            self._check_the_audit()
        finally:
            self._forget("*")
            self.raw.close()
            self.loop.run_until_complete(self.redis.aclose())
            self.loop.close()
            self.server.close()

    def _check_the_audit(self) -> None:
        """No deletion is open, and none has two outcomes."""
        audit = Audit(Keyspace(self.redis, self.namespace))
        assert not self.run(audit.open_intents())
        trail = [entry for entry in self.run(audit.newest(1000))[::-1] if entry["phase"] != "unfixable"]
        begun: dict[str, bool] = {}
        for entry in trail:
            if entry["phase"] == "outcome":
                assert begun.get(entry["stream"], True), f"{entry['stream']} has an outcome without an intent"
            begun[entry["stream"]] = entry["phase"] == "intent"


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey for the machine, without an event loop."""
    server = valkey_server(tmp_path_factory.mktemp("machine"), free_port(), "--appendfsync", "no")
    loop = asyncio.new_event_loop()
    loop.run_until_complete(server.start())
    yield f"redis://{HOST}:{server.port}/0"
    loop.run_until_complete(server.stop())
    loop.close()


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A nats-server for the machine, without an event loop: its URL and its folder."""
    folder = tmp_path_factory.mktemp("machine-nats")
    server = nats_server(folder, free_port())
    loop = asyncio.new_event_loop()
    loop.run_until_complete(server.start())
    yield f"nats://{HOST}:{server.port}", folder
    loop.run_until_complete(server.stop())
    loop.close()


def play(
    redis_url: str, examples: int, steps: int, real: tuple[str, Path] | None = None, *, anew: bool = False
) -> None:
    """Play this many games of this many steps: the same at each run, or new ones with `anew`."""
    machine = type("Machine", (JobsAndReplicas,), {"redis_url": redis_url, "real": real})
    health = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            derandomize=not anew,
            stateful_step_count=steps,
            suppress_health_check=health,
            database=None,
        ),
    )


@pytest.mark.timeout(300)  # half a minute, alone
def test_no_game_is_lost(redis_url: str) -> None:
    """Whatever jobs, replicas and faults do, in any order."""
    play(redis_url, 150, 25)


def test_no_game_is_lost_on_a_real_server(redis_url: str, real: tuple[str, Path]) -> None:
    """The model answers like the server."""
    play(redis_url, 40, 25, real)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_no_game_is_lost_on_a_real_server_at_length(redis_url: str, real: tuple[str, Path]) -> None:
    """The long run of the test above."""
    play(redis_url, 300, 30, real, anew=True)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_no_game_is_lost_at_length(redis_url: str) -> None:
    """The long run of the test above."""
    play(redis_url, 1500, 40, anew=True)
