"""`reactor doctor` on real servers: a healthy world is in order, and each fault is reported with its fix."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from io import StringIO
from pathlib import Path
from shutil import rmtree
from typing import Any, cast

import pytest
import pytest_asyncio
from nats.js.api import ConsumerConfig, RetentionPolicy, StreamConfig, StreamSource
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import RedisError
from rich.console import Console
from support.harness import (
    World,
    connected,
    eventually,
    own_cluster,
    own_nats,
    own_valkey,
    posing_as,
    record_of,
    relayed,
)
from support.narrow import ACL, REACTOR, narrow_world, reload

from reactor.bootstrap import services
from reactor.bootstrap.connections import connections, redis_of
from reactor.bootstrap.services import doctor_of
from reactor.cli.embedded import HOST, Server, free_port
from reactor.cli.render import show_diagnosis
from reactor.config.redis_url import parse_redis_url
from reactor.core.checks import Check, Diagnosis, Level, size
from reactor.core.model import SECOND, Stream, format_instant, parse_instant
from reactor.jetstream.client import JetStream, Listing
from reactor.jetstream.errors import Unreachable
from reactor.operate.doctor import judges
from reactor.operate.doctor.judges import (
    judge_clock,
    judge_emitter,
    judge_lag,
    judge_lifecycle,
    judge_limits,
    judge_oldest,
    judge_pass,
)
from reactor.operate.doctor.redis import judge_eviction, judge_memory, judge_persistence, judge_version
from reactor.store.health import RedisHealth
from reactor.store.keyspace import Keyspace

DAY = 86_400 * SECOND


@pytest_asyncio.fixture
async def narrowed(tmp_path: Path) -> AsyncIterator[tuple[World, Server]]:
    """A world with only the listed permissions, and its nats-server."""
    async with narrow_world(tmp_path) as world_and_server:
        yield world_and_server


"""The fixture, under the name that its tests take it by."""
CONFIG = {"name": "JOBS", "subjects": ["jobs.lifecycle.*"], "retention": "limits", "max_age": 30 * DAY}


async def examined(world: World, **overrides: Any) -> Diagnosis:
    """Run the doctor in this process, with a worker that is alive."""
    with suppress(RedisError):
        await world.register(**overrides)
    async with connections(world.load(**overrides)) as connected_parts:
        return await doctor_of(connected_parts).examine()


async def found(world: World, **overrides: Any) -> dict[str, Check]:
    """Return all checks that are not in order, by name. Each must have a fix."""
    odd = {item.name: item for item in (await examined(world, **overrides)).checks if item.level is not Level.OK}
    assert all(check.fix for check in odd.values()), odd
    return odd


async def live(world: World) -> None:
    """Set up a world in order: one live job with its stream, and a full pass over it."""
    await world.declare()
    await world.stream("job_1", messages=1)
    await world.emit(1, "STARTED")
    await world.reconcile()
    await world.register()


@asynccontextmanager
async def with_valkey(world: World, folder: Path, *options: str) -> AsyncIterator[World]:
    """The same account, with its own Valkey, in order."""
    async with own_valkey(folder, *options) as server:
        url = f"redis://{HOST}:{server.port}/0"
        async with connected(world.nats_url, url, world.namespace) as own:
            await live(own)
            yield own


async def test_a_healthy_world_is_in_order(world: World) -> None:
    """Exit code 0, one JSON object, and no check with a fix."""
    await live(world)
    done = await world.reactor("doctor", "--json")
    diagnosis = json.loads(done.out)
    assert done.code == 0, diagnosis
    assert (diagnosis["ok"], diagnosis["errors"], diagnosis["warnings"]) == (True, 0, 0), diagnosis
    assert {(check["level"], check["fix"]) for check in diagnosis["checks"]} == {("ok", None)}
    names = [check["name"] for check in diagnosis["checks"]]
    assert names[0] == "nats.server"
    assert names[-1] == "ledger.last_pass"
    assert len(names) == len(set(names)) == 38


async def test_people_read_groups_marks_and_mends(world: World) -> None:
    """Plain text in a pipe. A fix has its own line, and the last line sums up."""
    await live(world)
    await world.publish("reactor.dead_letters", b"nobody could read it")
    done = await world.reactor("doctor")
    assert done.code == 0
    lines = [line.rstrip() for line in done.out.splitlines()]
    assert "\x1b" not in done.out
    assert [line.strip() for line in lines if line.startswith("   ") and "fix:" not in line] == [
        *("nats", "streams", "redis", "clocks", "workers", "ledger")
    ]
    at = next(number for number, line in enumerate(lines) if line.startswith("!"))
    assert "1 event could not be read" in lines[at]
    assert lines[at + 1].strip().startswith("fix: ")
    assert lines[-1] == "no errors, 1 warning in 38 checks"


async def test_where_backups_are_wanted_their_folder_is_tried(world: World, tmp_path: Path) -> None:
    """A folder that cannot be written is an error, because nothing would be deleted."""
    await live(world)
    fine = await found(world, REACTOR_BACKUP_WHEN="always", REACTOR_BACKUP_DIR=str(tmp_path / "backups"))
    assert "backups.folder" not in fine
    assert list((tmp_path / "backups").iterdir()) == []
    (tmp_path / "file").touch()
    odd = await found(world, REACTOR_BACKUP_WHEN="always", REACTOR_BACKUP_DIR=str(tmp_path / "file"))
    assert odd["backups.folder"].level is Level.ERROR
    assert "so nothing is deleted" in odd["backups.folder"].found


async def test_a_pause_is_reported(world: World) -> None:
    """Who, why, and how to end it."""
    await live(world)
    await world.reactor("pause", "--reason", "a queue is gone")
    check = (await found(world))["streams.control"]
    assert (check.level, check.fix) == (Level.WARNING, "reactor resume lets it go on")
    assert "a queue is gone" in check.found


def test_hostile_names_do_nothing_to_a_terminal() -> None:
    """Neither by markup nor by control characters."""
    out = StringIO()
    check = Check("streams.pattern", Level.WARNING, "[red]\x1b[31m\u202e", "[bold]x")
    show_diagnosis(Console(file=out, width=100), Diagnosis.of([check], unreachable=False))
    assert r"[red]\x1b[31m\u202e" in out.getvalue()
    assert "fix: [bold]x" in out.getvalue()


@pytest.mark.parametrize("filled", [False, True])
async def test_nothing_is_changed(world: World, filled: bool) -> None:  # noqa: FBT001  # a parameter
    """Neither in a new account, nor with waiting events and a due zombie."""
    if filled:
        await live(world)
        await world.zombie(2)
    before = await everything(world)
    checks = (await examined(world)).checks
    assert len(checks) > 20
    assert await everything(world) == before


async def everything(world: World) -> tuple[object, ...]:
    """Return all streams with their states, all consumers, and all keys with their values."""
    streams = (await world.api("STREAM.LIST"))["streams"] or []
    consumers = [
        (
            consumer["stream_name"],
            consumer["config"],
            consumer["delivered"],
            consumer["ack_floor"],
            consumer["num_pending"],
        )
        for stream in streams
        for consumer in (await world.api(f"CONSUMER.LIST.{stream['config']['name']}"))["consumers"] or []
    ]
    keys = sorted([key async for key in world.redis.scan_iter(match=f"{world.namespace}:*")])
    keys = [key for key in keys if not key.endswith(":workers")]  # the test's own
    values = [await world.redis.dump(key) for key in keys if await world.redis.type(key) != "none"]
    return [(item["config"], item["state"]) for item in streams], consumers, keys, values


async def test_a_new_account_is_no_error(world: World) -> None:
    """What the worker would declare is missing, and reported."""
    odd = await found(world)
    assert {check.level for check in odd.values()} == {Level.WARNING}
    assert odd.keys() == {*("streams.lifecycle", "streams.durable", "ledger.coverage", "ledger.last_pass")}


async def test_jetstream_that_is_off_is_said(world: World) -> None:
    """Exit code 1, because the server answers."""
    done = await world.reactor(
        "doctor", "--json", REACTOR_NATS_URL=world.nats_url.replace(f"a{world.number}:", "nojs:")
    )
    diagnosis = json.loads(done.out)
    assert done.code == 1
    check = next(check for check in diagnosis["checks"] if check["name"] == "nats.jetstream")
    assert check["level"] == "error"
    assert "JetStream not enabled for account" in check["found"]
    assert "enable JetStream for this account" in check["fix"]
    assert "redis.server" in {check["name"] for check in diagnosis["checks"]}


async def test_a_wrong_domain_is_said(world: World) -> None:
    """With the setting that fixes it."""
    check = (await found(world, REACTOR_NATS_DOMAIN="elsewhere"))["nats.jetstream"]
    assert (check.level, "REACTOR_NATS_DOMAIN" in str(check.fix)) == (Level.ERROR, True)
    assert "not elsewhere" in str(check.fix)


async def test_a_server_that_is_too_old_is_said(world: World) -> None:
    """It is reached, so it is an ordinary error."""
    async with posing_as(world, "2.9.25") as url:
        diagnosis = await examined(world, REACTOR_NATS_URL=url)
    assert not diagnosis.unreachable
    assert diagnosis.checks[0].fix == "upgrade nats-server to 2.10 or later"


@pytest.mark.parametrize(("user", "verb"), [("d", "DELETE"), ("u", "UPDATE")])
async def test_a_right_that_deleting_lacks_is_said(world: World, user: str, verb: str) -> None:
    """Before a worker notices."""
    await live(world)
    odd = await found(world, REACTOR_NATS_URL=world.nats_url.replace(f"a{world.number}:", f"{user}{world.number}:"))
    assert odd.keys() == {"nats.deleting"}
    assert odd["nats.deleting"].level is Level.ERROR
    assert "deletes would be paused" in odd["nats.deleting"].found
    assert odd["nats.deleting"].found.endswith(f"$JS.API.STREAM.{verb}.*")


async def test_a_right_is_never_misread(world: World) -> None:
    """Whatever the client buffers: the refusal comes before the answer to the ping."""
    url = world.nats_url.replace(f"a{world.number}:", f"d{world.number}:")
    async with connections(world.load(REACTOR_NATS_URL=url)) as connected:
        for js in (connected.reads, connected.effects):
            for _ in range(100):
                assert not await js.may_publish("$JS.API.STREAM.DELETE.none")
                assert await js.may_publish("$JS.API.STREAM.UPDATE.none")


async def test_rights_may_be_asked_for_at_the_same_time(world: World) -> None:
    """By a pass and by a page, over one connection."""
    url = world.nats_url.replace(f"a{world.number}:", f"d{world.number}:")
    async with connections(world.load(REACTOR_NATS_URL=url)) as connected:
        trials = [connected.reads.may_publish(f"$JS.API.STREAM.{verb}.none") for verb in ("DELETE", "UPDATE") * 20]
        assert await asyncio.gather(*trials) == [False, True] * 20


async def test_the_rights_of_the_readme_are_enough(narrowed: tuple[World, Server]) -> None:
    """In NATS and in Redis, whatever is declared already. Each missing one is reported."""
    world, nats_one = narrowed
    assert not {"nats.limits", "nats.rights", "nats.deleting", "redis.writes"} & (await found(world)).keys()
    await world.declare()
    await world.emit(1, "STARTED")
    await world.reconcile()
    assert await found(world) == {}
    gone = [
        *("$JS.API.STREAM.MSG.GET.JOBS", "$JS.API.CONSUMER.MSG.NEXT.JOBS.*", "$JS.ACK.JOBS.reactor.>"),
        *("reactor.dead_letters", "$JS.API.CONSUMER.CREATE.JOBS.>", "$JS.API.INFO"),
    ]
    rights = REACTOR
    for right in gone:
        assert f'"{right}"' in rights
        rights = rights.replace(f'"{right}"', '"nothing"')
    await reload(nats_one, rights)
    odd = await found(world)
    assert odd["nats.rights"].level is Level.ERROR
    for right in gone[:-1]:
        assert right in odd["nats.rights"].found
    assert odd["nats.limits"].level is Level.WARNING
    await reload(nats_one, REACTOR.replace("$JS.API.STREAM.NAMES", "nothing"))
    odd = await found(world)
    assert odd["nats.jetstream"].level is Level.ERROR
    assert "$JS.API.STREAM.NAMES" in odd["nats.rights"].found
    await reload(nats_one, REACTOR.replace("_INBOX.>", "nothing"))
    odd = await found(world)
    assert odd.keys() == {"nats.jetstream"}
    assert "no answer can arrive" in odd["nats.jetstream"].found


async def test_another_redis_users_rights_are_said(narrowed: tuple[World, Server]) -> None:
    """Each missing one in its own check. The others go on."""
    world, _ = narrowed
    await world.declare()
    acl = cast("Any", world.redis)
    await acl.execute_command("ACL", "SETUSER", "reactor", "reset", "on", ">pw", *ACL, "-set")
    odd = await found(world)
    assert "redis.writes" in odd
    assert "permissions.md" in str(odd["redis.writes"].fix)
    await acl.execute_command("ACL", "SETUSER", "reactor", "-info")
    odd = await found(world)
    assert {"redis.server", "redis.writes", "ledger.coverage"} <= odd.keys()
    assert odd["redis.server"].level is Level.ERROR


async def test_nats_away_is_exit_3_with_all_that_could_be_checked(world: World) -> None:
    """One JSON object, with Redis's checks in it."""
    await live(world)
    done = await world.reactor("doctor", "--json", REACTOR_NATS_URL="nats://127.0.0.1:1")
    diagnosis = json.loads(done.out)
    assert done.code == 3
    assert diagnosis["ok"] is False
    assert [check["name"] for check in diagnosis["checks"] if check["level"] == "error"] == ["nats.server"]
    assert "REACTOR_NATS_URL" in diagnosis["checks"][0]["fix"]
    assert {"redis.server", "ledger.last_pass"} <= {check["name"] for check in diagnosis["checks"]}


async def test_redis_away_is_exit_3_with_all_that_could_be_checked(world: World) -> None:
    """3 and not 1, even with another error."""
    await live(world)
    url = world.nats_url.replace(f"a{world.number}:", f"d{world.number}:")
    done = await world.reactor("doctor", "--json", REACTOR_REDIS_URL="redis://127.0.0.1:1/0", REACTOR_NATS_URL=url)
    diagnosis = json.loads(done.out)
    assert done.code == 3
    deleting, redis = (check for check in diagnosis["checks"] if check["level"] == "error")
    assert (deleting["name"], redis["name"]) == ("nats.deleting", "redis.server")
    assert "REACTOR_REDIS_URL" in redis["fix"]
    people = await world.reactor("doctor", REACTOR_REDIS_URL="redis://127.0.0.1:1/0")
    assert people.code == 3
    assert "a server is away, so not everything could be checked" in people.out


async def test_nats_that_breaks_off_midway_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its other checks are not tried one by one. Redis's are made."""
    await live(world)

    async def broken(_: JetStream) -> Listing:
        raise Unreachable("gone")

    monkeypatch.setattr(JetStream, "list_streams", broken)
    diagnosis = await examined(world)
    assert diagnosis.unreachable
    errors = [check.name for check in diagnosis.checks if check.level is Level.ERROR]
    assert errors == ["streams.reported"]
    assert "ledger.coverage" not in {check.name for check in diagnosis.checks}


async def test_nats_that_does_not_answer_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor does not wait for the timeouts of all its checks."""
    await live(world)
    defaults = cast("Any", JetStream.__init__).__kwdefaults__
    monkeypatch.setitem(defaults, "timeout", 1.0)
    async with relayed(world, lambda verb, answer: None if ".INFO." in verb else answer) as relayed_world:
        diagnosis = await examined(relayed_world)
    assert diagnosis.unreachable
    errors = [check.found for check in diagnosis.checks if check.level is Level.ERROR]
    assert len(errors) == 2
    assert all("no answer to $JS.relay.API" in found for found in errors)


async def test_eviction_that_may_take_live_records_is_an_error(world: World, tmp_path: Path) -> None:
    """As soon as there is a limit."""
    async with with_valkey(world, tmp_path) as own:
        await own.redis.config_set("maxmemory-policy", "allkeys-lru")
        assert (await found(own))["redis.eviction"].level is Level.WARNING
        await own.redis.config_set("maxmemory", "1gb")
        odd = await found(own)
    assert odd.keys() == {"redis.eviction"}
    assert odd["redis.eviction"].level is Level.ERROR
    assert odd["redis.eviction"].fix == "set maxmemory-policy noeviction"


async def test_a_redis_that_is_full_is_said(world: World, tmp_path: Path) -> None:
    """It accepts no event."""
    async with with_valkey(world, tmp_path) as own:
        await own.redis.config_set("maxmemory", "1")
        odd = await found(own)
        await own.redis.config_set("maxmemory", "0")
    assert odd.keys() == {"redis.memory", "redis.writes"}
    assert odd["redis.writes"].level is Level.ERROR
    assert "maxmemory" in str(odd["redis.writes"].fix)


async def test_a_replica_is_said(world: World, tmp_path: Path) -> None:
    """It accepts no writes, and its data may be old."""
    async with with_valkey(world, tmp_path) as own:
        await own.redis.replicaof(HOST, "1")
        odd = await found(own)
    assert {odd["redis.role"].level, odd["redis.writes"].level} == {Level.ERROR}
    assert "primary" in str(odd["redis.writes"].fix)


async def test_no_persistence_is_said(world: World, tmp_path: Path) -> None:
    """Also if we may not read the configuration."""
    async with with_valkey(world, tmp_path, "--appendonly", "no") as own:
        assert (await found(own))["redis.persistence"].found.startswith("no persistence")
        acl = cast("Any", own.redis)
        await acl.execute_command("ACL", "SETUSER", "narrow", "on", ">pw", *ACL[1:], f"~{own.namespace}:*")
        url = own.redis_url.replace("redis://", "redis://narrow:pw@")
        odd = await found(own, REACTOR_REDIS_URL=url)
        assert odd.keys() == {"redis.persistence"}
        assert "could not be found out" in odd["redis.persistence"].found
        await own.redis.config_set("save", "3600 1")
        assert await found(own) == {}


@pytest.mark.parametrize(
    ("policy", "maxmemory", "level"),
    [
        ("noeviction", 0, "ok"),
        ("noeviction", 100, "ok"),
        ("allkeys-lru", 0, "warning"),
        ("allkeys-lru", 100, "error"),
        ("allkeys-random", 100, "error"),
        ("volatile-ttl", 100, "warning"),
        ("something-new", 100, "error"),
        (None, 100, "warning"),
        ("allkeys-lru", None, "warning"),
    ],
)
def test_eviction(policy: str | None, maxmemory: int | None, level: str) -> None:
    """A policy that may evict a live record is an error. An unknown one is not in order."""
    assert judge_eviction(policy, maxmemory).level == level


def test_redis_figures() -> None:
    """Versions, clusters, memory, and an append-only file that cannot be written."""
    assert judge_version({"redis_version": "6.0.16"}).level is Level.ERROR
    assert judge_version({"redis_version": "6.2.0"}).found == "Redis 6.2.0"
    assert judge_version({"redis_version": "7.2.4", "valkey_version": "9.1.0"}).found == "Valkey 9.1.0"
    assert "redis+cluster://" in (judge_version({"redis_version": "7.2.4", "redis_mode": "cluster"}).fix or "")
    assert judge_version({"redis_version": "7.2.4", "cluster_enabled": 1}).level is Level.ERROR
    assert judge_version({"redis_version": "7.2.4", "cluster_enabled": 1}, as_cluster=True).level is Level.OK
    levels = [judge_memory(used, most).level for used, most in ((79, 100), (80, 100), (80, 0), (None, None))]
    assert levels == ["ok", "warning", "ok", "warning"]
    assert judge_persistence({"aof_enabled": 1, "aof_last_write_status": "err"}, "").level is Level.ERROR


async def test_a_missing_right_to_write_is_said(world: World, tmp_path: Path) -> None:
    """With the page that lists the permissions."""
    async with with_valkey(world, tmp_path) as own:
        acl = cast("Any", own.redis)
        await acl.execute_command("ACL", "SETUSER", "reader", "on", ">pw", *ACL[1:], f"~{own.namespace}:*", "-set")
        odd = await found(own, REACTOR_REDIS_URL=own.redis_url.replace("redis://", "redis://reader:pw@"))
    assert odd["redis.writes"].level is Level.ERROR
    assert "permissions.md" in str(odd["redis.writes"].fix)


async def test_a_redis_that_cannot_save_is_said(world: World, tmp_path: Path) -> None:
    """It refuses all writes until it can save. The fix names its log."""
    async with with_valkey(world, tmp_path) as own:
        await own.redis.config_set("save", "3600 1")
        rmtree(tmp_path / "valkey")
        await own.redis.bgsave()
        await eventually(lambda: _save_has_failed(own), 10)
        odd = await found(own)
    assert odd["redis.writes"].level is Level.ERROR
    assert "Redis's own log" in str(odd["redis.writes"].fix)


async def _save_has_failed(world: World) -> bool:
    return bool((await world.redis.info("persistence"))["rdb_last_bgsave_status"] == "err")


async def test_a_redis_that_is_away_is_an_outage() -> None:
    """It is not a refusal, neither of a write nor of a read."""
    async with redis_of(parse_redis_url(f"redis://{HOST}:{free_port()}/0"), "r") as away:
        health = RedisHealth(Keyspace(away, "r"))
        for question in (health.check_writes, health.save_rules):
            with pytest.raises(NotConnected):
                await question()


async def test_a_durable_that_differs_is_said(world: World) -> None:
    """With the difference, and how to create it again."""
    await world.js.add_stream(StreamConfig("JOBS", subjects=["jobs.lifecycle.*"], max_age=30 * 86_400))
    config = ConsumerConfig(durable_name="reactor", max_ack_pending=7, filter_subject="jobs.lifecycle.*")
    await world.js.add_consumer("JOBS", config)
    check = (await found(world))["streams.durable"]
    assert check.level is Level.WARNING
    assert "max_ack_pending is 7, not 4096" in check.found
    assert str(check.fix).startswith("nats consumer rm JOBS reactor")


async def test_a_durable_that_delivers_nothing_is_an_error(world: World) -> None:
    """Paused, or with every slot taken by unacked messages."""
    await world.js.add_stream(StreamConfig("JOBS", subjects=["jobs.lifecycle.*"], max_age=30 * 86_400))
    config = ConsumerConfig(durable_name="reactor", max_ack_pending=1, filter_subject="jobs.lifecycle.*")
    await world.js.add_consumer("JOBS", config)
    await world.emit(1, "STARTED")
    await (await world.js.pull_subscribe_bind("reactor", "JOBS")).fetch(1)
    check = (await found(world))["streams.durable"]
    assert (check.level, "unacknowledged" in check.found) == (Level.ERROR, True)
    await world.api("CONSUMER.PAUSE.JOBS.reactor", {"pause_until": "2999-01-01T00:00:00Z"})
    check = (await found(world))["streams.durable"]
    assert (check.level, check.fix) == (Level.ERROR, "nats consumer resume JOBS reactor")


async def test_a_durable_that_pushes_is_an_error(world: World) -> None:
    """It cannot be pulled from."""
    await world.js.add_stream(StreamConfig("JOBS", subjects=["jobs.lifecycle.*"], max_age=30 * 86_400))
    await world.js.add_consumer("JOBS", ConsumerConfig(durable_name="reactor", deliver_subject="pushed"))
    check = (await found(world))["streams.durable"]
    assert (check.level, check.fix) == (Level.ERROR, "name another with REACTOR_EVENTS_DURABLE")


async def test_a_lifecycle_stream_that_forgets_is_an_error(world: World) -> None:
    """A work queue does not keep a job's last event."""
    config = StreamConfig("JOBS", subjects=["jobs.lifecycle.*"], retention=RetentionPolicy.WORK_QUEUE)
    await world.js.add_stream(config)
    check = (await found(world))["streams.lifecycle"]
    assert check.level is Level.ERROR
    assert "forgets events once they are read" in check.found
    assert check.fix == "let a stream with limits retention capture that subject"


async def test_a_part_of_the_lifecycle_subject_is_an_error(world: World) -> None:
    """Some jobs' events would be missing; all of them, if the name is taken."""
    await world.js.add_stream(StreamConfig("PART", subjects=["jobs.lifecycle.1"]))
    check = (await found(world))["streams.lifecycle"]
    assert (check.level, check.fix) == (Level.ERROR, "let one stream capture all of it")
    await world.js.delete_stream("PART")
    await world.js.add_stream(StreamConfig("JOBS", subjects=["elsewhere"]))
    check = (await found(world))["streams.lifecycle"]
    assert "does not capture jobs.lifecycle.*" in check.found


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({}, None),
        ({"max_age": 0}, None),
        ({"max_age": DAY}, "forgets events after 1 d, not 30 d"),
        ({"discard": "new", "max_bytes": 1}, "refuses new lifecycle events"),
        ({"discard": "new", "max_bytes": -1, "max_msgs": -1}, None),
        ({"max_msgs_per_subject": 1}, "keeps one event a job"),
    ],
)
def test_the_lifecycle_streams_limits(config: dict[str, Any], text: str | None) -> None:
    """Limits that drop a job's last event."""
    check = judge_lifecycle({"config": CONFIG | config}, 30 * DAY)
    assert (check.level is Level.OK) == (text is None)
    assert (text or "") in check.found


async def test_a_wrong_account_is_an_error(world: World, other: World) -> None:
    """Redis has the ledger of a lifecycle stream that does not exist."""
    await live(world)
    odd = await found(other, REACTOR_REDIS_NAMESPACE=world.namespace)
    assert odd["streams.lifecycle"].level is Level.ERROR
    assert "wrong account, domain or Redis?" in str(odd["streams.lifecycle"].fix)
    await other.declare()
    odd = await found(other, REACTOR_REDIS_NAMESPACE=world.namespace)
    assert "its own REACTOR_REDIS_NAMESPACE" in str(odd["ledger.owner"].fix)
    assert "ledger.coverage" in odd


async def test_unread_events_are_reported(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the age of the oldest, if that is more than a moment."""
    await live(world)
    await world.emit(1, "PROGRESS")
    assert "streams.lag" not in await found(world)
    monkeypatch.setattr(judges, "LAG_S", 0)
    odd = await found(world)
    assert odd["streams.lag"].found.startswith("1 lifecycle event not read yet, the oldest for ")
    assert odd["streams.lag"].fix == "start reactor worker"
    assert "1 lifecycle events are not read yet" in odd["ledger.coverage"].found


@pytest.mark.parametrize(
    ("behind", "oldest_s", "waiting", "fix"),
    [
        (0, None, 0, "None"),
        (5, None, 0, "None"),
        (5, 59.0, 0, "None"),
        (5, 61.0, 0, "start reactor worker"),
        (5, 61.0, 1, "it asks for events and does not ack them"),
    ],
)
def test_lag(behind: int, oldest_s: float | None, waiting: int, fix: str) -> None:
    """A worker that requests events and does not ack them has another problem than no worker."""
    assert fix in str(judge_lag(behind, oldest_s, waiting).fix)


async def test_dead_letters_are_said(world: World) -> None:
    """With the command that shows them."""
    await live(world)
    await world.publish("jobs.lifecycle.9", b"no JSON")
    await world.reconcile()
    odd = await found(world)
    assert odd.keys() == {"streams.dead_letters"}
    assert "nats stream view REACTOR_DEAD_LETTERS" in str(odd["streams.dead_letters"].fix)


async def test_a_pattern_that_matches_nothing_is_said(world: World) -> None:
    """With some existing streams. Reactor's own do not count."""
    await world.declare()
    await world.stream("task_1")
    check = (await found(world))["streams.pattern"]
    assert "matches 0 of 1 streams; there are task_1" in check.found


@pytest.mark.parametrize(
    ("until", "subjects", "level"),
    [
        ("2020-01-01T00:00:00Z", '["job.1.tasks"]', "warning"),
        ("soon", '["job.1.tasks"]', None),
        ("2999-01-01T00:00:00Z", '["job.1.tasks"]', "error"),
        ("2020-01-01T00:00:00Z", "?", "error"),
    ],
)
async def test_a_fenced_stream_is_said(world: World, until: str, subjects: str, level: str | None) -> None:
    """Not while its lease runs, because then a deletion is under way."""
    await live(world)
    soon = format_instant(parse_instant(((await world.info("job_1")) or {})["ts"]) + 60 * SECOND)
    fence = {"token": "t", "until": soon if until == "soon" else until, "subjects": subjects}
    metadata = {f"reactor.fence.{key}": value for key, value in fence.items()}
    await world.js.update_stream(StreamConfig("job_1", subjects=["reactor.fence.job_1.t"], metadata=metadata))
    odd = await found(world)
    assert odd.keys() == ({"streams.fenced"} if level else set())
    if level:
        assert odd["streams.fenced"].level == level
        assert "job_1" in odd["streams.fenced"].found


async def test_streams_that_cannot_be_fenced_are_said(world: World) -> None:
    """A mirror of a job stream, and therefore the stream itself."""
    await live(world)
    await world.js.add_stream(StreamConfig("job_2", mirror=StreamSource("job_1")))
    await world.emit(2, "STARTED")
    await world.reconcile()
    odd = await found(world)
    assert odd.keys() == {"streams.fenceable"}
    assert odd["streams.fenceable"].found.endswith("job_1, job_2")


async def test_a_stream_on_reactors_own_subjects_is_said(world: World) -> None:
    """No stream could be fenced. A lifecycle stream with a job's name is never judged."""
    await live(world)
    await world.js.add_stream(StreamConfig("ALL", subjects=["reactor.fence.*"]))
    check = (await found(world))["streams.overlap"]
    assert (check.level, check.found) == (Level.ERROR, "ALL captures reactor.fence.>")
    await world.js.delete_stream("ALL")
    await world.js.delete_stream("REACTOR_DEAD_LETTERS")
    await world.js.add_stream(StreamConfig("LETTERS", subjects=["reactor.dead_letters"]))
    assert (await found(world))["streams.overlap"].found == "LETTERS captures reactor.dead_letters"
    await world.js.delete_stream("LETTERS")
    odd = await found(world, REACTOR_POLICY_STREAM_PATTERN="(?P<job_id>.*)")
    assert odd["streams.overlap"].level is Level.WARNING
    assert "JOBS" in odd["streams.overlap"].found


@pytest.mark.parametrize("key", ["missing", "offline"])
async def test_a_stream_that_is_not_reported_is_an_error(world: World, key: str) -> None:
    """By name."""
    await live(world)

    def change(verb: str, answer: dict[str, Any]) -> dict[str, Any]:
        return answer | ({key: ["job_7"]} if verb == "STREAM.LIST" else {})

    async with relayed(world, change) as relayed_world:
        odd = await found(relayed_world)
    assert odd.keys() == {"streams.reported"}
    assert "job_7" in odd["streams.reported"].found


async def test_a_listing_that_fails_is_an_error_of_its_own(world: World) -> None:
    """Nothing is reported about streams that were not listed."""
    await live(world)

    def change(verb: str, answer: dict[str, Any]) -> dict[str, Any]:
        unavailable = {"error": {"code": 503, "err_code": 10008, "description": "unavailable"}, "streams": []}
        return unavailable if verb == "STREAM.LIST" else answer

    async with relayed(world, change) as relayed_world:
        diagnosis = await examined(relayed_world)
    levels = {check.name: check.level for check in diagnosis.checks}
    assert levels["streams.reported"] is Level.ERROR
    assert not levels.keys() & {"streams.pattern", "streams.fenced", "ledger.emitter"}
    assert levels["ledger.coverage"] is Level.OK


async def test_one_copy_in_a_cluster_is_said(tmp_path: Path) -> None:
    """If its node is lost, the lifecycle events are."""
    async with own_cluster(tmp_path) as nodes, own_valkey(tmp_path) as valkey:
        redis_url = f"redis://{HOST}:{valkey.port}/0"
        async with connected(f"nats://{HOST}:{nodes[0].port}", redis_url, "r") as world:
            await world.declare()
            assert "one copy in cluster c" in (await found(world))["streams.replicas"].found
            await world.api("STREAM.UPDATE.JOBS", (await world.api("STREAM.INFO.JOBS"))["config"] | {"num_replicas": 3})
            assert "streams.replicas" not in await found(world)


async def test_an_account_that_is_nearly_full_is_said(tmp_path: Path, world: World) -> None:
    """Before a job cannot create its stream."""
    account = "accounts { A: { jetstream: { max_streams: 4, max_store: 1G }, users: [{ user: a, password: a }] } }\n"
    async with own_nats(tmp_path, account) as server:
        url = f"nats://a:a@{HOST}:{server.port}"
        async with connected(url, world.redis_url, world.namespace) as own:
            await own.declare()
            assert "nats.limits" not in await found(own)
            await own.stream("job_1", max_bytes=900_000_000)
            check = (await found(own))["nats.limits"]
    assert "streams 4 of 4" in check.found
    assert "storage 920000000 of " in check.found


def test_limits_by_tier() -> None:
    """Each tier has its own limits."""
    used = {"storage": 90, "memory": 0, "streams": 1, "consumers": 0}
    check = judge_limits(used | {"tiers": {"R1": used | {"limits": {"max_storage": 100}}, "R3": used}})
    assert (check.level, "storage 90 of 100 (R1)" in check.found) == (Level.WARNING, True)


async def test_clocks_that_differ_are_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared with both servers, with the consequences."""
    await live(world)
    monkeypatch.setattr(services, "utc_now", lambda now=services.utc_now: now() + 60 * SECOND)
    odd = await found(world)
    assert odd.keys() == {"clocks.nats", "clocks.redis"}
    assert "1 min behind this machine's" in odd["clocks.nats"].found
    assert "no verdict depends on this machine's" in str(odd["clocks.redis"].fix)


def test_a_slow_round_trip_is_no_offset() -> None:
    """Half of it is uncertainty."""
    levels = [judge_clock("clocks.nats", "its", *figures).level for figures in ((6, 0.1), (-6, 0.1), (6, 2), (4, 0))]
    assert levels == ["warning", "warning", "ok", "ok"]


async def test_a_silent_emitter_is_an_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams are created, and no event has come since."""
    await live(world)
    monkeypatch.setattr(judges, "SETTLED_S", 0)
    assert "ledger.emitter" not in await found(world)
    await world.stream("job_2")
    odd = await found(world)
    assert odd.keys() == {"ledger.emitter"}
    assert odd["ledger.emitter"].level is Level.ERROR
    assert "jobs.lifecycle.{job_id}" in str(odd["ledger.emitter"].fix)
    assert "job_2" in odd["ledger.emitter"].found
    await world.emit(3, "STARTED")
    assert (await found(world))["ledger.emitter"].level is Level.WARNING


async def test_an_emitter_that_never_spoke_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protected streams do not matter here."""
    await world.declare()
    await world.stream("job_1")
    monkeypatch.setattr(judges, "SETTLED_S", 0)
    odd = await found(world)
    assert "no event ever came" in odd["ledger.emitter"].found
    assert "publish an event" in str(odd["ledger.coverage"].fix)
    assert "ledger.emitter" not in await found(world, REACTOR_POLICY_PROTECT="job_*")


@pytest.mark.parametrize(
    ("age_s", "last_event_s", "level"),
    [(30, None, "ok"), (120, None, "error"), (120, 130, "ok-ish"), (120, 300, "error"), (7_200, 9_000, "warning")],
)
def test_how_silent_an_emitter_may_be(age_s: float, last_event_s: float | None, level: str) -> None:
    """A first event may be under way. An old stream is a leftover."""
    now = 1_000_000 * SECOND
    stream = Stream("job_1", "1", now, created=int(now - age_s * SECOND))
    last = None if last_event_s is None else int(now - last_event_s * SECOND)
    assert judge_emitter([stream], set(), last, "s").level == ("warning" if level == "ok-ish" else level)
    assert judge_emitter([stream], {"1"}, last, "s").level is Level.OK


async def test_a_job_that_lives_for_long_is_said(world: World) -> None:
    """If it keeps a stream."""
    await live(world)
    await world.emit(2, "STARTED", "2020-01-01T00:00:00Z")
    await world.reconcile()
    assert await found(world) == {}
    await world.stream("job_2")
    check = (await found(world))["ledger.oldest_live"]
    assert "is job 2 really still running?" in str(check.fix)
    assert "its stream is job_2" in check.found


def test_the_oldest_live_job() -> None:
    """By its last event, and the server's time."""
    now = 100 * DAY
    live_jobs = {"1": record_of(now - 8 * DAY, 1, "STARTED"), "2": record_of(now - 9 * DAY, 2, "STARTED")}
    assert judge_oldest(3, {}, {}, now).found == "3 jobs known, none alive"
    assert "job 2 has been STARTED for 9 d, it has no stream" in judge_oldest(2, live_jobs, {}, now).found
    assert "job 1 has been STARTED for 8 d" in judge_oldest(2, live_jobs, {"1": "job_1"}, now).found
    assert judge_oldest(2, live_jobs, {"1": "job_1"}, now - DAY - 1).level is Level.OK


@pytest.mark.parametrize(
    ("last", "age_s", "level", "text"),
    [
        (None, None, "warning", "no full pass yet"),
        ({"checked": 2}, 44 * 60, "ok", "with 2 job streams"),
        ({"checked": 2}, 46 * 60, "warning", "interval of 15 min"),
        ({"breaker": "30 of 40"}, 1, "error", "30 of 40"),
        ({"error": "Redis: away"}, 1, "error", "Redis: away"),
        ({"unfixable": 3}, 1, "warning", "3 streams unfixable"),
    ],
)
def test_the_last_pass(last: Mapping[str, Any] | None, age_s: float | None, level: str, text: str) -> None:
    """Too long ago, or incomplete."""
    check = judge_pass(last, age_s, 900)
    assert (check.level, text in check.found) == (level, True), check


async def test_a_ledger_that_lost_history_is_said(world: World) -> None:
    """Until a worker has rebuilt it."""
    await live(world)
    for key in [key async for key in world.redis.scan_iter(match=f"{world.namespace}:*")]:
        await world.redis.delete(key)
    odd = await found(world)
    assert odd.keys() == {"ledger.coverage", "ledger.last_pass"}
    await world.reconcile()
    assert await found(world) == {}


async def test_what_nobody_thought_of_hides_no_other_check(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a traceback, but an ordinary error."""
    await live(world)

    def wrong(*_: object) -> Check:
        raise ValueError("a bug")

    monkeypatch.setattr(judges, "judge_oldest", wrong)
    monkeypatch.setattr(judges, "judge_pass", wrong)
    diagnosis = await examined(world)
    odd = [check for check in diagnosis.checks if check.level is Level.ERROR]
    assert [check.name for check in odd] == ["ledger.oldest_live", "ledger.last_pass"]
    assert all("report this" in str(check.fix) for check in odd)


def test_sizes_for_people() -> None:
    """In the largest unit possible."""
    assert [size(n) for n in (12, 1_420_000, 2_000_000_000)] == ["12 bytes", "1.42 MB", "2 GB"]
