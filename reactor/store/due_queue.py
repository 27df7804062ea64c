"""The due queue: jobs by when to look at their streams.

Keys: `due` and `hints`, sorted sets of times (ms, Redis's own clock). A hint says no more than that a stream was made:
it is asked about in bulk, when nothing is due. Due times are spans added to Redis's clock, so no worker's clock is ever
compared with another's.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import InitVar, dataclass

from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from reactor.store.scripts import NOW, WAKE, LedgerError, Script, Scripts, key_of

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
    """Jobs taken from the due queue until `score` (ms, Redis's clock); they fall due again by themselves."""

    score: int
    jobs: tuple[str, ...]


@dataclass(eq=False, repr=False)
class DueQueue:
    """The due queue of one namespace. Every method raises LedgerError.

    Keys are prefixed by the namespace.
    """

    redis: Redis
    scripts: InitVar[Scripts]
    namespace: InitVar[str]

    def __post_init__(self, scripts: Scripts, namespace: str) -> None:
        self._due = key_of(namespace, "due")
        self._hints = key_of(namespace, "hints")
        self._wake = key_of(namespace, "wake")
        self._claim = Script(scripts, _CLAIM)
        self._next_due = Script(scripts, _NEXT_DUE)
        self._settle = Script(scripts, _SETTLE)
        self._schedule = Script(scripts, _SCHEDULE)
        self._drop = Script(scripts, _DROP)

    async def claim(self, limit: int, lease_s: float) -> Claim:
        """Take jobs that are due, for the length of the lease."""
        score, jobs = await self._claim(keys=[self._due], args=[limit, int(lease_s * 1000)])
        return Claim(score, tuple(jobs))

    async def claim_hints(self, limit: int, lease_s: float) -> Claim:
        """Return the same of hints."""
        score, jobs = await self._claim(keys=[self._hints], args=[limit, int(lease_s * 1000)])
        return Claim(score, tuple(jobs))

    async def drop_hints(self, claim: Claim) -> None:
        """Drop claimed hints, except those that have come again since."""
        await self._drop(keys=[self._hints], args=[claim.score, *claim.jobs])

    async def next_due(self) -> float | None:
        """Return seconds until the next job or hint falls due (negative: overdue); None if none will."""
        delay = await self._next_due(keys=[self._due, self._hints], args=[])
        return None if delay is None else delay / 1000

    async def settle(self, claim: Claim, job_id: str, delay_s: float | None) -> None:
        """Give a claimed job back: due again after `delay_s`, or never. No effect if somebody has moved it."""
        delay = "" if delay_s is None else int(delay_s * 1000) + 1
        await self._settle(keys=[self._due], args=[job_id, claim.score, delay])

    async def schedule(self, delays_s: Mapping[str, float]) -> None:
        """Make each job due after its delay; a job that is due earlier stays so."""
        args: list[str | int] = [part for job, delay in delays_s.items() for part in (job, int(delay * 1000) + 1)]
        if args:
            await self._schedule(keys=[self._due], args=[self._wake, *args])

    async def hint(self, job_id: str, delay_s: float) -> None:
        """Add a hint: a stream of the job was created, so ask after the delay whether its job is known."""
        await self._schedule(keys=[self._hints], args=[self._wake, job_id, int(delay_s * 1000) + 1])

    async def forget(self, job_id: str) -> None:
        """Take a job out of the queue: its stream was deleted."""
        await self.redis.zrem(self._due, job_id)
        await self.redis.zrem(self._hints, job_id)

    async def count(self) -> int:
        """Return jobs in the due queue."""
        return await self.redis.zcard(self._due)


@dataclass(eq=False, repr=False)
class WakeUps:
    """Listens on the channel `wake`: something, scheduled by any process, falls due earlier than the queue's head.

    Nothing is heard before `wait`.
    """

    redis: Redis
    namespace: InitVar[str]

    def __post_init__(self, namespace: str) -> None:
        self._channel = key_of(namespace, "wake")
        self._listening: PubSub | None = None

    async def wait(self, seconds: float) -> bool:
        """Return whether to look now: somebody has said so within that time, or nobody has listened until now.

        Raises LedgerError; then nothing is heard until the next call.
        """
        try:
            if self._listening is None:
                self._listening = self.redis.pubsub(ignore_subscribe_messages=True)
                await self._listening.subscribe(self._channel)
                return True
            return await self._listening.get_message(timeout=seconds) is not None
        except LedgerError:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop listening. No error if the connection is gone."""
        listening, self._listening = self._listening, None
        if listening is not None:
            with suppress(LedgerError, OSError):
                await listening.aclose()  # type: ignore[no-untyped-call]
