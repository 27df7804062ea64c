"""Backups that every replica reaches: written on one machine, restored on another, complete or not at all."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from support.harness import World, eventually, gone, reactor, worker
from support.narrow import BACKUPS, narrow_world

from reactor.backups.objects import ObjectStore
from reactor.backups.store import Backup, BackupFailed, Manifest
from reactor.cli.embedded import HOST, free_port
from reactor.config.nats_options import nats_options
from reactor.core.objects import StoredObject
from reactor.jetstream.bucket import Bucket
from reactor.jetstream.client import JetStream

BUCKET: dict[str, Any] = {
    "REACTOR_BACKUP_URL": "nats:backups",
    "REACTOR_BACKUP_WHEN": "always",
    "REACTOR_BACKUP_MAX_BYTES": "64MiB",
}
ORIGIN = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "5ecret", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """The environment for our own S3 server."""
    port = free_port()
    process = subprocess.Popen(  # noqa: S603  # ours
        [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://{HOST}:{port}"
    yield ORIGIN | {"AWS_ENDPOINT_URL": url, "AWS_ALLOW_HTTP": "true"}
    process.terminate()
    process.wait()


async def _make_bucket(env: dict[str, str], name: str) -> None:
    request = urllib.request.Request(f"{env['AWS_ENDPOINT_URL']}/{name}", method="PUT")  # noqa: S310  # ours

    async def made() -> bool:
        try:
            await asyncio.to_thread(urllib.request.urlopen, request)
        except OSError:
            return False
        return True

    await eventually(made, 30)


@pytest_asyncio.fixture(params=["nats", pytest.param("s3", marks=pytest.mark.versions), "file"])
async def place(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> AsyncIterator[dict[str, Any]]:
    """The settings for a place."""
    if request.param == "nats":
        yield {"REACTOR_BACKUP_URL": "nats:backups", "REACTOR_BACKUP_MAX_BYTES": "64MiB"}
    elif request.param == "file":
        yield {"REACTOR_BACKUP_URL": f"file://{tmp_path}/shared"}
    else:
        env = request.getfixturevalue("s3")
        await _make_bucket(env, f"b-{world.namespace}")
        yield {"REACTOR_BACKUP_URL": f"s3://b-{world.namespace}/reactor/backups", **env}


async def test_a_deletion_is_undone_from_anywhere(world: World, place: dict[str, Any], tmp_path: Path) -> None:
    """From another folder. The audit names the place without secrets, explain shows it, and the doctor has tried it."""
    await world.declare()
    await world.stream("job_1", messages=7, metadata={"team": "ml"})
    env = {**place, "REACTOR_BACKUP_WHEN": "always"}
    async with worker(world.env(**env)):
        await world.emit(1, "SUCCESS")
        await eventually(lambda: gone(world, "job_1"), 30)
    [outcome] = [item for item in await world.trail() if item.get("outcome") == "drained"]
    assert place["REACTOR_BACKUP_URL"].removeprefix("file://") in outcome["backup"]
    assert ORIGIN["AWS_SECRET_ACCESS_KEY"] not in json.dumps(await world.trail())
    diagnosis = json.loads((await world.reactor("doctor", "--json", **env)).out)
    [check] = [element for element in diagnosis["checks"] if element["name"] == "backups.folder"]
    assert (check["level"], "1 backup" in check["found"]) == ("ok", True), check
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    listed = await reactor("backups", "--json", env=world.env(**place), cwd=elsewhere)
    assert [(item["stream"], item["messages"]) for item in json.loads(listed.out)["backups"]] == [("job_1", 7)], listed
    explained = await reactor("explain", "job_1", "--json", env=world.env(**place), cwd=elsewhere)
    assert json.loads(explained.out)["restorable"]["messages"] == 7
    done = await reactor("restore", "job_1", env=world.env(**place), cwd=elsewhere)
    assert done.code == 0, done.err
    info = (await world.info("job_1")) or {}
    assert (info["state"]["messages"], info["config"]["metadata"]["team"]) == (7, "ml")


async def test_the_place_that_the_audit_names_is_found_without_its_setting(world: World) -> None:
    """By a shell that does not know the place."""
    await world.declare()
    await world.zombie(1, messages=3)
    assert (await world.verdicts(**BUCKET))["job_1"] == ("drained", "terminal")
    done = await world.reactor("restore", "job_1")
    assert (done.code, "with 3 messages" in done.out) == (0, True), done.err


async def test_a_place_that_is_away_keeps_the_stream(world: World) -> None:
    """Without a backup the stream is not deleted. The worker and the doctor report it."""
    await world.declare()
    await world.zombie(1, messages=3)
    env: dict[str, Any] = {
        "REACTOR_BACKUP_URL": "s3://nowhere/x",
        "REACTOR_BACKUP_WHEN": "always",
        "AWS_ENDPOINT_URL": f"http://{HOST}:1",
        "AWS_ALLOW_HTTP": "true",
        **ORIGIN,
    }
    report = await world.reactor("reconcile", "--json", **env)
    [row] = json.loads(report.out)["streams"]
    assert (row["verdict"], row["reason"]) == ("unfixable", "backup-failed")
    assert "no backup could be written to s3://nowhere/x" in row["detail"]
    assert ORIGIN["AWS_SECRET_ACCESS_KEY"] not in report.out + report.err
    info = (await world.info("job_1")) or {}
    assert (info["state"]["messages"], info["config"]["subjects"]) == (3, ["job.1.tasks"])


async def test_an_account_without_room_keeps_the_stream(world: World) -> None:
    """The bucket cannot be created. The message names the setting to change."""
    await world.declare()
    await world.zombie(1, messages=3)
    env: dict[str, Any] = {
        "REACTOR_BACKUP_URL": "nats:backups",
        "REACTOR_BACKUP_WHEN": "always",
        "REACTOR_BACKUP_MAX_BYTES": "999TiB",
    }
    [row] = (await world.reconcile(**env))["streams"]
    assert (row["verdict"], row["reason"]) == ("unfixable", "backup-failed")
    assert "REACTOR_BACKUP_MAX_BYTES" in row["detail"]


async def test_a_bucket_needs_the_rights_of_the_page_and_no_more(tmp_path: Path) -> None:
    """A user with the permissions of docs/permissions.md backs up, lists and restores.

    Without them the stream is kept.
    """
    async with narrow_world(tmp_path / "with", *BACKUPS) as (world, _):
        await world.declare()
        await world.zombie(1, messages=3)
        assert (await world.verdicts(**BUCKET))["job_1"] == ("drained", "terminal")
        assert (await world.reactor("restore", "job_1", **BUCKET)).code == 0
        assert ((await world.info("job_1")) or {})["state"]["messages"] == 3
    fewer = [right for right in BACKUPS if "OBJ_" not in right and "$O" not in right]
    async with narrow_world(tmp_path / "without", *fewer) as (world, _):
        await world.declare()
        await world.zombie(1, messages=3)
        assert (await world.verdicts(**BUCKET))["job_1"] == ("unfixable", "backup-failed")
        info = (await world.info("job_1")) or {}
        assert (info["state"]["messages"], info["config"]["subjects"]) == (3, ["job.1.tasks"])


async def test_a_store_that_fails_in_the_middle_keeps_the_stream(world: World, s3: dict[str, str]) -> None:
    """It accepts the first parts and no more. Nothing half-written counts, and it is tried again."""
    await _make_bucket(s3, f"f-{world.namespace}")
    await world.declare()
    await world.stream("job_1")
    for _ in range(24):
        await world.js.publish("job.1.tasks", os.urandom(900_000))
    await world.emit(1, "SUCCESS")
    target = urllib.parse.urlsplit(s3["AWS_ENDPOINT_URL"])
    taken = 0

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass 12 MB on to the store, and then break the connection."""
        nonlocal taken
        there, back = await asyncio.open_connection(target.hostname, target.port)

        async def answers() -> None:
            while data := await there.read(65_536):
                writer.write(data)

        answering = asyncio.create_task(answers())
        while taken < 12_000_000 and (data := await reader.read(65_536)):
            taken += len(data)
            back.write(data)
            await back.drain()
        answering.cancel()
        back.close()
        writer.close()

    server = await asyncio.start_server(relay, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    env: dict[str, Any] = {
        "REACTOR_BACKUP_URL": f"s3://f-{world.namespace}/x",
        "REACTOR_BACKUP_WHEN": "always",
        **s3,
        "AWS_ENDPOINT_URL": f"http://{HOST}:{port}",
    }
    report = json.loads((await world.reactor("reconcile", "--json", **env)).out)
    server.close()
    assert (report["streams"][0]["verdict"], report["streams"][0]["reason"]) == ("unfixable", "backup-failed")
    assert ((await world.info("job_1")) or {})["config"]["subjects"] == ["job.1.tasks"]
    env |= s3
    assert json.loads((await world.reactor("backups", "--json", **env)).out)["backups"] == []
    await world.reactor("reconcile", "--json", **env)
    assert await gone(world, "job_1")


async def test_a_store_that_is_too_slow_gives_the_stream_back(world: World) -> None:
    """While the lease is still held, so that the stream does not stay fenced."""
    await world.declare()
    await world.zombie(1, messages=3)

    async def takes_nothing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    over = asyncio.Event()
    server = await asyncio.start_server(takes_nothing, HOST, 0)
    report = await world.reactor(
        "reconcile",
        "--json",
        REACTOR_SWEEP_LEASE="1s",
        REACTOR_BACKUP_URL="s3://slow/x",
        REACTOR_BACKUP_WHEN="always",
        **ORIGIN,
        AWS_ALLOW_HTTP="true",
        AWS_ENDPOINT_URL=f"http://{HOST}:{server.sockets[0].getsockname()[1]}",
    )
    over.set()
    server.close()
    [row] = json.loads(report.out)["streams"]
    assert (row["verdict"], row["reason"]) == ("unfixable", "backup-failed"), row
    info = (await world.info("job_1")) or {}
    assert (info["state"]["messages"], info["config"]["subjects"]) == (3, ["job.1.tasks"])
    assert "REACTOR_SWEEP_LEASE" in row["detail"]


async def test_killed_in_the_middle_nothing_is_half_there(world: World) -> None:
    """A bucket shows a backup only when its manifest is stored. The next worker continues."""
    await world.declare()
    await world.stream("job_1")
    for _ in range(40):
        await world.js.publish("job.1.tasks", os.urandom(500_000))
    env = {
        "REACTOR_BACKUP_URL": "nats:backups",
        "REACTOR_BACKUP_WHEN": "always",
        "REACTOR_BACKUP_MAX_BYTES": "512MiB",
        "REACTOR_SWEEP_LEASE": "2s",
    }

    async def is_being_written() -> bool:
        info = await world.info("OBJ_backups")
        return bool(info and info["state"]["messages"])

    async with worker(world.env(**env)) as process:
        await world.emit(1, "SUCCESS")
        await eventually(is_being_written, 30, every=0.002)
        process.process.send_signal(signal.SIGKILL)
        await process.process.wait()
    listed = json.loads((await world.reactor("backups", "--json", **env)).out)["backups"]
    stream = await world.info("job_1")
    assert (stream is None) == bool(listed)  # no deletion without its backup
    async with worker(world.env(**env)):
        await eventually(lambda: gone(world, "job_1"), 40)
    assert (await world.reactor("restore", "job_1", **env)).code == 0
    assert ((await world.info("job_1")) or {})["state"]["messages"] == 40


async def test_chunks_of_a_killed_backup_do_not_stay(world: World) -> None:
    """They do not fill the bucket. Chunks of complete objects and of other clients stay."""
    js = JetStream(nats_options(world.load().nats))
    bucket = Bucket(js, "backups", 86_400.0, 10_000_000)
    await bucket.put("whole", _once(b"x" * 300_000))
    for subject in (f"$O.backups.C.{'0' * 32}", "$O.backups.C.ClientsOwnNuid00000001"):
        await world.publish(subject, b"x")
    before = ((await world.info("OBJ_backups")) or {})["state"]
    await bucket.sweep(await bucket.list(), 3_600.0)
    assert ((await world.info("OBJ_backups")) or {})["state"]["messages"] == before["messages"]
    await bucket.sweep(await bucket.list(), 0.0)
    assert b"".join([piece async for piece in bucket.get("whole")]) == b"x" * 300_000
    assert ((await world.info("OBJ_backups")) or {})["state"]["messages"] == before["messages"] - 1
    await js.close()


@pytest.mark.versions
@pytest.mark.timeout(600)
async def test_killed_at_each_step_nothing_is_half_there(world: World, place: dict[str, Any]) -> None:
    """Of a backup, and then of a restore. Each can be repeated, and no message is missing."""
    await world.declare()
    env = {**place, "REACTOR_BACKUP_WHEN": "always", "REACTOR_SWEEP_LEASE": "1s"}
    for step in count():  # each in a place of its own, since looking for room takes steps
        env["REACTOR_BACKUP_URL"] = f"{place['REACTOR_BACKUP_URL']}-{step}"
        await world.zombie(step, messages=5)
        name = f"job_{step}"

        async def is_deleted(name: str = name) -> bool:
            await world.reactor("reconcile", "--stream", name, **env)
            return await gone(world, name)

        done = await reactor("reconcile", "--stream", name, env=world.env(**env), armed=("backup", str(step)))
        listed = json.loads((await world.reactor("backups", "--json", **env)).out)["backups"]
        assert (await world.info(name) is None) <= bool(listed), name
        if done.code == 0:
            break
        assert done.code == -signal.SIGKILL, done
        await eventually(is_deleted, 30)
        assert (await world.reactor("restore", name, **env)).code == 0
        assert ((await world.info(name)) or {})["state"]["messages"] == 5
    for late in count():
        done = await reactor("restore", name, env=world.env(**env), armed=("restore", str(late)))
        if done.code == 0:
            break
        assert done.code == -signal.SIGKILL, done
        again = await world.reactor("restore", name, **env)  # a half-restored stream can be restored again
        assert again.code == 0 or "exists, with 5 messages" in again.err, again
        assert ((await world.info(name)) or {})["state"]["messages"] == 5
        await world.js.delete_stream(name)
    assert (await world.verdicts(**env))[name] == ("kept", "protected")
    print(f"killed at {step} steps of a backup and {late} of a restore")  # noqa: T201  # what the page tells


async def test_backups_are_copied(world: World, place: dict[str, Any], tmp_path: Path) -> None:
    """From a folder of an older setting to any place. The second time there is nothing to do."""
    await world.declare()
    for number in (1, 2):
        await world.zombie(number, messages=number)
    folder = tmp_path / "old"
    old = {"REACTOR_BACKUP_DIR": str(folder), "REACTOR_BACKUP_WHEN": "always"}
    await world.reactor("reconcile", **old)
    url = place["REACTOR_BACKUP_URL"]
    done = await world.reactor("backups", "copy", str(folder), url, **place)
    assert (done.code, "2 backups copied" in done.out) == (0, True), done.err
    done = await world.reactor("backups", "copy", str(folder), url, **place)
    assert "no backups copied, 2 there already" in done.out
    for path in folder.iterdir():
        path.rename(tmp_path / path.name)
    assert (await world.reactor("restore", "job_2", **place)).code == 0
    assert ((await world.info("job_2")) or {})["state"]["messages"] == 2


async def test_a_spoilt_archive_is_not_restored(world: World) -> None:
    """The checksum shows it before anything is created."""
    await world.declare()
    await world.zombie(1, messages=3)
    assert (await world.verdicts(**BUCKET))["job_1"] == ("drained", "terminal")
    first = await world.api("STREAM.MSG.GET.OBJ_backups", {"seq": 1, "next_by_subj": "$O.backups.C.>"})
    await world.publish(first["message"]["subject"], b"not what was written")
    done = await world.reactor("restore", "job_1", **BUCKET)
    assert (done.code, "checksum differs" in done.err) == (1, True)
    assert await world.info("job_1") is None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://x", "write nats:BUCKET"),
        ("nats:a b", "letters, digits"),
        ("nats:", "letters, digits"),
        ("s3://", "name of a bucket"),
        ("s3://key:secret@bucket/x", "without credentials"),
        ("file://host/x", "whole path"),
    ],
)
async def test_what_is_no_place_is_said(world: World, url: str, why: str) -> None:
    """Before anything begins, and without a secret."""
    done = await world.reactor("backups", REACTOR_BACKUP_URL=url)
    assert (done.code, why in done.err) == (2, True), done.err
    assert "secret" not in done.err


class Shelf:
    """Objects in memory, with their own times, for tests of the limits."""

    url = "test:shelf"

    def __init__(self) -> None:
        self.there: dict[str, tuple[bytes, float]] = {}
        self.now_s = 1_000_000.0
        self.deleted: list[str] = []

    async def put(self, name: str, chunks: AsyncIterable[bytes]) -> None:
        self.there[name] = (b"".join([chunk async for chunk in chunks]), self.now_s)

    async def get(self, name: str) -> AsyncIterator[bytes]:
        yield self.there[name][0]

    async def list(self) -> list[StoredObject]:
        return [StoredObject(name, len(content), at) for name, (content, at) in self.there.items()]

    async def delete(self, names: Collection[str]) -> None:
        for name in names:
            self.deleted.append(name.rpartition("/")[2])
            del self.there[name]

    async def sweep(self, listed: Collection[StoredObject], older_than_s: float) -> None:
        self.swept = (len(listed), older_than_s)


async def _kept(store: ObjectStore, shelf: Shelf, at: float, size: int = 100) -> Backup:
    shelf.now_s = at
    manifest = Manifest(f"job_{at:.0f}", "1", "2026-01-31T12:00:00Z", "x", "terminal", 1, 1, [])
    async with store.draft(manifest.stream) as draft:
        await draft.write(b"x" * size)
        return await store.place(draft, manifest, {"config": {}, "state": {}})


async def test_what_is_kept_is_bounded_by_age_and_size() -> None:
    """By the store's clock. Never what a deletion may rely on; the manifest is deleted first; one replica at a time."""
    shelf, turns = Shelf(), [False]

    async def may_tidy() -> bool:
        return turns[0]

    def store(max_bytes: int) -> ObjectStore:
        return ObjectStore(shelf, 86_400.0, max_bytes, may_tidy)

    day, hour = 86_400.0, 3_600.0
    first = await _kept(store(10_000), shelf, 0.0)
    await _kept(store(10_000), shelf, day - 60)
    await shelf.put("left-over/stream.tar.s2", _once(b"x"))
    await shelf.put("another tool's", _once(b"x"))
    newest = await _kept(store(10_000), shelf, day + 2 * hour + 1)
    await store(10_000).make_room(10)
    assert len(await store(10_000).backups()) == 3  # it is another replica's turn
    turns[0] = True
    await store(10_000).make_room(10)
    names = {item.manifest.stream for item in await store(10_000).backups()}
    assert names == {f"job_{day - 60:.0f}", newest.manifest.stream}
    assert first.manifest.stream not in names
    assert shelf.deleted[0] == "reactor.json"
    assert "left-over/stream.tar.s2" not in shelf.there
    assert "another tool's" in shelf.there
    there = set(shelf.there)
    async with store(10_000).draft("doctor") as draft:
        await draft.write(b"given up")
        await draft.stored()
    assert set(shelf.there) == there
    held = sum(len(content) for name, (content, _) in shelf.there.items() if name != "another tool's")
    await store(held + 10).make_room(50)  # the older one makes room
    assert [item.manifest.stream for item in await store(held).backups()] == [newest.manifest.stream]
    with pytest.raises(BackupFailed, match="REACTOR_BACKUP_MAX_BYTES"):
        await store(300).make_room(300)  # the newest may be relied on
    assert len(await store(held).backups()) == 1


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content
