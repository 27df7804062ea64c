"""`streams`, `history`, and `explain` for a stream that is gone."""

import json

import pytest
from nats.js.api import StreamSource
from support.harness import World

from reactor.core.explain import details_of
from reactor.core.model import Reason


async def several(world: World) -> None:
    """A zombie, a live job's stream, a waiting one, and one that cannot be fenced."""
    await world.declare()
    await world.zombie(10, messages=3)
    await world.stream("job_2", messages=1)
    await world.emit(2, "STARTED")
    await world.stream("job_3")
    await world.zombie(4)
    await world.js.add_stream(name="copy", sources=[StreamSource("job_4")])


async def test_streams_are_listed_with_their_verdict(world: World) -> None:
    """By natural order of names; by verdict; sorted; in each format. Nothing is changed."""
    await several(world)
    await world.stream("other")
    env = {"REACTOR_POLICY_MISSING_GUARD": "24h"}
    table = (await world.reactor("streams", **env)).out.splitlines()
    assert [line.split()[:3] for line in table[2:6]] == [
        ["job_2", "kept", "running"],
        ["job_3", "waiting", "active"],
        ["job_4", "unfixable", "not-fenceable"],
        ["job_10", "zombie", "terminal"],
    ]
    assert table[0] == "no worker is alive: judged with the settings of this shell"
    assert table[6].startswith("4 job streams: 1 kept, 1 unfixable, 1 waiting, 1 zombie; ")
    assert "in 23 h" in table[3] or "in 1 d" in table[3]  # a moment of the day is over, rounded
    zombies = await world.reactor("streams", "--verdict", "zombie", "-o", "name", **env)
    assert zombies.out == "job_10\n"
    listed = json.loads((await world.reactor("streams", "-o", "json", "--sort", "size", **env)).out)
    rows = listed["streams"]
    assert rows[0]["stream"] == "job_10"
    assert [row["bytes"] for row in rows] == sorted((row["bytes"] for row in rows), reverse=True)
    assert rows[0]["due_at"] < listed["at"]
    wide = (await world.reactor("streams", "-o", "wide", **env)).out
    assert "stream copy mirrors or sources it" in wide
    assert await world.names() == {"job_10", "job_2", "job_3", "job_4", "copy", "other"}
    wrong = await world.reactor("streams", "--sort", "colour")
    assert (wrong.code, "none of name, due, age, size" in wrong.err) == (2, True)


async def test_a_pass_lists_all_that_it_has_found(world: World) -> None:
    """All streams by verdict and name, and which stream prevents a fence."""
    await several(world)
    for number in range(20, 40):
        await world.zombie(number, messages=0)
    report = await world.reactor("reconcile", "--dry-run")
    assert "would_drain terminal: 21 streams" in report.out
    assert all(f"job_{number}" in report.out for number in range(20, 40))
    assert "stream copy mirrors or sources it" in report.out


async def test_history_is_filtered_and_lists_a_stream_once(world: World) -> None:
    """By globs and outcomes. Several attempts on one stream are one line with their number."""
    await several(world)
    await world.verdicts()
    await world.verdicts()
    await world.verdicts()
    lines = (await world.reactor("history", "--stream", "job_4")).out.splitlines()
    assert len(lines) == 2
    assert "3 times since" in lines[1]
    assert "stream copy mirrors or sources it" in lines[1]
    drained = json.loads((await world.reactor("history", "--outcome", "drained", "--json")).out)["entries"]
    assert {entry["stream"] for entry in drained} == {"job_3", "job_10"}  # one pass drains them at once
    some = json.loads((await world.reactor("history", "--stream", "job_1*", "--json")).out)["entries"]
    assert {entry["stream"] for entry in some} == {"job_10"}
    assert all({"token", "made_of"}.isdisjoint(entry) for entry in some)
    narrow = (await world.reactor("history", COLUMNS="80")).out
    assert max(map(len, narrow.splitlines())) <= 200


async def test_what_is_gone_is_explained(world: World) -> None:
    """Exit code 5, on standard output: deleted by reactor, deleted by others, or never seen."""
    await world.declare()
    await world.zombie(1, messages=3)
    await world.emit(2, "STARTED")
    await world.verdicts()
    deleted = await world.reactor("explain", "job_1")
    assert deleted.code == 5
    assert "reactor drained it at" in deleted.out
    assert (
        "To bring it back: reactor restore job_1 (the empty stream with its consumers; 3 messages it held are lost)"
        in deleted.out
    )
    explanation = json.loads((await world.reactor("explain", "job_1", "--json")).out)
    assert (explanation["known"], explanation["verdict"]) == ("deleted", "already_gone")
    whats = [event["what"] for event in explanation["timeline"]]
    assert ["was reported as SUCCESS" in whats[0], "began to drain it" in whats[1], "barrier" in whats[2]] == [True] * 3
    other = json.loads((await world.reactor("explain", "job_2", "--json")).out)
    assert (other["known"], other["restorable"]) == ("heard_of", None)
    assert "If the stream existed since then, somebody else deleted it" in other["sentence"]
    never = json.loads((await world.reactor("explain", "job_3", "--json")).out)
    assert (never["known"], never["timeline"]) == ("never_heard_of", [])
    assert "is the name right?" in never["sentence"]


async def test_an_unreadable_event_is_called_that(world: World) -> None:
    """With the place where it is stored."""
    await world.declare()
    await world.stream("job_1")
    await world.publish("jobs.lifecycle.1", b"no JSON")
    explanation = json.loads((await world.reactor("explain", "job_1", "--json")).out)
    assert "could not be read: see REACTOR_DEAD_LETTERS" in explanation["sentence"]


@pytest.mark.parametrize("phase", ["paused", "unfixable", "outcome", "prepared"])
def test_every_entry_has_a_sentence(phase: str) -> None:
    """Also an entry of an older release with fewer fields."""
    actor = {"role": "pause", "user": "ana", "host": "h", "overrides": []}
    entry = {"phase": phase, "stream": "job_1", "job_id": "1", "reason": Reason.TERMINAL, "by": "h:1", "at": "T"}
    assert details_of(entry | ({"actor": actor} if phase == "paused" else {}))  # type: ignore[arg-type]
