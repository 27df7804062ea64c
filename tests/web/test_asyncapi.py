"""The AsyncAPI document, against the specification and against real messages."""

import json
from typing import Any

import pytest
from faststream.specification.asyncapi.v3_0_0.schema import ApplicationSchema
from jsonschema import Draft202012Validator
from support.harness import World, eventually

from reactor.core.subjects import SubjectTemplate, payload_of
from reactor.telemetry.alerts import Alert, Kind
from reactor.web.asyncapi import document

DOCUMENT = document(SubjectTemplate("jobs.lifecycle.{job_id}"), "1.0")


MESSAGES = [item for channel in DOCUMENT["channels"].values() for item in channel["messages"].values()]


def payload(channel: str, message: str) -> dict[str, Any]:
    return DOCUMENT["channels"][channel]["messages"][message]["payload"]  # type: ignore[no-any-return]


def test_it_is_an_asyncapi_document() -> None:
    """By FastStream's model of the specification. Each operation has a channel."""
    ApplicationSchema.model_validate(DOCUMENT)
    channels = {operation["channel"]["$ref"] for operation in DOCUMENT["operations"].values()}
    assert channels == {f"#/channels/{name}" for name in DOCUMENT["channels"]}


@pytest.mark.parametrize("message", MESSAGES, ids=lambda item: item["title"])
def test_its_examples_fit_the_document(message: dict[str, Any]) -> None:
    """They have every required field."""
    schema = Draft202012Validator(message["payload"])
    for example in message["examples"]:
        schema.validate(example["payload"])
    assert not schema.is_valid({})


def test_received_messages_fit_the_document() -> None:
    """As `reactor emit` publishes it."""
    said = json.loads(payload_of("42", "STARTED", "2026-01-31T12:00:00Z"))
    Draft202012Validator(payload("lifecycle", "event")).validate(said)


def test_an_alert_is_reported_with_these_fields_and_no_others() -> None:
    """For each kind. Real alerts are checked in their own tests."""
    schema = payload("alert", "alert")
    assert set(schema["properties"]) == set(schema["required"]) == set(Alert.__slots__)
    assert set(schema["properties"]["kind"]["enum"]) == set(Kind)
    assert DOCUMENT["channels"]["alert"]["parameters"]["kind"]["enum"] == list(Kind)


async def test_published_messages_fit_the_document(world: World) -> None:
    """A real event of a drained stream: these fields and no others."""
    await world.declare()
    received: list[bytes] = []

    async def receive(msg: Any) -> None:
        received.append(msg.data)

    await world.nc.subscribe("reactor.drained.*", cb=receive)
    await world.nc.flush()
    await world.zombie(1)
    await world.reconcile()
    await eventually(lambda: received)
    said = json.loads(received[0])
    schema = payload("drained", "drained")
    Draft202012Validator(schema).validate(said)
    assert set(said) == set(schema["properties"])
