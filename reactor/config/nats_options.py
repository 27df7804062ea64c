"""The settings for NATS as nats-py's options, and as the streams to declare."""

from typing import Any

from pydantic import SecretStr

from reactor.config.nats_access import NatsAccess
from reactor.config.settings import EventsSettings, NatsSettings
from reactor.core.model import nanoseconds
from reactor.core.subjects import DesiredStreams, SubjectTemplate


def desired_streams(events: EventsSettings) -> DesiredStreams:
    """Return the config of the streams that reactor declares."""
    return DesiredStreams(
        events_stream=events.stream,
        events_subject=SubjectTemplate(events.subject),
        durable=events.durable,
        replicas=events.replicas,
        max_age=nanoseconds(events.max_age),
        letters_max_msgs=events.dead_letters_max_msgs,
        letters_max_bytes=events.dead_letters_max_bytes,
        events_max_bytes=None if events.max_bytes is None else int(events.max_bytes),
    )


def nats_access(nats_settings: NatsSettings) -> NatsAccess:
    """Return how to reach the server."""

    def text(value: object) -> str | None:
        return None if value is None else str(value)

    def secret(value: SecretStr | None) -> str | None:
        return None if value is None else value.get_secret_value()

    return NatsAccess(
        servers=tuple(url.strip() for url in nats_settings.url.get_secret_value().split(",")),
        creds=text(nats_settings.creds),
        user=nats_settings.user,
        password=secret(nats_settings.password),
        token=secret(nats_settings.token),
        nkey=secret(nats_settings.nkey),
        tls_ca=text(nats_settings.tls_ca),
        tls_cert=text(nats_settings.tls_cert),
        tls_key=text(nats_settings.tls_key),
        domain=nats_settings.domain,
        api_prefix=nats_settings.api_prefix,
        inbox_prefix=nats_settings.inbox_prefix,
        tls_first=nats_settings.tls_first,
    )


def nats_options(nats_settings: NatsSettings) -> dict[str, Any]:
    """Return nats-py's options for `connect`."""
    return nats_access(nats_settings).options()


def api_prefix(nats_settings: NatsSettings) -> str:
    """Return the prefix of JetStream's API."""
    return nats_access(nats_settings).prefix
