"""The audit trail: a capped Redis stream with the intent before a deletion and the outcome after it.

Keys, each under the namespace:

    audit    stream  entries, oldest dropped first
    intents  hash    deletions begun and not yet accounted for, by stream

Every intent gets exactly one outcome, also where the process that began was killed: whoever takes the intent out of
the hash writes it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio import Redis

MAX_ENTRIES = 10_000

_OUTCOME = """
local intent = redis.call('HGET', KEYS[2], ARGV[1])
if not intent or (ARGV[2] ~= '' and cjson.decode(intent).token ~= ARGV[2]) then return 0 end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', unpack(ARGV, 4))
return 1
"""

Entry = dict[str, str]


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

    def fields(self) -> dict[str, str]:
        """As the trail keeps them."""
        return {name: str(getattr(self, name)) for name in self.__slots__}


class Audit:
    """The trail in one Redis. Every method raises redis.exceptions.RedisError."""

    def __init__(self, redis: Redis, namespace: str) -> None:
        """Keys are prefixed by the namespace."""
        self._redis = redis
        self._trail = f"{namespace}:audit"
        self._intents = f"{namespace}:intents"
        self._outcome = redis.register_script(_OUTCOME)

    async def intend(self, intent: Intent) -> None:
        """Write down what is about to happen, before it does."""
        fields = intent.fields()
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.xadd(self._trail, cast("Any", {"phase": "intent", **fields}), maxlen=MAX_ENTRIES)
            pipe.hset(self._intents, intent.stream, json.dumps(fields))
            await pipe.execute()

    async def conclude(self, intent: Intent, outcome: str, detail: str, *, own: bool = True) -> bool:
        """Write down what came of it. False where that was done already, or where, if `own`, it was another's."""
        fields: Mapping[str, str] = {"phase": "outcome", **intent.fields(), "outcome": outcome, "detail": detail}
        flat = [part for pair in fields.items() for part in pair]
        args: list[str | int] = [intent.stream, intent.token if own else "", MAX_ENTRIES, *flat]
        return bool(await self._outcome(keys=[self._trail, self._intents], args=args))

    async def open_intents(self) -> dict[str, Intent]:
        """Deletions begun and not accounted for, by stream."""
        raw = cast("dict[str, str]", await cast("Any", self._redis.hgetall(self._intents)))
        return {stream: _read_intent(text) for stream, text in raw.items()}

    async def newest(self, limit: int) -> list[Entry]:
        """The last entries, newest first."""
        entries = cast("list[tuple[str, Entry]]", await self._redis.xrevrange(self._trail, count=limit))
        return [fields for _, fields in entries]


def _read_intent(text: str) -> Intent:
    fields = json.loads(text)
    return Intent(**fields | {"messages": int(fields["messages"])})
