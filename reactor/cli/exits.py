"""Exit codes, which people script against, and how a command ends with one."""

from enum import IntEnum
from typing import NoReturn

import typer

SIGNALLED = 128
"""A process that was ended by a signal exits with this plus the signal's number."""


class Exit(IntEnum):
    """What people script against."""

    DONE = 0
    UNFIXABLE = 1
    USAGE = 2
    UNREACHABLE = 3
    HELD_BACK = 4
    NO_STREAM = 5


def fail(code: Exit, message: str) -> NoReturn:
    """End the command with one line on standard error."""
    typer.echo(f"reactor: {message}", err=True)
    raise typer.Exit(code)
