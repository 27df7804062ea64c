"""docker-compose.yml: what can be checked without a container engine."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import typer.main
import yaml

from reactor.cli.main import app
from reactor.config.catalogue import describe
from reactor.config.settings import load_settings

ROOT = Path(__file__).parent.parent
SERVICE_KEYS = {
    *("image", "build", "command", "environment", "volumes", "ports", "healthcheck", "depends_on", "deploy", "tmpfs"),
    *("read_only", "cap_drop", "security_opt", "stop_grace_period", "restart", "profiles", "configs"),
}


@pytest.fixture(name="compose")
def _compose() -> Any:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_every_key_is_one_of_the_compose_specification(compose: Any) -> None:
    """https://github.com/compose-spec/compose-spec/blob/main/schema/compose-spec.json."""
    assert set(compose) == {"services", "configs", "volumes"}
    assert all(set(config) == {"content"} for config in compose["configs"].values())
    for service in compose["services"].values():
        assert set(service) <= SERVICE_KEYS
        assert ("image" in service) != ("build" in service)


def test_references_lead_somewhere(compose: Any) -> None:
    """Volumes and configs are declared, files exist, and services have health checks."""
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source, _, *mode = volume.split(":")
            is_file = source.startswith("./") and (ROOT / source).is_file() and mode == ["ro"]
            assert is_file or source in compose["volumes"]
        assert {config["source"] for config in service.get("configs", ())} <= set(compose["configs"])
        for name, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert "test" in compose["services"][name]["healthcheck"]


def test_every_variable_is_a_setting_and_parses(compose: Any) -> None:
    """A typo would stop the worker."""
    environment = compose["services"]["worker"]["environment"]
    assert set(environment) <= {name for name, _, _ in describe()}
    with patch.dict(os.environ, environment, clear=True):
        settings = load_settings()
    assert settings.nats.url.get_secret_value() == "nats://nats:4222"
    assert (settings.http.host, settings.http.open) == ("0.0.0.0", True)  # noqa: S104  # inside its network


def test_the_command_exists(compose: Any) -> None:
    """Among those of `reactor`."""
    command = typer.main.get_command(app)
    [name] = compose["services"]["worker"]["command"]
    assert name in command.commands  # type: ignore[attr-defined]  # a group


def test_the_worker_can_do_little(compose: Any) -> None:
    """Two replicas, not root, read-only, no capabilities, and no port open to the world."""
    worker = compose["services"]["worker"]
    assert worker["ports"] == ["127.0.0.1:8080-8081:8080"]
    assert "/readyz" in re.findall("^HEALTHCHECK .*", worker["build"]["dockerfile_inline"], re.MULTILINE)[-1]
    assert worker["deploy"]["resources"]["limits"]["memory"]
    assert worker["deploy"]["replicas"] == 2
    assert (worker["read_only"], worker["cap_drop"]) == (True, ["ALL"])
    assert worker["security_opt"] == ["no-new-privileges:true"]
    assert "\nUSER 10001\n" in worker["build"]["dockerfile_inline"]
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_every_tag_is_pinned(compose: Any) -> None:
    """To a release, because a later one was not tried."""
    images = [service["image"] for service in compose["services"].values() if "image" in service]
    images += re.findall(r"^FROM (\S+)", compose["services"]["worker"]["build"]["dockerfile_inline"], re.MULTILINE)
    assert all(re.search(r":v?\d+\.\d+\.\d+", image) for image in images), images


def test_redis_evicts_nothing(compose: Any) -> None:
    """With an evicted live record its job would look missing."""
    command = " ".join(compose["services"]["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_what_the_image_is_built_from_is_there(compose: Any) -> None:
    """Every copied file exists."""
    for line in compose["services"]["worker"]["build"]["dockerfile_inline"].splitlines():
        if line.startswith("COPY") and "--from" not in line:
            assert all((ROOT / name).exists() for name in line.split()[1:-1])


def test_the_image_has_what_the_worker_and_every_setting_need(compose: Any) -> None:
    """All extras except the demo's servers. The version is the package's."""
    dockerfile = compose["services"]["worker"]["build"]["dockerfile_inline"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"]) - {"embedded", "nkeys"}  # the worker brings nkeys
    assert set(re.findall(r"--extra (\w+)", dockerfile)) == extras
    assert f'image.version="{project["version"]}"' in dockerfile


def inside(compose: Any, service: str, target: str) -> Any:
    """Return a file in a container, from a config or a bind mount."""
    of = compose["services"][service]
    contents = {config["target"]: compose["configs"][config["source"]]["content"] for config in of["configs"]}
    for volume in of["volumes"]:
        source, path, *_ = volume.split(":")
        if source.startswith("./"):
            contents[path] = (ROOT / source).read_text()
    return yaml.safe_load(contents[target])


def test_optional_services_need_the_profile(compose: Any) -> None:
    """Only the profile starts optional services."""
    profiles = {name: service.get("profiles") for name, service in compose["services"].items()}
    watching = ["observability"]
    assert profiles == {"nats": None, "redis": None, "worker": None, "prometheus": watching, "grafana": watching}


def test_prometheus_finds_every_worker_and_the_rules(compose: Any) -> None:
    """By the service's name, which has an address for each replica, on the worker's port."""
    [path] = [part.partition("=")[2] for part in compose["services"]["prometheus"]["command"] if "config.file" in part]
    config = inside(compose, "prometheus", path)
    [scrape] = config["scrape_configs"]
    [found] = scrape["dns_sd_configs"]
    with patch.dict(os.environ, compose["services"]["worker"]["environment"], clear=True):
        assert (found["names"], found["type"], found["port"]) == (["worker"], "A", load_settings().http.port)
    [rules] = config["rule_files"]
    groups = inside(compose, "prometheus", rules)["groups"]
    assert f'job="{scrape["job_name"]}"' in " ".join(rule["expr"] for group in groups for rule in group["rules"])


def test_grafana_has_its_source_and_its_dashboard(compose: Any) -> None:
    """Both are provisioned, and the source has Prometheus's address."""
    [source] = inside(compose, "grafana", "/etc/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    [provider] = inside(compose, "grafana", "/etc/grafana/provisioning/dashboards/reactor.yml")["providers"]
    home = compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.startswith(provider["options"]["path"] + "/")
    assert inside(compose, "grafana", home)["title"] == "Reactor"
