"""What the doctor looks at in Redis."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from reactor.core.checks import Check
from reactor.operate.doctor.context import CheckFunctions, DoctorContext, judge_clock_of
from reactor.operate.doctor.redis_judges import judge_info


@dataclass(eq=False, repr=False)
class RedisSection:
    """The server, and whether it takes what is written.

    Nothing that is found here is built on.
    """

    deps: DoctorContext

    def examinations(self) -> CheckFunctions:
        """Return the checks in their order."""
        return {
            "redis.server": self._redis_info,
            "redis.writes": self._redis_writes,
            "clocks.redis": self._redis_clock,
        }

    async def _redis_info(self) -> AsyncIterator[Check]:
        info = await self.deps.health.info()
        save_rules = "" if info.get("aof_enabled") else await self.deps.health.save_rules()
        for check in judge_info(info, save_rules, as_cluster=self.deps.health.is_cluster):
            yield check

    async def _redis_writes(self) -> AsyncIterator[Check]:
        yield await self.deps.health.check_writes()

    async def _redis_clock(self) -> AsyncIterator[Check]:
        before = self.deps.clock()
        yield judge_clock_of(self.deps, "clocks.redis", "Redis's", before, await self.deps.health.now())
