"""The periodic full pass: all replicas together run one in each interval, never two at once, and one at each start."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import KW_ONLY, dataclass

import structlog

from reactor.core.durations import backoff
from reactor.core.report import Report
from reactor.passes.handover import Handover
from reactor.passes.reconciler import PassOptions, Reconciler
from reactor.store.keyspace import LedgerError
from reactor.store.leases import Lease
from reactor.store.ledger import Ledger
from reactor.worker.loops import rest

PASS_GAP_S = 5.0
"""The shortest time between two full passes (s)."""
PASS_LEASE_S = 30.0
"""How long after the death of a replica another one may begin a pass (s). A living replica renews it."""

log = structlog.get_logger(__name__)


@dataclass(eq=False, repr=False)
class PeriodicPass:
    """Runs the periodic passes of this replica. `stop` is set when the worker must stop."""

    ledger: Ledger
    reconciler: Reconciler
    interval_s: float
    stop: asyncio.Event
    _: KW_ONLY
    handover: Handover

    def __post_init__(self) -> None:
        self._failures = 0
        self._is_first = True
        self.wanted = asyncio.Event()
        self.passed = asyncio.Event()
        """Set after each pass of this replica."""

    async def request(self) -> None:
        """Request a pass soon. Raises LedgerError."""
        await self.ledger.passes.request_pass()
        self.wanted.set()

    async def tick(self) -> float | None:
        """Run a pass if one is due and no replica runs one. Return the seconds until the next. Raises LedgerError."""
        if self._is_first:  # the settings may have changed
            await self.ledger.passes.request_pass()
        lease, wait_s = await self.ledger.passes.begin_pass(PASS_LEASE_S)
        if lease is None:
            return wait_s
        rest_s, self._is_first = None, False
        try:
            async with _renewed(self.ledger, lease):
                report = await self.reconciler.run(PassOptions(under=lease, handover=self.handover))
            _log_pass(report)
            self.passed.set()
            self._failures = self._failures + 1 if report.error else 0
            rest_s = self.interval_s
            if self._failures:
                rest_s = backoff(self._failures, first=PASS_GAP_S, last=self.interval_s)
        finally:
            await self.ledger.passes.end_pass(lease, rest_s)
        await rest(min(PASS_GAP_S, self.interval_s), self.stop)
        return rest_s


@asynccontextmanager
async def _renewed(ledger: Ledger, lease: Lease) -> AsyncIterator[None]:
    """Renew a lease during this context. If that fails, the lease runs out, and drains notice it."""

    async def renew() -> None:
        is_held = True
        while is_held:
            await asyncio.sleep(lease.seconds / 4)
            with suppress(LedgerError):
                is_held = await ledger.leases.renew(lease)

    renewing = asyncio.create_task(renew(), name="renew lease")
    try:
        yield
    finally:
        renewing.cancel()


def _log_pass(report: Report) -> None:
    counts = {key: value for key, value in report.summary().items() if key != "started_at"}
    log.info("reconcile done", **counts)
    if why := report.error or report.breaker:
        log.warning("reconcile incomplete", why=why)
