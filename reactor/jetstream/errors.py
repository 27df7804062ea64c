"""The errors of a request to JetStream, by what the caller can do about them.

    JetStreamError
    ├── TooOld             the server lacks a feature that the fence needs: only an upgrade helps
    ├── Unreachable        nothing was sent, or no server answers: nothing happened; try again later
    │   └── NobodyThere    the subject has no subscriber
    ├── Unanswered         it was sent and no answer came: it may have taken effect, or still may
    ├── TooLarge           it does not fit the server's `max_payload`: nothing was sent
    ├── PermissionDenied   the server dropped the request: nothing happened; a person must fix the permissions
    └── Refused            the server refused it, with an error code
        └── NotFound       the stream, consumer or message does not exist

Error codes: https://github.com/nats-io/nats-server/blob/main/server/errors.json
"""

from typing import Any

NO_MESSAGE = 10037
_NOT_FOUND_CODES = frozenset({10014, NO_MESSAGE, 10059})  # consumer, message, stream


class JetStreamError(Exception):
    """A request to JetStream that brought no result."""


class TooOld(JetStreamError):
    """The server is too old: it lacks a feature that the fence needs."""


class Unreachable(JetStreamError):
    """Nothing happened: the server is away, or JetStream does not answer in this account and domain."""


class NobodyThere(Unreachable):
    """The server is reached, but nothing subscribes to the subject in this account and domain."""


class Unanswered(JetStreamError):
    """The request may have taken effect, or still may."""


class PermissionDenied(JetStreamError):
    """The server dropped the request, because a permission is missing. Nothing happened."""


class TooLarge(JetStreamError):
    """Nothing was sent, because it exceeds the server's `max_payload`."""


class Refused(JetStreamError):
    """The server refused the request."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        """`code` is HTTP-like, `err_code` JetStream's own."""
        super().__init__(f"{description} ({code}/{err_code})")
        self.code = code
        self.err_code = err_code


class NotFound(Refused):
    """The stream, consumer or message does not exist."""


def refusal(error: dict[str, Any]) -> Refused:
    """Return the exception for an error in the server's answer."""
    kind = NotFound if error.get("err_code") in _NOT_FOUND_CODES else Refused
    return kind(error.get("code", 0), error.get("err_code", 0), error.get("description", "no description"))
