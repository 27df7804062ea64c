"""The ledger: what lifecycle events have said, kept in Redis. This folder owns its keys and its Lua.

Keys, each under the namespace:

    job:<job_id>        string  the record: its latest word, and the last one if that is another
    ledger              hash    whose ledger it is and what it covers (see `records`)
    due                 zset    jobs by when to look at their streams (ms, Redis's own clock)
    lease:<what>        string  the token of its holder; expires
    pass                string  the highest number of a periodic pass (its lease's token)
    last_pass           string  the report of the last full pass, without its streams (JSON)
    passed              string  a periodic pass was done; expires when the next one is due
    wanted              string  one was asked for since the last one began; expires
    attempts            hash    failed drains in a row, by job
    sighting:<stream>   string  when these consumer figures were first seen; expires
    deliveries:<job_id> hash    advisories counted on the job; expires
    hints               zset    jobs whose streams were made, by when it may be asked whether they are anybody's
    sourced, captors    zset    how streams hang together (see `topology_cache`)
    turn                string  when the next drain may begin, if their rate is limited; expires
    found, found_at, found_state  the last state of each stream, for status and page (see `stream_states`)
    lacking             string  streams of reactor's own that a worker had no room for (JSON); expires
    control             string  there is, or was, a stream for operators' words
    told:<subject>      string  what was told last of a deletion ahead or an alert; expires
    workers             hash    the workers that are alive, by instance (see `workers`); expires
    surveyed            string  when a listing that showed that was begun, and of whose account; expires

And a channel, `wake`: something falls due earlier than what was first before.

Everything here can be rebuilt from the lifecycle stream.
"""

from dataclasses import dataclass

from redis.asyncio import Redis

from reactor.store.due_queue import DueQueue
from reactor.store.exhausted import Exhausted
from reactor.store.leases import Leases, Passes, Turns
from reactor.store.records import Records
from reactor.store.scripts import Scripts
from reactor.store.stream_states import StreamStateStore
from reactor.store.tallies import Tallies
from reactor.store.told import Told
from reactor.store.topology_cache import TopologyCache
from reactor.store.workers import Workers


@dataclass(frozen=True, slots=True)
class Ledger:
    """All that one namespace holds beside the audit. Every method of the parts raises LedgerError."""

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
    told: Told

    @classmethod
    def of(cls, redis: Redis, scripts: Scripts, namespace: str, ttl_s: float) -> "Ledger":
        """Create the ledger; `ttl_s` is how long a job is remembered after its stream is gone."""
        return cls(
            Records(redis, scripts, namespace, ttl_s),
            DueQueue(redis, scripts, namespace),
            Leases(scripts, namespace),
            Passes(redis, scripts, namespace),
            Tallies(redis, scripts, namespace, ttl_s),
            TopologyCache(scripts, namespace),
            Turns(scripts, namespace),
            StreamStateStore(redis, scripts, namespace),
            Workers(scripts, namespace),
            Exhausted(scripts, namespace),
            Told(scripts, namespace),
        )
