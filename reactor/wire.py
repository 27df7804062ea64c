"""The server's JSON about streams, read into the model and written back: what is in STREAM.INFO, and the fence.

Pure. Fields as in https://github.com/nats-io/nats-server/blob/main/server/stream.go (StreamInfo, StreamConfig) and
consumer.go (ConsumerInfo). Whatever cannot be read becomes a None or a False that no verdict takes for a sign of death.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any

from reactor.model import Consumers, Fence, Stream, format_instant, parse_instant

PROTECT_KEY = "reactor.protect"
FENCE_TOKEN_KEY = "reactor.fence.token"  # noqa: S105  # no secret: it names the deletion
FENCE_UNTIL_KEY = "reactor.fence.until"
FENCE_SUBJECTS_KEY = "reactor.fence.subjects"


Raw = dict[str, Any]


def read_stream(raw: Raw, job_id: str, *, sourced: Collection[str] = (), reported: bool = True) -> Stream:
    """A stream as the server described it in an entry of STREAM.LIST or an answer of STREAM.INFO."""
    config, state = raw.get("config") or {}, raw.get("state") or {}
    metadata = config.get("metadata") or {}
    observed_at = instant(raw.get("ts"))
    return Stream(
        name=config["name"],
        job_id=job_id,
        observed_at=observed_at or 0,
        created=instant(raw.get("created")),
        reported=reported and observed_at is not None and _is_whole(state),
        protected=str(metadata.get(PROTECT_KEY, "")).lower() == "true",
        fenceable=bool(config.get("subjects")) and not config.get("mirror") and config["name"] not in sourced,
        fence=read_fence(metadata),
        messages=state.get("messages", 0),
        size=state.get("bytes", 0),
        last_seq=state.get("last_seq", 0),
        last_publish=instant(state.get("last_ts")),
    )


def _is_whole(state: Raw) -> bool:
    """Whether the server's figures can be trusted: a time that cannot be read may be a moment ago."""
    with suppress(KeyError, TypeError, ValueError):
        parse_instant(state["last_ts"])
        return "last_seq" in state
    return False


def read_consumers(raws: Iterable[Raw], first_seen: int | None) -> Consumers:
    """What a stream's consumers show together.

    `last_active` is absent before any activity and also after a server restart. Where a consumer has delivered
    something and shows no time, `first_seen`, the caller's own first sighting of these figures, stands for it.
    """
    raws = list(raws)
    marks = [mark for raw in raws for mark in (raw.get("delivered") or {}, raw.get("ack_floor") or {})]
    times = [instant(mark.get("last_active")) or first_seen for mark in marks if mark.get("consumer_seq")]
    active = [time for time in times if time is not None]
    return Consumers(max(active, default=None), sum(raw.get("num_redelivered", 0) for raw in raws))


def restarted_figures(raws: Iterable[Raw]) -> str | None:
    """A fingerprint of consumers that have worked but show no time of it; None where all show it."""
    marks = [
        (raw["name"], mark.get("consumer_seq"))
        for raw in raws
        for mark in (raw.get("delivered") or {}, raw.get("ack_floor") or {})
        if mark.get("consumer_seq") and instant(mark.get("last_active")) is None
    ]
    return json.dumps(sorted(marks)) if marks else None


def instant(text: object) -> int | None:
    """An instant of the server's; None for what is absent, unreadable or Go's zero time (year 1)."""
    with suppress(ValueError):
        instant = parse_instant(text) if isinstance(text, str) else 0
        return instant if instant > 0 else None
    return None


def read_fence(metadata: Mapping[str, str]) -> Fence | None:
    """The fence that a stream carries, or None. One that cannot be read has no subjects."""
    if FENCE_TOKEN_KEY not in metadata:
        return None
    token = str(metadata[FENCE_TOKEN_KEY])
    try:
        subjects = json.loads(metadata[FENCE_SUBJECTS_KEY])
        until = parse_instant(metadata[FENCE_UNTIL_KEY])
    except (KeyError, ValueError, TypeError):
        return Fence(token, 0, ())
    readable = isinstance(subjects, list) and all(isinstance(subject, str) for subject in subjects)
    return Fence(token, until, tuple(subjects) if readable else ())


def fenced(config: Raw, fence: Fence) -> Raw:
    """The server's own config with the subjects taken away and the fence written into its metadata."""
    metadata = (config.get("metadata") or {}) | {
        FENCE_TOKEN_KEY: fence.token,
        FENCE_UNTIL_KEY: format_instant(fence.until),
        FENCE_SUBJECTS_KEY: json.dumps(fence.subjects),
    }
    return config | {"subjects": [f"reactor.fence.{config['name']}"], "metadata": metadata}


def unfenced(config: Raw, fence: Fence) -> Raw:
    """The server's own config with the subjects given back and the fence out of its metadata."""
    fence_keys = {FENCE_TOKEN_KEY, FENCE_UNTIL_KEY, FENCE_SUBJECTS_KEY}
    metadata = {key: value for key, value in (config.get("metadata") or {}).items() if key not in fence_keys}
    return config | {"subjects": list(fence.subjects), "metadata": metadata}
