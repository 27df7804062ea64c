"""The resources that the use cases of one process share."""

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
    """The shared resources: one account, one Redis, one policy. Connections open at their first use."""

    policy: Policy
    reads: JetStream
    """For requests that may be delayed over a short outage."""
    effects: JetStream
    """For effects. It never delays a request, so a request that was given up cannot take effect later."""
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
    """How long the lease of one stream lasts (s)."""
    clock: Callable[[], int]
    """This process's time (ns), for reports and the audit. No decision uses it."""
    monotonic: Callable[[], float] = time.monotonic
    backup_writer: BackupWriter | None = None
    """None if the settings ask for no backups."""
