"""The doctor's checks of NATS."""

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

from reactor.core.checks import Check, counted, ok, warning
from reactor.core.model import SECOND
from reactor.core.stream_info import FENCES, instant
from reactor.deletion.gates import PauseGate
from reactor.jetstream.errors import NotFound, PermissionDenied
from reactor.jetstream.permissions import Needs, barred_advisories, for_deleting, for_the_rest, lacking
from reactor.jetstream.topology import (
    CONTROL,
    CONTROL_SUBJECTS,
    DEAD_LETTER_SUBJECT,
    DEAD_LETTERS,
    find_durable,
    find_lifecycle_stream,
    is_declared,
    streams_of_advisories,
    wrong_account,
)
from reactor.operate.doctor import judges
from reactor.operate.doctor.context import CheckFunctions, DoctorContext, Findings, judge_clock_of
from reactor.store.keyspace import LedgerError

WORKER_DECLARES = "none needed: the worker declares it (so does reactor reconcile)"


@dataclass(eq=False, repr=False)
class NatsSection:
    """The checks of the server, the streams and the permissions. They share `findings` with other checks."""

    deps: DoctorContext
    findings: Findings

    def check_functions(self) -> CheckFunctions:
        """Return the checks in their order. Later ones use the findings of earlier ones."""
        return {
            "nats.limits": self._limits,
            "streams.reported": self._list,
            "streams.lifecycle": self._lifecycle_stream,
            "streams.durable": self._durable,
            "streams.advisories": self._advisory_streams,
            "streams.dead_letters": self._dead_letters,
            "streams.control": self._control,
            "streams.overlap": self._overlap,
            "streams.pattern": self._job_streams,
            "nats.rights": self._rights,
            "nats.deleting": self._deleting,
            "clocks.nats": self._nats_clock,
        }

    async def server(self) -> AsyncIterator[Check]:
        """Check the server. If it is away, no other check of NATS can be made."""
        await self.deps.reads.connect()
        yield ok("nats.server", f"nats-server {self.deps.reads.server_version}")

    async def jetstream(self) -> AsyncIterator[Check]:
        """Check JetStream. If it does not answer, no other check of NATS can be made."""
        try:
            names = await self.deps.reads.stream_names()
        except PermissionDenied:  # if only this request is forbidden, others may be answered; without an inbox none is
            self.findings.jetstream_answers = not await self.deps.reads.may_publish(self.deps.reads.api("STREAM.NAMES"))
            raise
        self.findings.jetstream_answers = True
        where = f"domain {self.deps.domain}" if self.deps.domain else "this account"
        yield ok("nats.jetstream", f"JetStream is on in {where}, with {counted(len(names), 'stream')}")

    async def _limits(self) -> AsyncIterator[Check]:
        try:
            yield judges.judge_limits(await self.deps.reads.call("INFO"))
        except PermissionDenied as denied:
            fix = "allow it to reactor's user (docs/permissions.md): an account that is full makes no streams"
            yield warning("nats.limits", f"the account's limits could not be found out: {denied}", fix)

    async def _list(self) -> AsyncIterator[Check]:
        self.findings.listing = await self.deps.reads.list_streams()
        yield judges.judge_unreported(self.findings.listing.unreported)

    async def _lifecycle_stream(self) -> AsyncIterator[Check]:
        subject = self.deps.desired.events_subject.wildcard
        name = await find_lifecycle_stream(self.deps.reads, self.deps.desired)
        if name is None:
            yield await self._no_lifecycle_stream(subject)
            return
        self.findings.lifecycle = info = await self.deps.reads.stream_info(name)
        yield ok("streams.lifecycle", f"stream {name} captures {subject}")
        yield judges.judge_lifecycle(info, self.deps.desired.max_age)
        yield judges.judge_replicas(info)
        yield judges.judge_lifecycle_room(info)

    async def _no_lifecycle_stream(self, subject: str) -> Check:
        """Judge a missing lifecycle stream: in order unless Redis has the ledger of one. Raises ProvisionError."""
        self.findings.missing_streams.append(self.deps.desired.events_stream)
        await is_declared(self.deps.reads, self.deps.desired.events_stream, [subject])
        with suppress(LedgerError):  # Redis has checks of its own
            if owner := await self.deps.ledger.records.owner():
                raise wrong_account(owner, self.deps.desired)
        return warning("streams.lifecycle", f"no stream captures {subject} yet", WORKER_DECLARES)

    async def _durable(self) -> AsyncIterator[Check]:
        stream, subject = self.findings.events_stream, self.deps.desired.events_subject.wildcard
        self.findings.source = await find_durable(self.deps.reads, self.deps.desired.durable, stream, (subject,))
        if self.findings.source is None:
            yield self._no_durable("streams.durable", stream)
            return
        info = await self.deps.reads.consumer_info(stream, self.deps.desired.durable)
        yield judges.judge_durable("streams.durable", stream, info, self.findings.source.difference)
        oldest = await self.deps.reads.next_message(stream, subject, info["ack_floor"]["stream_seq"] + 1)
        behind, now = info["num_pending"] + info["num_ack_pending"], instant(info.get("ts"))
        age_s = (now - oldest.published_at) / SECOND if oldest and now else None
        yield judges.judge_lag(behind, age_s, info.get("num_waiting", 0))

    def _no_durable(self, name: str, stream: str) -> Check:
        self.findings.missing_durables.append(stream)
        return warning(name, f"stream {stream} has no durable {self.deps.desired.durable} yet", WORKER_DECLARES)

    async def _advisory_streams(self) -> AsyncIterator[Check]:
        self.findings.advisories = await streams_of_advisories(self.deps.reads)
        yield judges.judge_advisories(self.findings.advisories, await barred_advisories(self.deps.reads))

    async def _dead_letters(self) -> AsyncIterator[Check]:
        try:
            letters = await self.deps.reads.stream_info(DEAD_LETTERS)
        except NotFound:
            self.findings.missing_streams.append(DEAD_LETTERS)
            yield judges.judge_dead_letters(0, DEAD_LETTERS)
            return
        yield judges.judge_dead_letters(letters["state"]["messages"], DEAD_LETTERS)
        yield judges.judge_dead_letter_limits(letters["config"])

    async def _control(self) -> AsyncIterator[Check]:
        try:
            await self.deps.reads.stream_info(CONTROL)
        except NotFound:
            self.findings.missing_streams.append(CONTROL)
            yield judges.judge_pause(None)
            return
        yield judges.judge_pause(
            await PauseGate(self.deps.reads, self.deps.ledger.topology_cache, notes=False).active_pause()
        )

    async def _overlap(self) -> AsyncIterator[Check]:
        fences, letters, orders = [
            await self.deps.reads.stream_names(subject) for subject in (FENCES, DEAD_LETTER_SUBJECT, CONTROL_SUBJECTS)
        ]
        fenced = {name for name in fences if self.deps.policy.job_id(name) is not None}  # now, or a moment ago
        read = [name for name in self.findings.own_streams if self.deps.policy.job_id(name) is not None]
        captured_by = {
            FENCES: fences - fenced,
            DEAD_LETTER_SUBJECT: letters - {DEAD_LETTERS},
            CONTROL_SUBJECTS: orders - {CONTROL},
        }
        yield judges.judge_overlap(captured_by, read)

    async def _job_streams(self) -> AsyncIterator[Check]:
        if self.findings.listing is None:
            return
        streams = self.findings.job_streams()
        matching = {item.name for item in streams}
        others = self.findings.listing.streams.keys() - matching - self.findings.own_streams
        yield judges.judge_pattern(matching, others, self.deps.policy.pattern.pattern)
        yield judges.judge_fences(streams, self.findings.listing.streams_by_subject())
        yield judges.judge_fenceable(streams)
        yield judges.judge_retention(streams)

    async def _rights(self) -> AsyncIterator[Check]:
        needs = Needs(
            events=self.findings.events_stream,
            streams=self.findings.missing_streams,
            durables=self.findings.missing_durables,
            companions=self.findings.advisories if self.deps.companions and self.deps.policy.may_delete else (),
            durable=self.deps.desired.durable,
            backups=self.deps.backup_store is not None,
        )
        asked = list(for_the_rest(self.deps.reads, needs))
        yield judges.judge_rights(await lacking(self.deps.reads, asked), len(asked))

    async def _deleting(self) -> AsyncIterator[Check]:
        barred = await lacking(self.deps.effects, for_deleting(self.deps.effects))
        yield judges.judge_deleting(barred, deletes=self.deps.policy.may_delete)

    async def _nats_clock(self) -> AsyncIterator[Check]:
        name = next(
            iter(
                [self.findings.events_stream]
                if self.findings.lifecycle
                else self.findings.listing.streams
                if self.findings.listing
                else ()
            ),
            None,
        )
        if name is None:
            yield ok("clocks.nats", "there is no stream yet, and only a stream's answer has the server's time")
            return
        before = self.deps.clock()
        now = instant((await self.deps.reads.stream_info(name)).get("ts"))
        yield judge_clock_of(self.deps, "clocks.nats", "the NATS server's", before, now or 0)
