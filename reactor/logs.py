"""Logging to standard error: structlog, and the standard library's records (FastStream, nats-py) in the same stream."""

import logging
import re
import sys
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_USERINFO = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)[^\s/@]+@", re.IGNORECASE)
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
    return {key: _masked(value) for key, value in event.items()}


def _masked(value: Any) -> Any:  # noqa: ANN401  # a log call takes anything
    match value:
        case str():
            return _USERINFO.sub(r"\g<scheme>***@", value)
        case dict():
            return {key: _masked(part) for key, part in value.items()}
        case list() | tuple():
            return [_masked(part) for part in value]
        case BaseException():
            return _masked(str(value))
        case _:
            return value


def _escape(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Names and messages come from others: nothing of theirs may move the cursor or turn the line around."""
    return {key: _visible(value) if isinstance(value, str) else value for key, value in event.items()}


def _visible(text: str) -> str:
    """Printable, but for the line breaks of our own tracebacks."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
