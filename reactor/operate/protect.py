"""Protection: a word in a stream's own metadata, by which no replica ever drains it."""

import asyncio
from dataclasses import InitVar, dataclass

from reactor.core.stream_info import max_age_off, protected_config
from reactor.deletion.exclusive import ExclusiveAccess, StaysFenced
from reactor.deletion.inspection import Inspection, Inspector, Target
from reactor.deletion.resources import Resources


class NotProtected(Exception):
    """It is as it was: says why."""


@dataclass(eq=False, repr=False)
class Protector:
    """Protects streams, and takes protection away.

    `lease_s` is the time for one stream.
    """

    deps: Resources
    judge: InitVar[Inspector]
    lease_s: InitVar[float]

    def __post_init__(self, judge: Inspector, lease_s: float) -> None:
        self._exclusive = ExclusiveAccess(self.deps, judge, lease_s)
        self.max_age_off: int | None = None
        """Of the last stream, if it was restored: the `max_age` (ns) that it had, and that stays off."""

    async def protect(self, target: Target, timeout_s: float, *, protected: bool, why: str = "") -> bool:
        """Return whether that has changed anything; `why` is for the audit. A deletion under way is waited out.

        Raises NotFound if there is no such stream, NotProtected, JetStreamError and LedgerError.
        """

        async def work(inspection: Inspection) -> bool:
            if inspection.stream.protected is protected:
                return False
            self.max_age_off = max_age_off(inspection.raw["config"])
            await self.deps.effects.update_stream(protected_config(inspection.raw["config"], protected=protected))
            return True

        try:
            async with asyncio.timeout(timeout_s):
                changed = await self._exclusive.run(await self.deps.directory.take_snapshot(), target, work)
        except StaysFenced as error:
            raise NotProtected(str(error)) from error
        except TimeoutError as error:
            raise NotProtected(
                f"a deletion of {target.name} is still under way after {timeout_s:g} s: try again"
            ) from error
        if changed and not protected:
            await self.deps.ledger.due.schedule({target.job_id: 0.0})  # nothing else would tell the sweeper of it
        if changed:
            await self.deps.recorder.ordered(
                "protected" if protected else "unprotected", target.name, target.job_id, why
            )
        return changed
