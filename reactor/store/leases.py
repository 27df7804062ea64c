"""Leases: the right to work on something alone, for so long; and the turns of periodic passes.

Keys: `lease:<what>`, the token of its holder; `pass`, `passed`, `last_pass`.

`pass` is the highest number of a periodic pass (its lease's token); `passed` says that one was done, and expires when
the next one is due; `wanted` that one was asked for since the last one began; `last_pass` is the report of the last
full one, without its streams (JSON).
"""

import json
from contextlib import suppress
from dataclasses import InitVar, dataclass, field
from typing import cast
from uuid import uuid4

from redis.asyncio import Redis

from reactor.core.schemas import PassInShort
from reactor.store.scripts import NOW, Script, Scripts, key_of

_REPORTED = PassInShort.__required_keys__
RECONCILE = "reconcile"
"""What the lease of a periodic pass is on."""

TAKE = """
local function take(key, token, ttl)
  if redis.call('PTTL', key) == -1 then redis.call('DEL', key) end  -- a lease without an end is nobody's
  return redis.call('SET', key, token, 'NX', 'PX', ttl)
end
"""
_LEASE = f"{TAKE} return take(KEYS[1], ARGV[1], ARGV[2]) and 1 or 0"
_HOLDS = "return redis.call('GET', KEYS[1]) == ARGV[1] and 1 or 0"
_BEGIN_PASS = f"""
{NOW}
local left = math.max(redis.call('PTTL', KEYS[1]), redis.call('PTTL', KEYS[3]))
if left > 0 then return {{'', left}} end
local number = string.format('%.0f', math.max(tonumber(redis.call('GET', KEYS[2]) or 0) + 1, now))
redis.call('SET', KEYS[2], number)
redis.call('SET', KEYS[1], number, 'PX', ARGV[1])
redis.call('DEL', KEYS[4])
return {{number, 0}}
"""
_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
_FINISH = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local wanted = redis.call('DEL', KEYS[3])
if ARGV[2] ~= '' and wanted == 0 then redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2]) end
return redis.call('DEL', KEYS[1])
"""
_HASTEN = "redis.call('DEL', KEYS[1]) redis.call('SET', KEYS[2], '', 'PX', 3600000)"
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class LeaseLost(Exception):
    """Somebody else has taken over what we were at; nothing more of it is ours to do."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on something alone, for so long."""

    what: str
    seconds: float
    token: str = field(default_factory=lambda: uuid4().hex)


@dataclass(eq=False, repr=False)
class Leases:
    """The leases of one namespace. Every method raises LedgerError.

    Keys are prefixed by the namespace.
    """

    scripts: InitVar[Scripts]
    namespace: str

    def __post_init__(self, scripts: Scripts) -> None:
        self._lease = Script(scripts, _LEASE)
        self._holds = Script(scripts, _HOLDS)
        self._release = Script(scripts, _RELEASE)
        self._renew = Script(scripts, _RENEW)

    def _key(self, *parts: str) -> str:
        return key_of(self.namespace, *parts)

    async def take(self, lease: Lease) -> bool:
        """Return whether it is now held by this token, and nobody else."""
        args: list[str | int] = [lease.token, int(lease.seconds * 1000)]
        return bool(await self._lease(keys=[self._key("lease", lease.what)], args=args))

    async def holds(self, lease: Lease) -> bool:
        """Return whether the lease is still held by this token."""
        return bool(await self._holds(keys=[self._key("lease", lease.what)], args=[lease.token]))

    async def release(self, lease: Lease) -> None:
        """Give a lease back before its time; no effect on somebody else's."""
        await self._release(keys=[self._key("lease", lease.what)], args=[lease.token])

    async def renew(self, lease: Lease) -> bool:
        """Hold a lease for its whole length from now on; False if it is held no longer."""
        args: list[str | int] = [lease.token, int(lease.seconds * 1000)]
        return bool(await self._renew(keys=[self._key("lease", lease.what)], args=args))


@dataclass(eq=False, repr=False)
class Passes:
    """The turns of periodic passes in one namespace, and the last one's report. Every method raises LedgerError.

    Keys are prefixed by the namespace.
    """

    redis: Redis
    scripts: InitVar[Scripts]
    namespace: str

    def __post_init__(self, scripts: Scripts) -> None:
        self._begin_pass = Script(scripts, _BEGIN_PASS)
        self._end_pass = Script(scripts, _FINISH)
        self._hasten = Script(scripts, _HASTEN)

    def _key(self, *parts: str) -> str:
        return key_of(self.namespace, *parts)

    async def begin(self, seconds: float) -> tuple[Lease | None, float]:
        """Return the lease of a periodic pass, with a token that only ever grows; or None, and when to ask again (s).

        One pass at a time, and one an interval, among all replicas.
        """
        keys = [self._key("lease", RECONCILE), self._key("pass"), self._key("passed"), self._key("wanted")]
        number, left = await self._begin_pass(keys=keys, args=[int(seconds * 1000)])
        return (Lease(RECONCILE, seconds, number) if number else None), left / 1000

    async def end(self, lease: Lease, rest_s: float | None) -> None:
        """Release the lease of a pass; the next one is due after `rest_s`, or at once if it is None.

        At once, too, if one was wanted while this one was under way: it may have listed before.
        """
        keys = [self._key("lease", RECONCILE), self._key("passed"), self._key("wanted")]
        await self._end_pass(keys=keys, args=[lease.token, "" if rest_s is None else max(1, int(rest_s * 1000))])

    async def hasten(self) -> None:
        """Let the next pass begin now, whichever replica asks first."""
        await self._hasten(keys=[self._key("passed"), self._key("wanted")], args=[])

    async def remember(self, report: str) -> None:
        """Keep the report of the last full pass."""
        await self.redis.set(self._key("last_pass"), report)

    async def last(self) -> PassInShort | None:
        """Return the report of the last full pass, by whichever replica."""
        with suppress(ValueError):
            report = json.loads(await self.redis.get(self._key("last_pass")) or "null")
            if isinstance(report, dict) and report.keys() >= _REPORTED:
                return cast("PassInShort", report)
        return None


_TAKE_TURN = """
local time = redis.call('TIME')
local now, interval = time[1] * 1000000 + time[2], tonumber(ARGV[1])
local value = redis.pcall('GET', KEYS[1])
local free = type(value) == 'string' and tonumber(value) or 0
if free > now and free <= now + interval then return free - now end
redis.call('SET', KEYS[1], string.format('%.0f', now + interval), 'PX', math.ceil(interval / 1000))
return 0
"""


class Turns:
    """The turns of one namespace. Every method raises LedgerError."""

    def __init__(self, scripts: Scripts, namespace: str) -> None:
        """Keys are prefixed by the namespace."""
        self._key = key_of(namespace, "turn")
        self._take = Script(scripts, _TAKE_TURN)

    async def take(self, max_rate: float) -> float:
        """Return 0 if it is our turn now; otherwise the seconds until it is worth asking again."""
        wait_us = await self._take(keys=[self._key], args=[round(1_000_000 / max_rate)])
        return cast("int", wait_us) / 1_000_000
