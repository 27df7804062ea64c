"""List the settings, for `reactor settings` and for docs/settings.md (`python -m reactor.config.catalogue`)."""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from typing import cast

from pydantic import ByteSize, SecretStr
from pydantic_settings import BaseSettings

from reactor.config.settings import Settings, groups, variables
from reactor.core.durations import UNITS


def describe() -> list[tuple[str, str, str]]:
    """Return (variable, default, help) of every setting."""
    texts = {name: text for group in groups().values() for name, text in _attribute_docstrings(group)}
    return [(name, _shown(field.default), texts.get(name, "")) for name, field in variables()]


def _attribute_docstrings(group: type[BaseSettings]) -> Iterator[tuple[str, str]]:
    """Yield the variable and the docstring of each field. Pydantic could read them, but only at every start."""
    [definition] = ast.parse(inspect.getsource(group)).body
    body = cast("ast.ClassDef", definition).body
    for field, text in pairwise(body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(docstring))):
                yield f"{group.model_config['env_prefix']}{name}".upper(), inspect.cleandoc(docstring)


def table() -> str:
    """Return the table of docs/settings.md."""
    rows = [
        f"| `{name}` | {f'`{_cell(default)}`' if default else '-'} | {_cell(text)} |"
        for name, default, text in describe()
    ]
    return "\n".join(["| variable | default | |", "|---|---|---|", *rows])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def present(settings: Settings) -> dict[str, str]:
    """Return the value of each variable now, as it would be written. Secrets are masked."""
    values = {}
    for group_name, group in groups().items():
        for name in group.model_fields:
            value = getattr(getattr(settings, group_name), name)
            shown = _masked(value.get_secret_value()) if isinstance(value, SecretStr) else _shown(value)
            values[f"{group.model_config['env_prefix']}{name}".upper()] = shown
    return values


def _masked(secret: str) -> str:
    """Return a URL without its credentials. Anything else is hidden completely."""
    return re.sub(r"//[^/@]*@", "//***@", secret) if "://" in secret else "***"


def _shown(default: object) -> str:
    match default:
        case None | ():
            return ""
        case SecretStr():
            return default.get_secret_value()
        case tuple():
            return ",".join(map(str, default))
        case timedelta():
            return _short(default)
        case ByteSize():
            return default.human_readable(separator="").replace(".0", "")
        case _:
            return str(default)


def _short(span: timedelta) -> str:
    """Return a span as a whole number of the largest unit possible."""
    milliseconds = span // timedelta(milliseconds=1)
    whole = (unit for unit, size in UNITS.items() if milliseconds % size == 0)
    unit = next(unit for unit in whole if unit != "d" or milliseconds > UNITS["d"])  # 24h, then 2d
    return f"{milliseconds // UNITS[unit]}{unit}"


if __name__ == "__main__":
    sys.stdout.write(f"{table()}\n")
