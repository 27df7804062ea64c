"""The app of the jobs."""

from django.apps import AppConfig


class JobsConfig(AppConfig):
    """Publishes the status of its rows."""

    name = "jobs"

    def ready(self) -> None:
        """Track the jobs, as docs/adopting.md says."""
        from reactor.client.django import track  # noqa: PLC0415  # after the models

        from .models import Job  # noqa: PLC0415  # as above

        track(Job, status="status", ended_at="finished_at")
