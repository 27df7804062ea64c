"""Publishing a lifecycle event, for trying things by hand and for job systems that call a command."""

from reactor.core.subjects import DesiredStreams, payload_of
from reactor.jetstream.client import JetStream
from reactor.jetstream.topology import lifecycle_stream


async def emit(js: JetStream, desired: DesiredStreams, job_id: str, status: str, at: str | None) -> tuple[str, int]:
    """Publish one event; the stream that took it and its sequence there.

    Raises ValueError for what a subscriber would refuse, ProvisionError and JetStreamError.
    """
    subject, body = desired.events_subject.of(job_id), payload_of(job_id, status, at)
    await lifecycle_stream(js, desired)
    return await js.publish(subject, body)
