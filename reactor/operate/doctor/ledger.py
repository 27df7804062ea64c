"""What the doctor makes of what Redis knows; and with the lifecycle stream beside it, whether that is all."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from reactor.core.checks import Check, warning
from reactor.core.model import SECOND, Record, Stream, parse_instant
from reactor.core.policy import spoke_too_early
from reactor.core.stream_info import instant, read_consumers
from reactor.jetstream.errors import NotFound
from reactor.job_status.ledger_directory import Directory
from reactor.operate.doctor import judges
from reactor.operate.doctor.context import CheckFunctions, DoctorContext, Findings

SAMPLE = 20
"""Streams whose consumers are asked: one request each."""


class LedgerSection:
    """Coverage, jobs, the last full pass."""

    def __init__(self, patient: DoctorContext, found: Findings) -> None:
        """What is found is kept in `found`."""
        self._patient = patient
        self._reads = patient.reads
        self._ledger = patient.ledger
        self._policy = patient.policy
        self._desired = patient.desired
        self._found = found

    def examinations(self, *, with_nats: bool) -> CheckFunctions:
        """In their order; `with_nats` those, too, that ask NATS."""
        both = {"ledger.coverage": self._coverage, "ledger.oldest_live": self._jobs} if with_nats else {}
        return both | {"ledger.last_pass": self._last_pass, "streams.room": self._room}

    async def _coverage(self) -> AsyncIterator[Check]:
        """Yield what the ledger can vouch for, and for whose jobs."""
        if self._found.source is None:
            yield warning("ledger.coverage", "no lifecycle event was read yet", "start reactor worker")
            return
        template, durable = self._desired.events_subject, self._desired.durable
        directory = Directory(
            self._reads,
            self._ledger,
            self._policy,
            template=template,
            source=self._found.source,
            durable=durable,
        )
        snapshot = await directory.take_snapshot()
        identity = snapshot.lifecycle.identity
        coverage, _ = await directory.read_jobs(snapshot)
        if foreign := judges.judge_owner(await self._ledger.records.owner(), identity):
            yield foreign
        yield judges.judge_coverage(coverage, heard=(await self._ledger.records.read(identity)).events > 0)
        self._found.whole = coverage.intact

    async def _jobs(self) -> AsyncIterator[Check]:
        """Yield jobs that live for long, and those that nobody has spoken of."""
        if self._found.lifecycle is None or self._found.listing is None or not self._found.whole:
            return
        records = await self._ledger.records.all()
        streams = [item for item in self._found.job_streams() if item.reported and not self._policy.is_protected(item)]
        live = {job: record for job, record in records.items() if not self._policy.is_terminal(record)}
        now = instant(self._found.lifecycle.get("ts")) or 0
        yield judges.judge_oldest(len(records), live, {item.job_id: item.name for item in streams}, now)
        yield judges.judge_disputes(
            [(item, records[item.job_id]) for item in streams if item.job_id in records], self._policy
        )
        yield judges.judge_early(await self._worked_on(streams, records))
        last = await self._reads.last_message(self._found.events_stream, self._desired.events_subject.wildcard)
        template = self._desired.events_subject.template
        yield judges.judge_emitter(streams, records.keys(), last.published_at if last else None, template)

    async def _worked_on(self, streams: Sequence[Stream], records: Mapping[str, Record]) -> list[str]:
        """Return streams of jobs that were called done and are worked on; a sample of them is asked."""
        done = [item for item in streams if item.job_id in records and self._policy.is_terminal(records[item.job_id])]
        found = []
        for item in done[:SAMPLE]:
            with suppress(NotFound):
                stream = replace(item, consumers=read_consumers(await self._reads.consumers(item.name), None))
                if spoke_too_early(stream, records[item.job_id], self._policy):
                    found.append(item.name)
        return found

    async def _room(self) -> AsyncIterator[Check]:
        yield judges.judge_room(await self._ledger.topology_cache.lacking())

    async def _last_pass(self) -> AsyncIterator[Check]:
        last = await self._ledger.passes.last()
        age_s = (self._patient.clock() - parse_instant(last["started_at"])) / SECOND if last else None
        yield judges.judge_pass(last, age_s, self._patient.interval_s)
