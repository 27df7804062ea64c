"""The last state of each job stream, as passes, sweeps and advisories found it, for status and page.

Nothing is decided by them: a deletion begins with a look of its own. Keys: `found`, a hash of settlements (JSON, with
when they were found: ms, Redis's clock) by stream; `found_at`, a sorted set of streams by that time, also of those that
are gone; `found_state`, a word that changes with each change, and since when a full pass was made.
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import InitVar, dataclass, replace
from itertools import islice
from typing import Any, cast
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis

from reactor.core.model import Settlement
from reactor.store.scripts import NOW, Script, Scripts, key_of

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


@dataclass(eq=False, repr=False)
class StreamStateStore:
    """The standings of one namespace. Every method raises LedgerError.

    Keys are prefixed by the namespace.
    """

    redis: Redis
    scripts: InitVar[Scripts]
    namespace: InitVar[str]

    def __post_init__(self, scripts: Scripts, namespace: str) -> None:
        self._keys = [key_of(namespace, name) for name in ("found", "found_at", "found_state")]
        self._put = Script(scripts, _PUT)
        self._forget_older = Script(scripts, _FORGET_OLDER)
        self._state = Script(scripts, _STATE)

    async def put(self, found: Mapping[str, Settlement | None], began: int | None = None) -> None:
        """Store how these streams were found, now or when a listing `began` (ms, Redis's clock); None means gone.

        What somebody else has found later stays.
        """
        rest = iter(found.items())
        while some := list(islice(rest, CHUNK)):
            args: list[str | int | bytes] = [uuid4().hex, "" if began is None else began]
            for name, settlement in some:
                args += [name, "" if settlement is None else _SETTLEMENT.dump_json(settlement, exclude_defaults=True)]
            await self._put(keys=self._keys, args=args)

    async def forget_older(self, began: int) -> None:
        """Forget what a full pass that `began` then has not found."""
        await self._forget_older(keys=self._keys, args=[uuid4().hex, began])

    async def state(self) -> tuple[str, int | None]:
        """Return a token that changes with each change; and how long ago the last full pass was (ms), None if never."""
        version, now = cast("tuple[str, int]", await self._state(keys=self._keys[2:], args=[]))
        since = version.partition(" ")[2]
        return version, now - int(since) if since.isdecimal() else None

    async def of(self, names: Iterable[str]) -> dict[str, Settlement]:
        """Return those of these streams that exist, as of now; unreadable ones are left out."""
        if not (wanted := list(names)):
            return {}
        _, now = cast("tuple[str, int]", await self._state(keys=self._keys[2:], args=[]))
        values = await cast("Any", self.redis.hmget(self._keys[0], wanted))
        return dict(_read(((name, value) for name, value in zip(wanted, values, strict=True) if value), now))

    async def all(self) -> AsyncIterator[Settlement]:
        """Yield all states as of now; what cannot be read is left out."""
        _, now = cast("tuple[str, int]", await self._state(keys=self._keys[2:], args=[]))
        seen, cursor = set[str](), None
        while cursor != 0:
            cursor, values = await cast("Any", self.redis.hscan(self._keys[0], cursor or 0, count=CHUNK))
            for name, settlement in _read(values.items(), now):
                if name not in seen:  # a scan may show one twice
                    seen.add(name)
                    yield settlement


def _read(values: Iterable[tuple[str, str]], now: int) -> Iterable[tuple[str, Settlement]]:
    """Read a state, with the time that has passed since added to the server's own."""
    for name, value in values:
        at, _, text = value.partition(" ")
        with suppress(ValidationError, ValueError):
            settlement = _SETTLEMENT.validate_json(text)
            stream = settlement.stream
            elapsed = max(now - int(at), 0) * _MILLISECOND
            yield name, replace(settlement, stream=replace(stream, observed_at=stream.observed_at + elapsed))
