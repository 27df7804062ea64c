"""The log: one stream, no secrets, nothing that moves the cursor."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from reactor.core.durations import parse_duration
from reactor.telemetry import logs


@pytest.fixture(autouse=True)
def _quiet_again() -> Iterator[None]:
    yield
    logs.configure("ERROR", "json")


def written(fmt: str | None, level: str = "INFO") -> tuple[io.StringIO, structlog.stdlib.BoundLogger]:
    stream = io.StringIO()
    logs.configure(level, fmt, stream)
    return stream, structlog.get_logger("test")


def test_json_lines_have_stable_keys() -> None:
    """Event, level, UTC time."""
    stream, log = written("json")
    log.info("stream drained", stream="job_1", messages=3)
    line = json.loads(stream.getvalue())
    assert line | {"timestamp": ""} == {
        "event": "stream drained",
        "level": "info",
        "stream": "job_1",
        "messages": 3,
        "timestamp": "",
    }
    assert line["timestamp"].endswith("Z")


def test_json_is_what_a_pipe_gets() -> None:
    """The console format is only for a terminal."""
    stream, log = written(None)
    log.info("x")
    assert json.loads(stream.getvalue())["event"] == "x"


def test_the_standard_librarys_records_join_in() -> None:
    """FastStream and nats-py use it."""
    stream, _ = written("json")
    logging.getLogger("nats.aio.client").warning("disconnected from %s", "nats://me:pw@host")
    line = json.loads(stream.getvalue())
    assert (line["event"], line["level"]) == ("disconnected from nats://***@host", "warning")


def test_credentials_in_urls_are_masked_wherever_they_stand() -> None:
    """In the event, in values, in lists, in tracebacks."""
    stream, log = written("json")
    try:
        parse_duration("redis://:hunter2@host/0")
    except ValueError as error:
        log.exception("failed", url="nats://u:hunter2@a,nats://v:hunter2@b", urls=["tls://u:hunter2@h"], why=error)
        log.info("x", deep={"url": "nats://hunter2@h"}, number=5)
    assert "hunter2" not in stream.getvalue()
    assert "nats://***@a,nats://***@b" in stream.getvalue()


def test_hostile_names_are_escaped_on_a_console() -> None:
    """They cannot move the cursor or reverse the line."""
    stream, log = written("console")
    log.info("x", stream="job\x1b[2J\u202e\x00\nINFO forged")
    [line] = stream.getvalue().splitlines()
    assert "\x1b" not in line
    assert "\u202e" not in line
    assert "forged" in line


def test_levels_are_kept() -> None:
    """Also for the standard library, which logs from warning on."""
    stream, log = written("json", "WARNING")
    log.info("x")
    logging.getLogger("faststream").info("y")
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    "value", ["nats://u:hun/ter2@h", "nats://u:hun@ter2@h", b"nats://u:hunter2@h", {"nats://hunter2@h"}]
)
def test_no_part_of_a_password_is_left(value: object) -> None:
    """With slashes and @ in it, or a value that is not a string."""
    stream, log = written("json")
    log.info("x", value=value, deep={"key nats://u:hunter2@h": 1})
    assert "hun" not in stream.getvalue()
    assert "ter2" not in stream.getvalue()


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_no_value_breaks_a_log_call(fmt: str) -> None:
    """A value that cannot be shown is named by its type. A value that contains itself ends."""

    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    loop: list[object] = []
    loop.append(loop)
    stream, log = written(fmt)
    log.info("x", broken=Broken(), loop=loop, keys={(1, 2): 3}, exception=5, stack=6)
    assert "<Broken>" in stream.getvalue()


def test_nothing_forges_a_line_on_a_console() -> None:
    """Neither an event, nor a name, nor the standard library."""
    stream, log = written("console")
    log.info("x\nforged", **{"key\x1b[2J\n": 1})
    logging.getLogger("other").warning("y\nforged")
    assert len(stream.getvalue().splitlines()) == 2
    assert "\x1b" not in stream.getvalue()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def summarised(repeats: logs.Repeats, **event: object) -> dict[str, Any] | None:
    """Return the event as it is written; None if it is dropped."""
    try:
        return dict(repeats(None, "", dict(event)))
    except structlog.DropEvent:
        return None


def test_failures_that_are_alike_are_summarised() -> None:
    """The first at once, then one a minute with the number dropped. Counters and times make no difference."""
    repeats = logs.Repeats(clock := Clock())
    failure = {"level": "warning", "event": "failed", "error": "connection refused"}
    assert summarised(repeats, **failure, failures=1, timestamp="a") == {**failure, "failures": 1, "timestamp": "a"}
    for number in range(2, 61):
        clock.now += 1
        assert summarised(repeats, **failure, failures=number, timestamp="b") is None
    clock.now += 1
    assert (summarised(repeats, **failure, failures=61) or {})["repeated"] == 59
    assert summarised(repeats, **failure, failures=62) is None
    clock.now += 61
    assert (summarised(repeats, **failure, failures=62) or {})["repeated"] == 1
    clock.now += 61
    assert summarised(repeats, **failure, failures=63) == {**failure, "failures": 63}


def test_what_differs_is_reported_at_once_and_what_went_well_each_time() -> None:
    """Another stream, another error, another level. Nothing at info is ever dropped."""
    repeats = logs.Repeats(Clock())
    lines = [{"level": "warning", "stream": f"job_{number}"} for number in range(5)]
    lines += [{"level": "error", "stream": "job_1"}, {"level": "warning", "stream": "job_1", "error": "other"}]
    lines += [{"level": "info", "event": "stream drained", "stream": "job_1"}] * 3
    assert [summarised(repeats, **line) for line in lines] == lines


def test_endless_kinds_of_failures_take_bounded_memory() -> None:
    """The least recent one is forgotten, and logged again."""
    repeats = logs.Repeats(Clock(), kinds=10)
    for number in range(11):
        summarised(repeats, level="warning", event=number)
    assert summarised(repeats, level="warning", event=10) is None
    assert summarised(repeats, level="warning", event=0) is not None


def test_a_librarys_traceback_in_a_loop_is_written_once(capsys: pytest.CaptureFixture[str]) -> None:
    """nats-py's error callback writes one at each failed reconnect. No other stream gets them."""
    stream, _ = written("json")
    for _ in range(20):
        try:
            raise ConnectionError("refused")  # noqa: TRY301
        except ConnectionError:
            logging.getLogger("nats.aio.client").exception("nats: encountered error")
    [line] = stream.getvalue().splitlines()
    assert json.loads(line).items() >= {"logger": "nats.aio.client", "level": "error"}.items()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["faststream", "uvicorn.error", logs.FASTSTREAM])
def test_no_library_has_a_stream_of_its_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """FastStream brings a handler and a format. Its lines at info are dropped."""
    stream, _ = written("json")
    logging.getLogger(name).info("app started")
    logging.getLogger(name).warning("broken")
    [line] = stream.getvalue().splitlines()
    assert list(json.loads(line)) == ["timestamp", "level", "event", "logger"]
    assert capsys.readouterr().err == ""


def test_a_broken_format_is_still_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Only what was dropped on purpose is not an error."""
    written("json")
    logging.raiseExceptions = True
    logging.getLogger("other").warning("%d", "not a number")
    assert "Logging error" in capsys.readouterr().err
