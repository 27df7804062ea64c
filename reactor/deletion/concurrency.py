"""Do several things at the same time, and things that must not be left half done."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Other = TypeVar("Other")


async def both(work: Coroutine[Any, Any, Result], beside: Coroutine[Any, Any, Other]) -> tuple[Result, Other]:
    """Do both at the same time. If the first fails, the second is given up. It costs one task; `gather` costs two."""
    task = asyncio.ensure_future(beside)
    try:
        result = await work
    except BaseException:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # only the first error is raised
        raise
    return result, await task


async def finished(work: Coroutine[Any, Any, Result]) -> Result:
    """Do the work to its end, even if this task is cancelled meanwhile. The next await then raises the cancellation."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.cancelled():
            raise
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        if current := asyncio.current_task():
            current.uncancel()
            current.cancel()
        return task.result()


async def each(items: Iterable[Item], work: Callable[[Item], Awaitable[Result]], at_once: int) -> list[Result]:
    """Return the results in the order of the items. If one fails, finish the others, then raise."""
    slots = asyncio.Semaphore(at_once)

    async def handle(item: Item) -> Result:
        async with slots:
            return await work(item)

    results = await asyncio.gather(*(handle(item) for item in items), return_exceptions=True)
    done = [result for result in results if not isinstance(result, BaseException)]
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return done
