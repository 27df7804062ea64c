"""Tallies: counters of jobs, and when figures of streams were first seen.

Keys: `attempts` (failed drains in a row, by job); `sighting:<stream>` and `deliveries:<job_id>`, which expire.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast

from reactor.store.keyspace import Keyspace

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

    Sightings and deliveries expire `ttl_s` after their last change.
    """

    space: Keyspace
    ttl_s: float

    async def failed(self, job_id: str) -> int:
        """Count a failed drain. Return how many in a row there are."""
        return cast("int", await cast("Any", self.space.redis.hincrby(self.space.key("attempts"), job_id, 1)))

    async def forgive(self, still_failing: Collection[str]) -> None:
        """Reset the failed drains of all jobs but these."""
        key = self.space.key("attempts")
        attempts = cast("list[str]", await cast("Any", self.space.redis.hkeys(key)))
        if fixed := [job for job in attempts if job not in still_failing]:
            await cast("Any", self.space.redis.hdel(key, *fixed))

    async def first_sighting(self, stream: str, figures: str, now: int) -> int:
        """Return when these figures were first seen (ns): `now`, or an earlier time if they are unchanged."""
        args: list[str | int] = [figures, f"{now:020d}", int(self.ttl_s * 1000)]
        return int(await self.space.run(_SIGHT, [f"sighting:{stream}"], args))

    async def count_delivery(self, job_id: str, kind: str) -> None:
        """Count an advisory about a job."""
        await self.space.run(_COUNT, [f"deliveries:{job_id}"], [kind, int(self.ttl_s * 1000)])

    async def deliveries(self, job_id: str) -> dict[str, int]:
        """Return how many advisories of each kind were counted for a job."""
        counts = cast(
            "dict[str, str]", await cast("Any", self.space.redis.hgetall(self.space.key("deliveries", job_id)))
        )
        return {kind: int(count) for kind, count in counts.items() if count.isascii() and count.isdigit()}
