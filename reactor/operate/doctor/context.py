"""What the doctor's checks need, and what earlier checks found for later ones."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reactor.backups.store import BackupStore
from reactor.core.checks import Check
from reactor.core.model import SECOND, Stream
from reactor.core.policy import Policy
from reactor.core.stream_info import Raw, mark_if_sourced, read_stream
from reactor.core.subjects import DesiredStreams
from reactor.jetstream.client import JetStream, Listing
from reactor.jetstream.topology import OWN_STREAMS, Source, topology_of
from reactor.job_status.witness import WitnessedDirectory
from reactor.operate.doctor import judges
from reactor.store.health import RedisHealth
from reactor.store.ledger import Ledger

CheckFunction = Callable[[], AsyncIterator[Check]]
CheckFunctions = Mapping[str, CheckFunction]
"""Check functions, by the name of the check that reports a failure."""


@dataclass(frozen=True, slots=True)
class DoctorContext:
    """The parts that the doctor checks."""

    reads: JetStream
    effects: JetStream
    health: RedisHealth
    ledger: Ledger
    policy: Policy
    desired: DesiredStreams
    companions: bool
    """Whether streams have companions."""
    domain: str | None
    jobs: WitnessedDirectory | None
    """The job system's directory, if it decides."""
    directory_kind: str
    backup_store: BackupStore | None
    """The place for backups, if the settings ask for backups."""
    interval_s: float
    """The interval of the periodic pass (s)."""
    clock: Callable[[], int]
    """This process's clock (ns)."""


@dataclass(slots=True)
class Findings:
    """What checks found and later checks use."""

    deps: DoctorContext
    jetstream_answers: bool = False
    listing: Listing | None = None
    lifecycle: Raw | None = None
    source: Source | None = None
    advisories: Sequence[str] = ()
    missing_streams: list[str] = field(default_factory=list)
    missing_durables: list[str] = field(default_factory=list)
    whole: bool = False
    """Whether the ledger is complete."""

    @property
    def events_stream(self) -> str:
        """The lifecycle stream, or the one that a worker would declare."""
        return self.lifecycle["config"]["name"] if self.lifecycle else self.deps.desired.events_stream

    @property
    def own_streams(self) -> frozenset[str]:
        """Reactor's own streams, as far as they are known."""
        return OWN_STREAMS | {self.events_stream}

    def job_streams(self) -> list[Stream]:
        """Return the job streams in the listing."""
        listing, policy = self.listing or Listing(), replace(self.deps.policy, own_streams=self.own_streams)
        jobs = {name: policy.job_id(name) for name in listing.streams}
        sourced = topology_of(listing.configs()).sourced
        return [
            mark_if_sourced(
                read_stream(listing.streams[name], job_id, reported=name not in listing.unreported), sourced
            )
            for name, job_id in jobs.items()
            if job_id is not None
        ]


def judge_clock_of(deps: DoctorContext, name: str, whose: str, before: int, theirs: int) -> Check:
    """Judge a server's clock. Its time was read between `before` and now, so assume the middle."""
    after = deps.clock()
    return judges.judge_clock(name, whose, (theirs - (before + after) / 2) / SECOND, (after - before) / 2 / SECOND)
