"""The job system's own tests: they commit rows whose ids are those of live jobs."""

from django.test import TransactionTestCase
from django.utils import timezone

from reactor.client import emit, prepare

from .models import Job


class Ends(TransactionTestCase):
    """Each job ends."""

    def test_jobs_end(self) -> None:
        """By rows, and by the client."""
        for job_id in range(1, 21):
            job = Job.objects.create(id=job_id, kind="tidy", status="STARTED")
            job.status, job.finished_at = "SUCCESS", timezone.now()
            job.save()
            assert emit(job_id, "FAILURE").skipped
            assert prepare(job_id).stream is None
        Job.objects.get(id=1).delete()
