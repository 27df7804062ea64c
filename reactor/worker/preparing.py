"""The workers' service that prepares a job's stream. Job systems request it over core NATS."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import nats.errors
import structlog
from nats.aio.msg import Msg

from reactor.core.checks import Misconfigured
from reactor.core.foreign_json import Unreadable
from reactor.core.preparing import NotPrepared, Prepared, answer_of, read_request
from reactor.jetstream.errors import JetStreamError
from reactor.job_status.ledger_directory import describe_outage
from reactor.store.keyspace import LedgerError

AT_ONCE = 32
"""How many requests one worker handles at once. Others wait."""
LONGEST_S = 600.0

log = structlog.get_logger(__name__)


@dataclass(eq=False, repr=False)
class PrepareService:
    """Answers requests. `prepare` gets the job, and how long to wait for a deletion under way (s)."""

    prepare: Callable[[str, float], Awaitable[Prepared]]

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._tasks = set[asyncio.Task[None]]()

    async def handle(self, msg: Msg) -> None:
        """Start answering a request in a task, so that the next one need not wait."""
        task = asyncio.create_task(self._answer(msg), name="prepare")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, msg: Msg) -> None:
        try:
            job_id, timeout_s = read_request(msg.data)
            async with self._slots:
                outcome: Prepared | str = await self.prepare(job_id, min(timeout_s, LONGEST_S))
        except (NotPrepared, Misconfigured, Unreadable, ValueError) as error:
            outcome = str(error)
        except (JetStreamError, LedgerError) as error:
            outcome = describe_outage(error)
        try:
            await msg.respond(answer_of(outcome))
        except nats.errors.Error as error:
            log.warning("an answer to prepare could not be sent", error=str(error))
