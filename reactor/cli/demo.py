"""`reactor demo`: a simulated job system that leaks streams, and the real worker, on embedded servers.

The job system only publishes lifecycle events. It knows which jobs run and which streams it leaked, so it notices if a
live stream is ever touched.
"""

import asyncio
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, StorageType, StreamConfig
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from reactor.cli.embedded import HOST, Endpoints, embedded_servers, free_port
from reactor.cli.render import visible

AGE_GUARD_S = 2.0
GRACE_S = 2.0
GUARDS = {
    "REACTOR_POLICY_AGE_GUARD": f"{AGE_GUARD_S}s",
    "REACTOR_POLICY_TERMINAL_GRACE": f"{GRACE_S}s",
    "REACTOR_POLICY_IDLE_GUARD": "2s",
    "REACTOR_RECONCILE_INTERVAL": "5s",
    "REACTOR_LOG_FORMAT": "json",
}
NEW_JOB_EVERY_S = 0.7
LAST_JOBS_S = 12.0
"""No jobs start in the last seconds, or in the second half of a short demo, so that leaked streams can be deleted."""
LONGEST_S = 7.0
"""The longest run of a job (s). In a short demo it is a quarter of the demo."""
PATIENCE_S = 30.0
"""How long (s) a slow machine may take to start the worker, and how much longer than asked to delete a first zombie."""
SHOWN = 14

# How a job ends and what its clean-up forgets: status (None: no event at all), does the clean-up run, description.
ENDINGS: tuple[tuple[str | None, bool, str], ...] = (
    ("SUCCESS", True, "cleaned up"),
    ("SUCCESS", True, "cleaned up"),
    ("SUCCESS", False, "exception in the middle of the clean-up"),
    ("FAILURE", False, "clean-up skipped on failure"),
    ("REVOKED", False, "clean-up skipped on cancel"),
    ("DELETED", False, "job row deleted"),
)


@dataclass
class Job:
    """One simulated job. Times are by the monotonic clock (s)."""

    number: int
    born: float
    status: str = "STARTED"
    ended: float | None = None
    leak: str | None = None
    gone: float | None = None
    reason: str = ""
    worked: int = 0
    retries: int = 0

    @property
    def stream(self) -> str:
        """The name of its stream."""
        return f"job_{self.number}"

    @property
    def due(self) -> float:
        """When its leaked stream may be deleted."""
        return max(self.born + AGE_GUARD_S, (self.ended or 0.0) + GRACE_S)


@dataclass
class JobSystem:
    """Creates, runs, retries and ends jobs. Sometimes it forgets to clean up."""

    nc: Client
    jobs: dict[str, Job] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    fell: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the first zombie was deleted."""
    dice: random.Random = field(default_factory=lambda: random.Random(7))  # noqa: S311  # a simulation, no secret

    async def run(self, until: float) -> None:
        """Start jobs until then, and wait for the first zombie to be deleted."""
        await self.nc.subscribe("reactor.drained.*", cb=self._drained)
        seconds = until - time.monotonic()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._run_jobs(until, seconds), seconds)
        with suppress(TimeoutError):
            await asyncio.wait_for(self.fell.wait(), PATIENCE_S)

    async def _run_jobs(self, until: float, seconds: float) -> None:
        last, longest = until - min(LAST_JOBS_S, seconds / 2), min(LONGEST_S, seconds / 4)
        async with asyncio.TaskGroup() as group:
            number = 1
            while time.monotonic() < last:
                group.create_task(self._live(number, until, longest), name=f"job {number}")
                number += 1
                await asyncio.sleep(NEW_JOB_EVERY_S)

    async def _live(self, number: int, until: float, longest: float) -> None:
        job = Job(number, time.monotonic())
        await self._create(job)
        self.jobs[job.stream] = job
        forever = number % 6 == 0  # some jobs outlive the demo
        await self._say(job, "STARTED")
        if number % 5 == 0:  # fails, and is run again with the very same stream: no zombie
            await self._work(job, 1.5)
            await self._say(job, "FAILURE")
            await self._work(job, 0.5)
            job.retries += 1
            await self._say(job, "STARTED")
        await self._work(job, max(0.0, until - time.monotonic()) if forever else self.dice.uniform(0.3, 1) * longest)
        if not forever:
            await self._end(job)

    async def _create(self, job: Job) -> None:
        js = self.nc.jetstream(timeout=10)
        subjects = [f"job.{job.number}.tasks"]
        await js.add_stream(StreamConfig(job.stream, subjects=subjects, storage=StorageType.FILE, max_age=86_400))
        durable = f"job-{job.number}-consumer"
        await js.add_consumer(job.stream, ConsumerConfig(durable_name=durable, max_deliver=2))

    async def _work(self, job: Job, seconds: float) -> None:
        """Publish tasks and poll for them, like an external worker. A refusal means that a live stream was touched."""
        js = self.nc.jetstream(timeout=10)
        pull = await js.pull_subscribe_bind(consumer=f"job-{job.number}-consumer", stream=job.stream)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                await js.publish(f"job.{job.number}.tasks", b"task")
                for msg in await pull.fetch(1, timeout=1):
                    await msg.ack()
                    job.worked += 1
            except nats.errors.TimeoutError:
                continue
            except (nats.errors.Error, nats.js.errors.Error):
                self.touched.add(job.stream)
                return
            await asyncio.sleep(0.3)
        await pull.unsubscribe()

    async def _end(self, job: Job) -> None:
        status, clean, how = self.dice.choice(ENDINGS)
        job.ended, job.status = time.monotonic(), status or job.status
        await self._say(job, job.status)
        if clean:
            with suppress(nats.js.errors.NotFoundError):
                await self.nc.jetstream(timeout=10).delete_stream(job.stream)
            job.gone = time.monotonic()
        else:
            job.leak = how

    async def _say(self, job: Job, status: str) -> None:
        job.status = status
        event = {"job_id": job.number, "status": status}
        await self.nc.publish(f"jobs.lifecycle.{job.number}", json.dumps(event).encode())

    async def _drained(self, msg: Msg) -> None:
        event = json.loads(msg.data)
        job = self.jobs[event["stream"]]
        if job.ended is None:
            self.touched.add(job.stream)
        job.gone, job.reason = time.monotonic(), event["reason"]
        self.fell.set()

    @property
    def leaked(self) -> list[Job]:
        """The jobs whose clean-up was forgotten."""
        return [job for job in self.jobs.values() if job.leak]


def _row(job: Job, now: float) -> tuple[str, str, str, str]:
    if job.ended is None:
        retried = " (retried)" if job.retries else ""
        return job.stream, f"[green]{job.status}{retried}[/]", f"{job.worked} tasks done", "[green]live, stays[/]"
    if not job.leak:
        return job.stream, job.status, "cleaned up", "[dim]deleted by its job system[/]"
    if job.gone is None:
        left = job.due - now
        what = f"leaked, due in {left:.1f} s" if left > 0 else "[bold red]zombie[/], due now"
        return job.stream, f"[red]{job.status}[/]", job.leak, what
    took = max(0.0, job.gone - job.due)
    return job.stream, job.status, job.leak, f"[cyan]drained[/] ({job.reason}), {took * 1000:.0f} ms after it was due"


def _screen(system: JobSystem, ends: float) -> Group:
    now = time.monotonic()
    table = Table("stream", "job", "what happened", "its queue now", expand=True)
    for job in sorted(system.jobs.values(), key=lambda job: job.number)[-SHOWN:]:
        table.add_row(*_row(job, now))
    return Group(Text(_counts(system, now) + f" · {max(0.0, ends - now):.0f} s to go", style="bold"), table)


def _counts(system: JobSystem, now: float) -> str:
    live = sum(job.ended is None for job in system.jobs.values())
    left = [job for job in system.leaked if job.gone is None]
    zombies = sum(job.due < now for job in left)
    drained, touched = len(system.leaked) - len(left), len(system.touched)
    leaked = f"{len(system.leaked)} leaked: {drained} drained, {zombies} zombies, {len(left) - zombies} not due yet"
    return f"{live} live · {leaked} · {touched} live touched"


async def _show(console: Console, system: JobSystem, ends: float) -> None:
    """Show a live table on a terminal, or print a line every few seconds, until cancelled."""
    if not console.is_terminal:
        while True:
            await asyncio.sleep(5)
            console.print(_counts(system, time.monotonic()))
    with Live(console=console, refresh_per_second=5) as live:
        while True:
            live.update(_screen(system, ends))
            await asyncio.sleep(0.2)


def _summary(console: Console, system: JobSystem) -> int:
    fallen = [job for job in system.leaked if job.gone is not None]
    delays = [max(0.0, (job.gone or 0.0) - job.due) for job in fallen]
    median = f"{statistics.median(delays):.2f} s" if delays else "-"
    table = Table("jobs", "leaked", "drained", "live streams touched", "median time from due to gone")
    cells = (len(system.jobs), len(system.leaked), len(fallen), len(system.touched), median)
    table.add_row(*map(str, cells))
    console.print(table)
    if left := len(system.leaked) - len(fallen):
        console.print(f"{left} leaked {'stream was' if left == 1 else 'streams were'} not deleted when the demo ended.")
    console.print("The demo's servers are stopped, and their data is deleted.")
    return 1 if system.touched else 0


@dataclass(frozen=True, slots=True)
class Worker:
    """The real worker, and its log."""

    process: asyncio.subprocess.Process
    log: Path
    page: str
    """The address of its page."""

    @property
    def last_words(self) -> str | None:
        """Return the end of its log, if it has died."""
        return None if self.process.returncode is None else self.log.read_text().strip()[-500:]

    async def ready(self) -> None:
        """Wait until it receives lifecycle events. It never learns of a job that began and ended before that."""
        while not await asyncio.to_thread(self._is_ready):  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.page}readyz", timeout=1):  # noqa: S310  # our own worker
                return True
        except OSError:  # it does not listen yet, or answers 503
            return False


@asynccontextmanager
async def _worker(endpoints: Endpoints, log: Path) -> AsyncIterator[Worker]:
    """Run the real worker as a process, and stop it with SIGTERM."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("REACTOR_")}
    port = free_port()
    ours = {
        "REACTOR_NATS_URL": endpoints.nats_url,
        "REACTOR_REDIS_URL": endpoints.redis_url,
        "REACTOR_HTTP_PORT": str(port),
    }
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "reactor", "worker"),
            env=inherited | GUARDS | ours,
            stdout=stderr,
            stderr=stderr,
            cwd=log.parent,  # no .env of the user's
            start_new_session=True,  # Ctrl-C is for the demo, which then stops it in order
        )
        try:
            yield Worker(process, log, f"http://{HOST}:{port}/")
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def run_demo(seconds: float) -> int:
    """Run the demo and print a summary. Return 0, or 1 if a live stream was touched or the worker died."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with tempfile.TemporaryDirectory(prefix="reactor-demo-") as folder:
        async with (
            embedded_servers(Path(folder)) as endpoints,
            _worker(endpoints, Path(folder) / "worker.log") as worker,
            await nats.connect(endpoints.nats_url) as nc,
        ):
            return await _play(Console(), JobSystem(nc), worker, stop, seconds)


async def _play(console: Console, system: JobSystem, worker: Worker, stop: asyncio.Event, seconds: float) -> int:
    """Run until the time is over, until Ctrl-C, or until something fails."""
    with suppress(TimeoutError):
        await asyncio.wait_for(_first_of(worker.ready(), stop.wait(), worker.process.wait()), PATIENCE_S)
    ends = time.monotonic() + seconds
    console.print("A nats-server, a Valkey and a worker run; now a job system begins to leak.")
    console.print(f"Watch it in a browser: {worker.page}", soft_wrap=True)
    await _first_of(system.run(ends), _show(console, system, ends), stop.wait(), worker.process.wait())
    if worker.last_words is not None:
        console.print(f"[bold red]the worker died[/]: {visible(worker.last_words)}")
    return max(_summary(console, system), int(worker.last_words is not None))


async def _first_of(*work: Awaitable[object]) -> None:
    """Wait until one of them ends, and cancel the others. Raises what one of them raised."""
    tasks = [asyncio.ensure_future(item) for item in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result
