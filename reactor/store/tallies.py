"""Tallies: what is counted or first seen of jobs and streams.

Keys: `attempts` (failed drains in a row, by job); `sighting:<stream>` and `deliveries:<job_id>`, which expire.
"""

from collections.abc import Collection
from dataclasses import InitVar, dataclass
from typing import Any, cast

from redis.asyncio import Redis

from reactor.store.scripts import Script, Scripts, key_of

_SIGHT = """
local old = redis.pcall('GET', KEYS[1])
local since = type(old) == 'string' and string.match(old, '^%d+ ')
if since and string.sub(old, #since + 1) == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return string.sub(since, 1, -2)
end
redis.call('SET', KEYS[1], ARGV[2] .. ' ' .. ARGV[1], 'PX', ARGV[3])
return ARGV[2]
"""
_COUNT = """
if type(redis.pcall('HINCRBY', KEYS[1], ARGV[1], 1)) == 'table' then
  redis.call('DEL', KEYS[1])
  redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""


@dataclass(eq=False, repr=False)
class Tallies:
    """The tallies of one namespace. Every method raises LedgerError.

    `ttl_s` counts from when something was last counted or seen.
    """

    redis: Redis
    scripts: InitVar[Scripts]
    namespace: str
    ttl_s: InitVar[float]

    def __post_init__(self, scripts: Scripts, ttl_s: float) -> None:
        self._ttl_ms = int(ttl_s * 1000)
        self._sight = Script(scripts, _SIGHT)
        self._count = Script(scripts, _COUNT)

    def _key(self, *parts: str) -> str:
        return key_of(self.namespace, *parts)

    async def failed(self, job_id: str) -> int:
        """Count a failed drain; how many in a row it makes."""
        return cast("int", await cast("Any", self.redis.hincrby(self._key("attempts"), job_id, 1)))

    async def forgive(self, still_failing: Collection[str]) -> None:
        """Forget the failed drains of all jobs but these."""
        attempts = cast("list[str]", await cast("Any", self.redis.hkeys(self._key("attempts"))))
        if fixed := [job for job in attempts if job not in still_failing]:
            await cast("Any", self.redis.hdel(self._key("attempts"), *fixed))

    async def first_sighting(self, stream: str, figures: str, now: int) -> int:
        """Return when these very figures were seen first: `now`, or an instant that was kept."""
        args: list[str | int] = [figures, f"{now:020d}", self._ttl_ms]
        return int(await self._sight(keys=[self._key("sighting", stream)], args=args))

    async def count_delivery(self, job_id: str, kind: str) -> None:
        """Count an advisory on a job."""
        await self._count(keys=[self._key("deliveries", job_id)], args=[kind, self._ttl_ms])

    async def deliveries(self, job_id: str) -> dict[str, int]:
        """Return how often advisories of each kind were counted on a job."""
        counts = cast("dict[str, str]", await cast("Any", self.redis.hgetall(self._key("deliveries", job_id))))
        return {kind: int(count) for kind, count in counts.items() if count.isascii() and count.isdigit()}
