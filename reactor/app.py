"""`faststream run reactor.app:app`: the worker, as `reactor worker` starts it."""

import sys

from faststream import FastStream

from reactor.config.settings import SettingsError, load_settings
from reactor.telemetry.logs import configure
from reactor.worker.app import build


def __getattr__(name: str) -> FastStream:
    """Create the app when it is asked for: importing this module must not need settings."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        settings = load_settings()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    configure(settings.log.level, settings.log.format)
    return build(settings)
