"""The client needs only nats-py, and can be installed with a job system's pinned versions."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.harness import ROOT, World, worker

EMIT = """
import json, sys
from reactor.client import emit, prepare
answer = emit(1, "STARTED")
ours = ("pydantic", "pydantic_core", "redis", "structlog", "typer", "faststream")
print(json.dumps([answer.error, prepare(2).job_id, [name for name in ours if name in sys.modules]]))
"""
PINS = """
nats-py==2.10.0
pydantic<2
redis==5.3.1
uvicorn==0.22.*
rich==13.5.*
Django==4.2.*
celery==5.4.*
"""
"""Of the job system that the client was made for."""


def call(*command: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, env=env or None, capture_output=True, text=True, check=False, timeout=300)  # noqa: S603


def uv(*args: str) -> str:
    """Return uv's answer. The test is skipped, with the reason, if no packages can be downloaded."""
    done = call("uv", "-q", *args)
    lost = ("connect", "dns", "network", "not found in the package")
    if done.returncode and any(word in done.stderr for word in lost):
        pytest.skip(f"packages cannot be had here: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(300)
@pytest.mark.parametrize("version", ["==2.10.0", ">=2.16"])
async def test_emitting_takes_nothing_but_nats(world: World, tmp_path: Path, version: str) -> None:
    """In a separate folder, with the oldest supported nats-py and the newest."""
    folder = tmp_path / "thin"
    await asyncio.to_thread(uv, "venv", "--python", sys.executable, str(folder))
    python = folder / "bin" / "python"
    await asyncio.to_thread(uv, "pip", "install", "--python", str(python), f"nats-py{version}")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("REACTOR_", "VIRTUAL_ENV"))}
    env |= {"PYTHONPATH": str(ROOT), "REACTOR_NATS_URL": world.nats_url}
    async with worker(world.env()):
        done = await asyncio.to_thread(call, str(python), "-c", EMIT, **env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [None, "2", []]
    said = await asyncio.to_thread(call, str(python), "-m", "reactor", "status", **env)
    assert said.stderr.startswith("reactor: only the client is installed")
    assert said.stderr.count("\n") == 1


def test_the_pins_of_a_job_system_resolve_beside_it(tmp_path: Path) -> None:
    """With uv's resolver, from the project's metadata."""
    pins = tmp_path / "pins.in"
    pins.write_text(PINS)
    resolved = uv("pip", "compile", "--python-version", "3.11", str(ROOT / "pyproject.toml"), str(pins))
    assert "nats-py==2.10.0" in resolved
    assert "pydantic==1." in resolved
