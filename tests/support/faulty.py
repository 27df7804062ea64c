"""A world behind proxies, and checks of the result."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from reactor.cli.embedded import HOST, Server
from support.faults import Proxy, proxied
from support.harness import World, own_world


async def outcomes(world: World) -> list[tuple[str, str]]:
    """Return stream and outcome of every deletion, oldest first."""
    return [(entry["stream"], entry["outcome"]) for entry in await world.trail() if entry["phase"] == "outcome"]


async def none_is_open(world: World) -> bool:
    """Return whether every deletion has an outcome."""
    return not await world.redis.exists(f"{world.namespace}:intents")


async def is_whole(world: World, name: str, messages: int | None = None, at_least: int = 0) -> bool:
    """Return whether the stream has its own subjects, no fence, and all its messages."""
    info = await world.info(name)
    assert info is not None, f"{name} is gone"
    free = not any(key.startswith("reactor.fence") for key in info["config"].get("metadata") or {})
    there = info["state"]["messages"]
    enough = there >= at_least if messages is None else there == messages
    return free and enough and info["config"]["subjects"] == [f"job.{name[4:]}.tasks"]


@asynccontextmanager
async def through_proxies(folder: Path) -> AsyncIterator[tuple[World, World, Proxy, Proxy, Server, Server]]:
    """A job system's world, the same through proxies, these proxies (NATS, Redis), and the servers behind."""
    async with AsyncExitStack() as stack:
        world, nats_one, valkey_one = await stack.enter_async_context(own_world(folder))
        nats_proxy = await stack.enter_async_context(proxied(nats_one.port))
        redis_proxy = await stack.enter_async_context(proxied(valkey_one.port))
        urls = f"nats://{HOST}:{nats_proxy.port}", f"redis://{HOST}:{redis_proxy.port}/0"
        behind = World(*urls, world.namespace, world.nc, world.redis)
        yield world, behind, nats_proxy, redis_proxy, nats_one, valkey_one
