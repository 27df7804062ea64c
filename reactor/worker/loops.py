"""The loops of a worker. They continue after outages."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from reactor.core.durations import backoff
from reactor.jetstream.errors import JetStreamError
from reactor.job_status.ledger_directory import describe_outage
from reactor.store.keyspace import LedgerError

FIRST_RETRY_S, LAST_RETRY_S = 0.5, 15.0
"""The rest after a failure (s). It ignores the loop's own rest and its wake-ups."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop: its name, its tick (which returns the seconds until the next one, or None), and its longest rest (s)."""

    name: str
    tick: Callable[[], Awaitable[float | None]]
    rest_s: float
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Ends the rest when it is set."""


async def run(loop: Loop, stop: asyncio.Event) -> None:
    """Run the loop until the worker stops. A loop that dies stops the others, too.

    Cancelling them is not enough: `wait_for` of Python 3.11 ignores a cancellation that arrives with its result.
    """
    try:
        await _tick_on(loop, stop)
    finally:
        stop.set()


async def _tick_on(loop: Loop, stop: asyncio.Event) -> None:
    """Tick, rest, repeat. Log the begin and the end of an outage. Any other error ends the process."""
    failures = 0
    while not stop.is_set():
        loop.wake.clear()
        try:
            delay = await loop.tick()
        except (JetStreamError, LedgerError) as error:
            failures += 1
            log.warning("failed, trying again", loop=loop.name, error=describe_outage(error), failures=failures)
            await rest(backoff(failures, first=FIRST_RETRY_S, last=LAST_RETRY_S), stop)
            continue
        if failures:
            log.info("works again", loop=loop.name, after_failures=failures)
        failures = 0
        await rest(loop.rest_s if delay is None else min(delay, loop.rest_s), loop.wake, stop)


async def rest(seconds: float, *ends: asyncio.Event) -> None:
    """Rest for `seconds`, or until one of the events is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in set(ends)]
    try:
        await asyncio.wait(waits, timeout=max(seconds, 0.0), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
