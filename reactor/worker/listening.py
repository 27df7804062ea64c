"""Listening to the job system's own database: what it tells of is looked at."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from reactor.core.policy import Policy
from reactor.job_status.protocol import Listener, ListenError
from reactor.store.due_queue import DueQueue

RETRY_S = 5.0

log = structlog.get_logger(__name__)


@dataclass(eq=False, repr=False)
class Listening:
    """This replica's ear. Others hear the same: a job that is looked at twice is looked at by one of them at a time.

    `want_pass` asks for a full pass soon.
    """

    listener: Listener
    due: DueQueue
    policy: Policy
    want_pass: Callable[[], Awaitable[None]]

    async def tick(self) -> float:
        """Return seconds until the next time. Raises LedgerError."""
        try:
            jobs = await self.listener.wait()
        except ListenError as error:
            log.warning("the job system's database cannot be listened to, trying again", error=str(error))
            return RETRY_S
        if jobs is None:  # what was told before was told to nobody
            log.info("listening to the job system's database")
            await self.want_pass()
            return 0.0
        await self.due.schedule({job: 0.0 for job in jobs if self.policy.names_of(job) != frozenset()})
        return 0.0
