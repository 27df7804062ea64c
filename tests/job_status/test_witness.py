"""Absence needs a witness: outages that look like a system without jobs."""

import json
from typing import Any

import pytest
from support.api import Api
from support.harness import World

from reactor.job_status.http import HttpDirectory
from reactor.job_status.witness import WitnessedDirectory


def witnessed(api: Api, canary: str | None = None) -> WitnessedDirectory:
    jobs = HttpDirectory(api.url, status="/status", ended_at=None, authorization=None, timeout_s=5.0, at_once=8)
    return WitnessedDirectory(jobs, canary)


async def test_an_answer_that_found_nobody_calls_nobody_absent(api: Api) -> None:
    """For any number of jobs. As soon as one is found, the others are absent."""
    jobs = witnessed(api)
    assert set((await jobs.ask(["1", "2", "3"])).unknown) == {"1", "2", "3"}
    api.jobs["3"] = "STARTED"
    answer = await jobs.ask(["1", "2", "3"])
    assert (set(answer.found), answer.unknown) == ({"3"}, {})
    await jobs.close()


async def test_a_job_that_was_found_before_is_asked_for_again(api: Api) -> None:
    """With an absent one: if a gateway now answers for the API, it is absent, too."""
    jobs = witnessed(api)
    api.jobs["3"] = "STARTED"
    await jobs.ask(["3"])
    assert await jobs.ask(["1"]) == type(await jobs.ask(["1"]))()
    api.is_gateway = True
    assert "job 3, which it found before" in (await jobs.ask(["1"])).unknown["1"]
    api.is_gateway = False
    assert "found none" in (await jobs.ask(["1"])).unknown["1"]  # until somebody is found again
    await jobs.close()


async def test_the_canary_is_the_only_witness_where_there_is_one(api: Api) -> None:
    """A row-level policy may hide it and show other jobs."""
    jobs = witnessed(api, canary="9")
    api.jobs["3"] = "STARTED"
    answer = await jobs.ask(["1", "3"])
    assert set(answer.found) == {"3"}
    assert "canary 9" in answer.unknown.get("1", "")
    api.jobs["9"] = "STARTED"
    answer = await jobs.ask(["1", "3"])
    assert (set(answer.found), answer.unknown) == ({"3"}, {})
    await jobs.close()


async def test_a_gateway_in_the_midst_of_many_questions(api: Api) -> None:
    """Each chunk has its own witness."""
    jobs = witnessed(api)
    api.jobs |= {str(number): "STARTED" for number in range(0, 400, 2)}
    answer = await jobs.ask([str(number) for number in range(900)])
    assert (len(answer.found), answer.unknown) == (200, {})
    await jobs.close()


def directory(api: Api, **more: str) -> dict[str, Any]:
    return {"REACTOR_DIRECTORY_KIND": "http", "REACTOR_DIRECTORY_URL": api.url} | more


@pytest.mark.parametrize("number", [3, 25])
async def test_live_streams_outlive_a_gateway_that_answers_404(world: World, api: Api, number: int) -> None:
    """Fewer than the breaker's limit, or more: none is deleted, and it is reported."""
    await world.declare()
    for job in range(number):
        await world.stream(f"job_{job}", messages=1)
    api.is_gateway = True
    report = await world.reconcile(**directory(api))
    assert report["fixed"] == 0
    assert {(row["verdict"], row["reason"]) for row in report["streams"]} == {("kept", "unknown")}
    assert "found none of the" in report["streams"][0]["detail"]


async def test_a_witness_behind_the_fence(world: World, api: Api, fencing: Any) -> None:
    """The gateway takes over between inspection and deletion."""
    await world.declare()
    await world.stream("job_1", messages=1)
    await world.stream("job_2", messages=1)
    api.jobs["2"] = "STARTED"
    fencing(lambda: setattr(api, "is_gateway", True))
    assert (await world.verdicts(**directory(api)))["job_1"] == ("kept", "unknown")
    assert await world.names() == {"job_1", "job_2"}


async def test_absence_without_a_canary_waits_for_the_missing_guard(world: World, api: Api) -> None:
    """With a canary, only for the idle guard."""
    await world.declare()
    await world.stream("job_1", messages=1)
    await world.stream("job_2", messages=1)
    api.jobs["2"] = "STARTED"
    patient = directory(api, REACTOR_POLICY_MISSING_GUARD="1h")
    assert (await world.verdicts(**patient))["job_1"] == ("waiting", "active")
    assert (await world.verdicts(**patient, REACTOR_DIRECTORY_CANARY="2"))["job_1"] == ("drained", "missing")


async def test_the_doctor_asks_the_directory(world: World, api: Api) -> None:
    """For the canary and for a job that cannot exist. An API without a canary is an error."""

    async def checks(**more: str) -> dict[str, tuple[str, str]]:
        done = await world.reactor("doctor", "--json", **directory(api, **more))
        return {item["name"]: (item["level"], item["found"]) for item in json.loads(done.out)["checks"]}

    assert (await checks())["directory.canary"][0] == "error"
    level, found = (await checks(REACTOR_DIRECTORY_CANARY="9"))["directory.answers"]
    assert (level, "the canary 9 was not found" in found) == ("error", True)
    api.jobs |= {"9": "STARTED", "-1": "STARTED"}
    level, found = (await checks(REACTOR_DIRECTORY_CANARY="9"))["directory.answers"]
    assert (level, "which cannot exist" in found) == ("error", True)
    del api.jobs["-1"]
    found_all = await checks(REACTOR_DIRECTORY_CANARY="9")
    assert {found_all[name][0] for name in ("directory.answers", "directory.canary")} == {"ok"}
