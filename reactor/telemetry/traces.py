"""Traces for OpenTelemetry. They are off unless its variables turn them on; a span then costs one comparison.

They need the extra `otel`. No global state of OpenTelemetry is set:
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol, Self

import structlog

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer

FLUSH_S = 3.0
"""How long to wait for the export at the end (s), so that an unreachable collector does not delay a stop."""
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
NOT_INSTALLED = "traces are asked for, but the extra otel is not installed: pip install 'jetstream-reactor[otel]'"

log = structlog.get_logger(__name__)

Value = str | int | bool

_tracer: "Tracer | None" = None


class Span(Protocol):
    """A span that has begun."""

    def set(self, **attributes: Value) -> None:
        """Set attributes of the span."""


class _Off:
    """The span if traces are off."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def set(self, **_: Value) -> None:
        """Do nothing."""


@dataclass(eq=False, repr=False)
class _On:
    span: "OtelSpan"

    def set(self, **attributes: Value) -> None:
        self.span.set_attributes(attributes)


_OFF = _Off()


def span(name: str, **attributes: Value) -> AbstractContextManager[Span]:
    """Begin a span inside the current one of this task. An exception that leaves it is recorded and raised."""
    return _OFF if _tracer is None else _begun(_tracer, name, attributes)


@contextmanager
def _begun(tracer: "Tracer", name: str, attributes: Mapping[str, Value]) -> Iterator[Span]:
    with tracer.start_as_current_span(name, attributes=attributes) as item:
        yield _On(item)


@asynccontextmanager
async def tracing(environ: Mapping[str, str]) -> AsyncIterator[None]:
    """Trace during this context if the environment asks for it. Export the rest at the end."""
    wanted = _wanted(environ)
    exporter = _exporter(wanted) if wanted else None
    if exporter is None:
        yield
        return
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415  # costs nothing if it is off

    with traced_by(BatchSpanProcessor(exporter)):
        yield


@contextmanager
def traced_by(processor: "SpanProcessor") -> Iterator[None]:
    """Send all spans to this processor during this context."""
    global _tracer  # noqa: PLW0603  # passing a tracer through every constructor would cost more than it is worth
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415  # as above
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415  # as above

    ours = Resource({"service.name": "reactor", "service.version": version("jetstream-reactor")})
    provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
    provider.add_span_processor(processor)
    _tracer = provider.get_tracer("reactor", version("jetstream-reactor"))
    try:
        yield
    finally:
        _tracer = None
        # The exporter retries for 10 s or more and ignores timeouts, so it is not waited for at the end.
        flush = threading.Thread(target=provider.shutdown, name="flush traces", daemon=True)
        flush.start()
        flush.join(FLUSH_S)


def _wanted(environ: Mapping[str, str]) -> str | None:
    """Return the name of the exporter in the environment; an empty variable counts as not set."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    wanted = environ.get("OTEL_TRACES_EXPORTER") or ("otlp" if any(environ.get(name) for name in ENDPOINTS) else "none")
    return None if wanted == "none" else wanted


def _exporter(wanted: str) -> "SpanExporter | None":
    """Return the exporter. Return None and log a warning if it is not installed."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  # as above
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter  # noqa: PLC0415  # as above
    except ImportError:
        log.warning(NOT_INSTALLED)
        return None
    match wanted:
        case "otlp":
            return OTLPSpanExporter()
        case "console":
            return ConsoleSpanExporter(out=sys.stderr)  # standard output belongs to the commands
        case _:
            log.warning("traces are off: OTEL_TRACES_EXPORTER can be otlp, console or none", found=wanted)
            return None
