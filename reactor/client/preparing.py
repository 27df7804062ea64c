"""Before a job is started again, from the job system's own code. It asks Redis, too, for the stream's lease."""

import asyncio
import sys

from reactor.bootstrap.connections import actor_of, connections
from reactor.bootstrap.services import UseCases, provision_safely
from reactor.client.emitter import JobId, Process, is_off
from reactor.config.settings import load_settings
from reactor.deletion.prepare import NotPrepared, Prepared

__all__ = ["NotPrepared", "Prepared", "aprepare", "prepare"]

TIMEOUT_S = 60.0


def prepare(job_id: JobId, *, timeout: float = TIMEOUT_S) -> Prepared:
    """Say that the job lives, wait out a deletion under way, empty its stream in place: then publishing is safe.

    Raises NotPrepared, SettingsError, JetStreamError and LedgerError: then it is not known to be.
    """
    _refuse_in_transaction(job_id)
    return asyncio.run_coroutine_threadsafe(_prepare(str(job_id), timeout), Process.ours().loop).result()


async def aprepare(job_id: JobId, *, timeout: float = TIMEOUT_S) -> Prepared:  # noqa: ASYNC109  # as prepare's
    """Prepare as `prepare` does, without blocking the event loop."""
    return await _prepare(str(job_id), timeout)


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
    async with connections(load_settings(), actor=actor_of("prepare")) as connected:
        cases = UseCases(connected, await provision_safely(connected))
        return await cases.prepare(job_id, timeout_s)
