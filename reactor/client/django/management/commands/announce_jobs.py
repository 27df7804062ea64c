"""`manage.py announce_jobs`: publish the status of all live jobs, and of those that ended recently."""

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import Q
from django.utils import timezone

from reactor.client.django import Tracked, tracked
from reactor.core.durations import parse_duration


class Command(BaseCommand):
    """Publishes the jobs' statuses before the first event, or after lost events."""

    help = (
        "Publish the status of all jobs that are not over, and of those that ended recently (models given to track())."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare how far back to look."""
        parser.add_argument("--since", default="7d", help="Ended jobs no older than this, such as 12h (default: 7d).")

    def handle(self, *_: object, since: str, **__: object) -> None:
        """Publish the jobs. Raises CommandError if some could not be published."""
        try:
            back = parse_duration(since)
        except ValueError as error:
            raise CommandError(f"--since: {error}") from error
        if not tracked:
            raise CommandError("no model is tracked: call reactor.client.django.track() in AppConfig.ready()")
        for item in tracked:
            keys = _wanted(item, back).values_list("pk", flat=True).iterator()
            answers = [answer for key in keys if (answer := item.publish_current(key)) is not None]
            failed = [answer for answer in answers if not answer]
            if failed:
                raise CommandError(f"{len(failed)} of {len(answers)} jobs could not be sent: {failed[0].error}")
            self.stdout.write(f"{item.model._meta.label}: {len(answers)} jobs sent")  # noqa: SLF001  # Django's documented name


def _wanted(item: Tracked, back: timedelta) -> Any:  # noqa: ANN401  # Django's
    rows = item.rows()
    if item.ended_at is None:
        return rows
    over = Q(**{f"{item.status}__in": _spellings(item)})
    recent = Q(**{f"{item.ended_at}__gte": timezone.now() - back})
    undated = Q(**{f"{item.ended_at}__isnull": True})  # ended by update(), which left the time out
    return rows.filter(~over | recent | undated)


def _spellings(item: Tracked) -> set[str]:
    """Return the terminal statuses as the table spells them. Statuses compare without case."""
    return {spelling for status in item.terminal for spelling in (status, status.lower(), status.capitalize())}
