"""The types of settings: how the text of a variable is read, and the error if it cannot be read.

No message contains the value of a secret.
"""

import re
import ssl
from datetime import time, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import nkeys
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    PositiveFloat,
    SecretStr,
)
from pydantic_settings import NoDecode

from reactor.config.nats_access import check_websocket
from reactor.config.redis_url import PLAIN, parse_redis_url
from reactor.core.durations import parse_duration
from reactor.core.model import fold

_REDIS_URLS = (
    "must be a URL such as redis://127.0.0.1:6379/0, redis+sentinel://host:26379,host:26379/service/0 "
    "or redis+cluster://host:6379,host:6379; "
)
CLOUDS = ("s3", "gs", "az")
_ESCAPED = "odd characters in its password are written as %40 for @, and so on"


def _duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


def _positive(span: timedelta) -> timedelta:
    if span <= timedelta():
        raise ValueError("must be longer than 0")
    return span


def comma_list(text: str) -> tuple[str, ...]:
    """Return the parts of a comma-separated text, without empty ones."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _comma_list(value: object) -> object:
    return comma_list(value) if isinstance(value, str) else value


def _not_empty(parts: tuple[str, ...]) -> tuple[str, ...]:
    if not parts:
        raise ValueError("must name at least one")
    return parts


def _upper(parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(fold(part) for part in parts)


def _pattern(text: str) -> str:
    try:
        groups = re.compile(text, re.ASCII).groupindex
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"is not a regular expression: {error}") from error
    if "job_id" not in groups:
        raise ValueError("needs a group (?P<job_id>…) that is the stream's job")
    return text


def _prefix(text: str | None) -> str | None:
    """Check a prefix of subjects."""
    if text is not None and not re.fullmatch(r"[^\s.*>]+(\.[^\s.*>]+)*", text):
        raise ValueError(f"{text!r} is not a prefix of subjects, such as $JS.hub.API")
    return text


def _subject(text: str) -> str:
    tokens = text.split(".")
    others = [token for token in tokens if token != "{job_id}"]  # noqa: S105  # a token of a subject
    if tokens.count("{job_id}") != 1 or any(not t.isprintable() or not t or re.search(r"[\s*>{}]", t) for t in others):
        raise ValueError("must hold {job_id} once, as a whole token, and no wildcards: such as jobs.lifecycle.{job_id}")
    return text


def _name(text: str) -> str:
    if not text or re.search(r"[\s.*>/\\]", text) or not text.isprintable():
        raise ValueError("cannot be the name of a stream or consumer: no spaces, dots, *, >, / or \\")
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
            raise ValueError(f"cannot be read: {path}: {error.strerror}") from error
    return path


def _credentials(path: Path | None) -> Path | None:
    if path is not None and not all(part in path.read_bytes() for part in (b"BEGIN NATS USER JWT", b"NKEY SEED")):
        raise ValueError(f"is not a credentials file, with a user's JWT and NKey seed: {path}")
    return path


def _authority(path: Path | None) -> Path | None:
    if path is not None:
        try:
            ssl.create_default_context(cafile=path)
        except ssl.SSLError as error:
            raise ValueError(f"holds no certificate: {path}: {error.reason or error}") from error
    return path


def _nats_url(secret: SecretStr) -> SecretStr:
    for item in secret.get_secret_value().split(","):
        url = item.strip()
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        try:
            fine = parts.scheme in {"nats", "tls", "ws", "wss"} and parts.hostname and parts.port != 0
        except ValueError:
            fine = False
        if not fine:
            raise ValueError("each must be a URL such as nats://127.0.0.1:4222; " + _ESCAPED)
        check_websocket(url)
    return secret


def _redis_url(secret: SecretStr) -> SecretStr:
    try:
        if not PLAIN.fullmatch(secret.get_secret_value()):
            parse_redis_url(secret.get_secret_value())
    except TypeError as error:
        parameter = str(error).rpartition(" ")[2].strip("'\"")
        raise ValueError(f"has a parameter that redis-py does not know: {parameter}") from error
    except ValueError as error:
        raise ValueError(_REDIS_URLS + _ESCAPED) from error
    return secret


def _seed(secret: SecretStr | None) -> SecretStr | None:
    try:
        if secret is not None:
            nkeys.from_seed(secret.get_secret_value().encode())
    except nkeys.NkeysError as error:
        raise ValueError("is not an NKey seed, such as SUA…") from error
    return secret


def with_async_driver(url: str) -> str:
    """Return a database URL of a framework with the async driver that SQLAlchemy needs."""
    scheme, separator, rest = url.partition("://")
    drivers = {"postgres": "postgresql+asyncpg", "postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}
    return drivers.get(scheme, scheme) + separator + rest


def _pointer(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("must be a JSON pointer such as /status or /data/0/state")
    return value


def _none_word(value: object) -> object:
    return None if isinstance(value, str) and value.lower() in {"", "none"} else value


def _empty_is_none(value: object) -> object:
    return None if value == "" else value


def _upper_word(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def parts_of(secret: SecretStr | None) -> tuple[str, ...]:
    """Return the parts of a comma-separated secret."""
    return comma_list(secret.get_secret_value()) if secret else ()


def _notify_urls(secret: SecretStr | None) -> SecretStr | None:
    """Check each URL with Apprise. No message contains a URL, which may have a token in it."""
    if not (urls := parts_of(secret)):
        return None
    try:
        from apprise import Apprise  # noqa: PLC0415  # an extra, and it takes its time
    except ImportError as error:
        raise ValueError("needs the extra notify: pip install 'jetstream-reactor[notify]'") from error
    for number, url in enumerate(urls, 1):
        if Apprise.instantiate(url, suppress_exceptions=True) is None:
            raise ValueError(
                f"number {number} of {len(urls)} is not a URL of Apprise: https://github.com/caronc/apprise/wiki"
            )
    return secret


def _time_of_day(value: object) -> object:
    if value in {None, ""}:
        return None
    try:
        return time.fromisoformat(str(value))
    except ValueError as error:
        raise ValueError("write a time of the day (UTC), such as 09:00") from error


def _backup_url(url: str | None) -> str | None:
    return checked_backup_url(url) if url else None


def checked_backup_url(url: str) -> str:
    """Return the URL if it names a place for backups. Raises ValueError otherwise."""
    parts = urlsplit(url)
    if parts.scheme not in {"nats", "file", *CLOUDS} or "@" in parts.netloc or parts.query:
        raise ValueError("write nats:BUCKET, s3://bucket/prefix, gs://…, az://… or file:///path, without credentials")
    if parts.scheme == "nats" and not re.fullmatch("nats:[A-Za-z0-9_-]+", url):
        raise ValueError("nats: is followed by the name of a bucket: letters, digits, - and _")
    if parts.scheme == "file" and (parts.netloc or not parts.path.startswith("/")):
        raise ValueError("file:// is followed by a whole path, as in file:///var/lib/reactor/backups")
    if parts.scheme in CLOUDS and not parts.netloc:
        raise ValueError(f"{parts.scheme}:// is followed by the name of a bucket")
    if parts.scheme in CLOUDS and find_spec("obstore") is None:
        raise ValueError("needs the extra objectstore: pip install 'jetstream-reactor[objectstore]'")
    return url.rstrip("/")


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Span = Annotated[timedelta, BeforeValidator(_duration), AfterValidator(_positive)]
Bytes = Annotated[ByteSize, Field(ge=1 << 20)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_list)]
Name = Annotated[str, AfterValidator(_name)]
OptionalFile = Annotated[Path | None, BeforeValidator(_empty_is_none), AfterValidator(_readable)]
OptionalSecret = Annotated[SecretStr | None, BeforeValidator(_empty_is_none)]
OptionalText = Annotated[str | None, BeforeValidator(_empty_is_none)]
OptionalName = Annotated[Name | None, BeforeValidator(_empty_is_none)]
OptionalSubject = Annotated[str | None, BeforeValidator(_empty_is_none), AfterValidator(_prefix)]
NatsUrl = Annotated[SecretStr, AfterValidator(_nats_url)]
RedisUrl = Annotated[SecretStr, AfterValidator(_redis_url)]
CredentialsFile = Annotated[OptionalFile, AfterValidator(_credentials)]
AuthorityFile = Annotated[OptionalFile, AfterValidator(_authority)]
Pointer = Annotated[str, AfterValidator(_pointer)]
OptionalPointer = Annotated[Pointer | None, BeforeValidator(_empty_is_none)]
Seed = Annotated[OptionalSecret, AfterValidator(_seed)]
Subject = Annotated[str, AfterValidator(_subject)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Statuses = Annotated[Words, AfterValidator(_not_empty), AfterValidator(_upper)]
Templates = Annotated[Words, AfterValidator(_templates)]
Rate = Annotated[Annotated[PositiveFloat, Field(allow_inf_nan=False)] | None, BeforeValidator(_none_word)]
NotifyUrls = Annotated[OptionalSecret, AfterValidator(_notify_urls)]
BackupUrl = Annotated[OptionalText, AfterValidator(_backup_url)]
TimeOfDay = Annotated[time | None, BeforeValidator(_time_of_day)]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper_word)]
LogFormat = Annotated[Literal["console", "json"] | None, BeforeValidator(_none_word)]
