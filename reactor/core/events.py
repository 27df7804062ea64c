"""Read lifecycle messages. Pure. A message that cannot be read becomes a value (`Malformed`), not an exception.

A payload is JSON of at most 64 KiB, `{"job_id": 42, "status": "SUCCESS", "occurred_at": "2026-01-31T12:00:00Z"}`, or a
CloudEvents 1.0 structured envelope with that as its `data`.
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StrictInt, StrictStr, StringConstraints, ValidationError

from reactor.core.foreign_json import read_json
from reactor.core.model import UNREADABLE, Event, Malformed, StatusEvent, parse_instant
from reactor.core.subjects import MAX_STATUS, SubjectTemplate

MAX_BYTES = 64 * 1024


class Payload(BaseModel):
    """The payload of a lifecycle message. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    job_id: StrictInt | StrictStr
    status: Annotated[StrictStr, StringConstraints(min_length=1, max_length=MAX_STATUS)]
    occurred_at: object = None
    event_id: object = None
    source: object = None


def read_event(
    template: SubjectTemplate, subject: str, data: bytes, *, seq: int, published_at: int
) -> Event | Malformed:
    """Read one stored message; `published_at` is the server's own timestamp of it.

    An event's time is clamped to `published_at`, so that a fast emitter clock cannot hide later events. An event whose
    time cannot be read, or has no offset, is not lost: it gets the server's time, and a remark.
    """
    job_id = template.job_id(subject)
    try:
        payload, source, time = _parse(data)
        if job_id != str(payload.job_id):
            return _malformed(job_id, seq, published_at, f"job_id {str(payload.job_id)[:64]!r} is not the subject's")
    except ValidationError as error:
        return _malformed(job_id, seq, published_at, _describe(error))
    except ValueError as error:
        return _malformed(job_id, seq, published_at, str(error))
    occurred_at, remark = _instant_of(time, published_at)
    return Event(job_id, StatusEvent(occurred_at, seq, payload.status, published_at, source), remark)


def _parse(data: bytes) -> tuple[Payload, str | None, object]:
    """Return the payload, the emitter and the time, as they are in the message."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data)} bytes, more than the {MAX_BYTES} allowed")
    document = read_json(data)
    envelope: dict[str, Any] = document if isinstance(document, dict) and "specversion" in document else {}
    payload = Payload.model_validate(envelope.get("data") if envelope else document)
    source = payload.source or envelope.get("source")
    # The envelope's `time` is when the occurrence happened. A time in the payload takes precedence.
    return payload, source if isinstance(source, str) else None, payload.occurred_at or envelope.get("time")


def _instant_of(time: object, published_at: int) -> tuple[int, str | None]:
    """Return the time of the event (ns), and a remark if the emitter's time cannot be used."""
    if time is None or time == "":
        return published_at, None
    try:
        return max(min(parse_instant(str(time)), published_at), 0), None
    except ValueError as error:
        return published_at, f"occurred_at: {error}"


def _describe(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'payload'}: {e['msg']}" for e in error.errors())[:300]


def _malformed(job_id: str | None, seq: int, published_at: int, reason: str) -> Malformed:
    return Malformed(job_id, StatusEvent(published_at, seq, UNREADABLE, published_at), reason)
