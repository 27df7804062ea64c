"""The file of retention rules: all of it is read, and every fault has its place."""

from datetime import timedelta
from pathlib import Path

import pytest
from support.harness import World

from reactor.config.rules_file import RulesFaulty, read_rules
from reactor.config.settings import SettingsError, load_settings
from reactor.core.model import SECOND
from reactor.core.rules import Rule

GOOD = """
# Failed trainings stay for a day.
[[rule]]
name = "failed trainings"
streams = ["job_*"]
status = ["failure", "Revoked"]
metadata = { kind = "training" }
terminal_grace = "24h"
missing_guard = "PT1H"
backup = "always"

[[rule]]
protect = true
name = "kept"
streams = ["job_9*"]

[[rule]]
name = "told"
metadata = { kind = "report" }
action = "report"
"""


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """In any order of keys. The order of rules is kept."""
    path = tmp_path / "rules.toml"
    path.write_text(GOOD)
    found = read_rules(path)
    assert found.rules == (
        Rule(
            "failed trainings",
            ("job_*",),
            frozenset({"FAILURE", "REVOKED"}),
            {"kind": "training"},
            {"terminal_grace": 86_400 * SECOND, "missing_guard": 3_600 * SECOND},
            backup="always",
        ),
        Rule("kept", ("job_9*",), protect=True),
        Rule("told", metadata={"kind": "report"}, action="report"),
    )
    assert found.path == str(path)
    assert len(found.sha256 or "") == 64
    other = tmp_path / "other.toml"
    other.write_text("\n\n".join(reversed(GOOD.replace("# Failed trainings stay for a day.", "").split("\n\n"))))
    assert [rule.name for rule in read_rules(other).rules] == ["told", "kept", "failed trainings"]


FAULTS = [
    ('[[rule]]\nname = "a"\nage_gaurd = "1h"', "3: rule 'a': age_gaurd: no such key; did you mean age_guard?"),
    ('[[rule]]\nname = "a"\nxyzzy = 1', "3: rule 'a': xyzzy: no such key; there are name, streams, status"),
    ('[[rule]]\n\n\nname = "a"\nage_guard = "1 week"', "5: rule 'a': age_guard: '1 week' is not a duration"),
    ('[[rule]]\nname = "a"\nage_guard = 60', "3: rule 'a': age_guard: write a duration in quotes"),
    ('[[rule]]\nage_guard = "1h"', "1: rule 1: name: Field required"),
    ('[[rule]]\nname = "default"\nprotect = true', "1: rule 'default': 'default' is shown if no rule decides"),
    ('[[rule]]\nname = "a"\nstreams = ["job_1"]', "1: rule 'a': it sets nothing"),
    ('[[rule]]\nname = "a"\nstreams = "job_1"\nprotect = true', "3: rule 'a': streams: Input should be a valid list"),
    ('[[rule]]\nname = "a"\nstreams = []\nprotect = true', "3: rule 'a': streams: List should have at least 1"),
    ('[[rule]]\nname = "a"\naction = "drop"', "3: rule 'a': action: Input should be 'delete' or 'report'"),
    ('[[rule]]\nname = "a"\nprotect = "yes"', "3: rule 'a': protect: Input should be a valid boolean"),
    (
        '[[rule]]\nname = "a"\nprotect = true\n[[rule]]\nname = "a"\nstreams=["x"]\nprotect = true',
        "5: rule 2: another rule has the name 'a', too",
    ),
    (
        '[[rule]]\nname = "a"\nstreams = ["j*"]\nprotect = true\n[[rule]]\nname = "b"\nstreams=["j1"]\nprotect = true',
        "5: rule 'b': it can never match: rule 'a' before it takes all of its streams",
    ),
    ("[rule]\nname = 1", "1: write each rule as a [[rule]] table"),
    ('[[rules]]\nname = "a"', "1: rules: no such key; a file of rules has [[rule]] tables"),
    ("[[rule]", " is not TOML: "),
]


@pytest.mark.parametrize(("text", "fault"), FAULTS, ids=[fault for _, fault in FAULTS])
def test_every_fault_has_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, fault: str) -> None:
    """File, line and rule. It is an error of the settings, so nothing starts with half of the rules."""
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(RulesFaulty) as caught:
        read_rules(path)
    assert any(f"{path}:{fault}" in line for line in caught.value.faults), caught.value.faults
    monkeypatch.setenv("REACTOR_POLICY_FILE", str(path))
    with pytest.raises(SettingsError, match="REACTOR_POLICY_FILE: "):
        load_settings()


def test_faults_are_reported_all_at_once(tmp_path: Path) -> None:
    """Not one at each start."""
    path = tmp_path / "rules.toml"
    path.write_text('[[rule]]\nname = "a"\nage_guard = "x"\nidle_guard = "y"\n[[rule]]\nprotect = true\n[other]')
    with pytest.raises(RulesFaulty) as caught:
        read_rules(path)
    assert len(caught.value.faults) == 4


async def test_rules_are_checked_without_servers(world: World, tmp_path: Path) -> None:
    """For CI: exit code 2 with each fault."""
    nowhere = {"REACTOR_NATS_URL": "nats://127.0.0.1:1", "REACTOR_REDIS_URL": "redis://127.0.0.1:1"}
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(GOOD)
    bad.write_text('[[rule]]\nname = "a"\nage_guard = "x"')
    done = await world.reactor("rules", "--check", str(good), **nowhere)
    assert (done.code, done.out.strip()) == (0, f"{good}: 3 rules, no fault")
    done = await world.reactor("rules", "--check", str(bad), **nowhere)
    assert done.code == 2
    assert f"{bad}:3: rule 'a': age_guard" in done.err
    assert (await world.reactor("rules", "--check", str(tmp_path / "none"), **nowhere)).code == 2


def test_durations_are_those_of_the_settings(tmp_path: Path) -> None:
    """With the same spelling."""
    path = tmp_path / "rules.toml"
    for text, span in (("90s", timedelta(seconds=90)), ("1h30m", timedelta(minutes=90)), ("0", timedelta())):
        path.write_text(f'[[rule]]\nname = "a"\nidle_guard = "{text}"')
        assert read_rules(path).rules[0].guards["idle_guard"] == span.total_seconds() * SECOND
