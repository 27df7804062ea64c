"""JetStream's own snapshots: a stream with its messages and consumers, as the server packs it and takes it back.

The server sends chunks of an archive to a subject of ours, to be acknowledged before more come than its window holds;
an empty message ends them, and its status header says whether all is well. A restore goes the other way, chunk by
chunk, and an empty one ends it. So neither side holds more than a window in memory.
https://github.com/nats-io/nats-server/blob/main/server/jetstream_api.go (streamSnapshot, processStreamRestore)

Up to 2.12 an archive belongs to its stream's name ("stream names do not match"), and there is none of a stream that is
kept in memory ("no impl"); 2.15 has another format, which knows neither limit (both tried).
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
"""How long no chunk may come; the server gives up long before that."""
RESTORING_S = 600.0
"""How long the server may take to put together what it was sent."""
_DONE = "204"

Sink = Callable[[bytes], Awaitable[None]]


async def snapshot(js: JetStream, stream: str, sink: Sink) -> Raw:
    """Hand a stream's archive to `sink` chunk by chunk; the server's own config and state of it.

    Raises JetStreamError, and what `sink` raises: then the archive is worth nothing.
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
    """Make a stream from an archive, with this config; the server's info of it.

    Raises Refused (it exists, the archive is of another one, there is no room), JetStreamError, and what reading
    `chunks` raises: then there is no such stream.
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
