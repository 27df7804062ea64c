"""The commands that run until they are stopped: the worker, maybe with embedded servers, and the demo."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import structlog
import typer
from pydantic import SecretStr

from reactor.cli.demo import run_demo
from reactor.cli.embedded import EmbeddedError, embedded_servers
from reactor.cli.exits import Exit, fail
from reactor.cli.shell import duration_of, read_settings, run
from reactor.config.settings import Settings
from reactor.telemetry import logs
from reactor.web.server import HttpError
from reactor.worker.app import build
from reactor.worker.watchdog import SubscriberDied


def worker(*, embedded: bool, data_dir: Path) -> None:
    """Run the worker until it is stopped. If a loop or subscriber dies, print why and exit."""
    settings = read_settings()
    logs.configure(settings.log.level, settings.log.format)

    async def work() -> None:
        async with _servers(settings, data_dir if embedded else None) as reached:
            await build(reached).run()

    try:
        run(work)
    except HttpError as error:
        fail(Exit.USAGE, str(error))
    except (SubscriberDied, ExceptionGroup) as error:
        cause = _first_cause(error)
        structlog.get_logger(__name__).error("worker died", error=str(cause) or repr(cause), exc_info=cause)
        raise typer.Exit(Exit.UNFIXABLE) from None


def demo(duration: str) -> None:
    """Run the demo for this long, or until Ctrl-C. Exits with a code."""
    seconds = duration_of("--duration", duration).total_seconds()
    try:
        code = run(lambda: run_demo(seconds))
    except EmbeddedError as error:
        fail(Exit.UNREACHABLE, str(error))
    raise typer.Exit(code)


def _first_cause(error: Exception) -> Exception:
    """Return the first error in a group."""
    return _first_cause(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error


def _make_usable(data_dir: Path) -> None:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(Exit.USAGE, f"--data-dir: {data_dir} cannot be used: {error.strerror or error}")
    if not os.access(data_dir, os.W_OK):
        fail(Exit.USAGE, f"--data-dir: {data_dir} cannot be written to")


@asynccontextmanager
async def _servers(settings: Settings, data_dir: Path | None) -> AsyncIterator[Settings]:
    """Provide the settings; with `data_dir`, run embedded servers and use their URLs."""
    if data_dir is None:
        yield settings
        return
    _make_usable(data_dir)
    ports = [urlsplit(group.url.get_secret_value()).port or 0 for group in (settings.nats, settings.redis)]
    try:
        async with embedded_servers(data_dir, *ports) as endpoints:
            nats = settings.nats.model_copy(update={"url": SecretStr(endpoints.nats_url)})
            redis = settings.redis.model_copy(update={"url": SecretStr(endpoints.redis_url)})
            yield replace(settings, nats=nats, redis=redis)
    except EmbeddedError as error:
        fail(Exit.UNREACHABLE, str(error))
