"""JSON that others wrote: a job system, a server, a file, an operator's tool. Pure.

Every parser of such JSON goes through `read_json`, so no input can raise anything but `Unreadable`.
"""

from typing import Any

from pydantic_core import from_json


class Unreadable(ValueError):
    """The text is no JSON that can be used: says why."""


def read_json(data: bytes | str) -> Any:  # noqa: ANN401  # JSON is anything
    """Parse JSON that others wrote. Raises Unreadable, also if it is nested too deeply (200 levels) or has NaN."""
    try:
        return from_json(data, allow_inf_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise Unreadable(str(error) or type(error).__name__) from error
