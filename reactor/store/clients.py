"""redis-py's clients, adapted: a cluster that behaves like one server, and commands packed by hiredis.

All keys of a namespace are in one slot (see `redis_url` in config). Two differences of a cluster are hidden: redis-py's
RedisClusterException is not a RedisError, and a command without a key goes to any node. hiredis packs commands in a
fifth of the time; redis-py's asyncio client uses it only for answers: https://github.com/redis/redis-py/issues/4176
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hiredis
from redis.asyncio import ConnectionPool
from redis.asyncio.cluster import ClusterPipeline, ClusterPubSub, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import RedisClusterException

_KEYLESS = frozenset({"INFO", "TIME", "CONFIG GET"})


class Cluster(RedisCluster):
    """A Redis Cluster that holds the keys of one namespace in one slot."""

    def __init__(self, namespace: str, **options: Any) -> None:  # noqa: ANN401  # redis-py's
        """`namespace` contains a hash tag. `options` are redis-py's."""
        super().__init__(**options)
        self._namespace = namespace

    async def execute_command(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401  # as above
        """Run a command. One without a key goes to the node that has our keys."""
        with _as_redis_error():
            if args[0] not in _KEYLESS:
                return await super().execute_command(*args, **options)
            await self.initialize()
            node = self.get_node_from_key(self._namespace)
            answer = await super().execute_command(*args, target_nodes=node)
            return answer[node.name] if node and isinstance(answer, dict) and node.name in answer else answer

    def pubsub(self, **options: Any) -> ClusterPubSub:  # type: ignore[override]  # noqa: ANN401  # as above
        """Return a subscription whose errors are RedisErrors."""
        return _PubSub(self, **options)

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> ClusterPipeline:  # noqa: ANN401  # as above
        """Return a pipeline whose errors are RedisErrors."""
        del transaction, shard_hint
        return _Pipeline(self)  # type: ignore[abstract]  # as redis-py's own is, by its stubs


class _PubSub(ClusterPubSub):
    async def execute_command(self, *args: Any, **options: Any) -> None:  # noqa: ANN401  # as above
        with _as_redis_error():
            await self.cluster.initialize()
            await super().execute_command(*args, **options)


class _Pipeline(ClusterPipeline):
    async def execute(self, raise_on_error: bool = True, allow_redirections: bool = True) -> list[Any]:  # noqa: FBT001, FBT002  # redis-py's signature
        with _as_redis_error():
            return await super().execute(raise_on_error, allow_redirections)


@contextmanager
def _as_redis_error() -> Iterator[None]:
    try:
        yield
    # KeyError: the map of the slots is being refreshed. RuntimeError: uvloop raises it for a closed transport.
    except (RedisClusterException, KeyError, RuntimeError) as error:
        raise NotConnected(str(error)) from error


class _Packing(AbstractConnection):
    def pack_command(self, *args: str | float | bytes) -> list[bytes]:  # type: ignore[override]
        """Pack one command. Arguments that hiredis refuses, such as lone surrogates, are left to redis-py."""
        try:
            name, *rest = args
            parts = name.split() if isinstance(name, str) else (name,)  # such as CONFIG GET
            return [hiredis.pack_command((*parts, *rest))]
        except (UnicodeEncodeError, TypeError):
            return super().pack_command(*args)


def pack_quickly(pool: ConnectionPool) -> None:
    """Let the connections of a pool pack their commands with hiredis. Call this before any of them opens."""
    kind = pool.connection_class
    pool.connection_class = type(f"Packing{kind.__name__}", (_Packing, kind), {})
