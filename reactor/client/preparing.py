"""Prepare a job before it is started again. A worker answers the request when the job's stream is safe.

The worker holds the stream's lease and purges the stream. The job system needs neither Redis nor that permission.
"""

import asyncio
import sys

import nats.errors

from reactor.client.emitter import JobId, Process, is_off
from reactor.core.preparing import PREPARE_SUBJECT, NotPrepared, Prepared, read_answer, request_of
from reactor.jetstream.errors import JetStreamError

__all__ = ["NotPrepared", "Prepared", "aprepare", "prepare"]

TIMEOUT_S = 60.0
ANSWER_S = 10.0
"""How much longer (s) the answer may take than a deletion under way."""


def prepare(job_id: JobId, *, timeout: float = TIMEOUT_S) -> Prepared:
    """Let a worker mark the job as live and empty its stream of the former run. Then publishing is safe.

    It waits for a deletion under way, at most `timeout` seconds. After NotPrepared publishing may not be safe.
    """
    _refuse_in_transaction(job_id)
    return asyncio.run_coroutine_threadsafe(_prepare(str(job_id), timeout), Process.of_this_process().loop).result()


async def aprepare(job_id: JobId, *, timeout: float = TIMEOUT_S) -> Prepared:  # noqa: ASYNC109  # as prepare's
    """Prepare a job like `prepare`, without blocking the event loop."""
    future = asyncio.run_coroutine_threadsafe(_prepare(str(job_id), timeout), Process.of_this_process().loop)
    return await asyncio.wrap_future(future)


def _refuse_in_transaction(job_id: JobId) -> None:
    """Raise NotPrepared if this thread has a Django transaction open: it may still roll back."""
    database = sys.modules.get("django.db")
    if (
        database is not None
        and not is_off()
        and any(connection.in_atomic_block for connection in database.connections.all(initialized_only=True))
    ):
        raise NotPrepared(
            f"job {job_id} is not prepared inside of a database transaction, which may still roll back: call prepare "
            "in transaction.on_commit"
        )


async def _prepare(job_id: str, timeout_s: float) -> Prepared:
    if is_off():
        return Prepared(job_id)
    try:
        client = await Process.of_this_process().connected()
        body = request_of(job_id, timeout_s)
        answer = await client.request(PREPARE_SUBJECT, body, timeout=timeout_s + ANSWER_S)
    except nats.errors.NoRespondersError as error:
        raise NotPrepared(f"no worker listens on {PREPARE_SUBJECT}: start reactor worker") from error
    except (TimeoutError, ValueError, JetStreamError, nats.errors.Error) as error:
        raise NotPrepared(f"no worker has answered: {str(error) or type(error).__name__}") from error
    return read_answer(answer.data)
