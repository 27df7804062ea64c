"""Send messages to people by Apprise: each alert when it begins and when it ends, and a daily summary.

Messages are sent in a separate thread, so a service that hangs blocks nothing else.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from typing import Any

import structlog

from reactor.telemetry.alerts import Alert, Kind

EVERY_S = 60.0
"""The shortest time between two messages about one kind of alert."""
ATTEMPTS = 3
SENT_MS = 600_000
"""How long it is remembered what was sent (ms): longer than a restart of all replicas takes."""
TITLES = {
    Kind.BREAKER_TRIPPED: "the breaker has tripped",
    Kind.DELETES_PAUSED: "a right to delete is missing",
    Kind.PAUSED: "deleting is paused",
    Kind.COVERAGE_LOST: "the ledger has lost history",
    Kind.UNFIXABLE: "streams need a person",
    Kind.MASS_DELETION: "many streams are being deleted",
}

log = structlog.get_logger(__name__)

Remember = Callable[[Mapping[str, tuple[str, int]]], Awaitable[set[str]]]


@dataclass(eq=False, repr=False)
class Notifier:
    """Sends the messages of one worker. `monotonic` is in seconds.

    `remember` stores what was sent, for all replicas. If it fails, each replica sends its own message.
    """

    urls: Sequence[str]
    remember: Remember
    monotonic: Callable[[], float]
    _: KW_ONLY
    every_s: float = EVERY_S

    def __post_init__(self) -> None:
        self._now = dict[Kind, Alert]()
        self._sent = dict[Kind, bool]()
        """Whether the last message said that the alert is active."""
        self._tried_at = dict[Kind, float]()
        self._failures = dict[Kind, int]()
        self._services: list[Any] | None = None
        self._thread = ThreadPoolExecutor(1, "notifier")
        self.changed = asyncio.Event()

    def note(self, alert: Alert) -> None:
        """Note a change of an alert. `tick` sends it."""
        self._now[alert.kind] = alert
        self.changed.set()

    async def tick(self) -> float | None:
        """Send changed alerts, at most one of a kind in `every_s`. Return the seconds until more can be sent."""
        rests = [rest for alert in list(self._now.values()) if (rest := await self._send_alert(alert)) is not None]
        return min(rests, default=None)

    async def _send_alert(self, alert: Alert) -> float | None:
        """Send an alert if its state has changed. Return the seconds until the next attempt, or None."""
        kind, is_active = alert.kind, not alert.resolved
        if self._sent.get(kind, False) is is_active:
            return None
        wait_s = self._tried_at.get(kind, float("-inf")) + self.every_s - self.monotonic()
        if wait_s > 0:
            return wait_s
        self._tried_at[kind] = self.monotonic()
        if not await self._is_ours(f"notify.{kind}", f"{is_active}"):
            self._sent[kind] = is_active
            return None
        failed = await self.send(
            f"reactor: {TITLES[kind]}{'' if is_active else ', no more'}", f"{alert.message}\n{alert.by}"
        )
        self._failures[kind] = self._failures.get(kind, 0) + 1 if failed else 0
        if failed and self._failures[kind] < ATTEMPTS:
            await self._forget(f"notify.{kind}")
            return self.every_s
        self._failures[kind], self._sent[kind] = 0, is_active
        return None

    async def _is_ours(self, subject: str, state: str) -> bool:
        """Return whether no other replica has sent this recently."""
        try:
            return bool(await self.remember({subject: (state, SENT_MS)}))
        except Exception:  # noqa: BLE001  # Redis is away: then each replica sends
            return True

    async def _forget(self, subject: str) -> None:
        await self._is_ours(subject, "")

    async def send(self, title: str, body: str) -> list[str]:
        """Send a message to every service. Return those that refused it, by number and kind. Never raises.

        URLs are never shown, because any part of one may be a token.
        """
        failed = await asyncio.get_running_loop().run_in_executor(self._thread, self._send, title, body)
        for service in failed:
            log.warning("a message was refused", service=service, title=title)
        return failed

    def _send(self, title: str, body: str) -> list[str]:
        from apprise import Apprise, AppriseAsset  # noqa: PLC0415  # an extra, and it takes its time

        if self._services is None:
            for name in ("apprise", "urllib3"):  # they log whole URLs, and most URLs contain a token
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)
            asset = AppriseAsset(app_id="reactor", app_desc="reactor", app_url="")
            self._services = [Apprise.instantiate(url, asset=asset) for url in self.urls]
        failed = [number for number, item in enumerate(self._services, 1) if not self._accepts(item, title, body)]
        return [f"number {number} ({self._services[number - 1].service_name})" for number in failed]

    def _accepts(self, service: Any, title: str, body: str) -> bool:  # noqa: ANN401  # Apprise's
        try:
            return bool(service.notify(title=title, body=body))
        except Exception:  # noqa: BLE001  # whatever a plugin does
            return False
