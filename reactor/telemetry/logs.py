"""The log on standard error: structlog, and records of the standard library's logging (FastStream, nats-py)."""

import logging
import re
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

# Up to the last @ of a word, because a password may contain / and @. A comma ends it if the next server follows.
# Bounded, so that a long hostile text costs little.
_USERINFO = re.compile(r"(?<=://)(?:(?!,[a-z]{1,9}://)\S){1,4096}@", re.IGNORECASE)
_MULTILINE = frozenset({"exception", "stack"})
_DEEPEST = 8
_INTERNAL = frozenset({"_record", "_from_structlog"})
FASTSTREAM = "reactor.faststream"
"""The name of the logger that FastStream uses."""
_QUIET = ("faststream", FASTSTREAM, "nats", "uvicorn", "asyncio", "aiosqlite", "sqlalchemy", "httpx", "httpcore")
_FIRST = ("timestamp", "level", "event")
_VARYING = frozenset({"timestamp", "at", "failures", "attempts", "retry_s", "duration_s"})
"""Fields that may differ between lines that count as equal."""
SUMMARY_S = 60.0


def configure(level: str, fmt: str | None, stream: TextIO | None = None) -> None:
    """Set up logging for this process. `fmt` is `console` or `json`; None means console on a terminal, else json."""
    stream = stream or sys.stderr
    renderer = _console(stream) if (fmt or ("console" if stream.isatty() else "json")) == "console" else _json()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(),
        mask_credentials,
        Repeats(),
    ]
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = _Handler(stream)
    foreign: list[Processor] = [structlog.stdlib.add_logger_name, *shared]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=foreign, processors=[_drop, *renderer]))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for name in _QUIET:
        logger = logging.getLogger(name)
        logger.setLevel(max(logging.WARNING, getattr(logging, level)))
        logger.handlers, logger.propagate = [], True  # FastStream brings a stream and a form of its own


class _Handler(logging.StreamHandler[TextIO]):
    """Accepts that a processor drops a record."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless a processor drops it."""
        with suppress(structlog.DropEvent):
            super().emit(record)


@dataclass(eq=False, repr=False)
class Repeats:
    """A processor that thins out equal lines: the first is logged at once, then one a minute, with the number dropped.

    Lines at info, such as drains, are never dropped. `monotonic` is in seconds. `kinds` lines are remembered.
    """

    monotonic: Callable[[], float] = time.monotonic
    kinds: int = 1_000

    def __post_init__(self) -> None:
        self._recent: OrderedDict[int, tuple[float, int]] = OrderedDict()

    def __call__(self, _logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        """Return the event, with `repeated` if equal ones were dropped before it. Raises DropEvent."""
        if event["level"] == "info":
            return event
        varying = _VARYING | _INTERNAL
        alike = hash(tuple(sorted((key, repr(value)) for key, value in event.items() if key not in varying)))
        now = self.monotonic()
        logged_at, repeated = self._recent.pop(alike, (now - SUMMARY_S, 0))
        if now - logged_at < SUMMARY_S:
            self._recent[alike] = logged_at, repeated + 1
            raise structlog.DropEvent
        self._recent[alike] = now, 0
        if len(self._recent) > self.kinds:
            self._recent.popitem(last=False)
        return {**event, "repeated": repeated} if repeated else event


def _in_order(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Return the event with the fields that every line has in front."""
    return {**{key: event[key] for key in _FIRST}, **event}


def _json() -> list[Processor]:
    return [_in_order, structlog.processors.JSONRenderer()]


def _console(stream: TextIO) -> list[Processor]:
    return [_escape, structlog.dev.ConsoleRenderer(colors=stream.isatty(), sort_keys=False)]


def _drop(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    return structlog.stdlib.ProcessorFormatter.remove_processors_meta(_logger, _name, event)


def mask_credentials(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Mask user and password of every URL in an event."""
    return {key: value if key in _INTERNAL else _masked(value) for key, value in event.items()}


def _masked(value: Any, depth: int = 0) -> Any:  # noqa: ANN401  # a log call takes anything
    match value:
        case str():
            return _USERINFO.sub("***@", value)
        case None | bool() | int() | float():
            return value
        case dict() if depth < _DEEPEST:
            return {_masked(_text(key)): _masked(part, depth + 1) for key, part in value.items()}
        case list() | tuple() if depth < _DEEPEST:
            return [_masked(part, depth + 1) for part in value]
        case _:
            return _masked(_text(value))


def _text(value: object) -> str:
    """Return any value as text. A value that cannot be converted must not break the log call."""
    try:
        return str(value) if isinstance(value, str | BaseException) else repr(value)
    except Exception:  # noqa: BLE001  # its __repr__ is somebody else's code
        return f"<{type(value).__name__}>"


def _escape(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Escape control characters in foreign text, so that it cannot move the cursor or reverse the line."""
    return {_visible(key): _line(key, value) for key, value in event.items()}


def _line(key: str, value: object) -> object:
    """Escape line breaks, which could forge a line of the log. A traceback keeps them."""
    if key in _MULTILINE:
        return _visible(str(value), keep="\n")
    return _visible(value) if isinstance(value, str) else value


def _visible(text: str, keep: str = "") -> str:
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)
