"""Lua in Redis. Calls that are made while another is under way share the next round trip.

A drain needs a handful of small scripts, many drains run at once, and a round trip costs the client far more than
the script costs Redis: together they go through one pipeline, each with its own answer or error.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

LedgerError = RedisError
"""Redis is away, full, read-only or otherwise unwilling: nothing was lost, try again later."""

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
"""Wakes those who wait for a queue's head: there is an earlier one."""

Argument = str | int | bytes


class _Call(NamedTuple):
    script: "Script"
    keys: Sequence[str]
    args: Sequence[Argument]
    answer: "asyncio.Future[Any]"


@dataclass(eq=False, repr=False)
class Scripts:
    """Scripts of one Redis.

    Nothing is loaded before it is called.
    """

    redis: Redis

    def __post_init__(self) -> None:
        self._waiting: list[_Call] = []
        self.has_refused = False
        """Whether a script ended with an error since somebody set this to False: a key may hold what is not ours."""
        self._sender: asyncio.Task[None] | None = None

    async def call(self, script: "Script", keys: Sequence[str], args: Sequence[Argument]) -> Any:  # noqa: ANN401  # Lua's
        """Run one call and return its answer. Raises RedisError."""
        call = _Call(script, keys, args, asyncio.get_running_loop().create_future())
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
                    _fail(call, error)  # whatever it is: no caller may wait without end
                if not isinstance(error, Exception):
                    raise

    async def _pipelined(self, calls: Sequence[_Call]) -> list[Any]:
        async with self.redis.pipeline(transaction=False) as pipe:
            for call in calls:
                pipe.execute_command("EVALSHA", call.script.sha, len(call.keys), *call.keys, *call.args)
            return await pipe.execute(raise_on_error=False)

    async def _answer(self, call: _Call, answer: Any) -> None:  # noqa: ANN401  # as above
        if isinstance(answer, NoScriptError):  # a Redis that is new to us, or forgot: EVAL makes it learn
            try:
                answer = await self.redis.eval(call.script.lua, len(call.keys), *call.keys, *call.args)
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


@dataclass(eq=False, repr=False)
class Script:
    """One script, to be called.

    The hash is what Redis knows it by.
    """

    scripts: Scripts
    lua: str

    def __post_init__(self) -> None:
        self.sha = sha1(self.lua.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, keys: Sequence[str], args: Sequence[Argument]) -> Any:  # noqa: ANN401  # as above
        """Run the script. Raises RedisError."""
        return await self.scripts.call(self, keys, args)


def key_of(namespace: str, *parts: str) -> str:
    """Return a key of that namespace."""
    return ":".join((namespace, *parts))
