"""Benchmarks over a line of any length, their figures for people and for programs."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from support.faults import distant
from support.figures import RECORDED, Record
from support.harness import World, connected, print_figure


@pytest.fixture(scope="session")
def _figures(request: pytest.FixtureRequest) -> Iterator[list[dict[str, object]]]:
    figures = list[dict[str, object]]()
    yield figures
    if path := request.config.getoption("--figures"):
        asked = {"rtt_ms": request.config.getoption("--rtt"), "redis_synced": request.config.getoption("--synced")}
        Path(path).write_text(json.dumps(asked | {"figures": figures}, indent=2))


@pytest.fixture
def record(request: pytest.FixtureRequest, _figures: list[dict[str, object]]) -> Record:
    """Print a figure and store it.

    It fails if the figure is worse than the recorded one by half; over a distance it never fails.
    """

    def keep(what: str, figure: float, words: str) -> None:
        print_figure(f"{what}: {words}")
        bound = RECORDED.get(what, float("inf")) * 1.5
        _figures.append({"what": what, "figure": round(figure, 4), "bound": round(bound, 4), "words": words})
        assert figure <= bound or request.config.getoption("--rtt"), f"{what}: {figure:.2f}, bound {bound:.2f}"

    return keep


@asynccontextmanager
async def _far(near: World, rtt_ms: float) -> AsyncIterator[World]:
    if not rtt_ms:
        yield near
        return
    credentials, _, address = near.nats_url.rpartition("@")
    host, _, port = address.rpartition(":")
    async with (
        distant(int(port), rtt_ms / 2000) as line,
        connected(f"{credentials}@{host}:{line.port}", near.redis_url, near.namespace) as far,
    ):
        yield replace(far, number=near.number)


@pytest_asyncio.fixture
async def world(world: World, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """A world over the requested line, and with a Redis that syncs its writes if that was requested."""
    if request.config.getoption("--synced"):
        await world.redis.config_set("appendonly", "yes")
        await world.redis.config_set("appendfsync", "always")
    async with _far(world, request.config.getoption("--rtt")) as far:
        yield far


@pytest_asyncio.fixture
async def other(other: World, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """The same for the other account."""
    async with _far(other, request.config.getoption("--rtt")) as far:
        yield far
