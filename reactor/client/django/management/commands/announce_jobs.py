"""Tell reactor of all jobs that are not over, and of those that ended of late."""

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import Q
from django.utils import timezone

from reactor.client.django import Tracked, tracked
from reactor.config.fields import parse_duration


class Command(BaseCommand):
    """Backfill before the first event, and repair after lost ones."""

    help = "Tell reactor of all jobs that are not over, and of those that ended of late (models given to track())."

    def add_arguments(self, parser: CommandParser) -> None:
        """How far back."""
        parser.add_argument("--since", default="7d", help="Ended jobs no older than this, such as 12h (default: 7d).")

    def handle(self, *_: object, since: str, **__: object) -> None:
        """Raises CommandError where some could not be told."""
        try:
            back = parse_duration(since)
        except ValueError as error:
            message = f"--since: {error}"
            raise CommandError(message) from error
        if not tracked:
            raise CommandError("no model is tracked: call reactor.client.django.track() in AppConfig.ready()")
        for one in tracked:
            keys = _wanted(one, back).values_list("pk", flat=True).iterator()
            told = [answer for key in keys if (answer := one.tell_current(key)) is not None]
            failed = [answer for answer in told if not answer]
            if failed:
                message = f"{len(failed)} of {len(told)} jobs could not be told: {failed[0].error}"
                raise CommandError(message)
            self.stdout.write(f"{one.model._meta.label}: {len(told)} jobs told")  # noqa: SLF001  # Django's documented name


def _wanted(one: Tracked, back: timedelta) -> Any:  # noqa: ANN401  # Django's
    rows = one.rows()
    if one.ended_at is None:
        return rows
    over = Q(**{f"{one.status}__in": _spellings(one)})
    return rows.filter(~over | Q(**{f"{one.ended_at}__gte": timezone.now() - back}))


def _spellings(one: Tracked) -> set[str]:
    """Terminal words as the table spells them; statuses compare without case."""
    return {word for status in one.terminal for word in (status, status.lower(), status.capitalize())}
