"""Protection: a mark in a stream's own metadata. No replica drains a stream that has it."""

import asyncio
from dataclasses import dataclass

from reactor.core.stream_info import max_age_off, protected_config
from reactor.deletion.exclusive import StaysFenced, run_exclusively
from reactor.deletion.resources import Resources
from reactor.deletion.states import Inspection, Target


class NotProtected(Exception):
    """Nothing was changed. The message says why."""


@dataclass(frozen=True, slots=True)
class Protection:
    """What `protect` did."""

    changed: bool
    max_age_off: int | None = None
    """The `max_age` (ns) of a restored stream, which stays off: older messages would expire at once."""


async def protect(deps: Resources, target: Target, timeout_s: float, *, protected: bool, why: str = "") -> Protection:
    """Protect the stream, or remove its protection. A deletion under way is waited for; `why` goes into the audit.

    Raises NotFound if there is no such stream, NotProtected, JetStreamError and LedgerError.
    """

    async def work(inspection: Inspection) -> Protection:
        if inspection.stream.protected is protected:
            return Protection(changed=False)
        config = inspection.raw["config"]
        await deps.effects.update_stream(protected_config(config, protected=protected))
        return Protection(changed=True, max_age_off=max_age_off(config))

    try:
        async with asyncio.timeout(timeout_s):
            done = await run_exclusively(deps, await deps.directory.take_snapshot(), target, work)
    except StaysFenced as error:
        raise NotProtected(str(error)) from error
    except TimeoutError as error:
        raise NotProtected(
            f"a deletion of {target.name} is still under way after {timeout_s:g} s: try again"
        ) from error
    if done.changed and not protected:
        await deps.ledger.due.schedule({target.job_id: 0.0})  # nothing else would tell the sweeper
    if done.changed:
        await deps.recorder.ordered("protected" if protected else "unprotected", target.name, target.job_id, why)
    return done
