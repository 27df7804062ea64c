"""A thread that publishes after a commit, so that the code that saves a row does not wait.

Each process has one, started by the first saved row, and again after a fork. At the end of the process, or of a Celery
worker process, the thread first finishes its queue, for at most `FLUSH_S`.
"""

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable, Hashable

from django.db import close_old_connections

MAX_WAITING = 10_000
"""How many rows may wait. Beyond that the oldest are dropped, and `announce_jobs` publishes them."""
FLUSH_S = 5.0

log = logging.getLogger("reactor.client")


class Background:
    """A bounded queue with one entry for each key, and the thread that works on it.

    A waiting key keeps its place and gets the newer action. So a row that is saved ten times is published once.
    """

    def __init__(self) -> None:
        """Start with an empty queue and no thread."""
        self._reset()

    def _reset(self) -> None:
        """Empty the queue, also in a forked child, because the waiting rows belong to its parent."""
        self._waiting: dict[Hashable, Callable[[], object]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._full = False

    def put(self, key: Hashable, action: Callable[[], object]) -> None:
        """Queue an action for the thread."""
        with self._changed:
            self._waiting[key] = action
            if len(self._waiting) > MAX_WAITING:
                del self._waiting[next(iter(self._waiting))]
                if not self._full:
                    log.warning(
                        "more than %d jobs wait to be sent, so the oldest were dropped: run announce_jobs", MAX_WAITING
                    )
                self._full = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="reactor.client.django", daemon=True)
                self._thread.start()
                _flush_with_celery()
            self._changed.notify_all()

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait until the queue is empty. Return whether that was in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._busy, timeout_s)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                action = self._waiting.pop(next(iter(self._waiting)))
                self._busy = True
            try:
                action()
            except Exception:
                log.warning("a job's status was not sent: run announce_jobs", exc_info=True)
            finally:
                if not self._waiting:
                    close_old_connections()  # as Django does after each request
                with self._changed:
                    self._busy = False
                    self._full = self._full and bool(self._waiting)
                    self._changed.notify_all()


background = Background()
os.register_at_fork(after_in_child=background._reset)  # noqa: SLF001  # ours
atexit.register(background.flush)


def _flush_with_celery() -> None:
    """Finish the queue when a Celery worker process ends, which skips Python's exit handlers."""
    if "celery.signals" in sys.modules:
        sys.modules["celery.signals"].worker_process_shutdown.connect(_flush, weak=False, dispatch_uid="reactor")


def _flush(**_: object) -> None:
    background.flush()
