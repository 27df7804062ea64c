"""`reactor doctor`: looks at everything that reactor lives on, and says the mend of each thing that is not in order.

It changes nothing: it declares no stream and no durable, acks nothing and deletes nothing. Rights are asked for by
messages that come to nothing (see `rights`); in Redis one key is written and taken away again. A check that could not
be made is a check, too: it says why, and the others go on.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from reactor.core.checks import Check, Diagnosis, Level, counted, error, ok, warning
from reactor.core.model import SECOND, Record, Stream, parse_instant
from reactor.core.policy import Policy, spoke_too_early
from reactor.core.stream_info import FENCES, instant, read_consumers, read_stream
from reactor.directories.events import Directory
from reactor.jetstream.client import (
    JetStream,
    JetStreamError,
    Listing,
    NotFound,
    PermissionDenied,
    Raw,
    Unanswered,
)
from reactor.jetstream.permissions import Needs, for_deleting, for_the_rest, lacking, unheard
from reactor.jetstream.topology import (
    DEAD_LETTER_SUBJECT,
    DEAD_LETTERS,
    FORMER_ADVISORIES,
    DesiredStreams,
    ProvisionError,
    Source,
    find_durable,
    find_lifecycle_stream,
    is_declared,
    streams_of_advisories,
    wrong_account,
)
from reactor.operate.doctor import judges
from reactor.operate.doctor.remedies import NATS, REDIS, away_by, broken_off
from reactor.store.health import RedisHealth, judge_info
from reactor.store.ledger import Ledger, LedgerError

PATIENCE = 2
"""Requests without an answer, ten seconds each, until NATS counts as away."""
WORKER_DECLARES = "none needed: the worker declares it (so does reactor reconcile)"
SAMPLE = 20
"""Streams whose consumers are asked: one request each."""
Examination = Callable[[], AsyncIterator[Check]]


class Doctor:
    """One examination. All resources are handed in."""

    def __init__(
        self,
        *,
        reads: JetStream,
        effects: JetStream,
        health: RedisHealth,
        ledger: Ledger,
        policy: Policy,
        desired: DesiredStreams,
        companions: bool,
        domain: str | None,
        interval_s: float,
        clock: Callable[[], int],
    ) -> None:
        """`companions`: whether any go with a stream; `interval_s` is the periodic pass's; `clock` (ns) our own."""
        self._reads = reads
        self._effects = effects
        self._health = health
        self._ledger = ledger
        self._policy = policy
        self._desired = desired
        self._companions = companions
        self._domain = domain
        self._interval_s = interval_s
        self._clock = clock
        self._away: set[str] = set()
        self._unanswered = 0
        self._jetstream_answers = False
        self._listing: Listing | None = None
        self._lifecycle: Raw | None = None
        self._source: Source | None = None
        self._advisories: list[str] = []
        self._missing_streams: list[str] = []
        self._missing_durables: list[str] = []
        self._whole = False

    async def examine(self) -> Diagnosis:
        """Every check that can be made."""
        nats, redis = await asyncio.gather(self._examine_nats(), self._examine_redis())
        ledger = [] if REDIS in self._away else await self._examine_ledger()
        return Diagnosis.of([*nats, *redis, *ledger], unreachable=bool(self._away))

    async def _examine_nats(self) -> list[Check]:
        checks = await self._try("nats.server", self._server)
        if checks[-1].level is Level.OK:
            checks += await self._try("nats.jetstream", self._jetstream)
        if not self._jetstream_answers:
            return checks
        examinations = {
            "nats.limits": self._limits,
            "streams.reported": self._list,
            "streams.lifecycle": self._lifecycle_stream,
            "streams.durable": self._durable,
            "streams.advisories": self._advisory_streams,
            "streams.dead_letters": self._dead_letters,
            "streams.overlap": self._overlap,
            "streams.pattern": self._job_streams,
            "nats.rights": self._rights,
            "nats.deleting": self._deleting,
            "clocks.nats": self._nats_clock,
        }
        return checks + await self._try_all(NATS, examinations)

    async def _examine_redis(self) -> list[Check]:
        examinations = {
            "redis.server": self._redis_info,
            "redis.writes": self._redis_writes,
            "clocks.redis": self._redis_clock,
        }
        return await self._try_all(REDIS, examinations)

    async def _examine_ledger(self) -> list[Check]:
        """What Redis knows; and with the lifecycle stream beside it, whether that is all."""
        both = {"ledger.coverage": self._coverage, "ledger.oldest_live": self._jobs}
        examinations = both if self._jetstream_answers and NATS not in self._away else {}
        return await self._try_all(REDIS, examinations | {"ledger.last_pass": self._last_pass})

    async def _try_all(self, server: str, examinations: Mapping[str, Examination]) -> list[Check]:
        """One after another, until the server is away."""
        checks: list[Check] = []
        for name, examination in examinations.items():
            checks += await self._try(name, examination)
            if server in self._away:
                break
        return checks

    async def _try(self, name: str, examination: Examination) -> list[Check]:
        """What was found; and where it broke off, that."""
        checks = []
        try:
            async for check in examination():
                checks.append(check)  # noqa: PERF401  # what was found before it broke off counts
        except (JetStreamError, LedgerError, ProvisionError) as failure:
            checks.append(broken_off(name, failure, self._domain))
            self._unanswered += isinstance(failure, Unanswered)
            self._away |= away_by(failure) | ({NATS} if self._unanswered >= PATIENCE else set())
        except Exception as bug:  # noqa: BLE001  # what nobody thought of must not hide the other checks
            checks.append(error(name, f"could not be made: {type(bug).__name__}: {bug}", "please report this as a bug"))
        return checks

    async def _server(self) -> AsyncIterator[Check]:
        await self._reads.connect()
        yield ok("nats.server", f"nats-server {self._reads.server_version}")

    async def _jetstream(self) -> AsyncIterator[Check]:
        try:
            names = await self._reads.stream_names()
        except PermissionDenied:  # to ask, which leaves other questions; or to hear the answer, which leaves none
            self._jetstream_answers = not await self._reads.may_publish(self._reads.api("STREAM.NAMES"))
            raise
        self._jetstream_answers = True
        where = f"domain {self._domain}" if self._domain else "this account"
        yield ok("nats.jetstream", f"JetStream is on in {where}, with {counted(len(names), 'stream')}")

    async def _limits(self) -> AsyncIterator[Check]:
        try:
            yield judges.judge_limits(await self._reads.call("INFO"))
        except PermissionDenied as denied:
            mend = "allow it to reactor's user (docs/permissions.md): an account that is full makes no streams"
            yield warning("nats.limits", f"the account's limits could not be found out: {denied}", mend)

    async def _list(self) -> AsyncIterator[Check]:
        self._listing = await self._reads.list_streams()
        yield judges.judge_unreported(self._listing.unreported)

    async def _lifecycle_stream(self) -> AsyncIterator[Check]:
        subject = self._desired.events_subject.wildcard
        name = await find_lifecycle_stream(self._reads, self._desired)
        if name is None:
            yield await self._no_lifecycle_stream(subject)
            return
        self._lifecycle = info = await self._reads.stream_info(name)
        yield ok("streams.lifecycle", f"stream {name} captures {subject}")
        yield judges.judge_lifecycle(info, self._desired.max_age)
        yield judges.judge_replicas(info)

    async def _no_lifecycle_stream(self, subject: str) -> Check:
        """Fine for an account that is new to reactor; not where Redis remembers one. Raises ProvisionError."""
        self._missing_streams.append(self._desired.events_stream)
        await is_declared(self._reads, self._desired.events_stream, [subject])
        with suppress(LedgerError):  # Redis has checks of its own
            if owner := await self._ledger.owner():
                raise ProvisionError(wrong_account(owner, self._desired))
        return warning("streams.lifecycle", f"no stream captures {subject} yet", WORKER_DECLARES)

    async def _durable(self) -> AsyncIterator[Check]:
        stream, subject = self._events_stream, self._desired.events_subject.wildcard
        self._source = await find_durable(self._reads, self._desired.durable, stream, (subject,))
        if self._source is None:
            yield self._no_durable("streams.durable", stream)
            return
        info = await self._reads.consumer_info(stream, self._desired.durable)
        yield judges.judge_durable("streams.durable", stream, info, self._source.difference)
        oldest = await self._reads.next_message(stream, subject, info["ack_floor"]["stream_seq"] + 1)
        behind, now = info["num_pending"] + info["num_ack_pending"], instant(info.get("ts"))
        age_s = (now - oldest.published_at) / SECOND if oldest and now else None
        yield judges.judge_lag(behind, age_s, info.get("num_waiting", 0))

    def _no_durable(self, name: str, stream: str) -> Check:
        self._missing_durables.append(stream)
        return warning(name, f"stream {stream} has no durable {self._desired.durable} yet", WORKER_DECLARES)

    @property
    def _events_stream(self) -> str:
        """The lifecycle stream; where there is none, the one that will be."""
        return self._lifecycle["config"]["name"] if self._lifecycle else self._desired.events_stream

    async def _advisory_streams(self) -> AsyncIterator[Check]:
        self._advisories = await streams_of_advisories(self._reads)
        yield judges.judge_advisories(self._advisories, FORMER_ADVISORIES, await unheard(self._reads))

    async def _dead_letters(self) -> AsyncIterator[Check]:
        try:
            letters = await self._reads.stream_info(DEAD_LETTERS)
        except NotFound:
            self._missing_streams.append(DEAD_LETTERS)
            yield judges.judge_dead_letters(0, DEAD_LETTERS)
            return
        yield judges.judge_dead_letters(letters["state"]["messages"], DEAD_LETTERS)
        yield judges.judge_dead_letter_limits(letters["config"])

    async def _overlap(self) -> AsyncIterator[Check]:
        fences, letters = await self._reads.stream_names(FENCES), await self._reads.stream_names(DEAD_LETTER_SUBJECT)
        fenced = {name for name in fences if self._policy.job_id(name) is not None}  # now, or a moment ago
        read = [name for name in self._own_streams if self._policy.job_id(name) is not None]
        captors = {FENCES: fences - fenced, DEAD_LETTER_SUBJECT: letters - {DEAD_LETTERS}}
        yield judges.judge_overlap(captors, read)

    @property
    def _own_streams(self) -> frozenset[str]:
        """Streams that are never job streams, as far as they are known."""
        return frozenset({self._events_stream, DEAD_LETTERS})

    def _job_stream_list(self) -> list[Stream]:
        """What the listing shows of job streams."""
        listing, policy = self._listing or Listing(), replace(self._policy, own_streams=self._own_streams)
        jobs = {name: policy.job_id(name) for name in listing.streams}
        sourced = listing.sourced()
        return [
            read_stream(listing.streams[name], job_id, sourced=sourced, reported=name not in listing.unreported)
            for name, job_id in jobs.items()
            if job_id is not None
        ]

    async def _job_streams(self) -> AsyncIterator[Check]:
        if self._listing is None:
            return
        streams = self._job_stream_list()
        matching = {one.name for one in streams}
        others = self._listing.streams.keys() - matching - self._own_streams
        yield judges.judge_pattern(matching, others, self._policy.pattern.pattern)
        yield judges.judge_fences(streams, self._listing.captors())
        yield judges.judge_fenceable(streams)

    async def _rights(self) -> AsyncIterator[Check]:
        needs = Needs(
            events=self._events_stream,
            streams=self._missing_streams,
            durables=self._missing_durables,
            companions=self._advisories if self._companions else (),
            durable=self._desired.durable,
        )
        asked = list(for_the_rest(self._reads, needs))
        yield judges.judge_rights(await lacking(self._reads, asked), len(asked))

    async def _deleting(self) -> AsyncIterator[Check]:
        yield judges.judge_deleting(await lacking(self._effects, for_deleting(self._effects)))

    async def _nats_clock(self) -> AsyncIterator[Check]:
        name = next(
            iter([self._events_stream] if self._lifecycle else self._listing.streams if self._listing else ()), None
        )
        if name is None:
            yield ok("clocks.nats", "there is no stream yet to ask the time of")
            return
        before = self._clock()
        now = instant((await self._reads.stream_info(name)).get("ts"))
        yield self._judge_clock("clocks.nats", "the NATS server's", before, now or 0)

    def _judge_clock(self, name: str, whose: str, before: int, theirs: int) -> Check:
        """A server's time, asked since `before`, and as likely as not read half-way."""
        after = self._clock()
        return judges.judge_clock(name, whose, (theirs - (before + after) / 2) / SECOND, (after - before) / 2 / SECOND)

    async def _redis_info(self) -> AsyncIterator[Check]:
        info = await self._health.info()
        save_rules = "" if info.get("aof_enabled") else await self._health.save_rules()
        for check in judge_info(info, save_rules):
            yield check

    async def _redis_writes(self) -> AsyncIterator[Check]:
        yield await self._health.check_writes()

    async def _redis_clock(self) -> AsyncIterator[Check]:
        before = self._clock()
        yield self._judge_clock("clocks.redis", "Redis's", before, await self._health.now())

    async def _coverage(self) -> AsyncIterator[Check]:
        """What the ledger can vouch for, and for whose jobs."""
        if self._source is None:
            yield warning("ledger.coverage", "no lifecycle event was read yet", "start reactor worker")
            return
        template, durable = self._desired.events_subject, self._desired.durable
        directory = Directory(
            self._reads, self._ledger, self._policy, template=template, source=self._source, durable=durable
        )
        snapshot = await directory.look_around()
        identity = snapshot.lifecycle.identity
        coverage, _ = await directory.look_up(snapshot)
        if foreign := judges.judge_owner(await self._ledger.owner(), identity):
            yield foreign
        yield judges.judge_coverage(coverage, heard=(await self._ledger.read(identity)).events > 0)
        self._whole = coverage.intact

    async def _jobs(self) -> AsyncIterator[Check]:
        """Jobs that live for long, and those that nobody has spoken of."""
        if self._lifecycle is None or self._listing is None or not self._whole:
            return
        records = await self._ledger.records()
        streams = [one for one in self._job_stream_list() if one.reported and not self._policy.is_protected(one)]
        live = {job: record for job, record in records.items() if not self._policy.is_terminal(record)}
        now = instant(self._lifecycle.get("ts")) or 0
        yield judges.judge_oldest(len(records), live, {one.job_id: one.name for one in streams}, now)
        yield judges.judge_disputes(
            [(one, records[one.job_id]) for one in streams if one.job_id in records], self._policy
        )
        yield judges.judge_early(await self._worked_on(streams, records))
        last = await self._reads.last_message(self._events_stream, self._desired.events_subject.wildcard)
        template = self._desired.events_subject.template
        yield judges.judge_emitter(streams, records.keys(), last.published_at if last else None, template)

    async def _worked_on(self, streams: Sequence[Stream], records: Mapping[str, Record]) -> list[str]:
        """Streams of jobs that were called done and are worked on; a sample of them is asked."""
        done = [one for one in streams if one.job_id in records and self._policy.is_terminal(records[one.job_id])]
        found = []
        for one in done[:SAMPLE]:
            with suppress(NotFound):
                stream = replace(one, consumers=read_consumers(await self._reads.consumers(one.name), None))
                if spoke_too_early(stream, records[one.job_id], self._policy):
                    found.append(one.name)
        return found

    async def _last_pass(self) -> AsyncIterator[Check]:
        last = await self._ledger.last_pass()
        age_s = (self._clock() - parse_instant(last["started_at"])) / SECOND if last else None
        yield judges.judge_pass(last, age_s, self._interval_s)
