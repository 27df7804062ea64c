"""The output of `reactor export`: valid, and true of this release."""

import configparser
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer.main
import yaml

from reactor.cli.main import app
from reactor.config.catalogue import describe

EXPORT = Path(__file__).parent.parent / "reactor" / "export"
SYSTEMD = shutil.which("systemd-analyze")
VARIABLES = {name for name, _, _ in describe()}


@pytest.fixture(name="manifests")
def _manifests() -> dict[str, Any]:
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all((EXPORT / "kubernetes.yaml").read_text())}


def containers(manifests: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the containers of the worker and of the sweep."""
    pods = [
        manifests["Deployment"]["spec"]["template"],
        manifests["CronJob"]["spec"]["jobTemplate"]["spec"]["template"],
    ]
    return [container for pod in pods for container in pod["spec"]["containers"]]


@pytest.mark.parametrize("release", ["1.29", kubernetes_validate.latest_version()])
def test_the_manifests_are_valid(manifests: dict[str, Any], release: str) -> None:
    """By the API's own schemas, without unknown keys."""
    assert set(manifests) == {"Deployment", "PodDisruptionBudget", "NetworkPolicy", "CronJob"}
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, release, strict=True)


def test_the_manifests_are_true_of_this_release(manifests: dict[str, Any]) -> None:
    """Commands, variables and version are reactor's. Secrets are references."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group
    for container in containers(manifests):
        assert container["args"][0] in commands
        assert container["image"].endswith(f":{version('jetstream-reactor')}")
        names = {variable["name"]: variable for variable in container["env"]}
        assert set(names) <= VARIABLES
        secret = {name for name in names if name.endswith(("_URL", "_TOKEN"))}
        assert all(set(names[name]["valueFrom"]) == {"secretKeyRef"} for name in secret)
        assert container["resources"]["limits"]["memory"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_two_replicas_one_of_which_stays(manifests: dict[str, Any]) -> None:
    """Their probes use the endpoint's paths, and the selectors match."""
    spec = manifests["Deployment"]["spec"]
    worker = spec["template"]["spec"]["containers"][0]
    assert (spec["replicas"], manifests["PodDisruptionBudget"]["spec"]["minAvailable"]) == (2, 1)
    assert worker["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert worker["readinessProbe"]["httpGet"]["path"] == "/readyz"
    labels = spec["template"]["metadata"]["labels"]
    for kind, key in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        assert manifests[kind]["spec"][key]["matchLabels"].items() <= labels.items()


def unit() -> configparser.ConfigParser:
    """Return the unit, parsed."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as the documentation has it
    parser.read(EXPORT / "reactor.service")
    return parser


def test_the_unit_runs_the_worker() -> None:
    """Not as root, and with few rights. Its variables are settings."""
    service = unit()["Service"]
    assert service["ExecStart"].endswith("/bin/reactor worker")
    assert (service["User"], service["NoNewPrivileges"], service["ProtectSystem"]) == ("reactor", "yes", "strict")
    assert set(re.findall(r"(REACTOR_\w+)=", service["Environment"])) <= VARIABLES
    assert set(unit()) == {"DEFAULT", "Unit", "Service", "Install"}


@pytest.mark.skipif(SYSTEMD is None, reason="there is no systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """Every directive and value, with an existing program."""
    text = (EXPORT / "reactor.service").read_text().replace("/opt/reactor/bin/reactor", sys.executable)
    (tmp_path / "reactor.service").write_text(text)
    command = [str(SYSTEMD), "verify", str(tmp_path / "reactor.service")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own file
    assert (done.returncode, done.stderr) == (0, "")


KUBECTL = shutil.which("kubectl")


@pytest.mark.skipif(KUBECTL is None, reason="there is no kubectl")
@pytest.mark.parametrize("rules", ["", '[[rule]]\nname = "a"\nterminal_grace = "24h"\n'])
def test_kustomize_builds_the_base(tmp_path: Path, rules: str) -> None:
    """In a namespace, with the workers' secrets and rules. The result is valid."""
    (tmp_path / "reactor.yaml").write_text((EXPORT / "kubernetes.yaml").read_text())
    (tmp_path / "kustomization.yaml").write_text((EXPORT / "kustomization.yaml").read_text())
    (tmp_path / "rules.toml").write_text(rules)
    (tmp_path / "secrets.env").write_text("REACTOR_NATS_URL=n\nREACTOR_REDIS_URL=r\nREACTOR_HTTP_TOKEN=t\n")
    command = [str(KUBECTL), "kustomize", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  # our own files
    built = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(done.stdout)}
    assert {manifest["metadata"]["namespace"] for manifest in built.values()} == {"jobs"}
    for manifest in built.values():
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    pod = built["Deployment"]["spec"]["template"]["spec"]
    worker = pod["containers"][0]
    variables = {item["name"]: item for item in worker["env"]}
    assert variables["REACTOR_POLICY_FILE"]["value"] == "/etc/reactor/rules.toml"
    assert variables["REACTOR_NATS_URL"]["valueFrom"]["secretKeyRef"]["name"] == built["Secret"]["metadata"]["name"]
    [volume] = [item for item in pod["volumes"] if item["name"] == "rules"]
    assert volume["configMap"]["name"] == built["ConfigMap"]["metadata"]["name"]
    assert built["ConfigMap"]["data"]["rules.toml"] == rules
