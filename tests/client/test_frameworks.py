"""Real Django and Celery, each in its own process because their settings are global."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.harness import ROOT, World, statuses_of

from reactor.core.model import parse_instant

DJANGO = """
import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["reactor.client.django"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "jobs.db"}},
    USE_TZ=True,
)
django.setup()

from datetime import timedelta
from django.core.management import call_command
from django.db import connection, models, transaction
from django.utils import timezone
from reactor.client.django import flush, track

class Job(models.Model):
    status = models.TextField()
    finished_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "jobs"

with connection.schema_editor() as editor:
    editor.create_model(Job)
old = Job.objects.create(id=90, status="RUNNING")
Job.objects.create(id=91, status="success", finished_at=timezone.now() - timedelta(days=30))
Job.objects.create(id=92, status="SUCCESS", finished_at=timezone.now() - timedelta(hours=1))
track(Job, status="status", ended_at="finished_at")
"""

CELERY = """
import sys
from celery import Celery
from reactor.client.celery import connect

broker, prefix = sys.argv[1:]
app = Celery(broker=broker, backend="cache+memory://" if broker == "memory://" else broker)
app.conf.broker_transport_options = app.conf.result_backend_transport_options = {"global_keyprefix": prefix}
app.conf.task_always_eager = False
connect(lambda task, args, kwargs: kwargs.get("job_id"), ends="all")

@app.task(bind=True, max_retries=1)
def work(self, fails=False, again=False, job_id=None):
    if again and not self.request.retries:
        raise self.retry(countdown=0)
    if fails:
        raise ValueError("on purpose")
"""


async def run(world: World, folder: Path, code: str, *args: str) -> None:
    """Run code as a job system's process."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("REACTOR_")}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code, *args],
        env=env | {"PYTHONPATH": str(ROOT), "REACTOR_NATS_URL": world.nats_url},
        cwd=folder,
        timeout=60,
        check=False,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stderr


async def run_django(world: World, folder: Path, code: str) -> None:
    """Run code as a Django process that tracks its jobs."""
    await run(world, folder, DJANGO + code)


async def test_django_sends_what_was_committed(world: World, tmp_path: Path) -> None:
    """Neither what was rolled back, nor a stale object's status. A deleted row is DELETED."""
    await run_django(
        world,
        tmp_path,
        """
job = Job.objects.create(id=1, status="STARTED")
assert flush()
stale = Job.objects.get(id=1)
job.status, job.finished_at = "SUCCESS", timezone.now()
job.save()
assert flush()
stale.save(update_fields=["finished_at"])  # says STARTED, and writes something else
try:
    with transaction.atomic():
        Job.objects.create(id=2, status="SUCCESS")
        raise ValueError
except ValueError:
    pass
with transaction.atomic():
    three = Job.objects.create(id=3, status="STARTED")
    three.status = "FAILURE"
    three.save()
assert flush()
three.delete()
""",
    )
    words = await statuses_of(world)
    assert set(words) == {"1", "3"}
    assert words["1"] == ["STARTED", "SUCCESS", "SUCCESS"]
    assert words["3"] == ["FAILURE", "DELETED"]


async def test_django_sends_again_what_changed_while_it_was_sent(world: World, tmp_path: Path) -> None:
    """STARTED was read, another process published the end, then STARTED was stored: the end is published again."""
    await run_django(
        world,
        tmp_path,
        """
import reactor.client.django as ours
original, struck = ours.emit, []

def late(job_id, status, **more):
    if status == "STARTED" and not struck:
        struck.append(job_id)
        Job.objects.filter(id=job_id).update(status="SUCCESS", finished_at=timezone.now())  # as another process would
        assert original(job_id, "SUCCESS")
    return original(job_id, status, **more)

ours.emit = late
Job.objects.create(id=1, status="STARTED")
assert flush()
Job.objects.create(id=2, status="QUEUED")
assert flush()
struck.clear()
Job.objects.filter(id=2).update(status="STARTED")
call_command("announce_jobs", since="2d")
""",
    )
    words = await statuses_of(world)
    assert words["1"][:3] == ["SUCCESS", "STARTED", "SUCCESS"]
    assert words["2"] == ["QUEUED", "SUCCESS", "STARTED", "SUCCESS"]
    await not_disputed(world, "1", "2")


async def test_a_job_that_ends_while_its_start_is_published_is_not_disputed(world: World, tmp_path: Path) -> None:
    """Its end is taken from its row, which is older than the publishing of its start on a busy machine."""
    await run_django(
        world,
        tmp_path,
        """
import time
import reactor.client.django as ours
original, ended = ours.emit, []

def slow(job_id, status, **more):
    if status == "STARTED":
        while not ended:
            time.sleep(0.01)
        time.sleep(0.05)
    return original(job_id, status, **more)

ours.emit = slow
job = Job.objects.create(id=1, status="STARTED")
time.sleep(0.1)
job.status, job.finished_at = "SUCCESS", timezone.now()
job.save()
ended.append(True)
assert flush()
""",
    )
    assert (await statuses_of(world))["1"] == ["STARTED", "SUCCESS", "SUCCESS"]
    await not_disputed(world, "1")


async def not_disputed(world: World, *jobs: str) -> None:
    """Assert that the last event of each job is its latest one by time, too."""
    events = await world.lifecycle_events()
    for job in jobs:
        own = [event for event in events if event["job_id"] == job]
        assert own[-1]["status"] == "SUCCESS"
        assert parse_instant(own[-1]["occurred_at"]) > max(
            parse_instant(event["occurred_at"]) for event in own if event["status"] != "SUCCESS"
        ), own


async def test_a_process_sends_its_last_events_before_it_ends(world: World, tmp_path: Path) -> None:
    """Also those of a forked child. A job that is saved often is published with its last status."""
    await run_django(
        world,
        tmp_path,
        """
import os
Job.objects.create(id=1, status="STARTED")
assert flush()  # SQLite takes no fork while another thread reads
connection.close()
if not (child := os.fork()):
    Job.objects.create(id=51, status="STARTED")
    assert flush()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
for id in range(2, 51):
    Job.objects.create(id=id, status="STARTED")
with transaction.atomic():
    job = Job.objects.create(id=52, status="QUEUED")
    for status in ("STARTED", "PROGRESS", "SUCCESS"):
        job.status = status
        job.save()
""",
    )
    words = await statuses_of(world)
    assert set(words) == {str(job) for job in range(1, 53)}
    assert words["52"] == ["SUCCESS"]


async def test_a_celery_process_sends_its_last_events_before_it_ends(world: World, tmp_path: Path) -> None:
    """It ends by os._exit, after Celery's signal."""
    await run_django(
        world,
        tmp_path,
        """
import os, time
from celery import signals
from reactor.client.django import Tracked
real = Tracked.rows
Tracked.rows = lambda self, using=None: (time.sleep(0.1), real(self, using))[1]
for id in range(1, 6):
    Job.objects.create(id=id, status="STARTED")
signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0)
os._exit(0)
""",
    )
    assert set(await statuses_of(world)) == {"1", "2", "3", "4", "5"}


async def test_a_job_that_cannot_be_read_holds_up_nobody(world: World, tmp_path: Path) -> None:
    """The code that saved it continues, the next job is published, and the log says what to run."""
    await run_django(
        world,
        tmp_path,
        """
import logging
from reactor.client.django import Tracked
lines = []
logging.getLogger("reactor.client").addFilter(lambda record: lines.append(record.getMessage()) or False)
real = Tracked.rows
Tracked.rows = lambda *_: 1 / 0
Job.objects.create(id=1, status="STARTED")
assert flush()
Tracked.rows = real
Job.objects.create(id=2, status="STARTED")
assert flush()
assert lines == ["a job's status was not sent: run announce_jobs"], lines
""",
    )
    assert await statuses_of(world) == {"2": ["STARTED"]}


async def test_django_announces_what_there_is(world: World, tmp_path: Path) -> None:
    """All live jobs, and those that ended recently. This repairs changes without a signal."""
    await run_django(
        world,
        tmp_path,
        """
Job.objects.filter(id=90).update(status="PROGRESS")
call_command("announce_jobs", since="2d")
""",
    )
    assert await statuses_of(world) == {"90": ["PROGRESS"], "92": ["SUCCESS"]}


async def test_proxies_and_children_are_rows_of_their_model(world: World, tmp_path: Path) -> None:
    """A row that update() ended without a time is announced."""
    await run_django(
        world,
        tmp_path,
        """
class Proxied(Job):
    class Meta:
        proxy = True
        app_label = "jobs"

class Training(Job):
    epochs = models.IntegerField(default=1)

    class Meta:
        app_label = "jobs"

with connection.schema_editor() as editor:
    editor.create_model(Training)
Proxied.objects.create(id=5, status="STARTED")
Training.objects.create(id=6, status="STARTED")
Job.objects.filter(id=90).update(status="FAILURE")  # and no finished_at
call_command("announce_jobs", since="2d")
""",
    )
    words = await statuses_of(world)
    assert (words["5"][0], words["6"][0], words["90"]) == ("STARTED", "STARTED", ["FAILURE"])


TESTED = """
import os
from django.test.utils import get_runner
from django.test import TransactionTestCase

class Tests(TransactionTestCase):
    def test_a_job_ends(self):
        with connection.schema_editor() as editor:
            editor.create_model(Job)
        Job.objects.create(id=7, status="SUCCESS", finished_at=timezone.now())
        from reactor.client import emit, prepare
        assert emit(8, "SUCCESS").skipped
        assert prepare(9).stream is None

runner = get_runner(settings)(verbosity=0)
runner.setup_test_environment()
databases = runner.setup_databases()
import unittest
result = unittest.TextTestRunner(verbosity=0).run(unittest.defaultTestLoader.loadTestsFromTestCase(Tests))
runner.teardown_databases(databases)
assert result.wasSuccessful(), result
"""


async def test_the_tests_of_a_job_system_emit_nothing(world: World, tmp_path: Path) -> None:
    """They commit rows with ids of live jobs while NATS is live. Their ends must not delete live queues."""
    await world.declare()
    await world.stream("job_7", messages=1)
    await run_django(world, tmp_path, TESTED)
    assert await statuses_of(world) == {}


async def test_emitting_is_switched_off(world: World, tmp_path: Path) -> None:
    """By the environment."""
    await world.declare()
    code = """
import os
os.environ["REACTOR_CLIENT_EMIT"] = "off"
from reactor.client import emit
assert emit(1, "SUCCESS").skipped
"""
    await run(world, tmp_path, code)
    assert await statuses_of(world) == {}


async def test_nothing_is_prepared_in_a_transaction(world: World, tmp_path: Path) -> None:
    """It may still roll back."""
    await world.declare()
    await run_django(
        world,
        tmp_path,
        """
from reactor.client import NotPrepared, prepare
with transaction.atomic():
    try:
        prepare(1)
    except NotPrepared as error:
        assert "on_commit" in str(error)
    else:
        raise AssertionError
""",
    )
    assert await statuses_of(world) == {}


@pytest.mark.parametrize("transport", ["memory", "redis"])
async def test_celery_sends_how_tasks_end(world: World, tmp_path: Path, transport: str) -> None:
    """Started, retried, done or failed. A task that is not a job publishes nothing."""
    await run(
        world,
        tmp_path,
        CELERY
        + """
from celery.contrib.testing.worker import start_worker
with start_worker(app, perform_ping_check=False, pool="solo"):
    jobs = [work.delay(job_id=1), work.delay(job_id=2, fails=True), work.delay(job_id=3, again=True), work.delay()]
    for result in jobs:
        result.get(timeout=20, propagate=False)
""",
        "memory://" if transport == "memory" else world.redis_url,
        f"{world.namespace}-celery-",
    )
    assert await statuses_of(world) == {
        "1": ["STARTED", "SUCCESS"],
        "2": ["STARTED", "FAILURE"],
        "3": ["STARTED", "RETRY", "STARTED", "SUCCESS"],
    }


async def test_the_success_of_a_task_is_not_the_end_of_its_job(world: World, tmp_path: Path) -> None:
    """Unless `ends="all"`, because most tasks only queue work. Only the named tasks are jobs."""
    await run(
        world,
        tmp_path,
        CELERY.replace(', ends="all"', ', task="__main__.work"')
        + """
@app.task
def other(job_id=None):
    raise ValueError("on purpose")

from celery.contrib.testing.worker import start_worker
with start_worker(app, perform_ping_check=False, pool="solo"):
    for result in [work.delay(job_id=1), work.delay(job_id=2, fails=True), other.delay(job_id=3)]:
        result.get(timeout=20, propagate=False)
""",
        "memory://",
        f"{world.namespace}-celery-",
    )
    assert await statuses_of(world) == {"1": ["STARTED"], "2": ["STARTED", "FAILURE"]}
