"""Published alerts, each checked against the AsyncAPI document."""

import json
from typing import Any

from jsonschema import Draft202012Validator
from nats.aio.msg import Msg

from reactor.core.subjects import SubjectTemplate
from reactor.web.asyncapi import document
from support.harness import WorkerProcess, World

DOCUMENT = document(SubjectTemplate("jobs.lifecycle.{job_id}"), "1.0")
SCHEMA = DOCUMENT["channels"]["alert"]["messages"]["alert"]["payload"]


async def alerts(world: World) -> list[dict[str, Any]]:
    """The alerts that are published from now on, each as the AsyncAPI document describes it."""
    published: list[dict[str, Any]] = []

    async def receive(msg: Msg) -> None:
        alert = json.loads(msg.data)
        Draft202012Validator(SCHEMA).validate(alert)
        assert set(alert) == set(SCHEMA["properties"])
        assert msg.subject == f"reactor.alert.{alert['kind']}"
        published.append(alert)

    await world.nc.subscribe("reactor.alert.*", cb=receive)
    await world.nc.flush()
    return published


def passes(process: WorkerProcess) -> int:
    """Return how many full passes the worker has completed."""
    return sum("reconcile done" in line for line in process.lines)


def changes(published: list[dict[str, Any]]) -> list[tuple[str, bool]]:
    return [(alert["kind"], alert["resolved"]) for alert in published]
