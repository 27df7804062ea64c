"""Queues of live jobs that deliver nothing more, because their last messages were given up (max_deliver).

Key: `exhausted`, a hash: stream → the sequence of the last message that was given up, and the consumer that did.
"""

import re
from dataclasses import InitVar, dataclass
from typing import NamedTuple, cast

from reactor.store.scripts import Script, Scripts, key_of

_VALUE = re.compile(r"([0-9]{1,20}) ([^\s.*>]+)")
_HASH = "local is_hash = redis.call('TYPE', KEYS[1]).ok == 'hash'"
_PUT = f"""
{_HASH}
if not is_hash then redis.call('DEL', KEYS[1]) end
return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
"""
_FORGET = f"{_HASH} return is_hash and redis.call('HDEL', KEYS[1], ARGV[1]) or 0"
_ALL = f"{_HASH} return is_hash and redis.call('HGETALL', KEYS[1]) or {{}}"


class GivenUp(NamedTuple):
    """A message that a consumer delivers no more. The later one of two is the greater."""

    seq: int
    consumer: str


@dataclass(eq=False, repr=False)
class Exhausted:
    """The exhausted queues of one namespace. Every method raises LedgerError."""

    scripts: InitVar[Scripts]
    namespace: InitVar[str]

    def __post_init__(self, scripts: Scripts, namespace: str) -> None:
        self._keys = [key_of(namespace, "exhausted")]
        self._put, self._forget, self._all = (Script(scripts, text) for text in (_PUT, _FORGET, _ALL))

    async def put(self, stream: str, last: GivenUp) -> bool:
        """Store that a queue is exhausted; whether that is new."""
        return bool(await self._put(keys=self._keys, args=[stream, f"{last.seq} {last.consumer}"]))

    async def consumers(self) -> dict[str, str]:
        """Return the consumers that gave up the last messages, by stream."""
        return {stream: last.consumer for stream, last in (await self.all()).items()}

    async def forget(self, stream: str) -> None:
        """Store that it is not exhausted any more."""
        await self._forget(keys=self._keys, args=[stream])

    async def all(self) -> dict[str, GivenUp]:
        """Return the last message that was given up, by stream."""
        flat = cast("list[str]", await self._all(keys=self._keys, args=[]))
        found = ((stream, _VALUE.fullmatch(text)) for stream, text in zip(flat[::2], flat[1::2], strict=True))
        return {stream: GivenUp(int(match[1]), match[2]) for stream, match in found if match}
