"""Read the server and the lifecycle stream from the job system's environment, by the names of the worker's variables.

It reads no `.env` file, because the process belongs to the job system.
"""

import os
from collections.abc import Mapping

from reactor.config.nats_access import NatsAccess, check_websocket
from reactor.config.nats_context import read_context
from reactor.core.durations import parse_duration
from reactor.core.subjects import DesiredStreams, SubjectTemplate

_ACCESS = (
    *("url", "creds", "user", "password", "token", "nkey", "tls_ca", "tls_cert", "tls_key"),
    *("domain", "api_prefix", "inbox_prefix", "tls_first"),
)
_TRUE = frozenset({"1", "true", "yes", "on"})


def access_of(environ: Mapping[str, str] = os.environ) -> NatsAccess:
    """Return how to reach the server (REACTOR_NATS_…, else NATS_URL). Raises ValueError."""
    given = {name: text for name in _ACCESS if (text := environ.get(f"REACTOR_NATS_{name.upper()}"))}
    if context := environ.get("REACTOR_NATS_CONTEXT"):
        given = read_context(context) | given
    url = given.pop("url", "") or environ.get("NATS_URL") or "nats://127.0.0.1:4222"
    tls_first = given.pop("tls_first", "").lower() in _TRUE
    servers = tuple(part.strip() for part in url.split(","))
    for server in servers:
        check_websocket(server)
    return NatsAccess(servers=servers, tls_first=tls_first, **given)


def desired_streams_of(environ: Mapping[str, str] = os.environ) -> DesiredStreams:
    """Return the config of the lifecycle stream (REACTOR_EVENTS_…), if the client must create it. Raises ValueError."""

    def text(name: str, default: str) -> str:
        return environ.get(f"REACTOR_EVENTS_{name}") or default

    subject = text("SUBJECT", "jobs.lifecycle.{job_id}")
    if "{job_id}" not in subject.split("."):
        raise ValueError("REACTOR_EVENTS_SUBJECT: {job_id} must be one whole token")
    max_age = parse_duration(text("MAX_AGE", "30d"))
    return DesiredStreams(
        events_stream=text("STREAM", "JOBS"),
        events_subject=SubjectTemplate(subject),
        durable=text("DURABLE", "reactor"),
        replicas=int(text("REPLICAS", "1")),
        max_age=int(max_age.total_seconds() * 1_000_000_000),
        letters_max_msgs=0,
        letters_max_bytes=0,
    )
