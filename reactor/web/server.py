"""The worker's HTTP endpoint. By default it is read only and binds to loopback.

/               the page                      /api/status, /api/streams, /api/streams/{name}
/healthz        the process lives             /api/history, /api/timeline, /api/leaks
/readyz         it receives, and may delete   /events (server-sent)
/docs           its messages on NATS          /docs/asyncapi.json
/metrics        for Prometheus                /api/orders/… (POST), if they are allowed
"""

import asyncio
import secrets
import socket
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import InitVar, dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reactor.core.schemas import Explanation, History, Leaks, Status, Streams, Timeline, Workers
from reactor.operate.actions import StreamActions
from reactor.operate.overview import Overview
from reactor.web.actions import ActionRoutes
from reactor.web.feed import Feed
from reactor.web.responses import Declined, answering, declined

PAGE = Path(__file__).parent / "page"
MOST_ENTRIES = 10_000
SAFE = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

log = structlog.get_logger(__name__)

PROBES = {"/healthz", "/readyz"}
"""The probes show nothing about jobs, and accept any host name, because platforms use their own."""
EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104  # compared, not bound
MISDIRECTED = 421
WAITING = "waiting for NATS and Redis"
Readiness = Callable[[], Awaitable[list[str]]]
Exposition = Callable[[str], tuple[bytes, str]]
"""Returns the metrics in the format that an Accept header asks for, and the content type."""


class HttpError(Exception):
    """The endpoint cannot be opened. The message says why, and what to do."""


def application(
    overview_of: Callable[[], Overview | None],
    not_ready: Readiness,
    exposition: Exposition,
    contract: Mapping[str, Any],
    *,
    token: str | None,
    hosts: Collection[str],
    stopping: asyncio.Event,
    actions: Callable[[], StreamActions | None] = lambda: None,
) -> Starlette:
    """Return the ASGI application.

    `overview_of` returns None while the worker waits for its servers. `not_ready` returns why it is not ready. `token`
    guards `/api`, `/events` and `/metrics`. `contract` is the AsyncAPI document. Requests for other `hosts` are
    refused: a foreign page could use its own name for this address (DNS rebinding). `stopping` ends the event stream.
    `actions` returns None if the page may give no orders.
    """
    answers, action_routes = _Answers(overview_of, not_ready, exposition, stopping), ActionRoutes(actions, token)

    async def status(request: Request) -> object:
        return {**await answers.status(request), "orders": action_routes.allowed}

    async def docs(_request: Request) -> Response:
        return FileResponse(PAGE / "docs.html")

    async def asyncapi(_request: Request) -> Response:
        return JSONResponse(contract)

    routes = [
        Route("/healthz", answers.healthz),
        Route("/readyz", answers.readyz),
        Route("/api/status", answering(status)),
        Route("/api/streams", answering(answers.streams)),
        Route("/api/streams/{name:path}", answering(answers.explain)),
        Route("/api/history", answering(answers.history)),
        Route("/api/timeline", answering(answers.timeline)),
        Route("/api/leaks", answering(answers.leaks)),
        Route("/api/workers", answering(answers.workers)),
        *action_routes.routes(),
        Route("/events", answers.events),
        Route("/docs", docs),
        Route("/docs/asyncapi.json", asyncapi),
        Route("/metrics", answers.metrics),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]
    return Starlette(routes=routes, middleware=[Middleware(_Guard, token=token, hosts=hosts)])


@dataclass(eq=False, repr=False)
class _Answers:
    """The handlers of the API. Each returns an answer of the overview."""

    overview_of: Callable[[], Overview | None]
    not_ready: Readiness
    exposition: Exposition
    stopping: InitVar[asyncio.Event]

    def __post_init__(self, stopping: asyncio.Event) -> None:
        self._feed = Feed(stopping)

    def _overview(self) -> Overview:
        overview = self.overview_of()
        if overview is None:
            raise Declined(503, WAITING)
        return overview

    async def healthz(self, _request: Request) -> Response:
        return JSONResponse({"alive": True})

    async def readyz(self, _request: Request) -> Response:
        reasons = await self.not_ready()
        return JSONResponse({"ready": not reasons, "reasons": reasons}, status_code=503 if reasons else 200)

    async def metrics(self, request: Request) -> Response:
        content, content_type = self.exposition(request.headers.get("accept", ""))
        return Response(content, headers={"Content-Type": content_type})

    async def status(self, _request: Request) -> Status:
        return await self._overview().status()

    async def streams(self, _request: Request) -> Streams:
        return await self._overview().streams()

    async def explain(self, request: Request) -> Explanation:
        return await self._overview().explain(request.path_params["name"])

    async def history(self, request: Request) -> History:
        limit = request.query_params.get("limit", "200")
        if not limit.isascii() or not limit.isdigit() or not int(limit[:20]):
            raise Declined(400, f"limit must be a number from 1 on, not {limit[:20]!r}")
        return await self._overview().trail.history(min(int(limit[:20]), MOST_ENTRIES))

    async def timeline(self, _request: Request) -> Timeline:
        return await self._overview().timeline()

    async def leaks(self, _request: Request) -> Leaks:
        return await self._overview().trail.leaks()

    async def workers(self, _request: Request) -> Workers:
        return await self._overview().workers()

    async def events(self, _request: Request) -> Response:
        overview = self.overview_of()
        if overview is None:
            return declined(503, WAITING)
        return StreamingResponse(self._feed.listen(overview), media_type="text/event-stream")


@dataclass(eq=False, repr=False)
class _Guard:
    """A middleware that adds safe headers, requires the token, and refuses foreign host names."""

    app: ASGIApp
    token: str | None
    hosts: InitVar[Collection[str]]

    def __post_init__(self, hosts: Collection[str]) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                safe = [(name.lower().encode(), value.encode()) for name, value in SAFE.items()]
                message["headers"] = [*message.get("headers", ()), *safe]
            await send(message)

        await self._chosen(Request(scope))(scope, receive, send_safely)

    def _chosen(self, request: Request) -> ASGIApp:
        host = _name_of(request.headers.get("host", ""))
        if request.url.path not in PROBES and host not in self._hosts and not self._is_address(host):
            message = f"not answered for the name {host[:100]!r}: if it is this host's, add it to REACTOR_HTTP_HOSTS"
            return declined(MISDIRECTED, message)
        return self.app if self._may(request) else declined(401, "token refused")

    def _is_address(self, host: str) -> bool:
        """Return whether the host is an IP address."""
        with suppress(ValueError):
            return bool(ip_address(host)) and not self._hosts.isdisjoint(EVERYWHERE)
        return False

    def _may(self, request: Request) -> bool:
        if self.token is None or not request.url.path.startswith(("/api/", "/events", "/metrics")):
            return True
        given = request.query_params.get("token") or request.headers.get("authorization", "").removeprefix("Bearer ")
        return secrets.compare_digest(given.encode(), self.token.encode())


def _name_of(host: str) -> str:
    """Return the name in a Host header, without the port."""
    with suppress(ValueError):
        return urlsplit(f"//{host}").hostname or ""
    return ""


class _Server(uvicorn.Server):
    """uvicorn's server without signal handlers, because the worker handles signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Endpoint:
    """The endpoint of one worker. It binds at once, so that a taken address is noticed at the start."""

    def __init__(self, app: Starlette, host: str, port: int, stopping: asyncio.Event) -> None:
        """`stopping` is set at the end. Raises HttpError if the address cannot be bound."""
        self._stopping = stopping
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family)
        except OSError as error:
            raise HttpError(
                f"cannot listen on {host}:{port} for HTTP: {error.strerror or error}; "
                "set REACTOR_HTTP_PORT to a free port, or to 0 for none"
            ) from error
        self.address = f"http://{host}:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
        self._server = _Server(config)

    async def serve(self) -> None:
        """Serve until `stop`."""
        await self._server.serve(sockets=[self._socket])

    def stop(self) -> None:
        """Stop serving, and close open connections."""
        self._stopping.set()
        self._server.should_exit = True
