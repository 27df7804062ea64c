"""A Redis Cluster, as the rest of this folder should find it: like one server that has all keys of a namespace.

They are in one slot (see `redis_url` in config). Two differences are evened out: redis-py's RedisClusterException is no
RedisError, and a command without a key goes to whichever node comes first.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis.asyncio.cluster import ClusterPipeline, ClusterPubSub, RedisCluster
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import RedisClusterException

_KEYLESS = frozenset({"INFO", "TIME", "CONFIG GET"})


class Cluster(RedisCluster):
    """For the keys of one namespace."""

    def __init__(self, namespace: str, **options: Any) -> None:  # noqa: ANN401  # redis-py's
        """`namespace` holds a hash tag; `options` are redis-py's."""
        super().__init__(**options)
        self._namespace = namespace

    async def execute_command(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401  # as above
        """Return the node for a command without a key: the one that has our keys."""
        with _as_redis_error():
            if args[0] not in _KEYLESS:
                return await super().execute_command(*args, **options)
            await self.initialize()
            node = self.get_node_from_key(self._namespace)
            answer = await super().execute_command(*args, target_nodes=node)
            return answer[node.name] if node and isinstance(answer, dict) and node.name in answer else answer

    def pubsub(self, **options: Any) -> ClusterPubSub:  # type: ignore[override]  # noqa: ANN401  # as above
        """Return a pipeline whose errors are RedisErrors."""
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
    # KeyError: its map of the slots is being drawn anew; RuntimeError: uvloop's word for a transport that is closed.
    except (RedisClusterException, KeyError, RuntimeError) as error:
        raise NotConnected(str(error)) from error
