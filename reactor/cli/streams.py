"""`reactor streams`: every job stream with its verdict now, like `kubectl get`."""

import asyncio
import json
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TypeVar

from rich.console import Console

from reactor.bootstrap.connections import connections
from reactor.bootstrap.services import ReadOnly, read_only, utc_now
from reactor.cli.exits import Exit, fail
from reactor.cli.render import show_streams
from reactor.cli.shell import console, natural, run, settings_of_command
from reactor.core.model import format_instant
from reactor.core.report import listed, mark_exhausted
from reactor.core.schemas import Listed, ListedRow
from reactor.passes.listing import PassAborted

WATCH_S = 2.0
SHARE = 10
"""With `--watch`, listing takes at most a tenth of the time."""
ZOMBIE = {"zombie": "would_drain"}
"""Another name for a verdict."""
WATCH_LINES = 5
"""Lines of the screen that are not rows."""
NEVER = "9"
"""Sorts after every time."""


class Sort(StrEnum):
    """The order of the rows: due first, oldest first, largest first."""

    NAME = "name"
    DUE = "due"
    AGE = "age"
    SIZE = "size"


class Output(StrEnum):
    """The formats of the output."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


Kind = TypeVar("Kind", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class StreamFilter:
    """A filter of streams. An empty field matches everything."""

    names: Sequence[str] = ()
    """Exact names, or globs."""
    verdicts: Collection[str] = ()
    reasons: Collection[str] = ()
    statuses: Collection[str] = ()

    def matches(self, row: ListedRow) -> bool:
        """Return whether the row matches."""
        return (
            (not self.names or any(fnmatchcase(row["stream"], name) for name in self.names))
            and (not self.verdicts or row["verdict"] in {ZOMBIE.get(verdict, verdict) for verdict in self.verdicts})
            and (not self.reasons or row["reason"] in self.reasons)
            and (not self.statuses or (row["status"] or "").upper() in {status.upper() for status in self.statuses})
        )


def streams(wanted: StreamFilter, sort: str, output: str, *, watch: bool, local: bool) -> None:
    """Print the streams once, or with `watch` repeatedly until Ctrl-C."""
    order, form = _one_of(Sort, "--sort", sort), _one_of(Output, "--output", output)
    settings = settings_of_command()

    async def show() -> None:
        async with connections(settings) as connected:
            while True:
                began = time.monotonic()
                view = await read_only(connected, local=local)
                _print(await _listed(view, wanted, order), form, again=watch)
                if not watch:
                    return
                await asyncio.sleep(max(WATCH_S, SHARE * (time.monotonic() - began)))

    try:
        run(show, settings.nats.domain)
    except PassAborted as error:
        fail(Exit.UNFIXABLE, str(error))


async def _listed(view: ReadOnly, wanted: StreamFilter, order: Sort) -> Listed:
    cases = view.cases
    reconciler = cases.reconciler(await cases.lifecycle_subscriber())
    listing = await reconciler.listing()
    rows = [listed(item, cases.resources.policy) for item in listing.settlements()]
    rows = mark_exhausted(rows, await cases.resources.ledger.exhausted.consumers())
    chosen = _sorted([row for row in rows if wanted.matches(row)], order)
    return Listed(
        at=format_instant(utc_now()), notice=view.notice, total=len(rows), others=listing.others, streams=chosen
    )


def _one_of(kind: type[Kind], flag: str, text: str) -> Kind:
    try:
        return kind(text)
    except ValueError:
        fail(Exit.USAGE, f"{flag}: {text!r} is none of {', '.join(kind)}")


def _sorted(rows: Sequence[ListedRow], sort: Sort) -> list[ListedRow]:
    match sort:
        case Sort.NAME:
            return sorted(rows, key=lambda row: natural(row["stream"]))
        case Sort.DUE:
            return sorted(rows, key=lambda row: row["due_at"] or NEVER)
        case Sort.AGE:
            return sorted(rows, key=lambda row: row["created"] or NEVER)
        case Sort.SIZE:
            return sorted(rows, key=lambda row: -row["bytes"])


def _print(answer: Listed, output: Output, *, again: bool) -> None:
    match output:
        case Output.JSON:
            sys.stdout.write(json.dumps(answer) + "\n")
        case Output.YAML:
            import yaml  # noqa: PLC0415  # only this needs it

            sys.stdout.write(yaml.safe_dump(dict(answer), sort_keys=False))
        case Output.NAME:
            sys.stdout.writelines(f"{row['stream']}\n" for row in answer["streams"])
        case Output.TABLE | Output.WIDE:
            screen = console()
            if again:
                _clear(screen)
            most = screen.height - WATCH_LINES if again and screen.is_terminal else None
            show_streams(screen, answer, wide=output is Output.WIDE, most=most)
    sys.stdout.flush()


def _clear(screen: Console) -> None:
    """Clear a terminal. In a pipe the listings follow each other."""
    if screen.is_terminal:
        screen.clear()
