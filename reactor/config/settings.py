"""The settings from the environment and `.env`. They are checked when they are loaded, with one line for each problem.

A variable is `REACTOR_`, a group and a field: `REACTOR_POLICY_AGE_GUARD`. An unknown name with that prefix is an error,
because a typo in a guard must not leave the default in force.
"""

import difflib
import os
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from dotenv import dotenv_values
from pydantic import (
    ByteSize,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from reactor.config import fields
from reactor.config.nats_context import read_context
from reactor.config.rules_file import NO_RULES, RulesFaulty, RulesFile, read_rules

PREFIX = "REACTOR_"
ENV_FILE = Path(".env")


class SettingsError(Exception):
    """The settings are invalid. There is one line for each problem, with its variable and without secrets."""

    def __init__(self, lines: list[str]) -> None:
        """The lines, in the order of the settings."""
        super().__init__("\n".join(lines))
        self.lines = lines


def _plain_url(data: Any, name: str) -> Any:  # noqa: ANN401  # what pydantic hands to a before-validator
    """Use a plain NATS_URL or REDIS_URL if ours is set neither in the environment nor in the file."""
    plain = os.environ.get(name) or _env_file().get(name)
    if isinstance(data, dict) and not data.get("url"):
        data.pop("url", None)
        return data | ({"url": plain} if plain else {})
    return data


def _env_file() -> dict[str, str | None]:
    return dotenv_values(ENV_FILE) if ENV_FILE.is_file() else {}


def _group(name: str) -> SettingsConfigDict:
    return SettingsConfigDict(
        env_prefix=f"{PREFIX}{name}_",
        env_file=ENV_FILE,
        extra="ignore",  # unknown names are reported from the environment itself, with a suggestion
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
    )


class NatsSettings(BaseSettings):
    """The NATS server's address, and our credentials."""

    model_config = _group("NATS")

    url: fields.NatsUrl = SecretStr("nats://127.0.0.1:4222")
    """Servers, comma-separated. The default is NATS_URL. May contain a password."""
    creds: fields.CredentialsFile = None
    """Path of a credentials file."""
    user: fields.OptionalText = None
    """User name."""
    password: fields.OptionalSecret = None
    """The user's password."""
    token: fields.OptionalSecret = None
    """Token, instead of a user."""
    nkey: fields.Seed = None
    """NKey seed (SU…), instead of a user."""
    tls_ca: fields.AuthorityFile = None
    """Path of the authority's certificate, if it is a private one."""
    tls_cert: fields.OptionalFile = None
    """Path of a client certificate."""
    tls_key: fields.OptionalFile = None
    """Path of the client certificate's key."""
    domain: fields.OptionalName = None
    """JetStream domain, if the streams are behind a leaf node."""
    api_prefix: fields.OptionalSubject = None
    """JetStream's API prefix, if it is imported under another one than $JS.API. Not together with a domain."""
    inbox_prefix: fields.OptionalSubject = None
    """Prefix of the inboxes that answers come to. The default is _INBOX."""
    tls_first: bool = False
    """Shake hands for TLS before the server speaks (handshake_first in its config)."""
    context: fields.OptionalText = None
    """A context of the nats CLI. It is used for the variables that are not set."""

    @model_validator(mode="before")
    @classmethod
    def _fall_back(cls, data: Any) -> Any:  # noqa: ANN401  # as pydantic hands it over
        if isinstance(data, dict) and (name := data.get("context")):
            return read_context(name) | {field: value for field, value in data.items() if value}
        return _plain_url(data, "NATS_URL")

    @model_validator(mode="after")
    def _fit(self) -> Self:
        """Check that a certificate comes with its key, in one file or two."""
        if self.domain and self.api_prefix:
            raise ValueError("_DOMAIN and _API_PREFIX are two ways to say the same: set one of them")
        if self.tls_key and not self.tls_cert:
            raise ValueError("_TLS_KEY is set without its certificate: set _TLS_CERT, too")
        try:
            if self.tls_cert:
                ssl.create_default_context().load_cert_chain(self.tls_cert, self.tls_key)
        except ssl.SSLError as error:
            raise ValueError(
                f"_TLS_CERT and _TLS_KEY are not a certificate with its key: {error.reason or error}"
            ) from error
        return self


class RedisSettings(BaseSettings):
    """The Redis that holds the ledger."""

    model_config = _group("REDIS")

    url: fields.RedisUrl = SecretStr("redis://127.0.0.1:6379/0")
    """Redis or Valkey. The default is REDIS_URL. Also redis+sentinel://host:port,host:port/service/db and
    redis+cluster://host:port,host:port, both with rediss for TLS. May hold a password."""
    namespace: Annotated[str, Field(min_length=1)] = "reactor"
    """Prefix of every key, so that several reactors can share one Redis."""

    @model_validator(mode="before")
    @classmethod
    def _fall_back(cls, data: Any) -> Any:  # noqa: ANN401  # as pydantic hands it over
        return _plain_url(data, "REDIS_URL")


class EventsSettings(BaseSettings):
    """The lifecycle events: their stream, subject and durable."""

    model_config = _group("EVENTS")

    stream: fields.Name = "JOBS"
    """The lifecycle stream that is declared if no stream captures the subject."""
    subject: fields.Subject = "jobs.lifecycle.{job_id}"
    """Subject of a job's events; {job_id} is one whole token."""
    durable: fields.Name = "reactor"
    """Durable consumer, shared by all replicas."""
    replicas: Annotated[int, Field(ge=1, le=5)] = 1
    """Copies of each stream that reactor declares."""
    max_age: fields.Span = timedelta(days=30)
    """How long the lifecycle stream keeps events, if reactor declares it."""
    max_bytes: fields.Bytes | None = None
    """Storage reserved for the lifecycle stream if reactor declares it, such as 1GiB. If the account demands a size,
    1 GiB or what is free. A million jobs of eight events each take about 2 GB."""
    dead_letters_max_msgs: Annotated[int, Field(ge=1)] = 100_000
    """The largest number of unreadable events that are kept; the oldest go first."""
    dead_letters_max_bytes: fields.Bytes = ByteSize(256 << 20)
    """The largest size of the unreadable events that are kept, such as 256MiB."""


class PolicySettings(BaseSettings):
    """What may be deleted, and when."""

    model_config = _group("POLICY")

    stream_pattern: fields.Pattern = r"^job_(?P<job_id>0|[1-9][0-9]*)$"
    """Job streams: the whole name must match; group job_id is the job.

    If a job could have streams of several names, each sweep lists the names of all streams."""
    age_guard: fields.Duration = timedelta(hours=1)
    """Minimum age of a stream, by the server's own times."""
    terminal_grace: fields.Duration = timedelta(minutes=5)
    """Minimum time since the job became terminal."""
    idle_guard: fields.Duration = timedelta(minutes=10)
    """Minimum time since the last publish (and, for a missing or done job, delivery or ack)."""
    missing_guard: fields.Duration = timedelta(hours=24)
    """Minimum time without any sign of life for a job that is only missing from the ledger."""
    dispute_guard: fields.Duration = timedelta(hours=24)
    """How long a job counts as live if its last events by sequence and by occurred_at disagree."""
    terminal_statuses: fields.Statuses = (*("SUCCESS", "FAILURE", "REVOKED", "DELETED"),)
    """Statuses after which no more work is done, comma-separated; every other one is live."""
    live_statuses: fields.Statuses = (
        *("PENDING", "QUEUED", "RECEIVED", "STARTED", "RUNNING", "PROGRESS", "RETRY", "CANCELING"),
    )
    """Known statuses of live jobs. Every other status that does not end a job is live, too, but is warned about."""
    action: Literal["delete", "report"] = "delete"
    """delete; or report: do everything except fencing and deleting, and report what would have been deleted."""
    file: fields.OptionalFile = None
    """Retention rules (TOML): what differs for some streams. See docs/retention.md."""
    protect: fields.Words = ()
    """Globs of stream names that are never deleted, comma-separated."""
    companions: fields.Templates = ("job-{job_id}-dlq",)
    """Consumers on streams of advisories to delete with a job's stream, comma-separated templates."""

    @property
    def regex(self) -> re.Pattern[str]:
        """The stream pattern; digits are ASCII digits."""
        return re.compile(self.stream_pattern, re.ASCII)

    @cached_property
    def rules(self) -> RulesFile:
        """The rules in its file. Raises RulesFaulty."""
        return read_rules(self.file) if self.file else NO_RULES


class BreakerSettings(BaseSettings):
    """When a pass is refused; both limits must be exceeded."""

    model_config = _group("BREAKER")

    max_missing: Annotated[int, Field(ge=0)] = 20
    """Streams of missing jobs in one pass."""
    max_missing_ratio: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Their share of all job streams."""


class SweepSettings(BaseSettings):
    """How streams are drained."""

    model_config = _group("SWEEP")

    concurrency: Annotated[int, Field(ge=1, le=1024)] = 32
    """Streams drained at once."""
    lease: Annotated[fields.Span, Field(le=timedelta(hours=1))] = timedelta(seconds=30)
    """How long one replica holds a stream. After that, another replica takes over the streams of a killed one."""
    max_rate: fields.Rate = None
    """Deletions that may begin in a second, in all replicas together; none for no limit."""
    max_attempts: Annotated[int, Field(ge=1)] = 8
    """Failed drains of a job in a row before it is left to the next reconcile."""


class ReconcileSettings(BaseSettings):
    """The full pass."""

    model_config = _group("RECONCILE")

    interval: fields.Span = timedelta(minutes=15)
    """Time between two full passes of a worker."""


class DirectorySettings(BaseSettings):
    """The source of the jobs' statuses."""

    model_config = _group("DIRECTORY")

    kind: Literal["events", "sql", "http"] = "events"
    """events: the lifecycle events alone; sql or http: the job system's own table or API decides."""
    url: fields.OptionalSecret = None
    """sql: SQLAlchemy's async URL, such as postgresql+asyncpg://…, DATABASE_URL where it is not set; http: a URL with
    {job_id}. May hold a password."""
    query: fields.OptionalText = None
    """sql: a SELECT with :ids, its columns id, status and, optionally, ended_at."""
    status: fields.Pointer = "/status"
    """http: JSON pointer to the status in the answer."""
    ended_at: fields.OptionalPointer = None
    """http: JSON pointer to the time of the job's end, with its offset."""
    token: fields.OptionalSecret = None
    """http: sent as a bearer token; short for REACTOR_DIRECTORY_AUTH="Bearer …"."""
    auth: fields.OptionalSecret = None
    """http: the whole value of the Authorization header, such as Token abc (Django REST framework)."""
    timeout: fields.Span = timedelta(seconds=5)
    """How long to wait for an answer. Without an answer the job's status is unknown."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 16
    """http: requests at once."""
    channel: fields.OptionalText = None
    """sql, PostgreSQL: a channel whose notifications are ids of jobs (see reactor export postgres-trigger)."""
    canary: fields.OptionalText = None
    """A job that must be found for any absence to count, such as one that always exists.

    Without it an absence counts after the missing guard, in an answer that found another job."""

    @property
    def has_canary(self) -> bool:
        """Whether a table or an API is asked, and a canary is set."""
        return self.kind != "events" and self.canary is not None

    @property
    def authorization(self) -> str | None:
        """The value of the header."""
        if self.auth is not None:
            return self.auth.get_secret_value()
        return f"Bearer {self.token.get_secret_value()}" if self.token else None

    @model_validator(mode="before")
    @classmethod
    def _fall_back(cls, data: Any) -> Any:  # noqa: ANN401  # as pydantic hands it over
        """Use DATABASE_URL, as most frameworks write it, with an async driver."""
        if not isinstance(data, dict) or data.get("kind") != "sql":
            return data
        plain = _plain_url(data, "DATABASE_URL")
        return plain | {"url": fields.with_async_driver(plain["url"])} if plain.get("url") else plain

    @model_validator(mode="after")
    def _is_complete(self) -> "DirectorySettings":
        url = self.url.get_secret_value() if self.url else ""
        if self.kind == "sql" and not (url and ":ids" in (self.query or "")):
            raise ValueError("kind sql needs REACTOR_DIRECTORY_URL, and a REACTOR_DIRECTORY_QUERY that selects by :ids")
        if self.kind == "http" and not (url.startswith(("http://", "https://")) and "{job_id}" in url):
            raise ValueError("kind http needs a REACTOR_DIRECTORY_URL such as https://api.example/jobs/{job_id}")
        if self.auth and self.token:
            raise ValueError("REACTOR_DIRECTORY_AUTH is the whole header: leave REACTOR_DIRECTORY_TOKEN out")
        if self.authorization is not None and not self.authorization.isprintable():
            raise ValueError("REACTOR_DIRECTORY_AUTH and _TOKEN are one line of a header: no control characters")
        return self


class BackupSettings(BaseSettings):
    """Backups of streams before they are deleted."""

    model_config = _group("BACKUP")

    when: Literal["never", "pending", "always"] = "never"
    """never; pending (if unacknowledged work is left); always. Without its backup such a stream is kept."""
    url: fields.BackupUrl = None
    """The place for backups: nats:BUCKET (a JetStream bucket), s3://bucket/prefix, gs://…, az://… (extra objectstore),
    or file:///path. If it is empty, REACTOR_BACKUP_DIR. Credentials come from the usual places, not from the URL."""
    dir: Path = Path(".reactor/backups")
    """The folder of this machine's backups."""
    max_age: fields.Span = timedelta(days=7)
    """How long a backup is kept."""
    max_bytes: fields.Bytes = ByteSize(10 << 30)
    """The largest size of all backups together, such as 10GiB; the oldest go first."""


LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class HttpSettings(BaseSettings):
    """The worker's HTTP endpoint."""

    model_config = _group("HTTP")

    host: str = "127.0.0.1"
    """Address to bind to; another than loopback needs a token, or REACTOR_HTTP_OPEN."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    """Port of the page, the API and the health checks; 0 is off."""
    token: fields.OptionalSecret = None
    """What /api, /events and /metrics ask for, as ?token=… or as a bearer token."""
    open: bool = False
    """Serve other hosts without a token: everyone who reaches the port can read."""
    hosts: fields.Words = ()
    """Further host names that it answers to, comma-separated, besides those of loopback and of its own address."""
    orders: bool = False
    """Buttons on the page to pause, protect and restore, each with a confirmation; needs a token."""

    @model_validator(mode="after")
    def _is_guarded(self) -> "HttpSettings":
        if self.orders and not self.token:
            raise ValueError("orders on the page need REACTOR_HTTP_TOKEN: everybody who has it may pause and restore")
        if self.port and self.host not in LOOPBACK and not (self.token or self.open):
            raise ValueError(
                f"host {self.host} can be reached by others: set REACTOR_HTTP_TOKEN, or REACTOR_HTTP_OPEN=true"
            )
        return self


class LogSettings(BaseSettings):
    """The log on standard error."""

    model_config = _group("LOG")

    level: fields.LogLevel = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""
    format: fields.LogFormat = None
    """console or json; console on a terminal, else json."""


class NotifySettings(BaseSettings):
    """Messages to people."""

    model_config = _group("NOTIFY")

    urls: fields.NotifyUrls = None
    """Where to send what needs a person, comma-separated, as Apprise writes it: slack://…, mailto://…, json://host/path.
    Needs the extra notify. May hold secrets."""
    daily: fields.TimeOfDay = None
    """When to send a summary of the last day (UTC), such as 09:00; none if empty."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """The URLs as a list."""
        return fields.parts_of(self.urls)


@dataclass(frozen=True)
class Settings:
    """All settings, by group."""

    nats: NatsSettings
    redis: RedisSettings
    events: EventsSettings
    policy: PolicySettings
    breaker: BreakerSettings
    sweep: SweepSettings
    reconcile: ReconcileSettings
    directory: DirectorySettings
    backup: BackupSettings
    http: HttpSettings
    notify: NotifySettings
    log: LogSettings


def groups() -> dict[str, type[BaseSettings]]:
    """Return the groups, by name."""
    return {field.name: cast("type[BaseSettings]", field.type) for field in dataclass_fields(Settings)}


def variables() -> Iterator[tuple[str, FieldInfo]]:
    """Yield every variable, and what it is."""
    for group in groups().values():
        for name, field in group.model_fields.items():
            yield f"{group.model_config['env_prefix']}{name}".upper(), field


def load_settings() -> Settings:
    """Read the settings from the environment and `.env`. Raises SettingsError with all problems."""
    try:
        _env_file()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{ENV_FILE}: cannot be read: save it as UTF-8 text that this user may read"]) from error
    problems = list(_unknown_variables())
    loaded: dict[str, Any] = {}
    for name, group in groups().items():
        try:
            loaded[name] = group()
        except ValidationError as error:
            problems += [_describe(group, dict(part)) for part in error.errors(include_input=False)]
    if "policy" in loaded:
        try:
            _ = loaded["policy"].rules
        except RulesFaulty as error:
            problems += [f"REACTOR_POLICY_FILE: {fault}" for fault in error.faults]
    if problems:
        raise SettingsError(problems)
    return Settings(**loaded)


CLIENT_SWITCH = "REACTOR_CLIENT_EMIT"
"""A variable of `reactor.client`, read in the job system's processes."""
_SERVICE_LINK = re.compile(
    r"REACTOR(_[A-Z0-9_]+)?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""Variables that Kubernetes sets in every pod if there is a Service `reactor…`, unless `enableServiceLinks: false`."""


def _unknown_variables() -> Iterator[str]:
    """Yield names with our prefix that are not settings."""
    known = [name for name, _ in variables()]
    given = {*os.environ, *_env_file()}
    for name in sorted(given):
        upper = name.upper()
        if upper.startswith(PREFIX) and upper not in {*known, CLIENT_SWITCH} and not _SERVICE_LINK.fullmatch(upper):
            ours = [variable.removeprefix(PREFIX) for variable in known]
            close = difflib.get_close_matches(upper.removeprefix(PREFIX), ours, n=1)
            yield f"{name}: no such setting; " + (
                f"did you mean {PREFIX}{close[0]}?" if close else "see reactor settings"
            )


def _describe(group: type[BaseSettings], error: dict[str, Any]) -> str:
    """Return `REACTOR_…: what is wrong` without the value, which may be a secret. Only durations show theirs."""
    if not error["loc"]:  # about a group as a whole
        return f"{group.model_config['env_prefix'].rstrip('_')}: {error['msg'].removeprefix('Value error, ')}"
    field = str(error["loc"][0])
    variable = field if field.isupper() else f"{group.model_config['env_prefix']}{field}".upper()
    return f"{variable}: {str(error['msg']).removeprefix('Value error, ')}"
