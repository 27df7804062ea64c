"""Shell completion of the names of job streams. After a failure it completes nothing."""

import asyncio
from contextlib import suppress

from reactor.cli.shell import natural
from reactor.config.nats_options import api_prefix, nats_options
from reactor.config.settings import load_settings
from reactor.jetstream.client import JetStream

WAIT_S = 2.0


def stream_names(incomplete: str) -> list[str]:
    """Return the names of job streams that begin with `incomplete`."""
    with suppress(Exception):
        return sorted(asyncio.run(_names(incomplete)), key=natural)
    return []


async def _names(incomplete: str) -> list[str]:
    settings = load_settings()
    pattern = settings.policy.regex
    js = JetStream(nats_options(settings.nats), prefix=api_prefix(settings.nats), timeout=WAIT_S)
    try:
        names = await js.stream_names()
    finally:
        await js.close()
    return [name for name in names if name.startswith(incomplete) and pattern.fullmatch(name)]
