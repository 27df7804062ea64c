"""The ledger: what lifecycle events have said, kept in Redis. This module owns its keys and its Lua.

Keys, each under the namespace:

    job:<job_id>        string  the record: its latest word, and the last one where that is another
    due                 zset    jobs by when to look at their streams (ms, Redis's own clock)
    ledger              hash    whose ledger it is and what it covers (see `Reading`)
    attempts            hash    failed drains in a row, by job
    lease:<what>        string  the token of whoever works on something; expires
    pass                string  the highest number of a periodic pass (its lease's token)
    last_pass           string  the report of the last full pass, without its streams (JSON)
    passed              string  a periodic pass was done; expires when the next one is due
    sighting:<stream>   string  when these consumer figures were first seen; expires
    deliveries:<job_id> hash    advisories counted on the job; expires

A live record never expires: its loss would look like a job that does not exist. A word is three numbers of 16
hexadecimal digits (occurred_at, sequence, published_at; ns), three digits with the length of the status in bytes, and
the status: so age is a comparison of strings, exact where a double would round nanoseconds.

Whatever stands under these keys and was not written here (another type, no number, no record) is taken away where it
is met, and the ledger then counts as lost: it is said, and rebuilt. Due times are spans added to Redis's clock, so
no worker's clock is ever compared with another's. Everything here can be rebuilt from the lifecycle stream.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import uuid4

from redis.asyncio import Redis
from redis.exceptions import RedisError

from reactor.core.model import Record, Word
from reactor.store.scripts import Script, Scripts

LedgerError = RedisError
"""Redis is away, full, read-only or otherwise unwilling: nothing was lost, try again later."""

_REPORTED = {"started_at", "error", "breaker", "unfixable", "checked"}
RECONCILE = "reconcile"
"""What the lease of a periodic pass is on."""

_HEAD = 51
_WORDS = f"""
local function word_at(value, start)
  local head = string.sub(value, start, start + {_HEAD - 1})
  if #head < {_HEAD} or string.find(head, '[^%x]') then return nil end
  local word = string.sub(value, start, start + {_HEAD - 1} + tonumber(string.sub(head, 49), 16))
  return #word == {_HEAD} + tonumber(string.sub(head, 49), 16) and word or nil
end
local function words_of(value)
  local latest = word_at(value, 1)
  if not latest or #latest == #value then return latest, latest end
  local last = word_at(value, #latest + 1)
  if last and #latest + #last == #value then return latest, last end
end
local function record_of(key, ledger)
  local value = redis.pcall('GET', key)
  if not value then return nil end
  if type(value) == 'string' and words_of(value) then return value end
  redis.call('DEL', key)
  redis.call('DEL', ledger)
  return nil
end
"""
_IDENTITY = """
local identity = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
"""
_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""
_APPLY = f"""
{_NOW}
{_WORDS}
local owner = redis.call('HGET', KEYS[2], 'stream')
if owner and owner ~= ARGV[2] then return {{-1, 0, {{}}}} end
local newer, due, stale = 0, 0, {{}}
for i = 6, #ARGV, 3 do
  local key, word, at = ARGV[1] .. ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local old = record_of(key, KEYS[2])
  local latest, last = words_of(old or word)
  local later = string.sub(latest, 1, 32) < string.sub(word, 1, 32)
  local further = string.sub(last, 17, 32) < string.sub(word, 17, 32)
  if later then latest = word end
  if further then last = word end
  if later or further or not old then
    newer = newer + 1
    redis.call('SET', key, latest == last and latest or latest .. last)
    if at ~= '' then
      redis.call('ZADD', KEYS[1], math.min(tonumber(at), now + tonumber(ARGV[3])), ARGV[i])
      due = due + 1
    end
  else
    stale[#stale + 1] = (i - 6) / 3
  end
end
if redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('HINCRBY', KEYS[2], 'events', ARGV[5])
  if tonumber(redis.call('HGET', KEYS[2], 'applied') or 0) < tonumber(ARGV[4]) then
    redis.call('HSET', KEYS[2], 'applied', ARGV[4])
  end
end
return {{newer, due, stale}}
"""
_READ = f"""
{_WORDS}
{_IDENTITY}
local records = {{}}
for i = 2, #ARGV do records[i - 1] = record_of(ARGV[1] .. ARGV[i], KEYS[1]) or false end
return {{identity, redis.call('HGETALL', KEYS[1]), records}}
"""
_CLAIM = f"""
{_NOW}
local jobs = redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])
for _, job in ipairs(jobs) do redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), job) end
return {{now + tonumber(ARGV[2]), jobs}}
"""
_NEXT_DUE = f"""
{_NOW}
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if #first == 0 then return false end
return tonumber(first[2]) - now
"""
_SETTLE = f"""
{_NOW}
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or -1) ~= tonumber(ARGV[2]) then return 0 end
if ARGV[3] == '' then return redis.call('ZREM', KEYS[1], ARGV[1]) end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[1])
return 1
"""
_SCHEDULE = f"""
{_NOW}
for i = 1, #ARGV, 2 do redis.call('ZADD', KEYS[1], 'LT', now + tonumber(ARGV[i + 1]), ARGV[i]) end
"""
_TAKE = """
local function take(key, token, ttl)
  if redis.call('PTTL', key) == -1 then redis.call('DEL', key) end  -- a lease without an end is nobody's
  return redis.call('SET', key, token, 'NX', 'PX', ttl)
end
"""
_LEASE = f"{_TAKE} return take(KEYS[1], ARGV[1], ARGV[2]) and 1 or 0"
_HOLDS = "return redis.call('GET', KEYS[1]) == ARGV[1] and 1 or 0"
_LEASE_AND_READ = f"""
{_TAKE}
local under, token, ttl = table.remove(ARGV), table.remove(ARGV), table.remove(ARGV)
if under ~= '' and redis.call('GET', KEYS[3]) ~= under then return {{}} end
if not take(KEYS[2], token, ttl) then return false end
{_READ}
"""
_BEGIN_PASS = f"""
{_NOW}
local left = math.max(redis.call('PTTL', KEYS[1]), redis.call('PTTL', KEYS[3]))
if left > 0 then return {{'', left}} end
local number = string.format('%.0f', math.max(tonumber(redis.call('GET', KEYS[2]) or 0) + 1, now))
redis.call('SET', KEYS[2], number)
redis.call('SET', KEYS[1], number, 'PX', ARGV[1])
return {{number, 0}}
"""
_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
_FINISH = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] ~= '' then redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2]) end
return redis.call('DEL', KEYS[1])
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
_RETIRE = """
redis.call('HDEL', KEYS[2], ARGV[1])
if redis.call('GET', KEYS[1]) == ARGV[2] then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
if KEYS[3] and redis.call('GET', KEYS[3]) == ARGV[4] then redis.call('DEL', KEYS[3]) end
"""
_SIGHT = """
local old = redis.pcall('GET', KEYS[1])
local since = type(old) == 'string' and string.match(old, '^%d+ ')
if since and string.sub(old, #since + 1) == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return string.sub(since, 1, -2)
end
redis.call('SET', KEYS[1], ARGV[2] .. ' ' .. ARGV[1], 'PX', ARGV[3])
return ARGV[2]
"""
_COUNT = """
if type(redis.pcall('HINCRBY', KEYS[1], ARGV[1], 1)) == 'table' then
  redis.call('DEL', KEYS[1])
  redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_TIDY = """
local gone = {}
local function drop(key)
  redis.call('DEL', key)
  gone[#gone + 1] = key
end
for i, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'none' and kind ~= ARGV[i] then drop(key) end
end
local function number(text) return not text or (#text < 20 and string.find(text, '^%d*$')) end
local heads = redis.call('HMGET', KEYS[1], 'since', 'applied', 'events')
if not (number(heads[1]) and number(heads[2]) and number(heads[3])) then drop(KEYS[1]) end
if not number(redis.call('GET', KEYS[2])) then drop(KEYS[2]) end
for _, value in ipairs(redis.call('HVALS', KEYS[3])) do
  if not number(value) then drop(KEYS[3]) break end
end
if #gone > 0 then redis.call('DEL', KEYS[1]) end
return gone
"""
_KINDS = {
    "ledger": "hash",
    "pass": "string",
    "attempts": "hash",
    "due": "zset",
    "passed": "string",
    "last_pass": "string",
    "audit": "stream",
    "intents": "hash",
}
"""Keys that are always the same, and their types; the first three in the order in which the script reads them."""
_BEGIN = f"""
{_IDENTITY}
local owner = redis.call('HGET', KEYS[1], 'stream')
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'stream', ARGV[1], 'redis', identity, 'state', ARGV[2])
return owner
"""
_COMPLETE = f"""
{_IDENTITY}
local state = redis.call('HMGET', KEYS[1], 'state', 'redis', 'applied')
if state[1] ~= ARGV[1] or state[2] ~= identity then return 0 end
redis.call('HSET', KEYS[1], 'state', 'complete', 'since', ARGV[2])
if tonumber(state[3] or 0) < tonumber(ARGV[3]) then redis.call('HSET', KEYS[1], 'applied', ARGV[3]) end
return 1
"""


class ForeignLedger(LedgerError):
    """The ledger in Redis belongs to another lifecycle stream; nothing was written."""


class LeaseLost(Exception):
    """Somebody else has taken over what we were at; nothing more of it is ours to do."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the ledger knows, all of one moment."""

    intact: bool
    """Complete, in this very Redis, and of this very lifecycle stream."""
    since: int | None
    applied: int
    """The highest sequence of the lifecycle stream that was written here."""
    events: int
    """Readable events since the ledger was built."""
    records: Mapping[str, Record] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on something alone, for so long."""

    what: str
    seconds: float
    token: str = field(default_factory=lambda: uuid4().hex)


@dataclass(frozen=True, slots=True)
class Claim:
    """Jobs taken from the due queue until `score` (ms, Redis's clock); they fall due again by themselves."""

    score: int
    jobs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Applied:
    """How many events were newer than what was known, how many jobs became due by them, and which were not newer."""

    newer: int
    due: int
    stale: tuple[int, ...] = ()
    """Positions in the batch."""


class Ledger:
    """Records, due queue and coverage in one Redis. Every method raises LedgerError."""

    def __init__(self, redis: Redis, scripts: Scripts, namespace: str, record_ttl_s: float) -> None:
        """`record_ttl_s` counts from when a terminal job's stream is gone."""
        self._redis = redis
        self._ns = namespace
        self._ttl_ms = int(record_ttl_s * 1000)
        self._apply = Script(scripts, _APPLY)
        self._read = Script(scripts, _READ)
        self._claim = Script(scripts, _CLAIM)
        self._next_due = Script(scripts, _NEXT_DUE)
        self._settle = Script(scripts, _SETTLE)
        self._schedule = Script(scripts, _SCHEDULE)
        self._release = Script(scripts, _RELEASE)
        self._retire = Script(scripts, _RETIRE)
        self._lease_and_read = Script(scripts, _LEASE_AND_READ)
        self._begin_pass = Script(scripts, _BEGIN_PASS)
        self._renew = Script(scripts, _RENEW)
        self._end_pass = Script(scripts, _FINISH)
        self._sight = Script(scripts, _SIGHT)
        self._lease = Script(scripts, _LEASE)
        self._holds = Script(scripts, _HOLDS)
        self._count = Script(scripts, _COUNT)
        self._tidy = Script(scripts, _TIDY)
        self._begin = Script(scripts, _BEGIN)
        self._complete = Script(scripts, _COMPLETE)

    def _key(self, *parts: str) -> str:
        return ":".join((self._ns, *parts))

    @property
    def _all_records(self) -> str:
        """A glob for the keys of all records; a namespace may hold characters that mean something in one."""
        return re.sub(r"([*?\[\]\\^])", r"\\\1", self._key("job", "")) + "*"

    async def apply(
        self, identity: str, events: Sequence[tuple[str, Word, int | None]], *, readable: int, grace: int
    ) -> Applied:
        """Write a batch of (job id, word, when to look or None) in one round trip; known ones change nothing.

        `identity` is the lifecycle stream's, `readable` how many of the batch were well-formed. No look is put
        further off than `grace` (ns) from now, however Redis's clock stands. Raises ForeignLedger.
        """
        highest = max((word.seq for _, word, _ in events), default=0)
        args: list[str | int] = [self._key("job", ""), identity, grace // 1_000_000, highest, readable]
        for job_id, word, due in events:
            args += [job_id, _pack_word(word), "" if due is None else -(-due // 1_000_000)]
        newer, due_count, stale = await self._apply(keys=[self._key("due"), self._key("ledger")], args=args)
        if newer < 0:
            message = "the ledger in Redis belongs to another lifecycle stream; it is rebuilt at the next check"
            raise ForeignLedger(message)
        return Applied(newer, due_count, tuple(stale))

    async def read(self, identity: str, job_ids: Sequence[str] = ()) -> Reading:
        """What is known of these jobs, and whether the ledger of that lifecycle stream is whole, in one moment."""
        answer = await self._read(keys=[self._key("ledger")], args=[self._key("job", ""), *job_ids])
        return self._reading(answer, identity, job_ids)

    async def lease_and_read(
        self, lease: Lease, identity: str, job_id: str, under: Lease | None = None
    ) -> Reading | None:
        """Take a lease and read, in one round trip; None where somebody else holds it.

        Raises LeaseLost where `under`, the lease that this one is taken under, is held no longer.
        """
        milliseconds, token = int(lease.seconds * 1000), under.token if under else ""
        args: list[str | int] = [self._key("job", ""), job_id, milliseconds, lease.token, token]
        keys = [self._key("ledger"), self._key("lease", lease.what), self._key("lease", under.what if under else "")]
        answer = await self._lease_and_read(keys=keys, args=args)
        if under and answer == []:
            message = f"another replica has taken over the {under.what}; this one begins nothing more"
            raise LeaseLost(message)
        return None if answer is None else self._reading(answer, identity, [job_id])

    def _reading(self, answer: list[Any], identity: str, job_ids: Sequence[str]) -> Reading:
        redis_identity, flat, values = answer
        head = dict(zip(flat[::2], flat[1::2], strict=True))
        whole = (head.get("state"), head.get("redis"), head.get("stream")) == ("complete", redis_identity, identity)
        since = head.get("since")
        return Reading(
            intact=whole,
            since=int(since) if since else None,
            applied=int(head.get("applied", 0)),
            events=int(head.get("events", 0)),
            records={job: _unpack(value) for job, value in zip(job_ids, values, strict=False) if value is not None},
        )

    async def records(self) -> dict[str, Record]:
        """Every record, by job. Takes a while where there are many, and may miss what is written meanwhile."""
        prefix, cursor, found = self._key("job", ""), None, dict[str, Record]()
        while cursor != 0:
            cursor, keys = await self._redis.scan(cursor or 0, match=self._all_records, count=1000)
            async with self._redis.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.get(key)
                values = await pipe.execute(raise_on_error=False)
            for key, value in zip(cast("list[str]", keys), values, strict=True):
                with suppress(ValueError, AttributeError):  # gone since, or nothing of ours
                    found[key.removeprefix(prefix)] = _unpack(value)
        return found

    async def tidy(self) -> list[str]:
        """Take away what cannot have been written here; the keys. Where there were any, the ledger counts as lost."""
        keys = [self._key(name) for name in _KINDS]
        return list(await self._tidy(keys=keys, args=list(_KINDS.values())))

    async def owner(self) -> str | None:
        """The lifecycle stream that this ledger was built from; None for a ledger that never was."""
        return cast("str | None", await cast("Any", self._redis.hget(self._key("ledger"), "stream")))

    async def claim(self, limit: int, lease_s: float) -> Claim:
        """Take jobs that are due, for the length of the lease."""
        score, jobs = await self._claim(keys=[self._key("due")], args=[limit, int(lease_s * 1000)])
        return Claim(score, tuple(jobs))

    async def next_due(self) -> float | None:
        """Seconds until the next job falls due (negative: overdue); None where none will."""
        delay = await self._next_due(keys=[self._key("due")], args=[])
        return None if delay is None else delay / 1000

    async def settle(self, claim: Claim, job_id: str, delay_s: float | None) -> None:
        """Give a claimed job back: due again after `delay_s`, or never. No effect where somebody has moved it."""
        delay = "" if delay_s is None else int(delay_s * 1000) + 1
        await self._settle(keys=[self._key("due")], args=[job_id, claim.score, delay])

    async def schedule(self, delays_s: Mapping[str, float]) -> None:
        """Look at the streams of each job after its delay, or earlier where it is due earlier already."""
        args: list[str | int] = [part for job, delay in delays_s.items() for part in (job, int(delay * 1000) + 1)]
        if args:
            await self._schedule(keys=[self._key("due")], args=args)

    async def forget(self, job_id: str) -> None:
        """Take a job out of the due queue: its stream was deleted."""
        await self._redis.zrem(self._key("due"), job_id)

    async def deliveries(self, job_id: str) -> dict[str, int]:
        """How often advisories of each kind were counted on a job."""
        counts = cast("dict[str, str]", await cast("Any", self._redis.hgetall(self._key("deliveries", job_id))))
        return {kind: int(count) for kind, count in counts.items() if count.isascii() and count.isdigit()}

    async def due_count(self) -> int:
        """Jobs in the due queue."""
        return await self._redis.zcard(self._key("due"))

    async def failed(self, job_id: str) -> int:
        """Count a failed drain; how many in a row it makes."""
        return cast("int", await cast("Any", self._redis.hincrby(self._key("attempts"), job_id, 1)))

    async def forgive(self, still_failing: Collection[str]) -> None:
        """Forget the failed drains of all jobs but these."""
        attempts = cast("list[str]", await cast("Any", self._redis.hkeys(self._key("attempts"))))
        if mended := [job for job in attempts if job not in still_failing]:
            await cast("Any", self._redis.hdel(self._key("attempts"), *mended))

    async def retire(self, job_id: str, record: Record | None, lease: Lease | None = None) -> None:
        """A job's stream is gone: forget failed drains, let its record expire unless it was heard of since.

        The lease, where one is held, is given back in the same round trip.
        """
        keys = [self._key("job", job_id), self._key("attempts")]
        args: list[str | int] = [job_id, _pack(record) if record else "", self._ttl_ms]
        if lease is not None:
            keys.append(self._key("lease", lease.what))
            args.append(lease.token)
        await self._retire(keys=keys, args=args)

    async def lease(self, lease: Lease) -> bool:
        """Whether it is now held by this token, and nobody else."""
        args: list[str | int] = [lease.token, int(lease.seconds * 1000)]
        return bool(await self._lease(keys=[self._key("lease", lease.what)], args=args))

    async def holds(self, lease: Lease) -> bool:
        """Whether the lease is still held by this token."""
        return bool(await self._holds(keys=[self._key("lease", lease.what)], args=[lease.token]))

    async def release(self, lease: Lease) -> None:
        """Give a lease back before its time; no effect on somebody else's."""
        await self._release(keys=[self._key("lease", lease.what)], args=[lease.token])

    async def begin_pass(self, seconds: float) -> tuple[Lease | None, float]:
        """The lease of a periodic pass, its token a number that only ever grows; or None, and when to ask again (s).

        One pass at a time, and one an interval, among all replicas.
        """
        keys = [self._key("lease", RECONCILE), self._key("pass"), self._key("passed")]
        number, left = await self._begin_pass(keys=keys, args=[int(seconds * 1000)])
        return (Lease(RECONCILE, seconds, number) if number else None), left / 1000

    async def renew(self, lease: Lease) -> bool:
        """Hold a lease for its whole length from now on; False where it is held no longer."""
        args: list[str | int] = [lease.token, int(lease.seconds * 1000)]
        return bool(await self._renew(keys=[self._key("lease", lease.what)], args=args))

    async def end_pass(self, lease: Lease, rest_s: float | None) -> None:
        """Give the lease of a pass back; the next one is due after `rest_s`, or at once where it is None."""
        keys = [self._key("lease", RECONCILE), self._key("passed")]
        await self._end_pass(keys=keys, args=[lease.token, "" if rest_s is None else max(1, int(rest_s * 1000))])

    async def remember_pass(self, report: str) -> None:
        """Keep the report of the last full pass."""
        await self._redis.set(self._key("last_pass"), report)

    async def last_pass(self) -> dict[str, Any] | None:
        """The report of the last full pass, by whichever replica."""
        with suppress(ValueError):
            report = json.loads(await self._redis.get(self._key("last_pass")) or "null")
            if isinstance(report, dict) and report.keys() >= _REPORTED:
                return report
        return None

    async def hasten_pass(self) -> None:
        """Let the next pass begin now, whichever replica asks first."""
        await self._redis.delete(self._key("passed"))

    async def first_sighting(self, stream: str, figures: str, now: int) -> int:
        """When these very figures of a stream were seen first: `now`, or an instant that was kept."""
        args: list[str | int] = [figures, f"{now:020d}", self._ttl_ms]
        return int(await self._sight(keys=[self._key("sighting", stream)], args=args))

    async def count_delivery(self, job_id: str, kind: str) -> None:
        """Count an advisory on a job."""
        await self._count(keys=[self._key("deliveries", job_id)], args=[kind, self._ttl_ms])

    async def begin_rebuild(self, identity: str, token: str) -> None:
        """Vouch for nothing from here on. Records of another lifecycle stream are dropped: they prove nothing here."""
        owner = await self._begin(keys=[self._key("ledger")], args=[identity, token])
        if owner is not None and owner != identity:
            await self._drop([key async for key in self._redis.scan_iter(match=self._all_records, count=1000)])

    async def complete_rebuild(self, token: str, since: int | None, applied: int) -> bool:
        """Vouch again, unless Redis was changed or emptied meanwhile, or another rebuild has begun."""
        args: list[str | int] = [token, "" if since is None else since, applied]
        return bool(await self._complete(keys=[self._key("ledger")], args=args))

    async def _drop(self, keys: Iterable[str]) -> None:
        await self._redis.unlink(self._key("due"), *keys)


def _pack(record: Record) -> str:
    latest, last = _pack_word(record.latest), _pack_word(record.last)
    return latest if latest == last else latest + last


def _pack_word(word: Word) -> str:
    length = len(word.status.encode("utf-8", "surrogateescape"))
    return f"{word.occurred_at:016x}{word.seq:016x}{word.published_at:016x}{length:03x}{word.status}"


def _unpack(value: str) -> Record:
    raw = value.encode("utf-8", "surrogateescape")
    latest, rest = _unpack_word(raw)
    return Record(latest, _unpack_word(rest)[0] if rest else latest)


def _unpack_word(raw: bytes) -> tuple[Word, bytes]:
    """The word in front, and what follows it."""
    occurred_at, seq, published_at = (int(raw[start : start + 16], 16) for start in (0, 16, 32))
    end = _HEAD + int(raw[48:_HEAD], 16)
    return Word(occurred_at, seq, raw[_HEAD:end].decode("utf-8", "surrogateescape"), published_at), raw[end:]
