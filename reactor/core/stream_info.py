"""The server's JSON about streams, read into the model and written back: what is in STREAM.INFO, and the fence.

Pure. Fields as in https://github.com/nats-io/nats-server/blob/main/server/stream.go (StreamInfo, StreamConfig) and
consumer.go (ConsumerInfo). Whatever cannot be read becomes a None or a False that no verdict takes for a sign of death.
"""

import json
import re
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha1
from typing import Any

from reactor.core.model import SECOND, Consumers, Fence, Stream, format_instant, parse_instant

PROTECT_KEY = "reactor.protect"
MAX_AGE_KEY = "reactor.restored.max_age"
"""What a restored stream's messages may live, once nothing protects it any more (ns)."""
FENCE_TOKEN_KEY = "reactor.fence.token"  # noqa: S105  # no secret: it names the deletion
FENCE_UNTIL_KEY = "reactor.fence.until"
FENCE_SUBJECTS_KEY = "reactor.fence.subjects"
FENCE_LIFTED_KEY = "reactor.fence.lifted"
FENCE_KEYS = frozenset({FENCE_TOKEN_KEY, FENCE_UNTIL_KEY, FENCE_SUBJECTS_KEY, FENCE_LIFTED_KEY})
ADVISORY = "$JS.EVENT.ADVISORY"
"""Where JetStream tells what happens to streams and consumers."""
FENCES = "reactor.fence.>"
"""Where fenced streams are, and the barrier is published: reactor's alone."""
LONGEST_LEASE = 3_600 * SECOND
"""A fence for longer is none of reactor's (see REACTOR_SWEEP_LEASE)."""

Raw = dict[str, Any]


def read_stream(raw: Raw, job_id: str, *, reported: bool = True) -> Stream:
    """A stream as the server described it in an entry of STREAM.LIST or an answer of STREAM.INFO."""
    config, state = raw.get("config") or {}, raw.get("state") or {}
    metadata = config.get("metadata") or {}
    observed_at = instant(raw.get("ts"))
    published = instant(state.get("last_ts"))
    return Stream(
        name=config["name"],
        job_id=job_id,
        observed_at=observed_at or 0,
        created=instant(raw.get("created")),
        reported=reported and observed_at is not None and _is_whole(state, published),
        protected=str(metadata.get(PROTECT_KEY, "")).lower() == "true",
        fenceable=bool(config.get("subjects")) and not config.get("mirror"),
        mirror_of=(config.get("mirror") or {}).get("name"),
        fence=read_fence(config, observed_at or 0),
        messages=state.get("messages", 0),
        size=state.get("bytes", 0),
        last_seq=state.get("last_seq", 0),
        last_publish=published,
    )


def beside(stream: Stream, sourced: Collection[str]) -> Stream:
    """The same stream, where these are mirrored or sourced by others."""
    return replace(stream, fenceable=False) if stream.name in sourced else stream


def _is_whole(state: Raw, published: int | None) -> bool:
    """Whether the server's figures can be trusted: a time that cannot be read may be a moment ago."""
    with suppress(KeyError, TypeError, ValueError):
        return "last_seq" in state and (published is not None or parse_instant(state["last_ts"]) is not None)
    return False


def read_consumers(raws: Iterable[Raw], first_seen: int | None) -> Consumers:
    """What a stream's consumers show together.

    `last_active` is absent before any activity and also after a server restart. Where a consumer has delivered
    something and shows no time, `first_seen`, the caller's own first sighting of these figures, stands for it.
    """
    raws = list(raws)
    times = [instant(mark.get("last_active")) or first_seen for raw in raws for mark in _marks(raw)]
    active = max((time for time in times if time is not None), default=None)
    signs = [active, first_seen, *(instant(raw.get("created")) for raw in raws)]
    redelivered = sum(raw.get("num_redelivered", 0) for raw in raws)
    return Consumers(active, redelivered, max((sign for sign in signs if sign is not None), default=None))


def figures_of(raws: Iterable[Raw]) -> str:
    """A fingerprint of consumers: it differs where one came or went, was altered, delivered or acked."""
    rows = [
        [raw["name"], raw.get("created"), raw.get("config"), [mark.get("consumer_seq") for mark in _marks(raw)]]
        for raw in raws
    ]
    return sha1(json.dumps(sorted(rows, key=str), sort_keys=True).encode(), usedforsecurity=False).hexdigest()


def _marks(raw: Raw) -> list[Raw]:
    """What a consumer shows of deliveries and of acknowledgements, where there were any."""
    marks = (raw.get("delivered") or {}, raw.get("ack_floor") or {})
    return [mark for mark in marks if mark.get("consumer_seq")]


def is_silent(raws: Iterable[Raw]) -> bool:
    """Whether a consumer has worked and shows no time of it: the server was restarted since."""
    return any(instant(mark.get("last_active")) is None for raw in raws for mark in _marks(raw))


def instant(text: object) -> int | None:
    """An instant of the server's; None for what is absent, unreadable or Go's zero time (year 1)."""
    with suppress(ValueError):
        instant = parse_instant(text) if isinstance(text, str) else 0
        return instant if instant > 0 else None
    return None


def fenced_subject(name: str, token: str) -> str:
    """The only subject of a stream behind the fence of that token: an answer from there proves whose fence stands."""
    return f"reactor.fence.{name}.{token}"


def read_fence(config: Raw, observed_at: int) -> Fence | None:
    """The fence that a stream is behind, or None. One that cannot be read has no subjects.

    What a stream hears by its own subjects is not fenced, whatever its metadata says: that may be forged, or copied
    along with a config.
    """
    name, metadata, subjects = config["name"], config.get("metadata") or {}, config.get("subjects") or []
    token = str(metadata.get(FENCE_TOKEN_KEY, ""))
    legacy = f"reactor.fence.{name}"  # of reactor 0.1
    if not any(subject == legacy or subject.startswith(f"{legacy}.") for subject in subjects):
        return None
    try:
        until = parse_instant(metadata[FENCE_UNTIL_KEY])
        original, lifted = json.loads(metadata[FENCE_SUBJECTS_KEY]), json.loads(metadata.get(FENCE_LIFTED_KEY, "{}"))
    except (KeyError, ValueError, TypeError):
        return Fence(token, 0, ())
    ours = subjects in ([fenced_subject(name, token)], [legacy]) and until - observed_at <= LONGEST_LEASE
    whole = isinstance(original, list) and all(isinstance(one, str) for one in original) and isinstance(lifted, dict)
    return Fence(token, until, tuple(original) if ours and whole else (), lifted if whole else {})


def lifted_of(config: Raw, state: Raw) -> Raw:
    """What of a config would keep the barrier from being answered, as it is.

    A stream that acknowledges nothing answers nothing; a replicated one that refuses new messages once it is full
    answers that first (10077, from 2.12 on), and behind the fence nothing new can come; an empty message with the
    barrier's headers must not be too large; nor may its subject be transformed or sent on. A stream that holds more
    than its limits would lose messages if it discarded old ones: it goes on refusing new ones, and is not drained.
    """
    lifted = {key: config[key] for key, open_value in _OPEN.items() if config.get(key, open_value) != open_value}
    held = {"max_msgs": state.get("messages", 0), "max_bytes": state.get("bytes", 0)}
    if any(0 < config.get(limit, -1) < have for limit, have in held.items()):
        return {key: value for key, value in lifted.items() if not key.startswith("discard")}
    return lifted


_OPEN: Raw = {
    "no_ack": False,
    "discard": "old",
    "discard_new_per_subject": False,
    "max_msg_size": -1,
    "subject_transform": None,
    "republish": None,
}


def fenced(config: Raw, fence: Fence) -> Raw:
    """The server's own config with the subjects taken away and the fence written into its metadata."""
    metadata = (config.get("metadata") or {}) | {
        FENCE_TOKEN_KEY: fence.token,
        FENCE_UNTIL_KEY: format_instant(fence.until),
        FENCE_SUBJECTS_KEY: json.dumps(fence.subjects),
        FENCE_LIFTED_KEY: json.dumps(fence.lifted),
    }
    subjects = [fenced_subject(config["name"], fence.token)]
    return config | {key: _OPEN[key] for key in fence.lifted} | {"subjects": subjects, "metadata": metadata}


def has_work_left(messages: int, consumers: Sequence[Raw]) -> bool:
    """Whether a stream holds messages that some consumer has not acknowledged, or that there is no consumer for."""
    if not consumers:
        return messages > 0
    return any(raw.get("num_pending") or raw.get("num_ack_pending") for raw in consumers)


def recipe_of(raw: Raw, fence: Fence | None, consumers: Sequence[Raw]) -> Raw:
    """What it takes to make a stream again, but for its messages: its own config, and each consumer with its floors."""
    config = raw["config"]
    kept = ("name", "config", "delivered", "ack_floor", "num_pending", "num_ack_pending")
    return {
        "config": unfenced(config, fence) if fence else config,
        "last_seq": (raw.get("state") or {}).get("last_seq", 0),
        "consumers": [{key: one[key] for key in kept if key in one} for one in consumers],
    }


def with_protection(config: Raw, *, protected: bool) -> Raw:
    """The server's own config with the word in its metadata that nothing may drain it, or without.

    Without it a restored stream is what it was, and its messages age again.
    """
    metadata = {key: value for key, value in (config.get("metadata") or {}).items() if key != PROTECT_KEY}
    if protected:
        return config | {"metadata": metadata | {PROTECT_KEY: "true"}}
    max_age = metadata.pop(MAX_AGE_KEY, "")
    aged = re.fullmatch("[0-9]{1,18}", max_age) and not config.get("max_age")  # nobody has given it another since
    return config | {"metadata": metadata} | ({"max_age": int(max_age)} if aged else {})


def brought_back(config: Raw) -> Raw:
    """The config of a restored stream: protected, and its messages stay, which may be too old for it by now."""
    config = with_protection(config, protected=True)
    if not config.get("max_age"):
        return config
    return config | {"max_age": 0, "metadata": config["metadata"] | {MAX_AGE_KEY: str(config["max_age"])}}


def unfenced(config: Raw, fence: Fence) -> Raw:
    """The server's own config with all given back that the fence has taken, and the fence out of its metadata."""
    metadata = {key: value for key, value in (config.get("metadata") or {}).items() if key not in FENCE_KEYS}
    return config | fence.lifted | {"subjects": list(fence.subjects), "metadata": metadata}
