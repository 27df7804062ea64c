"""Messages to people, by real services on loopback: one that accepts, one that hangs, one that fails, and mail."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from support.harness import World, eventually, gone, worker

from reactor.cli.embedded import HOST, free_port
from reactor.config.settings import SettingsError, load_settings
from reactor.core.model import SECOND, format_instant
from reactor.core.schemas import Entry
from reactor.store.keyspace import Keyspace
from reactor.store.sent_notices import SentNotices
from reactor.telemetry.alerts import Alert, Kind
from reactor.telemetry.notifier import ATTEMPTS, Notifier
from reactor.worker.summary import daily_summary, mass_deletion

SECRET = "t0k3n-of-ours"  # noqa: S105  # a test's


class Service:
    """A webhook that stores messages, fails, or never answers."""

    def __init__(self) -> None:
        self.messages: list[dict[str, str]] = []
        self.code = 200
        self.hangs = threading.Event()
        self.hangs.set()
        ours = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # http.server's
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                ours.messages.append({"title": body["title"], "body": body["message"]})
                ours.hangs.wait(30)
                self.send_response(ours.code)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self.server = ThreadingHTTPServer((HOST, 0), Handler)
        self.server.daemon_threads = True
        self.url = f"json://{HOST}:{self.server.server_port}/{SECRET}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def titles(self) -> list[str]:
        return [message["title"] for message in self.messages]


@pytest.fixture
def service() -> Iterator[Service]:
    server = Service()
    yield server
    server.hangs.set()
    server.server.shutdown()
    server.server.server_close()


def alert(kind: Kind = Kind.PAUSED, *, resolved: bool = False, message: str = "paused by anna") -> Alert:
    return Alert(kind, message, "2026-01-31T12:00:00Z", "reactor@host:1", resolved)


def sent_notices(world: World) -> SentNotices:
    return SentNotices(Keyspace(world.redis, world.namespace))


async def test_each_change_is_reported_once_by_all_replicas_together(world: World, service: Service) -> None:
    """At the begin and at the end, at most once a minute. An alert that ends before it is sent is not sent."""
    now = 0.0
    first, other = (Notifier([service.url], sent_notices(world).remember, lambda: now) for _ in range(2))
    for each in (first, other, first):
        each.note(alert())
        assert await each.tick() is None
    assert service.titles == ["reactor: deleting is paused"]
    assert service.messages[0]["body"] == "paused by anna\nreactor@host:1"
    first.note(alert(resolved=True))
    rest = await first.tick()
    assert rest is not None
    assert 0 < rest <= 60
    first.note(alert())
    now = 61.0
    assert await first.tick() is None  # paused again meanwhile: that state was sent already
    for each in (first, other):
        each.note(alert(resolved=True))
        await each.tick()
    assert service.titles == ["reactor: deleting is paused", "reactor: deleting is paused, no more"]
    first.note(alert(Kind.BREAKER_TRIPPED))
    await first.tick()
    assert len(service.titles) == 3  # another kind does not wait


async def test_a_service_that_fails_is_tried_again(
    world: World, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    """A few times. No log line has its secret."""
    now, service.code = 0.0, 500
    notifier = Notifier([service.url], sent_notices(world).remember, lambda: now)
    notifier.note(alert())
    for attempt in range(1, ATTEMPTS + 3):
        await notifier.tick()
        assert len(service.messages) == min(attempt, ATTEMPTS)
        now += 61
    said = "".join(capsys.readouterr())
    assert SECRET not in said
    service.code = 200
    notifier.note(alert(resolved=True))
    await notifier.tick()
    assert service.titles[-1] == "reactor: deleting is paused, no more"


async def test_with_redis_away_messages_are_still_sent(service: Service) -> None:
    """Then each replica sends."""

    async def away(_: Mapping[str, tuple[str, int]]) -> set[str]:
        raise ConnectionError

    for _ in range(2):
        notifier = Notifier([service.url], away, time.monotonic)
        notifier.note(alert())
        await notifier.tick()
    assert len(service.titles) == 2


async def test_mail_arrives(world: World) -> None:
    """By a real SMTP server."""
    mails: list[Any] = []

    class Handler:
        async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:  # noqa: N802  # aiosmtpd's
            mails.append(message_from_bytes(envelope.content, policy=policy.default))
            return "250 OK"

    server = Controller(Handler(), HOST, free_port())
    server.start()
    try:
        url = f"mailto://{HOST}:{server.port}?from=reactor@example.org&to=anna@example.org&mode=insecure"
        notifier = Notifier([url], sent_notices(world).remember, time.monotonic)
        notifier.note(alert(Kind.UNFIXABLE, message="3 streams need a person"))
        await notifier.tick()
        [mail] = mails
        assert mail["subject"] == "reactor: streams need a person"
        assert mail["to"] == "anna@example.org"
        assert "3 streams need a person" in mail.as_string()
    finally:
        server.stop()


async def test_two_workers_report_a_pause_once(world: World, service: Service) -> None:
    """A service that hangs delays no deletion."""
    await world.declare()
    env = world.env(REACTOR_NOTIFY_URLS=service.url)
    async with worker(env) as first, worker(env) as second:
        assert (await world.reactor("pause", "--reason", "a move")).code == 0
        await eventually(lambda: service.titles, 30)
        await eventually(lambda: first.logged("deleting is paused") and second.logged("deleting is paused"), 30)
        assert service.titles == ["reactor: deleting is paused"]
        assert "a move" in service.messages[0]["body"]
        lines = [*first.lines, *second.lines]
    assert SECRET not in "".join(lines)
    assert (await world.reactor("resume")).code == 0
    service.hangs.clear()
    async with worker(env) as process:
        assert (await world.reactor("pause")).code == 0
        await eventually(lambda: process.logged("deleting is paused"), 30)
        assert (await world.reactor("resume")).code == 0
        await eventually(lambda: process.logged("deleting goes on"), 30)
        await world.zombie(1)
        await eventually(lambda: gone(world, "job_1"), 30)
        assert process.process.returncode is None


async def test_doctor_sends_a_test_message(world: World, service: Service) -> None:
    """It names the services that refused it."""
    await world.declare()
    async with worker(world.env(REACTOR_NOTIFY_URLS=service.url)):
        for code, level in ((200, "ok"), (500, "error")):
            service.code = code
            done = await world.reactor("doctor", "--notify", "--json", REACTOR_NOTIFY_URLS=service.url)
            [check] = [item for item in json.loads(done.out)["checks"] if item["name"] == "notify.sent"]
            assert check["level"] == level
            assert SECRET not in done.out + done.err
            assert done.code == (0 if code == 200 else 1)
        assert service.titles == ["reactor: a test message"] * 2
        done = await world.reactor("doctor", "--notify", "--json")
        assert "set REACTOR_NOTIFY_URLS" in done.out


@pytest.mark.parametrize("url", ["slack", "nothing://x", f"slack://{SECRET}", "json://"])
def test_what_is_no_url_is_said_without_it(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """It may contain a secret."""
    monkeypatch.setenv("REACTOR_NOTIFY_URLS", f"json://127.0.0.1/a,{url}")
    with pytest.raises(SettingsError, match="REACTOR_NOTIFY_URLS: number 2 of 2 is not a URL of Apprise") as caught:
        load_settings()
    assert SECRET not in str(caught.value)


async def test_a_summary_is_sent_once_a_day(world: World, service: Service) -> None:
    """By one replica, at its time."""
    await world.declare()
    daily = (datetime.now(UTC) - timedelta(seconds=5)).strftime("%H:%M:%S")  # noqa: TID251  # a time of the day
    env = world.env(REACTOR_NOTIFY_URLS=service.url, REACTOR_NOTIFY_DAILY=daily)
    async with worker(env), worker(env):
        await eventually(lambda: service.titles, 60)
        await asyncio.sleep(1)
    assert service.titles == ["reactor: the last day"]
    assert service.messages[0]["body"].startswith("no stream was deleted in the last day")


def entry(age_s: float, **more: Any) -> Entry:
    return {"at": format_instant(NOW - int(age_s * SECOND)), "reason": "terminal", "status": "FAILURE"} | more  # type: ignore[return-value]


NOW = 1_800_000_000 * SECOND


def test_what_is_far_more_than_usual_is_reported() -> None:
    """Like the alert for Prometheus."""
    assert mass_deletion([entry(60)] * 100, NOW) is None
    assert "101 streams were deleted" in (mass_deletion([entry(60)] * 101, NOW) or "")
    usual = [entry(900 + 900 * n + 1) for n in range(95) for _ in range(20)]
    assert mass_deletion([*usual, *[entry(60)] * 150], NOW) is None
    assert mass_deletion([*usual, *[entry(60)] * 250], NOW) is not None


def test_the_summary_counts_deletions() -> None:
    """By reason and status, of one day."""
    entries = [entry(60, size=1000), entry(70, size=500), entry(80, reason="missing", status=""), entry(90_000)]
    assert daily_summary(entries, NOW) == (
        "3 streams deleted, 1.5 kB: terminal 2, missing 1\nleft behind most by: FAILURE 2, no status 1"
    )
