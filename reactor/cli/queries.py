"""The commands that only read: explain, status, workers, history, doctor; and prepare."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NoReturn, TypeVar, cast

import typer

from reactor.bootstrap.connections import Connections, actor_of, connections
from reactor.bootstrap.services import UseCases, doctor_of, notifier_of, provision_safely, read_only, utc_now
from reactor.cli.exits import Exit, fail
from reactor.cli.render import (
    show_diagnosis,
    show_explanation,
    show_gone,
    show_history,
    show_last_known,
    show_status,
    show_workers,
    show_would_drain,
)
from reactor.cli.shell import console, duration_of, print_answer, run, settings_of_command
from reactor.config.settings import Settings
from reactor.core.checks import Check, Diagnosis, Level, counted, error, ok
from reactor.core.explain import PHASES, unknown_value
from reactor.core.model import AUDIT_ENTRIES, Outcome, Reason, format_instant, nanoseconds, parse_instant
from reactor.core.preparing import NotPrepared, Prepared
from reactor.core.schemas import Entry, History, LastKnown, Workers
from reactor.core.workers import workers_json
from reactor.jetstream.errors import Unreachable
from reactor.job_status.ledger_directory import describe_outage
from reactor.operate.doctor.advice import fix_for
from reactor.operate.history import AuditTrail
from reactor.operate.overview import NoJobStream, NoSuchStream, Overview

Answer = TypeVar("Answer")


def explain(stream: str, *, as_json: bool, local: bool) -> None:
    """Print the verdict on one stream now. If NATS is away, print what Redis knows about it."""
    try:
        answer = _ask(lambda overview: overview.explain_or_last_known(stream), local=local, as_json=as_json)
    except NoSuchStream as error:
        print_answer(error.gone, as_json, show_gone)
        raise typer.Exit(Exit.NO_STREAM) from None
    if "nats_error" in answer:
        known = cast("LastKnown", answer)
        print_answer(known, as_json, show_last_known)
        _fail_for_nats(known["nats_error"])
    print_answer(answer, as_json, show_explanation)


def status(*, as_json: bool, local: bool) -> None:
    """Print counts, ledger, due queue and the last full pass. If NATS is away, print what Redis knows."""
    answer = _ask(lambda overview: overview.status(), local=local, as_json=as_json)
    print_answer(answer, as_json, show_status)
    if answer["nats_error"]:
        _fail_for_nats(answer["nats_error"])


def _fail_for_nats(nats_error: str) -> NoReturn:
    """Exit with the code of an outage, after printing what Redis knows."""
    error = Unreachable(nats_error)
    fail(Exit.UNREACHABLE, f"{describe_outage(error)}; {fix_for(error, settings_of_command().nats.domain)}")


def workers(*, as_json: bool) -> None:
    """Print the workers that are alive."""
    settings = settings_of_command()

    async def ask() -> Workers:
        async with connections(settings) as connected:
            return workers_json(await connected.ledger.workers.alive(), format_instant(utc_now()))

    print_answer(run(ask), as_json, show_workers)


@dataclass(frozen=True, slots=True)
class HistoryFilter:
    """A filter of the history. A field that is None matches everything."""

    stream: str | None
    """A stream's name, or a glob."""
    outcome: str | None
    """The outcome of a deletion, or the phase of another entry."""
    reason: Reason | None
    since: str | None
    """The age of the oldest entry, as a duration."""

    def matches(self, entry: Entry, earliest: int) -> bool:
        """Return whether the entry matches. `earliest` is the time of the oldest entry to show."""
        return (
            (self.stream is None or fnmatchcase(entry["stream"], self.stream))
            and self.outcome in {None, entry.get("outcome") or entry["phase"]}
            and self.reason in {None, entry["reason"]}
            and parse_instant(entry["at"]) >= earliest
        )


def history(chosen: HistoryFilter, *, limit: int, as_json: bool) -> None:
    """Print the audit trail, newest first. It needs only Redis."""
    known = sorted({*Outcome, *PHASES})
    if chosen.outcome is not None and chosen.outcome not in known:
        fail(Exit.USAGE, f"--outcome: {unknown_value(chosen.outcome, known)}")
    earliest = utc_now() - nanoseconds(duration_of("--since", chosen.since)) if chosen.since else 0
    trail = _ask_trail(lambda trail: trail.history(AUDIT_ENTRIES))
    entries = [entry for entry in trail["entries"] if chosen.matches(entry, earliest)]
    print_answer(History(entries=entries[:limit]), as_json, show_history)


def would_drain(*, limit: int, as_json: bool) -> None:
    """Print the zombies that report mode kept, and what happened to them. It needs only Redis."""
    print_answer(_ask_trail(lambda trail: trail.would_drain(limit)), as_json, show_would_drain)


def _ask_trail(question: Callable[[AuditTrail], Awaitable[Answer]]) -> Answer:
    settings = settings_of_command()

    async def ask() -> Answer:
        async with connections(settings) as connected:
            return await question(AuditTrail(connected.audit))

    return run(ask)


def _ask(question: Callable[[Overview], Awaitable[Answer]], *, local: bool, as_json: bool) -> Answer:
    """Return an answer of the overview. It declares nothing. If NATS is away, it answers from Redis."""
    settings = settings_of_command()

    async def ask() -> Answer:
        async with connections(settings) as connected:
            view = await read_only(connected, local=local)
            return await question(view.overview())

    try:
        return run(ask, settings.nats.domain, as_json=as_json)
    except NoJobStream as error:
        fail(Exit.USAGE, str(error))


def doctor(*, notify: bool, as_json: bool) -> None:
    """Print the doctor's checks. Exits with a code."""
    settings = settings_of_command()
    diagnosis = run(lambda: _examine(settings, notify=notify))
    print_answer(diagnosis.as_dict(), as_json, lambda _, __: show_diagnosis(console(), diagnosis))
    if diagnosis.unreachable:
        raise typer.Exit(Exit.UNREACHABLE)
    raise typer.Exit(Exit.UNFIXABLE if diagnosis.count(Level.ERROR) else Exit.DONE)


async def _examine(settings: Settings, *, notify: bool) -> Diagnosis:
    async with connections(settings) as connected:
        diagnosis = await doctor_of(connected).examine()
        if not notify:
            return diagnosis
        return Diagnosis.of([*diagnosis.checks, await _test_message(connected)], unreachable=diagnosis.unreachable)


async def _test_message(connected: Connections) -> Check:
    """Send a test message to all receivers, and return which of them accepted it."""
    if (notifier := notifier_of(connected)) is None:
        return error("notify.sent", "no receiver is set", "set REACTOR_NOTIFY_URLS")
    failed = await notifier.send(
        "reactor: a test message", f"sent by reactor doctor --notify on {connected.actor.host}"
    )
    if failed:
        fix = "check the address and its credentials, and that this machine reaches it"
        return error("notify.sent", f"a test message was refused by {', '.join(failed)}", fix)
    return ok("notify.sent", f"a test message was accepted by {counted(len(notifier.urls), 'service')}")


def prepare(job_id: str, timeout: str) -> None:
    """Make a job's stream safe before the job is started again."""
    settings = settings_of_command()
    timeout_s = duration_of("--timeout", timeout).total_seconds()

    async def ask() -> Prepared:
        async with connections(settings, actor=actor_of("prepare")) as connected:
            cases = UseCases(connected, await provision_safely(connected))
            return await cases.prepare(job_id, timeout_s)

    try:
        done = run(ask, settings.nats.domain)
    except ValueError as error:
        fail(Exit.USAGE, str(error))
    except NotPrepared as error:
        fail(Exit.UNFIXABLE, str(error))
    stream = f"{done.stream} is empty ({done.purged} messages deleted)" if done.stream else "it has no stream"
    typer.echo(f"job {job_id} is live, {stream}: publishing is safe")
