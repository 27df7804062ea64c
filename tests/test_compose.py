"""docker-compose.yml: no container engine is at hand here, so what can be told from the file is."""

import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import typer.main
import yaml

from reactor.cli import app
from reactor.settings import describe, load_settings

ROOT = Path(__file__).parent.parent
SERVICE_KEYS = {
    *("image", "build", "command", "environment", "volumes", "ports", "healthcheck", "depends_on", "deploy", "tmpfs"),
    *("read_only", "cap_drop", "security_opt", "stop_grace_period", "restart"),
}


@pytest.fixture(name="compose")
def _compose() -> Any:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_every_key_is_one_of_the_compose_specification(compose: Any) -> None:
    """https://github.com/compose-spec/compose-spec/blob/main/schema/compose-spec.json."""
    assert set(compose) == {"services", "volumes"}
    for service in compose["services"].values():
        assert set(service) <= SERVICE_KEYS
        assert ("image" in service) != ("build" in service)


def test_references_lead_somewhere(compose: Any) -> None:
    """Volumes that are declared, services that exist and say when they are healthy."""
    for service in compose["services"].values():
        assert {volume.split(":")[0] for volume in service.get("volumes", ())} <= set(compose["volumes"])
        for name, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert "test" in compose["services"][name]["healthcheck"]


def test_every_variable_is_a_setting_and_parses(compose: Any) -> None:
    """A typo there would stop the worker."""
    environment = compose["services"]["worker"]["environment"]
    assert set(environment) <= {name for name, _, _ in describe()}
    with patch.dict(os.environ, environment, clear=True):
        assert load_settings().nats.url.get_secret_value() == "nats://nats:4222"


def test_the_command_exists(compose: Any) -> None:
    """Among those of `reactor`."""
    command = typer.main.get_command(app)
    [name] = compose["services"]["worker"]["command"]
    assert name in command.commands  # type: ignore[attr-defined]  # a group


def test_the_worker_can_do_little(compose: Any) -> None:
    """Two replicas, not root, nothing to write to, no capabilities; and nothing listens to the world."""
    worker = compose["services"]["worker"]
    assert worker["deploy"]["replicas"] == 2
    assert (worker["read_only"], worker["cap_drop"]) == (True, ["ALL"])
    assert worker["security_opt"] == ["no-new-privileges:true"]
    assert "\nUSER 10001\n" in worker["build"]["dockerfile_inline"]
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_redis_keeps_what_it_is_told(compose: Any) -> None:
    """Evicting a live record would look like a job that does not exist."""
    command = " ".join(compose["services"]["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_what_the_image_is_built_from_is_there(compose: Any) -> None:
    """Every file that is copied exists."""
    for line in compose["services"]["worker"]["build"]["dockerfile_inline"].splitlines():
        if line.startswith("COPY"):
            assert all((ROOT / name).exists() for name in line.split()[1:-1])
