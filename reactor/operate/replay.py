"""Restore a backup message by message, for servers that restore an archive only under its original name.

Up to nats-server 2.12 an archive can only be restored under its stream's name. So a temporary server restores it under
that name, and the messages are published from there into a new stream. They are published on a subject that only this
stream has, and a transform of the stream maps it back to each message's subject. So no other stream gets them.

Sequences and times are new. Headers that were orders to the server are left out, because the server has executed them.
Consumers continue after the last message that they had acknowledged without a gap.
"""

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from reactor.core.stream_info import Raw, unfinished
from reactor.jetstream.client import JetStream, StoredMessage
from reactor.jetstream.errors import NotFound
from reactor.jetstream.snapshots import restore

MESSAGES, CONSUMERS = "messages", "consumers"
"""The parts that an unfinished restore may lack."""
Scratch = Callable[[], AbstractAsyncContextManager[JetStream]]
"""Another server, empty, and gone afterwards."""
AT_ONCE = 32
"""How many messages are in memory at once. Each may be large."""
_ORDERS = (
    *("nats-msg-id", "nats-rollup", "nats-expected-", "nats-ttl", "nats-incr", "nats-batch-", "nats-schedule"),
    *("nats-marker-reason", "nats-counter-"),
)
"""Headers that are orders to the server, or were added by it."""
_PLAIN: Raw = {"retention": "limits", "num_replicas": 1, "max_age": 0, "sealed": False, "max_consumers": -1}
_ELSEWHERE = ("placement", "republish", "sources", "mirror")


class NotReplayed(Exception):
    """The stream cannot be restored in this way. The message says why."""


async def replay(
    scratch: JetStream, js: JetStream, config: Raw, description: Raw, archive: AsyncIterable[bytes]
) -> None:
    """Create the stream of `config` from an archive of another name, with its consumers. It is marked as unfinished.

    `description` has the config and state in the archive. After JetStreamError or NotReplayed the stream may exist in
    part.
    """
    if config.get("sources"):
        raise NotReplayed("it has sources, whose messages it would take in once more")
    if config.get("allow_msg_counter"):
        raise NotReplayed("it is a counter: its messages are sums, and publishing them again would add them up")
    own = {key: value for key, value in description["config"].items() if key not in _ELSEWHERE} | _PLAIN
    await restore(scratch, own, description["state"], archive)
    consumers = await scratch.consumers(own["name"])
    name, prefix = config["name"], own_subject(config["name"])
    keeps_all = config.get("retention", "limits") == "limits"
    await _begin(js, _filling(config, prefix, description["state"].get("first_seq", 0)))
    if not keeps_all:  # such a stream keeps only messages that a consumer waits for
        await make_consumers(js, name, consumers)
    reached = dict.fromkeys((item["name"] for item in consumers), 0)
    async for messages in scratch.replay(own["name"], ">", batch=AT_ONCE):
        for message, seq in zip(messages, await _publish(js, prefix, messages), strict=True):
            reached |= {item["name"]: seq for item in consumers if message.seq <= item["ack_floor"]["stream_seq"]}
    if keeps_all:
        behind = [item | {"config": _behind(item["config"], reached[item["name"]])} for item in consumers]
        await make_consumers(js, name, behind)


async def _begin(js: JetStream, config: Raw) -> None:
    """Create the stream, marked as unfinished, or empty one that an earlier restore left unfinished."""
    config = unfinished(config, MESSAGES)
    try:
        left = await js.stream_info(config["name"])
    except NotFound:
        await js.create_stream(config)
        return
    await js.update_stream({key: value for key, value in config.items() if key != "first_seq"})
    await js.purge_stream(config["name"], left["state"]["last_seq"])


def own_subject(name: str) -> str:
    """Return the subject of a restored stream if another stream has its original subject."""
    return f"reactor.restored.{name}"


async def make_consumers(js: JetStream, stream: str, consumers: Iterable[Raw]) -> None:
    """Create the durable consumers. The others ended with their clients."""
    for item in consumers:
        if item["config"].get("durable_name"):
            await js.create_consumer(stream, item["config"])


def _filling(config: Raw, prefix: str, first_seq: int) -> Raw:
    """Return the config for filling the stream: it refuses and alters no message, and acknowledges each."""
    transform = {"src": f"{prefix}.>", "dest": ">"}
    open_for_all = {"subjects": [transform["src"]], "subject_transform": transform, "no_ack": False, "sealed": False}
    open_for_all |= {"max_consumers": -1}
    return {key: value for key, value in config.items() if key != "republish"} | open_for_all | {"first_seq": first_seq}


async def _publish(js: JetStream, prefix: str, messages: Sequence[StoredMessage]) -> list[int]:
    """Publish messages one after another over one connection. Return their new sequences."""
    sent = [js.publish(f"{prefix}.{item.subject}", item.data, _headers(item.headers)) for item in messages]
    seqs = [seq for _, seq in await asyncio.gather(*sent)]
    if seqs != sorted(set(seqs)):
        raise NotReplayed("the server has stored its messages in another order than they were sent in")
    return seqs


def _headers(headers: Mapping[str, str] | None) -> dict[str, str] | None:
    return {key: value for key, value in (headers or {}).items() if not key.lower().startswith(_ORDERS)} or None


def _behind(config: Raw, seq: int) -> Raw:
    """Return the config of a consumer that continues after this sequence."""
    start = {"deliver_policy": "by_start_sequence", "opt_start_seq": seq + 1}
    return {key: value for key, value in config.items() if key != "opt_start_time"} | start
