"""JetStream's snapshots: the server packs a stream with its messages and consumers, and restores it.

The server sends the chunks of an archive to our inbox and waits for acknowledgements when its window is full. An empty
message ends them, and its status header shows success. A restore sends chunks the other way, and an empty one ends it.
So neither side holds more than a window in memory.
https://github.com/nats-io/nats-server/blob/main/server/jetstream_api.go (streamSnapshot, processStreamRestore)

Up to 2.12 an archive belongs to its stream's name ("stream names do not match"), and streams in memory have none ("no
impl"). 2.15 has another format without these limits (both tried).
"""

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable

import nats.errors
from nats.aio.msg import Msg

from reactor.core.stream_info import Raw
from reactor.jetstream.client import JetStream
from reactor.jetstream.connection import answered
from reactor.jetstream.errors import Refused, Unanswered, Unreachable

CHUNK = 128 * 1024
SILENT_S = 15.0
"""How long to wait for the next chunk. The server gives up long before that."""
RESTORING_S = 600.0
"""How long the server may take to build the stream from the archive."""
_DONE = "204"

Sink = Callable[[bytes], Awaitable[None]]


async def snapshot(js: JetStream, stream: str, sink: Sink) -> Raw:
    """Pass a stream's archive to `sink`, chunk by chunk. Return the server's config and state of the stream.

    Raises JetStreamError, and whatever `sink` raises. Then the archive is incomplete.
    """
    client = await js.connect()
    inbox, chunks = client.new_inbox(), asyncio.Queue[Msg]()
    subscription = await client.subscribe(inbox, cb=chunks.put, pending_bytes_limit=-1, pending_msgs_limit=-1)
    try:
        request = {"deliver_subject": inbox, "no_consumers": False, "chunk_size": CHUNK}
        described = await js.call(f"STREAM.SNAPSHOT.{stream}", request)
        while (chunk := await _next(chunks, stream)).data:
            await sink(bytes(chunk.data))
            if chunk.reply:  # not before it is written: so no more than a window is ever under way
                await client.publish(chunk.reply)
        status = (chunk.headers or {}).get("Status", _DONE)
        if not status.startswith(_DONE):
            raise Refused(int(status) if status.isdigit() else 0, 0, f"the server broke off its snapshot: {status}")
    except nats.errors.Error as error:
        raise Unreachable(f"the snapshot of {stream} broke off: {str(error) or type(error).__name__}") from error
    else:
        return described
    finally:
        if not client.is_closed:
            await subscription.unsubscribe()


async def _next(chunks: asyncio.Queue[Msg], stream: str) -> Msg:
    try:
        return await asyncio.wait_for(chunks.get(), SILENT_S)
    except TimeoutError as error:
        raise Unanswered(f"the snapshot of {stream} broke off: nothing came for {SILENT_S:g} s") from error


async def restore(js: JetStream, config: Raw, state: Raw, chunks: AsyncIterable[bytes]) -> Raw:
    """Create a stream from an archive, with this config. Return its STREAM.INFO.

    Raises Refused (the stream exists, the archive is of another name, or there is no room), JetStreamError, and
    whatever reading `chunks` raises. Then no stream was created.
    """
    begun = await js.call(f"STREAM.RESTORE.{config['name']}", {"config": config, "state": state})
    client, subject = await js.connect(), begun["deliver_subject"]
    try:
        async for chunk in chunks:
            for start in range(0, len(chunk), client.max_payload):
                piece = chunk[start : start + client.max_payload]
                if refused := bytes((await client.request(subject, piece, timeout=SILENT_S)).data):
                    answered(refused)
        return answered(bytes((await client.request(subject, b"", timeout=RESTORING_S)).data))
    except nats.errors.Error as error:
        raise Unanswered(f"restoring {config['name']} broke off: {str(error) or type(error).__name__}") from error
