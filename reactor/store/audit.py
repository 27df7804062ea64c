"""The audit trail: a capped Redis stream with an intent before each deletion and its outcome afterwards.

Keys:

    audit     stream  entries; the oldest are dropped first
    intents   hash    open intents by stream: deletions that began and have no outcome yet
    drains    hash    drained streams: by minute and reason (two days), by day (a week), and their bytes in total
    reported  hash    zombies that report mode kept and that have not changed since, by stream

The phases of entries are: `intent` and `outcome`; `unfixable` for a failed attempt; `prepared`; an operator's orders
(`paused`, `resumed`, `protected`, `unprotected`, `restored`); in report mode `would_drain`, once for each stream, and
`afterwards`, which says what happened to it.

Every deletion gets exactly one outcome, even if the process that began it was killed: the process that removes the
intent from the hash writes the outcome. An intent that a later attempt takes over shares the outcome of that attempt.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from pydantic_core import to_json

from reactor.core.model import AUDIT_ENTRIES, Reason
from reactor.core.rules import DEFAULT
from reactor.core.schemas import Entry
from reactor.store.keyspace import Keyspace

_INTENT = """
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'phase', 'intent', 'evidence', ARGV[2], 'made_of', ARGV[5])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return redis.call('GET', KEYS[3]) == ARGV[4] and 1 or 0
"""
_OUTCOME = """
local intent = redis.call('HGET', KEYS[2], ARGV[1])
local readable, begun = pcall(cjson.decode, intent or '')
if not (readable and type(begun) == 'table') then return 0 end
if ARGV[2] ~= '' and begun.token ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[2], ARGV[1])
if ARGV[4] == 'drained' then
  local seconds = tonumber(redis.call('TIME')[1])
  local minute, day = math.floor(seconds / 60), math.floor(seconds / 86400)
  local count = redis.call('HINCRBY', KEYS[3], minute .. ' ' .. (begun.reason or ''), 1)
  redis.call('HINCRBY', KEYS[3], 'day ' .. day, 1)
  redis.call('HINCRBY', KEYS[3], 'bytes', begun.size or 0)
  if count == 1 then
    for _, field in ipairs(redis.call('HKEYS', KEYS[3])) do
      local at, of_day = tonumber(string.match(field, '^(%d+) ')), tonumber(string.match(field, '^day (%d+)'))
      if (at and at < minute - 2880) or (of_day and of_day < day - 7) then redis.call('HDEL', KEYS[3], field) end
    end
  end
end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*',
  'phase', 'outcome', 'evidence', intent, 'outcome', ARGV[4], 'detail', ARGV[5], 'proof', ARGV[6], 'backup', ARGV[7])
return 1
"""
_REPORT = """
local known, is_known = redis.call('HGET', KEYS[2], ARGV[1]), false
if known then
  local readable, before = pcall(cjson.decode, known)
  is_known = readable and type(before) == 'table' and before.created == ARGV[4]
end
if is_known then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'phase', 'would_drain', 'evidence', ARGV[2])
return 1
"""
_AFTERWARDS = """
local known = redis.call('HGET', KEYS[2], ARGV[1])
if not known then return 0 end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*',
  'phase', 'afterwards', 'evidence', known, 'outcome', ARGV[3], 'afterwards_at', ARGV[4])
return 1
"""

_Raw = tuple[str, dict[str, str]]
"""The key and the fields of an entry."""
_ALWAYS = {"phase", "stream", "job_id", "reason", "by", "at"}
"""The fields of every entry."""


@dataclass(frozen=True, slots=True)
class Intent:
    """A deletion that begins: the stream, its job, the reason, and the token of the process."""

    stream: str
    job_id: str
    reason: str
    token: str
    created: str
    status: str
    messages: int
    by: str
    at: str
    size: int = 0
    """The size of the stream in bytes."""
    actor: dict[str, Any] | None = None
    """The process and the person (see `core.actor`)."""
    event: dict[str, Any] | None = None
    """The job's last event: status, times, sequence in the lifecycle stream, source."""
    directory: dict[str, Any] | None = None
    """The job's status in the job system's directory, if that decides."""
    guards: list[dict[str, Any]] | None = None
    """The guards, each with its length and when it passed."""
    rule: str = DEFAULT
    """The rule that the stream was judged by; `default` for the settings, `stream` for its own metadata."""

    PUBLIC_FIELDS: ClassVar = ("stream", "job_id", "reason", "rule", "created", "status", "messages", "by", "at")
    """The fields of the event `reactor.drained.<stream>`."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt: the stream, why, how many in a row, and when the next one is."""

    stream: str
    job_id: str
    reason: str
    detail: str
    attempts: int
    retry_s: float | None
    """Seconds until the next attempt; None if the stream is left to the next full pass."""
    by: str
    at: str


@dataclass(frozen=True, slots=True)
class Order:
    """An operator's order: for which stream, if for one, and why."""

    stream: str
    job_id: str
    detail: str
    by: str
    at: str
    actor: dict[str, Any]
    reason: str = "operator"


@dataclass(frozen=True, slots=True)
class Drains:
    """How many streams were drained, by Redis's clock."""

    minutes: Mapping[int, Mapping[str, int]]
    """By minute since 1970 and by reason, for the last two days."""
    days: Mapping[int, int]
    """By day since 1970 (UTC), for the last week."""
    size: int
    """Their bytes in total."""


@dataclass(eq=False, repr=False)
class Audit:
    """The audit trail of one namespace. Every method raises LedgerError."""

    space: Keyspace

    def __post_init__(self) -> None:
        self._trail, self._intents = self.space.key("audit"), self.space.key("intents")

    async def intend(self, intent: Intent, made_of: Mapping[str, Any]) -> bool:
        """Write an intent. Return whether its token still holds the stream's lease.

        `made_of` is the recipe to create the stream again.
        """
        args: list[str | int | bytes] = [intent.stream, to_json(intent), AUDIT_ENTRIES, intent.token, to_json(made_of)]
        return bool(await self.space.run(_INTENT, ["audit", "intents", f"lease:stream:{intent.stream}"], args))

    async def conclude(
        self, stream: str, token: str | None, outcome: str, detail: str, *, proof: str = "", backup: str = ""
    ) -> bool:
        """Write the outcome of a stream's open intent.

        Return False if it has one already, or if the intent has another token. A token of None matches any intent.
        """
        args: list[str | int] = [stream, token or "", AUDIT_ENTRIES, outcome, detail, proof, backup]
        return bool(await self.space.run(_OUTCOME, ["audit", "intents", "drains"], args))

    async def fail(self, failure: Failure) -> None:
        """Write a failed attempt."""
        await self._add("unfixable", failure)

    async def report(self, intent: Intent) -> bool:
        """Write a zombie that report mode keeps. Return False if it was written before."""
        args: list[str | int | bytes] = [intent.stream, to_json(intent), AUDIT_ENTRIES, intent.created]
        return bool(await self.space.run(_REPORT, ["audit", "reported"], args))

    async def afterwards(self, stream: str, what: str, at: str) -> bool:
        """Write what happened to a zombie that report mode kept. Return False if the stream is not one."""
        return bool(await self.space.run(_AFTERWARDS, ["audit", "reported"], [stream, AUDIT_ENTRIES, what, at]))

    async def prepared(self, intent: Intent) -> None:
        """Write that a stream was emptied before its job is started again."""
        await self._add("prepared", intent)

    async def ordered(self, phase: str, order: Order) -> None:
        """Write an operator's order."""
        await self._add(phase, order)

    async def _add(self, phase: str, evidence: Intent | Failure | Order) -> None:
        entry = {"phase": phase, "evidence": to_json(evidence)}
        await self.space.redis.xadd(self._trail, cast("Any", entry), maxlen=AUDIT_ENTRIES, approximate=True)

    async def drains(self) -> Drains:
        """Return how many streams were drained. They are counted apart from the audit, which is capped."""
        minutes, days, size = dict[int, dict[str, int]](), dict[int, int](), 0
        counts = cast("dict[str, str]", await cast("Any", self.space.redis.hgetall(self.space.key("drains"))))
        for field, count in counts.items():
            first, _, second = field.partition(" ")
            with suppress(ValueError):
                if field == "bytes":
                    size = int(count)
                elif first == "day":
                    days[int(second)] = int(count)
                else:
                    minutes.setdefault(int(first), {})[second] = int(count)
        return Drains(minutes, days, size)

    async def reported(self) -> set[str]:
        """Return the zombies that report mode kept and that have not changed since."""
        return set(await cast("Any", self.space.redis.hkeys(self.space.key("reported"))))

    async def is_open(self, stream: str) -> bool:
        """Return whether this stream has an open intent."""
        return bool(await cast("Any", self.space.redis.hexists(self._intents, stream)))

    async def open_intents(self) -> dict[str, Intent]:
        """Return the open intents by stream."""
        raw = cast("dict[str, str]", await cast("Any", self.space.redis.hgetall(self._intents)))
        read = {stream: _read_intent(text) for stream, text in raw.items()}
        if garbage := [stream for stream, intent in read.items() if intent is None]:
            await cast("Any", self.space.redis.hdel(self._intents, *garbage))
        return {stream: intent for stream, intent in read.items() if intent is not None}

    async def newest(self, limit: int) -> list[Entry]:
        """Return the last entries, newest first."""
        entries = cast("list[_Raw]", await self.space.redis.xrevrange(self._trail, count=limit))
        return list(_readable(entries))

    async def since(self, key: str, limit: int) -> tuple[list[Entry], str]:
        """Return the entries after `key` (`0` for all), oldest first, and the key for the next call."""
        entries = cast("list[_Raw]", await self.space.redis.xrange(self._trail, min=f"({key}", count=limit))
        return list(_readable(entries)), entries[-1][0] if entries else key

    async def has_entry(self, key: str) -> bool:
        """Return whether the entry with that key still exists."""
        return bool(await self.space.redis.xrange(self._trail, min=key, max=key))


def _readable(entries: Iterable[_Raw]) -> Iterator[Entry]:
    """Yield the entries that reactor wrote."""
    for key, fields in entries:
        with suppress(KeyError, ValueError, TypeError):
            entry = {"key": key, **fields, **json.loads(fields["evidence"])}
            del entry["evidence"]
            if entry.keys() >= _ALWAYS:
                yield cast("Entry", entry)


def _read_intent(text: str) -> Intent | None:
    """Read an intent; None if it is not one. An intent of another release may have more fields."""
    with suppress(ValueError, TypeError, AttributeError):
        fields = json.loads(text)
        intent = Intent(**{name: fields[name] for name in Intent.__slots__ if name in fields})
        return intent if intent.reason in set(Reason) else None
    return None
