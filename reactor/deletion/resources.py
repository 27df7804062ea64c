"""What the use cases of one process share, handed to each of them as one value."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from reactor.core.policy import Policy
from reactor.deletion.backup import BackupWriter
from reactor.deletion.companions import Companions
from reactor.deletion.gates import PauseGate, Rights
from reactor.deletion.notices import Notices
from reactor.deletion.recorder import Recorder
from reactor.deletion.retries import Retries
from reactor.deletion.stream_states import StreamStateUpdater
from reactor.deletion.throttle import Throttle
from reactor.jetstream.client import JetStream
from reactor.job_status.ledger_directory import Directory
from reactor.store.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Resources:
    """One account, one Redis, one policy. Connections open at their first use."""

    policy: Policy
    reads: JetStream
    """May delay requests over a short outage."""
    effects: JetStream
    """Never delays a request, so a request that was given up cannot happen later."""
    ledger: Ledger
    directory: Directory
    recorder: Recorder
    retries: Retries
    companions: Companions
    rights: Rights
    pause_gate: PauseGate
    throttle: Throttle
    stream_states: StreamStateUpdater
    notices: Notices
    lease_s: float
    """The time for one stream."""
    clock: Callable[[], int]
    """The time (ns) for reports and the audit; no decision uses it."""
    monotonic: Callable[[], float] = time.monotonic
    backup_writer: BackupWriter | None = None
    """None if no backups are wanted."""
