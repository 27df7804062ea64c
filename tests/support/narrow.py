"""Worlds in which reactor has only the permissions of docs/permissions.md."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

from reactor.cli.embedded import HOST, Server
from support.harness import ROOT, World, connected, eventually, own_nats, own_valkey

PAGE = (ROOT / "docs" / "permissions.md").read_text()
REACTOR, EMITTER, POLLER = re.findall(r"```nats\n(.*?)```", PAGE, re.DOTALL)
ACL = re.findall(r"```acl\n(.*?)```", PAGE, re.DOTALL)[0].split()

BACKUPS = re.findall(
    r"`(\$JS[^`]+|\$O[^`]+|reactor\.restored[^`]+)`",
    PAGE[PAGE.index("**Backups**") : PAGE.index("**Prepare.**")],
)
"""More rights, for backing up and restoring."""
DELETING = re.findall(r"`((?:\$JS|reactor)\.[^`]+)`", PAGE[PAGE.index("**Report mode**") : PAGE.index("**Backups**")])
"""Rights that report mode does not need."""
RELOADED = "Reloaded server configuration"


def config(reactor: str = REACTOR) -> str:
    """Return a config with one account and three users."""
    users = f"""
      {{ user: reactor, password: pw, permissions: {{ {reactor} }} }}
      {{ user: poller, password: pw, permissions: {{ {POLLER} }} }}
      {{ user: jobs, password: pw }}
    """
    return f"accounts {{ A: {{ jetstream: enabled, users: [ {users} ] }} }}\n"


@asynccontextmanager
async def narrow_world(folder: Path, *more: str, without: Sequence[str] = ()) -> AsyncIterator[tuple[World, Server]]:
    """A world in which reactor has only these permissions, with the job system's clients.

    `more` may be published on, too, and `without` may not.
    """
    rights = REACTOR.replace("allow: [", "allow: [" + "".join(f'"{subject}", ' for subject in more), 1)
    for subject in without:
        assert f'"{subject}"' in rights
        rights = rights.replace(f'"{subject}"', '"nothing"')
    async with AsyncExitStack() as stack:
        nats_one = await stack.enter_async_context(own_nats(folder, config(rights)))
        valkey = await stack.enter_async_context(own_valkey(folder))
        at = f"{HOST}:{nats_one.port}"
        redis_url = f"redis://{HOST}:{valkey.port}/0"
        world = await stack.enter_async_context(connected(f"nats://jobs:pw@{at}", redis_url, "reactor"))
        await cast("Any", world.redis).execute_command("ACL", "SETUSER", "reactor", "on", ">pw", *ACL)
        world.settings |= {
            "REACTOR_NATS_URL": f"nats://reactor:pw@{at}",
            "REACTOR_REDIS_URL": f"redis://reactor:pw@{HOST}:{valkey.port}/0",
        }
        yield world, nats_one


def log_of(server: Server) -> Path:
    return Path(str(server.command[-1])).with_name("nats.log")


async def reload(server: Server, reactor: str) -> None:
    """Let the running server read new permissions. It drops clients that have lost some."""
    log = log_of(server)
    reloads = await asyncio.to_thread(_rewrite, server, log, reactor)
    server.signal(signal.SIGHUP)
    await eventually(lambda: log.read_text().count(RELOADED) > reloads)


def _rewrite(server: Server, log: Path, reactor: str) -> int:
    """Change the file. Return how often it was read again so far."""
    path = Path(str(server.command[-1]))
    path.write_text(path.read_text().split("accounts {")[0] + config(reactor))
    return log.read_text().count(RELOADED)
