"""JetStream's client on connections that end, with the event loop of the commands."""

import asyncio
from typing import Any

import pytest
import uvloop
from support.harness import World

from reactor.jetstream.client import JetStream
from reactor.jetstream.errors import JetStreamError


@pytest.mark.parametrize("buffered", [True, False])
async def test_a_transport_that_is_closed_is_an_error_of_ours(world: World, buffered: bool) -> None:  # noqa: FBT001  # a table
    """Whatever the loop raises. Closing it raises nothing."""

    async def ask() -> list[str]:
        js = JetStream({"servers": [world.nats_url]}, buffered=buffered, timeout=1.0)
        said = []
        for _ in range(3):
            client: Any = await js.connect()
            client._transport.close()  # as the other end would
            client._flusher_task.cancel()
            await asyncio.sleep(0)
            try:
                await js.call("INFO")
            except JetStreamError as error:
                said.append(type(error).__name__)
        client = await js.connect()
        client._pending.append(b"PING\r\n")
        client._pending_data_size += 6
        client._transport.close()
        await js.close()
        return said

    def on_uvloop() -> list[str]:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(ask())

    assert set(await asyncio.to_thread(on_uvloop)) <= {"Unreachable", "Unanswered"}
