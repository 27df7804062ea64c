"""Faults: a TCP proxy in front of a server, replaced servers, stopped processes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import psutil

from reactor.cli.embedded import HOST


@dataclass
class Proxy:
    """Forwards connections to a port that may change, with faults on demand."""

    target: int
    port: int = 0
    delay_s: float = 0.0
    """Each chunk is held back for so long, either way."""
    deaf: bool = False
    """What comes is swallowed, either way: the connection looks alive and is dead."""
    refusing: bool = False
    """Nobody is let in."""
    cut_at: bytes | None = None
    """Once a client has sent this, it is forwarded and the connection broken before the answer."""
    drop_at: bytes | None = None
    """Once a client sends this, it is swallowed and the connection broken."""
    hits: int = 0
    """How often one of these was met."""
    delayed: int = 0
    """Chunks that were held back."""
    swallowed: int = 0
    """Bytes that arrived nowhere."""
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection, to its end."""
        try:
            if self.refusing:
                raise ConnectionRefusedError
            beyond = await asyncio.open_connection(HOST, self.target)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, beyond[1]}
        asking = asyncio.create_task(self._forward(reader, beyond[1], writer))
        answering = asyncio.create_task(self._forward(beyond[0], writer))
        await asyncio.wait({asking, answering}, return_when=asyncio.FIRST_COMPLETED)
        for task in (asking, answering):
            task.cancel()
        for item in (writer, beyond[1]):
            item.close()
            self._writers.discard(item)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: asyncio.StreamWriter | None = None
    ) -> None:
        """Forward one direction. `client` is the sender if this is the direction of requests."""
        with suppress(OSError):
            while chunk := await reader.read(65536):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                    self.delayed += 1
                if client and self.drop_at and self.drop_at in chunk:
                    self.drop_at, self.hits = None, self.hits + 1
                    return
                if self.deaf:
                    self.swallowed += len(chunk)
                elif not writer.is_closing():
                    writer.write(chunk)
                    await writer.drain()
                if client and self.cut_at and self.cut_at in chunk:
                    self.cut_at, self.hits = None, self.hits + 1
                    client.transport.abort()
                    await asyncio.Event().wait()  # the server keeps its end, so that it reads what it was sent

    def cut(self) -> None:
        """Break all connections."""
        for writer in self._writers:
            writer.transport.abort()


@dataclass
class Distance:
    """Forwards connections as over a long line: every byte arrives later, and the rate is not limited."""

    target: int
    delay_s: float
    port: int = 0
    delayed: int = 0
    """Bytes that have gone the long way."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        writers, ways = [writer], list[asyncio.Task[None]]()
        try:
            far_reader, far_writer = await asyncio.open_connection(HOST, self.target)
            writers.append(far_writer)
            ways += [asyncio.create_task(self._carry(*way)) for way in ((reader, far_writer), (far_reader, writer))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass
        finally:
            for way in ways:
                way.cancel()
            for item in writers:
                item.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clock, line = asyncio.get_running_loop(), asyncio.Queue[tuple[float, bytes]]()
        arriving = asyncio.create_task(self._arrive(line, writer))
        try:
            while chunk := await reader.read(65536):
                line.put_nowait((clock.time() + self.delay_s, chunk))
        except OSError:
            pass
        finally:
            arriving.cancel()

    async def _arrive(self, line: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop()
        while not writer.is_closing():
            due, chunk = await line.get()
            await asyncio.sleep(max(due - clock.time(), 0))
            writer.write(chunk)
            self.delayed += len(chunk)


@asynccontextmanager
async def distant(target: int, delay_s: float) -> AsyncIterator[Distance]:
    """A long line to a port of this host."""
    distance = Distance(target, delay_s)
    server = await asyncio.start_server(distance.serve, HOST, 0)
    distance.port = server.sockets[0].getsockname()[1]
    try:
        yield distance
    finally:
        server.close()


@asynccontextmanager
async def proxied(target: int) -> AsyncIterator[Proxy]:
    """A proxy in front of a port of this host."""
    proxy = Proxy(target)
    server = await asyncio.start_server(proxy.serve, HOST, 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()


def is_stopped(pid: int) -> bool:
    """Return whether the process is stopped by SIGSTOP."""
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


def resident(pid: int) -> float:
    """Return the memory of a process in MB."""
    return float(psutil.Process(pid).memory_info().rss) / 1e6
