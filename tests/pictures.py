"""The pictures of the README, made anew from a real run: uv run python tests/pictures.py.

The demo's job system leaks for a while, beside a worker on embedded servers; then the page is photographed, and the
commands are run as on a terminal. Needs a Chromium.
"""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import nats
from playwright.async_api import async_playwright
from rich.console import Console
from rich.text import Text

from reactor.cli.demo import JobSystem
from reactor.cli.embedded import Endpoints, embedded_servers, free_port
from reactor.config.settings import load_settings
from reactor.operate import overview
from reactor.telemetry import logs
from reactor.worker import app

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
SECONDS = 60.0
WIDTH = 116
COMMANDS = {
    "reconcile": ("reconcile", "--dry-run"),
    "explain": ("explain", "job_{waiting}"),
    "streams": ("streams", "--sort", "due"),
    "history": ("history", "--limit", "6"),
    "status": ("status",),
    "doctor": ("doctor",),
}


def settings_for(endpoints: Endpoints) -> dict[str, str]:
    """Guards that let some streams wait while the pictures are taken."""
    return {
        "REACTOR_NATS_URL": endpoints.nats_url,
        "REACTOR_REDIS_URL": endpoints.redis_url,
        "REACTOR_HTTP_PORT": str(free_port()),
        "REACTOR_POLICY_AGE_GUARD": "20s",
        "REACTOR_POLICY_TERMINAL_GRACE": "15s",
        "REACTOR_POLICY_IDLE_GUARD": "5s",
        "REACTOR_RECONCILE_INTERVAL": "10s",
        "REACTOR_LOG_LEVEL": "ERROR",
    }


@asynccontextmanager
async def at_work(environment: dict[str, str]) -> AsyncIterator[None]:
    """Run a worker whose charts have a point every two seconds."""
    with patch.dict(os.environ, environment):
        settings = load_settings()
    logs.configure("ERROR", "json")
    with patch.object(overview, "STEP_S", 2.0):
        worker = app.build(settings)
        running = asyncio.create_task(worker.run())
        yield
        worker.exit()
        await running


async def photograph(url: str) -> None:
    """Take pictures of the page in both themes."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for theme in ("light", "dark"):
            context = await browser.new_context(color_scheme=theme, viewport={"width": 1280, "height": 900})
            page = await context.new_page()
            await page.goto(url)
            await page.locator("#streams-table tbody tr", has_text="waiting").nth(3).locator("button.open").click()
            await page.locator(".reasoning").first.wait_for()
            await page.locator("#leaks-table tbody tr").first.wait_for()
            await page.screenshot(path=PICTURES / f"page-{theme}.png")
        await browser.close()


async def draw(name: str, args: tuple[str, ...], environment: dict[str, str]) -> None:
    """Draw a command and its output, as on a terminal."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "reactor", *args),
        env=os.environ | environment | {"FORCE_COLOR": "1", "COLUMNS": str(WIDTH)},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    console = Console(record=True, width=WIDTH, file=Path(os.devnull).open("w"))  # noqa: ASYNC230, SIM115  # nothing blocks there
    console.print(f"[bold]$ reactor {' '.join(args)}[/]", highlight=False)
    console.print(Text.from_ansi(out.decode().rstrip()))
    console.save_svg(str(PICTURES / f"{name}.svg"), title=f"reactor {args[0]}")


async def main() -> None:
    """Make all pictures."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        async with embedded_servers(Path(folder)) as endpoints, await nats.connect(endpoints.nats_url) as nc:
            environment = settings_for(endpoints)
            async with at_work(environment):
                system = JobSystem(nc)
                loop = asyncio.get_running_loop()
                leaking = asyncio.create_task(system.run(loop.time() + 10 * SECONDS))
                await asyncio.sleep(SECONDS)
                await photograph(f"http://127.0.0.1:{environment['REACTOR_HTTP_PORT']}/")
                waiting = next(job.number for job in reversed(system.leaked) if job.gone is None)
                for name, args in COMMANDS.items():
                    await draw(name, tuple(arg.format(waiting=waiting) for arg in args), environment)
                leaking.cancel()
                with suppress(asyncio.CancelledError):
                    await leaking


if __name__ == "__main__":
    asyncio.run(main())
