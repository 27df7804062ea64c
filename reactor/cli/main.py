"""The commands and their options. Each command imports what it needs when it runs, so `--help` is fast.

0 done; 1 something unfixable, or an error in doctor; 2 usage or settings; 3 NATS or Redis unreachable; 4 held back by
the breaker or by `reactor pause`; 5 no such stream; 130 or 143 interrupted, after finishing what was fenced.
"""

import gc
import os
import signal
import sys
from enum import StrEnum
from importlib import resources
from importlib.metadata import version
from io import BufferedWriter, FileIO, TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from reactor.cli.exits import SIGNALLED
from reactor.core.model import AUDIT_ENTRIES, Reason

COLLECTED_AFTER = 50_000
"""How many new objects until Python looks for unused cycles. Its default of 700 costs a seventh of a pass."""


def _examples(*lines: str) -> str:
    """Return the examples at the foot of a command's help."""
    return "\n\n".join(["[bold]Examples[/]", *lines])


app = typer.Typer(
    help="Deletes zombie JetStream streams and never a live one.",
    epilog="[bold]Settings[/] come from the environment or .env: [bold]reactor settings[/] lists them.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


Local = Annotated[
    bool, typer.Option("--local", help="Judge with this shell's settings, not with those of the running workers.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]


def _stream_names(incomplete: str) -> list[str]:
    """Complete the name of a stream. A shell's completion must not fail or wait."""
    from reactor.cli.completion import stream_names

    return stream_names(incomplete)


def _contexts(incomplete: str) -> list[str]:
    """Complete the name of a nats CLI context."""
    from reactor.config.nats_context import context_names

    return [name for name in context_names() if name.startswith(incomplete)]


def _print_version(value: bool) -> None:  # noqa: FBT001  # typer's callback
    if value:
        sys.stdout.write(f"reactor {version('jetstream-reactor')}\n")
        raise typer.Exit


@app.callback()
def options(
    *,
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
    context: Annotated[
        str | None,
        typer.Option(
            "--context",
            metavar="NAME",
            help="A context of the nats CLI, instead of REACTOR_NATS_… variables.",
            autocompletion=_contexts,
        ),
    ] = None,
) -> None:
    """Deletes zombie JetStream streams and never a live one."""
    del show_version
    if context is not None:  # a flag wins
        for name in [name for name in os.environ if name.upper().startswith("REACTOR_NATS_")]:
            del os.environ[name]
        os.environ["REACTOR_NATS_CONTEXT"] = context


@app.command(epilog=_examples("reactor worker", "reactor worker --embedded --data-dir /var/lib/reactor"))
def worker(
    *,
    embedded: Annotated[bool, typer.Option("--embedded", help="Start an embedded nats-server and Valkey.")] = False,
    data_dir: Annotated[Path, typer.Option("--data-dir", help="The folder for the embedded servers' data.")] = Path(
        ".reactor"
    ),
) -> None:
    """Run the always-on worker."""
    from reactor.cli import process

    process.worker(embedded=embedded, data_dir=data_dir)


@app.command(
    epilog=_examples("reactor reconcile --dry-run", "reactor reconcile --json --stream job_42 | jq '.streams'")
)
def reconcile(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge all streams and delete nothing.")] = False,
    as_json: AsJson = False,
    assume_missing: Annotated[
        bool,
        typer.Option(
            "--assume-missing",
            help="Treat jobs that no source knows as missing, on your responsibility. Guards and breaker still hold.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Drain even if the breaker would refuse the pass.")] = False,
    age_guard: Annotated[
        str | None, typer.Option("--age-guard", metavar="DURATION", help="Instead of REACTOR_POLICY_AGE_GUARD.")
    ] = None,
    stream: Annotated[
        list[str] | None, typer.Option("--stream", metavar="NAME", help="Only this stream; may be repeated.")
    ] = None,
) -> None:
    """Run one full pass: drain all zombies, and report."""
    from reactor.cli import passes
    from reactor.passes.reconciler import PassOptions

    options = PassOptions(dry_run=dry_run, override_breaker=yes, only=frozenset(stream or ()))
    passes.reconcile(options, as_json=as_json, assume_missing=assume_missing, age_guard=age_guard)


@app.command(epilog=_examples("reactor explain job_42", "reactor explain job_42 --json | jq -r .sentence"))
def explain(
    stream: Annotated[
        str, typer.Argument(metavar="STREAM", help="Its exact name, such as job_42.", autocompletion=_stream_names)
    ],
    *,
    local: Local = False,
    as_json: AsJson = False,
) -> None:
    """Show why a stream is kept or deleted, or what happened to it.

    It shows the evidence, and what would change the verdict.

    If the stream is gone, it shows what happened to it, with exit code 5.
    """
    from reactor.cli import queries

    queries.explain(stream, as_json=as_json, local=local)


class Verdict(StrEnum):
    """The values of `streams --verdict`."""

    ZOMBIE = "zombie"
    WOULD_DRAIN = "would_drain"
    WAITING = "waiting"
    KEPT = "kept"
    UNFIXABLE = "unfixable"


@app.command(epilog=_examples("reactor streams --verdict zombie", "reactor streams 'job_4*' --sort size -o wide"))
def streams(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STREAM…]", help="Names or globs; all if left out.", autocompletion=_stream_names),
    ] = None,
    *,
    verdict: Annotated[
        list[Verdict] | None,
        typer.Option("--verdict", metavar="V", help="zombie, waiting, kept or unfixable; may be repeated."),
    ] = None,
    reason: Annotated[
        list[Reason] | None, typer.Option("--reason", metavar="R", help="Such as terminal or grace; may be repeated.")
    ] = None,
    status: Annotated[
        list[str] | None, typer.Option("--status", metavar="S", help="The job's last status; may be repeated.")
    ] = None,
    sort: Annotated[str, typer.Option("--sort", metavar="name|due|age|size", help="The order.")] = "name",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Repeat until Ctrl-C.")] = False,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="table|wide|json|yaml|name", help="The format.")
    ] = "table",
    local: Local = False,
) -> None:
    """List every job stream with its verdict now.

    It shows when each is due, and what it holds. It changes nothing.

    A zombie is a stream that is due and still exists.
    """
    from reactor.cli import streams as listing

    wanted = listing.StreamFilter(
        names or (), {item.value for item in verdict or ()}, {item.value for item in reason or ()}, set(status or ())
    )
    listing.streams(wanted, sort, output, watch=watch, local=local)


@app.command(epilog=_examples("reactor status", "reactor status --json | jq .verdicts"))
def status(*, local: Local = False, as_json: AsJson = False) -> None:
    """Show streams by verdict, workers, ledger and the last pass.

    Exit code 3 if NATS is away: then it shows what Redis knows.
    """
    from reactor.cli import queries

    queries.status(as_json=as_json, local=local)


@app.command(epilog=_examples("reactor workers", "reactor workers --json | jq -r '.workers[].instance'"))
def workers(*, as_json: AsJson = False) -> None:
    """List the workers that are alive, and whether they agree."""
    from reactor.cli import queries

    queries.workers(as_json=as_json)


@app.command(epilog=_examples("reactor history --since 2h --reason terminal", "reactor history --stream job_42 --json"))
def history(
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, max=AUDIT_ENTRIES, help="How many entries at most.")] = 50,
    stream: Annotated[
        str | None, typer.Option("--stream", metavar="NAME", help="Only this stream, or streams that match this glob.")
    ] = None,
    outcome: Annotated[
        str | None, typer.Option("--outcome", metavar="OUTCOME", help="Only this one, such as drained or unfixable.")
    ] = None,
    reason: Annotated[
        Reason | None, typer.Option("--reason", metavar="REASON", help="Only this one, such as terminal or missing.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="DURATION", help="Only entries up to this age, such as 2h.")
    ] = None,
    would_drain: Annotated[
        bool, typer.Option("--would-drain", help="Show what report mode would have deleted, and what happened to it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what was deleted and what failed, newest first.

    It reads the audit trail in Redis, and needs no NATS.
    """
    from reactor.cli import queries

    if would_drain:
        queries.would_drain(limit=limit, as_json=as_json)
    else:
        chosen = queries.HistoryFilter(stream, outcome, reason, since)
        queries.history(chosen, limit=limit, as_json=as_json)


@app.command(
    epilog=_examples("reactor doctor", "reactor doctor --json | jq -r '.checks[] | select(.level != \"ok\") | .fix'")
)
def doctor(
    *,
    notify: Annotated[
        bool, typer.Option("--notify", help="Send a test message to all receivers in REACTOR_NOTIFY_URLS.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check everything that reactor needs, with a fix for each problem.

    It changes nothing.

    Checks NATS, Redis, the ledger, the directory and the backups' folder.

    Exit code 1 if a check is an error, 3 if NATS or Redis is unreachable, otherwise 0, also with warnings.
    """
    from reactor.cli import queries

    queries.doctor(notify=notify, as_json=as_json)


@app.command(epilog=_examples("reactor emit 42 STARTED", "reactor emit 42 SUCCESS --at 2026-01-31T12:00:00Z"))
def emit(
    job_id: Annotated[str, typer.Argument(metavar="JOB_ID")],
    status: Annotated[str, typer.Argument(help="SUCCESS, FAILURE, STARTED, …")],
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="When it happened (RFC 3339). The default is now.")
    ] = None,
) -> None:
    """Publish a lifecycle event, as a job system would."""
    from reactor.cli.emit import emit as publish

    publish(job_id, status, at)


@app.command(epilog=_examples('reactor pause --reason "a queue is gone, looking into it"', "reactor pause --for 2h"))
def pause(
    *,
    span: Annotated[
        str | None,
        typer.Option("--for", metavar="DURATION", help="How long, such as 2h. The default is until `reactor resume`."),
    ] = None,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why. Commands and page show it.")
    ] = "no reason given",
) -> None:
    """Stop all deleting, everywhere, at once.

    Every replica and command obeys it, and removes the fences that it has set.

    NATS stores it, so it survives an emptied Redis.
    """
    from reactor.cli import actions

    actions.pause(span, reason)


@app.command(epilog=_examples("reactor resume"))
def resume() -> None:
    """Resume deleting after `reactor pause`."""
    from reactor.cli import actions

    actions.resume()


StreamNames = Annotated[
    list[str],
    typer.Argument(metavar="STREAM…", help="Their exact names, such as job_42.", autocompletion=_stream_names),
]


@app.command(epilog=_examples("reactor protect job_42 job_43", "reactor protect job_42 --for 2h"))
def protect(
    streams: StreamNames,
    span: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="Such as 2h; then it ends by itself.")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="TIME", help="Such as 2026-01-31T12:00:00Z; then it ends by itself."),
    ] = None,
) -> None:
    """Protect streams, whatever the status of their jobs is.

    It sets metadata on the stream (reactor.protect, or reactor.keep-until). It waits for a deletion that is under way.

    Exit code 5 if there is no such stream.
    """
    from reactor.cli import actions

    actions.protect(streams, actions.how_long(span, until))


@app.command(epilog=_examples("reactor unprotect job_42"))
def unprotect(streams: StreamNames) -> None:
    """Remove the protection of streams, so that they are judged like all others."""
    from reactor.cli import actions

    actions.protect(streams, None)


@app.command(epilog=_examples("reactor restore job_42", "reactor restore job_42 --from FOLDER --as job_42_was"))
def restore(
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="The name that it had, such as job_42.")],
    *,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="A backup by reactor or the nats CLI; the newest one if left out."),
    ] = None,
    without_messages: Annotated[
        bool, typer.Option("--without-messages", help="Restore the empty stream if its messages are lost.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(
            "--as", metavar="NAME", help="Restore under this name, if another stream has the stream's own name now."
        ),
    ] = None,
) -> None:
    """Restore a stream that was deleted.

    It is protected until `reactor unprotect`.

    It restores the newest backup, with messages, consumers and acknowledgements.

    Without a backup, --without-messages creates the empty stream with its consumers.

    Exit code 5 if the stream is not known.
    """
    from reactor.cli import actions

    actions.restore(stream, source, name, without_messages=without_messages)


backups_app = typer.Typer(help="List the backups, newest first.", rich_markup_mode=None)
app.add_typer(backups_app, name="backups")


@backups_app.callback(
    invoke_without_command=True,
    epilog=_examples("reactor backups", "reactor backups copy /var/lib/reactor/backups nats:backups"),
)
def backups(context: typer.Context, *, as_json: AsJson = False) -> None:
    """List the backups in the place of REACTOR_BACKUP_URL, newest first."""
    from reactor.cli import actions

    if context.invoked_subcommand is None:
        actions.backups(as_json=as_json)


@backups_app.command("copy", epilog=_examples("reactor backups copy /var/lib/reactor/backups nats:backups"))
def copy_backups(
    source: Annotated[str, typer.Argument(metavar="FROM", help="nats:BUCKET, s3://bucket/prefix, …, or a folder.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="As FROM.")],
) -> None:
    """Copy all backups from one place to another, except those that it already has."""
    from reactor.cli import actions

    actions.copy_backups(source, target)


@app.command(epilog=_examples("reactor prepare 42", "reactor prepare 42 --timeout 10s && start-job 42"))
def prepare(
    job_id: Annotated[str, typer.Argument(metavar="JOB_ID")],
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="DURATION", help="How long to wait for a deletion under way.")
    ] = "60s",
) -> None:
    """Make a job's stream safe before the job is started again.

    It marks the job as live, and empties the stream.

    Exit 0: publishing is safe.
    """
    from reactor.cli import queries

    queries.prepare(job_id, timeout)


@app.command(epilog=_examples("reactor rules", "reactor rules --check rules.toml"))
def rules(
    *,
    check: Annotated[
        Path | None, typer.Option("--check", metavar="FILE", help="Check a file of rules without asking a server.")
    ] = None,
    local: Local = False,
    as_json: AsJson = False,
) -> None:
    """List the retention rules in force, and how many streams each matches.

    With --check it prints each fault with file, line and rule. Exit code 2 if there is a fault.
    """
    from reactor.cli import rules as rules_command

    if check is not None:
        rules_command.check(check, as_json=as_json)
    else:
        rules_command.show(local=local, as_json=as_json)


@app.command(epilog=_examples("reactor settings", "reactor settings | grep GUARD"))
def settings(
    *,
    changed: Annotated[bool, typer.Option("--changed", help="Only those that differ from their default.")] = False,
    as_json: AsJson = False,
) -> None:
    """List every variable, its default and its value now."""
    from reactor.cli.settings import show_settings

    show_settings(changed=changed, as_json=as_json)


class Exported(StrEnum):
    """The files that `export` prints."""

    GRAFANA = "grafana"
    ALERTS = "alerts"
    SYSTEMD = "systemd"
    KUBERNETES = "kubernetes"
    KUSTOMIZATION = "kustomization"
    POSTGRES_TRIGGER = "postgres-trigger"

    @property
    def file(self) -> str:
        """Its name in the package."""
        files = {
            "grafana": "grafana.json",
            "alerts": "alerts.yml",
            "systemd": "reactor.service",
            "kubernetes": "kubernetes.yaml",
            "kustomization": "kustomization.yaml",
            "postgres-trigger": "postgres-trigger.sql",
        }
        return files[self.value]


@app.command(
    epilog=_examples("reactor export alerts > reactor-alerts.yml", "reactor export grafana > reactor-dashboard.json")
)
def export(
    what: Annotated[
        Exported,
        typer.Argument(
            metavar="alerts|grafana|systemd|kubernetes|kustomization|postgres-trigger",
            help="Alerts for Prometheus, a dashboard for Grafana, a unit, manifests, a base for kustomize, a trigger.",
        ),
    ],
) -> None:
    """Print a file to install: alerts, dashboard, units, manifests."""
    sys.stdout.write(resources.files("reactor").joinpath("export", what.file).read_text(encoding="utf-8"))


@app.command(epilog=_examples("reactor demo", "reactor demo --duration 2m"))
def demo(
    duration: Annotated[str, typer.Option("--duration", metavar="DURATION", help="How long to show.")] = "60s",
) -> None:
    """Show how zombies are deleted, on embedded servers."""
    from reactor.cli import process

    process.demo(duration)


def _with_context_first(arguments: list[str]) -> list[str]:
    """Return the arguments with `--context NAME` before the command, where typer takes it."""
    for at, argument in enumerate(arguments):
        if argument == "--":
            break
        if argument == "--context" and at + 1 < len(arguments):
            return ["--context", arguments[at + 1], *arguments[:at], *arguments[at + 2 :]]
        if argument.startswith("--context="):
            return [argument, *arguments[:at], *arguments[at + 1 :]]
    return arguments


def main() -> None:
    """Run the `reactor` command."""
    gc.set_threshold(COLLECTED_AFTER)
    if sys.stdout is None:  # closed by our parent
        sys.exit("reactor: standard output is closed")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal with ASCII only must not end the command
    if isinstance(raw := getattr(sys.stdout, "buffer", None), FileIO):  # else what a write leaves over is lost
        sys.stdout = TextIOWrapper(BufferedWriter(raw), sys.stdout.encoding, "replace", line_buffering=True)
    try:
        app(_with_context_first(sys.argv[1:]))
    except BrokenPipeError:  # the reader of our output has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(SIGNALLED + signal.SIGPIPE)
