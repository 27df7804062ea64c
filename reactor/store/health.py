"""How the Redis behind the ledger fares: what INFO, CONFIG and TIME say of it, and whether it takes what is written.

Names and values as in https://redis.io/docs/latest/commands/info/; Valkey answers the same.
"""

from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import Any, cast
from uuid import uuid4

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as NoAnswer

from reactor.core.checks import Check, error, ok
from reactor.store.cluster import Cluster

Info = Mapping[str, Any]
"""What Redis says of itself, by the names of INFO."""
PROBE_MS = 10_000
"""How long a key of ours may outlive us."""


@dataclass(eq=False, repr=False)
class RedisHealth:
    """Every method raises LedgerError (a RedisError).

    `namespace` is the prefix of the key that is written to see whether writing works.
    """

    redis: Redis
    namespace: InitVar[str]

    def __post_init__(self, namespace: str) -> None:
        self._probe = f"{namespace}:doctor:{uuid4().hex}"

    @property
    def is_cluster(self) -> bool:
        """Whether it is spoken to as a cluster."""
        return isinstance(self.redis, Cluster)

    async def info(self) -> Info:
        """Return all that Redis says of itself."""
        return cast("Info", await self.redis.info())

    async def now(self) -> int:
        """Return Redis's own clock, in nanoseconds."""
        seconds, micros = await self.redis.time()
        return int(seconds) * 1_000_000_000 + int(micros) * 1_000

    async def save_rules(self) -> str | None:
        """Return when it writes snapshots (`3600 1 300 100`, empty for never); None if we may not ask."""
        try:
            return cast("str", (await self.redis.config_get("save")).get("save"))
        except RedisError as refused:
            if is_away(refused):
                raise
            return None

    async def check_writes(self) -> Check:
        """Write a key that expires, and take it away again."""
        try:
            await self.redis.set(self._probe, "", px=PROBE_MS)
            await self.redis.delete(self._probe)
        except RedisError as refused:
            if is_away(refused):
                raise
            return error("redis.writes", f"Redis refuses to write: {refused}", _fix_for(refused))
        return ok("redis.writes", "a key could be written and deleted")


def is_away(failure: RedisError) -> bool:
    """Return whether Redis could not be reached, or does not let us in."""
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
