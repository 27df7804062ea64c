"""The messages that reactor receives and sends on NATS, as an AsyncAPI 3.0 document.

https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

from typing import Any

from pydantic import TypeAdapter

from reactor.core.events import Payload
from reactor.core.schemas import ScheduledDeletion
from reactor.core.subjects import SubjectTemplate
from reactor.store.audit import Intent
from reactor.telemetry.alerts import Alert, Kind

Json = dict[str, Any]

_JOB_ID = {"job_id": {"description": "The job, as the stream pattern's group of that name finds it."}}
_STREAM = {"stream": {"description": "The stream's exact name."}}
_KIND = {"kind": {"description": "What needs a person.", "enum": [kind.value for kind in Kind]}}
_STARTED = {"job_id": 42, "status": "STARTED", "occurred_at": "2026-01-31T12:00:00Z"}
_DRAINED = {
    "stream": "job_42",
    "job_id": "42",
    "reason": "terminal",
    "rule": "default",
    "status": "SUCCESS",
    "created": "2026-01-31T09:00:00Z",
    "messages": 3,
    "by": "reactor@host:1",
    "at": "2026-01-31T12:05:00Z",
}
_EXHAUSTED = {
    "stream": "job_42",
    "job_id": "42",
    "consumer": "job-42-consumer",
    "by": "reactor@host:1",
    "at": "2026-01-31T12:05:00Z",
}
_EXHAUSTED_SCHEMA = {
    "type": "object",
    "title": "Exhausted",
    "properties": {name: {"type": "string"} for name in _EXHAUSTED},
    "required": list(_EXHAUSTED),
}
_SCHEDULED = {
    "stream": "job_42",
    "job_id": "42",
    "status": "FAILURE",
    "reason": "terminal",
    "rule": "failed trainings",
    "due_at": "2026-02-01T12:00:00Z",
    "messages": 3,
    "keep": "reactor protect job_42 --for 2h; if the job lives: reactor emit 42 STARTED",
    "by": "reactor@host:1",
    "at": "2026-01-31T12:00:00Z",
}
_ALERT = {
    "kind": "breaker_tripped",
    "message": "25 of 26 job streams have no job that the ledger knows (limits: 20 streams and 50%)",
    "at": "2026-01-31T12:05:00Z",
    "by": "reactor@host:1",
    "resolved": False,
}


def document(events: SubjectTemplate, version: str) -> Json:
    """Return the document. `events` is the subject of this worker's lifecycle events."""
    title = "Lifecycle event: a job has a status since a time"
    lifecycle = _message(title, TypeAdapter(Payload).json_schema(), _STARTED)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "reactor",
            "version": version,
            "description": "Deletes zombie JetStream streams and never a live one.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "lifecycle": {
                "address": events.template,
                "description": "JetStream. The job id is in the subject and in the payload; both must agree. "
                "A CloudEvents 1.0 structured envelope with this payload as its data is accepted, too.",
                "parameters": _JOB_ID,
                "messages": {"event": lifecycle},
            },
            "drained": {
                "address": "reactor.drained.{stream}",
                "description": "Core NATS, published after a stream was deleted. Only current subscribers receive it.",
                "parameters": _STREAM,
                "messages": {"drained": _message("A stream was deleted", _outcome_schema(), _DRAINED)},
            },
            "exhausted": {
                "address": "reactor.exhausted.{stream}",
                "description": "Core NATS, published once each time. The job is live, but its consumer has given up "
                "the last messages (max_deliver), so its workers wait.",
                "parameters": _STREAM,
                "messages": {"exhausted": _message("A live job's queue is exhausted", _EXHAUSTED_SCHEMA, _EXHAUSTED)},
            },
            "scheduled": {
                "address": "reactor.scheduled.{stream}",
                "description": "Core NATS, once for each scheduled deletion: when it is due, and how to keep it.",
                "parameters": _STREAM,
                "messages": {"scheduled": _message("A stream will be deleted", _scheduled_schema(), _SCHEDULED)},
            },
            "alert": {
                "address": "reactor.alert.{kind}",
                "description": "Core NATS, published by each worker when it begins and, as resolved, when it is over.",
                "parameters": _KIND,
                "messages": {"alert": _message("Something needs a person, or no longer does", _alert_schema(), _ALERT)},
            },
        },
        "operations": {
            "receive_events": _operation("receive", "lifecycle", "Receive the status of jobs"),
            "publish_drained": _operation("send", "drained", "Publish each deletion"),
            "publish_exhausted": _operation("send", "exhausted", "Publish live queues that deliver nothing more"),
            "publish_scheduled": _operation("send", "scheduled", "Publish scheduled deletions"),
            "publish_alert": _operation("send", "alert", "Publish what needs a person"),
        },
    }


def _message(title: str, payload: Json, example: Json) -> Json:
    return {"title": title, "payload": payload, "examples": [{"payload": example}]}


def _operation(action: str, channel: str, summary: str) -> Json:
    return {"action": action, "summary": summary, "channel": {"$ref": f"#/channels/{channel}"}}


def _outcome_schema() -> Json:
    """Return the schema of the event of a drained stream."""
    schema = TypeAdapter(Intent).json_schema()
    public = {name: rule for name, rule in schema["properties"].items() if name in Intent.PUBLIC_FIELDS}
    return schema | {"title": "Drained", "properties": public, "required": list(public)}


def _scheduled_schema() -> Json:
    return TypeAdapter(ScheduledDeletion).json_schema()


def _alert_schema() -> Json:
    """Return the schema of an alert, with the kinds in place, because a reference would not resolve in the document."""
    schema = TypeAdapter(Alert).json_schema()
    kinds = schema.pop("$defs")["Kind"]
    return schema | {"properties": schema["properties"] | {"kind": {"title": "Kind"} | kinds}}
