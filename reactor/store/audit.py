"""The audit trail: a capped Redis stream with the intent before a deletion and the outcome after it.

Keys, each under the namespace:

    audit    stream  entries, oldest dropped first
    intents  hash    deletions begun and not yet accounted for, by stream
    drains   hash    streams drained: by minute and reason (two days), by day (a week), and the bytes they held in all
    reported hash    what would have been deleted, as long as nothing has happened to it since, by stream

An entry is of one of these phases: `intent`, `outcome`; `unfixable`, which tells of an attempt that came to nothing;
`prepared`; what an operator has ordered (`paused`, `resumed`, `protected`, `unprotected`, `restored`); in report mode
`would_drain`, once for each stream, and `afterwards`, which tells what has become of it.
Every deletion gets exactly one outcome, also if the process that began was killed: whoever takes the intent out of
the hash writes it. An intent that a later attempt takes over shares that one's.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import InitVar, dataclass
from typing import Any, ClassVar, cast

from pydantic_core import to_json
from redis.asyncio import Redis

from reactor.core.model import AUDIT_ENTRIES, Reason
from reactor.core.rules import DEFAULT
from reactor.core.schemas import Entry
from reactor.store.scripts import Script, Scripts

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
  local readable, told = pcall(cjson.decode, known)
  is_known = readable and type(told) == 'table' and told.created == ARGV[4]
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
"""A key of the stream and its fields."""
_ALWAYS = {"phase", "stream", "job_id", "reason", "by", "at"}
"""What every entry tells."""


@dataclass(frozen=True, slots=True)
class Intent:
    """A deletion begun: which stream, of which job, judged why, by whose token."""

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
    """Bytes that it held."""
    actor: dict[str, Any] | None = None
    """The process and the person (see `core/actor`)."""
    event: dict[str, Any] | None = None
    """The word that condemned its job: status, times, sequence in the lifecycle stream, source."""
    directory: dict[str, Any] | None = None
    """What the job system's own directory said, if it decides."""
    guards: list[dict[str, Any]] | None = None
    """Each with its length and when it passed."""
    rule: str = DEFAULT
    """By which rule the stream was judged; `default` for the settings, `stream` for its own metadata."""

    TOLD_TO_ALL: ClassVar = ("stream", "job_id", "reason", "rule", "created", "status", "messages", "by", "at")
    """What an outcome event tells."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that came to nothing: on which stream, why, the how-manieth in a row, and when the next one is."""

    stream: str
    job_id: str
    reason: str
    detail: str
    attempts: int
    retry_s: float | None
    """Seconds; None if it is left to the next full pass."""
    by: str
    at: str


@dataclass(frozen=True, slots=True)
class Order:
    """What an operator has ordered: of which stream, if it was one, and why."""

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
    """By minute since 1970, and by reason; of the last two days."""
    days: Mapping[int, int]
    """By day since 1970 (UTC); of the last week."""
    size: int
    """Bytes that all of them held."""


@dataclass(eq=False, repr=False)
class Audit:
    """The trail in one Redis. Every method raises redis.exceptions.RedisError.

    Keys are prefixed by the namespace.
    """

    redis: Redis
    scripts: InitVar[Scripts]
    namespace: InitVar[str]

    def __post_init__(self, scripts: Scripts, namespace: str) -> None:
        self._trail = f"{namespace}:audit"
        self._intents = f"{namespace}:intents"
        self._lease_of = f"{namespace}:lease:stream:"
        self._intent = Script(scripts, _INTENT)
        self._outcome = Script(scripts, _OUTCOME)
        self._reported = f"{namespace}:reported"
        self._drains = f"{namespace}:drains"
        self._report = Script(scripts, _REPORT)
        self._afterwards = Script(scripts, _AFTERWARDS)

    async def intend(self, intent: Intent, made_of: Mapping[str, Any]) -> bool:
        """Write down what is about to happen, before it does; whether its token holds the stream's lease still.

        `made_of` is what it takes to make the stream again.
        """
        evidence, recipe = to_json(intent), to_json(made_of)
        args: list[str | int | bytes] = [intent.stream, evidence, AUDIT_ENTRIES, intent.token, recipe]
        keys = [self._trail, self._intents, f"{self._lease_of}{intent.stream}"]
        return bool(await self._intent(keys=keys, args=args))

    async def conclude(
        self, stream: str, token: str | None, outcome: str, detail: str, *, proof: str = "", backup: str = ""
    ) -> bool:
        """Write down what came of a stream's open intent.

        False if that was done already, or if the intent is another's; a token of None matches any intent.
        """
        args: list[str | int] = [stream, token or "", AUDIT_ENTRIES, outcome, detail, proof, backup]
        return bool(await self._outcome(keys=[self._trail, self._intents, self._drains], args=args))

    async def fail(self, failure: Failure) -> None:
        """Write down an attempt that came to nothing."""
        await self._add("unfixable", failure)

    async def report(self, intent: Intent) -> bool:
        """Write down what would have been deleted; False if that stream was told of already."""
        args: list[str | int | bytes] = [intent.stream, to_json(intent), AUDIT_ENTRIES, intent.created]
        return bool(await self._report(keys=[self._trail, self._reported], args=args))

    async def afterwards(self, stream: str, what: str, at: str) -> bool:
        """Write down what has become of a stream that would have been deleted; False if there was none such."""
        args: list[str | int] = [stream, AUDIT_ENTRIES, what, at]
        return bool(await self._afterwards(keys=[self._trail, self._reported], args=args))

    async def prepared(self, intent: Intent) -> None:
        """Write down that a stream was emptied for a job that is started again."""
        await self._add("prepared", intent)

    async def ordered(self, phase: str, order: Order) -> None:
        """Write down what an operator has ordered."""
        await self._add(phase, order)

    async def _add(self, phase: str, evidence: Intent | Failure | Order) -> None:
        entry = {"phase": phase, "evidence": to_json(evidence)}
        await self.redis.xadd(self._trail, cast("Any", entry), maxlen=AUDIT_ENTRIES, approximate=True)

    async def drains(self) -> Drains:
        """Return how many streams were drained: counted as they fall, so no cap of the audit makes them fewer."""
        minutes, days, size = dict[int, dict[str, int]](), dict[int, int](), 0
        for field, count in cast("dict[str, str]", await cast("Any", self.redis.hgetall(self._drains))).items():
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
        """Return streams that would have been deleted, and of which nothing was heard since."""
        return set(await cast("Any", self.redis.hkeys(self._reported)))

    async def is_open(self, stream: str) -> bool:
        """Return whether a deletion of this stream was begun and is not accounted for."""
        return bool(await cast("Any", self.redis.hexists(self._intents, stream)))

    async def open_intents(self) -> dict[str, Intent]:
        """Return deletions begun and not accounted for, by stream."""
        raw = cast("dict[str, str]", await cast("Any", self.redis.hgetall(self._intents)))
        read = {stream: _read_intent(text) for stream, text in raw.items()}
        if garbage := [stream for stream, intent in read.items() if intent is None]:
            await cast("Any", self.redis.hdel(self._intents, *garbage))
        return {stream: intent for stream, intent in read.items() if intent is not None}

    async def newest(self, limit: int) -> list[Entry]:
        """Return the last entries, newest first: phase, the intent's fields, and an outcome's own."""
        entries = cast("list[_Raw]", await self.redis.xrevrange(self._trail, count=limit))
        return list(_readable(entries))

    async def since(self, key: str, limit: int) -> tuple[list[Entry], str]:
        """Return entries after that key (`0` for all), oldest first, each with its `key`; and the key to go on from."""
        entries = cast("list[_Raw]", await self.redis.xrange(self._trail, min=f"({key}", count=limit))
        return list(_readable(entries)), entries[-1][0] if entries else key

    async def holds(self, key: str) -> bool:
        """Return whether the entry with that key is still there."""
        return bool(await self.redis.xrange(self._trail, min=key, max=key))


def _readable(entries: Iterable[_Raw]) -> Iterator[Entry]:
    """Yield the entries that were written by reactor."""
    for key, fields in entries:
        with suppress(KeyError, ValueError, TypeError):
            entry = {"key": key, **fields, **json.loads(fields["evidence"])}
            del entry["evidence"]
            if entry.keys() >= _ALWAYS:
                yield cast("Entry", entry)


def _read_intent(text: str) -> Intent | None:
    """Read an intent; one of another release may hold more."""
    with suppress(ValueError, TypeError, AttributeError):
        directory = json.loads(text)
        intent = Intent(**{name: directory[name] for name in Intent.__slots__ if name in directory})
        return intent if intent.reason in set(Reason) else None
    return None
