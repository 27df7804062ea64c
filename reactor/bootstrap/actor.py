"""Who this process is, for the audit."""

import getpass
import os
import socket
from importlib.metadata import version

from reactor.core.actor import Actor


def actor_of(role: str, *overrides: str) -> Actor:
    """This process in that role; `overrides` are flags that stand for a setting, a guard or the breaker."""
    return Actor(role, socket.gethostname(), os.getpid(), _user(), version("jetstream-reactor"), overrides)


def _user() -> str:
    """Of the operating system; in a container there may be a number only."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
