"""Logging to standard error: structlog, and the standard library's records (FastStream, nats-py) in the same stream."""

import logging
import re
import sys
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

# Up to the last @ of a word, as a password may hold / and @; a comma ends it where the next server begins. Bounded, so
# that a long hostile text costs little.
_USERINFO = re.compile(r"(?<=://)(?:(?!,[a-z]{1,9}://)\S){1,4096}@", re.IGNORECASE)
_MULTILINE = frozenset({"exception", "stack"})
_DEEPEST = 8
_INTERNAL = frozenset({"_record", "_from_structlog"})
_QUIET = ("faststream", "nats", "uvicorn", "asyncio")


def configure(level: str, fmt: str | None, stream: TextIO | None = None) -> None:
    """Set up logging for this process. `fmt` is `console` or `json`; None takes the first on a terminal only."""
    stream = stream or sys.stderr
    renderer = _console(stream) if (fmt or ("console" if stream.isatty() else "json")) == "console" else _json()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(),
        mask_credentials,
    ]
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[_drop, *renderer]))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, getattr(logging, level)))


def _json() -> list[Processor]:
    return [structlog.processors.JSONRenderer()]


def _console(stream: TextIO) -> list[Processor]:
    return [_escape, structlog.dev.ConsoleRenderer(colors=stream.isatty())]


def _drop(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    return structlog.stdlib.ProcessorFormatter.remove_processors_meta(_logger, _name, event)


def mask_credentials(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """No user or password of a URL is written, wherever it stands."""
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
    """Of anything: a value that cannot be shown must not break the call that logs it."""
    try:
        return str(value) if isinstance(value, str | BaseException) else repr(value)
    except Exception:  # noqa: BLE001  # its __repr__ is somebody else's code
        return f"<{type(value).__name__}>"


def _escape(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Names and messages come from others: nothing of theirs may move the cursor or turn the line around."""
    return {_visible(key): _line(key, value) for key, value in event.items()}


def _line(key: str, value: object) -> object:
    """Only a traceback has lines; an event's or a value's would forge a line of the log."""
    if key in _MULTILINE:
        return _visible(str(value), keep="\n")
    return _visible(value) if isinstance(value, str) else value


def _visible(text: str, keep: str = "") -> str:
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)
