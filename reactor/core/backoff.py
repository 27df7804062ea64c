"""When to look again. Pure: delays in seconds, computed, never slept."""

from reactor.core.model import SECOND

FIRST_RETRY_S = 2.0
LAST_RETRY_S = 300.0


def backoff(attempt: int, first: float = FIRST_RETRY_S, last: float = LAST_RETRY_S) -> float:
    """Return seconds to wait after the `attempt`-th failure in a row (from 1): doubling, up to `last`."""
    return float(min(last, first * 2 ** min(max(attempt - 1, 0), 32)))


def delay_until(until: int, observed_at: int) -> float:
    """Return seconds from the server's `observed_at` to `until`, both instants: a span that needs no worker clock."""
    return max(0.0, (until - observed_at) / SECOND)
