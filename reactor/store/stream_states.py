"""The last state of each job stream, for status and page. No decision uses it; each deletion inspects the stream again.

Keys:

    found        hash    settlements by stream (JSON), each after the time when it was found (ms, Redis's clock)
    found_at     zset    all streams by that time, including those that are gone
    found_state  string  a token that changes with each change, and when the last full pass began
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, cast
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError

from reactor.core.model import Settlement
from reactor.store.keyspace import NOW, Keyspace

CHUNK = 500
_SETTLEMENT = TypeAdapter(Settlement)
_MILLISECOND = 1_000_000
_KEYS = """
for i, kind in ipairs({'hash', 'zset', 'string'}) do
  if redis.call('TYPE', KEYS[i]).ok ~= kind then redis.call('DEL', KEYS[i]) end
end
"""

_PUT = f"""
{NOW}
{_KEYS}
local at = ARGV[2] == '' and now or tonumber(ARGV[2])
for i = 3, #ARGV, 2 do
  if (tonumber(redis.call('ZSCORE', KEYS[2], ARGV[i])) or 0) <= at then
    redis.call('ZADD', KEYS[2], at, ARGV[i])
    if ARGV[i + 1] == '' then
      redis.call('HDEL', KEYS[1], ARGV[i])
    else
      redis.call('HSET', KEYS[1], ARGV[i], at .. ' ' .. ARGV[i + 1])
    end
  end
end
local since = string.match(redis.call('GET', KEYS[3]) or '', ' (%d+)$')
redis.call('SET', KEYS[3], ARGV[1] .. ' ' .. (since or ''))
"""
_FORGET_OLDER = f"""
{_KEYS}
for _, name in ipairs(redis.call('ZRANGE', KEYS[2], '-inf', '(' .. ARGV[2], 'BYSCORE')) do
  redis.call('ZREM', KEYS[2], name)
  redis.call('HDEL', KEYS[1], name)
end
redis.call('SET', KEYS[3], ARGV[1] .. ' ' .. ARGV[2])
"""
_STATE = f"{NOW} return {{redis.call('GET', KEYS[1]) or '', now}}"


_FOUND = ("found", "found_at", "found_state")


@dataclass(eq=False, repr=False)
class StreamStateStore:
    """The stored states of one namespace. Every method raises LedgerError."""

    space: Keyspace

    async def put(self, states: Mapping[str, Settlement | None], began: int | None = None) -> None:
        """Store states, found now or by a listing that `began` then (ms, Redis's clock). None means that it is gone.

        A state that was found later is not overwritten.
        """
        rest = iter(states.items())
        while batch := list(islice(rest, CHUNK)):
            args: list[str | int | bytes] = [uuid4().hex, "" if began is None else began]
            for name, settlement in batch:
                args += [name, "" if settlement is None else _SETTLEMENT.dump_json(settlement, exclude_defaults=True)]
            await self.space.run(_PUT, _FOUND, args)

    async def forget_older(self, began: int) -> None:
        """Remove the streams that a full pass, which `began` then (ms), has not found."""
        await self.space.run(_FORGET_OLDER, _FOUND, [uuid4().hex, began])

    async def state(self) -> tuple[str, int | None]:
        """Return a token that changes with each change, and the age of the last full pass (ms; None if none)."""
        version, now = cast("tuple[str, int]", await self.space.run(_STATE, ["found_state"]))
        since = version.partition(" ")[2]
        return version, now - int(since) if since.isdecimal() else None

    async def of(self, names: Iterable[str]) -> dict[str, Settlement]:
        """Return the states of these streams as of now. Missing and unreadable ones are left out."""
        if not (wanted := list(names)):
            return {}
        _, now = cast("tuple[str, int]", await self.space.run(_STATE, ["found_state"]))
        values = await cast("Any", self.space.redis.hmget(self.space.key("found"), wanted))
        return dict(_read(((name, value) for name, value in zip(wanted, values, strict=True) if value), now))

    async def all(self) -> AsyncIterator[Settlement]:
        """Yield all states as of now. Unreadable ones are left out."""
        _, now = cast("tuple[str, int]", await self.space.run(_STATE, ["found_state"]))
        seen, cursor = set[str](), None
        while cursor != 0:
            scan = self.space.redis.hscan(self.space.key("found"), cursor or 0, count=CHUNK)
            cursor, values = await cast("Any", scan)
            for name, settlement in _read(values.items(), now):
                if name not in seen:  # a scan may show one twice
                    seen.add(name)
                    yield settlement


def _read(values: Iterable[tuple[str, str]], now: int) -> Iterable[tuple[str, Settlement]]:
    """Yield the states as of now: the time since they were found is added to the server's time in them."""
    for name, value in values:
        at, _, text = value.partition(" ")
        with suppress(ValidationError, ValueError):
            settlement = _SETTLEMENT.validate_json(text)
            stream = settlement.stream
            elapsed = max(now - int(at), 0) * _MILLISECOND
            yield name, replace(settlement, stream=replace(stream, observed_at=stream.observed_at + elapsed))
