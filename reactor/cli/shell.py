"""The frame of every command: read the settings, run, and turn an error into one line and an exit code."""

import asyncio
import json
import re
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import typer

from reactor.cli.exits import SIGNALLED, Exit, fail
from reactor.config.settings import Settings, SettingsError, load_settings
from reactor.core.checks import Misconfigured
from reactor.core.durations import parse_duration
from reactor.jetstream.errors import JetStreamError

if TYPE_CHECKING:
    from rich.console import Console

Result = TypeVar("Result")
Answer = TypeVar("Answer")
PIPED_WIDTH = 200
"""The width (columns) if it is unknown. It is wide enough for any name."""


def settings_of_command() -> Settings:
    """Return the checked settings, and configure the log. The command prints errors itself, so the log is quiet."""
    from reactor.telemetry import logs  # noqa: PLC0415  # `emit` logs nothing, and starts quicker without

    settings = read_settings()
    logs.configure("ERROR", settings.log.format)
    return settings


def duration_of(flag: str, text: str) -> timedelta:
    """Return a flag's duration. Exits if it cannot be read."""
    try:
        return parse_duration(text)
    except ValueError as error:
        fail(Exit.USAGE, f"{flag}: {error}")


def read_settings() -> Settings:
    """Return the checked settings. Exits with one line for each problem."""
    try:
        return load_settings()
    except SettingsError as error:
        fail(Exit.USAGE, str(error))


def run(work: Callable[[], Awaitable[Result]], domain: str | None = None, *, as_json: bool = False) -> Result:
    """Run the work and return its result. After an outage, print one line and exit with a code.

    `domain` is the JetStream domain, for the message. With `as_json` the error is also printed as a JSON object.
    SIGTERM cancels the work, so that it can clean up.
    """
    terminated = threading.Event()

    async def main() -> Result:
        _on_sigterm(terminated)
        return await work()

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(main())
    except Misconfigured as error:
        fail(Exit.UNFIXABLE, str(error))
    except KeyboardInterrupt:
        raise typer.Exit(SIGNALLED + signal.SIGINT) from None
    except asyncio.CancelledError:
        if not terminated.is_set():
            raise
        raise typer.Exit(SIGNALLED + signal.SIGTERM) from None
    except Exception as error:
        _fail_if_outage(error, domain, as_json=as_json)
        raise


def _fail_if_outage(error: Exception, domain: str | None, *, as_json: bool) -> None:
    """Exit with one line that says which server is away, and what to do."""
    if not isinstance(error, JetStreamError) and "redis" not in sys.modules:
        return
    from reactor.job_status.ledger_directory import describe_outage  # noqa: PLC0415  # it imports Redis
    from reactor.operate.doctor.advice import fix_for  # noqa: PLC0415  # as above
    from reactor.store.keyspace import LedgerError  # noqa: PLC0415  # as above

    if isinstance(error, JetStreamError | LedgerError):
        outage, fix = describe_outage(error), fix_for(error, domain)
        if as_json:
            sys.stdout.write(json.dumps({"error": outage, "fix": fix}) + "\n")
        fail(Exit.UNREACHABLE, f"{outage}; {fix}")


def _on_sigterm(terminated: threading.Event) -> None:
    """Cancel this task at SIGTERM and note it. A command that handles signals itself replaces this."""
    task = asyncio.current_task()

    def on_sigterm() -> None:
        terminated.set()
        if task is not None:
            task.cancel()

    if threading.current_thread() is threading.main_thread():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, on_sigterm)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's event loop if it is installed. It saves a fifth of a drain's time."""
    try:
        import uvloop  # noqa: PLC0415  # not made for every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


def natural(name: str) -> list[int | str]:
    """Return a sort key that puts job_2 before job_10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def print_answer(answer: Answer, as_json: bool, show: Callable[["Console", Answer], None]) -> None:  # noqa: FBT001  # a flag of theirs
    """Print an answer as one JSON object, or for people."""
    if as_json:
        sys.stdout.write(json.dumps(answer) + "\n")
    else:
        show(console(), answer)


def console() -> "Console":
    """Return the console on standard output, wide enough if its width is unknown."""
    from rich.console import Console  # noqa: PLC0415  # as above

    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
