"""Orders over HTTP, to a real worker: off by default, only with the token as a bearer, and audited."""

import asyncio
import json
import urllib.error
import urllib.request
from typing import Any

import pytest
from support.harness import Served, World, eventually, gone, served

TOKEN = "t0ken"  # noqa: S105  # of a worker that lives for a moment
ON: dict[str, Any] = {"REACTOR_HTTP_TOKEN": TOKEN, "REACTOR_HTTP_ORDERS": "true"}


async def give(at: Served, path: str, body: Any = None, token: str | None = TOKEN) -> tuple[int, Any]:
    """Give an order like the page."""
    return await asyncio.to_thread(_post, f"{at.base}/api/orders/{path}", body or {"by": "ana", "reason": "r"}, token)


def _post(url: str, body: Any, token: str | None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  # our own server
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


async def test_a_pause_and_its_end(world: World) -> None:
    """It works like the command. The audit has the person."""
    await world.declare()
    async with served(world, **ON, REACTOR_RECONCILE_INTERVAL="1s") as at:
        assert (await at.get("/api/status", TOKEN))[1]["orders"] is True
        assert (await give(at, "pause"))[0] == 200
        await world.zombie(1)
        assert await world.verdicts() == {"job_1": ("waiting", "paused")}
        assert (await at.get("/api/status", TOKEN))[1]["pause"]["by"] == "ana"
        assert (await give(at, "resume"))[0] == 200
        await eventually(lambda: gone(world, "job_1"))
    paused, resumed = [entry for entry in await world.trail() if not entry["stream"]]
    assert (paused["phase"], resumed["phase"]) == ("paused", "resumed")
    assert "says ana on the page" in paused["detail"]


async def test_the_page_resumes_if_the_pause_is_lost(world: World) -> None:
    """The control stream was deleted, so nothing is deleted. A resume creates it again."""
    await world.declare()
    async with served(world, **ON, REACTOR_RECONCILE_INTERVAL="1s") as at:
        await world.js.delete_stream("REACTOR_CONTROL")
        await world.zombie(1)
        assert (await give(at, "resume"))[0] == 200
        await eventually(lambda: gone(world, "job_1"))
    assert await world.info("REACTOR_CONTROL")


async def test_protecting_and_restoring(world: World) -> None:
    """A deleted stream is restored and protected; an unknown one is refused; an existing one is not touched."""
    await world.declare()
    await world.zombie(1, messages=2)
    await world.verdicts()
    async with served(world, **ON) as at:
        assert (await give(at, "restore/job_1"))[0] == 409  # its messages are lost
        body = {"by": "ana", "reason": "r", "without_messages": True}
        code, said = await give(at, "restore/job_1", body)
        assert (code, "2 messages are lost" in said["done"]) == (200, True)
        assert (await give(at, "restore/job_1"))[0] == 409
        assert (await give(at, "unprotect/job_1"))[0] == 200
        await eventually(lambda: gone(world, "job_1"))  # its job's last event is still terminal
        assert (await give(at, "protect/job_9"))[1]["known"] == "never_heard_of"
        assert (await give(at, "protect/orders"))[0] == 404


@pytest.mark.parametrize(
    ("settings", "token", "body", "code"),
    [
        ({"REACTOR_HTTP_TOKEN": TOKEN}, TOKEN, None, 403),
        (ON, None, None, 401),
        (ON, "other", None, 401),
        (ON, TOKEN, {"reason": "nobody says who"}, 400),
        (ON, TOKEN, ["no object"], 400),
        (ON, TOKEN, {"by": "ana", "reason": "r", "more": "x" * 5_000}, 413),
    ],
)
async def test_what_is_not_taken(
    world: World, settings: dict[str, Any], token: str | None, body: Any, code: int
) -> None:
    """It pauses nothing."""
    async with served(world, **settings) as at:
        assert (await give(at, "pause", body, token))[0] == code
        assert (await at.get("/api/status", TOKEN))[1]["pause"] is None
        assert (await at.get("/api/orders/pause", TOKEN))[0] == 404  # no link gives an order


async def test_orders_need_a_token(world: World) -> None:
    """Reported at the start."""
    refused = await world.reactor("worker", REACTOR_HTTP_PORT="8080", REACTOR_HTTP_ORDERS="true")
    assert (refused.code, "REACTOR_HTTP_TOKEN" in refused.err) == (2, True)
