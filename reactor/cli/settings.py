"""`reactor settings`: every variable, its default, and its value now."""

import json
import sys

from rich.table import Table
from rich.text import Text

from reactor.cli.shell import console, read_settings
from reactor.config.catalogue import describe, present


def show_settings(*, changed: bool, as_json: bool) -> None:
    """Print the settings, with secrets masked. Invalid settings are an error, as in every command."""
    now = present(read_settings())
    rows = [(name, default, now[name], text) for name, default, text in describe()]
    rows = [row for row in rows if not changed or row[1] != row[2]]
    if as_json:
        keys = ("variable", "default", "value", "help")
        sys.stdout.write(json.dumps({"settings": [dict(zip(keys, row, strict=True)) for row in rows]}) + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("variable", "default", "now", ""):
        table.add_column(heading, overflow="fold")
    for name, default, value, text in rows:
        table.add_row(name, Text(default or "-"), Text(value or "-", "bold" if value != default else ""), text)
    console().print(table)
