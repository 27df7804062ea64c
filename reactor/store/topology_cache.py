"""Surroundings: how streams hang together, as the last listing showed it and advisories have added since.

Keys: `sourced` and `captors`, sorted sets of stream names by when they were found (ms, Redis's clock): another stream
mirrors or sources them; they capture advisories, so companions may be on them. `surveyed`: when the listing was begun,
and of the account of which lifecycle stream. What an advisory adds while a listing goes on outlives that listing.
"""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import cast

from reactor.store.scripts import NOW, Script, Scripts, key_of

KEPT_MS = 3_600_000
"""A full pass renews them; if none comes, somebody has to look again."""

_REMEMBER = f"""
local began, sourced = ARGV[2], tonumber(ARGV[3])
for i = 1, 2 do
  if redis.call('TYPE', KEYS[i]).ok ~= 'zset' then redis.call('DEL', KEYS[i]) end
  for _, name in ipairs(redis.call('ZRANGE', KEYS[i], '-inf', '(' .. began, 'BYSCORE')) do
    redis.call('ZREM', KEYS[i], name)
  end
end
for i = 4, #ARGV do redis.call('ZADD', KEYS[i - 3 <= sourced and 1 or 2], began, ARGV[i]) end
redis.call('SET', KEYS[3], began .. ' ' .. ARGV[1], 'PX', {KEPT_MS})
"""
_ADD = f"{NOW} for _, name in ipairs(ARGV) do redis.pcall('ZADD', KEYS[1], now, name) end"
_AMONG = """
local surveyed = redis.pcall('GET', KEYS[3])
local at, whose = string.match(type(surveyed) == 'string' and surveyed or '', '^(%d+) (.*)$')
if whose ~= ARGV[1] or tonumber(at) < tonumber(ARGV[2]) then return false end
local sourced = {}
for i = 3, #ARGV do
  if redis.call('ZSCORE', KEYS[1], ARGV[i]) then sourced[#sourced + 1] = ARGV[i] end
end
return {sourced, redis.call('ZRANGE', KEYS[2], 0, -1)}
"""
_NOW = f"{NOW} return now"


LACKING_MS = 3_600_000
"""How long a worker's note about streams without room is believed."""


class TopologyCache:
    """The surroundings of one namespace. Every method raises LedgerError."""

    def __init__(self, scripts: Scripts, namespace: str) -> None:
        """Keys are prefixed by the namespace."""
        self._keys = [key_of(namespace, name) for name in ("sourced", "captors", "surveyed")]
        self._remember = Script(scripts, _REMEMBER)
        self._add = Script(scripts, _ADD)
        self._among = Script(scripts, _AMONG)
        self._now = Script(scripts, _NOW)
        self._control = key_of(namespace, "control")
        self._note_control = Script(scripts, "return redis.call('SET', KEYS[1], ARGV[1])")
        self._lacking = key_of(namespace, "lacking")
        self._note_lacking = Script(scripts, "return redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])")
        self._read_lacking = Script(scripts, "return redis.call('GET', KEYS[1])")
        self._had_control = Script(scripts, "return redis.call('EXISTS', KEYS[1])")

    async def note_control(self) -> None:
        """Remember that there is a stream for operators' words."""
        await self._note_control(keys=[self._control], args=["1"])

    async def had_control(self) -> bool:
        """Return whether there was such a stream, as far as this Redis knows."""
        return bool(await self._had_control(keys=[self._control], args=[]))

    async def note_lacking(self, streams: Sequence[str]) -> None:
        """Leave for the doctor which streams of reactor's own there is no room for, with the reasons; none for all."""
        await self._note_lacking(keys=[self._lacking], args=[json.dumps(streams), LACKING_MS])

    async def lacking(self) -> list[str]:
        """Return what a worker has left there in the last hour."""
        text, noted = await self._read_lacking(keys=[self._lacking], args=[]), None
        with suppress(ValueError):
            noted = json.loads(text or "[]")
        return [str(item) for item in noted] if isinstance(noted, list) else []

    async def now(self) -> int:
        """Return Redis's clock (ms)."""
        return cast("int", await self._now(keys=self._keys[2:], args=[]))

    async def remember(
        self, identity: str, began: int, sourced: Iterable[str], advisory_streams: Iterable[str]
    ) -> None:
        """Store what a full listing that `began` then has shown, in the account with that lifecycle stream."""
        origins = list(sourced)
        args: list[str | int] = [identity, began, len(origins), *origins, *advisory_streams]
        await self._remember(keys=self._keys, args=args)

    async def add(self, sourced: Sequence[str] = (), advisory_streams: Sequence[str] = ()) -> None:
        """Add what was created since the listing."""
        for key, names in zip(self._keys, (sourced, advisory_streams), strict=False):
            if names:
                await self._add(keys=[key], args=list(names))

    async def among(self, identity: str, names: Sequence[str], since: int) -> tuple[frozenset[str], list[str]] | None:
        """Return which of these are mirrored or sourced, and the streams that capture advisories.

        None if nobody has begun to list that account `since` then (ms, Redis's clock).
        """
        answer = await self._among(keys=self._keys, args=[identity, since, *names])
        if answer is None:
            return None
        sourced, advisory_streams = cast("tuple[list[str], list[str]]", answer)
        return frozenset(sourced), sorted(advisory_streams)
