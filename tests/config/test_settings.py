"""Settings: the contract's names and defaults, and one clear line for each mistake."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.harness import ROOT

from reactor.config.catalogue import describe, table
from reactor.config.settings import Settings, SettingsError, load_settings
from reactor.core.durations import parse_duration

CONTRACT = {
    "REACTOR_NATS_URL": "nats://127.0.0.1:4222",
    "REACTOR_NATS_CREDS": "",
    "REACTOR_NATS_USER": "",
    "REACTOR_NATS_PASSWORD": "",
    "REACTOR_NATS_TOKEN": "",
    "REACTOR_NATS_NKEY": "",
    "REACTOR_NATS_TLS_CA": "",
    "REACTOR_NATS_TLS_CERT": "",
    "REACTOR_NATS_TLS_KEY": "",
    "REACTOR_NATS_DOMAIN": "",
    "REACTOR_NATS_API_PREFIX": "",
    "REACTOR_NATS_INBOX_PREFIX": "",
    "REACTOR_NATS_TLS_FIRST": "False",
    "REACTOR_NATS_CONTEXT": "",
    "REACTOR_REDIS_URL": "redis://127.0.0.1:6379/0",
    "REACTOR_REDIS_NAMESPACE": "reactor",
    "REACTOR_EVENTS_STREAM": "JOBS",
    "REACTOR_EVENTS_SUBJECT": "jobs.lifecycle.{job_id}",
    "REACTOR_EVENTS_DURABLE": "reactor",
    "REACTOR_EVENTS_REPLICAS": "1",
    "REACTOR_EVENTS_MAX_AGE": "30d",
    "REACTOR_EVENTS_MAX_BYTES": "",
    "REACTOR_EVENTS_DEAD_LETTERS_MAX_MSGS": "100000",
    "REACTOR_HTTP_HOSTS": "",
    "REACTOR_EVENTS_DEAD_LETTERS_MAX_BYTES": "256MiB",
    "REACTOR_POLICY_MISSING_GUARD": "24h",
    "REACTOR_POLICY_DISPUTE_GUARD": "24h",
    "REACTOR_POLICY_STREAM_PATTERN": r"^job_(?P<job_id>0|[1-9][0-9]*)$",
    "REACTOR_POLICY_AGE_GUARD": "1h",
    "REACTOR_POLICY_TERMINAL_GRACE": "5m",
    "REACTOR_POLICY_IDLE_GUARD": "10m",
    "REACTOR_POLICY_TERMINAL_STATUSES": "SUCCESS,FAILURE,REVOKED,DELETED",
    "REACTOR_POLICY_LIVE_STATUSES": "PENDING,QUEUED,RECEIVED,STARTED,RUNNING,PROGRESS,RETRY,CANCELING",
    "REACTOR_POLICY_ACTION": "delete",
    "REACTOR_POLICY_FILE": "",
    "REACTOR_POLICY_PROTECT": "",
    "REACTOR_POLICY_COMPANIONS": "job-{job_id}-dlq",
    "REACTOR_BREAKER_MAX_MISSING": "20",
    "REACTOR_BREAKER_MAX_MISSING_RATIO": "0.5",
    "REACTOR_SWEEP_CONCURRENCY": "32",
    "REACTOR_SWEEP_LEASE": "30s",
    "REACTOR_SWEEP_MAX_RATE": "",
    "REACTOR_SWEEP_MAX_ATTEMPTS": "8",
    "REACTOR_RECONCILE_INTERVAL": "15m",
    "REACTOR_DIRECTORY_KIND": "events",
    "REACTOR_DIRECTORY_URL": "",
    "REACTOR_DIRECTORY_QUERY": "",
    "REACTOR_DIRECTORY_STATUS": "/status",
    "REACTOR_DIRECTORY_ENDED_AT": "",
    "REACTOR_DIRECTORY_TOKEN": "",
    "REACTOR_DIRECTORY_AUTH": "",
    "REACTOR_DIRECTORY_TIMEOUT": "5s",
    "REACTOR_DIRECTORY_CONCURRENCY": "16",
    "REACTOR_DIRECTORY_CHANNEL": "",
    "REACTOR_DIRECTORY_CANARY": "",
    "REACTOR_BACKUP_WHEN": "never",
    "REACTOR_BACKUP_URL": "",
    "REACTOR_BACKUP_DIR": ".reactor/backups",
    "REACTOR_BACKUP_MAX_AGE": "7d",
    "REACTOR_BACKUP_MAX_BYTES": "10GiB",
    "REACTOR_HTTP_HOST": "127.0.0.1",
    "REACTOR_HTTP_PORT": "8080",
    "REACTOR_NOTIFY_URLS": "",
    "REACTOR_NOTIFY_DAILY": "",
    "REACTOR_LOG_LEVEL": "INFO",
    "REACTOR_LOG_FORMAT": "",
}


def load(**variables: str) -> Settings:
    with patch.dict(os.environ, variables, clear=True):
        return load_settings()


def problems(**variables: str) -> list[str]:
    with pytest.raises(SettingsError) as error:
        load(**variables)
    return error.value.lines


@pytest.fixture(autouse=True)
def _no_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_contract_is_kept_to_the_letter() -> None:
    """Every variable with its default, and no others except those that protect the endpoint."""
    beyond = {"REACTOR_HTTP_TOKEN": "", "REACTOR_HTTP_OPEN": "False", "REACTOR_HTTP_ORDERS": "False"}
    assert {name: default for name, default, _ in describe()} == CONTRACT | beyond


def test_every_setting_says_what_it_is() -> None:
    """In `reactor settings`."""
    assert all(text for _, _, text in describe())


def test_defaults_are_themselves_valid_settings() -> None:
    """The output of `reactor settings` can be copied into the environment."""
    given_defaults = load(**{name: default for name, default in CONTRACT.items() if default})
    assert given_defaults == load()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90.0),
        ("15m", 900.0),
        ("1h30m", 5400.0),
        ("250ms", 0.25),
        ("2d", 172_800.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("PT15M", 900.0),
        (" 5s ", 5.0),
    ],
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    """With units, as plain seconds, and as ISO 8601."""
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "soon", "5 minutes", "-5s", "1h 30m", "5x", "-PT5M", "P", "m", "9" * 30 + "d", "s5"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """The error lists the valid formats."""
    with pytest.raises(ValueError, match="is not a duration; write 90s"):
        parse_duration(text)


@given(st.integers(0, 10**6), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_durations_add_up(hours: int, minutes: int, seconds: int, milliseconds: int) -> None:
    """Each unit counts."""
    span = parse_duration(f"{hours}h{minutes}m{seconds}s{milliseconds}ms")
    assert span == timedelta(hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("REACTOR_POLICY_AGE_GUARD", "soon", "'soon' is not a duration"),
        ("REACTOR_POLICY_STREAM_PATTERN", "job_(", "is not a regular expression"),
        ("REACTOR_POLICY_STREAM_PATTERN", "^job_([0-9]+)$", "needs a group (?P<job_id>"),
        ("REACTOR_POLICY_TERMINAL_STATUSES", " , ", "must name at least one"),
        ("REACTOR_POLICY_COMPANIONS", "dlq", "each must hold {job_id}"),
        ("REACTOR_EVENTS_SUBJECT", "jobs.lifecycle", "must hold {job_id} once"),
        ("REACTOR_EVENTS_SUBJECT", "jobs.x{job_id}", "must hold {job_id} once"),
        ("REACTOR_EVENTS_SUBJECT", "jobs.*.{job_id}", "no wildcards"),
        ("REACTOR_EVENTS_SUBJECT", "jobs..{job_id}", "must hold"),
        ("REACTOR_EVENTS_STREAM", "my jobs", "cannot be the name"),
        ("REACTOR_EVENTS_DURABLE", "a.b", "cannot be the name"),
        ("REACTOR_EVENTS_REPLICAS", "7", "less than or equal to 5"),
        ("REACTOR_EVENTS_MAX_AGE", "0", "longer than 0"),
        ("REACTOR_SWEEP_LEASE", "0s", "longer than 0"),
        ("REACTOR_SWEEP_MAX_RATE", "0", "greater than 0"),
        ("REACTOR_SWEEP_CONCURRENCY", "many", "valid integer"),
        ("REACTOR_BREAKER_MAX_MISSING_RATIO", "2", "less than or equal to 1"),
        ("REACTOR_NATS_URL", "http://127.0.0.1", "such as nats://127.0.0.1:4222"),
        ("REACTOR_NATS_URL", "nats://here,nats://me:a/b@there:4222", "odd characters"),
        ("REACTOR_NATS_URL", "nats://127.0.0.1:99999", "such as nats://"),
        ("REACTOR_REDIS_URL", "127.0.0.1", "such as redis://127.0.0.1:6379/0"),
        ("REACTOR_REDIS_URL", "redis://:a/b@there:6379", "odd characters"),
        ("REACTOR_REDIS_URL", "redis+sentinel://there:26379", "redis+sentinel://host:26379,host:26379/service/0"),
        ("REACTOR_REDIS_URL", "redis+cluster://here:6379,/0", "or redis+cluster://"),
        ("REACTOR_REDIS_URL", "redis+cluster://here:6379/service", "or redis+cluster://"),
        ("REACTOR_REDIS_URL", "redis+cluster://here:6379?nonsense=1", "redis-py does not know: nonsense"),
        ("REACTOR_REDIS_URL", "redis+other://here:6379", "or redis+cluster://"),
        ("REACTOR_NATS_NKEY", "hunter2", "is not an NKey seed"),
        ("REACTOR_DIRECTORY_STATUS", "status", "must be a JSON pointer"),
        ("REACTOR_NATS_CREDS", "/nowhere/to.creds", "cannot be read: /nowhere/to.creds: No such file"),
        ("REACTOR_NATS_CREDS", __file__, "is not a credentials file"),
        ("REACTOR_NATS_TLS_CA", "/nowhere", "cannot be read"),
        ("REACTOR_NATS_TLS_CA", __file__, "holds no certificate"),
        ("REACTOR_HTTP_PORT", "70000", "less than or equal to 65535"),
        ("REACTOR_LOG_LEVEL", "LOUD", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        ("REACTOR_LOG_FORMAT", "xml", "'console' or 'json'"),
    ],
)
def test_a_bad_value_is_one_line(variable: str, value: str, said: str) -> None:
    """It names the variable, what is wrong and what is right."""
    [line] = problems(**{variable: value})
    assert line.startswith(f"{variable}: ")
    assert said in line
    assert "\n" not in line


def test_all_problems_are_reported_at_once() -> None:
    """So they can be fixed together."""
    assert len(problems(REACTOR_POLICY_AGE_GUARD="x", REACTOR_SWEEP_LEASE="y", REACTOR_WHAT_EVER="z")) == 3


def test_a_typo_is_refused_with_a_suggestion() -> None:
    """Otherwise a mistyped guard would leave the default in force."""
    assert problems(REACTOR_POLICY_AGE_GAURD="2h") == [
        "REACTOR_POLICY_AGE_GAURD: no such setting; did you mean REACTOR_POLICY_AGE_GUARD?"
    ]
    assert problems(REACTOR_X="1") == ["REACTOR_X: no such setting; see reactor settings"]


def test_an_env_file_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    """Typos in it are refused, too."""
    (tmp_path / ".env").write_text("REACTOR_POLICY_AGE_GUARD=2h\nREACTOR_REDIS_NAMESPACE=file\nOTHER=1\n")
    settings = load(REACTOR_REDIS_NAMESPACE="env")
    assert (settings.policy.age_guard, settings.redis.namespace) == (timedelta(hours=2), "env")
    (tmp_path / ".env").write_text("REACTOR_POLICY_AGE=2h\n")
    assert "REACTOR_POLICY_AGE" in problems()[0]


def test_plain_urls_are_taken_where_ours_are_not_set(tmp_path: Path) -> None:
    """From the environment or the file."""
    assert load(NATS_URL="nats://a").nats.url.get_secret_value() == "nats://a"
    assert load(NATS_URL="nats://a", REACTOR_NATS_URL="nats://b").nats.url.get_secret_value() == "nats://b"
    (tmp_path / ".env").write_text("REDIS_URL=redis://file\n")
    assert load().redis.url.get_secret_value() == "redis://file"


def test_lists_and_words_are_forgiving() -> None:
    """They allow spaces, empty parts, and upper or lower case."""
    settings = load(
        REACTOR_POLICY_TERMINAL_STATUSES="success, failure,",
        REACTOR_POLICY_PROTECT=" job_1*, ,x",
        REACTOR_LOG_LEVEL="debug",
        REACTOR_SWEEP_MAX_RATE="none",
    )
    assert settings.policy.terminal_statuses == ("SUCCESS", "FAILURE")
    assert settings.policy.protect == ("job_1*", "x")
    assert (settings.log.level, settings.sweep.max_rate) == ("DEBUG", None)


def test_the_pattern_knows_ascii_digits_only() -> None:
    """Also a user's own pattern."""
    assert load(REACTOR_POLICY_STREAM_PATTERN=r"t(?P<job_id>\d+)").policy.regex.fullmatch("t\u0661") is None


def test_no_secret_is_shown() -> None:
    """Neither by printing the settings nor in an error."""
    secrets: dict[str, Any] = {
        "REACTOR_NATS_URL": "nats://u:hunter2@h",
        "REACTOR_REDIS_URL": "redis://:hunter2@h",
        "REACTOR_NATS_PASSWORD": "hunter2",
        "REACTOR_NATS_TOKEN": "hunter2",
    }
    assert "hunter2" not in repr(load(**secrets)) + str(load(**secrets))
    secrets["REACTOR_NATS_NKEY"] = "hunter2"
    assert "hunter2" not in "\n".join(problems(**secrets, REACTOR_POLICY_AGE_GUARD="x", REACTOR_LOG_LEVEL="hunter3"))


def test_our_url_wins_over_a_plain_one_in_any_file(tmp_path: Path) -> None:
    """Otherwise reactor could delete on another NATS than the file names. An empty variable is not set."""
    (tmp_path / ".env").write_text("REACTOR_NATS_URL=nats://ours\nREACTOR_REDIS_URL=redis://ours\n")
    settings = load(NATS_URL="nats://plain", REDIS_URL="redis://plain")
    assert settings.nats.url.get_secret_value() == "nats://ours"
    assert settings.redis.url.get_secret_value() == "redis://ours"
    (tmp_path / ".env").unlink()
    assert load(REACTOR_NATS_URL="", NATS_URL="nats://plain").nats.url.get_secret_value() == "nats://plain"
    assert load(REACTOR_NATS_URL="") == load()


@pytest.mark.parametrize("field", ["CREDS", "USER", "PASSWORD", "TOKEN", "NKEY", "TLS_CA", "DOMAIN"])
def test_an_empty_variable_is_not_set(field: str) -> None:
    """Compose passes on empty variables. An empty path would be the working directory."""
    assert load(**{f"REACTOR_NATS_{field}": ""}) == load()


def test_a_certificate_that_does_not_fit_is_reported() -> None:
    """Before any connection, because OpenSSL's error would not name the variable."""
    assert problems(REACTOR_NATS_TLS_KEY=__file__) == [
        "REACTOR_NATS: _TLS_KEY is set without its certificate: set _TLS_CERT, too"
    ]
    [line] = problems(REACTOR_NATS_TLS_CERT=__file__)
    assert line.startswith("REACTOR_NATS: _TLS_CERT and _TLS_KEY are not a certificate with its key")


@pytest.mark.parametrize("pattern", [r"(?u)j(?P<job_id>1)", r"(?P<job_id>a{99999999999})"])
def test_a_pattern_that_python_cannot_take_is_one_line(pattern: str) -> None:
    """Even if the error is not re.error."""
    [line] = problems(REACTOR_POLICY_STREAM_PATTERN=pattern)
    assert line.startswith("REACTOR_POLICY_STREAM_PATTERN: is not a regular expression")


def test_a_rate_is_a_number() -> None:
    """The word `none` means no limit."""
    assert "finite" in problems(REACTOR_SWEEP_MAX_RATE="inf")[0]


def test_a_file_that_is_no_text_is_reported(tmp_path: Path) -> None:
    """Without a traceback."""
    (tmp_path / ".env").write_bytes(b"X=\xff\n")
    assert problems() == [".env: cannot be read: save it as UTF-8 text that this user may read"]


def test_settings_made_from_a_mapping_are_left_alone() -> None:
    """A value that is already a group needs no fallback."""
    group = load().redis
    assert type(group).model_validate(group) == group


def test_the_page_lists_them_all() -> None:
    """As the code defines them."""
    assert table() in (ROOT / "docs" / "settings.md").read_text()


def test_kubernetes_service_links_are_no_unknown_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a Service called `reactor` every pod gets such variables. A mistyped setting is still an error."""
    links = {
        "REACTOR_PORT": "tcp://10.0.0.1:8080",
        "REACTOR_SERVICE_HOST": "10.0.0.1",
        "REACTOR_SERVICE_PORT": "8080",
        "REACTOR_SERVICE_PORT_HTTP": "8080",
        "REACTOR_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "REACTOR_PORT_8080_TCP_PROTO": "tcp",
        "REACTOR_PORT_8080_TCP_PORT": "8080",
        "REACTOR_PORT_8080_TCP_ADDR": "10.0.0.1",
        "REACTOR_METRICS_PORT_9090_TCP_ADDR": "10.0.0.1",
    }
    for name, value in links.items():
        monkeypatch.setenv(name, value)
    load_settings()
    monkeypatch.setenv("REACTOR_POLICY_AGE_GARD", "1h")
    with pytest.raises(SettingsError, match="AGE_GUARD"):
        load_settings()
