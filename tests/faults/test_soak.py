"""Ten minutes of a job system at work, with two replicas of reactor, while everything breaks at random.

uv run pytest -m soak -n 0 --no-cov -s
"""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import nats.errors
import nats.js.errors
import pytest
from support.faults import Proxy
from support.faulty import is_whole, none_is_open, through_proxies
from support.harness import WorkerProcess, World, eventually, print_figure, worker

from reactor.cli.embedded import Server

SEED = 20261123
MOST_AT_ONCE = 100
NATS_ERRORS = (nats.errors.Error, nats.js.errors.Error, TimeoutError)
GUARDS = {
    "REACTOR_POLICY_TERMINAL_GRACE": "1s",
    "REACTOR_SWEEP_LEASE": "3s",
    "REACTOR_RECONCILE_INTERVAL": "3s",
    "REACTOR_LOG_LEVEL": "INFO",
}


@dataclass
class Jobs:
    """A job system, and the messages of each live job that the server has acknowledged."""

    world: World
    folder: Path
    random: Random
    live: dict[int, int] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    _next: int = 1

    async def step(self) -> None:
        """Do one thing that a job system does, with a limit of live jobs."""
        come_or_go = self.start if len(self.live) < MOST_AT_ONCE else self.end
        do = self.random.choice([come_or_go, self.work, self.work, self.end, self.retry, self.check])
        with suppress(*NATS_ERRORS):
            await do()

    async def emit(self, job: int, status: str) -> None:
        """Publish a lifecycle event that the server acknowledges."""
        data = f'{{"job_id": {job}, "status": "{status}"}}'.encode()
        await self.world.js.publish(f"jobs.lifecycle.{job}", data)

    async def start(self) -> None:
        job, self._next = self._next, self._next + 1
        await self.emit(job, "STARTED")
        await self.world.stream(f"job_{job}")
        self.live[job] = 0
        self.counts["started"] += 1

    async def work(self) -> None:
        if self.live:
            job = self.random.choice(list(self.live))
            await self.world.js.publish(f"job.{job}.tasks", b"task")
            self.live[job] += 1
            self.counts["messages"] += 1

    async def end(self) -> None:
        """End a job and leave its stream. Once the event is sent, its messages need not survive."""
        if len(self.live) > 5:
            job = self.random.choice(list(self.live))
            del self.live[job]
            self.ended.add(job)
            await self.emit(job, self.random.choice(["SUCCESS", "FAILURE", "REVOKED"]))
            self.counts["ended"] += 1

    async def retry(self) -> None:
        """Retry a job on its stream, or on a new one if that is gone.

        It waits until the server has removed the old one's files, because it may remove the new one's with them
        (docs/safety.md).
        """
        if not self.ended:
            return
        job = self.random.choice(list(self.ended))
        await self.emit(job, "RETRY")
        try:
            await self.world.js.publish(f"job.{job}.tasks", b"task")
            before = 0
        except nats.js.errors.NoStreamResponseError:
            if self._has_files(job):
                return
            await self.world.stream(f"job_{job}")
            before = -1
        self.ended.discard(job)
        self.live[job] = before + 1
        self.counts["retried"] += 1

    def _has_files(self, job: int) -> bool:
        """Return whether files are left.

        Deleted streams are in folders with a leading dot until the server removes them.
        """
        folders = self.folder.glob("nats/jetstream/jetstream/*/streams/*")
        return any(path.name in {f"job_{job}", f".job_{job}"} for path in folders)

    async def clear_up(self) -> bool:
        """Publish the end of all jobs that are not live again, because answers were lost."""
        with suppress(*NATS_ERRORS):
            for name in await self.world.names() - {f"job_{job}" for job in self.live}:
                await self.emit(int(name[4:]), "SUCCESS")
            return True
        return False

    async def check(self) -> None:
        """Check that everything acknowledged for a live job is there."""
        for job, messages in list(self.live.items()):
            info = await self.world.api(f"STREAM.INFO.job_{job}")
            if info.get("error", {}).get("err_code") == 10059 and job in self.live:
                self.counts["lost"] += 1
            elif "state" in info and info["state"]["messages"] < messages:
                self.counts["lost"] += messages - info["state"]["messages"]


@dataclass
class Troubles:
    """Faults and their repair."""

    world: World
    nats_proxy: Proxy
    redis_proxy: Proxy
    nats_one: Server
    valkey: Server
    replicas: list[WorkerProcess]
    random: Random

    async def cut(self) -> None:
        self.random.choice([self.nats_proxy, self.redis_proxy]).cut()

    async def deafen(self) -> None:
        proxy = self.random.choice([self.nats_proxy, self.redis_proxy])
        proxy.deaf = True
        await asyncio.sleep(self.random.random() * 3)
        proxy.cut()
        proxy.deaf = False

    async def lose_an_answer(self) -> None:
        self.nats_proxy.cut_at = b"STREAM.DELETE.job_"

    async def lose_a_request(self) -> None:
        self.nats_proxy.drop_at = self.random.choice([b"STREAM.DELETE.job_", b"STREAM.UPDATE.job_"])

    async def pause_a_replica(self) -> None:
        replica = self._a_replica()
        if replica and replica.process.returncode is None:
            replica.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(self.random.random() * 6)
            replica.process.send_signal(signal.SIGCONT)

    async def kill_a_replica(self) -> None:
        replica = self._a_replica()
        if replica and replica.process.returncode is None:
            replica.process.send_signal(signal.SIGKILL)
            await replica.process.wait()

    def _a_replica(self) -> WorkerProcess | None:
        """Return a running replica; None if both are starting."""
        return self.random.choice(self.replicas) if self.replicas else None

    async def flush(self) -> None:
        await self.world.redis.flushall()

    async def kill_redis(self) -> None:
        self.valkey.signal(signal.SIGKILL)
        await self.valkey.stop()
        await asyncio.sleep(self.random.random() * 3)
        await self.valkey.start()

    async def kill_nats(self) -> None:
        self.nats_one.signal(signal.SIGKILL)
        await self.nats_one.stop()
        await asyncio.sleep(self.random.random() * 3)
        await self.nats_one.start()

    async def pause_nats(self) -> None:
        self.nats_one.signal(signal.SIGSTOP)
        await asyncio.sleep(self.random.random() * 5)
        self.nats_one.signal(signal.SIGCONT)

    def all(self) -> list[Callable[[], Awaitable[None]]]:
        """Return all faults."""
        return [
            *(self.cut, self.deafen, self.lose_an_answer, self.lose_a_request, self.pause_a_replica),
            *(self.kill_a_replica, self.flush, self.kill_redis, self.kill_nats, self.pause_nats),
        ]


async def keep_running(env: dict[str, str], replicas: list[WorkerProcess], stop: asyncio.Event) -> None:
    """Restart a replica whenever it was killed, like a supervisor."""
    while not stop.is_set():
        async with worker(env, until="") as process:
            replicas.append(process)
            ends = [asyncio.create_task(process.process.wait()), asyncio.create_task(stop.wait())]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.cancel()
            replicas.remove(process)


async def soak(folder: Path, seconds: float, pause_s: float) -> None:
    """Cause one fault after another for this long. Then repair everything, and check the result."""
    random = Random(SEED)  # noqa: S311  # a schedule, no secret
    async with AsyncExitStack() as stack:
        parts = await stack.enter_async_context(through_proxies(folder))
        world, behind, nats_proxy, redis_proxy, nats_one, valkey = parts
        await world.declare()
        jobs, stop, replicas = Jobs(world, folder, random), asyncio.Event(), list[WorkerProcess]()
        env = behind.env(**GUARDS)
        running = [asyncio.create_task(keep_running(env, replicas, stop)) for _ in range(2)]
        troubles = Troubles(world, nats_proxy, redis_proxy, nats_one, valkey, replicas, random)
        breaking = asyncio.create_task(break_things(troubles, jobs.counts, stop, pause_s))
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            await jobs.step()
            await asyncio.sleep(0.01)
        stop.set()
        await breaking
        stop.clear()
        running += [asyncio.create_task(keep_running(env, replicas, stop)) for _ in range(2)]
        await eventually(jobs.clear_up, 30, 0.5)
        await eventually(lambda: is_settled(jobs), 80, 0.5)
        stop.set()
        await asyncio.gather(*running)
        counts = dict(sorted(jobs.counts.items()))
        print_figure(f"{seconds:g} s of random faults: {counts}, {len(jobs.live)} jobs live at the end, all whole")
        assert not jobs.counts["lost"]


async def break_things(troubles: Troubles, counts: Counter[str], stop: asyncio.Event, pause_s: float) -> None:
    """Cause and repair one fault after another. At the end nothing is broken."""
    while not stop.is_set():
        trouble = troubles.random.choice(troubles.all())
        with suppress(*NATS_ERRORS, OSError):
            await trouble()
        counts["faults"] += 1
        await asyncio.sleep(troubles.random.random() * pause_s)
    troubles.nats_proxy.cut_at = troubles.nats_proxy.drop_at = None


async def is_settled(jobs: Jobs) -> bool:
    """Return whether everything is as it must be. The rest is printed."""
    if wrong := await unsettled(jobs):
        print_figure(f"not settled yet: {wrong[:10]}, lost: {jobs.counts['lost']}")
    return not wrong


async def unsettled(jobs: Jobs) -> list[str]:
    """Return what is wrong: streams of ended jobs, incomplete streams of live ones, open deletions."""
    try:
        await jobs.check()
        live = {f"job_{job}": messages for job, messages in jobs.live.items()}
        wrong = sorted(await jobs.world.names() ^ live.keys())
        for name in live.keys() - set(wrong):
            if not await is_whole(jobs.world, name, at_least=live[name]):
                wrong.append(f"{name} is not whole")
    except NATS_ERRORS as error:
        return [repr(error)]
    return wrong if await none_is_open(jobs.world) else [*wrong, "an open deletion"]


async def test_a_slice_of_the_soak(tmp_path: Path) -> None:
    """A quarter of a minute."""
    await soak(tmp_path, 15, 1.0)


@pytest.mark.soak
@pytest.mark.timeout(1200)
async def test_ten_minutes_of_random_faults(tmp_path: Path) -> None:
    """No acknowledged message of a live job is lost, and no zombie is left."""
    await soak(tmp_path, 600, 4.0)
