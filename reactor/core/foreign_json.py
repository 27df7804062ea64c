"""Read JSON that others wrote: a job system, a server, a file, a tool. Pure.

All such JSON is read by `read_json`, so bad input raises `Unreadable` and nothing else.
"""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

MAX_DEPTH = 200


class Unreadable(ValueError):
    """The text is not valid JSON. The message says why."""


def read_json(data: bytes | str) -> Any:  # noqa: ANN401  # JSON is anything
    """Parse JSON that others wrote. Raises Unreadable, also if it is nested too deeply (200 levels) or has NaN."""
    try:
        return _parse(data)
    except (ValueError, TypeError, RecursionError) as error:
        raise Unreadable(str(error) or type(error).__name__) from error


def _read_slowly(data: bytes | str) -> Any:  # noqa: ANN401  # JSON is anything
    def refuse(constant: str) -> float:
        raise Unreadable(f"{constant} is not JSON")

    text = data.decode() if isinstance(data, bytes) else data
    if text.count("[") + text.count("{") > MAX_DEPTH * MAX_DEPTH:
        raise Unreadable("nested too deeply")
    return json.loads(text, parse_constant=refuse)


try:
    from pydantic_core import from_json

    _parse: Callable[[bytes | str], Any] = partial(from_json, allow_inf_nan=False)
except ImportError:  # in a job system's process, where only the client is installed
    _parse = _read_slowly
