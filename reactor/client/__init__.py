"""For job systems: say what has become of a job, from wherever that is known.

    from reactor.client import emit

    emit(42, "SUCCESS")

`emit` is for views, Celery tasks, threads and forked workers; `aemit` is the same in an event loop. Neither raises
unless asked to, and neither waits for longer than its timeout: whether the event is safe in the lifecycle stream is in
the answer, in a line of the log, and in `counts`. Where NATS is, and on which subject, says the environment, by the
names that the worker reads (REACTOR_NATS_…, REACTOR_EVENTS_…).
"""

from typing import TYPE_CHECKING

from reactor.client.emitter import EmitError, Emitted, aemit, counts, emit

if TYPE_CHECKING:
    from reactor.client.preparing import NotPrepared, Prepared, aprepare, prepare

__all__ = ["EmitError", "Emitted", "NotPrepared", "Prepared", "aemit", "aprepare", "counts", "emit", "prepare"]


def __getattr__(name: str) -> object:
    """Import what prepares a job when it is used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from reactor.client import preparing  # noqa: PLC0415

    return getattr(preparing, name)
