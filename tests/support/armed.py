"""A `reactor` whose failpoints are armed, or whose clock is wrong: python armed.py POINT ACTION ARGUMENT...

At the first stream or event that gets to POINT it does ACTION to itself: `kill` (SIGKILL) or `stop` (SIGSTOP).
POINT `clock` sets its clocks off by ACTION seconds instead. POINT `backup` or `restore` sends SIGKILL at step ACTION of
the first one: a step is whatever runs between two waits.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Generator
from functools import wraps
from typing import Any

import nats

from reactor.bootstrap import services
from reactor.cli import main as cli
from reactor.deletion import failpoints
from reactor.deletion.backup import BackupWriter
from reactor.deletion.failpoints import Point
from reactor.operate.restore import Restorer

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def arm(point: Point, action: str) -> None:
    async def hook(reached: Point, what: str) -> None:
        if reached is not point:
            return
        failpoints.armed = None
        if point is Point.DELETE_SENT:
            await until_gone(what)
        os.kill(os.getpid(), SIGNALS[action])

    failpoints.armed = hook


async def until_gone(stream: str) -> None:
    """Wait until the server has carried out the request."""
    client = await nats.connect(os.environ["REACTOR_NATS_URL"])
    while b"10059" not in (await client.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=5)).data:  # noqa: ASYNC110  # another process does it
        await asyncio.sleep(0.005)


def shift(seconds: float) -> None:
    """Shift every clock that tells the time. Clocks that measure durations are unchanged."""
    right: Callable[[], int] = services.utc_now
    right_time = time.time  # noqa: TID251  # this is about wrong ones
    services.utc_now = lambda: right() + int(seconds * 1e9)
    time.time = lambda: right_time() + seconds  # noqa: TID251  # as above


class Steps(Generator[Any, Any, Any]):
    """A coroutine whose whole process is killed at its Nth step."""

    def __init__(self, whole: Coroutine[Any, Any, Any], last: int) -> None:
        self.whole, self.left = whole, last

    def __await__(self) -> "Steps":
        return self

    def send(self, value: object) -> object:
        self.count()
        return self.whole.send(value)

    def throw(self, *error: Any) -> object:
        self.count()
        return self.whole.throw(*error)

    def count(self) -> None:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_at_step(owner: type, method: str, last: int) -> None:
    """Kill the process after `last` steps."""
    whole = getattr(owner, method)

    @wraps(whole)
    async def counted(*args: object, **kwargs: object) -> object:
        return await Steps(whole(*args, **kwargs), last)

    setattr(owner, method, counted)


if __name__ == "__main__":
    place, what_to_do, *arguments = sys.argv[1:]
    if place == "clock":
        shift(float(what_to_do))
    elif place == "backup":
        kill_at_step(BackupWriter, "take", int(what_to_do))
    elif place == "restore":
        kill_at_step(Restorer, "from_backup", int(what_to_do))
    else:
        arm(Point(place), what_to_do)
    sys.argv = ["reactor", *arguments]
    cli.main()
