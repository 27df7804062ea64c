"""The job system's own API, as a real server on loopback."""

import gzip
import json
from typing import Any

import pytest
from support.api import DRIP, Api
from support.harness import World, eventually, gone, worker

from reactor.cli.embedded import HOST, free_port
from reactor.core.model import DirectoryStatus, parse_instant
from reactor.job_status.http import HttpDirectory


async def asked(url: str, *ids: str, **options: Any) -> Any:
    how = {"status": "/status", "ended_at": None, "authorization": None, "timeout_s": 1.0, "at_once": 4} | options
    directory = HttpDirectory(url, **how)
    try:
        return await directory.ask(ids)
    finally:
        await directory.close()


async def test_found_absent_and_everything_else(api: Api) -> None:
    """Only a 404 means absent."""
    api.jobs |= {"1": "STARTED", "3": (500, b"{}"), "4": (200, b"no JSON"), "5": (200, b"[]"), "6": 2.5}
    api.jobs["7"] = (302, b"{}")
    answer = await asked(api.url, *map(str, range(1, 8)), authorization="Token hunter2")
    assert answer.found == {"1": DirectoryStatus("STARTED")}
    assert set(answer.unknown) == set("34567")  # and 2 is absent
    assert answer.unknown["3"] == "it answered 500"
    assert api.tokens == {"Token hunter2"}


async def test_pointers_lead_to_the_values(api: Api) -> None:
    """Through objects and lists, with escapes. A time needs its offset."""
    body = {"data": [{"a/b": {"state": "SUCCESS"}, "ended": "2026-01-31T12:00:00Z"}]}
    api.jobs |= {"1": (200, json.dumps(body).encode())}
    answer = await asked(api.url, "1", status="/data/0/a~1b/state", ended_at="/data/0/ended")
    assert answer.found == {"1": DirectoryStatus("SUCCESS", parse_instant("2026-01-31T12:00:00Z"))}
    assert (await asked(api.url, "1", status="/data/1/state")).unknown == {
        "1": "its answer has no status at /data/1/state"
    }


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((200, b" " * (2 << 20)), "more than 1048576 bytes"),
        ((200, b"[" * 100_000), "recursion"),
        ((200, gzip.compress(b" " * (200 << 20)), {"Content-Encoding": "gzip"}), "compressed"),
        ((200, b'{"status": NaN}'), "expected value"),
        (DRIP, "longer than 1 s"),
    ],
    ids=["large", "deep", "a bomb", "no number", "dripping"],
)
async def test_an_answer_is_bounded(api: Api, answer: Any, why: str) -> None:
    """In bytes, in depth and in time. Beyond that the job is unknown."""
    api.jobs["1"] = answer
    assert why.lower() in (await asked(api.url, "1")).unknown["1"].lower()


async def test_credentials_go_to_no_other_host(api: Api) -> None:
    """A redirect is not followed."""
    other = Api()
    api.jobs["1"] = (302, b"", {"Location": other.url.replace("{job_id}", "1")})
    assert (await asked(api.url, "1", authorization="Token hunter2")).unknown == {"1": "it answered 302"}
    assert other.tokens == set()
    other.server.shutdown()
    other.server.server_close()


async def test_an_api_that_is_away_is_unknown() -> None:
    """Never absent."""
    answer = await asked(f"http://{HOST}:{free_port()}/{{job_id}}", "1", "2")
    assert set(answer.unknown) == {"1", "2"}


async def test_the_api_decides(world: World, api: Api) -> None:
    """A running job's stream stays, and an ended one's is deleted at once by its event.

    That of an unknown job stays.
    """
    api.jobs |= {"1": "STARTED", "2": "STARTED", "3": (503, b"{}")}
    env = world.env(REACTOR_DIRECTORY_KIND="http", REACTOR_DIRECTORY_URL=api.url, REACTOR_RECONCILE_INTERVAL="1h")
    async with worker(env) as process:
        await eventually(lambda: process.logged("reconcile done"))
        for number in (1, 2, 3):
            await world.stream(f"job_{number}", messages=1)
        api.jobs["2"] = "SUCCESS"
        for number in (1, 2, 3):
            await world.emit(number, "SUCCESS")
        await eventually(lambda: gone(world, "job_2"))
        await eventually(lambda: process.logged("does not know the job's status: it answered 503"))
        explanation = json.loads((await world.reactor("explain", "job_1", "--json", **_directory(api))).out)
        assert (explanation["verdict"], explanation["reason"], explanation["evidence"]["directory"]["status"]) == (
            "kept",
            "running",
            "STARTED",
        )
    assert await world.names() == {"job_1", "job_3"}


def _directory(api: Api) -> dict[str, str]:
    return {"REACTOR_DIRECTORY_KIND": "http", "REACTOR_DIRECTORY_URL": api.url}
