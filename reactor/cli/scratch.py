"""A nats-server for the time being: what restore needs for an archive that the real one does not take as it is."""

import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from reactor.cli.embedded import HOST, free_port, nats_server, running
from reactor.jetstream.client import JetStream


@asynccontextmanager
async def scratch_server() -> AsyncIterator[JetStream]:
    """JetStream of a server for the time being, for nobody else. Raises EmbeddedError."""
    password = secrets.token_urlsafe()
    with tempfile.TemporaryDirectory(prefix="reactor-") as folder:
        server = nats_server(Path(folder), free_port(), f'authorization {{ user: reactor, password: "{password}" }}\n')
        async with running(server):
            js = JetStream({"servers": [f"nats://reactor:{password}@{HOST}:{server.port}"], "name": "reactor"})
            try:
                yield js
            finally:
                await js.close()
