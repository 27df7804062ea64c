"""Publish a lifecycle event, for `reactor emit`."""

from reactor.core.subjects import DesiredStreams, payload_of
from reactor.jetstream.client import JetStream
from reactor.jetstream.topology import lifecycle_stream


async def emit(js: JetStream, desired: DesiredStreams, job_id: str, status: str, at: str | None) -> tuple[str, int]:
    """Publish one event. Return the stream and the sequence that it got.

    Raises ValueError if a subscriber would refuse it, ProvisionError and JetStreamError.
    """
    subject, body = desired.events_subject.of(job_id), payload_of(job_id, status, at)
    await lifecycle_stream(js, desired)
    return await js.publish(subject, body)
