"""Whether an operator has paused all deleting: asked before each fence and behind it, of NATS, which does not forget.

The word is the last message on a subject of a stream of reactor's own. The server's clock says when a pause is over.
"""

from reactor.core.pause import Pause, pausing, read_pause, resuming
from reactor.core.stream_info import instant
from reactor.directories.together import Together
from reactor.jetstream.client import JetStream
from reactor.jetstream.errors import NotFound, Unreachable
from reactor.jetstream.topology import CONTROL, PAUSE_SUBJECT, declare_control

GONE = f"stream {CONTROL} is gone, and with it the word whether deleting is paused: reactor resume makes it again"


class Pausing:
    """One process's. Methods raise JetStreamError."""

    def __init__(self, reads: JetStream, replicas: int = 1) -> None:
        """Nothing is asked yet; `replicas` is for the stream, where it must be made."""
        self._reads = reads
        self._replicas = replicas
        self._together = Together(self._ask)
        self._over = 0
        """The message of a pause whose time is over."""

    async def standing(self) -> Pause | None:
        """The pause that stands, by an answer that is not older than the question; None where there is none."""
        return await self._together()

    async def _ask(self) -> Pause | None:
        try:
            message = await self._reads.last_message(CONTROL, PAUSE_SUBJECT)
            if message is None or message.seq == self._over:
                return None
            pause = read_pause(message.data, message.published_at)
            if pause is None or pause.until is None:
                return pause
            now = instant((await self._reads.stream_info(CONTROL)).get("ts"))
        except NotFound as error:
            raise Unreachable(GONE) from error
        if now is None or pause.stands(now):
            return pause
        self._over = message.seq
        return None

    async def declare(self) -> None:
        """Make the stream of the word where it is gone: before an order. Raises ProvisionError."""
        await declare_control(self._reads, self._replicas)

    async def pause(self, by: str, reason: str, span_ns: int | None) -> None:
        """From now on nobody deletes anything."""
        await self._reads.publish(PAUSE_SUBJECT, pausing(by, reason, span_ns))

    async def resume(self, by: str) -> None:
        """Deleting goes on."""
        await self._reads.publish(PAUSE_SUBJECT, resuming(by))
