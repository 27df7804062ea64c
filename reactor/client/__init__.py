"""The client for job systems: publish the status of a job.

    from reactor.client import emit

    emit(42, "SUCCESS")

`emit` is for views, Celery tasks, threads and forked workers; `aemit` does the same in an event loop. Neither raises
unless asked to, and neither waits longer than its timeout. The answer, the log and `counts` show whether the event is
stored in the lifecycle stream. The server and the subject are configured by the same variables as the worker's
(REACTOR_NATS_…, REACTOR_EVENTS_…).
"""

from typing import TYPE_CHECKING

from reactor.client.emitter import EmitError, Emitted, aemit, counts, emit

if TYPE_CHECKING:
    from reactor.client.preparing import NotPrepared, Prepared, aprepare, prepare

__all__ = ["EmitError", "Emitted", "NotPrepared", "Prepared", "aemit", "aprepare", "counts", "emit", "prepare"]


def __getattr__(name: str) -> object:
    """Import the functions that prepare a job when they are used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from reactor.client import preparing  # noqa: PLC0415

    return getattr(preparing, name)
