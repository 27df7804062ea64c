"""A thread that does things after a commit, so that the code that saves a row waits for nothing.

One for each process, started by the first row that is saved, again after a fork. At the process's end, and at that of a
Celery worker process, what is left is done first, for `FLUSH_S` at most.
"""

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable, Hashable

from django.db import close_old_connections

MAX_WAITING = 10_000
"""Rows that wait. The oldest go first, and `announce_jobs` makes up for them."""
FLUSH_S = 5.0

log = logging.getLogger("reactor.client")


class Background:
    """A bounded queue with one entry for each key, and the thread that works it off.

    A key that waits already keeps its place and gets the newer action. So a row that is saved ten times in a row is
    told once, as it is by then.
    """

    def __init__(self) -> None:
        """Start nothing yet."""
        self._reset()

    def _reset(self) -> None:
        """Begin anew, also in a forked child: the rows that wait are its parent's."""
        self._waiting: dict[Hashable, Callable[[], object]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._full = False

    def put(self, key: Hashable, action: Callable[[], object]) -> None:
        """Do it soon, in the thread."""
        with self._changed:
            self._waiting[key] = action
            if len(self._waiting) > MAX_WAITING:
                del self._waiting[next(iter(self._waiting))]
                if not self._full:
                    log.warning("more than %d jobs wait to be told, the oldest are not: run announce_jobs", MAX_WAITING)
                self._full = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="reactor.client.django", daemon=True)
                self._thread.start()
                _flush_with_celery()
            self._changed.notify_all()

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait until nothing is left to do. Returns whether that came about in time."""
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
                log.warning("a job's status was not told: run announce_jobs", exc_info=True)
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
    """A Celery worker process ends without Python's own exit handlers."""
    if "celery.signals" in sys.modules:
        sys.modules["celery.signals"].worker_process_shutdown.connect(_flush, weak=False, dispatch_uid="reactor")


def _flush(**_: object) -> None:
    background.flush()
