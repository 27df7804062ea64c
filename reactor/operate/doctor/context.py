"""What an examination is of, and what it has found so far."""

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
"""By the name of the check that reports a failure."""


@dataclass(frozen=True, slots=True)
class DoctorContext:
    """What is examined."""

    reads: JetStream
    effects: JetStream
    health: RedisHealth
    ledger: Ledger
    policy: Policy
    desired: DesiredStreams
    companions: bool
    """Whether any go with a stream."""
    domain: str | None
    jobs: WitnessedDirectory | None
    """The job system's own directory, if one decides."""
    directory_kind: str
    backup_store: BackupStore | None
    """The backups, if they are wanted."""
    interval_s: float
    """The periodic pass's."""
    clock: Callable[[], int]
    """Our own (ns)."""


@dataclass(slots=True)
class Findings:
    """What one check has found and a later one builds on."""

    deps: DoctorContext
    jetstream_answers: bool = False
    listing: Listing | None = None
    lifecycle: Raw | None = None
    source: Source | None = None
    advisories: Sequence[str] = ()
    missing_streams: list[str] = field(default_factory=list)
    missing_durables: list[str] = field(default_factory=list)
    whole: bool = False
    """The ledger has lost nothing."""

    @property
    def events_stream(self) -> str:
        """The lifecycle stream; if there is none, the one that will be."""
        return self.lifecycle["config"]["name"] if self.lifecycle else self.deps.desired.events_stream

    @property
    def own_streams(self) -> frozenset[str]:
        """Streams that are never job streams, as far as they are known."""
        return OWN_STREAMS | {self.events_stream}

    def job_streams(self) -> list[Stream]:
        """Return what the listing shows of job streams."""
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
    """Judge a server's time, asked since `before`, and as likely as not read half-way."""
    after = deps.clock()
    return judges.judge_clock(name, whose, (theirs - (before + after) / 2) / SECOND, (after - before) / 2 / SECOND)
