"""The rows."""

from django.db import models


class Job(models.Model):
    """One job; its stream is `job_{id}`."""

    kind = models.TextField()
    status = models.TextField(default="QUEUED")
    finished_at = models.DateTimeField(null=True)
    published = models.IntegerField(default=0)
    """Messages that its stream has acknowledged since it was started last."""

    def __str__(self) -> str:
        """Name it."""
        return f"job {self.pk}, {self.kind}"
