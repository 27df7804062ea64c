"""What the settings mean for NATS: how to connect, and which streams there should be."""

import ssl
from typing import Any

from reactor.config.settings import EventsSettings, NatsSettings
from reactor.core.events import DesiredStreams, SubjectTemplate
from reactor.core.model import nanoseconds


def desired_streams(events: EventsSettings) -> DesiredStreams:
    """Return how the streams should be when reactor declares them."""
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


def nats_options(nats_settings: NatsSettings) -> dict[str, Any]:
    """Return nats-py's options for `connect`."""
    options: dict[str, Any] = {"servers": servers_of(nats_settings), "name": "reactor", "connect_timeout": 5}
    if nats_settings.creds:
        options["user_credentials"] = str(nats_settings.creds)
    if nats_settings.user:
        options["user"] = nats_settings.user
    if nats_settings.password:
        options["password"] = nats_settings.password.get_secret_value()
    if nats_settings.token:
        options["token"] = nats_settings.token.get_secret_value()
    if nats_settings.nkey:
        options["nkeys_seed_str"] = nats_settings.nkey.get_secret_value()
    if nats_settings.inbox_prefix:
        options["inbox_prefix"] = nats_settings.inbox_prefix
    if nats_settings.tls_first:
        options["tls_handshake_first"] = True
    if context := tls_context(nats_settings):
        options["tls"] = context
    return options


def api_prefix(nats_settings: NatsSettings) -> str:
    """Return the prefix of JetStream's API."""
    domain = nats_settings.domain
    return nats_settings.api_prefix or (f"$JS.{domain}.API" if domain else "$JS.API")


def servers_of(nats_settings: NatsSettings) -> list[str]:
    """Return the server URLs, with whatever credentials they hold."""
    return [url.strip() for url in nats_settings.url.get_secret_value().split(",")]


def tls_context(nats_settings: NatsSettings) -> ssl.SSLContext | None:
    """Return the TLS context for a private authority or a client certificate; None leaves TLS to the URL."""
    if not (nats_settings.tls_ca or nats_settings.tls_cert):
        return None
    context = ssl.create_default_context(cafile=nats_settings.tls_ca and str(nats_settings.tls_ca))
    if nats_settings.tls_cert:
        context.load_cert_chain(str(nats_settings.tls_cert), nats_settings.tls_key and str(nats_settings.tls_key))
    return context
