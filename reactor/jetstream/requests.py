"""Requests over one client. Each ends with its answer, or with the reason why there will be none.

All answers arrive at one inbox and are distinguished by their last token. nats-py's own `request` does the same, but
takes twice the CPU time: a task switch, a context and a random name for each request. It also does not end a request
when a permission is missing or the connection breaks; such a request waits for its timeout.
"""

import asyncio
from typing import NamedTuple, cast

from nats.aio.client import Client
from nats.aio.msg import Msg

from reactor.jetstream.errors import JetStreamError

NO_RESPONDERS = "503"
"""The status of the server's own answer if no client listens on the subject."""


class _Asked(NamedTuple):
    subject: str
    answer: "asyncio.Future[Msg]"


class Requests:
    """The requests under way over one client."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._inbox = f"{client.new_inbox()}."
        self._asked = dict[str, _Asked]()
        self._sent = 0

    async def ask(self, subject: str, body: bytes, headers: dict[str, str] | None, timeout_s: float) -> Msg:
        """Send a request and return its answer. Raises TimeoutError, nats.errors.Error, and what `fail` is given."""
        self._sent += 1
        if self._sent == 1:  # only now: a user who sends no requests needs no permission to subscribe
            # Without bounds: nats-py drops what exceeds them, and then no request is ever answered (nats.py #667).
            await self.client.subscribe(f"{self._inbox}*", cb=self._hear, pending_msgs_limit=-1, pending_bytes_limit=-1)
        loop = asyncio.get_running_loop()
        inbox, answer = f"{self._inbox}{self._sent:x}", cast("asyncio.Future[Msg]", loop.create_future())
        self._asked[inbox] = _Asked(subject, answer)
        deadline = loop.call_later(timeout_s, _expire, answer)
        try:
            await self.client.publish(subject, body, inbox, headers)
            return await answer
        finally:
            deadline.cancel()
            del self._asked[inbox]

    async def _hear(self, msg: Msg) -> None:
        asked = self._asked.get(msg.subject)
        if asked is not None and not asked.answer.done():
            asked.answer.set_result(msg)

    def fail(self, kind: type[JetStreamError], why: str, folded: str | None = None) -> None:
        """Fail the requests under way; with `folded`, only those to this subject (in lower case)."""
        for subject, answer in self._asked.values():
            if (folded is None or subject.lower() == folded) and not answer.done():
                answer.set_exception(kind(f"{why} {subject}"))


def _expire(answer: "asyncio.Future[Msg]") -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())
