"""The job system's Celery."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
django.setup()

from celery import Celery  # noqa: E402  # after Django's setup
from jobs import tasks  # noqa: E402

from reactor.client.celery import connect  # noqa: E402

app = Celery("project", broker=os.environ["BROKER"])
app.conf.broker_transport_options = {"global_keyprefix": os.environ["PREFIX"]}
app.conf.task_ignore_result = True
app.task(name="jobs.run")(tasks.run)
app.task(name="jobs.restart")(tasks.restart)
connect(lambda _task, args, _kwargs: args[0], task="jobs.run")
