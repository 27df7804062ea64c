"""Failpoints: named places where a test may stop or kill the process, or let others act in between.

No setting and no variable arms them. A failpoint that is not armed costs one comparison.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from enum import StrEnum
from typing import Any, TypeVar


class Point(StrEnum):
    """The failpoints, in the order in which a deletion reaches them."""

    EVENT_WRITTEN = "event-written"
    """The ledger has the event, and the event is not acked yet."""
    INSPECTED = "inspected"
    FENCE_SENT = "fence-sent"
    """The update is sent and not answered yet."""
    FENCED = "fenced"
    PROVEN = "proven"
    """The barrier was answered, or the recheck has shown that the stream is kept."""
    DELETE_SENT = "delete-sent"
    """The deletion is sent and not answered yet."""
    DELETED = "deleted"
    AUDITED = "audited"
    FORGOTTEN = "forgotten"
    """The job is removed from the ledger."""


Result = TypeVar("Result")
Hook = Callable[[Point, str], Awaitable[None]]

armed: Hook | None = None
"""Set only by tests. Called with the failpoint and the stream or subject in work."""


async def reach(point: Point, what: str) -> None:
    """Call the hook of a test, if one is armed."""
    if armed is not None:
        await armed(point, what)


async def reach_during(point: Point, what: str, work: Coroutine[Any, Any, Result]) -> Result:
    """Do the work. Call the hook of a test, if one is armed, while the work is under way."""
    if armed is None:
        return await work
    task = asyncio.create_task(work)
    await armed(point, what)
    return await task
