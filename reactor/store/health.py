"""The health of the Redis that holds the ledger: INFO, CONFIG and TIME, and whether it accepts writes.

Names and values as in https://redis.io/docs/latest/commands/info/; Valkey answers the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from uuid import uuid4

from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as NoAnswer

from reactor.core.checks import Check, error, ok
from reactor.store.clients import Cluster
from reactor.store.keyspace import Keyspace

Info = Mapping[str, Any]
"""The fields of INFO by name."""
PROBE_MS = 10_000
"""When the probe's key expires if this process dies."""


@dataclass(eq=False, repr=False)
class RedisHealth:
    """Asks Redis about itself. Every method raises LedgerError (a RedisError)."""

    space: Keyspace

    @property
    def is_cluster(self) -> bool:
        """Whether the client addresses a cluster."""
        return isinstance(self.space.redis, Cluster)

    async def info(self) -> Info:
        """Return all fields of INFO."""
        return cast("Info", await self.space.redis.info())

    async def now(self) -> int:
        """Return Redis's clock (ns)."""
        seconds, micros = await self.space.redis.time()
        return int(seconds) * 1_000_000_000 + int(micros) * 1_000

    async def save_rules(self) -> str | None:
        """Return the rules for snapshots (`3600 1 300 100`, empty for never); None if we may not ask."""
        try:
            return cast("str", (await self.space.redis.config_get("save")).get("save"))
        except RedisError as refused:
            if is_away(refused):
                raise
            return None

    async def check_writes(self) -> Check:
        """Write a key that expires, and delete it again."""
        probe = self.space.key("doctor", uuid4().hex)
        try:
            await self.space.redis.set(probe, "", px=PROBE_MS)
            await self.space.redis.delete(probe)
        except RedisError as refused:
            if is_away(refused):
                raise
            return error("redis.writes", f"Redis refuses to write: {refused}", _fix_for(refused))
        return ok("redis.writes", "a key could be written and deleted")


def is_away(failure: RedisError) -> bool:
    """Return whether Redis could not be reached, or refuses our credentials."""
    return isinstance(failure, NotConnected | NoAnswer)


def _fix_for(refused: RedisError) -> str:
    match refused:
        case NoPermissionError():
            return "give reactor's Redis user the commands and keys that docs/permissions.md lists"
        case ReadOnlyError():
            return "point REACTOR_REDIS_URL at the primary"
        case OutOfMemoryError():
            return "raise its maxmemory, or free some; until then no event is acked and nothing is drained"
        case _:
            return "see Redis's own log; until it writes again no event is acked and nothing is drained"
