"""PostgreSQL notifications: the ids of jobs whose row was changed or deleted.

A notification is a hint to inspect, like an advisory. The next full pass finds what was missed.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from asyncpg.exceptions import InterfaceError, PostgresError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from reactor.job_status.protocol import ListenError

LIVE_S = 20.0
"""After this long without a notification the connection is tested."""
MOST = 10_000
"""How many ids may wait. More are left to the next full pass."""

_Away = (OSError, TimeoutError, SQLAlchemyError, PostgresError, InterfaceError)


@dataclass(eq=False, repr=False)
class Notifications:
    """Listens on one channel, over its own connection. It subscribes at the first `wait`."""

    engine: AsyncEngine
    channel: str

    def __post_init__(self) -> None:
        self._connection: AsyncConnection | None = None
        self._received = asyncio.Queue[str | None](MOST)
        """None means that the connection has ended."""

    async def wait(self) -> set[str] | None:
        """Return jobs to inspect, maybe none; None if we have only subscribed now. Raises ListenError."""
        try:
            if self._connection is None:
                await self._listen()
                return None
            return await self._next(self._connection)
        except _Away as error:
            await self.close()
            raise ListenError(str(error) or type(error).__name__) from error

    async def _listen(self) -> None:
        self._connection = await self.engine.connect()
        driver = await _driver(self._connection)
        self._received = asyncio.Queue(MOST)
        driver.add_termination_listener(self._end)
        await driver.add_listener(self.channel, self._receive)

    def _end(self, _connection: object) -> None:
        with suppress(asyncio.QueueFull):  # the end is noticed when the queue is empty
            self._received.put_nowait(None)

    def _receive(self, _connection: object, _process: int, _channel: str, payload: str) -> None:
        with suppress(asyncio.QueueFull):
            self._received.put_nowait(payload)

    async def _next(self, connection: AsyncConnection) -> set[str]:
        try:
            received = {await asyncio.wait_for(self._received.get(), LIVE_S)}
        except TimeoutError:
            await (await _driver(connection)).execute("SELECT 1", timeout=LIVE_S)
            return set()
        while not self._received.empty():
            received.add(self._received.get_nowait())
        if None in received:
            raise ConnectionError("the connection was ended")
        return {job for job in received if job is not None}

    async def close(self) -> None:
        """Stop listening. No error if the connection is gone."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*_Away):
                await connection.invalidate()
                await connection.close()


async def _driver(connection: AsyncConnection) -> Any:  # noqa: ANN401  # asyncpg's connection
    return cast("Any", (await connection.get_raw_connection()).driver_connection)
