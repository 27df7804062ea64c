"""What the use cases of one process work with, handed to each as one value."""

from collections.abc import Callable
from dataclasses import dataclass

from reactor.deletion.companions import Companions
from reactor.deletion.gates import PauseGate, Rights
from reactor.deletion.recorder import Recorder
from reactor.deletion.retries import Retries
from reactor.deletion.stream_states import StreamStateUpdater
from reactor.deletion.throttle import Throttle
from reactor.jetstream.client import JetStream
from reactor.job_status.ledger_directory import Directory
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
    pause_gate: PauseGate
    throttle: Throttle
    stream_states: StreamStateUpdater
    clock: Callable[[], int]
    """The time (ns) for reports and the audit; no decision sees it."""
