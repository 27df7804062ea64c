"""Settings that people have already: contexts of the nats CLI, and DATABASE_URL."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.harness import World

from reactor.config.settings import SettingsError, load_settings


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home folder without contexts, and no variables."""
    for name in list(os.environ):
        if name.startswith("REACTOR_") or name in {"NATS_URL", "DATABASE_URL"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def save(folder: Path, name: str, **context: Any) -> None:
    """Write a context like `nats context save`."""
    (folder / "nats" / "context").mkdir(parents=True, exist_ok=True)
    (folder / "nats" / "context" / f"{name}.json").write_text(json.dumps({"description": "", "nsc": ""} | context))


def test_a_context_says_where_nats_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Variables win over it, and it wins over NATS_URL."""
    save(tmp_path, "prod", url="nats://prod:4222", user="me", password="hunter2", jetstream_domain="hub", creds="")
    monkeypatch.setenv("REACTOR_NATS_CONTEXT", "prod")
    monkeypatch.setenv("NATS_URL", "nats://plain:4222")
    nats = load_settings().nats
    assert nats.password
    assert (nats.url.get_secret_value(), nats.user, nats.password.get_secret_value(), nats.domain, nats.creds) == (
        "nats://prod:4222",
        "me",
        "hunter2",
        "hub",
        None,
    )
    monkeypatch.setenv("REACTOR_NATS_URL", "nats://ours:4222")
    assert load_settings().nats.url.get_secret_value() == "nats://ours:4222"


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("nowhere", None, "there is no context nowhere"),
        ("../prod", None, "is not the name of a context"),
        ("odd", "hunter2", "context odd cannot be read"),
        ("list", "[]", "context list cannot be read"),
        ("seedless", '{"nkey": "/nowhere/seed"}', "names an NKey file that cannot be read: /nowhere/seed"),
    ],
)
def test_a_context_that_cannot_be_read_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, text: str | None, why: str
) -> None:
    """In one line, with the existing ones, and without its content."""
    save(tmp_path, "prod", url="nats://prod:4222")
    if text is not None:
        (tmp_path / "nats" / "context" / f"{name}.json").write_text(text)
    monkeypatch.setenv("REACTOR_NATS_CONTEXT", name)
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert why in str(raised.value)
    assert "hunter2" not in str(raised.value)
    assert name != "nowhere" or "there: prod" in str(raised.value)


@pytest.mark.parametrize(
    ("plain", "ours"),
    [
        ("postgres://me@db/jobs", "postgresql+asyncpg://me@db/jobs"),
        ("postgresql://me@db/jobs", "postgresql+asyncpg://me@db/jobs"),
        ("sqlite:///jobs.db", "sqlite+aiosqlite:///jobs.db"),
        ("mysql+asyncmy://db/jobs", "mysql+asyncmy://db/jobs"),
    ],
)
def test_database_url_is_a_directorys(monkeypatch: pytest.MonkeyPatch, plain: str, ours: str) -> None:
    """With an async driver; only if the directory is a table and has no URL."""
    monkeypatch.setenv("DATABASE_URL", plain)
    assert load_settings().directory.url is None
    monkeypatch.setenv("REACTOR_DIRECTORY_KIND", "sql")
    monkeypatch.setenv("REACTOR_DIRECTORY_QUERY", "SELECT id, status FROM job WHERE id IN :ids")
    url = load_settings().directory.url
    assert url
    assert url.get_secret_value() == ours


@pytest.mark.parametrize("kind", ["sql", "http"])
def test_a_directory_needs_what_it_asks_with(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Reported as a problem of the group."""
    monkeypatch.setenv("REACTOR_DIRECTORY_KIND", kind)
    with pytest.raises(SettingsError, match=f"REACTOR_DIRECTORY: kind {kind} needs"):
        load_settings()


async def test_the_flag_wins_over_the_environment(world: World, tmp_path: Path) -> None:
    """The server in the environment does not exist."""
    credentials, address = world.nats_url.removeprefix("nats://").split("@")
    user, password = credentials.split(":")
    save(tmp_path, "here", url=f"nats://{address}", user=user, password=password)
    env = {"XDG_CONFIG_HOME": str(tmp_path), "REACTOR_NATS_URL": "nats://127.0.0.1:1"}
    assert (await world.reactor("--context", "here", "reconcile", **env)).code == 0
    assert (await world.reactor("reconcile", **env)).code == 3
