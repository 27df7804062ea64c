"""Exhausted queues: live jobs' queues that deliver nothing more, because the last messages were given up.

Key: `exhausted`, a hash: stream → the sequence of the last message that was given up, and the consumer that gave it up.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple, cast

from reactor.store.keyspace import Keyspace

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
    """A message that a consumer has given up. They compare by sequence."""

    seq: int
    consumer: str


@dataclass(eq=False, repr=False)
class Exhausted:
    """The exhausted queues of one namespace. Every method raises LedgerError."""

    space: Keyspace

    async def put(self, stream: str, last: GivenUp) -> bool:
        """Store that a queue is exhausted. Return whether that is new."""
        return bool(await self.space.run(_PUT, ["exhausted"], [stream, f"{last.seq} {last.consumer}"]))

    async def consumers(self) -> dict[str, str]:
        """Return the consumers that gave up the last messages, by stream."""
        return {stream: last.consumer for stream, last in (await self.all()).items()}

    async def forget(self, stream: str) -> None:
        """Store that a queue is not exhausted any more."""
        await self.space.run(_FORGET, ["exhausted"], [stream])

    async def all(self) -> dict[str, GivenUp]:
        """Return the last messages that were given up, by stream."""
        flat = cast("list[str]", await self.space.run(_ALL, ["exhausted"]))
        matches = ((stream, _VALUE.fullmatch(text)) for stream, text in zip(flat[::2], flat[1::2], strict=True))
        return {stream: GivenUp(int(match[1]), match[2]) for stream, match in matches if match}
