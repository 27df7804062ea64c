"""Settings from the environment and `.env`, checked when they are loaded: what is wrong is one clear line each.

A variable is `REACTOR_`, a group, a field: `REACTOR_POLICY_AGE_GUARD`. A name with that prefix which is no setting is
an error, not ignored: a typo in a guard must not leave the default in force.
"""

import difflib
import os
import re
import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast
from urllib.parse import urlsplit

import nkeys
from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from redis.connection import parse_url

PREFIX = "REACTOR_"
ENV_FILE = Path(".env")

_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)(d|h|ms|m|s))", re.ASCII)
_ISO = TypeAdapter(timedelta)
_ESCAPED = "odd characters in its password are written as %40 for @, and so on"


class SettingsError(Exception):
    """One line a problem, each naming its variable. Never holds a secret."""

    def __init__(self, lines: list[str]) -> None:
        """The lines, in the order of the settings."""
        super().__init__("\n".join(lines))
        self.lines = lines


def parse_duration(text: str) -> timedelta:
    """`90s`, `15m`, `1h30m`, `250ms`, `2d`, a bare number of seconds, or ISO 8601 (`PT15M`). Raises ValueError."""
    text = text.strip()
    parts = _DURATION.findall(text)
    try:
        if parts and "".join(number + unit for number, unit in parts) == text:
            return sum((timedelta(milliseconds=float(n) * _UNITS[unit]) for n, unit in parts), timedelta())
        if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
            return timedelta(seconds=float(text))
        if text.startswith("P"):
            return _not_negative(_ISO.validate_python(text))
    except (OverflowError, ValidationError):
        pass
    message = f"{text!r} is not a duration; write 90s, 15m, 1h30m, 250ms, seconds or ISO 8601"
    raise ValueError(message)


def _not_negative(span: timedelta) -> timedelta:
    if span < timedelta():
        raise OverflowError
    return span


def _duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


def _positive(span: timedelta) -> timedelta:
    if span <= timedelta():
        raise ValueError("must be longer than nothing")
    return span


def _comma_list(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _not_empty(parts: tuple[str, ...]) -> tuple[str, ...]:
    if not parts:
        raise ValueError("must name at least one")
    return parts


def _upper(parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part.upper() for part in parts)


def _pattern(text: str) -> str:
    try:
        groups = re.compile(text, re.ASCII).groupindex
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        message = f"is no regular expression: {error}"
        raise ValueError(message) from error
    if "job_id" not in groups:
        raise ValueError("needs a group (?P<job_id>…) that is the stream's job")
    return text


def _subject(text: str) -> str:
    tokens = text.split(".")
    others = [token for token in tokens if token != "{job_id}"]  # noqa: S105  # a token of a subject
    if tokens.count("{job_id}") != 1 or any(not t.isprintable() or not t or re.search(r"[\s*>{}]", t) for t in others):
        raise ValueError("must hold {job_id} once, as a whole token, and no wildcards: such as jobs.lifecycle.{job_id}")
    return text


def _name(text: str) -> str:
    if not text or re.search(r"[\s.*>/\\]", text) or not text.isprintable():
        raise ValueError("is no name for a stream or consumer: no spaces, dots, *, >, / or \\")
    return text


def _templates(parts: tuple[str, ...]) -> tuple[str, ...]:
    if any("{job_id}" not in part for part in parts):
        raise ValueError("each must hold {job_id}")
    return parts


def _readable(path: Path | None) -> Path | None:
    if path is not None:
        try:
            path.read_bytes()
        except OSError as error:
            message = f"cannot be read: {path}: {error.strerror}"
            raise ValueError(message) from error
    return path


def _credentials(path: Path | None) -> Path | None:
    if path is not None and not all(part in path.read_bytes() for part in (b"BEGIN NATS USER JWT", b"NKEY SEED")):
        message = f"is no credentials file, with a user's JWT and NKey seed: {path}"
        raise ValueError(message)
    return path


def _authority(path: Path | None) -> Path | None:
    if path is not None:
        try:
            ssl.create_default_context(cafile=path)
        except ssl.SSLError as error:
            message = f"holds no certificate: {path}: {error.reason or error}"
            raise ValueError(message) from error
    return path


def _nats_url(secret: SecretStr) -> SecretStr:
    for one in secret.get_secret_value().split(","):
        url = one.strip()
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        try:
            fine = parts.scheme in {"nats", "tls", "ws", "wss"} and parts.hostname and parts.port != 0
        except ValueError:
            fine = False
        if not fine:
            raise ValueError("each must be a URL such as nats://127.0.0.1:4222; " + _ESCAPED)
    return secret


def _redis_url(secret: SecretStr) -> SecretStr:
    try:
        parse_url(secret.get_secret_value())  # type: ignore[no-untyped-call]  # redis-py's
    except ValueError as error:
        raise ValueError("must be a URL such as redis://127.0.0.1:6379/0; " + _ESCAPED) from error
    return secret


def _seed(secret: SecretStr | None) -> SecretStr | None:
    try:
        if secret is not None:
            nkeys.from_seed(secret.get_secret_value().encode())
    except nkeys.NkeysError as error:
        raise ValueError("is no NKey seed, such as SUA…") from error
    return secret


def _none_word(value: object) -> object:
    return None if isinstance(value, str) and value.lower() in {"", "none"} else value


def _empty_is_none(value: object) -> object:
    return None if value == "" else value


def _plain_url(data: Any, name: str) -> Any:  # noqa: ANN401  # what pydantic hands to a before-validator
    """A plain NATS_URL or REDIS_URL counts only where ours is set neither in the environment nor in the file."""
    plain = os.environ.get(name) or _env_file().get(name)
    if isinstance(data, dict) and not data.get("url"):
        data.pop("url", None)
        return data | ({"url": plain} if plain else {})
    return data


def _env_file() -> dict[str, str | None]:
    return dotenv_values(ENV_FILE) if ENV_FILE.is_file() else {}


def _upper_word(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Span = Annotated[timedelta, BeforeValidator(_duration), AfterValidator(_positive)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_list)]
Name = Annotated[str, AfterValidator(_name)]
OptionalFile = Annotated[Path | None, BeforeValidator(_empty_is_none), AfterValidator(_readable)]
OptionalSecret = Annotated[SecretStr | None, BeforeValidator(_empty_is_none)]


def _group(name: str) -> SettingsConfigDict:
    return SettingsConfigDict(
        env_prefix=f"{PREFIX}{name}_",
        env_file=ENV_FILE,
        extra="ignore",  # names that are no setting are told from the environment itself, with a suggestion
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )


class NatsSettings(BaseSettings):
    """Where NATS is, and who we are there."""

    model_config = _group("NATS")

    url: Annotated[SecretStr, AfterValidator(_nats_url)] = SecretStr("nats://127.0.0.1:4222")
    """Servers, comma-separated; NATS_URL where it is not set. May hold a password."""
    creds: Annotated[OptionalFile, AfterValidator(_credentials)] = None
    """Path of a credentials file."""
    user: Annotated[str | None, BeforeValidator(_empty_is_none)] = None
    """User name."""
    password: OptionalSecret = None
    """The user's password."""
    token: OptionalSecret = None
    """Token, instead of a user."""
    nkey: Annotated[OptionalSecret, AfterValidator(_seed)] = None
    """NKey seed (SU…), instead of a user."""
    tls_ca: Annotated[OptionalFile, AfterValidator(_authority)] = None
    """Path of the authority's certificate, where it is a private one."""
    tls_cert: OptionalFile = None
    """Path of a client certificate."""
    tls_key: OptionalFile = None
    """Path of the client certificate's key."""
    domain: Annotated[Name | None, BeforeValidator(_empty_is_none)] = None
    """JetStream domain, where the streams are behind a leaf node."""

    @model_validator(mode="before")
    @classmethod
    def _fall_back(cls, data: Any) -> Any:  # noqa: ANN401  # as pydantic hands it over
        return _plain_url(data, "NATS_URL")

    @model_validator(mode="after")
    def _fit(self) -> Self:
        """A certificate and its key, in one file or two."""
        if self.tls_key and not self.tls_cert:
            raise ValueError("_TLS_KEY is set without its certificate: set _TLS_CERT, too")
        try:
            if self.tls_cert:
                ssl.create_default_context().load_cert_chain(self.tls_cert, self.tls_key)
        except ssl.SSLError as error:
            message = f"_TLS_CERT and _TLS_KEY are no certificate with its key: {error.reason or error}"
            raise ValueError(message) from error
        return self


class RedisSettings(BaseSettings):
    """Where the ledger is kept."""

    model_config = _group("REDIS")

    url: Annotated[SecretStr, AfterValidator(_redis_url)] = SecretStr("redis://127.0.0.1:6379/0")
    """Redis or Valkey; REDIS_URL where it is not set. May hold a password."""
    namespace: Annotated[str, Field(min_length=1)] = "reactor"
    """Prefix of every key, for several reactors in one Redis."""

    @model_validator(mode="before")
    @classmethod
    def _fall_back(cls, data: Any) -> Any:  # noqa: ANN401  # as pydantic hands it over
        return _plain_url(data, "REDIS_URL")


class EventsSettings(BaseSettings):
    """Where lifecycle events are heard."""

    model_config = _group("EVENTS")

    stream: Name = "JOBS"
    """The lifecycle stream that is declared where nobody captures the subject."""
    subject: Annotated[str, AfterValidator(_subject)] = "jobs.lifecycle.{job_id}"
    """Subject of a job's events; {job_id} is one whole token."""
    durable: Name = "reactor"
    """Durable consumer, shared by all replicas."""
    replicas: Annotated[int, Field(ge=1, le=5)] = 1
    """Copies of each stream that reactor declares."""
    max_age: Span = timedelta(days=30)
    """How long the lifecycle stream keeps events, where reactor declares it."""


class AdvisoriesSettings(BaseSettings):
    """Where JetStream's advisories are heard."""

    model_config = _group("ADVISORIES")

    stream: Name = "REACTOR_ADVISORIES"
    """The stream that is declared where nobody captures the advisories."""


class PolicySettings(BaseSettings):
    """What may be deleted, and when."""

    model_config = _group("POLICY")

    stream_pattern: Annotated[str, AfterValidator(_pattern)] = r"^job_(?P<job_id>0|[1-9][0-9]*)$"
    """Job streams: the whole name must match; group job_id is the job."""
    age_guard: Duration = timedelta(hours=1)
    """Minimum age of a stream, by the server's own times."""
    terminal_grace: Duration = timedelta(minutes=5)
    """Minimum time since the job became terminal."""
    idle_guard: Duration = timedelta(minutes=10)
    """Minimum time since the last publish (and, for a missing job, delivery or ack)."""
    terminal_statuses: Annotated[Words, AfterValidator(_not_empty), AfterValidator(_upper)] = (
        *("SUCCESS", "FAILURE", "REVOKED", "DELETED"),
    )
    """Statuses after which no more work is done, comma-separated; every other one is live."""
    protect: Words = ()
    """Globs of stream names that are never deleted, comma-separated."""
    companions: Annotated[Words, AfterValidator(_templates)] = ("job-{job_id}-dlq",)
    """Consumers on the advisory stream to delete with a job's stream, comma-separated templates."""

    @property
    def regex(self) -> re.Pattern[str]:
        """The stream pattern; digits are ASCII digits."""
        return re.compile(self.stream_pattern, re.ASCII)


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
    lease: Span = timedelta(seconds=30)
    """How long a stream is one replica's; a killed one's streams are taken over after that."""
    max_rate: Annotated[Annotated[PositiveFloat, Field(allow_inf_nan=False)] | None, BeforeValidator(_none_word)] = None
    """Deletions a second, or none for no limit."""
    max_attempts: Annotated[int, Field(ge=1)] = 8
    """Failed drains of a job in a row before it is left to the next reconcile."""


class ReconcileSettings(BaseSettings):
    """The full pass."""

    model_config = _group("RECONCILE")

    interval: Span = timedelta(minutes=15)
    """Time between two full passes of a worker."""


LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class HttpSettings(BaseSettings):
    """The worker's HTTP endpoint."""

    model_config = _group("HTTP")

    host: str = "127.0.0.1"
    """Address to bind to; another than loopback needs a token, or REACTOR_HTTP_OPEN."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    """Port of the page, the API and the health checks; 0 is off."""
    token: OptionalSecret = None
    """What /api, /events and /metrics ask for, as ?token=… or as a bearer token."""
    open: bool = False
    """Serve other hosts without a token: everyone who reaches the port can read."""

    @model_validator(mode="after")
    def _is_guarded(self) -> "HttpSettings":
        if self.port and self.host not in LOOPBACK and not (self.token or self.open):
            message = f"host {self.host} can be reached by others: set REACTOR_HTTP_TOKEN, or REACTOR_HTTP_OPEN=true"
            raise ValueError(message)
        return self


class LogSettings(BaseSettings):
    """What is written to standard error."""

    model_config = _group("LOG")

    level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper_word)] = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""
    format: Annotated[Literal["console", "json"] | None, BeforeValidator(_none_word)] = None
    """console or json; console on a terminal, else json."""


class Settings(BaseModel):
    """All groups."""

    model_config = ConfigDict(frozen=True)

    nats: NatsSettings
    redis: RedisSettings
    events: EventsSettings
    advisories: AdvisoriesSettings
    policy: PolicySettings
    breaker: BreakerSettings
    sweep: SweepSettings
    reconcile: ReconcileSettings
    http: HttpSettings
    log: LogSettings


def _groups() -> dict[str, type[BaseSettings]]:
    return {name: cast("type[BaseSettings]", field.annotation) for name, field in Settings.model_fields.items()}


def _variables() -> Iterator[tuple[str, FieldInfo]]:
    for group in _groups().values():
        for name, field in group.model_fields.items():
            yield f"{group.model_config['env_prefix']}{name}".upper(), field


def load_settings() -> Settings:
    """From the environment and `.env`. Raises SettingsError with every problem there is."""
    try:
        _env_file()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{ENV_FILE}: cannot be read: save it as UTF-8 text that this user may read"]) from error
    problems = list(_strangers())
    groups: dict[str, Any] = {}
    for name, group in _groups().items():
        try:
            groups[name] = group()
        except ValidationError as error:
            problems += [_in_words(group, dict(part)) for part in error.errors(include_input=False)]
    if problems:
        raise SettingsError(problems)
    return Settings.model_construct(**groups)


def _strangers() -> Iterator[str]:
    """Names with our prefix that are no setting."""
    known = [name for name, _ in _variables()]
    given = {*os.environ, *_env_file()}
    for name in sorted(given):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            ours = [variable.removeprefix(PREFIX) for variable in known]
            close = difflib.get_close_matches(name.upper().removeprefix(PREFIX), ours, n=1)
            yield f"{name}: no such setting; " + (
                f"did you mean {PREFIX}{close[0]}?" if close else "see reactor --help"
            )


def _in_words(group: type[BaseSettings], error: dict[str, Any]) -> str:
    """`REACTOR_…: what is wrong`, without the value, which may be a secret; a duration names its own."""
    if not error["loc"]:  # about a group as a whole
        return f"{group.model_config['env_prefix'].rstrip('_')}: {error['msg'].removeprefix('Value error, ')}"
    field = str(error["loc"][0])
    variable = field if field.isupper() else f"{group.model_config['env_prefix']}{field}".upper()
    return f"{variable}: {str(error['msg']).removeprefix('Value error, ')}"


def describe() -> list[tuple[str, str, str]]:
    """(variable, default, help) of every setting."""
    return [(name, _shown(field.default), field.description or "") for name, field in _variables()]


def _shown(default: object) -> str:
    match default:
        case None | ():
            return ""
        case SecretStr():
            return default.get_secret_value()
        case tuple():
            return ",".join(map(str, default))
        case timedelta():
            return _short(default)
        case _:
            return str(default)


def _short(span: timedelta) -> str:
    """A whole number of the largest unit that fits."""
    milliseconds = span // timedelta(milliseconds=1)
    unit = next(unit for unit, size in _UNITS.items() if milliseconds % size == 0)
    return f"{milliseconds // _UNITS[unit]}{unit}"
