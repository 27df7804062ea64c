"""Queues of live jobs that deliver nothing more, because their last messages were given up (max_deliver).

Key: `exhausted`, a hash: stream → the consumer that gave up.
"""

from dataclasses import InitVar, dataclass
from typing import cast

from reactor.store.scripts import Script, Scripts, key_of

_HASH = "local is_hash = redis.call('TYPE', KEYS[1]).ok == 'hash'"
_PUT = f"""
{_HASH}
if not is_hash then redis.call('DEL', KEYS[1]) end
return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
"""
_FORGET = f"{_HASH} return is_hash and redis.call('HDEL', KEYS[1], ARGV[1]) or 0"
_ALL = f"{_HASH} return is_hash and redis.call('HGETALL', KEYS[1]) or {{}}"


@dataclass(eq=False, repr=False)
class Exhausted:
    """The exhausted queues of one namespace. Every method raises LedgerError."""

    scripts: InitVar[Scripts]
    namespace: InitVar[str]

    def __post_init__(self, scripts: Scripts, namespace: str) -> None:
        self._keys = [key_of(namespace, "exhausted")]
        self._put, self._forget, self._all = (Script(scripts, text) for text in (_PUT, _FORGET, _ALL))

    async def put(self, stream: str, consumer: str) -> bool:
        """Store that a queue is exhausted; whether that is new."""
        return bool(await self._put(keys=self._keys, args=[stream, consumer]))

    async def forget(self, stream: str) -> None:
        """Store that it is not exhausted any more."""
        await self._forget(keys=self._keys, args=[stream])

    async def all(self) -> dict[str, str]:
        """Return the consumers by stream."""
        flat = cast("list[str]", await self._all(keys=self._keys, args=[]))
        return dict(zip(flat[::2], flat[1::2], strict=True))
