"""The keys of one namespace in Redis, and Lua scripts that work on them.

A drain runs a few small scripts, and many drains run at once. A round trip costs the client far more than the script
costs Redis. So calls that arrive while another is under way share the next pipeline, each with its own answer or error.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha1
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

LedgerError = RedisError
"""Redis is away, full, read-only, or refuses for another reason. Nothing was lost; try again later."""

NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

WAKE = """
local function head_of(key)
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  return tonumber(first[2]) or math.huge
end
local function wake(channel, key, before)
  if head_of(key) < before then redis.call('PUBLISH', channel, '') end
end
"""
"""Wakes the processes that wait for the head of a queue, if there is an earlier one now."""

Argument = str | int | bytes


class _Call(NamedTuple):
    lua: str
    keys: Sequence[str]
    args: Sequence[Argument]
    answer: "asyncio.Future[Any]"


@dataclass(eq=False, repr=False)
class Keyspace:
    """One namespace in one Redis. `namespace` is the prefix of all its keys."""

    redis: Redis
    namespace: str

    def __post_init__(self) -> None:
        self._waiting: list[_Call] = []
        self.has_refused = False
        """Whether a script has failed since this was last set to False. Then a key may hold a foreign value."""
        self._sender: asyncio.Task[None] | None = None

    def key(self, *parts: str) -> str:
        """Return the full name of a key."""
        return ":".join((self.namespace, *parts))

    async def run(self, lua: str, keys: Sequence[str], args: Sequence[Argument] = ()) -> Any:  # noqa: ANN401  # Lua's
        """Run a script on these keys, which are named without the namespace. Return its answer. Raises RedisError."""
        call = _Call(lua, [self.key(key) for key in keys], args, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send(), name="redis scripts")
        return await call.answer

    async def _send(self) -> None:
        while self._waiting:
            await asyncio.sleep(0)  # other callers join this batch
            calls, self._waiting = self._waiting, []
            try:
                answers = await self._pipelined(calls)
                for call, answer in zip(calls, answers, strict=True):
                    await self._answer(call, answer)
            except BaseException as error:
                for call in calls:
                    _fail(call, error)  # also a cancellation: no caller may wait without end
                if not isinstance(error, Exception):
                    raise

    async def _pipelined(self, calls: Sequence[_Call]) -> list[Any]:
        async with self.redis.pipeline(transaction=False) as pipe:
            for call in calls:
                pipe.execute_command("EVALSHA", _sha_of(call.lua), len(call.keys), *call.keys, *call.args)
            return await pipe.execute(raise_on_error=False)

    async def _answer(self, call: _Call, answer: Any) -> None:  # noqa: ANN401  # as above
        if isinstance(answer, NoScriptError):  # Redis does not know the script yet, or was restarted; EVAL loads it
            try:
                answer = await self.redis.eval(call.lua, len(call.keys), *call.keys, *call.args)
            except RedisError as error:
                answer = error
        if call.answer.done():
            return  # the caller was cancelled
        if isinstance(answer, Exception):
            self.has_refused = True
            call.answer.set_exception(answer)
        else:
            call.answer.set_result(answer)


def _fail(call: _Call, error: BaseException) -> None:
    if not call.answer.done():
        call.answer.set_exception(error if isinstance(error, Exception) else RedisError("given up"))


@lru_cache(maxsize=256)
def _sha_of(lua: str) -> str:
    return sha1(lua.encode(), usedforsecurity=False).hexdigest()
