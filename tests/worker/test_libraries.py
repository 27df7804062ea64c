"""Internals of FastStream and nats-py that reactor depends on."""

import inspect
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from faststream.nats import NatsBroker
from faststream.nats.subscriber.usecases.stream_pull_subscriber import BatchPullStreamSubscriber
from nats.aio.client import Client

LEANED_ON: dict[Callable[..., Any], str] = {
    NatsBroker._connect: "196692e980c8",
    BatchPullStreamSubscriber._create_subscription: "5ca725de40fc",
    BatchPullStreamSubscriber._consume_pull: "0495395a1f6d",
    Client.jetstream: "62879412d351",
    Client._build_message: "13cbe7b7f8cb",
    Client._flush_pending: "317c8d7ef54b",
}
"""The beginning of the hash of each one's source."""


@pytest.mark.parametrize("inside", list(LEANED_ON), ids=lambda item: item.__qualname__)
def test_what_is_leaned_on_is_as_it_was(inside: Callable[..., Any]) -> None:
    """If a new version differs: read it, check worker/broker.py and jetstream/pull_client.py, then record its hash."""
    assert sha256(inspect.getsource(inside).encode()).hexdigest()[:12] == LEANED_ON[inside]
