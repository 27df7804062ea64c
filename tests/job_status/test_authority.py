"""The directory against the events, and when it is asked."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from support.api import Api
from support.harness import World, record_of

from reactor.core.model import SECOND, DirectoryStatus
from reactor.core.policy import Policy, by_directory
from reactor.deletion import failpoints

Act = Callable[[], object]
Fencing = Callable[[Act], None]

NOW, IDLE = 1_000_000 * SECOND, 600 * SECOND
POLICY = Policy(re.compile(r"job_(?P<job_id>.+)"), 0, 0, IDLE, 0, 0, frozenset({"SUCCESS"}))


def directory(api: Api, **more: str) -> dict[str, Any]:
    return {"REACTOR_DIRECTORY_KIND": "http", "REACTOR_DIRECTORY_URL": api.url} | more


@pytest.mark.parametrize("answer", [None, DirectoryStatus("SUCCESS"), DirectoryStatus("SUCCESS", NOW - SECOND)])
def test_a_live_event_of_a_moment_ago_keeps_the_job(answer: DirectoryStatus | None) -> None:
    """A replica lags, or a table is read before the commit. Older events do not count against the directory."""
    alive, older = record_of(NOW - IDLE + 1, 1, "STARTED"), record_of(NOW - IDLE, 1, "STARTED")
    assert by_directory(alive, answer, NOW, NOW, POLICY) == alive
    word = by_directory(older, answer, NOW, NOW, POLICY)
    assert (word.status if word else None) == (answer.status if answer else None)


def test_an_event_that_a_job_is_over_proves_nothing() -> None:
    """Its transaction was rolled back, and the directory says that the job is live."""
    record = by_directory(record_of(NOW, 1, "SUCCESS"), DirectoryStatus("STARTED"), NOW, NOW, POLICY)
    assert record
    assert record.status == "STARTED"


async def test_a_job_that_lives_behind_the_fence_keeps_its_stream(world: World, api: Api, fencing: Fencing) -> None:
    """The directory decides. The stream is unchanged."""
    await world.declare()
    await world.zombie(1)
    api.jobs["1"] = "SUCCESS"
    before = (await world.info("job_1") or {})["config"]
    fencing(lambda: api.jobs.update({"1": "STARTED"}))
    verdicts = await world.verdicts(**directory(api))
    assert verdicts["job_1"] == ("kept", "running")
    assert (await world.info("job_1") or {})["config"] == before


@pytest.mark.parametrize("answer", [(500, b""), (200, b"{}")])
async def test_a_directory_that_fails_behind_the_fence_proves_nothing(
    world: World, api: Api, fencing: Fencing, answer: Any
) -> None:
    """The fence is removed, and the stream is deleted when the directory answers again."""
    await world.declare()
    await world.zombie(1)
    api.jobs["1"] = "SUCCESS"
    before = (await world.info("job_1") or {})["config"]
    fencing(lambda: api.jobs.update({"1": answer}))
    assert (await world.verdicts(**directory(api)))["job_1"] == ("kept", "unknown")
    assert (await world.info("job_1") or {})["config"] == before
    failpoints.armed = None
    api.jobs["1"] = "SUCCESS"
    assert (await world.verdicts(**directory(api)))["job_1"] == ("drained", "terminal")


async def test_an_outage_behind_the_fence_is_no_absence(world: World, api: Api, fencing: Fencing) -> None:
    """A job that was absent just now may exist."""
    await world.declare()
    await world.stream("job_1")
    await world.stream("job_2")
    api.jobs["2"] = "STARTED"
    fencing(lambda: api.jobs.update({"1": (500, b"")}))
    assert (await world.verdicts(**directory(api)))["job_1"] == ("kept", "unknown")
    assert await world.names() == {"job_1", "job_2"}


async def test_a_status_without_a_time_counts_from_its_first_sight(world: World, api: Api) -> None:
    """And again if the job was live in between."""
    grace = directory(api, REACTOR_POLICY_TERMINAL_GRACE="1h")
    await world.declare()
    await world.stream("job_1")
    api.jobs["1"] = "SUCCESS"
    first = (await world.reconcile(**grace))["streams"][0]
    assert (first["verdict"], first["reason"]) == ("waiting", "grace")
    assert (await world.reconcile(**grace))["streams"][0]["until"] == first["until"]
    api.jobs["1"] = "STARTED"
    assert (await world.verdicts(**grace))["job_1"] == ("kept", "running")
    api.jobs["1"] = "SUCCESS"
    assert (await world.reconcile(**grace))["streams"][0]["until"] > first["until"]


async def test_a_job_whose_row_is_gone_is_missing(world: World, api: Api) -> None:
    """With the idle guard, because a canary is set, and with the breaker."""
    await world.declare()
    await world.stream("job_1")
    canary = directory(api, REACTOR_POLICY_MISSING_GUARD="24h", REACTOR_DIRECTORY_CANARY="2")
    api.jobs["2"] = "STARTED"
    assert (await world.verdicts(**canary))["job_1"] == ("drained", "missing")
