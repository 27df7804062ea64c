"""Reading lifecycle messages. Pure; what cannot be read is a value (`Malformed`), not an exception.

A payload is JSON of at most 64 KiB, `{"job_id": 42, "status": "SUCCESS", "occurred_at": "2026-01-31T12:00:00Z"}`, or a
CloudEvents 1.0 structured envelope with that as its `data`.
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StrictInt, StrictStr, StringConstraints, ValidationError

from reactor.core.foreign_json import read_json
from reactor.core.model import UNREADABLE, Event, Malformed, StatusEvent, parse_instant

MAX_BYTES = 64 * 1024


class Payload(BaseModel):
    """What an emitter says. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    job_id: StrictInt | StrictStr
    status: Annotated[StrictStr, StringConstraints(min_length=1, max_length=64)]
    occurred_at: object = None
    event_id: object = None
    source: object = None


@dataclass(frozen=True, slots=True)
class SubjectTemplate:
    """A subject such as `jobs.lifecycle.{job_id}` in which one whole token is the job's id."""

    template: str

    @property
    def wildcard(self) -> str:
        """The subject that captures every job's events."""
        return self.template.replace("{job_id}", "*")

    def of(self, job_id: str) -> str:
        """Return the subject of one job. Raises ValueError if the id is no subject token."""
        if not job_id or any(char in ".*>" or char.isspace() or not char.isprintable() for char in job_id):
            raise ValueError(
                f"job id {job_id!r} cannot be part of a subject: no dots, wildcards, spaces or control characters"
            )
        return self.template.replace("{job_id}", job_id)

    def job_id(self, subject: str) -> str | None:
        """Return the job that a subject names, or None if the subject is not of this template."""
        before, _, after = self.template.partition("{job_id}")
        job_id = subject.removeprefix(before).removesuffix(after)
        whole = job_id and "." not in job_id and before + job_id + after == subject
        return job_id if whole and _is_text(job_id) else None


@dataclass(frozen=True, slots=True)
class DesiredStreams:
    """How the streams should be when reactor declares them. `max_age` in nanoseconds."""

    events_stream: str
    events_subject: SubjectTemplate
    durable: str
    replicas: int
    max_age: int
    letters_max_msgs: int
    letters_max_bytes: int
    events_max_bytes: int | None = None
    """Room reserved for the lifecycle stream; None: what it takes, or what the account demands."""


def _is_text(job_id: str) -> bool:
    """Return whether it was UTF-8 on the wire; bytes that were not are kept as lone surrogates."""
    return not any("\ud800" <= char <= "\udfff" for char in job_id)


def read_event(
    template: SubjectTemplate, subject: str, data: bytes, *, seq: int, published_at: int
) -> Event | Malformed:
    """Read one stored message; `published_at` is the server's own timestamp of it.

    An event's time is clamped to `published_at`, so that a fast emitter clock cannot shadow what follows. A time that
    cannot be read, or could be anywhere on earth for want of an offset, is no reason to lose the event: it counts from
    the server's time, with a remark.
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
    """Return the payload, the emitter and the time, as written."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data)} bytes, more than the {MAX_BYTES} allowed")
    document = read_json(data)
    envelope: dict[str, Any] = document if isinstance(document, dict) and "specversion" in document else {}
    payload = Payload.model_validate(envelope.get("data") if envelope else document)
    source = payload.source or envelope.get("source")
    # An envelope's own `time` is when the occurrence happened; the payload's word goes before it.
    return payload, source if isinstance(source, str) else None, payload.occurred_at or envelope.get("time")


def _instant_of(time: object, published_at: int) -> tuple[int, str | None]:
    """Return when it happened, and what is odd about the emitter's own time."""
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
