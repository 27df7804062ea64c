"""Compute delays in seconds. Pure: it never sleeps."""

from reactor.core.model import SECOND

FIRST_RETRY_S = 2.0
LAST_RETRY_S = 300.0


def backoff(attempt: int, first: float = FIRST_RETRY_S, last: float = LAST_RETRY_S) -> float:
    """Return the seconds to wait after the `attempt`-th failure in a row (from 1). They double, up to `last`."""
    return float(min(last, first * 2 ** min(max(attempt - 1, 0), 32)))


def delay_until(until: int, observed_at: int) -> float:
    """Return the seconds from the server's time `observed_at` to `until` (both ns). No worker clock is needed."""
    return max(0.0, (until - observed_at) / SECOND)
