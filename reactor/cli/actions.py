"""The commands that change something: pause, resume, protect, unprotect, restore, and copying backups."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import DownloadColumn

from reactor.backups.folder import read_backup
from reactor.backups.objects import copy
from reactor.backups.store import ARCHIVE, Backup, BackupCorrupt, BackupFailed
from reactor.bootstrap.connections import actor_of, connections
from reactor.bootstrap.services import (
    UseCases,
    find_provision,
    pause_gate_of,
    places_of,
    policy_of,
    recorder_of,
)
from reactor.cli.embedded import EmbeddedError, scratch_server
from reactor.cli.exits import Exit, fail
from reactor.cli.render import progress_bar, show_backups
from reactor.cli.shell import duration_of, print_answer, run, settings_of_command
from reactor.config.fields import checked_backup_url
from reactor.core.checks import counted
from reactor.core.model import SECOND, nanoseconds, parse_instant, to_the_second
from reactor.core.pause import LONGEST_PAUSE
from reactor.core.policy import Policy
from reactor.operate import actions
from reactor.operate.actions import Operator, PauseOrder
from reactor.operate.overview import NoJobStream, NoSuchStream
from reactor.operate.protect import FOR_GOOD, HowLong, NotProtected
from reactor.operate.restore import NotRestored, Restored

STREAM_NAME = r"[^\s.*>/\\\x00-\x1f\x7f]{1,255}"
ARCHIVE_WORTH_A_BAR = 10_000_000
"""A restore of an archive of this size (bytes) shows its progress."""
PROTECT_S = 90.0
"""How long to wait for a deletion under way. It is longer than a default lease."""


def pause(span: str | None, reason: str) -> None:
    """Pause all deleting. NATS keeps the pause, so it holds while Redis is away, too."""
    settings = settings_of_command()
    lasting = None if span is None else nanoseconds(duration_of("--for", span))
    if lasting is not None and not 0 < lasting <= LONGEST_PAUSE:
        fail(Exit.USAGE, "--for: longer than 0 and ten years at most; without it the pause lasts until reactor resume")

    async def order() -> PauseOrder:
        async with connections(settings, actor=actor_of("pause")) as connected:
            operator = Operator(connected.actor.person, reason)
            return await actions.pause(pause_gate_of(connected), recorder_of(connected), operator, lasting)

    done = run(order, settings.nats.domain)
    typer.echo(f"{done.pause or 'deleting is paused'}; reactor resume lets it go on")
    _print_unrecorded(done)


def resume() -> None:
    """End a pause."""
    settings = settings_of_command()

    async def order() -> PauseOrder:
        async with connections(settings, actor=actor_of("resume")) as connected:
            operator = Operator(connected.actor.person)
            return await actions.resume(pause_gate_of(connected), recorder_of(connected), operator)

    done = run(order, settings.nats.domain)
    typer.echo(f"deleting goes on; it was: {done.pause}" if done.pause else "deleting was not paused")
    _print_unrecorded(done)


def _print_unrecorded(done: PauseOrder) -> None:
    if done.unrecorded:
        typer.echo(f"reactor: the audit does not have this, since Redis is unreachable: {done.unrecorded}", err=True)


def how_long(span: str | None, until: str | None) -> HowLong:
    """Return how long to protect, by `--for` and `--until`. Exits if they cannot be read."""
    if span is not None and until is not None:
        fail(Exit.USAGE, "--for and --until exclude each other: give one of them")
    if span is not None:
        return HowLong(span=nanoseconds(duration_of("--for", span)))
    try:
        return HowLong(until=parse_instant(until)) if until is not None else FOR_GOOD
    except ValueError as error:
        fail(Exit.USAGE, f"--until: {error}")


def protect(streams: Sequence[str], how_long: HowLong | None) -> None:
    """Protect streams, or remove their protection. Exits with the gravest code of all streams."""
    settings = settings_of_command()
    policy = policy_of(settings)
    for name in streams:
        if policy.job_id(name) is None:
            fail(Exit.USAGE, str(NoJobStream(name, policy)))

    async def order() -> list[Exit]:
        command = "protect" if how_long else "unprotect"
        async with connections(settings, actor=actor_of(command)) as connected:
            cases = UseCases(connected, await find_provision(connected))
            return [await _protect(cases, name, how_long) for name in dict.fromkeys(streams)]

    raise typer.Exit(max(run(order, settings.nats.domain)))


async def _protect(cases: UseCases, name: str, how_long: HowLong | None) -> Exit:
    try:
        operator = Operator(cases.connected.actor.person)
        done = await cases.actions().protect(name, PROTECT_S, operator, how_long)
    except NoSuchStream as error:
        typer.echo(f"reactor: {error}", err=True)
        return Exit.NO_STREAM
    except NotProtected as error:
        typer.echo(f"reactor: {error}", err=True)
        return Exit.UNFIXABLE
    words = "is protected: nothing drains it" if how_long else "is not protected any more: it is judged like any other"
    if done.until is not None:
        words = f"is protected until {to_the_second(done.until)}; then it is judged like any other"
    typer.echo(f"{name} {words}" + ("" if done.changed else ", as it was"))
    if not how_long and done.max_age_off:
        age = f"{done.max_age_off / SECOND:g}s"
        typer.echo(
            f"its max_age of {age} stays off, or older messages would expire: nats stream edit {name} --max-age {age}"
        )
    if not how_long and cases.resources.policy.is_protected_by_name(name):
        typer.echo(f"{name} is still protected by REACTOR_POLICY_PROTECT")
    return Exit.DONE


def restore(stream: str, source: Path | None, name: str | None, *, without_messages: bool) -> None:
    """Restore a stream, under its own or another name."""
    settings = settings_of_command()
    policy = policy_of(settings)
    if policy.job_id(stream) is None:
        fail(Exit.USAGE, str(NoJobStream(stream, policy)))
    if name is not None and not re.fullmatch(STREAM_NAME, name):
        fail(Exit.USAGE, f"--as: {name!r} cannot be a stream's name: no spaces, no . * > / \\, 255 characters at most")
    backup = _backup_in(source, stream) if source else None

    async def order() -> Restored:
        async with connections(settings, actor=actor_of("restore")) as connected:
            cases = UseCases(connected, await find_provision(connected))
            operator = Operator(connected.actor.person)
            actions = cases.actions(scratch_server, progress=progress)
            return await actions.restore(
                stream, operator, new_name=name, backup=backup, without_messages=without_messages
            )

    try:
        with progress_bar(Console(stderr=True), "restoring", DownloadColumn(), worth=ARCHIVE_WORTH_A_BAR) as progress:
            done = run(order, settings.nats.domain)
    except NoSuchStream as error:
        fail(Exit.NO_STREAM, f"{error} There is no backup of it here, and the audit does not have its config.")
    except (NotRestored, BackupCorrupt) as error:
        fail(Exit.UNFIXABLE, str(error))
    except EmbeddedError as error:
        fail(
            Exit.UNFIXABLE,
            f"this NATS server restores a backup under its own name only, and --as needs a second server: {error}",
        )
    _show_restored(done, policy)


def _backup_in(source: Path, stream: str) -> Backup:
    """Return the backup in a folder of reactor or the nats CLI. `source` is the folder or a file in it."""
    backup = read_backup(source if source.is_dir() else source.parent)
    if backup is None:
        fail(Exit.USAGE, f"--from: there is no backup in {source}: no {ARCHIVE}, or it cannot be read")
    if backup.manifest.stream != stream:
        fail(Exit.USAGE, f"--from: that is a backup of {backup.manifest.stream}, not of {stream}")
    return backup


def _show_restored(done: Restored, policy: Policy) -> None:
    consumers = f"consumer {', '.join(done.consumers)}" if done.consumers else "no consumer"
    messages = counted(done.messages, "message")
    lost = f"; {counted(done.lost, 'message')} it held are lost" if done.lost else ""
    typer.echo(f"{done.stream} is back on {', '.join(done.subjects)}, with {messages} and {consumers}{lost}")
    if policy.job_id(done.stream) is None:
        typer.echo("its name does not match the pattern, so reactor never deletes it: delete it yourself in the end")
        return
    typer.echo(
        f"it is protected, and nothing in it expires: to let it be judged again, reactor unprotect {done.stream}"
    )
    if done.job_id:
        typer.echo(f"the events say that its job has ended: if it is live again, reactor emit {done.job_id} STARTED")


def backups(*, as_json: bool) -> None:
    """Print the backups in the place of the settings, newest first."""
    settings = settings_of_command()

    async def ask() -> dict[str, Any]:
        async with connections(settings) as connected:
            place = places_of(connected).of_settings()
            backups = [asdict(item.manifest) | {"folder": item.address} for item in await place.backups()]
            return {"folder": place.address, "backups": backups}

    try:
        print_answer(run(ask, settings.nats.domain), as_json, show_backups)
    except BackupFailed as error:
        fail(Exit.UNREACHABLE, str(error))


def copy_backups(source: str, target: str) -> None:
    """Copy all backups from one place to another, except those that are already there."""
    settings = settings_of_command()
    urls = [_place(source), _place(target)]

    async def order() -> tuple[int, int]:
        async with connections(settings, actor=actor_of("backups copy")) as connected:
            origin, goal = (places_of(connected).at(url) for url in urls)
            there = {item.manifest.sha256 for item in await goal.backups()}
            backups = await origin.backups()
            missing = [item for item in backups if item.manifest.sha256 not in there]
            for item in missing:
                await copy(item, goal)
                typer.echo(f"{item.manifest.stream} of {item.manifest.at} copied")
            return len(missing), len(backups) - len(missing)

    try:
        copied, left = run(order, settings.nats.domain)
    except (BackupFailed, BackupCorrupt) as error:
        fail(Exit.UNFIXABLE, str(error))
    typer.echo(f"{counted(copied, 'backup')} copied" + (f", {left} there already" if left else ""))


def _place(url: str) -> str:
    """Return the URL of a place for backups, given as URL or path. Exits if it is neither."""
    if "/" in url and ":" not in url:
        return Path(url).resolve().as_uri()
    try:
        return checked_backup_url(url)
    except ValueError as error:
        fail(Exit.USAGE, f"{url}: {error}")
