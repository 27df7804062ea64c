"""Output for people: colours on a terminal, plain text in a pipe."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from textwrap import fill
from typing import Any, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from reactor.core.checks import Diagnosis, Level, counted, size
from reactor.core.explain import details_of, span
from reactor.core.model import SECOND, Outcome, Settlement, parse_instant
from reactor.core.report import Report, full_detail
from reactor.core.rules import DEFAULT
from reactor.core.schemas import (
    Entry,
    Explanation,
    Gone,
    Happened,
    History,
    LastKnown,
    Listed,
    ListedRow,
    PassSummary,
    PauseJson,
    Status,
    WorkerJson,
    Workers,
    WouldDrains,
)
from reactor.passes.reconciler import Progress as OnProgress

STYLES = {
    Outcome.DRAINED: "green",
    Outcome.WOULD_DRAIN: "yellow",
    Outcome.ALREADY_GONE: "green",
    Outcome.KEPT: "default",
    Outcome.WAITING: "cyan",
    Outcome.UNFIXABLE: "bold red",
}
MARKS = {Level.OK: "[green]✓[/]", Level.WARNING: "[yellow]![/]", Level.ERROR: "[bold red]✗[/]"}
BOX = box.SIMPLE_HEAD
GAP = "  "
"""Between columns."""
COLUMNS = ("stream", "verdict", "reason", "status", "due", "messages")
WIDE_COLUMNS = ("rule", "size", "created", "terminal since", "redelivered", "detail")
INDENT: Any = {"initial_indent": "  ", "subsequent_indent": "  ", "break_long_words": False, "break_on_hyphens": False}
WORTH_A_BAR = 20
"""From how many streams on a pass shows its progress."""
MOST_KEPT = 10
"""How many names of kept streams the report of a pass shows, so that it ends with what matters."""
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(\.\d+)?Z")


def printable(text: str) -> str:
    """Return text that cannot move the cursor or turn the line around."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def visible(text: str) -> str:
    """Return printable text that cannot be taken for markup either."""
    return escape(printable(text))


def show_report(console: Console, report: Report) -> None:
    """Print the streams by verdict, those that need a person in full, and one line that sums up."""
    for outcome in Outcome:
        for (verdict, reason), count in sorted(report.reasons.items()):
            if verdict is outcome:
                names = [visible(item.stream.name) for item in report.settlements if _is(item, outcome, reason)]
                if outcome in {Outcome.KEPT, Outcome.WAITING} and len(names) > MOST_KEPT:
                    names[MOST_KEPT:] = [f"and {len(names) - MOST_KEPT} more"]
                style = STYLES[outcome]
                console.print(f"[{style}]{outcome.value}[/] {reason}: {counted(count, 'stream')}")
                console.print(fill(", ".join(names), console.width, **INDENT), soft_wrap=True)
    for settlement in report.settlements:
        if settlement.outcome is Outcome.UNFIXABLE:
            why = full_detail(settlement)
            detail = f": {visible(why)}" if why else ""
            name = visible(settlement.stream.name)
            console.print(f"[red]unfixable[/] {name} ({settlement.reason}){detail}", soft_wrap=True)
    for gap in sorted({item.detail for item in report.settlements if item.outcome is Outcome.KEPT and item.detail}):
        console.print(f"[yellow]kept[/] because {visible(gap)}", soft_wrap=True)
    for problem in filter(None, (report.paused, report.breaker and f"breaker: {report.breaker}", report.error)):
        console.print(f"[bold red]{visible(problem)}[/]", soft_wrap=True)
    console.print(_summary(report), soft_wrap=True)


def _is(settlement: Settlement, outcome: Outcome, reason: str) -> bool:
    return settlement.outcome is outcome and settlement.reason.value == reason


def _summary(report: Report) -> str:
    counts = dict(report.summary())
    words = [f"{key.replace('_', ' ')} {counts[key]}" for key in ("checked", "fixed", "unfixable", "already_gone")]
    words += [f"{key} {counts[key]}" for key in ("kept", "waiting")]
    return f"{', '.join(words)} in {report.duration_s:.2f} s" + (" (dry run)" if report.dry_run else "")


def show_explanation(console: Console, explanation: Explanation) -> None:
    """Print the sentence, what would change the verdict, the guards and the evidence."""
    show_notice(console, explanation.get("notice"))
    console.print(f"[bold]{visible(explanation['sentence'])}[/]", soft_wrap=True)
    console.print(f"[dim]What would change it:[/] {visible(explanation['changes'])}", soft_wrap=True)
    if explanation["rule"] != DEFAULT:
        console.print(f"[dim]Rule:[/] {visible(explanation['rule'])}", soft_wrap=True)
    table = Table("", "", "", "", "", show_header=False, box=None)
    for guard in explanation["guards"]:
        sign, text = ("[green]✓[/]", "passed") if guard["passed"] else ("[cyan]…[/]", "passes")
        length = span(guard["length_s"])
        moment = _moment(guard["passes_at"], explanation["at"])
        table.add_row(sign, guard["guard"].replace("_", " "), length, text, moment)
    console.print(table)
    for name, part in explanation["evidence"].items():
        _show_evidence(console, name, part, explanation["at"])


def _show_evidence(console: Console, name: str, part: object, now: str) -> None:
    """Print a block for each kind of evidence; each of several consumers has its own."""
    if isinstance(part, list) and part:
        for item in part:
            _show_evidence(console, name.removesuffix("s"), item, now)
        return
    console.print(f"[dim]{visible(name.replace('_', ' '))}[/]" + ("" if part else " none"))
    if not isinstance(part, dict):
        return
    table = Table("", "", "", show_header=False, box=None)
    for key, value in part.items():
        table.add_row("", visible(str(key).replace("_", " ")), visible(_describe(value, now)))
    console.print(table)


def _describe(value: object, now: str) -> str:
    match value:
        case None | [] | {}:
            return "none"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(str, value))
        case str() if _INSTANT.fullmatch(value):
            return _moment(value, now)
    return str(value)


def _moment(instant: str, now: str) -> str:
    """Return a time to the second, and how far that is from now."""
    return f"{_plain(instant)}, {span_to(instant, now)}"


def _plain(instant: str) -> str:
    return _INSTANT.sub(r"\1 \2 UTC", instant)


def show_status(console: Console, status: Status) -> None:
    """Print one line for each fact."""
    show_notice(console, status["notice"])
    verdicts = ", ".join(f"{count} {text}" for text, count in status["verdicts"].items())
    due_s, oldest = status["next_due_s"], status["oldest_zombie_s"]
    rows = {
        "job streams": f"{status['job_streams']} ({verdicts})" if verdicts else "not known before the first full pass",
        "exhausted queues": str(status["exhausted"] or "none"),
        "oldest zombie": "none" if oldest is None else f"due for {span(oldest)}",
        "drained today": f"{status['drained_today']} ({size(status['bytes_reclaimed'])} reclaimed in all)",
        "ledger": _covers(status),
        "events not read yet": "unknown" if status["lag"] is None else str(status["lag"]),
        "dead letters": "unknown" if status["dead_letters"] is None else str(status["dead_letters"]),
        "due queue": f"{status['due']} jobs" + ("" if due_s is None else f", the next in {span(max(0.0, due_s))}"),
        "last full pass": _last_pass(status["last_reconcile"], status["at"]),
        "breaker": status["breaker"] or "not tripped",
        "error": status["error"] or "none",
        "workers": _workers(status),
        "deleting": _deleting(status),
        "mode": "delete" if status["action"] == "delete" else "report: nothing is deleted",
    }
    table = Table("", "", show_header=False, box=None)
    for name, value in rows.items():
        table.add_row(f"[dim]{name}[/]", visible(value))
    console.print(table)


def _covers(status: Status) -> str:
    coverage = status["coverage"]
    since = (
        f"covers jobs since {_plain(coverage['since'])}"
        if coverage["since"]
        else "the job directory decides, and answers"
    )
    return coverage["gap"] or since


def _workers(status: Status) -> str:
    if not status["workers"]:
        return "none is alive: until one runs (reactor worker), only reactor reconcile deletes"
    away = status["nats_away_since"]
    return f"{status['workers']} alive" + (f"; NATS is away since {_plain(away)}" if away else "")


def _deleting(status: Status) -> str:
    """Return whether zombies are deleted now, and if not, why."""
    if pause := _pause(status["pause"]):
        return pause
    if status["nats_error"]:
        return f"no: NATS is away: {status['nats_error']}"
    if status["deletes_paused"]:
        return f"no: a permission is missing: {status['deletes_paused']}"
    if not status["workers"]:
        return "no: no worker is alive"
    return "on" if status["deletes"] else "off (report mode)"


def _pause(pause: PauseJson | None) -> str | None:
    if pause is None:
        return None
    until = f" until {_plain(pause['until'])}" if pause["until"] else ""
    return f"paused by {pause['by']} since {_plain(pause['since'])}{until}: {pause['reason']}"


def _last_pass(last: PassSummary | None, now: str) -> str:
    if last is None:
        return "none yet"
    of = dict(last)
    counts = ", ".join(f"{text} {of[text]}" for text in ("checked", "fixed", "unfixable", "kept", "waiting"))
    return f"{_moment(last['started_at'], now)}: {counts}"


def show_history(console: Console, history: History) -> None:
    """Print a line for each entry, and below it why. Equal attempts on one stream are printed once."""
    if not history["entries"]:
        console.print("nothing yet")
        return
    table = Table("at (UTC)", "stream", "outcome", Column("why", overflow="fold"), box=None, pad_edge=False)
    for entry, count, since in _grouped(history["entries"]):
        times = f"{count} times since {_short(since)}: " if count > 1 else ""
        outcome = (entry.get("outcome") or entry["phase"]).replace("_", " ")
        table.add_row(*map(visible, (_short(entry["at"]), entry["stream"] or "-", outcome, times + details_of(entry))))
    console.print(table)


def _grouped(entries: Sequence[Entry]) -> list[tuple[Entry, int, str]]:
    """Return entries newest first, each with its number of attempts and the time of the first."""
    groups = dict[tuple[str, ...], tuple[Entry, int, str]]()
    for number, entry in enumerate(entries):
        is_attempt = entry["phase"] == "unfixable"
        key = (entry["stream"], entry["reason"]) if is_attempt else (str(number),)
        newest, count, _ = groups.get(key, (entry, 0, ""))
        groups[key] = (newest, count + 1, entry["at"])
    return list(groups.values())


def _short(instant: str) -> str:
    """Return the time to the second; the column's title names the zone."""
    return _INSTANT.sub(r"\1 \2", instant)


def show_workers(console: Console, workers: Workers) -> None:
    """Print a line for each worker, and one if they differ."""
    if not workers["workers"]:
        console.print("no worker is alive: start reactor worker")
        return
    table = Table("instance", "version", "since (UTC)", "seen", "deletes", "NATS", "Redis", box=None, pad_edge=False)
    for worker in workers["workers"]:
        cells = [worker["instance"], worker["version"], _short(worker["since"]), f"{span(worker['seen_s'])} ago"]
        cells += [_why_not(worker), worker["nats"], worker["redis"]]
        table.add_row(*map(visible, cells))
    console.print(table, soft_wrap=True)
    if workers["differ"]:
        console.print(f"[yellow]they differ in {visible(', '.join(workers['differ']))}[/]", soft_wrap=True)
    if len(workers["versions"]) > 1:
        console.print(f"[yellow]they differ in version: {visible(', '.join(workers['versions']))}[/]", soft_wrap=True)


def _why_not(worker: WorkerJson) -> str:
    """Return whether a worker deletes, and if not, why."""
    if worker["nats_away_since"]:
        return f"no: NATS is away since {_short(worker['nats_away_since'])}"
    if worker["policy"].get("action") != "delete":
        return "no: report mode"
    return f"no: {worker['deletes_paused']}" if worker["deletes_paused"] else "yes"


def show_last_known(console: Console, known: LastKnown) -> None:
    """Print what Redis knows about a stream while NATS is away."""
    console.print(f"[bold]{visible(known['sentence'])}[/]", soft_wrap=True)
    _show_timeline(console, known["timeline"])


def show_gone(console: Console, gone: Gone) -> None:
    """Print the sentence, how the stream can be restored, and what happened to it."""
    console.print(f"[bold]{visible(gone['sentence'])}[/]", soft_wrap=True)
    if (back := gone["restorable"]) is not None:
        if not (back["lost"] or back["messages"]):
            kept = "with its consumers; it held no messages"
        elif back["lost"]:
            kept = f"the empty stream with its consumers; {counted(back['lost'], 'message')} it held are lost"
        else:
            kept = f"with {counted(back['messages'], 'message')}"
        where = f", from {back['backup']}" if back["backup"] else ""
        line = f"To bring it back: {back['command']} ({kept}{where})"
        console.print(visible(line), soft_wrap=True)
    _show_timeline(console, gone["timeline"])


def _show_timeline(console: Console, timeline: Sequence[Happened]) -> None:
    for item in timeline:
        by = f" by {item['by']}" if item["by"] and item["by"] not in item["what"] else ""
        console.print(f"[dim]{_short(item['at'])}[/] {visible(item['what'] + by)}", soft_wrap=True)


def show_notice(console: Console, notice: str | None) -> None:
    """Print by whose settings the rest is judged, if not by the shell's own."""
    if notice:
        console.print(f"[yellow]{visible(notice)}[/]", soft_wrap=True)


def show_streams(console: Console, listed: Listed, *, wide: bool, most: int | None = None) -> None:
    """Print one line for each stream, `most` of them, and one that sums up. Wide rows are not wrapped."""
    show_notice(console, listed["notice"])
    if not listed["streams"]:
        none = f"none of {counted(listed['total'], 'job stream')} matches"
        other = f"no job streams: none of {counted(listed['others'], 'stream')} matches the pattern"
        console.print(none if listed["total"] else other if listed["others"] else "no job streams")
        return
    names = [*COLUMNS, *(WIDE_COLUMNS if wide else ())]
    rows = [[printable(cell) for cell in _cells(row, listed["at"], wide=wide)] for row in listed["streams"][:most]]
    styles = [STYLES[Outcome(row["verdict"])] for row in listed["streams"][:most]]
    widths = [max(map(cell_len, cells)) for cells in zip(names, *rows, strict=True)]
    if wide or sum(widths) + len(GAP) * (len(widths) - 1) <= console.width:
        console.print(_aligned([names, *rows], ["bold", *styles], widths), soft_wrap=True)
    else:
        table = Table(*(Column(name, justify=_side(name), no_wrap=name == "stream") for name in names), box=None)
        table.pad_edge = False
        for cells, style in zip(rows, styles, strict=True):
            table.add_row(*(Text(cell, style if at == 1 else "") for at, cell in enumerate(cells)))
        console.print(table)
    console.print(_totals(listed, most), soft_wrap=True)


def _side(column: str) -> Literal["left", "right"]:
    return "right" if column in {"messages", "size"} else "left"


def _cells(row: ListedRow, now: str, *, wide: bool) -> list[str]:
    verdict = "zombie" if row["verdict"] == Outcome.WOULD_DRAIN.value else row["verdict"]
    due = span_to(row["due_at"], now) if row["due_at"] else ""
    reason = f"{row['reason']}, exhausted" if row.get("exhausted") else row["reason"]
    cells = [row["stream"], verdict, reason, row["status"] or "", due, str(row["messages"])]
    if wide:
        cells += [row["rule"], size(row["bytes"]), _short(row["created"] or ""), _short(row["terminal_at"] or "")]
        cells += ["" if row["redelivered"] is None else str(row["redelivered"]), row["detail"] or ""]
    return cells


def _aligned(rows: Sequence[Sequence[str]], styles: Sequence[str], widths: Sequence[int]) -> Text:
    """Return rows that need no wrapping, the names first: for thousands of them a table takes seconds."""
    text = Text()
    sides = [_side(name) for name in rows[0]]
    for row, style in zip(rows, styles, strict=True):
        cells = list[str]()
        for cell, width, side in zip(row, widths, sides, strict=True):
            room = " " * (width - cell_len(cell))
            cells.append(room + cell if side == "right" else cell + room)
        others = "bold" if row is rows[0] else ""
        text.append(cells[0] + GAP, others).append(cells[1], style)
        text.append((GAP + GAP.join(cells[2:])).rstrip() + "\n", others)
    text.right_crop(1)
    return text


def _totals(listed: Listed, most: int | None) -> str:
    rows = listed["streams"]
    verdicts = Counter("zombie" if row["verdict"] == Outcome.WOULD_DRAIN.value else row["verdict"] for row in rows)
    counts = ", ".join(f"{number} {verdict}" for verdict, number in sorted(verdicts.items()))
    shown = f"{most} shown of " if most is not None and most < len(rows) else ""
    of_all = f" of {listed['total']}" if len(rows) != listed["total"] else ""
    held = f"{counted(sum(row['messages'] or 0 for row in rows), 'message')}, {size(sum(row['bytes'] for row in rows))}"
    return f"{shown}{len(rows)}{of_all} job streams: {counts}; {held}"


def span_to(instant: str, now: str) -> str:
    """Return how far a time is from now."""
    away = (parse_instant(instant) - parse_instant(now)) / SECOND
    return f"in {span(away)}" if away > 0 else f"{span(-away)} ago"


def show_backups(console: Console, backups: Mapping[str, Any]) -> None:
    """Print one line for each backup, newest first."""
    if not backups["backups"]:
        console.print(f"no backups in {visible(backups['folder'])}")
        return
    table = Table("at (UTC)", "stream", "messages", "size", "folder", box=None, pad_edge=False)
    for item in backups["backups"]:
        cells = [_short(item["at"]), item["stream"], str(item["messages"]), size(item["size"]), item["folder"]]
        table.add_row(*map(visible, cells))
    console.print(table)


def show_would_drain(console: Console, answer: WouldDrains) -> None:
    """Print one line for each stream, and one that sums up."""
    if not answer["entries"]:
        console.print("nothing yet: with REACTOR_POLICY_ACTION=report a worker lists here what it would have deleted")
        return
    table = Table("at", "stream", "reason", "status", "messages", "afterwards", box=BOX)
    for entry in answer["entries"]:
        afterwards = entry["afterwards"] + (f" {_plain(entry['afterwards_at'])}" if entry["afterwards_at"] else "")
        words = [_plain(entry["at"]), entry["stream"], entry["reason"], entry["status"] or "", str(entry["messages"])]
        table.add_row(*map(visible, (*words, afterwards)))
    console.print(table)
    ends = ", ".join(f"{count} {what}" for what, count in sorted(answer["afterwards"].items()))
    console.print(f"{counted(answer['total'], 'stream')} would have been drained: {ends}", soft_wrap=True)


def show_diagnosis(console: Console, diagnosis: Diagnosis) -> None:
    """Print the checks by group, each fix on its own line, and one line that sums up."""
    table = Table(box=None, show_header=False, pad_edge=False)
    group = ""
    for check in diagnosis.checks:
        if check.group != group:
            group = check.group
            table.add_row("", f"[bold]{group}[/]", "")
        table.add_row(MARKS[check.level], check.name.removeprefix(f"{group}."), visible(check.found))
        if check.fix:
            table.add_row("", "", f"[cyan]fix:[/] {visible(check.fix)}")
    console.print(table)
    counts = [(diagnosis.count(level), noun) for level, noun in ((Level.ERROR, "error"), (Level.WARNING, "warning"))]
    nouns = [counted(number, noun) for number, noun in counts]
    away = "; a server is away, so not everything could be checked" if diagnosis.unreachable else ""
    console.print(f"{', '.join(nouns)} in {counted(len(diagnosis.checks), 'check')}{away}", soft_wrap=True)


@contextmanager
def progress_bar(console: Console, verb: str, count: ProgressColumn, worth: int) -> Iterator[OnProgress]:
    """Show a progress bar from `worth` steps on; none if the output is not a terminal."""
    columns = (TextColumn(verb), BarColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, visible=False)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=total >= worth)

        yield show
