"""Publishing a lifecycle event, for trying things by hand and for job systems that call a command."""

import json

from reactor.core.events import DesiredStreams, Payload
from reactor.core.model import parse_instant
from reactor.jetstream.client import JetStream
from reactor.jetstream.topology import lifecycle_stream


def payload_of(job_id: str, status: str, at: str | None) -> bytes:
    """Return the message body. Raises ValueError (pydantic's, too) for what a subscriber would refuse."""
    if at is not None:
        parse_instant(at)
    payload = Payload(job_id=job_id, status=status, occurred_at=at)
    return json.dumps(payload.model_dump(include={"job_id", "status", "occurred_at"}, exclude_none=True)).encode()


async def emit(js: JetStream, desired: DesiredStreams, job_id: str, status: str, at: str | None) -> tuple[str, int]:
    """Publish one event; the stream that took it and its sequence there.

    Raises ValueError for what a subscriber would refuse, ProvisionError and JetStreamError.
    """
    subject, body = desired.events_subject.of(job_id), payload_of(job_id, status, at)
    await lifecycle_stream(js, desired)
    return await js.publish(subject, body)
