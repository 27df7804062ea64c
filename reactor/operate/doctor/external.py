"""The doctor's checks of what is outside NATS and Redis: the job system's directory, and the place for backups."""

from collections.abc import AsyncIterator
from functools import partial

from reactor.backups.store import BackupFailed, BackupStore
from reactor.core.checks import Check, counted, error, ok, size, warning
from reactor.job_status.witness import NO_JOB, WitnessedDirectory
from reactor.operate.doctor.context import CheckFunctions, DoctorContext

SET_CANARY = "set REACTOR_DIRECTORY_CANARY to a job that always exists"


def directory_checks(deps: DoctorContext) -> CheckFunctions:
    """Return the checks of the directory; none if the lifecycle events decide."""
    if deps.jobs is None:
        return {}
    return {
        "directory.answers": partial(_directory_answers, deps.jobs, deps.directory_kind),
        "directory.canary": partial(_canary, deps.jobs, deps.directory_kind),
    }


async def _directory_answers(jobs: WitnessedDirectory, kind: str) -> AsyncIterator[Check]:
    """Run the check of a worker's start, then ask for the canary and for a job that cannot exist."""
    await jobs.check()
    faults = await jobs.faults()
    for fault in faults:
        fix = "see that REACTOR_DIRECTORY_URL, its query and its credentials reach the jobs, and only them"
        yield error("directory.answers", f"the job directory ({kind}): {fault}", fix)
    if not faults:
        yield ok("directory.answers", f"the job directory ({kind}) answers, and does not find job {NO_JOB}")


async def _canary(jobs: WitnessedDirectory, kind: str) -> AsyncIterator[Check]:
    """Check that a canary is set. It reveals a gateway that answers 404 for all jobs, and an emptied table."""
    if jobs.has_canary:
        yield ok("directory.canary", "an absence counts only if the canary is found")
    elif kind == "http":
        yield error(
            "directory.canary", "an API that answers 404 for everything looks like one without jobs", SET_CANARY
        )
    else:
        finding = "no canary is set, so an absence counts only after the missing guard, and if another job is found"
        yield warning("directory.canary", finding, SET_CANARY)


def backup_checks(backup_store: BackupStore | None) -> CheckFunctions:
    """Return the check of the place for backups; none if the settings ask for no backups."""
    return {"backups.folder": partial(_backup_place, backup_store)} if backup_store else {}


async def _backup_place(backup_store: BackupStore) -> AsyncIterator[Check]:
    name = "backups.folder"
    try:
        async with backup_store.draft("reactor-doctor") as draft:
            await draft.write(b"reactor doctor")
            await draft.stored()
        there = await backup_store.backups()
    except BackupFailed as failed:
        fix = "let REACTOR_BACKUP_URL or REACTOR_BACKUP_DIR name a place that this process may read and write"
        yield error(name, f"{failed}, so nothing is deleted", fix)
        return
    held, free = sum(item.manifest.size for item in there), await backup_store.free()
    room = "" if free is None else f", and room for {size(free)} more"
    finding = f"{backup_store.address} has {counted(len(there), 'backup')} of {size(held)}{room}"
    if free is not None and free + held < backup_store.max_bytes:
        fix = f"give it {size(backup_store.max_bytes)}, or set REACTOR_BACKUP_MAX_BYTES to what there is"
        yield warning(name, finding, fix)
        return
    yield ok(name, finding)
