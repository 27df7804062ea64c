"""Measure how much slower an API answers than it can. So a distant server does not count as slow. Pure."""

from collections import deque

WINDOW = 32
"""How many of the last answers count."""
BOUND_S = 0.25
"""The API is slow if the 95th percentile of its answers exceeds its quickest answer by this much."""
FELT_S = 0.002
"""The same bound while others use the server, besides half of the quickest answer. Beyond it, others wait behind us."""
LATELY = 512
"""For how many answers after a sign of them others count as using the server."""
_FORGETTING = 1.0005
"""The quickest answer is forgotten slowly, because a connection may move to another server."""


class Pace:
    """The latencies of one process's requests."""

    def __init__(self) -> None:
        """Start without answers."""
        self._last = deque[float](maxlen=WINDOW)
        self._quickest_s = float("inf")
        self._others_until = 0
        self.answers = 0
        """The number of answers so far."""

    def note(self, seconds: float) -> None:
        """Note how long an answer took; if none came, how long we waited."""
        self._last.append(seconds)
        self._quickest_s = min(self._quickest_s * _FORGETTING, seconds)
        self.answers += 1

    def note_others(self) -> None:
        """Note that others use the server now."""
        self._others_until = self.answers + LATELY

    @property
    def p95_s(self) -> float:
        """The 95th percentile of the last answers (s); 0 before the first."""
        return sorted(self._last)[int(len(self._last) * 0.95)] if self._last else 0.0

    @property
    def is_slow(self) -> bool:
        """Whether the server is overloaded."""
        return self.p95_s > BOUND_S + self._quickest_s

    @property
    def is_felt(self) -> bool:
        """Whether others use the server and wait because of us."""
        return self.answers < self._others_until and self.p95_s > FELT_S + 1.5 * self._quickest_s
