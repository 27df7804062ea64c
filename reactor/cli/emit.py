"""`reactor emit`: publish one lifecycle event. It needs only NATS, so it imports little and starts fast."""

import logging

import typer

from reactor.cli.exits import Exit, fail
from reactor.cli.shell import read_settings, run
from reactor.config.nats_options import api_prefix, desired_streams, nats_options
from reactor.core.explain import unknown_value
from reactor.core.model import fold
from reactor.jetstream.client import JetStream
from reactor.operate.emit import emit as publish_event


def emit(job_id: str, status: str, at: str | None) -> None:
    """Publish a lifecycle event."""
    settings = read_settings()
    logging.disable()  # errors are printed as one line

    async def publish() -> tuple[str, int]:
        js = JetStream(nats_options(settings.nats), prefix=api_prefix(settings.nats))
        try:
            return await publish_event(js, desired_streams(settings.events), job_id, status, at)
        finally:
            await js.close()

    try:
        stream, sequence = run(publish, settings.nats.domain)
    except ValueError as error:
        fail(Exit.USAGE, str(error))
    typer.echo(f"job {job_id} {status}: {stream}:{sequence}")
    known = sorted({*settings.policy.live_statuses, *settings.policy.terminal_statuses})
    if fold(status) not in known:
        typer.echo(f"reactor: {unknown_value(status, known)} Job {job_id} counts as live.", err=True)
