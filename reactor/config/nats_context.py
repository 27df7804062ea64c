"""Read contexts of the nats CLI: a server's address and credentials under a name.

Files as `nats context save` writes them: https://github.com/nats-io/jsm.go/blob/main/natscontext/context.go
"""

import os
import re
from pathlib import Path
from typing import Any

from reactor.core.foreign_json import read_json

_FIELDS = {
    "url": "url",
    "creds": "creds",
    "user": "user",
    "password": "password",
    "token": "token",
    "ca": "tls_ca",
    "cert": "tls_cert",
    "key": "tls_key",
    "jetstream_domain": "domain",
    "jetstream_api_prefix": "api_prefix",
    "inbox_prefix": "inbox_prefix",
}
"""The fields of a context, and the names of our settings."""
_UNSUPPORTED = {
    "user_jwt": "use a credentials file (creds) instead",
    "nsc": "write its credentials to a file and name that (creds)",
    "socks_proxy": "nats-py has no SOCKS proxy",
}
"""Fields of a context that reactor does not support, and what to do instead."""


def read_context(name: str) -> dict[str, str]:
    """Return a context's fields by the names of our settings. Raises ValueError, which never shows their values."""
    if not re.fullmatch(r"[^/\\\0]+", name) or name in {".", ".."}:
        raise ValueError(f"is not the name of a context: {name}")
    path = _folder() / f"{name}.json"
    try:
        context: Any = read_json(path.read_bytes())
    except FileNotFoundError as error:
        there = ", ".join(context_names()) or "none"
        raise ValueError(f"there is no context {name} in {_folder()} (there: {there})") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"context {name} cannot be read: {path} is not JSON, or this user may not read it") from error
    if not isinstance(context, dict):
        raise ValueError(f"context {name} cannot be read: {path} holds no object")  # noqa: TRY004  # it is the file that is wrong
    for field, fix in _UNSUPPORTED.items():
        if context.get(field):
            raise ValueError(f"context {name} has {field}, which reactor cannot use: {fix}")
    fields = {ours: context[theirs] for theirs, ours in _FIELDS.items() if isinstance(context.get(theirs), str)}
    if isinstance(seed := context.get("nkey"), str) and seed:
        fields["nkey"] = _seed(seed, name)
    if context.get("tls_first") is True:
        fields["tls_first"] = "true"
    return {field: value for field, value in fields.items() if value}


def context_names() -> list[str]:
    """Return the names of all contexts."""
    return sorted(item.stem for item in _folder().glob("*.json"))


def _seed(path: str, name: str) -> str:
    """Return the seed in the file that a context names."""
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ValueError(f"context {name} names an NKey file that cannot be read: {path}") from error


def _folder() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "nats" / "context"
