"""Reading lifecycle messages. Pure; what cannot be read is a value (`Malformed`), not an exception.

A payload is JSON of at most 64 KiB, `{"job_id": 42, "status": "SUCCESS", "occurred_at": "2026-01-31T12:00:00Z"}`, or a
CloudEvents 1.0 structured envelope with that as its `data`.
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StrictInt, StrictStr, StringConstraints, ValidationError
from pydantic_core import from_json

from reactor.model import UNREADABLE, Event, Malformed, Record, parse_instant

MAX_BYTES = 64 * 1024


class Payload(BaseModel):
    """What an emitter says. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    job_id: StrictInt | StrictStr
    status: Annotated[StrictStr, StringConstraints(min_length=1, max_length=64)]
    occurred_at: StrictStr | None = None
    event_id: object = None
    source: object = None


@dataclass(frozen=True, slots=True)
class SubjectTemplate:
    """A subject such as `jobs.lifecycle.{job_id}`, where one whole token is the job's id."""

    template: str

    @property
    def wildcard(self) -> str:
        """The subject that captures every job's events."""
        return self.template.replace("{job_id}", "*")

    def of(self, job_id: str) -> str:
        """The subject of one job. Raises ValueError where the id is no subject token."""
        if not job_id or any(char in ".*>" or char.isspace() or not char.isprintable() for char in job_id):
            message = f"job id {job_id!r} cannot be part of a subject: no dots, wildcards, spaces or control characters"
            raise ValueError(message)
        return self.template.replace("{job_id}", job_id)

    def job_id(self, subject: str) -> str | None:
        """The job that a subject names, or None where the subject is not of this template."""
        before, _, after = self.template.partition("{job_id}")
        job_id = subject.removeprefix(before).removesuffix(after)
        return job_id if job_id and "." not in job_id and before + job_id + after == subject else None


def read_event(
    template: SubjectTemplate, subject: str, data: bytes, *, seq: int, published_at: int
) -> Event | Malformed:
    """Read one stored message; `published_at` is the server's own timestamp of it.

    An event's time is clamped to `published_at`, so that a fast emitter clock cannot shadow what follows.
    """
    job_id = template.job_id(subject)
    try:
        payload, occurred_at = _parse(data)
        if job_id != str(payload.job_id):
            return _malformed(job_id, seq, published_at, f"job_id {str(payload.job_id)[:64]!r} is not the subject's")
        instant = published_at if occurred_at is None else min(parse_instant(occurred_at), published_at)
    except ValidationError as error:
        return _malformed(job_id, seq, published_at, _in_words(error))
    except ValueError as error:
        return _malformed(job_id, seq, published_at, str(error))
    return Event(job_id, Record(max(instant, 0), seq, payload.status))


def _parse(data: bytes) -> tuple[Payload, str | None]:
    if len(data) > MAX_BYTES:
        message = f"{len(data)} bytes, more than the {MAX_BYTES} allowed"
        raise ValueError(message)
    document = from_json(data, allow_inf_nan=False)
    envelope = document if isinstance(document, dict) and "specversion" in document else None
    payload = Payload.model_validate(document if envelope is None else envelope.get("data"))
    # An envelope's own `time` is when the occurrence happened; the payload's word goes before it.
    return payload, payload.occurred_at or _time_of(envelope)


def _time_of(envelope: dict[str, Any] | None) -> str | None:
    time = envelope.get("time") if envelope else None
    return time if isinstance(time, str) else None


def _in_words(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'payload'}: {e['msg']}" for e in error.errors())[:300]


def _malformed(job_id: str | None, seq: int, published_at: int, reason: str) -> Malformed:
    return Malformed(job_id, Record(published_at, seq, UNREADABLE), reason)
