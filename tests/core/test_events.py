"""Lifecycle messages: which are read, which are refused, and which event is the last."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.core.events import MAX_BYTES, read_event
from reactor.core.model import SECOND, UNREADABLE, Event, Malformed, StatusEvent, format_instant
from reactor.core.subjects import SubjectTemplate

TEMPLATE = SubjectTemplate("jobs.lifecycle.{job_id}")
PUBLISHED = 1_700_000_000 * SECOND


def read(payload: Any, job_id: str = "42", seq: int = 7) -> Event | Malformed:  # any JSON
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return read_event(TEMPLATE, f"jobs.lifecycle.{job_id}", data, seq=seq, published_at=PUBLISHED)


def test_an_event_is_read() -> None:
    """The message's own time replaces a missing one."""
    assert read({"job_id": 42, "status": "SUCCESS"}) == Event("42", StatusEvent(PUBLISHED, 7, "SUCCESS", PUBLISHED))


def test_an_older_time_is_the_emitters_and_a_later_one_is_clamped() -> None:
    """A fast clock must not hide later events."""
    early, late = format_instant(PUBLISHED - 5), format_instant(PUBLISHED + 5)
    assert read({"job_id": 42, "status": "A", "occurred_at": early}) == Event(
        "42", StatusEvent(PUBLISHED - 5, 7, "A", PUBLISHED)
    )
    assert read({"job_id": 42, "status": "A", "occurred_at": late}) == Event(
        "42", StatusEvent(PUBLISHED, 7, "A", PUBLISHED)
    )


def test_ids_may_be_words_and_further_fields_are_ignored() -> None:
    """A job id need not be a number."""
    payload = {"job_id": "a-b", "status": "RETRY", "event_id": "e", "source": {"any": 1}, "more": [1]}
    assert read(payload, "a-b") == Event("a-b", StatusEvent(PUBLISHED, 7, "RETRY", PUBLISHED))


def test_a_cloudevents_envelope_is_opened() -> None:
    """Its data is the payload, and its time is used if the payload has none."""
    envelope = {"specversion": "1.0", "type": "t", "source": "s", "id": "1", "time": format_instant(PUBLISHED - 9)}
    read_one = read(envelope | {"data": {"job_id": 42, "status": "SUCCESS"}})
    assert isinstance(read_one, Event)
    assert (read_one, read_one.status_event.source) == (
        Event("42", StatusEvent(PUBLISHED - 9, 7, "SUCCESS", PUBLISHED)),
        "s",
    )


@pytest.mark.parametrize("time", ["yesterday", "2026-01-01T00:00:00", 5])
def test_a_time_that_cannot_be_read_is_the_servers(time: Any) -> None:
    """The event still counts. Otherwise the jobs of such an emitter would never end."""
    odd = read({"job_id": 42, "status": "SUCCESS", "occurred_at": time, "source": "worker-1"})
    assert isinstance(odd, Event)
    assert (odd.status_event, odd.status_event.source) == (StatusEvent(PUBLISHED, 7, "SUCCESS", PUBLISHED), "worker-1")
    assert odd.remark
    assert str(time) in odd.remark


def test_a_subject_that_is_no_text_names_no_job() -> None:
    """Its invalid bytes appear as lone surrogates."""
    subject = b"jobs.lifecycle.\xff\xfe".decode("utf-8", "surrogateescape")
    odd = read_event(TEMPLATE, subject, b'{"job_id": "x", "status": "SUCCESS"}', seq=7, published_at=PUBLISHED)
    assert isinstance(odd, Malformed)
    assert odd.job_id is None


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "EOF"),
        (b"not json", "expected"),
        (b"\xff\xfe", "expected"),
        (b"[1,2]", "payload"),
        (b"null", "payload"),
        ({"status": "SUCCESS"}, "job_id"),
        ({"job_id": 42}, "status"),
        ({"job_id": 42, "status": ""}, "status"),
        ({"job_id": 42, "status": "x" * 65}, "status"),
        ({"job_id": 42, "status": 5}, "status"),
        ({"job_id": True, "status": "SUCCESS"}, "job_id"),
        ({"job_id": 42.0, "status": "SUCCESS"}, "job_id"),
        ({"job_id": None, "status": "SUCCESS"}, "job_id"),
        ({"job_id": 43, "status": "SUCCESS"}, "not the subject's"),
        ({"job_id": "042", "status": "SUCCESS"}, "not the subject's"),
        ({"specversion": "1.0", "data": "text"}, "payload"),
        ({"job_id": 42, "status": "SUCCESS", "pad": "x" * MAX_BYTES}, "bytes"),
    ],
)
def test_the_unreadable_is_said_and_proves_that_the_job_exists(payload: Any, reason: str) -> None:
    """By such a message a job is neither terminal nor missing."""
    malformed = read(payload)
    assert isinstance(malformed, Malformed)
    assert reason in malformed.reason
    assert (malformed.job_id, malformed.status_event) == ("42", StatusEvent(PUBLISHED, 7, UNREADABLE, PUBLISHED))
    assert malformed.status_event.status == UNREADABLE


@given(st.binary(max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    """Any input becomes a value, not an exception."""
    assert read_event(TEMPLATE, "jobs.lifecycle.1", data, seq=1, published_at=PUBLISHED)


@pytest.mark.parametrize("subject", ["jobs.lifecycle.a.b", "jobs.lifecycle.", "other.1", "jobs.lifecycle"])
def test_a_foreign_subject_names_no_job(subject: str) -> None:
    """Only one whole token is a job's id."""
    assert TEMPLATE.job_id(subject) is None


def test_a_template_finds_the_job_again() -> None:
    """At any position of the token."""
    template = SubjectTemplate("a.{job_id}.state")
    assert template.wildcard == "a.*.state"
    assert template.job_id(template.of("x-1")) == "x-1"


@pytest.mark.parametrize("job_id", ["", "a.b", "*", ">", "a b", "a\n", "\x00"])
def test_an_id_that_is_no_token_has_no_subject(job_id: str) -> None:
    """It would publish on another subject."""
    with pytest.raises(ValueError, match="job id"):
        TEMPLATE.of(job_id)
