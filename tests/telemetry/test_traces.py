"""Traces: a span for each batch and each drain with its steps, if they are on; nothing otherwise."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from io import StringIO
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from support.bench import Bench
from support.harness import ROOT, World, eventually, gone, worker

from reactor.cli.embedded import HOST
from reactor.telemetry import logs
from reactor.telemetry.traces import _OFF, ENDPOINTS, FLUSH_S, NOT_INSTALLED, span, traced_by, tracing

STEPS = ["inspect", "audit", "fence", "recheck", "barrier", "delete", "conclude"]


@pytest.fixture
def memory() -> Iterator[InMemorySpanExporter]:
    """The spans of this process."""
    exporter = InMemorySpanExporter()
    with traced_by(SimpleSpanProcessor(exporter)):
        yield exporter


@pytest.fixture
def log_text() -> Iterator[StringIO]:
    """The log of this process."""
    log = StringIO()
    logs.configure("INFO", "json", log)
    yield log
    logs.configure("ERROR", "json")


def of(memory: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [item for item in memory.get_finished_spans() if item.name == name]


def steps(memory: InMemorySpanExporter, parent: ReadableSpan) -> list[str]:
    """Return the steps in a span, in the order in which they began."""
    spans = [
        item for item in memory.get_finished_spans() if item.parent and item.parent.span_id == parent.context.span_id
    ]
    return [item.name for item in sorted(spans, key=lambda item: item.start_time or 0)]


async def test_a_drain_is_a_span_with_its_steps(world: World, memory: InMemorySpanExporter) -> None:
    """Its attributes name the stream, the job and the outcome."""
    async with Bench(world) as bench:
        await world.zombie(1)
        await bench.drain()
    [drain] = of(memory, "drain")
    assert drain.attributes == {
        "stream": "job_1",
        "job_id": "1",
        "outcome": "drained",
        "reason": "terminal",
    }
    assert drain.parent is None
    assert steps(memory, drain) == STEPS
    assert drain.status.status_code is StatusCode.UNSET
    assert drain.resource.attributes["service.name"] == "reactor"


async def test_an_aborted_drain_says_what_stopped_it(world: World, memory: InMemorySpanExporter) -> None:
    """The job was retried in between: the fence is removed instead of a deletion."""
    async with Bench(world) as bench:
        await world.zombie(1)
        bench.effects.before["STREAM.UPDATE"] = lambda: world.emit(1, "STARTED")
        await bench.drain()
    [drain] = of(memory, "drain")
    assert drain.attributes is not None
    assert (drain.attributes["outcome"], drain.attributes["reason"]) == ("kept", "running")
    assert steps(memory, drain) == ["inspect", "audit", "fence", "recheck", "unfence", "conclude"]


async def test_a_step_that_failed_has_its_error(world: World, memory: InMemorySpanExporter) -> None:
    """The drain itself ended, because another client had deleted the stream."""
    async with Bench(world) as bench:
        await world.zombie(1)
        bench.effects.before["STREAM.UPDATE"] = lambda: world.js.delete_stream("job_1")
        await bench.drain()
    [drain], [fence] = of(memory, "drain"), of(memory, "fence")
    assert drain.attributes is not None
    assert drain.attributes["outcome"] == "already_gone"
    assert fence.status.status_code is StatusCode.ERROR
    assert drain.status.status_code is StatusCode.UNSET


async def test_drains_at_the_same_time_do_not_share_their_steps(world: World, memory: InMemorySpanExporter) -> None:
    """Each step belongs to its drain. The pass read its events as one batch before."""
    await world.declare()
    for number in range(20):
        await world.zombie(number)
    await world.reconcile()
    drains = of(memory, "drain")
    assert {item.attributes["stream"] for item in drains if item.attributes} == {f"job_{n}" for n in range(20)}
    assert [steps(memory, item) for item in drains] == [STEPS] * 20
    [batch] = of(memory, "lifecycle events")
    assert batch.attributes == {"messages": 20, "outcome": "stored"}
    assert steps(memory, batch) == ["lifecycle event"] * 20


async def test_each_event_is_a_span(world: World, memory: InMemorySpanExporter) -> None:
    """With its job and its outcome, also if it could not be read."""
    await world.declare()
    await world.emit(1, "started")
    await world.emit(1, "STARTED", occurred_at="2020-01-01T00:00:00Z")
    await world.publish("jobs.lifecycle.2", b"{")
    await world.reconcile()
    assert [item.attributes for item in of(memory, "lifecycle event")] == [
        {"job_id": "1", "status": "STARTED", "outcome": "applied"},
        {"job_id": "1", "status": "STARTED", "outcome": "applied"},
        {"job_id": "2", "status": "?", "outcome": "malformed"},
    ]


def test_one_span_for_all_while_nobody_traces() -> None:
    """Nothing is created or kept."""
    with span("drain", stream="job_1") as span_open:
        span_open.set(outcome="drained")
    assert span_open is _OFF
    assert span("other") is _OFF


class Collector:
    """What an OTLP collector has received."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.services: set[str] = set()
        self.address = ""

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        sent = ExportTraceServiceRequest.FromString(await reader.readexactly(length))
        for group in sent.resource_spans:
            self.services |= {
                attribute.value.string_value
                for attribute in group.resource.attributes
                if attribute.key == "service.name"
            }
            self.names |= {item.name for scope in group.scope_spans for item in scope.spans}
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    item = Collector()
    async with await asyncio.start_server(item.take, HOST, 0) as server:
        item.address = f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
        yield item


async def test_a_worker_exports_what_is_left_when_it_stops(world: World) -> None:
    """By the standard protocol, variables and service name."""
    async with collector() as sent:
        env = world.env(
            OTEL_EXPORTER_OTLP_ENDPOINT=sent.address,
            OTEL_EXPORTER_OTLP_COMPRESSION="none",
            OTEL_BSP_SCHEDULE_DELAY=600_000,
            OTEL_SERVICE_NAME="cleaner",
        )
        async with worker(env) as process:
            await world.zombie(1)
            await eventually(lambda: gone(world, "job_1"))
            assert not sent.names
            assert await process.stop() == 0
        await eventually(lambda: sent.names >= {"lifecycle events", "advisory", "drain", *STEPS})
        assert sent.services == {"cleaner"}


async def test_a_collector_that_is_away_holds_up_no_stop(world: World) -> None:
    """Nor the work."""
    async with worker(world.env(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{HOST}:1")) as process:
        await world.zombie(1)
        await eventually(lambda: gone(world, "job_1"))
        assert await asyncio.wait_for(process.stop(), FLUSH_S + 5) == 0


async def test_a_command_is_traced_beside_its_output(world: World) -> None:
    """Standard output has only the report."""
    await world.declare()
    await world.zombie(1)
    done = await world.reactor("reconcile", "--json", OTEL_TRACES_EXPORTER="console")
    assert json.loads(done.out)["fixed"] == 1
    assert '"name": "drain"' in done.err


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", ENDPOINTS[0]: "http://c"},
        {"OTEL_TRACES_EXPORTER": "", ENDPOINTS[1]: ""},
        {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "console"},
        {"OTEL_TRACES_EXPORTER": "zipkin"},
    ],
    ids=str,
)
async def test_they_are_off_where_nobody_asks(log_text: StringIO, environ: dict[str, str]) -> None:
    """An empty variable is not set. An unknown exporter is reported."""
    async with tracing(environ):
        assert span("drain") is _OFF
    lines = [json.loads(line) for line in log_text.getvalue().splitlines()]
    assert [item["found"] for item in lines] == (["zipkin"] if "zipkin" in environ.values() else [])


@pytest.mark.parametrize("variable", ["OTEL_TRACES_EXPORTER", *ENDPOINTS])
async def test_they_are_on_where_any_of_the_variables_asks(variable: str) -> None:
    """And off again afterwards."""
    async with tracing({variable: "console"}):
        assert span("drain") is not _OFF
    assert span("drain") is _OFF


async def test_a_missing_extra_is_one_line_that_names_it(log_text: StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker works without traces."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    async with tracing({"OTEL_TRACES_EXPORTER": "otlp"}):
        assert span("drain") is _OFF
    [line] = [json.loads(line) for line in log_text.getvalue().splitlines()]
    assert (line["level"], line["event"]) == ("warning", NOT_INSTALLED)
    assert "reactor[otel]" in NOT_INSTALLED


async def test_nothing_of_opentelemetry_is_loaded_where_nobody_asks(world: World) -> None:
    """It cannot be imported here at all, and a whole pass works.

    Loaded modules alone would not show it, because redis-py loads the metrics if they are installed.
    """
    await world.declare()
    await world.zombie(1)
    done = await python(BARE, world.env())
    assert done["fixed"] == 1


async def test_no_exporter_and_no_tracer_is_loaded_where_nobody_asks(world: World) -> None:
    """With the extra installed."""
    assert await python(LOADED, world.env()) == []
    assert "opentelemetry.sdk.trace" in await python(LOADED, world.env(OTEL_TRACES_EXPORTER="console"))


BARE = """
import sys
sys.modules["opentelemetry"] = None
sys.argv = ["reactor", "reconcile", "--json"]
import reactor.app, reactor.cli.main
reactor.cli.main.main()
"""
LOADED = """
import asyncio, json, os, sys
import reactor.app, reactor.cli.main
from reactor.telemetry.traces import tracing

async def nothing():
    async with tracing(os.environ):
        pass

asyncio.run(nothing())
ours = ("opentelemetry.exporter", "opentelemetry.sdk.trace")
print(json.dumps([name for name in sys.modules if name.startswith(ours)]))
"""


async def python(program: str, env: dict[str, str]) -> Any:
    """Return what a program prints, as JSON."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), env=env | {"PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    return json.loads(out)
