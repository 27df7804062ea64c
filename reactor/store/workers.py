"""The workers' heartbeats in Redis.

Key: `workers`, a hash: instance → time of the heartbeat (ms, Redis's clock), and the heartbeat itself (JSON). A worker
without a heartbeat for `TTL_S` counts as gone. The next heartbeat of another worker removes its entry.
"""

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from reactor.core.workers import WorkerInfo, read_worker
from reactor.store.keyspace import NOW, Keyspace

BEAT_S = 5.0
TTL_S = 20.0
_BEAT = f"""
{NOW}
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f ', now) .. ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  local seen = tonumber(string.match(redis.call('HGET', KEYS[1], name) or '', '^(%d+) ')) or 0
  if seen < now - tonumber(ARGV[3]) then redis.call('HDEL', KEYS[1], name) end
end
return 1
"""
_ALL = f"""
{NOW}
return {{string.format('%.0f', now), redis.call('HGETALL', KEYS[1])}}
"""
_LEAVE = "return redis.call('HDEL', KEYS[1], ARGV[1])"


@dataclass(eq=False, repr=False)
class Workers:
    """The heartbeats of one namespace. Every method raises LedgerError."""

    space: Keyspace

    async def beat(self, worker: WorkerInfo) -> None:
        """Store a heartbeat."""
        args: list[str | int] = [worker.instance, json.dumps(worker.as_dict()), int(TTL_S * 1000)]
        await self.space.run(_BEAT, ["workers"], args)

    async def leave(self, instance: str) -> None:
        """Remove a worker that has stopped."""
        await self.space.run(_LEAVE, ["workers"], [instance])

    async def alive(self) -> list[WorkerInfo]:
        """Return the workers that are alive, by instance."""
        now, flat = cast("tuple[str, list[str]]", await self.space.run(_ALL, ["workers"]))
        workers = list[WorkerInfo]()
        for _, text in sorted(zip(flat[::2], flat[1::2], strict=True)):
            seen, _, body = text.partition(" ")
            with suppress(ValueError):
                seen_s = (int(now) - int(seen)) / 1000
                if seen_s <= TTL_S and (worker := read_worker(json.loads(body), seen_s)):
                    workers.append(worker)
        return workers
