"""Times are nanoseconds in UTC that keep their order."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.core.model import SECOND, StatusEvent, format_instant, nanoseconds, parse_instant

INSTANTS = st.integers(0, 4_000_000_000 * SECOND)


@given(INSTANTS)
def test_an_instant_survives_its_text(instant: int) -> None:
    """No nanosecond is lost in either direction."""
    assert parse_instant(format_instant(instant)) == instant


@given(INSTANTS, INSTANTS)
def test_texts_keep_the_order_of_instants(a: int, b: int) -> None:
    """Two times a nanosecond apart stay different."""
    assert (parse_instant(format_instant(a)) < parse_instant(format_instant(b))) == (a < b)


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("2026-03-29T03:30:00+02:00", "2026-03-29T01:30:00Z"),  # the hour that a clock change skips
        ("2026-10-25T02:30:00+01:00", "2026-10-25T01:30:00Z"),  # the hour that comes twice
        ("2026-01-31t12:00:00.5z", "2026-01-31T12:00:00.500Z"),
        ("2026-01-31T12:00:00.1234567899Z", "2026-01-31T12:00:00.123456789Z"),
    ],
)
def test_offsets_and_spellings_mean_the_same_instant(text: str, same_as: str) -> None:
    """An offset is arithmetic, never a time zone with rules."""
    assert parse_instant(text) == parse_instant(same_as)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-01-31T12:00:00",
        "2026-01-31",
        "2026-13-01T00:00:00Z",
        "2026-01-31T25:00:00Z",
        "1700000000",
    ],
)
def test_what_is_no_time_with_an_offset_is_refused(text: str) -> None:
    """A time without an offset could be off by hours."""
    with pytest.raises(ValueError, match=r"RFC 3339|range|hour|month"):
        parse_instant(text)


@given(st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001  # bounds must be naive
def test_instants_agree_with_the_standard_library(moment: datetime) -> None:
    """To the microsecond, the resolution of `datetime`."""
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    assert parse_instant(moment.isoformat()) == nanoseconds(since)


def test_a_span_is_exact() -> None:
    """Floats would round a long one."""
    assert nanoseconds(timedelta(days=36_500, microseconds=1)) == 36_500 * 86_400 * SECOND + 1_000


def test_events_compare_by_time_then_sequence() -> None:
    """The status does not decide which event is the last."""
    assert StatusEvent(1, 9, "Z", 9) < StatusEvent(2, 1, "A", 8) < StatusEvent(2, 2, "A", 7)
