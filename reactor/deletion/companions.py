"""Companions: a job's consumers on other streams, such as one for its dead letters on a shared stream.

A companion that stays behind does no harm. A failure here is reported and stops nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from reactor.core.model import Coverage, Record
from reactor.core.policy import Policy, is_over
from reactor.jetstream.client import JetStream
from reactor.jetstream.errors import JetStreamError
from reactor.jetstream.topology import Topology


@dataclass(eq=False, repr=False)
class Companions:
    """Finds and deletes companions on the streams that capture advisories.

    `templates` are consumer names that contain `{job_id}`. Without templates there are no companions.
    """

    templates: Sequence[str]
    reads: JetStream
    effects: JetStream

    async def survey(self, topology: Topology) -> Topology:
        """Return the topology with the location of every consumer on the advisory streams. Failures are in `unseen`."""
        consumer_locations: dict[str, list[str]] = {}
        unseen: list[str] = []
        for stream in topology.advisory_streams if self.templates else ():
            try:
                for consumer in await self.reads.consumer_names(stream):
                    consumer_locations.setdefault(consumer, []).append(stream)
            except JetStreamError as error:  # the stream's node may be away
                unseen.append(f"companions on {stream} could not be looked up: {error}")
        return replace(topology, consumer_locations=consumer_locations, unseen=tuple(unseen))

    def jobs(self, topology: Topology) -> set[str]:
        """Return the jobs that have companions."""
        return {job_id for consumer in topology.consumer_locations or () for job_id in self._jobs_of(consumer)}

    def _jobs_of(self, consumer: str) -> Iterator[str]:
        for template in self.templates:
            before, _, after = template.partition("{job_id}")
            job_id = consumer.removeprefix(before).removesuffix(after)
            if job_id and before + job_id + after == consumer:
                yield job_id

    async def delete(self, topology: Topology, job_id: str) -> str | None:
        """Delete a job's companions. Return what could not be deleted, or None."""
        names = [template.replace("{job_id}", job_id) for template in self.templates]
        left = list(topology.unseen)
        for stream, consumer in [(stream, name) for name in names for stream in _locations_of(name, topology)]:
            try:
                await self.effects.delete_consumer(stream, consumer)
            except JetStreamError as error:
                left.append(f"companion {consumer} on {stream} is left: {error}")
        return "; ".join(left) or None


def _locations_of(consumer: str, topology: Topology) -> Sequence[str]:
    return (
        topology.advisory_streams
        if topology.consumer_locations is None
        else topology.consumer_locations.get(consumer, ())
    )


def orphaned(coverage: Coverage, records: Mapping[str, Record], policy: Policy, now: int) -> list[str]:
    """Return the jobs whose companions may be deleted: those that are over, at the server's time `now`."""
    return [job_id for job_id, record in records.items() if coverage.intact and is_over(record, policy, now)]
