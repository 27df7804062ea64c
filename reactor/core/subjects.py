"""Subjects of lifecycle events, the streams that keep them, and the message an emitter publishes.

Pure, and free of other libraries: job systems import it.
"""

import json
from dataclasses import dataclass

from reactor.core.model import parse_instant

MAX_STATUS = 64
"""The longest status, in characters."""


@dataclass(frozen=True, slots=True)
class SubjectTemplate:
    """A subject such as `jobs.lifecycle.{job_id}` in which one whole token is the job's id."""

    template: str

    @property
    def wildcard(self) -> str:
        """The subject that captures the events of all jobs."""
        return self.template.replace("{job_id}", "*")

    def of(self, job_id: str) -> str:
        """Return the subject of one job. Raises ValueError if the id cannot be a subject token."""
        if not job_id or any(char in ".*>" or char.isspace() or not char.isprintable() for char in job_id):
            raise ValueError(
                f"job id {job_id!r} cannot be part of a subject: no dots, wildcards, spaces or control characters"
            )
        return self.template.replace("{job_id}", job_id)

    def job_id(self, subject: str) -> str | None:
        """Return the job that a subject names, or None if the subject does not match the template."""
        before, _, after = self.template.partition("{job_id}")
        job_id = subject.removeprefix(before).removesuffix(after)
        whole = job_id and "." not in job_id and before + job_id + after == subject
        return job_id if whole and _is_text(job_id) else None


@dataclass(frozen=True, slots=True)
class DesiredStreams:
    """The config of the streams that reactor declares. `max_age` in nanoseconds."""

    events_stream: str
    events_subject: SubjectTemplate
    durable: str
    replicas: int
    max_age: int
    letters_max_msgs: int
    letters_max_bytes: int
    events_max_bytes: int | None = None
    """Bytes reserved for the lifecycle stream. None reserves nothing, or what the account demands."""


def _is_text(job_id: str) -> bool:
    """Return whether the id was valid UTF-8 on the wire. Other bytes are kept as lone surrogates."""
    return not any("\ud800" <= char <= "\udfff" for char in job_id)


def payload_of(job_id: str, status: str, at: str | None) -> bytes:
    """Return the message of a lifecycle event. Raises ValueError if a subscriber would refuse it."""
    if not 0 < len(status) <= MAX_STATUS:
        raise ValueError(f"status: it has {len(status)} characters, and needs 1 to {MAX_STATUS}")
    if at is not None:
        parse_instant(at)
    occurred = {} if at is None else {"occurred_at": at}
    return json.dumps({"job_id": job_id, "status": status} | occurred).encode()
