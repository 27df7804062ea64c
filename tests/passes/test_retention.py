"""Retention: rules by status and metadata, and a stream's own times, on the real servers."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg
from support.bench import Bench
from support.harness import World, eventually, gone, has_records, worker

from reactor.core.model import Outcome, Reason

RULES = """
[[rule]]
name = "failed"
status = ["FAILURE"]
terminal_grace = "24h"

[[rule]]
name = "reports"
metadata = { kind = "report" }
action = "report"

[[rule]]
name = "trainings"
metadata = { kind = "training" }
backup = "always"

[[rule]]
name = "of nobody"
streams = ["job_9*"]
protect = true
"""


def ruled(folder: Path, text: str = RULES) -> dict[str, Any]:
    path = folder / "rules.toml"
    path.write_text(text)
    return {
        "REACTOR_POLICY_FILE": str(path),
        "REACTOR_BACKUP_DIR": str(folder / "backups"),
        "REACTOR_RECONCILE_INTERVAL": "1h",
    }


async def test_each_stream_is_deleted_by_its_rule(world: World, tmp_path: Path) -> None:
    """With a worker. explain, streams, history, the audit, the event and `reactor rules` show the rule."""
    drained: list[dict[str, str]] = []

    async def receive(msg: Msg) -> None:
        drained.append(json.loads(msg.data))

    await world.nc.subscribe("reactor.drained.>", cb=receive)
    env = ruled(tmp_path)
    await world.declare()
    await world.stream("job_1", messages=1)
    await world.stream("job_2", messages=1)
    await world.stream("job_3", messages=1, metadata={"kind": "report"})
    await world.stream("job_4", messages=1, metadata={"kind": "training"})
    async with worker(world.env(**env)) as process:
        for job, status in ((1, "FAILURE"), (2, "SUCCESS"), (3, "SUCCESS"), (4, "SUCCESS")):
            await world.emit(job, status)
        await eventually(lambda: gone(world, "job_2", "job_4"))
        await eventually(lambda: process.logged("stream would be drained"))
        await eventually(
            lambda: {item["stream"]: item["rule"] for item in drained} == {"job_2": "default", "job_4": "trainings"}
        )
        [info] = json.loads((await world.reactor("workers", "--json")).out)["workers"]
        assert (info["policy_file"], len(info["policy_sha256"])) == (env["REACTOR_POLICY_FILE"], 64)
        explained = json.loads((await world.reactor("explain", "job_1", "--json")).out)
        assert (explained["verdict"], explained["reason"], explained["rule"]) == ("waiting", "grace", "failed")
        assert {guard["guard"]: guard["length_s"] for guard in explained["guards"]}["terminal_grace"] == 86_400
        assert "rules failed,reports,trainings,of nobody (here none)" in explained["notice"]
        for command in (("streams", "-o", "wide"), ("explain", "job_1"), ("rules",)):
            done = await world.reactor(*command)
            assert "failed" in done.out, done.out
        rules = json.loads((await world.reactor("rules", "--json")).out)
        assert {rule["name"]: rule["matches"] for rule in rules["rules"]} == {
            "failed": 1,
            "reports": 1,
            "trainings": 0,
            "of nobody": 0,
        }
        assert (rules["unmatched"], rules["by_default"]) == (["trainings", "of nobody"], 0)
        assert rules["workers"][0]["file"] == env["REACTOR_POLICY_FILE"]
        assert json.loads((await world.reactor("rules", "--json", "--local")).out)["rules"] == []
    ends = {item["stream"]: item for item in json.loads((await world.reactor("history", "--json")).out)["entries"]}
    assert {name: item["rule"] for name, item in ends.items()} == {
        "job_2": "default",
        "job_3": "reports",
        "job_4": "trainings",
    }
    assert "rule trainings" in (await world.reactor("history", "--stream", "job_4")).out
    assert "rule trainings" in (await world.reactor("explain", "job_4")).out
    assert list((tmp_path / "backups").glob("job_4-*"))
    assert not list((tmp_path / "backups").glob("job_2-*"))
    assert await world.names() == {"job_1", "job_3"}


async def test_a_full_pass_goes_by_the_rules(world: World, tmp_path: Path) -> None:
    """A dry run shows the same. In report mode a rule can delete."""
    await world.declare()
    await world.zombie(1, "FAILURE")
    await world.zombie(2)
    await world.stream("job_3", metadata={"kind": "training"})
    await world.emit(3, "SUCCESS")
    text = '[[rule]]\nname = "now"\nmetadata = { kind = "training" }\naction = "delete"'
    env = ruled(tmp_path, text) | {"REACTOR_POLICY_ACTION": "report"}
    report = await world.reconcile(**env)
    assert {row["stream"]: (row["verdict"], row["rule"]) for row in report["streams"]} == {
        "job_1": ("would_drain", "default"),
        "job_2": ("would_drain", "default"),
        "job_3": ("drained", "now"),
    }
    env = ruled(tmp_path)
    assert (await world.verdicts(**env)) == {"job_1": ("waiting", "grace"), "job_2": ("drained", "terminal")}


@pytest.mark.parametrize(
    ("metadata", "fate"),
    [
        ({"reactor.terminal-grace": "1h"}, ("waiting", "grace")),
        ({"reactor.age-guard": "1h"}, ("waiting", "fresh")),
        ({"reactor.keep-until": "2199-01-01T00:00:00Z"}, ("waiting", "protected")),
        ({"reactor.keep-until": "2019-01-01T00:00:00Z"}, ("drained", "terminal")),
        ({"reactor.keep-until": "next week"}, ("kept", "retention-unreadable")),
    ],
)
async def test_a_streams_own_time_wins(
    world: World, tmp_path: Path, metadata: dict[str, str], fate: tuple[str, str]
) -> None:
    """The job system sets it when it creates the stream."""
    await world.declare()
    await world.stream("job_1", messages=1, metadata=metadata)
    await world.emit(1, "SUCCESS")
    assert (await world.verdicts(**ruled(tmp_path)))["job_1"] == fate
    if fate[1] == "retention-unreadable":
        diagnosis = json.loads((await world.reactor("doctor", "--json")).out)
        [check] = [item for item in diagnosis["checks"] if item["name"] == "streams.retention"]
        assert "job_1 (reactor.keep-until='next week')" in check["found"]
        assert "reactor.keep-until='next week'" in (await world.reconcile())["streams"][0]["detail"]


async def test_a_protection_ends_by_itself(world: World) -> None:
    """With a worker, at its time and not before."""
    await world.declare()
    await world.stream("job_1", messages=1)
    async with worker(world.env(REACTOR_RECONCILE_INTERVAL="1h")):
        done = await world.reactor("protect", "job_1", "--for", "4s")
        assert done.code == 0
        assert "job_1 is protected until " in done.out
        await world.emit(1, "SUCCESS")
        await eventually(lambda: has_records(world, 1))
        explained = json.loads((await world.reactor("explain", "job_1", "--json")).out)
        assert (explained["verdict"], explained["reason"], explained["rule"]) == ("waiting", "protected", "stream")
        assert "reactor unprotect job_1" in explained["changes"]
        await eventually(lambda: gone(world, "job_1"), 20)
    [drained] = [item for item in await world.trail() if item.get("outcome") == "drained"]
    assert drained["rule"] == "default"  # its own time is over: the settings have decided


async def test_protecting_for_a_time_is_no_way_to_shorten_a_protection(world: World) -> None:
    """A time in the past is refused, and an unreadable one changes nothing."""
    await world.declare()
    await world.stream("job_1")
    assert (await world.reactor("protect", "job_1")).code == 0
    done = await world.reactor("protect", "job_1", "--for", "2h")
    assert (done.code, "protected for good" in done.err) == (1, True)
    assert (await world.reactor("unprotect", "job_1")).code == 0
    done = await world.reactor("protect", "job_1", "--until", "2020-01-01T00:00:00Z")
    assert (done.code, "is over" in done.err) == (1, True)
    assert (await world.reactor("protect", "job_1", "--until", "soon")).code == 2
    assert (await world.reactor("protect", "job_1", "--until", "2199-01-01T00:00:00Z", "--for", "1h")).code == 2
    assert (await world.reactor("protect", "job_1", "--until", "2199-01-01T00:00:00Z")).code == 0
    assert "as it was" in (await world.reactor("protect", "job_1", "--until", "2199-01-01T00:00:00Z")).out
    assert (await world.reactor("unprotect", "job_1")).code == 0
    assert not [key for key in (await world.info("job_1") or {})["config"]["metadata"] if key.startswith("reactor")]


@pytest.mark.parametrize("retried_after_s", [0.0, 1.0, 2.0])
async def test_a_retried_job_outlives_its_grace(world: World, tmp_path: Path, retried_after_s: float) -> None:
    """Within, at, and after the grace of a rule that is shorter than the retry takes (argo-workflows 12636).

    If the stream is deleted before its retry, the job system creates it again, and that one stays.
    """
    rules = '[[rule]]\nname = "short"\nstatus = ["FAILURE"]\nterminal_grace = "1s"'
    env = ruled(tmp_path, rules) | {"REACTOR_POLICY_TERMINAL_GRACE": "1h"}
    await world.declare()
    async with worker(world.env(**env)):
        await world.stream("job_1", messages=1)
        await world.emit(1, "FAILURE")
        await has_records(world, 1)
        await asyncio.sleep(retried_after_s)
        done = await world.reactor("prepare", "1", **env)
        assert done.code == 0, done.err
        if await gone(world, "job_1"):
            await world.stream("job_1")
        await world.emit(1, "STARTED")
        sent = [await world.js.publish("job.1.tasks", b"again") for _ in range(20)]
        await world.zombie(2, "FAILURE")
        await eventually(lambda: gone(world, "job_2"), 20)  # a later end has passed its grace
        state = (await world.info("job_1") or {})["state"]
        assert (state["messages"], state["last_seq"]) == (20, sent[-1].seq)


async def test_a_time_set_behind_a_fence_counts(world: World, tmp_path: Path) -> None:
    """A time that is set while a backup is written keeps the stream, and stays."""
    await world.stream("job_1", messages=1)
    async with Bench(world) as bench:
        await world.emit(1, "SUCCESS")
        await bench.take_snapshot()

        async def keep() -> None:
            config = (await world.info("job_1") or {})["config"]
            metadata = config["metadata"] | {"reactor.terminal-grace": "1h"}
            assert "error" not in await world.api("STREAM.UPDATE.job_1", config | {"metadata": metadata})

        bench.effects.before["STREAM.SNAPSHOT"] = keep
        settlement = await bench.drain(resources=bench.backing_up(tmp_path))
        assert (settlement.outcome, settlement.reason) == (Outcome.WAITING, Reason.GRACE)
        whole = await bench.whole()
        assert whole["config"]["metadata"]["reactor.terminal-grace"] == "1h"
        assert whole["config"]["subjects"] == ["job.1.tasks"]
