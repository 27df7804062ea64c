"""The topology of the streams, from the last listing and the advisories since.

Keys:

    sourced           zset    streams that another stream mirrors or sources, by when that was seen (ms, Redis's clock)
    advisory_streams  zset    streams that capture advisories and may have companions, by when that was seen
    surveyed          string  when the last listing began, and in the account of which lifecycle stream
    control           string  the control stream exists, or existed
    lacking           string  streams of reactor's own that a worker had no room for (JSON); expires

What an advisory adds during a listing outlives that listing.
"""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from reactor.store.keyspace import NOW, Keyspace

KEPT_MS = 3_600_000
"""How long a listing is used. Each full pass renews it."""
LACKING_MS = 3_600_000
"""How long a worker's note about streams without room is used."""

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


_TOPOLOGY = ("sourced", "advisory_streams", "surveyed")


@dataclass(eq=False, repr=False)
class TopologyCache:
    """The stored topology of one namespace. Every method raises LedgerError."""

    space: Keyspace

    async def note_control(self) -> None:
        """Store that the control stream exists."""
        await self.space.run("return redis.call('SET', KEYS[1], ARGV[1])", ["control"], ["1"])

    async def had_control(self) -> bool:
        """Return whether the control stream existed, as far as this Redis knows."""
        return bool(await self.space.run("return redis.call('EXISTS', KEYS[1])", ["control"]))

    async def note_lacking(self, streams: Sequence[str]) -> None:
        """Store for the doctor which of reactor's own streams have no room, each with the reason."""
        lua = "return redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])"
        await self.space.run(lua, ["lacking"], [json.dumps(streams), LACKING_MS])

    async def lacking(self) -> list[str]:
        """Return the streams without room that a worker noted in the last hour."""
        text, noted = await self.space.run("return redis.call('GET', KEYS[1])", ["lacking"]), None
        with suppress(ValueError):
            noted = json.loads(text or "[]")
        return [str(item) for item in noted] if isinstance(noted, list) else []

    async def now(self) -> int:
        """Return Redis's clock (ms)."""
        return cast("int", await self.space.run(_NOW, ["surveyed"]))

    async def remember(
        self, identity: str, began: int, sourced: Iterable[str], advisory_streams: Iterable[str]
    ) -> None:
        """Store the result of a full listing that `began` then (ms), in the account with that lifecycle stream."""
        origins = list(sourced)
        args: list[str | int] = [identity, began, len(origins), *origins, *advisory_streams]
        await self.space.run(_REMEMBER, _TOPOLOGY, args)

    async def add(self, sourced: Sequence[str] = (), advisory_streams: Sequence[str] = ()) -> None:
        """Add what an advisory shows since the listing."""
        for key, names in (("sourced", sourced), ("advisory_streams", advisory_streams)):
            if names:
                await self.space.run(_ADD, [key], names)

    async def among(self, identity: str, names: Sequence[str], since: int) -> tuple[frozenset[str], list[str]] | None:
        """Return which of these streams are mirrored or sourced, and all streams that capture advisories.

        None if no listing of that account has begun since `since` (ms, Redis's clock).
        """
        answer = await self.space.run(_AMONG, _TOPOLOGY, [identity, since, *names])
        if answer is None:
            return None
        sourced, advisory_streams = cast("tuple[list[str], list[str]]", answer)
        return frozenset(sourced), sorted(advisory_streams)
