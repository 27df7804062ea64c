"""The client for Django: one line in `AppConfig.ready()` publishes the status of every job.

    from reactor.client.django import track

    track(Job, status="status", ended_at="finished_at")

After each commit it reads the row again and publishes what the database has, so a stale `save()` publishes nothing
wrong, and a rollback publishes nothing. A deleted row is published as `DELETED`. Proxies and multi-table children of
the model count as its rows.

A thread with its own database connection does this, so `save()` does not wait; `flush()` waits for the thread. Django
sends no signal for `update()`, `bulk_update()` and SQL. For those, and for all jobs at the beginning, run `manage.py
announce_jobs`, or let reactor read the table itself. While Django's tests run, nothing is published.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from django.db import models, transaction
from django.db.models.signals import post_delete, post_save
from django.utils import timezone

from reactor.client import Emitted, emit
from reactor.client.django.background import FLUSH_S, background
from reactor.client.emitter import is_off
from reactor.core.model import fold

TERMINAL = ("SUCCESS", "FAILURE", "REVOKED", "DELETED")
"""The terminal statuses, like REACTOR_POLICY_TERMINAL_STATUSES of the worker."""
ROUNDS = 5
"""How many times a row is published again if it changes during publishing."""


@dataclass(frozen=True)
class Tracked:
    """A model whose rows are jobs, and its columns."""

    model: type[models.Model]
    status: str
    ended_at: str | None
    job_id: str
    terminal: frozenset[str]

    def rows(self, using: str | None = None) -> Any:  # noqa: ANN401  # Django's
        """Return ids, statuses and ends in the database now."""
        columns = [self.job_id, self.status, *([self.ended_at] if self.ended_at else [])]
        return self.model._base_manager.using(using).values_list(*columns)  # noqa: SLF001  # Django's documented name

    def publish(self, row: tuple[Any, ...], saved_at: datetime) -> Emitted:
        """Publish one job's status: an ended one with the time of its end, any other with the time of its save.

        A live status with the time of its publishing could look later than an end that came meanwhile. The job would
        then be disputed, and its stream kept for a day.
        """
        job_id, status, *ended = row
        over = fold(str(status)) in self.terminal
        return emit(job_id, str(status), occurred_at=(ended[0] if ended else None) if over else saved_at)

    def publish_current(
        self, key: object, using: str | None = None, saved_at: datetime | None = None
    ) -> Emitted | None:
        """Publish one row as the database has it, and again if it has changed meanwhile. None if the row is gone.

        Another process may commit and publish between our reading and our publishing. Then our older status would be
        the last one. So we read again after publishing, until nothing has changed. `saved_at` is now by default.
        """
        answer: Emitted | None = None
        published: tuple[Any, ...] | None = None
        at = saved_at or timezone.now()
        for _ in range(ROUNDS):
            row = self.rows(using).filter(pk=key).first()
            if row is None and published is not None:
                return emit(published[0], "DELETED")
            if row is None or row == published:
                return answer
            answer, published = self.publish(row, at), row
            at = timezone.now()
        return answer


tracked: list[Tracked] = []


def track(
    model: type[models.Model],
    *,
    status: str,
    ended_at: str | None = None,
    job_id: str = "pk",
    terminal: Collection[str] = TERMINAL,
) -> None:
    """Publish the status of every row of this model, from now on.

    `status`, `ended_at` and `job_id` are names of fields. `job_id` is the one that the streams are named after.
    """
    item = Tracked(model, status, ended_at, job_id, frozenset(map(fold, terminal)))
    tracked.append(item)
    # No sender, because proxies and multi-table children of the model are its rows, too.
    post_save.connect(partial(_saved, item), weak=False)
    post_delete.connect(partial(_deleted, item), weak=False)


def flush(timeout_s: float = FLUSH_S) -> bool:
    """Wait until every saved job is published. Return whether that was done in time."""
    return background.flush(timeout_s)


def _saved(item: Tracked, instance: models.Model, using: str, **_: object) -> None:
    if isinstance(instance, item.model):  # the signal is sent for every model
        publish = partial(item.publish_current, instance.pk, using, timezone.now())  # the row may be gone by then
        _after_commit(item, instance, using, publish)


def _deleted(item: Tracked, instance: models.Model, using: str, **_: object) -> None:
    if isinstance(instance, item.model):
        job_id = instance.pk if item.job_id == "pk" else getattr(instance, item.job_id)
        _after_commit(item, instance, using, partial(emit, job_id, "DELETED"))


def _after_commit(item: Tracked, instance: models.Model, using: str, publish: Callable[[], object]) -> None:
    if not is_off():
        transaction.on_commit(partial(background.put, (id(item), using, instance.pk), publish), using=using)
