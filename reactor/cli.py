"""The commands. Parse, wire, run, and turn what went wrong into a line and an exit code.

0 done; 1 something unfixable, or an error in doctor; 2 usage or settings; 3 NATS or Redis unreachable; 4 the breaker
tripped; 130 or 143 interrupted, after finishing what was fenced.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from enum import IntEnum, StrEnum
from importlib import resources
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar
from urllib.parse import urlsplit

import structlog
import typer
from pydantic import SecretStr, ValidationError
from rich.console import Console

from reactor import logs
from reactor.audit import MAX_ENTRIES
from reactor.checks import Diagnosis, Level
from reactor.console import progress_bar, show_diagnosis, show_explanation, show_history, show_report, show_status
from reactor.directory import in_words
from reactor.emit import emit as emit_event
from reactor.fields import parse_duration
from reactor.jetstream import JetStreamError
from reactor.ledger import LedgerError
from reactor.mends import mend_of
from reactor.model import Reason, nanoseconds, parse_instant
from reactor.overview import Json, NoJobStream, Overview
from reactor.provision import ProvisionError
from reactor.reconciler import Order, no_progress
from reactor.reconciler import Progress as OnProgress
from reactor.report import Report
from reactor.settings import Settings, SettingsError, describe, load_settings
from reactor.traces import tracing
from reactor.wiring import Crew, doctor_of, parts, policy_of, provision_safely, utc_now

Result = TypeVar("Result")


STOPPING = (signal.SIGINT, signal.SIGTERM)
SIGNALLED = 128
"""The exit code of whoever was ended by a signal is this and its number."""
PIPED_WIDTH = 200
"""Columns where nobody says how many there are: enough not to cut a name."""


def _examples(*lines: str) -> str:
    """For the foot of a command's help."""
    return "\n\n".join(["[bold]Examples[/]", *lines])


class Exit(IntEnum):
    """What people script against."""

    DONE = 0
    UNFIXABLE = 1
    USAGE = 2
    UNREACHABLE = 3
    BREAKER = 4


def _variables() -> str:
    """Every setting, for the foot of `reactor --help`."""
    rows = [f"{name} [dim]({default or 'none'})[/]  {' '.join(text.split())}" for name, default, text in describe()]
    return "\n\n".join(["[bold]Settings[/] (environment or .env):", *rows])


app = typer.Typer(
    help="Deletes zombie JetStream streams and never a live one.",
    epilog=_variables(),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


@app.command(epilog=_examples("reactor worker", "reactor worker --embedded --data-dir /var/lib/reactor"))
def worker(
    *,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Start a nats-server and a Valkey of its own, from the wheels.")
    ] = False,
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Where the embedded servers keep their data.")] = Path(
        ".reactor"
    ),
) -> None:
    """The always-on worker: hears events, sweeps what is due, reconciles now and then."""
    from reactor.app import SubscriberDied, build  # noqa: PLC0415  # FastStream is slow to import, and only needed here
    from reactor.http import HttpError  # noqa: PLC0415  # as above

    settings = _settings()
    logs.configure(settings.log.level, settings.log.format)

    async def work() -> None:
        async with _servers(settings, data_dir if embedded else None) as reached:
            await build(reached).run()

    try:
        _run(work)
    except HttpError as error:
        _fail(Exit.USAGE, str(error))
    except (SubscriberDied, ExceptionGroup) as error:
        cause = _first_cause(error)
        structlog.get_logger(__name__).error("worker died", error=str(cause) or repr(cause), exc_info=cause)
        raise typer.Exit(Exit.UNFIXABLE) from None


def _first_cause(error: Exception) -> Exception:
    """What has ended a group of tasks."""
    return _first_cause(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error


def _make_usable(data_dir: Path) -> None:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _fail(Exit.USAGE, f"--data-dir: {data_dir} cannot be used: {error.strerror or error}")
    if not os.access(data_dir, os.W_OK):
        _fail(Exit.USAGE, f"--data-dir: {data_dir} cannot be written to")


@asynccontextmanager
async def _servers(settings: Settings, data_dir: Path | None) -> AsyncIterator[Settings]:
    """The settings as they are, or with servers of our own behind their URLs."""
    if data_dir is None:
        yield settings
        return
    from reactor.embedded import EmbeddedError, embedded_servers  # noqa: PLC0415  # an extra

    _make_usable(data_dir)
    ports = [urlsplit(group.url.get_secret_value()).port or 0 for group in (settings.nats, settings.redis)]
    try:
        async with embedded_servers(data_dir, *ports) as endpoints:
            nats = settings.nats.model_copy(update={"url": SecretStr(endpoints.nats_url)})
            redis = settings.redis.model_copy(update={"url": SecretStr(endpoints.redis_url)})
            yield settings.model_copy(update={"nats": nats, "redis": redis})
    except EmbeddedError as error:
        _fail(Exit.UNREACHABLE, str(error))


@app.command(
    epilog=_examples("reactor reconcile --dry-run", "reactor reconcile --json --stream job_42 | jq '.streams'")
)
def reconcile(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge everything, delete nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    assume_missing: Annotated[
        bool,
        typer.Option(
            "--assume-missing",
            help="On your word: a job that nobody can vouch for does not exist. Guards and breaker still hold.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Drain also where the breaker would refuse the pass.")] = False,
    age_guard: Annotated[
        str | None, typer.Option("--age-guard", metavar="DURATION", help="Instead of REACTOR_POLICY_AGE_GUARD.")
    ] = None,
    stream: Annotated[
        list[str] | None, typer.Option("--stream", metavar="NAME", help="Only this stream; may be repeated.")
    ] = None,
) -> None:
    """One full sweep and its report: lists all job streams, drains the zombies among them."""
    settings = _settings()
    logs.configure("ERROR", settings.log.format)
    if age_guard is not None:
        settings = _with_age_guard(settings, age_guard)
    _check_streams(settings, stream or [])
    order = Order(dry_run=dry_run, override_breaker=yes, only=frozenset(stream or ()))
    console = Console(highlight=False)
    if as_json:
        report, caught = _run(lambda: _until_stopped(settings, order, no_progress, assume_missing=assume_missing))
        sys.stdout.write(json.dumps(report.as_dict()) + "\n")
    else:
        with progress_bar(console) as progress:
            report, caught = _run(lambda: _until_stopped(settings, order, progress, assume_missing=assume_missing))
        show_report(console, report)
    raise typer.Exit(SIGNALLED + caught if caught else _exit_code(report))


async def _until_stopped(
    settings: Settings, order: Order, progress: OnProgress, *, assume_missing: bool
) -> tuple[Report, int]:
    """The report, and the number of the signal that ended it, or 0. A second signal ends the process at once."""
    loop, stop, caught = asyncio.get_running_loop(), asyncio.Event(), [0]

    def heard(number: signal.Signals) -> None:
        caught[0] = number
        stop.set()
        for one in STOPPING:
            loop.remove_signal_handler(one)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    for one in STOPPING:
        loop.add_signal_handler(one, heard, one)
    try:
        report = await _reconcile(settings, replace(order, stop=stop), progress, assume_missing=assume_missing)
    finally:
        for one in STOPPING:
            loop.remove_signal_handler(one)
    return report, caught[0]


def _with_age_guard(settings: Settings, text: str) -> Settings:
    try:
        guard: timedelta = parse_duration(text)
    except ValueError as error:
        _fail(Exit.USAGE, f"--age-guard: {error}")
    return settings.model_copy(update={"policy": settings.policy.model_copy(update={"age_guard": guard})})


def _check_streams(settings: Settings, names: list[str]) -> None:
    for name in names:
        if policy_of(settings).job_id(name) is None:
            pattern = settings.policy.stream_pattern
            _fail(Exit.USAGE, f"--stream: {name!r} is no job stream: its name does not match {pattern}")


async def _reconcile(settings: Settings, order: Order, progress: OnProgress, *, assume_missing: bool) -> Report:
    async with tracing(os.environ), parts(settings) as connected:
        try:
            provisioned = await provision_safely(connected)
            crew = Crew(connected, provisioned, assume_missing=assume_missing)
            reconciler = crew.reconciler(await crew.lifecycle_subscriber())
        except (JetStreamError, LedgerError) as error:
            return _broken_off(settings, order, in_words(error), away=True)
        except ProvisionError as error:
            return _broken_off(settings, order, str(error), away=False)
        return await reconciler.run(order, progress)


def _broken_off(settings: Settings, order: Order, error: str, *, away: bool) -> Report:
    return Report((), policy_of(settings), order.dry_run, utc_now(), 0.0, error=error, away=away)


def _exit_code(report: Report) -> Exit:
    if report.away:
        return Exit.UNREACHABLE
    if report.breaker:
        return Exit.BREAKER
    return Exit.UNFIXABLE if report.unfixable else Exit.DONE


@app.command(epilog=_examples("reactor explain job_42", "reactor explain job_42 --json | jq -r .sentence"))
def explain(
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="Its exact name, such as job_42.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """The verdict on one stream now, the evidence, and what would change it."""
    told = _ask(lambda overview: overview.explain(stream))
    _print(told, as_json, show_explanation)


@app.command(epilog=_examples("reactor status", "reactor status --json | jq .verdicts"))
def status(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Streams by verdict, ledger, due queue, coverage, lag and the last full pass."""
    told = _ask(lambda overview: overview.status())
    _print(told, as_json, show_status)


@app.command(epilog=_examples("reactor history --since 2h --reason terminal", "reactor history --stream job_42 --json"))
def history(
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, max=MAX_ENTRIES, help="How many entries at most.")] = 50,
    stream: Annotated[str | None, typer.Option("--stream", metavar="NAME", help="Only this stream.")] = None,
    reason: Annotated[
        Reason | None, typer.Option("--reason", metavar="REASON", help="Only this one, such as terminal or missing.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="DURATION", help="Only what is no older, such as 2h.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """The audit trail, newest first: what was deleted, and what failed."""
    try:
        earliest = utc_now() - nanoseconds(parse_duration(since)) if since else 0
    except ValueError as error:
        _fail(Exit.USAGE, f"--since: {error}")
    told = _ask(lambda overview: overview.history(MAX_ENTRIES))
    chosen = [
        entry
        for entry in told["entries"]
        if stream in {None, entry["stream"]}
        and reason in {None, entry["reason"]}
        and parse_instant(entry["at"]) >= earliest
    ]
    _print({"entries": chosen[:limit]}, as_json, show_history)


def _ask(question: Callable[[Overview], Awaitable[Json]]) -> Json:
    """An overview's answer; reactor's own streams must be there already."""
    settings = _settings()
    logs.configure("ERROR", settings.log.format)

    async def ask() -> Json:
        async with parts(settings) as connected:
            crew = Crew(connected, await provision_safely(connected))
            return await question(crew.overview(await crew.lifecycle_subscriber()))

    try:
        return _run(ask, settings.nats.domain)
    except NoJobStream as error:
        _fail(Exit.USAGE, str(error))


def _print(told: Json, as_json: bool, show: Callable[[Console, Json], None]) -> None:  # noqa: FBT001  # a flag of theirs
    if as_json:
        sys.stdout.write(json.dumps(told) + "\n")
    else:
        show(_console(), told)


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)


@app.command(
    epilog=_examples("reactor doctor", "reactor doctor --json | jq -r '.checks[] | select(.level != \"ok\") | .mend'")
)
def doctor(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Is everything in order? Looks at NATS, Redis and the ledger, changes nothing, and says each mend.

    Exit code 1 where a check is an error, 3 where NATS or Redis is unreachable, and 0 else, also with warnings.
    """
    settings = _settings()
    logs.configure("ERROR", settings.log.format)
    diagnosis = _run(lambda: _examine(settings))
    if as_json:
        sys.stdout.write(json.dumps(diagnosis.as_dict()) + "\n")
    else:
        show_diagnosis(_console(), diagnosis)
    if diagnosis.unreachable:
        raise typer.Exit(Exit.UNREACHABLE)
    raise typer.Exit(Exit.UNFIXABLE if diagnosis.count(Level.ERROR) else Exit.DONE)


async def _examine(settings: Settings) -> Diagnosis:
    async with parts(settings) as connected:
        return await doctor_of(connected).examine()


@app.command(epilog=_examples("reactor emit 42 STARTED", "reactor emit 42 SUCCESS --at 2026-01-31T12:00:00Z"))
def emit(
    job_id: Annotated[str, typer.Argument(metavar="JOB_ID")],
    status: Annotated[str, typer.Argument(help="SUCCESS, FAILURE, STARTED, …")],
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="When it happened (RFC 3339); now where left out.")
    ] = None,
) -> None:
    """Publish a lifecycle event, as a job system would."""
    settings = _settings()
    logs.configure("ERROR", settings.log.format)

    async def publish() -> tuple[str, int]:
        async with parts(settings) as connected:
            return await emit_event(connected, job_id, status, at)

    try:
        taken_by, sequence = _run(publish, settings.nats.domain)
    except ValidationError as error:
        _fail(Exit.USAGE, "; ".join(f"{part['loc'][0]}: {part['msg']}" for part in error.errors()))
    except ValueError as error:
        _fail(Exit.USAGE, str(error))
    typer.echo(f"job {job_id} {status}: {taken_by}:{sequence}")


class Exported(StrEnum):
    """What `export` prints, and of which format it is."""

    GRAFANA = "grafana"
    ALERTS = "alerts"

    @property
    def file(self) -> str:
        """Its name in the package."""
        return {Exported.GRAFANA: "grafana.json", Exported.ALERTS: "alerts.yml"}[self]


@app.command(
    epilog=_examples("reactor export alerts > reactor-alerts.yml", "reactor export grafana > reactor-dashboard.json")
)
def export(
    what: Annotated[
        Exported,
        typer.Argument(
            metavar="grafana|alerts", help="A dashboard for Grafana (JSON), or alerting rules for Prometheus (YAML)."
        ),
    ],
) -> None:
    """Print the Grafana dashboard or the Prometheus alerting rules for the worker's metrics."""
    sys.stdout.write(resources.files("reactor").joinpath("export", what.file).read_text(encoding="utf-8"))


@app.command(epilog=_examples("reactor demo", "reactor demo --duration 2m"))
def demo(
    duration: Annotated[str, typer.Option("--duration", metavar="DURATION", help="How long to show.")] = "60s",
) -> None:
    """Embedded servers and a simulated job system with leaks: watch zombies appear and fall."""
    from reactor.demo import run_demo  # noqa: PLC0415  # needs the embedded extra

    try:
        seconds = parse_duration(duration).total_seconds()
    except ValueError as error:
        _fail(Exit.USAGE, f"--duration: {error}")
    raise typer.Exit(_run(lambda: run_demo(seconds)))


def _settings() -> Settings:
    try:
        return load_settings()
    except SettingsError as error:
        _fail(Exit.USAGE, str(error))


def _run(work: Callable[[], Awaitable[Result]], domain: str | None = None) -> Result:
    """Run to the end; an outage is a line and an exit code. `domain` is JetStream's, where one is asked for."""

    async def main() -> Result:
        return await work()

    try:
        return asyncio.run(main())
    except (JetStreamError, LedgerError) as error:
        _fail(Exit.UNREACHABLE, f"{in_words(error)}; {mend_of(error, domain)}")
    except ProvisionError as error:
        _fail(Exit.UNFIXABLE, str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _fail(code: Exit, message: str) -> NoReturn:
    typer.echo(f"reactor: {message}", err=True)
    raise typer.Exit(code)


def main() -> None:
    """The `reactor` command."""
    if sys.stdout is None:  # closed by whoever started us
        sys.exit("reactor: standard output is closed")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows only ASCII is no reason to fail
    try:
        app()
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(SIGNALLED + signal.SIGPIPE)
