"""`reactor` processes that start at once: forked from one that has imported what they need.

Each is a process of its own, with the environment, the folder and the pipes that the test gives it. Most of a command's
CPU goes into imports, and the suite runs hundreds of commands. Those that are about the start itself do without it.

Run as a script this is the process that is forked: python forkserver.py SOCKET
"""

import asyncio
import gc
import io
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

NUMBER = struct.Struct("!i")
PRELOADED = (
    "reactor.cli.main",
    *(f"reactor.cli.{name}" for name in ("actions", "passes", "process", "queries", "rules", "settings", "streams")),
    *("reactor.worker.app", "reactor.web.server", "uvloop"),
)


class Forked:
    """A forked process, with asyncio's interface. Its pipes are read from the start."""

    def __init__(
        self, pid: int, door: socket.socket, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader
    ) -> None:
        self.pid, self.returncode = pid, None
        self.stdout, self.stderr = stdout, stderr
        self._ending = asyncio.create_task(self._end(door))

    returncode: int | None

    async def _end(self, door: socket.socket) -> int:
        with door:
            status = await asyncio.get_running_loop().sock_recv(door, NUMBER.size)
        self.returncode = os.waitstatus_to_exitcode(NUMBER.unpack(status)[0])
        return self.returncode

    async def wait(self) -> int:
        return await asyncio.shield(self._ending)

    async def communicate(self) -> tuple[bytes, bytes]:
        out, err, _ = await asyncio.gather(self.stdout.read(), self.stderr.read(), self.wait())
        return out, err

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forkserver:
    """The fork server of a test session."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._path = f"{self._folder.name}/s"
        self._process: subprocess.Popen[bytes] | None = None
        self._opening = asyncio.Lock()

    async def start(self, program: tuple[str, ...], env: dict[str, str], cwd: str | Path) -> Forked:
        """Start a Python program: `-m MODULE`, `-c CODE` or `FILE`, and its arguments."""
        async with self._opening:  # two may want the first one at the same time
            if self._process is None:
                await asyncio.to_thread(self._open)
        (out, to_out), (err, to_err) = os.pipe(), os.pipe()
        door = socket.socket(socket.AF_UNIX)
        await asyncio.to_thread(door.connect, self._path)
        order = json.dumps([program, env, str(cwd)]).encode()
        socket.send_fds(door, [NUMBER.pack(len(order))], [to_out, to_err])
        await asyncio.to_thread(door.sendall, order)
        (pid,) = NUMBER.unpack(await asyncio.to_thread(door.recv, NUMBER.size))
        os.close(to_out)
        os.close(to_err)
        door.settimeout(0)
        return Forked(pid, door, await _reading(out), await _reading(err))

    def _open(self) -> None:
        env = {"PYTHONPATH": f"{Path(__file__).parents[2]}"} | os.environ
        command = [sys.executable, __file__, self._path]
        self._process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()
        self._folder.cleanup()


async def _reading(number: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    pipe = os.fdopen(number, "rb", 0)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader


def serve(path: str) -> None:
    """Fork until the parent is gone. In a child this never returns: the end of the program is raised."""
    for module in PRELOADED:
        import_module(module)
    gc.freeze()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(64)
    woken, waking = socket.socketpair()
    waking.settimeout(0)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waking.fileno())
    ready = selectors.DefaultSelector()
    for item in (listening, woken, sys.stdin):
        ready.register(item, selectors.EVENT_READ)
    doors = dict[int, socket.socket]()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        events = {key.fileobj for key, _ in ready.select()}
        if sys.stdin in events:
            return
        if woken in events:
            woken.recv(4096)
            report_ended(doors)
        if listening in events:
            door, _ = listening.accept()
            length, pipes, _, _ = socket.recv_fds(door, NUMBER.size, 2)
            order = door.recv(NUMBER.unpack(length)[0], socket.MSG_WAITALL)
            if (pid := os.fork()) == 0:
                for item in (listening, woken, waking, door, *doors.values()):
                    item.close()
                become(pipes, *json.loads(order))
            for pipe in pipes:
                os.close(pipe)
            doors[pid] = door
            door.sendall(NUMBER.pack(pid))


def report_ended(doors: dict[int, socket.socket]) -> None:
    while doors:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with doors.pop(pid) as door, suppress(OSError):
            door.sendall(NUMBER.pack(status))


def become(pipes: list[int], program: list[str], env: dict[str, str], cwd: str) -> NoReturn:
    """Become that program until the end."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, pipe in zip((1, 2), pipes, strict=True):
        os.dup2(pipe, number)
        os.close(pipe)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), "utf-8")
    sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), "utf-8", "backslashreplace", line_buffering=True)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    if program[0] == "-m":
        sys.argv = ["reactor", *program[2:]]
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    elif program[0] == "-c":
        sys.argv = ["reactor", *program[2:]]
        exec(program[1], {"__name__": "__main__"})  # noqa: S102  # a test's
    else:
        sys.argv = list(program)
        runpy.run_path(program[0], run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    serve(sys.argv[1])
