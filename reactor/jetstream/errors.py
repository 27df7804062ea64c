"""What can go wrong with a request to JetStream, by what the caller can do about it.

    JetStreamError
    ├── TooOld             the server lacks what the fence needs: only an upgrade helps
    ├── Unreachable        nothing was sent, or nobody is there to answer: nothing happened; try again later
    │   └── NobodyThere    the server has nobody on that subject
    ├── Unanswered         it was sent and no answer came: it may have happened, or may still happen
    ├── TooLarge           it does not fit the server's `max_payload`: nothing was sent
    ├── PermissionDenied   the server dropped the request: nothing happened; a person must fix the permissions
    └── Refused            the server said no, with its code
        └── NotFound       there is no such stream, consumer or message

Error codes: https://github.com/nats-io/nats-server/blob/main/server/errors.json
"""

from typing import Any

NO_MESSAGE = 10037
_NOT_FOUND_CODES = frozenset({10014, NO_MESSAGE, 10059})  # consumer, message, stream


class JetStreamError(Exception):
    """A request to JetStream that brought no result."""


class TooOld(JetStreamError):
    """The server lacks what the fence needs."""


class Unreachable(JetStreamError):
    """Nothing happened: the server is away, or JetStream does not answer in this account and domain."""


class NobodyThere(Unreachable):
    """The server is reached, and JetStream does not answer in this account and domain."""


class Unanswered(JetStreamError):
    """It may have happened, or may still happen."""


class PermissionDenied(JetStreamError):
    """The server dropped the request for want of a permission. Nothing happened."""


class TooLarge(JetStreamError):
    """Nothing was sent: it does not fit the server's `max_payload`."""


class Refused(JetStreamError):
    """The server said no."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        """`code` is HTTP-like, `err_code` JetStream's own."""
        super().__init__(f"{description} ({code}/{err_code})")
        self.code = code
        self.err_code = err_code


class NotFound(Refused):
    """There is no such stream, consumer or message."""


def refusal(error: dict[str, Any]) -> Refused:
    """Return what the server's own error amounts to."""
    kind = NotFound if error.get("err_code") in _NOT_FOUND_CODES else Refused
    return kind(error.get("code", 0), error.get("err_code", 0), error.get("description", "no description"))
