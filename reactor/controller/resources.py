"""What the use cases of one process work with, handed to each as one value."""

from collections.abc import Callable
from dataclasses import dataclass

from reactor.controller.companions import Companions
from reactor.controller.pausing import Pausing
from reactor.controller.recorder import Recorder
from reactor.controller.retries import Retries
from reactor.controller.rights import Rights
from reactor.controller.standing import Standing
from reactor.controller.throttle import Throttle
from reactor.directories.events import Directory
from reactor.jetstream.client import JetStream
from reactor.store.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Resources:
    """One account, one Redis, one process. Connections open at their first use."""

    reads: JetStream
    """May hold requests back over a short outage."""
    effects: JetStream
    """Never does, so what was given up cannot happen later."""
    ledger: Ledger
    directory: Directory
    recorder: Recorder
    retries: Retries
    companions: Companions
    rights: Rights
    pausing: Pausing
    throttle: Throttle
    standing: Standing
    clock: Callable[[], int]
    """The time (ns) for reports and the audit; no decision sees it."""
