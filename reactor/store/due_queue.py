"""The due queue: jobs, by when to inspect their streams.

Keys: `due` and `hints`, sorted sets of times (ms, Redis's clock). A hint only says that a stream was created. Hints are
looked up together when no job is due. Due times are delays added to Redis's clock, so no worker's clock is ever
compared with another's.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from redis.asyncio.client import PubSub

from reactor.store.keyspace import NOW, WAKE, Keyspace, LedgerError

_CLAIM = f"""
{NOW}
local jobs = redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])
for _, job in ipairs(jobs) do redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), job) end
return {{now + tonumber(ARGV[2]), jobs}}
"""
_NEXT_DUE = f"""
{NOW}
local next = nil
for _, key in ipairs(KEYS) do
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  if #first > 0 then next = math.min(next or tonumber(first[2]), tonumber(first[2])) end
end
return next and next - now or false
"""
_SETTLE = f"""
{NOW}
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or -1) ~= tonumber(ARGV[2]) then return 0 end
if ARGV[3] == '' then return redis.call('ZREM', KEYS[1], ARGV[1]) end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[1])
return 1
"""
_SCHEDULE = f"""
{NOW}
{WAKE}
local head = head_of(KEYS[1])
for i = 2, #ARGV, 2 do redis.call('ZADD', KEYS[1], 'LT', now + tonumber(ARGV[i + 1]), ARGV[i]) end
wake(ARGV[1], KEYS[1], head)
"""
_DROP = """
for i = 2, #ARGV do
  if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[i]) or -1) == tonumber(ARGV[1]) then
    redis.call('ZREM', KEYS[1], ARGV[i])
  end
end
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """Jobs taken from the due queue until `score` (ms, Redis's clock). Then they fall due again by themselves."""

    score: int
    jobs: tuple[str, ...]


@dataclass(eq=False, repr=False)
class DueQueue:
    """The due queue of one namespace. Every method raises LedgerError."""

    space: Keyspace

    async def claim(self, limit: int, lease_s: float) -> Claim:
        """Take jobs that are due, for the length of the lease."""
        return await self._claim("due", limit, lease_s)

    async def claim_hints(self, limit: int, lease_s: float) -> Claim:
        """Take hints that are due, for the length of the lease."""
        return await self._claim("hints", limit, lease_s)

    async def _claim(self, queue: str, limit: int, lease_s: float) -> Claim:
        score, jobs = await self.space.run(_CLAIM, [queue], [limit, int(lease_s * 1000)])
        return Claim(score, tuple(jobs))

    async def drop_hints(self, claim: Claim) -> None:
        """Remove claimed hints, except those that were added again since."""
        await self.space.run(_DROP, ["hints"], [claim.score, *claim.jobs])

    async def next_due(self) -> float | None:
        """Return the seconds until the next job or hint falls due (negative if overdue); None if there is none."""
        delay = await self.space.run(_NEXT_DUE, ["due", "hints"])
        return None if delay is None else delay / 1000

    async def settle(self, claim: Claim, job_id: str, delay_s: float | None) -> None:
        """Make a claimed job due again after `delay_s`, or remove it if None. No effect if it was rescheduled since."""
        delay = "" if delay_s is None else int(delay_s * 1000) + 1
        await self.space.run(_SETTLE, ["due"], [job_id, claim.score, delay])

    async def schedule(self, delays_s: Mapping[str, float]) -> None:
        """Make each job due after its delay, unless it is due earlier already."""
        if delays_s:
            await self._schedule("due", delays_s)

    async def hint(self, job_id: str, delay_s: float) -> None:
        """Add a hint that a stream of the job was created. After the delay the job is looked up in the ledger."""
        await self._schedule("hints", {job_id: delay_s})

    async def _schedule(self, queue: str, delays_s: Mapping[str, float]) -> None:
        args: list[str | int] = [part for job, delay in delays_s.items() for part in (job, int(delay * 1000) + 1)]
        await self.space.run(_SCHEDULE, [queue], [self.space.key("wake"), *args])

    async def forget(self, job_id: str) -> None:
        """Remove a job and its hint, because its stream was deleted."""
        for queue in ("due", "hints"):
            await self.space.redis.zrem(self.space.key(queue), job_id)

    async def count(self) -> int:
        """Return the number of jobs in the due queue."""
        return await self.space.redis.zcard(self.space.key("due"))


@dataclass(eq=False, repr=False)
class WakeUps:
    """Listens on the channel `wake`: a process has scheduled something earlier than the head of the queue.

    It subscribes at the first `wait`.
    """

    space: Keyspace

    def __post_init__(self) -> None:
        self._listening: PubSub | None = None

    async def wait(self, seconds: float) -> bool:
        """Return whether to look at the queue now: a wake-up came within that time, or we were not subscribed before.

        Raises LedgerError. After that, the next call subscribes again.
        """
        try:
            if self._listening is None:
                self._listening = self.space.redis.pubsub(ignore_subscribe_messages=True)
                await self._listening.subscribe(self.space.key("wake"))
                return True
            return await self._listening.get_message(timeout=seconds) is not None
        except LedgerError:
            await self.close()
            raise

    async def close(self) -> None:
        """Unsubscribe. No error if the connection is gone."""
        listening, self._listening = self._listening, None
        if listening is not None:
            with suppress(LedgerError, OSError):
                await listening.aclose()  # type: ignore[no-untyped-call]
