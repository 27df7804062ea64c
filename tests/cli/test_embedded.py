"""The embedded servers: they answer, keep their data, refuse what cannot work, and leave no process behind."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nats.errors
import psutil
import pytest
from nats.aio.client import Client
from nats.js.api import StreamConfig
from support.harness import ROOT, connected, eventually, own_cluster, own_nats, own_valkey

from reactor.cli import embedded
from reactor.cli.embedded import (
    HOST,
    EmbeddedError,
    Endpoints,
    Server,
    embedded_servers,
    free_port,
    nats_server,
    running,
    valkey_server,
)

SERVERS = pytest.mark.parametrize("build", [nats_server, valkey_server])
PORTS = pytest.mark.parametrize(("name", "place"), [("nats-server", 0), ("valkey-server", 1)])

ABANDONER = """
import asyncio, sys
from pathlib import Path
from reactor.cli.embedded import embedded_servers

async def main():
    async with embedded_servers(Path(sys.argv[1])):
        print("up", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def _children() -> set[int]:
    """Return our processes that are alive."""
    return {item.pid for item in psutil.Process().children(recursive=True) if item.status() != psutil.STATUS_ZOMBIE}


def _gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def _use(endpoints: Endpoints, value: str) -> tuple[int, str | None]:
    """Write to both servers. Return the number of messages in NATS and the last value in Valkey before that."""
    async with connected(endpoints.nats_url, endpoints.redis_url, "t") as world:
        before = await world.redis.get("key")
        assert before is None or isinstance(before, str)
        await world.redis.set("key", value)
        await world.js.add_stream(StreamConfig("kept", subjects=["kept"]))
        ack = await world.js.publish("kept", value.encode())
        return ack.seq - 1, before


async def test_both_answer_and_keep_their_data(tmp_path: Path) -> None:
    """They keep it across runs on one folder, whose name may contain a space."""
    folder = tmp_path / "my data"
    async with embedded_servers(folder) as endpoints:
        assert await _use(endpoints, "one") == (0, None)
    async with embedded_servers(folder) as endpoints:
        assert await _use(endpoints, "two") == (1, "one")


async def test_a_relative_folder_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default of --data-dir is relative."""
    monkeypatch.chdir(tmp_path)
    async with embedded_servers(Path(".reactor")) as endpoints:
        await _use(endpoints, "one")
    assert (tmp_path / ".reactor" / "nats" / "jetstream").is_dir()
    assert (tmp_path / ".reactor" / "valkey" / "appendonlydir").is_dir()


async def test_valkey_rather_refuses_than_forgets(tmp_path: Path) -> None:
    """Every write goes to a file, and no key is evicted."""
    async with (
        embedded_servers(tmp_path) as endpoints,
        connected(endpoints.nats_url, endpoints.redis_url, "t") as world,
    ):
        asked = await world.redis.config_get("maxmemory-policy", "appendonly", "bind")
    assert asked == {"maxmemory-policy": "noeviction", "appendonly": "yes", "bind": HOST}


async def test_chosen_ports_are_used(tmp_path: Path) -> None:
    """The URLs have them."""
    ports = free_port(), free_port()
    async with embedded_servers(tmp_path, *ports) as endpoints:
        assert endpoints == Endpoints(f"nats://{HOST}:{ports[0]}", f"redis://{HOST}:{ports[1]}/0")
        await _use(endpoints, "one")


@PORTS
async def test_a_taken_port_is_named(tmp_path: Path, name: str, place: int) -> None:
    """No process is left, whichever of the two ports is taken."""
    before = _children()
    with socket.create_server((HOST, 0)) as taken:
        ports = [0, 0]
        ports[place] = taken.getsockname()[1]
        with pytest.raises(EmbeddedError, match=f"{name} cannot listen on {HOST}:{ports[place]}: .*[Ii]n use"):
            await embedded_servers(tmp_path, *ports).__aenter__()
    assert _children() == before


@PORTS
@pytest.mark.parametrize("port", [-5, 70_000])
async def test_an_impossible_port_is_named(tmp_path: Path, name: str, place: int, port: int) -> None:
    """The error is readable, and not that of the socket."""
    ports = [0, 0]
    ports[place] = port
    with pytest.raises(EmbeddedError, match=f"{name} cannot listen on {HOST}:{port}: ports go from 1 to 65535"):
        await embedded_servers(tmp_path, *ports).__aenter__()


async def test_a_folder_in_use_is_refused_and_says_by_whom(tmp_path: Path) -> None:
    """The first process is not disturbed."""
    async with embedded_servers(tmp_path) as endpoints:
        with pytest.raises(
            EmbeddedError, match=f"another process uses .*reactor {os.getpid()}, nats-server .*--data-dir"
        ):
            await embedded_servers(tmp_path).__aenter__()
        await _use(endpoints, "one")
    async with embedded_servers(tmp_path) as endpoints:
        assert await _use(endpoints, "two") == (1, "one")


async def test_servers_end_with_a_killed_reactor(tmp_path: Path) -> None:
    """Even after kill -9. The next start waits for them and keeps their data."""
    reactor = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ABANDONER, str(tmp_path)),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert reactor.stdout is not None
    assert await reactor.stdout.readline() == b"up\n"
    with pytest.raises(EmbeddedError, match="another process uses") as refused:
        await embedded_servers(tmp_path).__aenter__()
    left = [int(pid) for pid in re.findall(r"server (\d+)", str(refused.value))]
    assert len(left) == 2
    reactor.kill()
    await reactor.wait()
    async with embedded_servers(tmp_path) as endpoints:
        await _use(endpoints, "one")
    assert all(map(_gone, left))


def test_a_port_is_given_to_one_process_alone() -> None:
    """Otherwise two processes that start servers at the same time could get the same port."""
    ask = f"from reactor.cli.embedded import _reserve; raise SystemExit(_reserve({free_port()}))"
    done = subprocess.run([sys.executable, "-c", ask], env={"PYTHONPATH": str(ROOT)}, check=False)  # noqa: S603  # ours
    assert done.returncode == 0


async def test_stopping_leaves_no_process(tmp_path: Path) -> None:
    """No port is in use either."""
    before = _children()
    async with embedded_servers(tmp_path):
        assert len(_children() - before) == 2
    assert _children() == before


async def test_an_error_inside_leaves_no_process(tmp_path: Path) -> None:
    """The code that uses the servers may fail."""
    before = _children()
    with pytest.raises(KeyError):
        async with embedded_servers(tmp_path):
            raise KeyError
    assert _children() == before


@SERVERS
async def test_a_cancelled_start_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Callable[[Path, int], Server]
) -> None:
    """Ctrl-C may come before the server answers."""
    monkeypatch.setattr(embedded, "_answers", lambda *_: False)
    server = build(tmp_path, free_port())
    starting = asyncio.create_task(running(server).__aenter__())
    await eventually(lambda: server.pid)
    assert not _gone(server.pid)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert _gone(server.pid)


async def test_a_second_server_that_fails_takes_the_first_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the end of its log."""
    before = _children()
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'out of luck'\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(embedded, "_valkey_binary", lambda: str(broken))
    with pytest.raises(EmbeddedError, match=r"valkey-server did not start on .*out of luck"):
        await embedded_servers(tmp_path / "data").__aenter__()
    assert _children() == before


@SERVERS
async def test_a_server_is_out_of_reach_of_the_terminal(tmp_path: Path, build: Callable[[Path, int], Server]) -> None:
    """Ctrl-C goes to the foreground group of a session. The servers have another session."""
    async with running(build(tmp_path, free_port())) as server:
        assert os.getsid(server.pid) == server.pid
        assert os.getpgid(server.pid) == server.pid


async def test_a_server_comes_back_on_its_port_and_data(tmp_path: Path) -> None:
    """After a stop and after a kill, as the tests of outages need it."""
    async with own_nats(tmp_path) as nats_one, own_valkey(tmp_path) as valkey_one:
        endpoints = Endpoints(f"nats://{HOST}:{nats_one.port}", f"redis://{HOST}:{valkey_one.port}/0")
        await _use(endpoints, "one")
        for server in (nats_one, valkey_one):
            await server.stop()
            await server.start()
        assert await _use(endpoints, "two") == (1, "one")
        for server in (nats_one, valkey_one):
            server.signal(signal.SIGKILL)
            await server.stop()
            await server.start()
        assert await _use(endpoints, "three") == (2, "two")


async def test_a_paused_server_still_stops(tmp_path: Path) -> None:
    """A stopped process gets SIGTERM only when it continues."""
    async with own_valkey(tmp_path) as server:
        server.signal(signal.SIGSTOP)
        await eventually(partial(_paused, server.pid))
    assert _gone(server.pid)


def _paused(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


async def test_a_cluster_replicates(tmp_path: Path) -> None:
    """A stream on three nodes accepts messages after one node was killed."""
    async with own_cluster(tmp_path) as nodes:
        nc = await nats.connect([f"nats://{HOST}:{node.port}" for node in nodes], reconnect_time_wait=0.1)
        await eventually(partial(_has_made_r3, nc), 40)
        await eventually(partial(_publishes, nc), 30)
        nodes[0].signal(signal.SIGKILL)
        await nodes[0].stop()
        await eventually(partial(_publishes, nc), 30)
        await nc.close()
    assert all(_gone(node.pid) for node in nodes)


async def _has_made_r3(nc: Client) -> bool:
    """Return whether the stream was created. A new cluster may elect again and forget the request."""
    try:
        await nc.jetstream(timeout=5).add_stream(StreamConfig("r3", subjects=["r3"], num_replicas=3))
    except nats.errors.Error:
        return False
    return True


async def _publishes(nc: Client) -> bool:
    try:
        await nc.jetstream(timeout=2).publish("r3", b"one")
    except nats.errors.Error:
        return False
    return True
