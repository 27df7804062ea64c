"""The ledger: the last events of all jobs, and everything else that reactor stores in Redis besides the audit.

Each module of this folder lists its keys at its top. All keys have the namespace as their prefix:

    records         job:<job_id>, ledger
    due_queue       due, hints, and the channel wake
    leases          lease:<what>, turn, pass, passed, wanted, last_pass
    tallies         attempts, sighting:<stream>, deliveries:<job_id>
    stream_states   found, found_at, found_state
    topology_cache  sourced, advisory_streams, surveyed, control, lacking
    exhausted       exhausted
    workers         workers
    sent_notices    sent:<subject>
    audit           audit, intents, drains, reported

The ledger can be rebuilt from the lifecycle stream.
"""

from dataclasses import dataclass

from reactor.store.due_queue import DueQueue
from reactor.store.exhausted import Exhausted
from reactor.store.keyspace import Keyspace
from reactor.store.leases import Leases, Passes, Turns
from reactor.store.records import Records
from reactor.store.sent_notices import SentNotices
from reactor.store.stream_states import StreamStateStore
from reactor.store.tallies import Tallies
from reactor.store.topology_cache import TopologyCache
from reactor.store.workers import Workers


@dataclass(frozen=True, slots=True)
class Ledger:
    """Everything that one namespace stores besides the audit. The methods of all parts raise LedgerError."""

    records: Records
    due: DueQueue
    leases: Leases
    passes: Passes
    tallies: Tallies
    topology_cache: TopologyCache
    turns: Turns
    stream_states: StreamStateStore
    workers: Workers
    exhausted: Exhausted
    sent_notices: SentNotices

    @classmethod
    def of(cls, space: Keyspace, ttl_s: float) -> "Ledger":
        """Return the ledger of a namespace. `ttl_s` is how long a job is kept after its stream is gone."""
        return cls(
            Records(space, ttl_s),
            DueQueue(space),
            Leases(space),
            Passes(space),
            Tallies(space, ttl_s),
            TopologyCache(space),
            Turns(space),
            StreamStateStore(space),
            Workers(space),
            Exhausted(space),
            SentNotices(space),
        )
