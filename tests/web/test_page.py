"""The page in a real browser: what it shows, that it never believes a text, and that it lives on events.

Every test takes the fixture `page_url`: the address at which a server serves `reactor/page` with the headers that it
sends in production (its security policy above all), a token in the query where it demands one. The answers of the API
and the events are given here, so that hostile names are among them; whether the server gives such answers is tested
with the server, and by the last test here, which watches a worker at work. They are skipped where there is no Chromium.
"""

import asyncio
import json
import os
import re
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Page, Route, async_playwright, expect
from support.harness import World, served

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
SCRIPT = "job_<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
REVERSED = "job_\u202egnp\x00\u200b.exe"

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # the driver's pipes, closed by its own process
]

Json = dict[str, Any]
Events = list[tuple[str, Json]]


def at(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def stream(name: str, verdict: str, reason: str, **more: Any) -> Json:
    word = "STARTED" if reason == "running" else "SUCCESS"
    plain = {"stream": name, "job_id": name.removeprefix("job_"), "verdict": verdict, "reason": reason, "status": word}
    rest = {"age_s": 60.0, "terminal_at": None, "until": None, "messages": 0, "redelivered": 0, "detail": None}
    return plain | rest | more


STREAMS = [
    stream("job_1", "kept", "running", messages=3),
    stream("job_2", "waiting", "grace", until=at(90), messages=200, terminal_at=at(-210)),
    stream("job_10", "waiting", "fresh", until=at(3000), messages=1, terminal_at=at(-30)),
    stream(SCRIPT, "would_drain", "terminal", detail="<b>bold</b>"),
    stream(REVERSED, "unfixable", "not-fenceable", status="\u2066ODD"),
]


def status(**changes: Any) -> Json:
    return {
        "at": at(0),
        "version": "9.9.9",
        "started_at": at(-9000),
        "job_streams": 5,
        "verdicts": {"kept": 1, "waiting": 2, "zombie": 1, "unfixable": 1},
        "reasons": {"running": 1, "grace": 1, "fresh": 1, "terminal": 1, "not-fenceable": 1},
        "live": 1,
        "waiting": 2,
        "zombies": 1,
        "oldest_zombie_s": 61.5,
        "drained_today": 7,
        "bytes_reclaimed": 3 * 2**30,
        "deletes_paused": None,
        "breaker": None,
        "coverage": {"complete": True, "since": at(-86_400), "gap": None},
        "lag": 0,
        "nats_error": None,
        "nats_away_since": None,
        "workers": 2,
        "deletes": True,
        "pause": None,
        "due": 2,
        "next_due_s": 90.0,
        "dead_letters": 0,
        "last_reconcile": None,
    } | changes


def audit_entry(name: str, reason: str = "terminal", outcome: str = "drained") -> Json:
    entry = {"phase": "outcome", "stream": name, "job_id": "1", "reason": reason, "status": "SUCCESS"}
    return entry | {"outcome": outcome, "detail": "", "messages": 4, "by": "worker", "at": at(-5)}


def why(name: str) -> Json:
    return {
        "stream": name,
        "job_id": "2",
        "verdict": "waiting",
        "reason": "grace",
        "sentence": f"{name} ended SUCCESS; <i>left alone</i> for now.",
        "changes": "A newer event that is not terminal keeps it.",
        "until": at(90),
        "evidence": {"stream": {"created": at(-4000), "subjects": ["job.2.tasks"]}, "fence": None},
        "guards": [
            {"guard": "age_guard", "passes_at": at(-400), "passed": True},
            {"guard": "terminal_grace", "passes_at": at(90), "passed": False},
        ],
    }


def gone(name: str) -> Json:
    """Return the answer for a stream that does not exist."""
    return {
        "stream": name,
        "known": "deleted",
        "error": f"there is no stream {name}",
        "sentence": f"there is no stream {name}; reactor drained it.",
        "restorable": {"command": f"reactor restore {name}", "backup": "/b", "messages": 3, "lost": 0},
        "timeline": [{"at": at(-9), "what": "began", "by": "w"}, {"at": at(-5), "what": "drained", "by": "w"}],
    }


ANSWERS: dict[str, Json] = {
    "api/status": status(),
    "api/streams": {"at": at(0), "streams": STREAMS},
    "api/history": {"entries": [audit_entry(SCRIPT), audit_entry("job_7", "missing", "already_gone")]},
    "api/timeline": {
        "step_s": 60,
        "points": [
            {
                "at": at(60 * (minute - 30)),
                "verdicts": {"kept": 5, "waiting": 2, "zombie": minute % 3, "unfixable": 0},
                "drained": {"terminal": minute % 2, "missing": 0},
            }
            for minute in range(30)
        ],
    },
    "api/workers": {"differ": [], "versions": ["9.9.9"], "workers": []},
    "api/leaks": {"total": 7, "statuses": [{"status": "REVOKED", "drained": 7, "hours": [0] * 23 + [7]}]},
}


class Reading:
    """A page with the answers of its API, and the errors in its console."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.answers = dict(ANSWERS)
        self.events: asyncio.Queue[Events | None] = asyncio.Queue()
        self.waiting = 0
        self.refused = False
        self.away: str | None = None
        """Why nothing can be read, where that is so."""
        self.complaints: list[str] = []
        page.on("console", self._complained)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _complained(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    async def open(self, streams: str = "5") -> Page:
        """Load the page, and wait for this many streams."""
        await self.page.route(lambda url: "/api/" in url, self._answer)
        await self.page.route(lambda url: urlsplit(url).path.endswith("/events"), self._tell)
        await self.page.goto(self.address)
        await expect(self.page.locator("#streams-count")).to_contain_text(streams)
        return self.page

    async def _answer(self, route: Route) -> None:
        path = "api/" + unquote(urlsplit(route.request.url).path.split("/api/", 1)[1])
        name = path.removeprefix("api/streams/")
        gone_one = self.answers.get("gone", {})
        if self.refused:
            await route.fulfill(status=401, json={"error": "token refused"})
        elif self.away:
            await route.fulfill(status=503, json={"error": self.away})
        elif name == gone_one.get("stream"):
            await route.fulfill(status=404, json=gone_one)
        else:
            await route.fulfill(json=why(name) if name != path else self.answers[path])

    def send(self, *events: tuple[str, Json]) -> None:
        """Let the server send this event, and end the connection. The browser reconnects at once."""
        self.events.put_nowait(list(events))

    async def _tell(self, route: Route) -> None:
        self.waiting += 1
        batch = await self.events.get()
        self.waiting -= 1
        if batch is None:
            await route.abort()
            return
        lines = "".join(f"event: {kind}\ndata: {json.dumps(data)}\n\n" for kind, data in batch)
        await route.fulfill(content_type="text/event-stream", body=f"retry: 50\n\n{lines}")

    async def close(self) -> None:
        """Let no connection hang."""
        await self.page.goto("about:blank")
        for _ in range(self.waiting):
            self.events.put_nowait(None)
        await self.page.unroute_all(behavior="wait")


@pytest_asyncio.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """A browser that only connects to the page's server."""
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield launched
        await launched.close()


@pytest_asyncio.fixture
async def reading(browser: Browser, page_url: str) -> AsyncIterator[Reading]:
    """The page, not loaded yet, in the light theme on a wide screen."""
    context = await browser.new_context(color_scheme="light", viewport={"width": 1280, "height": 900})
    reading_page = Reading(await context.new_page(), page_url)
    yield reading_page
    await reading_page.close()
    await context.close()


async def names(page: Page) -> list[str]:
    """Return the shown streams, in order."""
    return await page.locator("#streams-table button.open").all_text_contents()


async def test_the_page_loads_without_a_complaint(reading: Reading) -> None:
    """The security policy allows everything that it does, and every file exists."""
    page = await reading.open()
    await expect(page.locator("#tiles")).to_contain_text("drained today7")
    await expect(page.locator("#version")).to_have_text("9.9.9")
    await expect(page.locator(".uplot")).to_have_count(2)
    await expect(page.locator("#leaks-table")).to_contain_text("REVOKED")
    await expect(page.locator("#drains-chart")).to_have_attribute("aria-label", re.compile("15 terminal, 0 missing"))
    assert reading.complaints == []


async def test_the_search_filters(reading: Reading) -> None:
    """By any word of the row. It shows how many are left."""
    page = await reading.open()
    await page.fill("#search", "JOB_1")
    assert sorted(await names(page)) == ["job_1", "job_10"]
    await expect(page.locator("#streams-count")).to_have_text("2 of 5")
    await page.fill("#search", "no such thing")
    await expect(page.locator("#streams-empty")).to_be_visible()


async def test_reasons_filter(reading: Reading) -> None:
    """Each adds its streams. Pressed again, it removes them."""
    page = await reading.open()
    grace, fresh = page.locator("[data-reason=grace]"), page.locator("[data-reason=fresh]")
    await grace.click()
    assert await names(page) == ["job_2"]
    await expect(grace).to_have_attribute("aria-pressed", "true")
    await fresh.click()
    assert await names(page) == ["job_2", "job_10"]
    await grace.click()
    assert await names(page) == ["job_10"]


async def test_columns_sort(reading: Reading) -> None:
    """Numbers as numbers, names in natural order, and unknown values last in both directions."""
    page = await reading.open()
    await page.fill("#search", "job_")
    messages = page.locator("#streams-table th", has_text="Messages")
    await messages.get_by_role("button").click()
    await expect(messages).to_have_attribute("aria-sort", "ascending")
    assert (await names(page))[-1] == "job_2"
    await messages.get_by_role("button").click()
    await expect(messages).to_have_attribute("aria-sort", "descending")
    assert (await names(page))[:2] == ["job_2", "job_1"]
    due = page.locator("#streams-table th", has_text="Due").get_by_role("button")
    await due.click()
    assert (await names(page))[:2] == ["job_2", "job_10"]
    await due.click()
    assert (await names(page))[:2] == ["job_10", "job_2"]
    await page.locator("#streams-table th", has_text="Stream").get_by_role("button").click()
    shown = await names(page)
    assert shown.index("job_2") < shown.index("job_10")


async def test_what_needs_a_person_comes_first(reading: Reading) -> None:
    """Unfixable, then zombies, then waiting ones by when they are due, then the rest."""
    page = await reading.open()
    assert [name.partition("<")[0] for name in (await names(page))[1:]] == ["job_", "job_2", "job_10", "job_1"]


async def test_a_row_explains_its_verdict(reading: Reading) -> None:
    """By keyboard: the sentence, the guards with their times, the evidence. It closes again."""
    page = await reading.open()
    button = page.get_by_role("button", name="job_2", exact=True)
    await button.focus()
    await page.keyboard.press("Enter")
    await expect(button).to_have_attribute("aria-expanded", "true")
    explanation = page.locator(f"#{await button.get_attribute('aria-controls')}")
    await expect(explanation.locator(".sentence")).to_have_text("job_2 ended SUCCESS; <i>left alone</i> for now.")
    await expect(explanation).to_contain_text("A newer event that is not terminal keeps it.")
    await expect(explanation.locator(".guards li")).to_have_count(2)
    await expect(explanation.locator(".guards")).to_contain_text("passes at 12:01:30")
    await expect(explanation.locator(".tree").last).to_contain_text("job.2.tasks")
    await expect(button).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(explanation).to_have_count(0)


async def test_the_due_time_counts_down(reading: Reading) -> None:
    """By the server's clock, whatever this machine's clock shows."""
    page = await reading.open()
    due = page.locator("tr", has=page.get_by_role("button", name="job_2", exact=True)).locator(".due")
    await expect(due).to_have_text("in 1m 29s", timeout=10_000)


async def test_hostile_names_stay_text(reading: Reading) -> None:
    """A name creates no element and runs no code. Invisible characters are shown."""
    page = await reading.open()
    shown = await names(page)
    assert SCRIPT in shown
    assert "job_\\u202egnp\\u0000\\u200b.exe" in shown
    for button in await page.locator("button.open").all():
        await button.click()
    await expect(page.locator(".sentence")).to_have_count(5)
    assert await page.locator("main script, main img, main b:has-text('bold'), main i:has-text('left')").count() == 0
    assert await page.title() == "1 zombie · Reactor"
    text = await page.evaluate("document.body.textContent")
    assert not set(text) & {"\u202e", "\u2066", "\u200b", "\x00"}
    assert reading.complaints == []


async def test_the_theme_is_switched_and_remembered(reading: Reading) -> None:
    """The button wins over the system's preference, also after a reload."""
    page = await reading.open()
    ground = "getComputedStyle(document.body).backgroundColor"
    light = await page.evaluate(ground)
    await page.get_by_role("button", name="Switch to the dark theme").click()
    dark = await page.evaluate(ground)
    assert dark != light
    await page.reload()
    await expect(page.locator("#theme")).to_have_accessible_name("Switch to the light theme")
    assert await page.evaluate(ground) == dark


async def test_a_narrow_screen_does_not_scroll_sideways(reading: Reading) -> None:
    """400 pixels, a name without a break, and an open row."""
    reading.answers["api/streams"] = {
        "at": at(0),
        "streams": [*STREAMS[:4], stream("job_" + "9" * 250, "kept", "running")],
    }
    await reading.page.set_viewport_size({"width": 400, "height": 800})
    page = await reading.open()
    for button in await page.locator("button.open").all():
        await button.click()
    await expect(page.locator(".sentence")).to_have_count(5)
    assert await page.evaluate("document.documentElement.scrollWidth") <= 400
    assert reading.complaints == []


async def test_a_settled_stream_shows_without_a_reload(reading: Reading) -> None:
    """By the event: at the top of the history, and counted among the leaks."""
    page = await reading.open()
    await page.evaluate("window.loadedOnce = true")
    reading.send(("settled", audit_entry("job_4711")))
    await expect(page.locator("#history-table tbody tr").first).to_contain_text("job_4711")
    await expect(page.locator("#leaks-table")).to_contain_text("SUCCESS")
    await expect(page.locator("#drains-chart")).to_have_attribute("aria-label", re.compile("16 terminal"))
    assert await page.evaluate("window.loadedOnce") is True


async def test_an_event_has_the_streams_read_again(reading: Reading) -> None:
    """The open row stays open, and deleted streams disappear."""
    page = await reading.open()
    await page.get_by_role("button", name="job_2", exact=True).click()
    reading.answers["api/streams"] = {"at": at(1), "streams": STREAMS[1:3]}
    reading.send(("streams", {"at": at(1)}))
    await expect(page.locator("button.open")).to_have_count(2)
    await expect(page.get_by_role("button", name="job_2", exact=True)).to_have_attribute("aria-expanded", "true")


async def test_trouble_is_reported_in_the_servers_words(reading: Reading) -> None:
    """Missing permissions, a tripped breaker, a lost ledger: each has a banner."""
    page = await reading.open()
    coverage = {"complete": False, "since": None, "gap": "Redis was <emptied>"}
    reading.send(("status", status(deletes_paused="not permitted", breaker="30 of 40", coverage=coverage)))
    await expect(page.locator("#banners .banner")).to_have_count(3)
    for words in ("not permitted", "30 of 40", "Redis was <emptied>"):
        await expect(page.locator("#banners")).to_contain_text(words)


async def test_a_lost_connection_shows(reading: Reading) -> None:
    """As long as it lasts. Afterwards the missed changes are read."""
    page = await reading.open()
    reading.send(("status", status()))
    await expect(page.locator("#connection")).to_contain_text("reconnecting")
    reading.answers["api/history"] = {"entries": [audit_entry("job_8128")]}
    reading.send(("status", status()))
    await expect(page.locator("#history-table tbody tr")).to_contain_text(["job_8128"])


async def test_a_token_in_the_address_goes_with_every_request(reading: Reading) -> None:
    """As the query parameter, also of the events. A refusal says what to do."""
    base, _, query = reading.address.partition("?")
    reading.address = f"{base}?{query}" if "token=" in query else f"{base}?token=t%26k"
    asked: list[str] = []
    reading.page.on("request", lambda request: asked.append(request.url))
    page = await reading.open()
    await page.get_by_role("button", name="job_1", exact=True).click()
    await expect(page.locator(".sentence")).to_have_count(1)
    data = [url for url in asked if "/api/" in url or urlsplit(url).path.endswith("/events")]
    assert len(data) >= 7
    assert all("token=" in urlsplit(url).query for url in data)


async def test_a_page_without_its_token_asks_for_it(reading: Reading) -> None:
    """Once, and not in each of six places."""
    reading.refused = True
    await reading.open("")
    page = reading.page
    await expect(page.locator("#token")).to_be_visible()
    await expect(page.locator("body")).not_to_contain_text("Could not be read")
    await page.fill("#token-text", "a b&c")
    await page.get_by_role("button", name="Open").click()
    await page.wait_for_url(lambda url: "token=a+b%26c" in url)


async def test_a_click_anywhere_in_a_row_opens_it(reading: Reading) -> None:
    """A second one closes it. A click on the name counts once."""
    page = await reading.open()
    row = page.locator("#streams-table tbody tr", has_text="job_10")
    for target in (row.locator("td").nth(2), row.locator("button")):
        await target.click()
        await expect(page.locator(".reasoning")).to_be_visible()
        await target.click()
        await expect(page.locator(".reasoning")).to_have_count(0)


async def test_missing_and_different_workers_are_reported(reading: Reading) -> None:
    """At the top."""
    reading.answers["api/status"] = status(workers=0)
    workers = [
        {"instance": "a:1", "version": "1", "since": at(-9), "deletes": True, "policy": {}, "deletes_paused": None}
    ]
    differing = {"differ": ["REACTOR_POLICY_AGE_GUARD"], "versions": ["1", "2"], "workers": workers}
    reading.answers["api/workers"] = differing
    page = await reading.open()
    await expect(page.locator("#banners")).to_contain_text("No worker is alive.")
    await expect(page.locator("#banners")).to_contain_text("In REACTOR_POLICY_AGE_GUARD, version (1, 2)")
    await expect(page.locator("#workers-table tbody")).to_contain_text("a:1")


async def test_a_range_is_chosen_for_both_charts(reading: Reading) -> None:
    """The pointer shows the figures of its time."""
    old = {"at": at(-7200), "verdicts": {"kept": 1}, "drained": {"terminal": 100, "missing": 0}}
    timeline = reading.answers["api/timeline"]
    reading.answers["api/timeline"] = timeline | {"points": [old, *timeline["points"]]}
    page = await reading.open()
    drains = page.locator("#drains-chart")
    await expect(drains).to_have_attribute("aria-label", re.compile("115 terminal"))
    await page.get_by_role("button", name="1 h", exact=True).click()
    await expect(drains).to_have_attribute("aria-label", re.compile(" 15 terminal"))
    await page.locator("#verdicts-chart .u-over").hover()
    await expect(page.locator("#verdicts-chart .tip")).to_contain_text("kept 5")


async def test_two_thousand_streams_are_shown_in_parts(reading: Reading) -> None:
    """A limited number of rows, and more on demand."""
    many = [stream(f"job_{number}", "kept", "running") for number in range(2000)]
    reading.answers["api/streams"] = {"at": at(0), "streams": many}
    page = await reading.open("2,000")
    await expect(page.locator("button.open")).to_have_count(200)
    await page.locator("#streams-more").click()
    await expect(page.locator("button.open")).to_have_count(400)


async def test_a_stream_that_is_deleted_while_its_row_is_open_says_so(reading: Reading) -> None:
    """It stays in its place with what happened, until it is closed."""
    page = await reading.open()
    button = page.get_by_role("button", name="job_2", exact=True)
    await button.click()
    reading.answers["api/streams"] = {"at": at(1), "streams": [STREAMS[0], *STREAMS[2:]]}
    reading.answers["gone"] = gone("job_2")
    reading.send(("settled", audit_entry("job_2")), ("streams", {"at": at(1)}))
    row = page.locator("tr", has=button)
    await expect(row).to_contain_text("drained at 11:59:55")
    await expect(page.locator(".why")).to_contain_text("reactor restore job_2 (with 3 messages)")
    await expect(page.locator(".acts li")).to_have_count(2)
    await button.focus()
    await page.keyboard.press("Escape")
    await expect(button).to_have_count(0)


async def test_each_stream_has_a_link(reading: Reading) -> None:
    """It opens the explanation of the stream, or what happened to one that does not exist."""
    reading.address += "#stream=job_10"
    page = await reading.open("1 of 5")
    await expect(page.get_by_role("button", name="job_10", exact=True)).to_have_attribute("aria-expanded", "true")
    await expect(page.locator(".sentence")).to_contain_text("job_10 ended")
    reading.answers["gone"] = gone("job_77")
    await page.evaluate("location.hash = '#stream=job_77'")
    await expect(page.locator("#streams-empty")).to_contain_text("there is no stream job_77")
    await page.fill("#search", "")
    await page.get_by_role("button", name="job_2", exact=True).click()
    assert (await page.evaluate("location.hash")) == "#stream=job_2"


async def test_the_keyboard_leads_everywhere(reading: Reading) -> None:
    """Past the figures, from stream to stream, into the search and out of it."""
    page = await reading.open()
    await page.keyboard.press("Tab")
    await expect(page.locator(".skip")).to_be_focused()
    await page.keyboard.press("/")
    await page.keyboard.type("job_1")
    await expect(page.locator("button.open")).to_have_count(2)
    await page.keyboard.press("Escape")
    await expect(page.locator("button.open")).to_have_count(5)
    opens = page.locator("button.open")
    await opens.first.focus()
    await page.keyboard.press("ArrowDown")
    await expect(opens.nth(1)).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator(".why")).to_have_count(1)
    await page.keyboard.press("Escape")
    await expect(page.locator(".why")).to_have_count(0)
    await page.keyboard.press("ArrowUp")
    await expect(opens.first).to_be_focused()


async def test_the_search_covers_the_history(reading: Reading) -> None:
    """It finds deleted streams there."""
    page = await reading.open()
    await page.fill("#search", "job_7")
    await expect(page.locator("#history-table tbody tr")).to_have_count(1)
    await expect(page.locator("#history-table tbody tr")).to_contain_text("already gone")
    await page.fill("#search", "no such thing")
    await expect(page.locator("#history-empty")).to_be_visible()


async def test_entries_are_called_what_they_are(reading: Reading) -> None:
    """A failed attempt is unfixable, an order is an order."""
    attempt = {name: value for name, value in audit_entry("job_8").items() if name != "outcome"} | {
        "phase": "unfixable"
    }
    order = attempt | {"phase": "protected", "stream": "job_9"}
    reading.answers["api/history"] = {"entries": [attempt, order]}
    page = await reading.open()
    await expect(page.locator("#history-table tbody tr").nth(0)).to_contain_text("unfixable")
    await expect(page.locator("#history-table tbody tr").nth(1)).to_contain_text("protected")


async def test_what_is_away_is_reported_and_since_when(reading: Reading) -> None:
    """While it lasts. What could not be read is not shown as zero."""
    page = await reading.open()
    reading.send(("trouble", {"error": "NATS is unreachable", "since": at(-60)}))
    await expect(page.locator("#banners")).to_contain_text("Since 11:59:00")
    await expect(page.locator("#banners")).to_contain_text("NATS is unreachable")
    reading.send(("status", status()))
    await expect(page.locator("#banners .banner")).to_have_count(0)


async def test_nothing_read_is_nothing_known(reading: Reading) -> None:
    """Neither a zero nor "nothing to do" before the servers answer and before the first pass."""
    reading.away = "waiting for NATS and Redis"
    page = await reading.open("")
    await expect(page.locator("#banners")).to_contain_text("waiting for NATS and Redis")
    await expect(page.locator("#tiles .figure").first).to_have_text("\u2013")
    await expect(page.locator("#streams-empty")).not_to_contain_text("Nothing to do")
    reading.away = None
    unread = dict.fromkeys(("job_streams", "live", "waiting", "zombies", "oldest_zombie_s"))
    reading.answers |= {
        "api/streams": {"at": at(0), "streams": [], "error": None},
        "api/timeline": {"step_s": 60, "points": []},
    }
    reading.answers["api/status"] = status(verdicts={}, reasons={}, **unread)
    reading.send(("status", reading.answers["api/status"]), ("streams", {"at": at(1)}))
    await expect(page.locator("#streams-empty")).to_have_text("Not known before the first full pass.", timeout=15_000)
    await expect(page.locator("#tiles")).to_contain_text("no full pass yet")
    assert "0" not in await page.locator("#tiles .tile").nth(3).inner_text()


async def test_a_pause_is_reported(reading: Reading) -> None:
    """Who, why, and how to end it. Report mode shows what it found."""
    page = await reading.open()
    pause = {"by": "ana@ops", "reason": "a queue is gone", "since": at(-30), "until": at(3600)}
    ends = {"total": 12, "afterwards": {"deleted": 9, "still there": 3}}
    reading.send(("status", status(pause=pause, action="report", would_drain=ends)))
    await expect(page.locator("#banners")).to_contain_text(
        "By ana@ops since 11:59:30, until 13:00:00: a queue is gone."
    )
    await expect(page.locator("#banners")).to_contain_text(
        "12 streams would have been drained: 9 deleted, 3 still there."
    )


async def test_the_charts_are_right_from_the_first_second(reading: Reading) -> None:
    """One point does not fill a year. The legend agrees with the tiles."""
    reading.answers["api/timeline"] = {"step_s": 60, "points": []}
    page = await reading.open()
    await expect(page.locator("#verdicts-chart .uplot")).to_have_count(1)
    await expect(page.locator("#verdicts-legend")).to_contain_text("kept1")
    await expect(page.locator("#verdicts-legend")).to_contain_text("waiting2")
    shown = await page.evaluate("document.querySelector('#verdicts-chart').ariaLabel")
    assert "11:59:59 to" in shown or "12:00:00 to" in shown


async def test_orders_are_confirmed_and_off_by_default(reading: Reading) -> None:
    """Without the setting there is no button.

    With it each order asks for name and reason, and uses the token as a bearer.
    """
    page = await reading.open()
    await expect(page.locator("#pause")).to_be_hidden()
    await page.get_by_role("button", name="job_2", exact=True).click()
    await expect(page.locator(".sentence")).to_have_count(1)
    await expect(page.locator(".orders")).to_have_count(0)
    reading.answers["api/status"] = status(orders=True)
    given: list[tuple[str, Any, str | None]] = []

    async def take(route: Route) -> None:
        request = route.request
        given.append((urlsplit(request.url).path, request.post_data_json, request.headers.get("authorization")))
        await route.fulfill(json={"done": "so it is"})

    await page.route(lambda url: "/api/orders/" in url, take)
    await page.goto("about:blank")
    base, _, query = reading.address.partition("?")
    await page.goto(reading.address if "token=" in query else f"{base}?token=t")
    await page.locator("#pause").click()
    await page.locator("#order-go").click()
    assert given == []  # no name was given
    await page.fill("#order-by", "ana")
    await page.fill("#order-reason", "a queue is gone")
    await page.locator("#order-go").click()
    await expect(page.locator("#order")).to_be_hidden()
    await page.get_by_role("button", name="job_2", exact=True).click()
    await page.get_by_role("button", name="Protect").click()
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Protect").click()
    await page.locator("#order-go").click()
    await expect(page.locator("#order")).to_be_hidden()
    assert [(path.rpartition("/api/")[2], body) for path, body, _ in given] == [
        ("orders/pause", {"by": "ana", "reason": "a queue is gone"}),
        ("orders/protect/job_2", {"by": "ana", "reason": ""}),
    ]
    assert all(token and token.startswith("Bearer ") for *_, token in given)


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_bars_and_lines_can_be_told_from_the_ground(reading: Reading, theme: str) -> None:
    """With a contrast of at least 3:1, in both themes (WCAG 1.4.11)."""
    page = await reading.open()
    ratios = await page.evaluate(
        """(theme) => {
            document.documentElement.dataset.theme = theme;
            const style = getComputedStyle(document.documentElement);
            const light = (name) => {
                const hex = style.getPropertyValue(name).trim();
                const parts = [1, 3, 5].map((from) => parseInt(hex.slice(from, from + 2), 16) / 255);
                const [r, g, b] = parts.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
                return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
            };
            const ratio = (one, two) => Math.max(one, two) / Math.min(one, two);
            const names = ["--live", "--wait", "--amber", "--amber-2", "--bad", "--zombie", "--muted"];
            return names.map((name) => [name, ratio(light(name), light("--surface"))]);
        }""",
        theme,
    )
    assert [name for name, ratio in ratios if ratio < 3] == []


async def test_two_thousand_rows_tick_without_blocking(reading: Reading) -> None:
    """Only visible rows are updated."""
    many = [stream(f"job_{number}", "waiting", "grace", until=at(90 + number)) for number in range(2000)]
    reading.answers["api/streams"] = {"at": at(0), "streams": many}
    page = await reading.open("2,000")
    while await page.locator("#streams-more").is_visible():
        await page.locator("#streams-more").click()
    await expect(page.locator("button.open")).to_have_count(2000)
    written = await page.evaluate(
        """() => new Promise((resolve) => {
            let written = 0;
            const watch = new MutationObserver((changes) => { written += changes.length; });
            watch.observe(document.querySelector("#streams-table tbody"), { childList: true, subtree: true });
            setTimeout(() => { watch.disconnect(); resolve(written); }, 3000);
        })"""
    )
    assert 0 < written < 1000


async def test_the_messages_are_documented(reading: Reading) -> None:
    """Rendered from the AsyncAPI document, without other sites."""
    await reading.page.goto(reading.address + "/docs")
    await expect(reading.page.locator("#channels h2")).to_contain_text(
        ["Receives jobs.{job_id}", "reactor.drained.{stream}", "reactor.exhausted.{stream}", "reactor.alert.{kind}"]
    )
    await expect(reading.page.locator("#channels td code", has_text="occurred_at")).to_have_count(1)
    await expect(reading.page.locator("#version")).to_have_text("9.9.9")
    assert reading.complaints == []


async def test_a_drain_is_watched_as_it_happens(browser: Browser, world: World) -> None:
    """With a real worker: a stream is live, its job ends, it is deleted and in the history, without a reload."""
    async with served(world, REACTOR_POLICY_STREAM_PATTERN="^job_(?P<job_id>.+)$") as at:
        hostile = "job_<img\u00a0src=x\u00a0onerror=alert(1)\u202e"
        created = await world.api(f"STREAM.CREATE.{hostile}", {"name": hostile, "subjects": ["hostile"]})
        assert "error" not in created
        await world.emit(hostile.removeprefix("job_"), "STARTED")  # so it stays
        await world.emit(1, "STARTED")
        await world.stream("job_1", messages=3)
        page = await browser.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        loads: list[str] = []
        page.on("load", lambda item: loads.append(item.url))
        await page.goto(at.base)
        row = page.locator("#streams-table tbody tr", has_text="job_1")
        await expect(row).to_contain_text("running", timeout=15_000)
        await row.locator("button.open").click()
        await expect(page.locator("#streams-table")).to_contain_text("its job is live", timeout=15_000)
        await expect(page.locator("#streams-table")).to_contain_text("onerror=alert(1)")
        await expect(page.locator("#streams-table img")).to_have_count(0)
        await world.emit(1, "FAILURE")
        await expect(page.locator("#history-table tbody tr").first).to_contain_text("job_1", timeout=15_000)
        button = page.get_by_role("button", name="job_1", exact=True)
        await expect(page.locator("tr", has=button)).to_contain_text("drained at", timeout=15_000)
        await expect(page.locator("#streams-table .acts")).to_contain_text("it was drained", timeout=15_000)
        await button.click()
        await expect(button).to_have_count(0)
        await expect(page.locator("#leaks-table")).to_contain_text("FAILURE", timeout=15_000)
        told_gone = [complaint for complaint in complaints if "404" in complaint]  # what became of the stream that fell
        assert (complaints, len(loads)) == (told_gone, 1)
        await page.goto("about:blank")
