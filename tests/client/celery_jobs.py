"""A job system's Celery app, for a worker of its own: its task ends in every way there is."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Celery
from celery.exceptions import Ignore, Reject

from reactor.client.celery import connect

app = Celery("jobs", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.broker_transport_options = app.conf.result_backend_transport_options = {
    "global_keyprefix": os.environ["PREFIX"]
}
app.conf.worker_prefetch_multiplier = 1
connect(lambda _task, _args, kwargs: kwargs.get("job_id"), ends="all")


@app.task(bind=True, max_retries=1, name="work")
def work(self: Any, how: str, **_job: str) -> None:
    """End in this way."""
    if how == "fail":
        raise ValueError("on purpose")
    if how == "retry" and not self.request.retries:
        raise self.retry(countdown=1)
    if how == "ignore":
        raise Ignore
    if how == "reject":
        raise Reject("no", requeue=False)
    if how in {"soft", "hard", "terminate"}:
        time.sleep(3)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="timed", acks_late=True, acks_on_failure_or_timeout=False)
def timed(how: str, **_job: str) -> None:
    """Exceed its time limit, and run again."""
    been_here = Path(how)
    if not been_here.exists():
        been_here.touch()
        time.sleep(5)


@app.task(name="late", acks_late=True, reject_on_worker_lost=True)
def late(how: str, **_job: str) -> None:
    """Run again after the first time."""
    been_here = Path(how)
    if been_here.exists():
        return
    been_here.touch()
    if how == "requeue":
        raise Reject("later", requeue=True)
    os.kill(os.getpid(), signal.SIGKILL)
