"""Restore a deleted stream: from a backup with its messages, or from the audit without them.

A restored stream is protected from the first moment, because its job still counts as over.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from reactor.backups.store import Backup
from reactor.core.stream_info import Raw, restored_config, unfinished, unfinished_part
from reactor.deletion.recorder import Recorder
from reactor.jetstream.client import JetStream
from reactor.jetstream.errors import NotFound, Refused
from reactor.jetstream.snapshots import restore
from reactor.operate.replay import CONSUMERS, MESSAGES, NotReplayed, Scratch, make_consumers, own_subject, replay

Progress = Callable[[int, int], None]
"""Called with the number of bytes that the server has received, and the total."""


def ignore_progress(_done: int, _total: int) -> None:
    """Ignore the progress."""


class NotRestored(Exception):
    """The stream was not restored. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The recipe in the audit to create a stream again without a backup."""

    job_id: str
    config: Raw
    consumers: Sequence[Raw]
    last_seq: int
    messages: int
    """The number of messages that are lost."""


@dataclass(frozen=True, slots=True)
class Restored:
    """The result of a restore."""

    stream: str
    job_id: str
    subjects: Sequence[str]
    messages: int
    lost: int
    consumers: Sequence[str]


def _how_and_why(how: str, why: str) -> str:
    return f"{how}; {why}" if why else how


@dataclass(eq=False, repr=False)
class Restorer:
    """Restores streams. Methods raise NotRestored, BackupCorrupt, JetStreamError and LedgerError.

    `js` may be busy for some time. `scratch` provides a temporary server, for archives that ours refuses.
    """

    js: JetStream
    recorder: Recorder
    scratch: Scratch | None = None
    progress: Progress = ignore_progress

    async def from_backup(self, backup: Backup, name: str, why: str = "") -> Restored:
        """Restore a stream from a backup, with its messages, consumers and their acknowledgements."""
        manifest, description = backup.manifest, await backup.description()
        config, lacking = await self._config_for(description["config"], name)
        await backup.check()
        how = f"from {backup.address}"
        if lacking is None:
            try:
                await restore(self.js, unfinished(config, CONSUMERS), description["state"], self._watched(backup))
            except Refused as error:
                if name == manifest.stream:
                    raise NotRestored(
                        f"the server does not take the backup of {manifest.stream} back: {error}"
                    ) from error
                lacking = MESSAGES
        if lacking == MESSAGES:
            await self._replay(backup, config)
            how = f"{how}, message by message"
        await make_consumers(self.js, name, await self._lacking(name, manifest.consumers))
        return await self._done(config, manifest.job_id, 0, _how_and_why(how, why))

    async def _replay(self, backup: Backup, config: Raw) -> None:
        name, was = config["name"], backup.manifest.stream
        if self.scratch is None:
            raise NotRestored(
                f"the server does not take the backup of {was} back under another name: reactor restore can"
            )
        try:
            async with self.scratch() as scratch:
                await replay(scratch, self.js, config, await backup.description(), self._watched(backup))
        except (Refused, NotReplayed) as error:
            raise NotRestored(
                f"the backup of {was} could not be brought back as {name}, or not all of it: {error}"
            ) from error

    async def _watched(self, backup: Backup) -> AsyncIterator[bytes]:
        done = 0
        async for chunk in backup.chunks():
            yield chunk
            done += len(chunk)
            self.progress(done, backup.manifest.size)

    async def from_recipe(self, recipe: Recipe, name: str, why: str = "") -> Restored:
        """Restore a stream without messages. Sequences continue, so a late acknowledgement cannot hit a new message."""
        config, lacking = await self._config_for(recipe.config, name)
        if lacking is None:
            await self.js.create_stream(unfinished(config, CONSUMERS) | {"first_seq": recipe.last_seq + 1})
        await make_consumers(self.js, name, await self._lacking(name, recipe.consumers))
        how = _how_and_why(f"without its {recipe.messages} messages", why)
        return await self._done(config, recipe.job_id, recipe.messages, how)

    async def _config_for(self, config: Raw, name: str) -> tuple[Raw, str | None]:
        """Return the config to restore: protected, under `name`, with another subject if its own is taken.

        Also return which part an earlier, unfinished restore of that name lacks; None if there is none.
        """
        lacking = None
        with suppress(NotFound):
            there = await self.js.stream_info(name)
            if (lacking := unfinished_part(there["config"])) is None:
                messages = f"{there['state']['messages']} messages"
                raise NotRestored(
                    f"stream {name} exists, with {messages}, and was not touched: --as NAME restores under another name"
                )
        renamed, taken = name != config["name"], dict[str, list[str]]()
        for subject in config.get("subjects") or []:
            if others := await self.js.stream_names(subject) - {name}:
                taken[subject] = sorted(others)
        if taken and not renamed:
            subject, owners = next(iter(taken.items()))
            raise NotRestored(
                f"{subject} belongs to stream {', '.join(owners)} now: --as NAME restores under another name"
            )
        own = {"subjects": [own_subject(name)]} if taken else {}
        return restored_config(config) | {"name": name} | own, lacking

    async def _lacking(self, name: str, consumers: Sequence[Raw]) -> list[Raw]:
        there = await self.js.consumer_names(name)
        return [item for item in consumers if item["name"] not in there]

    async def _done(self, config: Raw, job_id: str, lost: int, how: str) -> Restored:
        """Remove the mark of an unfinished restore: the stream is complete."""
        sealed = config.get("sealed")  # it takes no mark, and no update
        info = await (self.js.stream_info(config["name"]) if sealed else self.js.update_stream(config))
        await self.recorder.ordered("restored", config["name"], job_id, how)
        return Restored(
            stream=config["name"],
            job_id=job_id,
            subjects=config.get("subjects") or [],
            messages=info["state"]["messages"],
            lost=lost,
            consumers=sorted(await self.js.consumer_names(config["name"])),
        )
