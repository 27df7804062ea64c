"""Backups before deletions, and restoring what was deleted."""

import asyncio
import json
import os
import re
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from nats.js.api import ConsumerConfig, StreamConfig
from support.bench import Bench
from support.harness import ARCHIVE, ROOT, World, eventually, gone, print_figure, worker

from reactor.backups.folder import FolderBackup, FolderStore
from reactor.backups.store import BackupFailed, Manifest
from reactor.core.model import SECOND, Outcome, Reason, format_instant
from reactor.core.stream_info import PROTECT_KEY, UNFINISHED_KEY, instant
from reactor.operate.replay import NotReplayed, _headers, replay

CHUNK = 1_000_000


async def used(world: World, number: int = 1, messages: int = 4, acked: int = 2, **config: Any) -> str:
    """Create a zombie's stream with work done: `acked` messages are acknowledged, and one more is delivered."""
    name = f"job_{number}"
    await world.stream(name, **config)
    await world.consumer(name)
    for _ in range(messages):
        await world.js.publish(f"job.{number}.tasks", b"task")
    pull = await world.js.pull_subscribe_bind(consumer=f"job-{number}-consumer", stream=name)
    taken = await pull.fetch(min(acked + 1, messages))
    for msg in taken[:acked]:
        await msg.ack_sync()
    await world.emit(number, "SUCCESS")
    return name


async def floors(world: World, stream: str = "job_1") -> tuple[int, int, int]:
    """Return the consumer's positions: acknowledged up to, delivered up to, still to be delivered."""
    info = await world.api(f"CONSUMER.INFO.{stream}.job-1-consumer")
    return info["ack_floor"]["stream_seq"], info["delivered"]["stream_seq"], info["num_pending"]


def backing(folder: Path, when: str = "always", **more: str) -> dict[str, Any]:
    return {"REACTOR_BACKUP_WHEN": when, "REACTOR_BACKUP_DIR": str(folder), **more}


async def test_what_was_deleted_comes_back_whole(world: World, tmp_path: Path) -> None:
    """Messages, consumers and acknowledgements.

    It is protected, and the audit says where the backup was and who restored it.
    """
    await world.declare()
    await used(world, metadata={"team": "ml"})
    before, was = await floors(world), ((await world.info("job_1")) or {})["config"]
    env = backing(tmp_path)
    assert (await world.verdicts(**env))["job_1"] == ("drained", "terminal")
    outcome = (await world.trail())[-1]
    assert outcome["backup"].endswith(str(next(tmp_path.glob("job_1-*"))))
    listed = json.loads((await world.reactor("backups", "--json", **env)).out)
    assert [(item["stream"], item["messages"], item["job_id"]) for item in listed["backups"]] == [("job_1", 4, "1")]
    gone_one = await world.reactor("explain", "job_1", "--json", **env)
    assert gone_one.code == 5
    assert json.loads(gone_one.out)["restorable"]["messages"] == 4
    done = await world.reactor("restore", "job_1", **env)
    assert done.code == 0, done.err
    after = (await world.info("job_1")) or {}
    assert (await floors(world), after["state"]["messages"]) == (before, 4)
    assert after["config"]["subjects"] == was["subjects"]
    assert after["config"]["metadata"].pop("reactor.protect", None) == "true"
    assert after["config"]["metadata"].pop("reactor.restored.max_age", None) == str(was["max_age"])
    assert {k: v for k, v in after["config"]["metadata"].items() if not k.startswith("_nats")} == {"team": "ml"}
    assert (await world.verdicts(**env))["job_1"] == ("kept", "protected")
    assert (await world.trail())[-1]["phase"] == "restored"
    assert (await world.js.publish("job.1.tasks", b"new")).seq == 5


async def test_a_large_restore_shows_how_far_it_is(world: World, tmp_path: Path) -> None:
    """On a terminal."""
    await world.declare()
    await world.js.add_stream(StreamConfig("job_1", subjects=["job.1.tasks"]))
    for _ in range(12):
        await world.js.publish("job.1.tasks", os.urandom(CHUNK))
    await world.emit(1, "SUCCESS")
    env = backing(tmp_path)
    assert (await world.verdicts(**env))["job_1"] == ("drained", "terminal")
    terminal = "import pty, sys; sys.exit(pty.spawn([sys.executable, '-m', 'reactor', 'restore', 'job_1']))"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", terminal, env=world.env(**env, TERM="xterm"), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    shown = (await process.communicate())[0].decode()
    assert process.returncode == 0, shown
    assert re.search(r"restoring.*\d/12\.\d MB", shown), shown
    assert ((await world.info("job_1")) or {})["state"]["messages"] == 12


async def test_messages_that_are_too_old_by_now_come_back_all_the_same(world: World, tmp_path: Path) -> None:
    """They stay, even when the protection is removed, and the command says that max_age stays off."""
    await world.declare()
    await used(world, max_age=1.5, metadata={"team": "ml"})
    assert (await world.verdicts(**backing(tmp_path)))["job_1"] == ("drained", "terminal")
    [backup] = FolderStore(tmp_path, 60, CHUNK, lambda: 0)._backups()
    newest = instant((await backup.description())["state"]["last_ts"]) or 0
    await eventually(lambda: time.time_ns() - newest > 2 * SECOND)
    done = await world.reactor("restore", "job_1", **backing(tmp_path))
    assert (done.code, "with 4 messages" in done.out) == (0, True)
    assert ((await world.info("job_1")) or {})["config"]["max_age"] == 0
    await world.emit(1, "STARTED")
    done = await world.reactor("unprotect", "job_1")
    assert "its max_age of 1.5s stays off" in done.out
    assert "nats stream edit job_1 --max-age 1.5s" in done.out
    info = (await world.info("job_1")) or {}
    assert (info["config"]["max_age"], info["state"]["messages"]) == (0, 4)
    own = {k: v for k, v in info["config"]["metadata"].items() if not k.startswith(("_nats", "reactor.restored"))}
    assert own == {"team": "ml"}


async def test_only_what_has_work_left_is_kept(world: World, tmp_path: Path) -> None:
    """`pending`: unacknowledged messages, or messages without a consumer."""
    await world.declare()
    await used(world, 1, acked=4)
    await used(world, 2, acked=3)
    await world.zombie(3, messages=1)
    await world.zombie(4, messages=0)
    assert set((await world.verdicts(**backing(tmp_path, "pending"))).values()) == {("drained", "terminal")}
    assert sorted(path.name.split("-")[0] for path in tmp_path.iterdir()) == ["job_2", "job_3"]


@contextmanager
def full(limit: int) -> Iterator[None]:
    """Limit the size of this process's files, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_without_a_backup_nothing_is_deleted(world: World, tmp_path: Path) -> None:
    """A full disk; a folder that is a file. The fence is removed, and the failure is reported."""
    await world.declare()
    await world.zombie(1, messages=0)
    for _ in range(4):
        await world.js.publish("job.1.tasks", os.urandom(200_000))
    before = ((await world.info("job_1")) or {})["config"]
    with full(100_000):
        report = await world.reconcile(**backing(tmp_path / "a"))
    assert await world.names() == {"job_1"}
    (tmp_path / "b").write_text("no folder")
    again = await world.reconcile(**backing(tmp_path / "b"))
    assert await world.names() == {"job_1"}
    for row in (report["streams"][0], again["streams"][0]):
        assert (row["verdict"], row["reason"]) == ("unfixable", "backup-failed")
        assert "no backup could be written to" in row["detail"]
    assert ((await world.info("job_1")) or {})["config"] == before
    assert list((tmp_path / "a").iterdir()) == []
    assert (await world.verdicts(**backing(tmp_path / "c")))["job_1"] == ("drained", "terminal")


async def test_a_job_that_lives_again_during_the_backup_keeps_its_stream(world: World, tmp_path: Path) -> None:
    """A backup takes time, so everything is proven again."""
    await world.stream("job_1", messages=2)
    async with Bench(world) as bench:
        await world.emit(1, "SUCCESS")
        await bench.take_snapshot()
        bench.effects.before["STREAM.SNAPSHOT"] = lambda: world.emit(1, "STARTED")
        settlement = await bench.drain(resources=bench.backing_up(tmp_path))
        assert (settlement.outcome, settlement.reason) == (Outcome.KEPT, Reason.RUNNING)
    assert ((await world.info("job_1")) or {})["config"]["subjects"] == ["job.1.tasks"]


async def test_a_protection_set_during_a_backup_counts(world: World, tmp_path: Path) -> None:
    """By others, behind the fence. It is noticed before the deletion, and it stays."""
    await world.stream("job_1", messages=2)
    async with Bench(world) as bench:
        await world.emit(1, "SUCCESS")
        await bench.take_snapshot()

        async def protect() -> None:
            config = (await world.info("job_1") or {})["config"]
            metadata = config["metadata"] | {PROTECT_KEY: "true"}
            assert "error" not in await world.api("STREAM.UPDATE.job_1", config | {"metadata": metadata})

        bench.effects.before["STREAM.SNAPSHOT"] = protect
        settlement = await bench.drain(resources=bench.backing_up(tmp_path))
        assert (settlement.outcome, settlement.reason) == (Outcome.KEPT, Reason.PROTECTED)
        assert (await bench.whole())["config"]["metadata"][PROTECT_KEY] == "true"


async def test_a_replica_that_is_killed_in_the_middle_leaves_no_backup(world: World, tmp_path: Path) -> None:
    """The stream is unchanged, and the next replica writes the backup."""
    await world.declare()
    await world.stream("job_1")
    for _ in range(48):
        await world.js.publish("job.1.tasks", os.urandom(900_000))
    env = world.env(**backing(tmp_path, REACTOR_SWEEP_LEASE="1s"))
    async with worker(env) as process:
        await world.emit(1, "SUCCESS")
        await eventually(lambda: list(tmp_path.glob(".partial-*/stream.tar.s2")), every=0.001)
        process.process.kill()
        await process.process.wait()
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
    assert ((await world.info("job_1")) or {})["state"]["messages"] == 48
    async with worker(env):
        await eventually(lambda: gone(world, "job_1"), 40)
    assert len(list(tmp_path.glob("job_1-*"))) == 1
    assert (await world.reactor("restore", "job_1", **backing(tmp_path))).code == 0
    assert ((await world.info("job_1")) or {})["state"]["messages"] == 48


@pytest.mark.parametrize(("retention", "left"), [("limits", 4), ("workqueue", 2), ("interest", 2)])
async def test_a_stream_that_exists_is_not_touched(world: World, tmp_path: Path, retention: str, left: int) -> None:
    """Its former run is restored under another name, where nothing is published.

    Acknowledged messages are not delivered again.
    """
    await world.declare()
    await used(world, retention=retention)
    await world.verdicts(**backing(tmp_path))
    await world.stream("job_1", messages=1)
    before = await world.info("job_1")
    refused = await world.reactor("restore", "job_1", **backing(tmp_path))
    assert refused.code == 1
    assert "job_1 exists, with 1 messages, and was not touched" in refused.err
    restored = await world.reactor("restore", "job_1", "--as", "job_1_was", **backing(tmp_path))
    assert restored.code == 0, restored.err
    assert "reactor.restored.job_1_was" in restored.out
    was = (await world.info("job_1_was")) or {}
    assert (was["state"]["messages"], was["config"]["subjects"]) == (left, ["reactor.restored.job_1_was"])
    assert (was["config"]["retention"], (await floors(world, "job_1_was"))[2]) in {(retention, 1), (retention, 2)}
    now = await world.info("job_1")
    assert (before or {})["state"] == (now or {})["state"]


async def test_an_archive_that_belongs_to_its_name_comes_back_beside_it(world: World) -> None:
    """Message by message, each on its own subject. None goes to the stream that has that subject now."""
    await world.declare()
    await world.stream("job_1")
    done = await world.reactor("restore", "job_1", "--from", str(ARCHIVE), "--as", "job_1_was")
    assert done.code == 0, done.err
    assert "with 5 messages and consumer job-1-consumer, later" in done.out
    info = await world.info("job_1_was")
    assert info is not None
    assert info["config"]["subjects"] == ["reactor.restored.job_1_was"]
    assert not info["config"].get("subject_transform")
    assert info["config"]["metadata"]["reactor.protect"] == "true"
    stored = [await world.js.get_msg("job_1_was", seq) for seq in range(1, 6)]
    assert [message.data for message in stored] == [b"task %d" % number for number in (1, 3, 4, 5, 6)]
    assert [message.subject for message in stored] == [*["job.1.tasks"] * 3, "job.1.more", "job.1.tasks"]
    assert [message.headers for message in stored] == [{"Trace": "t1"}, None, {"Trace": "t4"}, None, None]
    pending = {
        consumer["name"]: consumer["num_pending"]
        for consumer in (await world.api("CONSUMER.LIST.job_1_was"))["consumers"]
    }
    assert pending == {"job-1-consumer": 3, "later": 5}
    assert ((await world.info("job_1")) or {})["state"]["messages"] == 0
    assert (await world.trail())[-1]["detail"].endswith("archive, message by message")


async def test_a_restore_that_is_broken_off_leaves_no_server(world: World, tmp_path: Path) -> None:
    """The temporary server and its messages end with the command."""
    await world.declare()
    ended: tuple[int | None, bytes] = (0, b"")
    for attempt in range(20):  # one that was done before the signal came says nothing
        if (ended := await _broken_off(world, tmp_path, f"was_{attempt}")) == (143, b""):
            break
    assert ended == (143, b"")
    assert not list(tmp_path.iterdir())
    assert not [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(tmp_path) in " ".join(process.info["cmdline"] or ())
    ]


async def _broken_off(world: World, tmp_path: Path, name: str) -> tuple[int | None, bytes]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "reactor", "restore", "job_1", "--from", str(ARCHIVE), "--as", name),
        env=world.env(TMPDIR=str(tmp_path)) | {"PYTHONPATH": str(ROOT)},
        stderr=asyncio.subprocess.PIPE,
    )
    await eventually(lambda: process.returncode is not None or [*tmp_path.glob("reactor-*/nats.log")], 20, 0.001)
    with suppress(ProcessLookupError):
        process.terminate()
    _, err = await asyncio.wait_for(process.communicate(), 20)
    return process.returncode, err


async def test_what_is_spoilt_is_not_restored(world: World, tmp_path: Path) -> None:
    """A changed archive creates no stream. One of another stream is refused, too."""
    await world.declare()
    await used(world)
    await world.verdicts(**backing(tmp_path))
    archive = next(tmp_path.glob("job_1-*/stream.tar.s2"))
    archive.write_bytes(archive.read_bytes()[:-1] + b"x")
    spoilt = await world.reactor("restore", "job_1", **backing(tmp_path))
    assert spoilt.code == 1
    assert "checksum differs" in spoilt.err
    other = await world.reactor("restore", "job_2", "--from", str(archive.parent), **backing(tmp_path))
    assert other.code == 2
    assert "a backup of job_1, not of job_2" in other.err
    for odd in ("job 1", "job.1", "", "job_1/was"):
        unnamed = await world.reactor("restore", "job_1", "--as", odd, **backing(tmp_path))
        assert (unnamed.code, "cannot be a stream's name" in unnamed.err) == (2, True)
    assert await world.names() == set()


async def test_the_nats_clis_backups_are_read(world: World, tmp_path: Path) -> None:
    """The layout is the same, without reactor's manifest."""
    await world.declare()
    await used(world)
    await world.verdicts(**backing(tmp_path))
    folder = next(tmp_path.glob("job_1-*"))
    (folder / "reactor.json").unlink()
    done = await world.reactor("restore", "job_1", "--from", str(folder / "backup.json"), **backing(tmp_path))
    assert done.code == 0, done.err
    assert await floors(world) == (2, 3, 1)


async def test_without_a_backup_the_empty_stream_comes_back(world: World) -> None:
    """With its consumers. Its sequences continue, and the command says that the messages are lost."""
    await world.declare()
    await used(world)
    await world.verdicts()
    refused = await world.reactor("restore", "job_1")
    assert refused.code == 1
    assert "there is no backup of job_1, so its 4 messages are lost" in refused.err
    assert await world.names() == set()
    done = await world.reactor("restore", "job_1", "--without-messages")
    assert done.code == 0, done.err
    assert "4 messages it held are lost" in done.out
    after = (await world.info("job_1")) or {}
    assert after["config"]["metadata"]["reactor.protect"] == "true"
    assert (await world.api("CONSUMER.NAMES.job_1"))["consumers"] == ["job-1-consumer"]
    assert (await world.js.publish("job.1.tasks", b"new")).seq == 5
    never = await world.reactor("restore", "job_9")
    assert never.code == 5
    assert "no event names job 9" in never.err


def test_backups_are_kept_by_age_and_size(tmp_path: Path) -> None:
    """The oldest go first, by when they were written; an unfinished one when its writer must be gone."""
    now, hour = 1_800_000_000 * SECOND, 3600
    backup_store = FolderStore(tmp_path, 100.0 * hour, 1600, lambda: now)
    for age, size in ((101, 1), (50, 100), (40, 100), (10, 100)):
        _aged(_placed(backup_store, format_instant(now - age * hour * SECOND), size), now, age * hour)
    abandoned, under_way = tmp_path / ".partial-a", tmp_path / ".partial-b"
    for folder, age in ((abandoned, 3 * 3600), (under_way, 60)):
        folder.mkdir()
        os.utime(folder, (now / SECOND - age, now / SECOND - age))
    backup_store._make_room(500)
    kept = [backup.manifest.at for backup in backup_store._backups()]
    assert kept == [format_instant(now - age * hour * SECOND) for age in (10, 40)]
    assert (abandoned.exists(), under_way.exists()) == (False, True)


def test_what_a_deletion_relies_on_is_not_tidied(tmp_path: Path) -> None:
    """With a small limit: without a backup there is no deletion.

    Settled backups are tidied, and those older than any lease.
    """
    now = 1_800_000_000 * SECOND
    backup_store = FolderStore(tmp_path, 1e9, 1200, lambda: now)
    four = [_placed(backup_store, format_instant(now), 100) for _ in range(2)]
    for backup in four:
        _aged(backup, now, 60)
    with pytest.raises(BackupFailed, match="still needed are beyond REACTOR_BACKUP_MAX_BYTES"):
        backup_store._make_room(500)
    assert all(backup.folder.exists() for backup in four)
    backup_store.release(four[0])
    backup_store._make_room(500)
    assert [backup.folder.exists() for backup in four] == [False, True]
    _aged(four[1], now, 3601)
    backup_store._make_room(1000)
    assert not four[1].folder.exists()


ODD: dict[str, dict[str, Any] | str] = {
    "dated in the future": {"at": "2999-01-01T00:00:00Z"},
    "a damaged size": {"size": 10**15},
    "no size": {"size": None},
    "a negative size": {"size": -1},
    "of another type": {"messages": [1]},
    "nested too deeply": "[" * 100_000,
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_folders_are_neither_fatal_nor_touched(tmp_path: Path, odd: str) -> None:
    """They cost no good backup its place. Other tools' folders stay at any age."""
    now = 1_800_000_000 * SECOND
    backup_store = FolderStore(tmp_path, 1e9, 4000, lambda: now)
    good = _placed(backup_store, format_instant(now), 100)
    strange = _placed(backup_store, format_instant(now), 100)
    manifest = json.loads((strange.folder / "reactor.json").read_bytes())
    change = ODD[odd]
    (strange.folder / "reactor.json").write_text(change if isinstance(change, str) else json.dumps(manifest | change))
    (tmp_path / "lost+found").mkdir(mode=0)
    shutil.copytree(ARCHIVE, tmp_path / "another tools")
    os.utime(tmp_path / "another tools", (0, 0))
    (tmp_path / "a file").write_text("theirs")
    shutil.copytree(good.folder, tmp_path / "with a note")
    (tmp_path / "with a note" / "why.txt").write_text("keep this one")
    for path in (tmp_path / "with a note").iterdir():
        os.utime(path, (0, 0))
    backup_store._make_room(1000)
    assert good.folder.exists()
    assert strange.folder.exists()
    assert (tmp_path / "another tools" / "backup.json").exists()
    assert (tmp_path / "a file").exists()
    assert (tmp_path / "with a note" / "why.txt").exists()
    assert good.address in {backup.address for backup in backup_store._backups()}


def _aged(backup: FolderBackup, now: int, age_s: float) -> None:
    for path in backup.folder.iterdir():
        os.utime(path, (now / SECOND - age_s, now / SECOND - age_s))


async def test_a_restore_that_was_broken_off_is_taken_up(world: World) -> None:
    """Its remains are marked, so the next restore replaces them."""
    await world.declare()
    await world.stream("job_1")
    config = {
        "name": "job_1_was",
        "subjects": ["reactor.restored.job_1_was.>"],
        "subject_transform": {"src": "reactor.restored.job_1_was.>", "dest": ">"},
        "storage": "file",
        "metadata": {UNFINISHED_KEY: "messages", "reactor.protect": "true"},
    }
    assert "error" not in await world.api("STREAM.CREATE.job_1_was", config)
    await world.publish("reactor.restored.job_1_was.job.1.tasks", b"task 1")
    done = await world.reactor("restore", "job_1", "--from", str(ARCHIVE), "--as", "job_1_was")
    assert done.code == 0, done.err
    info = await world.info("job_1_was")
    assert info is not None
    assert (info["state"]["messages"], UNFINISHED_KEY in info["config"]["metadata"]) == (5, False)
    assert info["config"]["subjects"] == ["reactor.restored.job_1_was"]
    assert (await world.reactor("restore", "job_1", "--from", str(ARCHIVE), "--as", "job_1_was")).code == 1


async def test_headers_that_carry_behaviour_are_not_sent_again() -> None:
    """Message by message. The server has executed orders in headers. A counter is refused before the restore begins."""
    headers = {"Nats-TTL": "1h", "Nats-Incr": "+1", "Nats-Batch-Id": "b", "Nats-Schedule": "@every 1s", "Trace": "t"}
    assert _headers(headers) == {"Trace": "t"}
    with pytest.raises(NotReplayed, match="it is a counter"):
        await replay(cast("Any", None), cast("Any", None), {"allow_msg_counter": True}, {}, cast("Any", None))


def _placed(backup_store: FolderStore, at: str, size: int) -> FolderBackup:
    async def place() -> FolderBackup:
        async with backup_store.draft("job_1") as draft:
            await draft.write(b"x" * size)
            manifest = Manifest("job_1", "1", at, "me", "terminal", 1, 1, [])
            return await backup_store.place(draft, manifest, {"config": {}, "state": {}})

    with asyncio.Runner() as runner:
        return runner.run(place())


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_a_gibibyte_in_bounded_memory(world: World, tmp_path: Path) -> None:
    """Backed up, deleted and restored by commands, with their memory measured."""
    await world.declare()
    await world.js.add_stream(StreamConfig("job_1", subjects=["job.1.tasks"]))
    await world.js.add_consumer("job_1", ConsumerConfig(durable_name="job-1-consumer", ack_policy="explicit"))  # type: ignore[arg-type]
    for _ in range(1024 * 1024 * 1024 // CHUNK):
        await world.js.publish("job.1.tasks", os.urandom(CHUNK))
    await world.emit(1, "SUCCESS")
    for command in (("reconcile",), ("restore", "job_1")):
        began = time.monotonic()
        peak = await _peak(world, *command, **backing(tmp_path))
        print_figure(f"{command[0]} of 1 GiB: {time.monotonic() - began:.1f} s, {peak / 1e6:.0f} MB at most")
        assert peak < 200e6
    assert ((await world.info("job_1")) or {})["state"]["messages"] == 1024 * 1024 * 1024 // CHUNK
    shutil.rmtree(tmp_path, ignore_errors=True)


async def _peak(world: World, *command: str, **env: str) -> int:
    running, peak = asyncio.create_task(world.reactor(*command, **env)), 0
    while not running.done():
        for child in psutil.Process().children(recursive=True):
            try:
                line = child.cmdline()
                if "-m" in line and "reactor" in line:
                    peak = max(peak, child.memory_info().rss)
            except psutil.Error:
                continue
        await asyncio.sleep(0.02)
    assert running.result().code == 0, running.result().err
    return peak
