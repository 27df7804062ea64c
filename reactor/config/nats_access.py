"""How to reach a NATS server, for the settings of a worker and for the environment of a job system."""

import ssl
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any


def check_websocket(url: str) -> None:
    """Raise ValueError if the URL needs websocket and nats-py lacks the library for it."""
    if url.startswith(("ws://", "wss://")) and find_spec("aiohttp") is None:
        raise ValueError("a websocket URL needs aiohttp: pip install 'jetstream-reactor[ws]'")


@dataclass(frozen=True, slots=True)
class NatsAccess:
    """Addresses and credentials. They are secret, so `repr` hides them."""

    servers: tuple[str, ...]
    creds: str | None = None
    user: str | None = None
    password: str | None = None
    token: str | None = None
    nkey: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    domain: str | None = None
    api_prefix: str | None = None
    inbox_prefix: str | None = None
    tls_first: bool = False

    def __repr__(self) -> str:
        """Hide the secrets."""
        return "NatsAccess(…)"

    @property
    def prefix(self) -> str:
        """The prefix of JetStream's API."""
        return self.api_prefix or (f"$JS.{self.domain}.API" if self.domain else "$JS.API")

    def options(self) -> dict[str, Any]:
        """Return nats-py's options for `connect`."""
        given = {
            "user_credentials": self.creds,
            "user": self.user,
            "password": self.password,
            "token": self.token,
            "nkeys_seed_str": self.nkey,
            "inbox_prefix": self.inbox_prefix,
            "tls_handshake_first": self.tls_first or None,
            "tls": self._tls_context(),
        }
        options = {name: value for name, value in given.items() if value is not None}
        return options | {"servers": list(self.servers), "name": "reactor", "connect_timeout": 5}

    def _tls_context(self) -> ssl.SSLContext | None:
        """Return the TLS context for a private authority or a client certificate; None leaves TLS to the URL."""
        if not (self.tls_ca or self.tls_cert):
            return None
        context = ssl.create_default_context(cafile=self.tls_ca)
        if self.tls_cert:
            context.load_cert_chain(self.tls_cert, self.tls_key)
        return context
