"""Loops during an outage: none may spin, whatever its own rest is and whatever wakes it."""

import asyncio

import pytest

from reactor.store.keyspace import LedgerError
from reactor.worker import loops
from reactor.worker.loops import Loop, run


@pytest.mark.parametrize("rest_s", [0.0, 0.01, 30.0])
async def test_a_loop_that_fails_rests_longer_and_longer(monkeypatch: pytest.MonkeyPatch, rest_s: float) -> None:
    """Its own rest is no limit, and wake-ups do not end it. When it works again, it is as quick as before."""
    rests: list[float] = []
    stop = asyncio.Event()

    async def tick() -> float | None:
        if len(rests) < 6:
            raise LedgerError("away")
        stop.set()
        return None

    loop = Loop("spins", tick, rest_s)

    async def rest(seconds: float, *ends: asyncio.Event) -> None:
        if not stop.is_set():
            rests.append(seconds)
            assert loop.wake not in ends
        await asyncio.sleep(0)

    monkeypatch.setattr(loops, "rest", rest)
    await run(loop, stop)
    assert rests == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0]
