"""Records: the last events of each job, and whose ledger they make up. Keys (see `ledger`): `job:…`, `ledger`.

A live record never expires: its loss would look like a job that does not exist. A word is three numbers of 16
hexadecimal digits (occurred_at, sequence, published_at; ns), three digits with the length of the status in bytes, and
the status: so age is a comparison of strings, exact, whereas a double would round nanoseconds.

Whatever stands under these keys and was not written here (another type, no number, no record) is taken away where it
is met, and the ledger then counts as lost: it is said, and rebuilt.
"""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import InitVar, dataclass, field
from typing import Any, cast

from redis.asyncio import Redis

from reactor.core.model import Record, StatusEvent
from reactor.store.leases import TAKE, Lease, LeaseLost
from reactor.store.scripts import NOW, WAKE, LedgerError, Script, Scripts, key_of

TIDY_S = 60.0
"""How often to look for keys that hold what was not written here."""
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
_APPLY = f"""
{NOW}
{WAKE}
{_WORDS}
local owner = redis.call('HGET', KEYS[2], 'stream')
if owner and owner ~= ARGV[2] then return {{-1, 0, {{}}}} end
local newer, due, stale, head = 0, 0, {{}}, head_of(KEYS[1])
for i = 7, #ARGV, 3 do
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
{_WORDS}
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
    "captors": "zset",
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


@dataclass(frozen=True, slots=True)
class Reading:
    """What the ledger knows, all of one moment."""

    intact: bool
    """Complete, in this very Redis, and of this very lifecycle stream."""
    built: bool
    """Whether there ever was a ledger in this Redis."""
    since: int | None
    applied: int
    """The highest sequence of the lifecycle stream that was written here."""
    events: int
    """Readable events since the ledger was built."""
    records: Mapping[str, Record] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Applied:
    """How many events were newer than what was known, how many jobs became due by them, and which were not newer."""

    newer: int
    due: int
    stale: tuple[int, ...] = ()
    """Positions in the batch."""


@dataclass(eq=False, repr=False)
class Records:
    """The records of one namespace. Every method raises LedgerError.

    `ttl_s` counts from when a terminal job's stream is gone.
    """

    redis: Redis
    scripts: Scripts
    namespace: str
    ttl_s: InitVar[float]

    def __post_init__(self, ttl_s: float) -> None:
        scripts = self.scripts
        self._tidied_at = float("-inf")
        self._ttl_ms = int(ttl_s * 1000)
        self._apply = Script(scripts, _APPLY)
        self._read = Script(scripts, _READ)
        self._lease_and_read = Script(scripts, _LEASE_AND_READ)
        self._retire = Script(scripts, _RETIRE)
        self._tidy = Script(scripts, _TIDY)
        self._begin = Script(scripts, _BEGIN)
        self._complete = Script(scripts, _COMPLETE)

    def _key(self, *parts: str) -> str:
        return key_of(self.namespace, *parts)

    @property
    def _all_records(self) -> str:
        """A glob for the keys of all records; a namespace may hold characters that mean something in one."""
        return re.sub(r"([*?\[\]\\^])", r"\\\1", self._key("job", "")) + "*"

    async def apply(
        self, identity: str, events: Sequence[tuple[str, StatusEvent, int | None]], *, readable: int, grace: int
    ) -> Applied:
        """Write a batch of (job id, word, when to look or None) in one round trip; known ones change nothing.

        `identity` is the lifecycle stream's, `readable` how many of the batch were well-formed. No look is put
        further off than `grace` (ns) from now, however Redis's clock stands. Raises ForeignLedger.
        """
        highest = max((event.seq for _, event, _ in events), default=0)
        args: list[str | int] = [
            self._key("job", ""),
            identity,
            grace // 1_000_000,
            highest,
            readable,
            self._key("wake"),
        ]
        for job_id, event, due in events:
            args += [job_id, _pack_event(event), "" if due is None else -(-due // 1_000_000)]
        newer, due_count, stale = await self._apply(keys=[self._key("due"), self._key("ledger")], args=args)
        if newer < 0:
            message = "the ledger in Redis belongs to another lifecycle stream; it is rebuilt at the next check"
            raise ForeignLedger(message)
        return Applied(newer, due_count, tuple(stale))

    async def read(self, identity: str, job_ids: Sequence[str] = ()) -> Reading:
        """Read these jobs, and whether the ledger of that lifecycle stream is whole, in one moment."""
        answer = await self._read(keys=[self._key("ledger")], args=[self._key("job", ""), *job_ids])
        return self._reading(answer, identity, job_ids)

    async def lease_and_read(
        self, lease: Lease, identity: str, job_id: str, under: Lease | None = None
    ) -> Reading | None:
        """Take a lease and read, in one round trip; None if somebody else holds it.

        Raises LeaseLost if `under`, the lease that this one is taken under, is held no longer.
        """
        milliseconds, token = int(lease.seconds * 1000), under.token if under else ""
        args: list[str | int] = [self._key("job", ""), job_id, milliseconds, lease.token, token]
        keys = [self._key("ledger"), self._key("lease", lease.what), self._key("lease", under.what if under else "")]
        answer = await self._lease_and_read(keys=keys, args=args)
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
            self.scripts.has_refused = True
            raise LedgerError(f"the ledger in Redis was altered by somebody else: {error}") from error
        return Reading(
            intact=whole,
            built="stream" in head,
            since=since or None,
            applied=applied,
            events=events,
            records={job: _unpack(value) for job, value in zip(job_ids, values, strict=False) if value is not None},
        )

    async def all(self) -> dict[str, Record]:
        """Return every record, by job. Takes a while if there are many, and may miss what is written meanwhile."""
        prefix, found = self._key("job", ""), dict[str, Record]()
        keys = [key async for key in self.redis.scan_iter(match=self._all_records, count=1000)]
        for first in range(0, len(keys), 1000):
            some = cast("list[str]", keys[first : first + 1000])
            async with self.redis.pipeline(transaction=False) as pipe:
                for key in some:
                    pipe.get(key)
                values = await pipe.execute(raise_on_error=False)
            for key, value in zip(some, values, strict=True):
                with suppress(ValueError, AttributeError):  # gone since, or nothing of ours
                    found[key.removeprefix(prefix)] = _unpack(value)
        return found

    async def tidy(self) -> list[str]:
        """Take away what cannot have been written here; the keys. If there were any, the ledger counts as lost.

        It looks once in `TIDY_S`, and at once after a script has met such a key.
        """
        if not self.scripts.has_refused and time.monotonic() - self._tidied_at < TIDY_S:
            return []
        self.scripts.has_refused, self._tidied_at = False, time.monotonic()
        keys = [self._key(name) for name in _KINDS]
        return list(await self._tidy(keys=keys, args=list(_KINDS.values())))

    async def owner(self) -> str | None:
        """Return the lifecycle stream that this ledger was built from; None for a ledger that never was."""
        return cast("str | None", await cast("Any", self.redis.hget(self._key("ledger"), "stream")))

    async def retire(self, job_id: str, record: Record | None, lease: Lease | None = None) -> None:
        """Forget a job whose stream is gone: its failed drains, and its record unless it was heard of since.

        The lease, if one is held, is given back in the same round trip.
        """
        keys = [self._key("job", job_id), self._key("attempts")]
        args: list[str | int] = [job_id, _pack(record) if record else "", self._ttl_ms]
        if lease is not None:
            keys.append(self._key("lease", lease.what))
            args.append(lease.token)
        await self._retire(keys=keys, args=args)

    async def begin_rebuild(self, identity: str, token: str) -> None:
        """Vouch for nothing from here on. Records of another lifecycle stream are dropped: they prove nothing here."""
        owner = await self._begin(keys=[self._key("ledger")], args=[identity, token])
        if owner is not None and owner != identity:
            await self._drop([key async for key in self.redis.scan_iter(match=self._all_records, count=1000)])

    async def complete_rebuild(self, token: str, since: int | None, applied: int) -> bool:
        """Vouch again, unless Redis was changed or emptied meanwhile, or another rebuild has begun."""
        args: list[str | int] = [token, "" if since is None else since, applied]
        return bool(await self._complete(keys=[self._key("ledger")], args=args))

    async def _drop(self, keys: Iterable[str]) -> None:
        await self.redis.unlink(self._key("due"), *keys)


def _pack(record: Record) -> str:
    latest, last = _pack_event(record.latest), _pack_event(record.last)
    return latest if latest == last else latest + last


def _pack_event(event: StatusEvent) -> str:
    length = len(event.status.encode("utf-8", "surrogateescape"))
    return f"{event.occurred_at:016x}{event.seq:016x}{event.published_at:016x}{length:03x}{event.status}"


def _unpack(value: str) -> Record:
    raw = value.encode("utf-8", "surrogateescape")
    latest, rest = _unpack_word(raw)
    return Record(latest, _unpack_word(rest)[0] if rest else latest)


def _unpack_word(raw: bytes) -> tuple[StatusEvent, bytes]:
    """Return the word in front, and what follows it."""
    occurred_at, seq, published_at = (int(raw[start : start + 16], 16) for start in (0, 16, 32))
    end = _HEAD + int(raw[48:_HEAD], 16)
    return StatusEvent(occurred_at, seq, raw[_HEAD:end].decode("utf-8", "surrogateescape"), published_at), raw[end:]
