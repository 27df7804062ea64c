"""`reactor doctor`: check everything that reactor needs, with a fix for everything that is not in order.

It changes nothing: it declares no stream and no durable, acks nothing and deletes nothing. Permissions are tried with
messages that have no effect (see `jetstream.permissions`). In Redis one key is written and deleted again. A check that
cannot be made is reported as an error with the reason, and the others go on.
"""

import asyncio
from dataclasses import dataclass

from reactor.core.checks import Check, Diagnosis, Level, Misconfigured, error
from reactor.jetstream.errors import JetStreamError, Unanswered
from reactor.operate.doctor.advice import NATS, REDIS, away_by, broken_off
from reactor.operate.doctor.context import CheckFunction, CheckFunctions, DoctorContext, Findings
from reactor.operate.doctor.external import backup_checks, directory_checks
from reactor.operate.doctor.ledger import LedgerSection, worker_checks
from reactor.operate.doctor.nats import NatsSection
from reactor.operate.doctor.redis import redis_checks
from reactor.store.keyspace import LedgerError

PATIENCE = 2
"""How many requests may stay without an answer (ten seconds each) until NATS counts as away."""


@dataclass(eq=False, repr=False)
class Doctor:
    """Runs all checks once."""

    deps: DoctorContext

    def __post_init__(self) -> None:
        self._found = Findings(self.deps)
        self._away: set[str] = set()
        self._unanswered = 0

    async def examine(self) -> Diagnosis:
        """Run every check that can be made, and return the results."""
        nats, redis = await asyncio.gather(self._examine_nats(), self._try_all(REDIS, redis_checks(self.deps)))
        ledger = [] if REDIS in self._away else await self._examine_ledger()
        workers = [] if REDIS in self._away else await self._try_all(REDIS, worker_checks(self.deps))
        backups = await self._try_all("", backup_checks(self.deps.backup_store))
        directory = await self._try_all("", directory_checks(self.deps))
        return Diagnosis.of([*workers, *nats, *redis, *directory, *backups, *ledger], unreachable=bool(self._away))

    async def _examine_nats(self) -> list[Check]:
        section = NatsSection(self.deps, self._found)
        checks = await self._try("nats.server", section.server)
        if checks[-1].level is Level.OK:
            checks += await self._try("nats.jetstream", section.jetstream)
        if not self._found.jetstream_answers:
            return checks
        return checks + await self._try_all(NATS, section.check_functions())

    async def _examine_ledger(self) -> list[Check]:
        with_nats = self._found.jetstream_answers and NATS not in self._away
        section = LedgerSection(self.deps, self._found)
        return await self._try_all(REDIS, section.check_functions(with_nats=with_nats))

    async def _try_all(self, server: str, check_functions: CheckFunctions) -> list[Check]:
        """Run checks one after another, until the server is away."""
        checks: list[Check] = []
        for name, check_function in check_functions.items():
            checks += await self._try(name, check_function)
            if server in self._away:
                break
        return checks

    async def _try(self, name: str, check_function: CheckFunction) -> list[Check]:
        """Return the results of one check function, and the failure if it failed."""
        checks = []
        try:
            async for check in check_function():
                checks.append(check)  # noqa: PERF401  # what was found before it broke off counts
        except (JetStreamError, LedgerError, Misconfigured) as failure:
            checks.append(broken_off(name, failure, self.deps.domain))
            self._unanswered += isinstance(failure, Unanswered)
            self._away |= away_by(failure) | ({NATS} if self._unanswered >= PATIENCE else set())
        except Exception as bug:  # noqa: BLE001  # an unexpected error must not hide the other checks
            checks.append(error(name, f"could not be made: {type(bug).__name__}: {bug}", "please report this as a bug"))
        return checks
