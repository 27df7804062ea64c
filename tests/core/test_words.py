"""Durations and deletions as text."""

from typing import cast

import pytest

from reactor.core.explain import deletion_of, span
from reactor.core.schemas import Entry


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 ms"),
        (0.0004, "0.4 ms"),
        (0.25, "250 ms"),
        (1.26, "1.3 s"),
        (59.0, "59 s"),
        (59.7, "1 min"),
        (61.0, "1 min 1 s"),
        (3_600.0, "1 h"),
        (3_660.0, "1 h 1 min"),
        (187_200.0, "2 d 4 h"),
    ],
)
def test_a_span_is_reported_in_the_two_units_that_matter(seconds: float, words: str) -> None:
    """Rounded to seconds from one minute on."""
    assert span(seconds) == words


def test_a_deletion_without_an_answer_is_no_boast() -> None:
    """Reactor began it and found the stream gone. A missing job has no status."""
    entry = {
        "outcome": "already_gone",
        "at": "2026-01-31T12:00:00.5Z",
        "reason": "missing",
        "status": "",
        "messages": 0,
        "by": "host:1",
    }
    assert deletion_of(cast("Entry", entry)) == (
        "reactor began to drain it, and it was found gone at 2026-01-31T12:00:00Z: "
        "missing, no job known, 0 messages (host:1)"
    )
