"""Two coroutines at the same time."""

import asyncio

import pytest

from reactor.deletion.concurrency import both


async def _after(steps: int, done: list[str], name: str, error: Exception | None = None) -> str:
    for _ in range(steps):
        await asyncio.sleep(0)
    done.append(name)
    if error:
        raise error
    return name


async def test_both_are_done_at_the_same_time() -> None:
    """Whichever takes longer."""
    done = list[str]()
    assert await both(_after(9, done, "first"), _after(3, done, "second")) == ("first", "second")
    assert await both(_after(3, done, "third"), _after(9, done, "fourth")) == ("third", "fourth")
    assert done == ["second", "first", "third", "fourth"]


async def test_the_second_is_given_up_if_the_first_fails() -> None:
    """If only the second fails, its error is raised."""
    done = list[str]()
    with pytest.raises(ValueError, match="first"):
        await both(_after(3, done, "first", ValueError("first")), _after(9, done, "second"))
    with pytest.raises(ValueError, match="second"):
        await both(_after(9, done, "first"), _after(3, done, "second", ValueError("second")))
    assert done == ["first", "second", "first"]


async def test_a_cancellation_ends_both() -> None:
    """Nothing keeps running."""
    done = list[str]()
    task = asyncio.create_task(both(_after(9, done, "first"), _after(9, done, "second")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not done
