"""Named places at which a test may stop or kill the process, or let others act in between.

Nothing in the product arms them: no setting, no variable. If none is armed, one costs a comparison.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from enum import StrEnum
from typing import Any, TypeVar


class Point(StrEnum):
    """If a worker can be stopped, in the order in which it gets there."""

    EVENT_WRITTEN = "event-written"
    """The ledger has an event that is not acked yet."""
    LOOKED = "looked"
    FENCE_SENT = "fence-sent"
    """On its way, and not answered yet."""
    FENCED = "fenced"
    PROVEN = "proven"
    """The barrier was answered, or it was found out before that the stream is to be kept."""
    DELETE_SENT = "delete-sent"
    """On its way, and not answered yet."""
    DELETED = "deleted"
    AUDITED = "audited"
    FORGOTTEN = "forgotten"
    """The ledger has let the job go."""


Result = TypeVar("Result")
Hook = Callable[[Point, str], Awaitable[None]]

armed: Hook | None = None
"""Set by tests only; called with the point and the stream or subject that is worked on."""


async def reach(point: Point, what: str) -> None:
    """Let a test act here."""
    if armed is not None:
        await armed(point, what)


async def reach_during(point: Point, what: str, work: Coroutine[Any, Any, Result]) -> Result:
    """Do the work, and let a test act while it is under way."""
    if armed is None:
        return await work
    task = asyncio.create_task(work)
    await armed(point, what)
    return await task
