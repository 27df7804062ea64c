"""Leases, and the turns of periodic passes and of drains.

Keys:

    lease:<what>  string  the token of the holder; expires
    pass          string  the highest number of a periodic pass so far. It is the token of the pass's lease
    passed        string  a pass was done; expires when the next one is due
    wanted        string  a pass was requested since the last one began; expires
    last_pass     string  the report of the last full pass, without its streams (JSON)
    turn          string  when the next drain may begin, if the rate is limited; expires
"""

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast
from uuid import uuid4

from reactor.core.schemas import PassSummary
from reactor.store.keyspace import NOW, Keyspace

_REPORTED = PassSummary.__required_keys__
RECONCILE = "reconcile"
"""The name of the lease of a periodic pass."""

TAKE = """
local function take(key, token, ttl)
  if redis.call('PTTL', key) == -1 then redis.call('DEL', key) end  -- a lease without an end is invalid
  return redis.call('SET', key, token, 'NX', 'PX', ttl)
end
"""
_ACQUIRE = f"{TAKE} return take(KEYS[1], ARGV[1], ARGV[2]) and 1 or 0"
_IS_HELD = "return redis.call('GET', KEYS[1]) == ARGV[1] and 1 or 0"
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
    """Another process has taken the lease over, so this one must stop."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The exclusive right to work on something for some time."""

    what: str
    seconds: float
    token: str = field(default_factory=lambda: uuid4().hex)

    @property
    def milliseconds(self) -> int:
        """How long it lasts, in ms."""
        return int(self.seconds * 1000)


@dataclass(eq=False, repr=False)
class Leases:
    """The leases of one namespace. Every method raises LedgerError."""

    space: Keyspace

    async def acquire(self, lease: Lease) -> bool:
        """Acquire a lease. Return False if another token holds it."""
        return bool(await self.space.run(_ACQUIRE, [f"lease:{lease.what}"], [lease.token, lease.milliseconds]))

    async def is_held(self, lease: Lease) -> bool:
        """Return whether this token still holds the lease."""
        return bool(await self.space.run(_IS_HELD, [f"lease:{lease.what}"], [lease.token]))

    async def release(self, lease: Lease) -> None:
        """Release a lease before it expires. No effect if another token holds it."""
        await self.space.run(_RELEASE, [f"lease:{lease.what}"], [lease.token])

    async def renew(self, lease: Lease) -> bool:
        """Extend a lease to its full length from now. Return False if this token no longer holds it."""
        return bool(await self.space.run(_RENEW, [f"lease:{lease.what}"], [lease.token, lease.milliseconds]))


@dataclass(eq=False, repr=False)
class Passes:
    """The turns of periodic passes in one namespace, and the last report. Every method raises LedgerError."""

    space: Keyspace

    async def begin_pass(self, seconds: float) -> tuple[Lease | None, float]:
        """Return the lease of a periodic pass, whose tokens only increase; or None, and when to ask again (s).

        All replicas together run one pass at a time, and one an interval.
        """
        keys = [f"lease:{RECONCILE}", "pass", "passed", "wanted"]
        number, left = await self.space.run(_BEGIN_PASS, keys, [int(seconds * 1000)])
        return (Lease(RECONCILE, seconds, number) if number else None), left / 1000

    async def end_pass(self, lease: Lease, rest_s: float | None) -> None:
        """Release the lease of a pass. The next pass is due after `rest_s`, or at once if it is None.

        It is also due at once if one was requested during this pass, which may have listed the streams before.
        """
        rest = "" if rest_s is None else max(1, int(rest_s * 1000))
        await self.space.run(_FINISH, [f"lease:{RECONCILE}", "passed", "wanted"], [lease.token, rest])

    async def request_pass(self) -> None:
        """Let the next pass begin now, on any replica."""
        await self.space.run(_HASTEN, ["passed", "wanted"])

    async def remember(self, report: str) -> None:
        """Store the report of the last full pass."""
        await self.space.redis.set(self.space.key("last_pass"), report)

    async def last(self) -> PassSummary | None:
        """Return the report of the last full pass of any replica; None if there is none."""
        with suppress(ValueError):
            report = json.loads(await self.space.redis.get(self.space.key("last_pass")) or "null")
            if isinstance(report, dict) and report.keys() >= _REPORTED:
                return cast("PassSummary", report)
        return None


_NEXT_TURN = """
local time = redis.call('TIME')
local now, interval = time[1] * 1000000 + time[2], tonumber(ARGV[1])
local value = redis.pcall('GET', KEYS[1])
local free = type(value) == 'string' and tonumber(value) or 0
if free > now and free <= now + interval then return free - now end
redis.call('SET', KEYS[1], string.format('%.0f', now + interval), 'PX', math.ceil(interval / 1000))
return 0
"""


@dataclass(eq=False, repr=False)
class Turns:
    """The turns of drains in one namespace. Every method raises LedgerError."""

    space: Keyspace

    async def wait_s(self, max_rate: float) -> float:
        """Take the next turn and return 0; or, if it is not free yet, return the seconds after which to ask again."""
        wait_us = await self.space.run(_NEXT_TURN, ["turn"], [round(1_000_000 / max_rate)])
        return cast("int", wait_us) / 1_000_000
