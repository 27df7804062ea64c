"""The exit codes. They are part of the contract."""

from enum import IntEnum
from typing import NoReturn

import typer

SIGNALLED = 128
"""A process that a signal ends exits with this plus the number of the signal."""


class Exit(IntEnum):
    """The exit codes of all commands."""

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
