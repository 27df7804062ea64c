"""Before a job is started again, from the job system's own code. It asks Redis, too, for the stream's lease."""

import asyncio

from reactor.bootstrap.connections import actor_of, connections
from reactor.bootstrap.services import UseCases, provision_safely
from reactor.client.emitter import JobId, Process
from reactor.config.settings import load_settings
from reactor.deletion.prepare import NotPrepared, Prepared

__all__ = ["NotPrepared", "Prepared", "aprepare", "prepare"]

TIMEOUT_S = 60.0


def prepare(job_id: JobId, *, timeout: float = TIMEOUT_S) -> Prepared:
    """Say that the job lives, wait out a deletion under way, empty its stream in place: then publishing is safe.

    Raises NotPrepared, SettingsError, JetStreamError and LedgerError: then it is not known to be.
    """
    return asyncio.run_coroutine_threadsafe(_prepare(str(job_id), timeout), Process.ours().loop).result()


async def aprepare(job_id: JobId, *, timeout: float = TIMEOUT_S) -> Prepared:  # noqa: ASYNC109  # as prepare's
    """Prepare as `prepare` does, without blocking the event loop."""
    return await _prepare(str(job_id), timeout)


async def _prepare(job_id: str, timeout_s: float) -> Prepared:
    async with connections(load_settings(), actor=actor_of("prepare")) as connected:
        cases = UseCases(connected, await provision_safely(connected))
        return await cases.prepare(job_id, timeout_s)
