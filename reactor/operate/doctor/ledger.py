"""The doctor's checks of the ledger: coverage, jobs, the last full pass, and the workers."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from reactor.core.checks import Check, counted, error, ok, warning
from reactor.core.model import SECOND, Record, Stream, parse_instant
from reactor.core.policy import policy_for, spoke_too_early
from reactor.core.stream_info import instant, read_consumers
from reactor.core.workers import NO_WORKER, differing, versions_of
from reactor.jetstream.errors import NotFound
from reactor.job_status.ledger_directory import Directory
from reactor.operate.doctor import judges
from reactor.operate.doctor.context import CheckFunctions, DoctorContext, Findings

SAMPLE = 20
"""How many streams' consumers are read, with one request each."""


@dataclass(eq=False, repr=False)
class LedgerSection:
    """The checks of coverage, jobs and the last full pass. They share `findings` with other checks."""

    deps: DoctorContext
    findings: Findings

    def check_functions(self, *, with_nats: bool) -> CheckFunctions:
        """Return the checks in their order. `with_nats` adds those that ask NATS."""
        # With a directory, events decide nothing: a silent emitter is none then.
        events_decide = with_nats and self.deps.jobs is None
        both = {"ledger.coverage": self._coverage, "ledger.oldest_live": self._jobs} if events_decide else {}
        return both | {"ledger.last_pass": self._last_pass, "streams.room": self._room}

    async def _coverage(self) -> AsyncIterator[Check]:
        """Check the coverage, and which lifecycle stream the ledger belongs to."""
        if self.findings.source is None:
            yield warning("ledger.coverage", "no lifecycle event was read yet", "start reactor worker")
            return
        template, durable = self.deps.desired.events_subject, self.deps.desired.durable
        directory = Directory(
            self.deps.reads,
            self.deps.ledger,
            self.deps.policy,
            template=template,
            source=self.findings.source,
            durable=durable,
        )
        snapshot = await directory.take_snapshot()
        identity = snapshot.lifecycle.identity
        coverage, _ = await directory.read_jobs(snapshot)
        if foreign := judges.judge_owner(await self.deps.ledger.records.owner(), identity):
            yield foreign
        yield judges.judge_coverage(coverage, has_events=(await self.deps.ledger.records.read(identity)).events > 0)
        self.findings.whole = coverage.intact

    async def _jobs(self) -> AsyncIterator[Check]:
        """Check jobs that are live for long, and streams of jobs without events."""
        if self.findings.lifecycle is None or self.findings.listing is None or not self.findings.whole:
            return
        records = await self.deps.ledger.records.all()
        streams = [
            item
            for item in self.findings.job_streams()
            if item.reported and not policy_for(item, records.get(item.job_id), self.deps.policy).is_protected(item)
        ]
        live = {job: record for job, record in records.items() if not self.deps.policy.is_terminal(record)}
        now = instant(self.findings.lifecycle.get("ts")) or 0
        yield judges.judge_oldest(len(records), live, {item.job_id: item.name for item in streams}, now)
        yield judges.judge_disputes(
            [(item, records[item.job_id]) for item in streams if item.job_id in records], self.deps.policy
        )
        yield judges.judge_early(await self._worked_on(streams, records))
        last = await self.deps.reads.last_message(
            self.findings.events_stream, self.deps.desired.events_subject.wildcard
        )
        template = self.deps.desired.events_subject.template
        yield judges.judge_emitter(streams, records.keys(), last.published_at if last else None, template)

    async def _worked_on(self, streams: Sequence[Stream], records: Mapping[str, Record]) -> list[str]:
        """Return streams of done jobs whose work goes on, from a sample."""
        done = [
            item for item in streams if item.job_id in records and self.deps.policy.is_terminal(records[item.job_id])
        ]
        at_work = []
        for item in done[:SAMPLE]:
            with suppress(NotFound):
                stream = replace(item, consumers=read_consumers(await self.deps.reads.consumers(item.name), None))
                if spoke_too_early(stream, records[item.job_id], self.deps.policy):
                    at_work.append(item.name)
        return at_work

    async def _room(self) -> AsyncIterator[Check]:
        yield judges.judge_room(await self.deps.ledger.topology_cache.lacking())

    async def _last_pass(self) -> AsyncIterator[Check]:
        last = await self.deps.ledger.passes.last()
        age_s = (self.deps.clock() - parse_instant(last["started_at"])) / SECOND if last else None
        yield judges.judge_pass(last, age_s, self.deps.interval_s)


def worker_checks(deps: DoctorContext) -> CheckFunctions:
    """Return the checks of the workers that are registered in Redis."""
    return {"workers.alive": partial(_alive, deps), "workers.agree": partial(_agree, deps)}


async def _alive(deps: DoctorContext) -> AsyncIterator[Check]:
    workers = await deps.ledger.workers.alive()
    if not workers:
        yield error(
            "workers.alive",
            f"{NO_WORKER}: streams are deleted only when reactor reconcile runs",
            "start reactor worker",
        )
        return
    hosts = ", ".join(f"{worker.instance} ({worker.version})" for worker in workers)
    yield ok("workers.alive", f"{counted(len(workers), 'worker')}: {hosts}")


async def _agree(deps: DoctorContext) -> AsyncIterator[Check]:
    workers = await deps.ledger.workers.alive()
    apart, versions = differing(workers), versions_of(workers)
    if apart:
        fix = "give all workers the same settings, and restart them: reactor workers --json shows each"
        yield warning("workers.agree", f"the workers differ in {', '.join(apart)}", fix)
    elif len(versions) > 1:
        fix = "upgrade the others: they respect each other's fences meanwhile"
        yield warning("workers.agree", f"the workers differ in version: {', '.join(versions)}", fix)
    else:
        yield ok("workers.agree", "the workers agree" if len(workers) > 1 else "there is only one worker")
