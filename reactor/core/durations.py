"""Read durations as people write them, and compute the pauses between attempts.

Pure, without other libraries, because job systems import it.
"""

import re
from datetime import timedelta

FIRST_RETRY_S = 2.0
LAST_RETRY_S = 300.0
UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)(d|h|ms|m|s))", re.ASCII)
_NUMBER = r"(\d+(?:\.\d+)?)"
_ISO = re.compile(rf"P(?:{_NUMBER}W)?(?:{_NUMBER}D)?(?:T(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}S)?)?", re.ASCII)


def parse_duration(text: str) -> timedelta:
    """Read `90s`, `15m`, `1h30m`, `250ms`, `2d`, a bare number of seconds, or ISO 8601 (`PT15M`). Raises ValueError."""
    text = text.strip()
    parts = _DURATION.findall(text)
    try:
        if parts and "".join(number + unit for number, unit in parts) == text:
            return sum((timedelta(milliseconds=float(n) * UNITS[unit]) for n, unit in parts), timedelta())
        if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
            return timedelta(seconds=float(text))
        if (iso := _ISO.fullmatch(text)) and any(iso.groups()) and not text.endswith("T"):
            weeks, days, hours, minutes, seconds = (float(number or 0) for number in iso.groups())
            return timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
    except OverflowError:
        pass
    raise ValueError(f"{text!r} is not a duration; write 90s, 15m, 1h30m, 250ms, seconds or ISO 8601")


def backoff(attempt: int, first: float = FIRST_RETRY_S, last: float = LAST_RETRY_S) -> float:
    """Return the seconds to wait after the `attempt`-th failure in a row (from 1). They double, up to `last`."""
    return float(min(last, first * 2 ** min(max(attempt - 1, 0), 32)))
