"""What the doctor looks at in Redis."""

from collections.abc import AsyncIterator

from reactor.core.checks import Check
from reactor.operate.doctor.context import CheckFunctions, DoctorContext, judge_clock_of
from reactor.operate.doctor.redis_judges import judge_info


class RedisSection:
    """The server, and whether it takes what is written."""

    def __init__(self, patient: DoctorContext) -> None:
        """Nothing that is found here is built on."""
        self._patient = patient

    def examinations(self) -> CheckFunctions:
        """In their order."""
        return {
            "redis.server": self._redis_info,
            "redis.writes": self._redis_writes,
            "clocks.redis": self._redis_clock,
        }

    async def _redis_info(self) -> AsyncIterator[Check]:
        info = await self._patient.health.info()
        save_rules = "" if info.get("aof_enabled") else await self._patient.health.save_rules()
        for check in judge_info(info, save_rules, as_cluster=self._patient.health.is_cluster):
            yield check

    async def _redis_writes(self) -> AsyncIterator[Check]:
        yield await self._patient.health.check_writes()

    async def _redis_clock(self) -> AsyncIterator[Check]:
        before = self._patient.clock()
        yield judge_clock_of(self._patient, "clocks.redis", "Redis's", before, await self._patient.health.now())
