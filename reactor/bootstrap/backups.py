"""Open the places for backups: the one in the settings, and others by their URLs."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from reactor.backups.folder import FolderStore
from reactor.backups.objects import Objects, ObjectStore
from reactor.backups.store import BackupStore
from reactor.bootstrap.connections import Connections
from reactor.config.fields import CLOUDS
from reactor.jetstream.bucket import Bucket
from reactor.store.leases import Lease

TIDIED_S = 30.0
"""How long one replica alone may tidy. It keeps that lease, so tidying is not done more often."""
_CLOUD_OPTIONS = {
    "client_options": {"connect_timeout": "5s", "timeout": "60s", "allow_http": True},  # if AWS_ENDPOINT_URL says so
    "retry_config": {"max_retries": 2, "retry_timeout": timedelta(seconds=20)},
}


@dataclass(frozen=True, slots=True)
class Places:
    """Opens places for backups. `clock` is in ns, by this process."""

    connected: Connections
    clock: Callable[[], int]

    def of_settings(self) -> BackupStore:
        """Return the place in the settings."""
        rules = self.connected.settings.backup
        return self.at(rules.url) if rules.url else self._folder(rules.dir)

    def at(self, url: str) -> BackupStore:
        """Return the place of a URL."""
        parts, rules = urlsplit(url), self.connected.settings.backup
        if parts.scheme == "file":
            return self._folder(Path(unquote(parts.path)))
        may_tidy = partial(self.connected.ledger.leases.acquire, Lease("backups", TIDIED_S))
        age_s = rules.max_age.total_seconds()
        return ObjectStore(self._objects(url), age_s, int(rules.max_bytes), may_tidy)

    def recorded(self, url: str) -> BackupStore | None:
        """Return the place that an audit entry names; None if this machine cannot open it."""
        return self.at(url) if urlsplit(url).scheme in {"nats", *CLOUDS} else None

    def _folder(self, folder: Path) -> FolderStore:
        rules = self.connected.settings.backup
        return FolderStore(folder, rules.max_age.total_seconds(), int(rules.max_bytes), self.clock)

    def _objects(self, url: str) -> Objects:
        scheme, _, rest = url.partition(":")
        if scheme == "nats":
            rules, replicas = self.connected.settings.backup, self.connected.settings.events.replicas
            age_s = rules.max_age.total_seconds()
            return Bucket(self.connected.snapshots, rest, age_s, int(rules.max_bytes), replicas)
        from reactor.backups.cloud import CloudObjects  # noqa: PLC0415  # an extra

        return CloudObjects(url, _CLOUD_OPTIONS)
