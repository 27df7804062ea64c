"""What a job does: it makes its stream, publishes its work, waits for the workers, and forgets its stream."""

import asyncio
import os
import signal
import time

import nats
from django.db.models import F
from django.utils import timezone

from reactor.client import prepare

from .models import Job

MESSAGES = 5


def run(job_id: int) -> None:
    """Run a job. Each kind ends in its own way."""
    job = Job.objects.get(id=job_id)
    job.status, job.finished_at = "STARTED", None
    job.save()
    asyncio.run(publish(job_id, MESSAGES, creates=True))
    if job.kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.kind == "raises":
        job.status, job.finished_at = "FAILURE", timezone.now()
        job.save()
        raise ValueError("on purpose")
    if job.kind == "updated":  # no signal of Django's tells of it
        Job.objects.filter(id=job_id).update(status="REVOKED")
    elif job.kind == "deleted":
        job.delete()
    elif job.kind == "works on":  # and returns: other tasks do its work
        deadline = time.monotonic() + float(os.environ["WORK_S"])
        while time.monotonic() < deadline:
            asyncio.run(publish(job_id, 1))
    else:
        job.status, job.finished_at = "SUCCESS", timezone.now()
        job.save()
    if job.kind == "tidy":
        asyncio.run(delete(job_id))


def restart(job_id: int) -> None:
    """Restart a job that is over and whose stream may be in deletion."""
    prepare(job_id)
    Job.objects.filter(id=job_id).update(kind="works on", published=0)
    run(job_id)


async def publish(job_id: int, count: int, *, creates: bool = False) -> None:
    """Publish work, and count what was acknowledged."""
    client = await nats.connect(os.environ["NATS_URL"])
    js = client.jetstream()
    if creates:
        await js.add_stream(name=f"job_{job_id}", subjects=[f"job.{job_id}"])
    for number in range(count):
        await js.publish(f"job.{job_id}", str(number).encode())
        await Job.objects.filter(id=job_id).aupdate(published=F("published") + 1)
    await client.close()


async def delete(job_id: int) -> None:
    """Clean up the job's stream."""
    client = await nats.connect(os.environ["NATS_URL"])
    await client.jetstream().delete_stream(f"job_{job_id}")
    await client.close()
