"""Inspect the streams of jobs that the job system's database notifies about."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from reactor.core.policy import Policy
from reactor.job_status.protocol import Listener, ListenError
from reactor.store.due_queue import DueQueue

RETRY_S = 5.0

log = structlog.get_logger(__name__)


@dataclass(eq=False, repr=False)
class Notified:
    """Schedules jobs from notifications. All replicas get the same ones, and leases keep them apart.

    `request_pass` requests a full pass.
    """

    listener: Listener
    due: DueQueue
    policy: Policy
    request_pass: Callable[[], Awaitable[None]]

    async def tick(self) -> float:
        """Wait for notifications and schedule their jobs. Return the seconds to rest. Raises LedgerError."""
        try:
            jobs = await self.listener.wait()
        except ListenError as error:
            log.warning("cannot listen to the job system's database, trying again", error=str(error))
            return RETRY_S
        if jobs is None:  # we may have missed notifications before
            log.info("listening to the job system's database")
            await self.request_pass()
            return 0.0
        await self.due.schedule({job: 0.0 for job in jobs if self.policy.names_of(job) != frozenset()})
        return 0.0
