"""Who this process is, for the audit."""

import getpass
import os
import socket
from importlib.metadata import version

from reactor.core.actor import Actor


def actor_of(role: str, *overrides: str) -> Actor:
    """Return this process in that role; `overrides` are flags that replace a setting, a guard or the breaker."""
    return Actor(role, socket.gethostname(), os.getpid(), _user(), version("jetstream-reactor"), overrides)


def _user() -> str:
    """Return the operating system's user; in a container this may be a number only."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
