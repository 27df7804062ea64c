"""The log of streams: each drain once with its evidence, each verdict once."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from support.harness import WorkerProcess, World, eventually, record_of, worker

from reactor.core.model import SECOND, Outcome, Reason, Settlement, Stream
from reactor.telemetry import logs
from reactor.telemetry.sinks import LogSink

STREAM = Stream("job_1", "1", observed_at=90 * SECOND, created=30 * SECOND, messages=3, size=99, last_seq=7)
WAITING = Settlement(Outcome.WAITING, Reason.FRESH, STREAM, record_of(60 * SECOND, 5, "SUCCESS"))
KEPT = replace(WAITING, outcome=Outcome.KEPT, reason=Reason.RUNNING)
DRAINED = replace(WAITING, outcome=Outcome.DRAINED, reason=Reason.TERMINAL, late_s=0.01234)


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure("DEBUG", "json", stream)
    yield stream
    logs.configure("ERROR", "json")


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_drain_is_one_line_with_all_its_evidence(stream: io.StringIO) -> None:
    """The line is enough to understand a drain. People's searches depend on its keys."""
    journal = LogSink("host:1")
    journal.ended(DRAINED)
    journal.judged(DRAINED)
    [line] = lines(stream)
    del line["timestamp"]
    assert line == {
        "level": "info",
        "event": "stream drained",
        "stream": "job_1",
        "job_id": "1",
        "outcome": "drained",
        "reason": "terminal",
        "status": "SUCCESS",
        "occurred_at": "1970-01-01T00:01:00Z",
        "created": "1970-01-01T00:00:30Z",
        "age_s": 60.0,
        "messages": 3,
        "size": 99,
        "last_seq": 7,
        "last_publish": None,
        "last_active": None,
        "late_s": 0.012,
        "detail": None,
        "by": "host:1",
    }


@pytest.mark.parametrize(
    ("outcome", "event"), [(Outcome.ALREADY_GONE, "stream already gone"), (Outcome.WAITING, "drain given up")]
)
def test_a_drain_that_deleted_nothing_is_reported_by_another_name(
    stream: io.StringIO, outcome: Outcome, event: str
) -> None:
    """With the same keys, even if the stream could not be read."""
    LogSink("x").ended(DRAINED)
    LogSink("x").ended(Settlement(outcome, Reason.GONE, Stream("job_1", "1", 0)))
    drained, other = lines(stream)
    assert other["event"] == event
    assert list(other) == list(drained)


def test_a_verdict_is_reported_when_it_changes(stream: io.StringIO) -> None:
    """Not each time it is found again."""
    journal = LogSink("x")
    for found in (WAITING, WAITING, KEPT, KEPT, WAITING):
        journal.judged(found)
    assert [(line["was_reason"], line["reason"], line["level"]) for line in lines(stream)] == [
        (None, "fresh", "debug"),
        ("fresh", "running", "debug"),
        ("running", "fresh", "debug"),
    ]


def test_a_stream_made_again_is_a_new_one(stream: io.StringIO) -> None:
    """After a drain its name starts again."""
    LogSink("x").judged(KEPT, DRAINED, replace(KEPT, stream=replace(STREAM, created=60 * SECOND)))
    assert [line["was_reason"] for line in lines(stream)] == [None, None]


def test_endless_streams_take_bounded_memory(stream: io.StringIO) -> None:
    """The least recent one is forgotten, and logged again."""
    journal = LogSink("x", most=2)
    for at, number in enumerate((1, 2, 3, 3, 1)):
        journal.judged(replace(KEPT, stream=replace(STREAM, name=f"job_{number}", observed_at=at)))
    assert [line["stream"] for line in lines(stream)] == ["job_1", "job_2", "job_3", "job_1"]


def logged(process: WorkerProcess, event: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, process.lines) if line["event"] == event]


async def test_a_worker_logs_what_it_did_and_why(world: World) -> None:
    """One line for the drain, in any number of passes and sweeps; one for each verdict; only JSON."""
    await world.declare()
    await world.zombie(1)
    await world.stream("job_2")
    await world.emit(2, "STARTED")
    env = world.env(REACTOR_LOG_LEVEL="DEBUG", REACTOR_LOG_FORMAT="json", REACTOR_RECONCILE_INTERVAL="1s")
    async with worker(env) as process:
        await eventually(lambda: logged(process, "stream drained"))
        await eventually(lambda: len(logged(process, "reconcile done")) >= 3)
        [drain] = logged(process, "stream drained")
        kept = [line for line in logged(process, "verdict changed") if line["stream"] == "job_2"]
    assert drain.items() >= {"stream": "job_1", "reason": "terminal", "status": "SUCCESS", "messages": 1}.items()
    assert [line["reason"] for line in kept][-1] == "running"
    assert len(kept) == len({line["reason"] for line in kept})
