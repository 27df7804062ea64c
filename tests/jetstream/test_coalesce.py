"""One request for all concurrent callers."""

import asyncio

import pytest
from support.harness import eventually

from reactor.jetstream.coalesce import UNDER_WAY, CoalescedRequest


async def test_an_answer_is_never_older_than_the_question() -> None:
    """A caller before the request is sent shares it. A later one shares the next, and no more are under way."""
    asked, answers = 0, asyncio.Queue[int]()

    async def ask() -> int:
        nonlocal asked
        asked += 1
        return await answers.get()

    together = CoalescedRequest(ask)
    groups = []
    for _ in range(UNDER_WAY):
        groups.append([asyncio.create_task(together()) for _ in range(3)])
        await eventually(lambda: asked == len(groups))
    late = [asyncio.create_task(together()) for _ in range(3)]
    await asyncio.sleep(0)
    assert asked == UNDER_WAY
    for number, group in enumerate(groups):
        answers.put_nowait(number)
        assert await asyncio.gather(*group) == [number] * 3
    answers.put_nowait(UNDER_WAY)
    assert await asyncio.gather(*late) == [UNDER_WAY] * 3
    assert asked == UNDER_WAY + 1


async def test_all_callers_share_a_failure_and_the_next_request_is_sent_again() -> None:
    """Even if one of the waiting callers gives up."""
    answers: list[int | ValueError] = [ValueError("away"), 5]

    async def ask() -> int:
        await asyncio.sleep(0)
        answer = answers.pop(0)
        if isinstance(answer, ValueError):
            raise answer
        return answer

    together = CoalescedRequest(ask)
    waiting = [asyncio.create_task(together()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, ValueError, ValueError]
    assert await together() == 5
    with pytest.raises(IndexError):
        await together()
