"""Reactor without room: full stores, limits on streams, sizes, consumers and batches."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.api import Api
from support.harness import World, connected, eventually, gone, has_records, own_nats, own_valkey, worker

from reactor.cli.embedded import HOST

MB = 1 << 20


@asynccontextmanager
async def limited(folder: Path, *, server: str = "", account: str = "") -> AsyncIterator[World]:
    """A world on a server, or in an account, with these limits of JetStream."""
    store = f'jetstream {{ store_dir: "{folder / "limited"}", {server} }}\n'
    users = "users: [{ user: a, password: pw }]"
    config = f"accounts {{ A {{ jetstream {{ {account} }}, {users} }} }}" if account else ""
    async with own_nats(folder, store + config) as nats_one, own_valkey(folder) as valkey:
        url = f"nats://{'a:pw@' if account else ''}{HOST}:{nats_one.port}"
        async with connected(url, f"redis://{HOST}:{valkey.port}/0", "r") as world:
            yield world


@pytest.fixture
def api() -> Any:
    server = Api()
    yield server
    server.server.shutdown()
    server.server.server_close()


FULL = {
    "a full server": {"server": f"max_file_store: {64 * MB}"},
    "a full account": {"account": f"max_file: {64 * MB}"},
    "as many streams as there may be": {"account": "max_streams: 4"},
}


async def _fill(world: World) -> None:
    """Create zombies that reserve all storage."""
    for number in (1, 2):
        await world.stream(f"job_{number}", messages=1, max_bytes=28 * MB)
    for number in (3, 4):
        await world.stream(f"job_{number}", messages=1, max_bytes=4 * MB)
    answer = await world.api("STREAM.CREATE.more", {"name": "more", "subjects": ["more"], "max_bytes": MB})
    assert answer["error"]["err_code"] in {10047, 10027, 10002}, answer


@pytest.mark.parametrize("limit", FULL)
async def test_zombies_are_deleted_without_room_for_a_stream_of_our_own(tmp_path: Path, api: Api, limit: str) -> None:
    """With a directory not even the lifecycle stream is needed. When there is room, all are created."""
    async with limited(tmp_path, **FULL[limit]) as world:
        await _fill(world)
        api.jobs |= {"1": "SUCCESS", "2": "SUCCESS", "3": "STARTED", "4": "SUCCESS"}
        env: dict[str, Any] = {"REACTOR_DIRECTORY_KIND": "http", "REACTOR_DIRECTORY_URL": api.url}
        report = await world.reconcile(**env)
        assert report["error"] is None, report
        assert await world.names() == {"job_3"}
        async with worker(world.env(**env)):
            await eventually(lambda: world.info("REACTOR_CONTROL"), 20)
            await eventually(lambda: world.info("REACTOR_DEAD_LETTERS"), 20)


async def test_a_worker_says_what_it_has_no_room_for(tmp_path: Path, api: Api) -> None:
    """In its log and in the doctor, as an error.

    A pause says that it cannot be stored. Zombies are deleted all the same.
    """
    async with limited(tmp_path, account="max_streams: 2") as world:
        await world.stream("job_1", messages=1)
        await world.stream("job_2", messages=1)
        api.jobs |= {"1": "STARTED", "2": "STARTED"}
        env = {"REACTOR_DIRECTORY_KIND": "http", "REACTOR_DIRECTORY_URL": api.url, "REACTOR_DIRECTORY_CANARY": "1"}
        async with worker(world.env(**env, REACTOR_RECONCILE_INTERVAL="1s")) as process:
            await eventually(lambda: process.logged("there is no room for streams of reactor's own"), 20)
            diagnosis = json.loads((await world.reactor("doctor", "--json", **env)).out)
            [check] = [item for item in diagnosis["checks"] if item["name"] == "streams.room"]
            assert (check["level"], "REACTOR_CONTROL" in check["found"]) == ("error", True)
            done = await world.reactor("pause", **env)
            assert done.code != 0
            assert "nothing has changed, since NATS refuses" in done.err
            api.jobs["2"] = "SUCCESS"
            await eventually(lambda: gone(world, "job_2"), 30)


async def test_the_lifecycle_stream_alone_is_enough(tmp_path: Path) -> None:
    """If events decide, with room for it and nothing else."""
    async with limited(tmp_path, account="max_streams: 3") as world:
        await world.api("STREAM.CREATE.JOBS", {"name": "JOBS", "subjects": ["jobs.lifecycle.*"], "storage": "file"})
        await world.zombie(1)
        await world.emit(2, "STARTED")
        await world.stream("job_2", messages=1)
        assert await world.verdicts() == {"job_1": ("drained", "terminal"), "job_2": ("kept", "running")}


async def test_an_account_that_demands_sizes_gets_them(tmp_path: Path) -> None:
    """A gigabyte for the lifecycle stream, or a quarter of the account's storage."""
    async with limited(tmp_path, account=f"max_file: {64 * MB}, max_bytes_required: true") as world:
        await world.declare()
        sizes = {name: (await world.info(name) or {})["config"]["max_bytes"] for name in ("JOBS", "REACTOR_CONTROL")}
        assert sizes["JOBS"] == 16 * MB
        assert sizes["REACTOR_CONTROL"] >= MB // 4
        await world.stream("job_1", messages=1, max_bytes=MB)
        await world.emit(1, "SUCCESS")
        assert await world.verdicts() == {"job_1": ("drained", "terminal")}


async def test_room_is_reserved_where_the_operator_wants_it(world: World) -> None:
    """REACTOR_EVENTS_MAX_BYTES. The doctor warns before an event is dropped."""
    small: dict[str, Any] = {"REACTOR_EVENTS_MAX_BYTES": "1MiB"}
    await world.reconcile(**small)
    assert (await world.info("JOBS") or {})["config"]["max_bytes"] == MB
    for number in range(450):
        await world.emit(number, "STARTED", note="x" * 2000)
    diagnosis = json.loads((await world.reactor("doctor", "--json", **small)).out)
    [check] = [item for item in diagnosis["checks"] if item["name"] == "streams.lifecycle_room"]
    assert (check["level"], "nearly full" in check["found"]) == ("warning", True)


CONSUMERS = {
    "max_ack_pending of the account": ({"account": "max_ack_pending: 100"}, {}),
    "consumer limits of the stream": (
        {},
        {"consumer_limits": {"max_ack_pending": 50, "inactive_threshold": 5 * 10**9}},
    ),
    "max_request_batch": ({"server": "limits: { max_request_batch: 10 }"}, {}),
}


@pytest.mark.parametrize("limit", CONSUMERS)
async def test_limits_on_consumers_are_kept(tmp_path: Path, limit: str) -> None:
    """A worker gets every event, and a ledger is rebuilt."""
    limits, stream = CONSUMERS[limit]
    async with limited(tmp_path, **limits) as world:
        await world.api(
            "STREAM.CREATE.JOBS", {"name": "JOBS", "subjects": ["jobs.lifecycle.*"], "storage": "file"} | stream
        )
        for number in range(40):
            await world.emit(number, "STARTED")
        await world.zombie(100)
        assert (await world.verdicts())["job_100"] == ("drained", "terminal")
        await world.redis.flushall()
        async with worker(world.env()) as process:
            await eventually(lambda: has_records(world, *range(40)), 30)
            for number in range(50, 90):
                await world.emit(number, "STARTED")
            await eventually(lambda: has_records(world, *range(50, 90)), 30)
            await world.zombie(200)
            await eventually(lambda: gone(world, "job_200"), 30)
            assert process.process.returncode is None
