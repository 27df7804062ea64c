"""Companions: consumers that exist for a job outside its stream, such as one for its dead letters on a shared stream.

A companion that stays behind is untidy, no more: a failure here is reported and stops nothing.
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
    """Companions by their name templates, on whichever streams capture advisories.

    `templates` are names with `{job_id}` in them; without any there are no companions.
    """

    templates: Sequence[str]
    reads: JetStream
    effects: JetStream

    async def survey(self, topology: Topology) -> Topology:
        """Look once for many streams which companions there are. What could not be seen is in `unseen`."""
        consumer_locations: dict[str, list[str]] = {}
        unseen: list[str] = []
        for stream in topology.advisory_streams if self.templates else ():
            try:
                for consumer in await self.reads.consumer_names(stream):
                    consumer_locations.setdefault(consumer, []).append(stream)
            except JetStreamError as error:  # a node away takes its streams along
                unseen.append(f"companions on {stream} could not be looked up: {error}")
        return replace(topology, consumer_locations=consumer_locations, unseen=tuple(unseen))

    def jobs(self, topology: Topology) -> set[str]:
        """Return the jobs that have companions there."""
        return {job_id for consumer in topology.consumer_locations or () for job_id in self._jobs_of(consumer)}

    def _jobs_of(self, consumer: str) -> Iterator[str]:
        for template in self.templates:
            before, _, after = template.partition("{job_id}")
            job_id = consumer.removeprefix(before).removesuffix(after)
            if job_id and before + job_id + after == consumer:
                yield job_id

    async def delete(self, topology: Topology, job_id: str) -> str | None:
        """Delete a job's companions. Says what was left behind."""
        names = [template.replace("{job_id}", job_id) for template in self.templates]
        left = list(topology.unseen)
        for stream, consumer in [(stream, name) for name in names for stream in _homes_of(name, topology)]:
            try:
                await self.effects.delete_consumer(stream, consumer)
            except JetStreamError as error:
                left.append(f"companion {consumer} on {stream} is left: {error}")
        return "; ".join(left) or None


def _homes_of(consumer: str, topology: Topology) -> Sequence[str]:
    return (
        topology.advisory_streams
        if topology.consumer_locations is None
        else topology.consumer_locations.get(consumer, ())
    )


def orphaned(coverage: Coverage, records: Mapping[str, Record], policy: Policy, now: int) -> list[str]:
    """Return jobs that have been over for long enough, by the server's time: what they left behind may go."""
    return [job_id for job_id, record in records.items() if coverage.intact and is_over(record, policy, now)]
