"""Records: the last events of each job, and which ledger they belong to. Keys (see `ledger`): `job:…`, `ledger`.

The record of a live job never expires, because its job would then look as if it did not exist. An event is stored as
three numbers of 16 hexadecimal digits (occurred_at, sequence, published_at; ns), three digits with the length of the
status in bytes, and the status. So comparing strings compares times exactly; a double would round nanoseconds.

A foreign value under these keys (another type, not a number, not a record) is deleted when a script meets it. The
ledger then counts as lost, which is logged, and it is rebuilt.
"""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from reactor.core.model import Record, StatusEvent
from reactor.store.keyspace import NOW, WAKE, Keyspace, LedgerError
from reactor.store.leases import TAKE, Lease, LeaseLost

TIDY_S = 60.0
"""How often to look for keys with foreign values."""
_HEAD = 51
_EVENTS = f"""
local function event_at(value, start)
  local head = string.sub(value, start, start + {_HEAD - 1})
  if #head < {_HEAD} or string.find(head, '[^%x]') then return nil end
  local event = string.sub(value, start, start + {_HEAD - 1} + tonumber(string.sub(head, 49), 16))
  return #event == {_HEAD} + tonumber(string.sub(head, 49), 16) and event or nil
end
local function events_of(value)
  local latest = event_at(value, 1)
  if not latest or #latest == #value then return latest, latest end
  local last = event_at(value, #latest + 1)
  if last and #latest + #last == #value then return latest, last end
end
local function record_of(key, ledger)
  local value = redis.pcall('GET', key)
  if not value then return nil end
  if type(value) == 'string' and events_of(value) then return value end
  redis.call('DEL', key)
  redis.call('DEL', ledger)
  return nil
end
"""
_IDENTITY = """
local identity = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
"""
_APPLY = f"""
{NOW}
{WAKE}
{_EVENTS}
local owner = redis.call('HGET', KEYS[2], 'stream')
if owner and owner ~= ARGV[2] then return {{-1, 0, {{}}}} end
local newer, due, stale, head = 0, 0, {{}}, head_of(KEYS[1])
for i = 7, #ARGV, 3 do
  local key, event, at = ARGV[1] .. ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local old = record_of(key, KEYS[2])
  local latest, last = events_of(old or event)
  local later = string.sub(latest, 1, 32) < string.sub(event, 1, 32)
  local further = string.sub(last, 17, 32) < string.sub(event, 17, 32)
  if later then latest = event end
  if further then last = event end
  if later or further or not old then
    newer = newer + 1
    redis.call('SET', key, latest == last and latest or latest .. last)
    if at ~= '' then
      redis.call('ZADD', KEYS[1], math.min(tonumber(at), now + tonumber(ARGV[3])), ARGV[i])
      due = due + 1
    end
  else
    stale[#stale + 1] = (i - 7) / 3
  end
end
if redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('HINCRBY', KEYS[2], 'events', ARGV[5])
  if tonumber(redis.call('HGET', KEYS[2], 'applied') or 0) < tonumber(ARGV[4]) then
    redis.call('HSET', KEYS[2], 'applied', ARGV[4])
  end
end
wake(ARGV[6], KEYS[1], head)
return {{newer, due, stale}}
"""
_READ = f"""
{_EVENTS}
{_IDENTITY}
local records = {{}}
for i = 2, #ARGV do records[i - 1] = record_of(ARGV[1] .. ARGV[i], KEYS[1]) or false end
return {{identity, redis.call('HGETALL', KEYS[1]), records}}
"""
_LEASE_AND_READ = f"""
{TAKE}
local under, token, ttl = table.remove(ARGV), table.remove(ARGV), table.remove(ARGV)
if under ~= '' and redis.call('GET', KEYS[3]) ~= under then return {{}} end
if not take(KEYS[2], token, ttl) then return false end
{_READ}
"""
_RETIRE = """
redis.call('HDEL', KEYS[2], ARGV[1])
if redis.call('GET', KEYS[1]) == ARGV[2] then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
if KEYS[3] and redis.call('GET', KEYS[3]) == ARGV[4] then redis.call('DEL', KEYS[3]) end
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
    "hints": "zset",
    "sourced": "zset",
    "advisory_streams": "zset",
    "surveyed": "string",
    "turn": "string",
    "passed": "string",
    "wanted": "string",
    "last_pass": "string",
    "found": "hash",
    "found_at": "zset",
    "found_state": "string",
    "audit": "stream",
    "intents": "hash",
    "reported": "hash",
    "workers": "hash",
    "drains": "hash",
}
"""Keys with fixed names, and their types. `_TIDY` reads the first three in this order."""
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
    """The ledger in Redis belongs to another lifecycle stream. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The ledger and some records, read at one moment."""

    intact: bool
    """Whether the ledger is complete, and was built in this Redis from this lifecycle stream."""
    built: bool
    """Whether a ledger was ever built in this Redis."""
    since: int | None
    applied: int
    """The highest sequence of the lifecycle stream that was written."""
    events: int
    """The number of readable events since the ledger was built."""
    records: Mapping[str, Record] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Applied:
    """How many events were new, how many jobs became due by them, and which events were not new."""

    newer: int
    due: int
    stale: tuple[int, ...] = ()
    """Positions in the batch."""


@dataclass(eq=False, repr=False)
class Records:
    """The records of one namespace. Every method raises LedgerError.

    A terminal job's record expires `ttl_s` after its stream is gone.
    """

    space: Keyspace
    ttl_s: float

    def __post_init__(self) -> None:
        self._tidied_at = float("-inf")
        self._jobs = self.space.key("job", "")

    async def apply(
        self, identity: str, events: Sequence[tuple[str, StatusEvent, int | None]], *, readable: int, grace: int
    ) -> Applied:
        """Write a batch of (job id, event, when to inspect its stream or None). Known events change nothing.

        `identity` is the lifecycle stream's; `readable` of the events were well-formed. No inspection is scheduled
        later than `grace` (ns) from now, even if Redis's clock is wrong. Raises ForeignLedger.
        """
        highest = max((event.seq for _, event, _ in events), default=0)
        wake = self.space.key("wake")
        args: list[str | int] = [self._jobs, identity, grace // 1_000_000, highest, readable, wake]
        for job_id, event, due in events:
            args += [job_id, _pack_event(event), "" if due is None else -(-due // 1_000_000)]
        newer, due_count, stale = await self.space.run(_APPLY, ["due", "ledger"], args)
        if newer < 0:
            message = "the ledger in Redis belongs to another lifecycle stream; it is rebuilt at the next check"
            raise ForeignLedger(message)
        return Applied(newer, due_count, tuple(stale))

    async def read(self, identity: str, job_ids: Sequence[str] = ()) -> Reading:
        """Read these jobs, and the state of the ledger of that lifecycle stream, at one moment."""
        answer = await self.space.run(_READ, ["ledger"], [self._jobs, *job_ids])
        return self._reading(answer, identity, job_ids)

    async def lease_and_read(
        self, lease: Lease, identity: str, job_id: str, under: Lease | None = None
    ) -> Reading | None:
        """Acquire a lease and read the job in one round trip. Return None if another process holds the lease.

        Raises LeaseLost if the caller no longer holds `under`, the lease of its pass.
        """
        args: list[str | int] = [self._jobs, job_id, lease.milliseconds, lease.token, under.token if under else ""]
        keys = ["ledger", f"lease:{lease.what}", f"lease:{under.what if under else ''}"]
        answer = await self.space.run(_LEASE_AND_READ, keys, args)
        if under and answer == []:
            raise LeaseLost(f"another replica has taken over the {under.what}; this one begins nothing more")
        return None if answer is None else self._reading(answer, identity, [job_id])

    def _reading(self, answer: list[Any], identity: str, job_ids: Sequence[str]) -> Reading:
        redis_identity, flat, values = answer
        head = dict(zip(flat[::2], flat[1::2], strict=True))
        whole = (head.get("state"), head.get("redis"), head.get("stream")) == ("complete", redis_identity, identity)
        try:
            since, applied, events = (int(head.get(name) or 0) for name in ("since", "applied", "events"))
        except ValueError as error:
            self.space.has_refused = True
            raise LedgerError(f"the ledger in Redis was altered by another program: {error}") from error
        return Reading(
            intact=whole,
            built="stream" in head,
            since=since or None,
            applied=applied,
            events=events,
            records={job: _unpack(value) for job, value in zip(job_ids, values, strict=False) if value is not None},
        )

    async def all(self) -> dict[str, Record]:
        """Return all records by job. This takes time if there are many, and may miss concurrent changes."""
        records = dict[str, Record]()
        keys = await self._keys()
        for first in range(0, len(keys), 1000):
            batch = keys[first : first + 1000]
            async with self.space.redis.pipeline(transaction=False) as pipe:
                for key in batch:
                    pipe.get(key)
                values = await pipe.execute(raise_on_error=False)
            for key, value in zip(batch, values, strict=True):
                with suppress(ValueError, AttributeError):  # deleted since, or a foreign value
                    records[key.removeprefix(self._jobs)] = _unpack(value)
        return records

    async def _keys(self) -> list[str]:
        """Return the keys of all records. The namespace may hold characters that have a meaning in a glob."""
        match = re.sub(r"([*?\[\]\\^])", r"\\\1", self._jobs) + "*"
        return [cast("str", key) async for key in self.space.redis.scan_iter(match=match, count=1000)]

    async def tidy(self) -> list[str]:
        """Delete keys with foreign values, and return them. If there were any, the ledger counts as lost.

        It looks once in `TIDY_S`, and at once after a script has failed.
        """
        if not self.space.has_refused and time.monotonic() - self._tidied_at < TIDY_S:
            return []
        self.space.has_refused, self._tidied_at = False, time.monotonic()
        return list(await self.space.run(_TIDY, list(_KINDS), list(_KINDS.values())))

    async def owner(self) -> str | None:
        """Return the lifecycle stream that this ledger was built from; None if no ledger was built."""
        return cast("str | None", await cast("Any", self.space.redis.hget(self.space.key("ledger"), "stream")))

    async def retire(self, job_id: str, record: Record | None, lease: Lease | None = None) -> None:
        """Reset the failed drains of a job whose stream is gone, and let its record expire unless it has changed.

        `lease`, if given, is released in the same round trip.
        """
        keys = [f"job:{job_id}", "attempts"]
        args: list[str | int] = [job_id, _pack(record) if record else "", int(self.ttl_s * 1000)]
        if lease is not None:
            keys.append(f"lease:{lease.what}")
            args.append(lease.token)
        await self.space.run(_RETIRE, keys, args)

    async def begin_rebuild(self, identity: str, token: str) -> None:
        """Mark the ledger as incomplete. Records of another lifecycle stream are deleted: they prove nothing here."""
        owner = await self.space.run(_BEGIN, ["ledger"], [identity, token])
        if owner is not None and owner != identity:
            await self._drop(await self._keys())

    async def complete_rebuild(self, token: str, since: int | None, applied: int) -> bool:
        """Mark the ledger as complete. Return False if Redis was changed meanwhile, or another rebuild has begun."""
        args: list[str | int] = [token, "" if since is None else since, applied]
        return bool(await self.space.run(_COMPLETE, ["ledger"], args))

    async def _drop(self, keys: Iterable[str]) -> None:
        await self.space.redis.unlink(self.space.key("due"), *keys)


def _pack(record: Record) -> str:
    latest, last = _pack_event(record.latest), _pack_event(record.last)
    return latest if latest == last else latest + last


def _pack_event(event: StatusEvent) -> str:
    length = len(event.status.encode("utf-8", "surrogateescape"))
    return f"{event.occurred_at:016x}{event.seq:016x}{event.published_at:016x}{length:03x}{event.status}"


def _unpack(value: str) -> Record:
    raw = value.encode("utf-8", "surrogateescape")
    latest, rest = _unpack_event(raw)
    return Record(latest, _unpack_event(rest)[0] if rest else latest)


def _unpack_event(raw: bytes) -> tuple[StatusEvent, bytes]:
    """Return the first event, and the rest."""
    occurred_at, seq, published_at = (int(raw[start : start + 16], 16) for start in (0, 16, 32))
    end = _HEAD + int(raw[48:_HEAD], 16)
    return StatusEvent(occurred_at, seq, raw[_HEAD:end].decode("utf-8", "surrogateescape"), published_at), raw[end:]
