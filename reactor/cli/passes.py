"""`reactor reconcile`: run one pass, print its report, and end in order on Ctrl-C."""

import asyncio
import json
import os
import signal
import sys
from dataclasses import replace
from functools import partial

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn

from reactor.bootstrap.connections import actor_of, connections
from reactor.bootstrap.services import UseCases, find_provision, policy_of, provision_safely, utc_now
from reactor.cli.exits import SIGNALLED, Exit, fail
from reactor.cli.render import WORTH_A_BAR, progress_bar, show_report
from reactor.cli.shell import duration_of, run, settings_of_command
from reactor.config.settings import Settings
from reactor.core.actor import Actor
from reactor.core.checks import Misconfigured
from reactor.core.report import Report
from reactor.jetstream.errors import JetStreamError
from reactor.job_status.ledger_directory import describe_outage
from reactor.operate.overview import NoJobStream
from reactor.passes.reconciler import PassOptions, ignore_progress
from reactor.passes.reconciler import Progress as OnProgress
from reactor.store.keyspace import LedgerError
from reactor.telemetry.traces import tracing

STOPPING = (signal.SIGINT, signal.SIGTERM)


def reconcile(options: PassOptions, *, as_json: bool, assume_missing: bool, age_guard: str | None) -> None:
    """Run one full pass and print its report. Exits with a code."""
    settings = settings_of_command()
    if age_guard is not None:
        settings = _with_age_guard(settings, age_guard)
    _check_streams(settings, sorted(options.only))
    given = {
        "--yes": options.override_breaker,
        "--assume-missing": assume_missing,
        f"--age-guard {age_guard}": age_guard is not None,
    }
    actor = actor_of("reconcile", *(flag for flag, is_given in given.items() if is_given))
    begin = partial(_until_stopped, settings, options, actor, assume_missing=assume_missing)
    console = Console(highlight=False)
    if as_json:
        report, caught = run(lambda: begin(ignore_progress))
        sys.stdout.write(json.dumps(report.as_dict()) + "\n")
    else:
        with progress_bar(console, "draining", MofNCompleteColumn(), worth=WORTH_A_BAR) as progress:
            report, caught = run(lambda: begin(progress))
        show_report(console, report)
    raise typer.Exit(SIGNALLED + caught if caught else _exit_code(report))


async def _until_stopped(
    settings: Settings, options: PassOptions, actor: Actor, progress: OnProgress, *, assume_missing: bool
) -> tuple[Report, int]:
    """Run the pass. Return the report, and the signal that ended it or 0. A second signal ends the process at once."""
    loop, stop, caught = asyncio.get_running_loop(), asyncio.Event(), [0]

    def on_signal(number: signal.Signals) -> None:
        caught[0] = number
        stop.set()
        for item in STOPPING:
            loop.remove_signal_handler(item)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    for item in STOPPING:
        loop.add_signal_handler(item, on_signal, item)
    try:
        report = await one_pass(settings, replace(options, stop=stop), progress, actor, assume_missing=assume_missing)
    finally:
        for item in STOPPING:
            loop.remove_signal_handler(item)
    return report, caught[0]


def _with_age_guard(settings: Settings, text: str) -> Settings:
    guard = duration_of("--age-guard", text)
    return replace(settings, policy=settings.policy.model_copy(update={"age_guard": guard}))


def _check_streams(settings: Settings, names: list[str]) -> None:
    policy = policy_of(settings)
    for name in names:
        if policy.job_id(name) is None:
            fail(Exit.USAGE, f"--stream: {NoJobStream(name, policy)}")


async def one_pass(
    settings: Settings, options: PassOptions, progress: OnProgress, actor: Actor | None = None, *, assume_missing: bool
) -> Report:
    """Run one pass like the command, and return its report. An outage is in the report."""
    async with tracing(os.environ), connections(settings, actor=actor or actor_of("reconcile")) as connected:
        try:
            find = find_provision if options.dry_run else provision_safely  # a dry run creates nothing
            provisioned = await find(connected)
            cases = UseCases(connected, provisioned, assume_missing=assume_missing)
            reconciler = cases.reconciler(await cases.lifecycle_subscriber())
        except (JetStreamError, LedgerError) as error:
            return _broken_off(settings, options, describe_outage(error), away=True)
        except Misconfigured as error:
            return _broken_off(settings, options, str(error), away=False)
        return await reconciler.run(options, progress)


def _broken_off(settings: Settings, options: PassOptions, error: str, *, away: bool) -> Report:
    return Report((), policy_of(settings), options.dry_run, utc_now(), 0.0, error=error, away=away)


def _exit_code(report: Report) -> Exit:
    if report.away:
        return Exit.UNREACHABLE
    if report.is_held_back:
        return Exit.HELD_BACK
    if report.unfixable:
        return Exit.UNFIXABLE
    return Exit.NO_STREAM if report.settlements and report.is_of_absent_streams else Exit.DONE
