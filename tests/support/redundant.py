"""Redis on several machines: a primary with a replica and a sentinel, and a cluster, from the same binary."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from redis.asyncio import Redis, Sentinel
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import RedisError

from reactor.cli.embedded import HOST, Server, free_port, running, valkey_server
from support.harness import eventually
from support.narrow import ACL

SLOTS = 16_384


@dataclass(frozen=True)
class Redundant:
    """The URL for reactor, and the server that has reactor's keys now."""

    url: str
    primary: Server
    redis: Redis
    """The same, as one finds it."""

    async def fail_over(self) -> None:
        """Kill the primary, and wait until another server has taken over."""
        await self.primary.stop()
        await eventually(self._takes_writes, 30)

    async def _takes_writes(self) -> bool:
        try:
            return bool(await self.redis.set("{reactor}:probe", "", px=1000))
        except RedisError:
            return False


@asynccontextmanager
async def with_a_sentinel(folder: Path) -> AsyncIterator[Redundant]:
    """A primary, a replica, and a sentinel that is listed after one that is away."""
    async with AsyncExitStack() as stack:
        primary = await stack.enter_async_context(running(valkey_server(folder / "a", free_port())))
        replica = valkey_server(folder / "b", free_port(), "--replicaof", f"{HOST} {primary.port}")
        await stack.enter_async_context(running(replica))
        config = folder / "sentinel.conf"
        config.write_text(
            f"sentinel monitor one {HOST} {primary.port} 1\n"
            "sentinel down-after-milliseconds one 400\nsentinel failover-timeout one 2000\n"
        )
        watching = valkey_server(folder / "s", free_port())
        command = [watching.command[0], str(config), "--sentinel", "--port", str(watching.port), "--bind", HOST]
        sentinel = Server("sentinel", command, watching.port, folder / "s" / "log")
        await stack.enter_async_context(running(sentinel))
        asked = Redis(host=HOST, port=sentinel.port, decode_responses=True)
        stack.push_async_callback(asked.aclose)
        await eventually(lambda: _knows_a_replica(asked), 30)
        sentinels = cast("Any", Sentinel)([(HOST, sentinel.port)], decode_responses=True)
        stack.push_async_callback(sentinels.sentinels[0].aclose)
        redis = sentinels.master_for("one")
        stack.push_async_callback(redis.aclose)
        yield Redundant(f"redis+sentinel://{HOST}:{free_port()},{HOST}:{sentinel.port}/one/0", primary, redis)


async def _knows_a_replica(sentinel: Redis) -> bool:
    return bool(await cast("Any", sentinel).execute_command("SENTINEL", "REPLICAS", "one"))


@asynccontextmanager
async def a_cluster(folder: Path) -> AsyncIterator[Redundant]:
    """Three primaries, and a replica of the one with reactor's slot."""
    async with AsyncExitStack() as stack:
        nodes = [_node(folder / str(number)) for number in range(4)]
        await asyncio.gather(*(stack.enter_async_context(running(node)) for node in nodes))
        clients = [Redis(host=HOST, port=node.port, decode_responses=True) for node in nodes]
        for client in clients:
            stack.push_async_callback(client.aclose)
        ask = [cast("Any", client).execute_command for client in clients]
        for number in range(3):
            await ask[number]("CLUSTER", "ADDSLOTSRANGE", number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1)
        for node, client in zip(nodes[1:], clients[1:], strict=True):
            bus = (await client.config_get("cluster-port"))["cluster-port"]
            await ask[0]("CLUSTER", "MEET", HOST, node.port, bus)
        slot = await ask[0]("CLUSTER", "KEYSLOT", "{reactor}")
        ours = slot * 3 // SLOTS
        whose = await ask[ours]("CLUSTER", "MYID")
        await eventually(lambda: _replicates(ask[3], whose), 30)
        for asking in ask:
            await eventually(partial(_is_whole, asking, 4), 30)
        rights = [word.replace("reactor:", "{reactor}:") for word in ACL]
        for asking in ask:
            await asking("ACL", "SETUSER", "reactor", "on", ">pw", *rights, "+cluster|slots")
        urls = ",".join(f"{HOST}:{node.port}" for node in nodes)
        redis = RedisCluster(host=HOST, port=nodes[(ours + 1) % 3].port, decode_responses=True)
        stack.push_async_callback(redis.aclose)
        yield Redundant(f"redis+cluster://reactor:pw@{urls}", nodes[ours], cast("Redis", redis))


def _node(folder: Path) -> Server:
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "1000")
    return valkey_server(folder, free_port(), *options)


async def _replicates(ask: Any, whose: str) -> bool:
    try:
        return bool(await ask("CLUSTER", "REPLICATE", whose))
    except RedisError:  # it does not know that node yet
        return False


async def _is_whole(ask: Any, size: int) -> bool:
    info = await ask("CLUSTER", "INFO")
    return "cluster_state:ok" in str(info) and f"cluster_known_nodes:{size}" in str(info)
