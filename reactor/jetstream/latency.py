"""How quickly an API answers now, compared with how quickly it can: a distant server is not slow. Pure."""

from collections import deque

WINDOW = 32
"""Answers that count."""
BOUND_S = 0.25
"""Beyond what the distance takes: the 95th percentile of answers may be so much, or the API is busy."""
FELT_S = 0.002
"""The same while others work, beside half of what the distance takes, which may vary: then they wait behind us."""
LATELY = 512
"""Others count as at work for this many answers after a sign of them."""
_FORGETTING = 1.0005
"""The quickest answer is forgotten little by little: a connection may come to another server."""


class Pace:
    """The answers of one process's requests."""

    def __init__(self) -> None:
        """None yet."""
        self._last = deque[float](maxlen=WINDOW)
        self._quickest_s = float("inf")
        self._others_until = 0
        self.answers = 0
        """How many there were, ever."""

    def note(self, seconds: float) -> None:
        """Note how long an answer took; if none came, how long it was waited for."""
        self._last.append(seconds)
        self._quickest_s = min(self._quickest_s * _FORGETTING, seconds)
        self.answers += 1

    def note_others(self) -> None:
        """Note that others work with the server."""
        self._others_until = self.answers + LATELY

    @property
    def p95_s(self) -> float:
        """Of the last answers; 0 before there are any."""
        return sorted(self._last)[int(len(self._last) * 0.95)] if self._last else 0.0

    @property
    def is_slow(self) -> bool:
        """Whether the server has more to do than it can."""
        return self.p95_s > BOUND_S + self._quickest_s

    @property
    def is_felt(self) -> bool:
        """Whether others are at work, and wait because of us."""
        return self.answers < self._others_until and self.p95_s > FELT_S + 1.5 * self._quickest_s
