"""`reactor streams`: every job stream with its verdict now, like `kubectl get`."""

import asyncio
import json
import sys
import time
from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import TypeVar

from rich.console import Console

from reactor.bootstrap.connections import connections
from reactor.bootstrap.services import UseCases, provision_safely, utc_now
from reactor.cli.exits import Exit, fail
from reactor.cli.render import show_streams
from reactor.cli.shell import console, run, settings_of_command
from reactor.core.model import format_instant
from reactor.core.policy import Policy
from reactor.core.report import listed
from reactor.core.schemas import Listed, ListedRow
from reactor.passes.listing import PassAborted
from reactor.passes.reconciler import Reconciler

WATCH_S = 2.0
SHARE = 10
"""A listing takes at most a tenth of the time, however many streams there are."""
ZOMBIE = {"zombie": "would_drain"}
"""What people call it."""
NEVER = "9"
"""Behind every time."""


class Sort(StrEnum):
    """What comes first: what is due first, the oldest, the largest."""

    NAME = "name"
    DUE = "due"
    AGE = "age"
    SIZE = "size"


class Output(StrEnum):
    """How they are printed."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    NAME = "name"


Kind = TypeVar("Kind", bound=StrEnum)


def streams(verdicts: Collection[str], sort: str, output: str, *, watch: bool) -> None:
    """Print the streams once, or again and again until Ctrl-C."""
    order, form = _one_of(Sort, "--sort", sort), _one_of(Output, "--output", output)
    settings = settings_of_command()
    wanted = {ZOMBIE.get(verdict, verdict) for verdict in verdicts}

    async def show() -> None:
        async with connections(settings) as connected:
            cases = UseCases(connected, await provision_safely(connected))
            reconciler = cases.reconciler(await cases.lifecycle_subscriber())
            while True:
                began = time.monotonic()
                rows = await _rows(reconciler, cases.resources.policy)
                chosen = _sorted([row for row in rows if not wanted or row["verdict"] in wanted], order)
                _print(Listed(at=format_instant(utc_now()), streams=chosen), form, again=watch)
                if not watch:
                    return
                await asyncio.sleep(max(WATCH_S, SHARE * (time.monotonic() - began)))

    try:
        run(show, settings.nats.domain)
    except PassAborted as error:
        fail(Exit.UNFIXABLE, str(error))


def _one_of(kind: type[Kind], flag: str, text: str) -> Kind:
    try:
        return kind(text)
    except ValueError:
        fail(Exit.USAGE, f"{flag}: {text!r} is none of {', '.join(kind)}")


async def _rows(reconciler: Reconciler, policy: Policy) -> list[ListedRow]:
    return [listed(item, policy) for item in await reconciler.verdicts()]


def _sorted(rows: Sequence[ListedRow], sort: Sort) -> list[ListedRow]:
    match sort:
        case Sort.NAME:
            return sorted(rows, key=lambda row: (len(row["stream"]), row["stream"]))  # job_9 before job_10
        case Sort.DUE:
            return sorted(rows, key=lambda row: row["due_at"] or NEVER)
        case Sort.AGE:
            return sorted(rows, key=lambda row: row["created"] or NEVER)
        case Sort.SIZE:
            return sorted(rows, key=lambda row: -row["bytes"])


def _print(found: Listed, output: Output, *, again: bool) -> None:
    match output:
        case Output.JSON:
            sys.stdout.write(json.dumps(found) + "\n")
        case Output.NAME:
            sys.stdout.writelines(f"{row['stream']}\n" for row in found["streams"])
        case Output.TABLE | Output.WIDE:
            screen = console()
            if again:
                _clear(screen)
            show_streams(screen, found, wide=output is Output.WIDE)
    sys.stdout.flush()


def _clear(screen: Console) -> None:
    """Clear a terminal; in a pipe, one listing follows the other."""
    if screen.is_terminal:
        screen.clear()
