"""Logs: one stream, no secrets, nothing that moves the cursor."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from reactor import logs
from reactor.fields import parse_duration


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
    """A console only where there is a terminal."""
    stream, log = written(None)
    log.info("x")
    assert json.loads(stream.getvalue())["event"] == "x"


def test_the_standard_librarys_records_join_in() -> None:
    """FastStream and nats-py log there."""
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
    """Nothing of theirs moves the cursor or turns the line around."""
    stream, log = written("console")
    log.info("x", stream="job\x1b[2J\u202e\x00\nINFO forged")
    [line] = stream.getvalue().splitlines()
    assert "\x1b" not in line
    assert "\u202e" not in line
    assert "forged" in line


def test_levels_are_kept() -> None:
    """Also for the standard library, whose chatter starts at warning."""
    stream, log = written("json", "WARNING")
    log.info("x")
    logging.getLogger("faststream").info("y")
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    "value", ["nats://u:hun/ter2@h", "nats://u:hun@ter2@h", b"nats://u:hunter2@h", {"nats://hunter2@h"}]
)
def test_no_part_of_a_password_is_left(value: object) -> None:
    """Slashes and @ in it, or a value that is no string."""
    stream, log = written("json")
    log.info("x", value=value, deep={"key nats://u:hunter2@h": 1})
    assert "hun" not in stream.getvalue()
    assert "ter2" not in stream.getvalue()


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_no_value_breaks_a_log_call(fmt: str) -> None:
    """What cannot be shown is named by its type; what contains itself ends."""

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
