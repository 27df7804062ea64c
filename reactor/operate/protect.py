"""Protect a stream with a mark in its own metadata. No replica drains a protected stream."""

import asyncio
from dataclasses import dataclass

from reactor.core.model import format_instant, to_the_second
from reactor.core.stream_info import max_age_off, protected_config
from reactor.deletion.exclusive import StaysFenced, run_exclusively
from reactor.deletion.resources import Resources
from reactor.deletion.states import Inspection, Target


class NotProtected(Exception):
    """The protection was not changed. The message says why."""


@dataclass(frozen=True, slots=True)
class HowLong:
    """How long to protect a stream: for a span (ns), until an instant (ns), or without an end."""

    span: int | None = None
    until: int | None = None

    def ends_at(self, now: int) -> int | None:
        """Return when the protection ends (ns), at the server's time `now`; None for never."""
        return self.until if self.span is None else now + self.span


FOR_GOOD = HowLong()


@dataclass(frozen=True, slots=True)
class Protection:
    """The result of `protect`."""

    changed: bool
    until: int | None = None
    """When the protection ends by itself (ns)."""
    max_age_off: int | None = None
    """The original `max_age` (ns) of a restored stream. It is not restored, because older messages would expire."""


async def protect(
    deps: Resources, target: Target, timeout_s: float, how_long: HowLong | None, why: str = ""
) -> Protection:
    """Protect a stream; with `how_long` None remove its protection. It waits for a deletion under way.

    `why` is for the audit. Raises NotFound if the stream does not exist, NotProtected, JetStreamError and LedgerError.
    """

    async def work(inspection: Inspection) -> Protection:
        stream, config = inspection.stream, inspection.raw["config"]
        until = how_long.ends_at(stream.observed_at) if how_long else None
        if until is not None and stream.protected:
            raise NotProtected(f"{stream.name} is protected for good: reactor unprotect {stream.name} takes that away")
        if until is not None and until <= stream.observed_at:
            raise NotProtected(
                f"{format_instant(until)} is over: on the server it is {to_the_second(stream.observed_at)}"
            )
        now = (stream.protected, stream.keep_until)
        if now == (how_long is not None and until is None, until):
            return Protection(changed=False, until=until)
        await deps.effects.update_stream(protected_config(config, protected=how_long is not None, until=until))
        return Protection(changed=True, until=until, max_age_off=max_age_off(config))

    try:
        async with asyncio.timeout(timeout_s):
            done = await run_exclusively(deps, await deps.directory.take_snapshot(), target, work)
    except StaysFenced as error:
        raise NotProtected(str(error)) from error
    except TimeoutError as error:
        raise NotProtected(
            f"a deletion of {target.name} is still under way after {timeout_s:g} s: try again"
        ) from error
    if done.changed and (how_long is None or done.until is not None):
        await deps.ledger.due.schedule({target.job_id: 0.0})  # nothing else schedules its inspection
    if done.changed:
        note = "; ".join(filter(None, (f"until {to_the_second(done.until)}" if done.until else "", why)))
        await deps.recorder.ordered("protected" if how_long else "unprotected", target.name, target.job_id, note)
    return done
