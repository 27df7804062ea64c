"""The doctor's checks of Redis, from its INFO.

Names and values are those of https://redis.io/docs/latest/commands/info/.
"""

from collections.abc import AsyncIterator, Iterator
from functools import partial

from reactor.core.checks import Check, error, ok, size, warning
from reactor.operate.doctor.context import CheckFunctions, DoctorContext, judge_clock_of
from reactor.store.health import Info

OLDEST_REDIS = (6, 2)
"""The first version with ZADD LT and ZRANGE BYSCORE, which the due queue needs."""
NEARLY_FULL = 0.8


def redis_checks(deps: DoctorContext) -> CheckFunctions:
    """Return the checks of the server, and of a write."""
    return {
        "redis.server": partial(_info, deps),
        "redis.writes": partial(_writes, deps),
        "clocks.redis": partial(_clock, deps),
    }


async def _info(deps: DoctorContext) -> AsyncIterator[Check]:
    info = await deps.health.info()
    save_rules = "" if info.get("aof_enabled") else await deps.health.save_rules()
    for check in judge_info(info, save_rules, as_cluster=deps.health.is_cluster):
        yield check


async def _writes(deps: DoctorContext) -> AsyncIterator[Check]:
    yield await deps.health.check_writes()


async def _clock(deps: DoctorContext) -> AsyncIterator[Check]:
    before = deps.clock()
    yield judge_clock_of(deps, "clocks.redis", "Redis's", before, await deps.health.now())


def judge_info(info: Info, save_rules: str | None, *, as_cluster: bool = False) -> Iterator[Check]:
    """Yield all checks of INFO. `as_cluster`: the client addresses a cluster."""
    yield judge_version(info, as_cluster=as_cluster)
    yield judge_role(info)
    yield judge_eviction(info.get("maxmemory_policy"), info.get("maxmemory"))
    yield judge_memory(info.get("used_memory"), info.get("maxmemory"))
    yield judge_persistence(info, save_rules)


def judge_version(info: Info, *, as_cluster: bool = False) -> Check:
    """Judge the version: Redis 6.2 or later, or Valkey. A cluster must be addressed as one."""
    version = str(info.get("redis_version", "unknown"))
    name = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {version}"
    if not as_cluster and (info.get("cluster_enabled") or info.get("redis_mode") == "cluster"):
        fix = "write REACTOR_REDIS_URL as redis+cluster://host:port,host:port"
        return error("redis.server", f"{name} is a node of a cluster, and is spoken to as if it stood alone", fix)
    parts = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if parts and parts < OLDEST_REDIS:
        return error("redis.server", f"{name} is too old", "upgrade to Redis 6.2 or later, or to Valkey")
    return ok("redis.server", name)


def judge_role(info: Info) -> Check:
    """Judge the role: a replica accepts no writes and may be outdated."""
    if (role := info.get("role", "unknown")) != "master":
        fix = "point REACTOR_REDIS_URL at the primary"
        return error("redis.role", f"this Redis is a {role}: its data may be old, and it accepts no writes", fix)
    return ok("redis.role", "it is the primary")


def judge_eviction(policy: str | None, maxmemory: int | None) -> Check:
    """Judge whether Redis may evict a live record. Its job would then look as if it did not exist."""
    fix = "set maxmemory-policy noeviction"
    match policy, maxmemory:
        case (None, _) | (_, None):
            finding = "maxmemory-policy could not be found out; an evicted record looks like a job that does not exist"
            return warning("redis.eviction", finding, "see to it that it is noeviction")
        case "noeviction", _:
            return ok("redis.eviction", "maxmemory-policy is noeviction")
        case str(), 0:
            finding = f"maxmemory-policy is {policy}; nothing is evicted as long as maxmemory is not set"
            return warning("redis.eviction", finding, fix)
        case str(), _ if policy.startswith("volatile-"):
            finding = f"maxmemory-policy is {policy}: leases and records of ended jobs may be evicted; live ones not"
            return warning("redis.eviction", finding, fix)
        case _:
            finding = f"maxmemory-policy is {policy}: records of live jobs may be evicted, as if the jobs did not exist"
            return error("redis.eviction", finding, fix)


def judge_memory(used: int | None, maxmemory: int | None) -> Check:
    """Judge the used bytes of the allowed ones; 0 is no limit."""
    if used is None or maxmemory is None:
        finding = "memory could not be found out; a full Redis takes no events"
        return warning("redis.memory", finding, "allow INFO to reactor's Redis user, or see your provider's figures")
    if not maxmemory:
        return ok("redis.memory", f"{size(used)} used, no limit")
    finding = f"{size(used)} of {size(maxmemory)} used"
    if used >= NEARLY_FULL * maxmemory:
        fix = "raise maxmemory, or give reactor a Redis of its own: a full one takes no events"
        return warning("redis.memory", finding, fix)
    return ok("redis.memory", finding)


def judge_persistence(info: Info, save_rules: str | None) -> Check:
    """Judge whether a restart empties the ledger. That loses nothing, but stops deleting until it is rebuilt."""
    if info.get("aof_enabled"):
        if info.get("aof_last_write_status", "ok") != "ok":
            return error("redis.persistence", "its append-only file cannot be written", "free disk space for Redis")
        return ok("redis.persistence", "append-only file")
    if save_rules:
        return ok("redis.persistence", f"snapshots (save {save_rules})")
    rebuilt = "without any, the ledger is rebuilt from the lifecycle stream after each restart"
    fix = "set appendonly yes, or save rules"
    if save_rules is None:
        finding = f"no append-only file, and whether there are snapshots could not be found out; {rebuilt}"
        return warning("redis.persistence", finding, f"allow CONFIG GET for once, or ask your provider; {fix}")
    return warning("redis.persistence", f"no persistence: {rebuilt}", fix)
