"""Turns: how many drains may begin in a second, among all replicas.

Key: `turn`, when the next one may (µs, Redis's clock).
"""

from typing import cast

from reactor.store.scripts import Script, Scripts, key_of

_TAKE = """
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
        self._take = Script(scripts, _TAKE)

    async def take(self, max_rate: float) -> float:
        """0 where it is our turn now; else nothing is taken, and it is seconds until it is worth asking again."""
        wait_us = await self._take(keys=[self._key], args=[round(1_000_000 / max_rate)])
        return cast("int", wait_us) / 1_000_000
