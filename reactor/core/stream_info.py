"""Read STREAM.INFO and CONSUMER.INFO into the model, and write stream configs with and without a fence.

Pure. Fields as in https://github.com/nats-io/nats-server/blob/main/server/stream.go (StreamInfo, StreamConfig) and
consumer.go (ConsumerInfo). What cannot be read becomes None or False, and no verdict takes that for a sign of death.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha1
from typing import Any, Final

from reactor.core.durations import parse_duration
from reactor.core.foreign_json import read_json
from reactor.core.model import SECOND, Consumers, Fence, OwnTimes, Stream, format_instant, nanoseconds, parse_instant

PROTECT_KEY = "reactor.protect"
GRACE_KEY, AGE_KEY, KEEP_UNTIL_KEY = "reactor.terminal-grace", "reactor.age-guard", "reactor.keep-until"
"""A stream's own times: two durations, and an instant (RFC 3339)."""
MAX_AGE_KEY = "reactor.restored.max_age"
"""The original `max_age` of a restored stream (ns)."""
UNFINISHED_KEY = "reactor.restored.unfinished"
"""What an unfinished restore has not written yet."""
FENCE_TOKEN_KEY = "reactor.fence.token"  # noqa: S105  # no secret: it names the deletion
FENCE_UNTIL_KEY = "reactor.fence.until"
FENCE_SUBJECTS_KEY = "reactor.fence.subjects"
FENCE_LIFTED_KEY = "reactor.fence.lifted"
FENCE_KEYS = frozenset({FENCE_TOKEN_KEY, FENCE_UNTIL_KEY, FENCE_SUBJECTS_KEY, FENCE_LIFTED_KEY})
ADVISORY = "$JS.EVENT.ADVISORY"
"""The subjects of JetStream's advisories about streams and consumers."""
FENCES = "reactor.fence.>"
"""The subjects of fenced streams, to which the barrier is published. They belong to reactor alone."""
IMPOSSIBLE_SEQUENCE: Final = 2**63
"""One more than a stream's last sequence can be."""
LEADER_HEARD_S: Final = 3.5
"""Half a second less than the shortest election timeout of nats-server."""
ELECTION_OVER_S: Final = 15.0
"""More than the longest election timeout of nats-server (9 s)."""
LONGEST_LEASE = 3_600 * SECOND
"""The longest time a fence of reactor's can last (see REACTOR_SWEEP_LEASE)."""

Raw = dict[str, Any]


def read_stream(raw: Raw, job_id: str, *, reported: bool = True) -> Stream:
    """Return a stream as the server described it in an entry of STREAM.LIST or an answer of STREAM.INFO."""
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
        own=read_own_times(metadata),
        metadata={key: value for key, value in metadata.items() if not key.startswith(("reactor.", "_nats."))},
        fenceable=bool(config.get("subjects") or config.get("sealed")) and not config.get("mirror"),
        sealed=bool(config.get("sealed")),
        mirror_of=(config.get("mirror") or {}).get("name"),
        fence=read_fence(config, observed_at or 0),
        messages=state.get("messages", 0),
        size=state.get("bytes", 0),
        last_seq=state.get("last_seq", 0),
        last_publish=published,
    )


def read_own_times(metadata: Mapping[str, str]) -> OwnTimes | None:
    """Return the retention times in a stream's metadata; None if there are none."""
    times = dict[str, Any]()
    for key, name, read in _OWN_TIMES:
        if key in metadata:
            try:
                times[name] = read(metadata[key])
            except (ValueError, TypeError, AttributeError):
                return OwnTimes(unreadable=f"{key}={str(metadata[key])[:60]!r}")
    return OwnTimes(**times) if times else None


def _span_of(text: str) -> int:
    return nanoseconds(parse_duration(text))


_OWN_TIMES: Final = (
    (GRACE_KEY, "terminal_grace", _span_of),
    (AGE_KEY, "age_guard", _span_of),
    (KEEP_UNTIL_KEY, "keep_until", parse_instant),
)


def mark_if_sourced(stream: Stream, sourced: Collection[str]) -> Stream:
    """Return the stream, marked as not fenceable if another stream mirrors or sources it."""
    return replace(stream, fenceable=False) if stream.name in sourced else stream


def _is_whole(state: Raw, published: int | None) -> bool:
    """Return whether the state is complete. A `last_ts` that cannot be read may be a moment ago."""
    with suppress(KeyError, TypeError, ValueError):
        return "last_seq" in state and (published is not None or parse_instant(state["last_ts"]) is not None)
    return False


def read_consumers(raws: Iterable[Raw], first_seen: int | None) -> Consumers:
    """Return the combined state of a stream's consumers.

    `last_active` is absent before any activity, and also after a server restart. If a consumer has delivered something
    and shows no time, `first_seen` (ns) counts instead: when the caller first saw these figures.
    """
    raws = list(raws)
    times = [instant(mark.get("last_active")) or first_seen for raw in raws for mark in _marks(raw)]
    active = max((time for time in times if time is not None), default=None)
    signs = [active, first_seen, *(instant(raw.get("created")) for raw in raws)]
    redelivered = sum(raw.get("num_redelivered", 0) for raw in raws)
    return Consumers(active, redelivered, max((sign for sign in signs if sign is not None), default=None))


def figures_of(raws: Iterable[Raw]) -> str:
    """Return a fingerprint of consumers. It changes if one is created, deleted, altered, delivers or is acked."""
    rows = [
        [raw["name"], raw.get("created"), raw.get("config"), [mark.get("consumer_seq") for mark in _marks(raw)]]
        for raw in raws
    ]
    return sha1(json.dumps(sorted(rows, key=str), sort_keys=True).encode(), usedforsecurity=False).hexdigest()


def _marks(raw: Raw) -> list[Raw]:
    """Return the consumer's `delivered` and `ack_floor`, each only if there were any."""
    marks = (raw.get("delivered") or {}, raw.get("ack_floor") or {})
    return [mark for mark in marks if mark.get("consumer_seq")]


def is_silent(raws: Iterable[Raw]) -> bool:
    """Return whether a consumer was active but shows no time of it. The server forgets the time at a restart."""
    return any(instant(mark.get("last_active")) is None for raw in raws for mark in _marks(raw))


def instant(text: object) -> int | None:
    """Return a time of the server's (ns); None if it is absent, unreadable or Go's zero time (year 1)."""
    with suppress(ValueError):
        instant = parse_instant(text) if isinstance(text, str) else 0
        return instant if instant > 0 else None
    return None


def fenced_subject(name: str, token: str) -> str:
    """Return the only subject of a stream behind the fence of that token. An answer on it proves whose fence it is."""
    return f"reactor.fence.{name}.{token}"


def barrier_headers(name: str) -> dict[str, str]:
    """Return the headers of the barrier. The stream refuses it, because no stream can have this last sequence.

    The refusal (10071) names the end of the stream. Every publisher that expects a sequence can cause it, so it leaves
    the stream unchanged. https://docs.nats.io/nats-concepts/jetstream/headers
    """
    return {"Nats-Expected-Stream": name, "Nats-Expected-Last-Sequence": str(IMPOSSIBLE_SEQUENCE)}


def headers_size(headers: Mapping[str, str]) -> int:
    """Return the size of these headers on the wire in bytes. It counts against `max_payload` and `max_msg_size`."""
    lines = sum(len(key) + len(value.encode()) + len(": \r\n") for key, value in headers.items())
    return lines + len("NATS/1.0\r\n\r\n")


def read_fence(config: Raw, observed_at: int) -> Fence | None:
    """Return the fence of a stream, or None. A fence that cannot be read has no subjects.

    A stream that still has its own subjects is not fenced, whatever its metadata says: the metadata may be forged, or
    copied with a config. Of the values to restore, only those with a key in `LIFTABLE` are used.
    """
    name, metadata, subjects = config["name"], config.get("metadata") or {}, config.get("subjects") or []
    token = str(metadata.get(FENCE_TOKEN_KEY, ""))
    if not any(subject.startswith(fenced_subject(name, "")) for subject in subjects):
        return None
    try:
        until = parse_instant(metadata[FENCE_UNTIL_KEY])
        original, lifted = read_json(metadata[FENCE_SUBJECTS_KEY]), read_json(metadata.get(FENCE_LIFTED_KEY, "{}"))
    except (KeyError, ValueError, TypeError):
        return Fence(token, 0, ())
    ours = subjects == [fenced_subject(name, token)] and until - observed_at <= LONGEST_LEASE
    whole = isinstance(original, list) and all(isinstance(item, str) for item in original) and isinstance(lifted, dict)
    if not (ours and whole):
        return Fence(token, until, ())
    believed = {key: lifted[key] for key, open_value in LIFTABLE.items() if type(lifted.get(key)) is type(open_value)}
    return Fence(token, until, tuple(original), believed)


LIFTABLE: Final[Raw] = {"no_ack": False, "max_msg_size": -1}
"""What a fence may lift, with the open values. Nothing else: a limit, a `discard` policy or a transform that is lifted
while messages are in the stream's queue destroys or misfiles messages that were acknowledged (measured)."""


def lifted_of(config: Raw) -> Raw:
    """Return the config values with which the server would not answer the barrier.

    A stream with `no_ack` answers nothing. One that takes only messages smaller than the barrier's headers refuses them
    with 10054, which does not name its end.
    """
    limit = config.get("max_msg_size", -1)
    too_small = 0 <= limit < headers_size(barrier_headers(config["name"]))
    return ({"no_ack": True} if config.get("no_ack") else {}) | ({"max_msg_size": limit} if too_small else {})


def fenced(config: Raw, fence: Fence) -> Raw:
    """Return the server's config with the fence: the subjects replaced, and in the metadata what to restore."""
    metadata = (config.get("metadata") or {}) | {
        FENCE_TOKEN_KEY: fence.token,
        FENCE_UNTIL_KEY: format_instant(fence.until),
        FENCE_SUBJECTS_KEY: json.dumps(fence.subjects),
        FENCE_LIFTED_KEY: json.dumps(fence.lifted),
    }
    subjects = [fenced_subject(config["name"], fence.token)]
    return config | {key: LIFTABLE[key] for key in fence.lifted} | {"subjects": subjects, "metadata": metadata}


def unfenced(config: Raw, fence: Fence) -> Raw:
    """Return the current config without this fence, with everything restored that it replaced.

    Changes that others made behind the fence stay: a protection, a limit, new subjects.
    """
    metadata = {key: value for key, value in (config.get("metadata") or {}).items() if key not in FENCE_KEYS}
    is_taken = config.get("subjects") == [fenced_subject(config["name"], fence.token)]
    subjects = list(fence.subjects) if is_taken else config.get("subjects")
    lifted = {key: value for key, value in fence.lifted.items() if config.get(key, LIFTABLE[key]) == LIFTABLE[key]}
    return config | lifted | {"subjects": subjects, "metadata": metadata}


def silent_followers(raw: Raw, elapsed_s: float) -> str | None:
    """Return why a replicated stream may have another leader by now, or None if the leader is proven.

    `raw` is the leader's own answer, `elapsed_s` how long ago it was asked for. A follower elects nobody within 4 s of
    hearing from its leader. So a majority must have been heard within `LEADER_HEARD_S`, and no follower may have fallen
    silent so lately that it may be campaigning now: one vote makes it the leader. One that has been silent for longer
    than the longest election cannot win it.
    https://github.com/nats-io/nats-server/blob/main/server/raft.go (minElectionTimeoutDefault, processVoteRequest)
    """
    followers = (raw.get("cluster") or {}).get("replicas") or []
    size = max(raw["config"].get("num_replicas", 1), len(followers) + 1)
    silences = [_silence_s(follower, elapsed_s) for follower in followers]
    heard = 1 + sum(silence < LEADER_HEARD_S for silence in silences)
    if heard <= size // 2:
        return f"its leader has heard {heard - 1} of its {size - 1} followers in the last {LEADER_HEARD_S:g} s"
    if any(LEADER_HEARD_S <= silence < ELECTION_OVER_S for silence in silences):
        return "a follower has just fallen silent, and may be electing another leader"
    return None


def _silence_s(follower: Raw, elapsed_s: float) -> float:
    """Return the seconds since the leader heard from it. The server also shows 0 for one that it never heard."""
    active_s = follower.get("active", 0) / SECOND
    if active_s or follower.get("current"):
        return float(active_s) + elapsed_s
    return ELECTION_OVER_S if follower.get("offline") else LEADER_HEARD_S


def has_work_left(messages: int, consumers: Sequence[Raw]) -> bool:
    """Return whether a stream holds messages that a consumer has not acknowledged, or that have no consumer."""
    if not consumers:
        return messages > 0
    return any(raw.get("num_pending") or raw.get("num_ack_pending") for raw in consumers)


def is_exhausted(raw: Raw, given_up: int) -> bool:
    """Return whether a consumer delivers no more messages and has given up the last one (max_deliver).

    `given_up` is the stream sequence in the advisory. The consumer's own figures do not show it: 2.10 moves `ack_floor`
    past what it gave up, 2.11 and later do not (measured).
    """
    is_idle = not raw.get("num_pending") and not raw.get("num_ack_pending")
    return bool(is_idle and given_up >= (raw.get("delivered") or {}).get("stream_seq", 0))


def recipe_of(raw: Raw, fence: Fence | None, consumers: Sequence[Raw]) -> Raw:
    """Return the recipe to create a stream again without its messages: config, and consumers with their ack floors."""
    config = raw["config"]
    kept = ("name", "config", "delivered", "ack_floor", "num_pending", "num_ack_pending")
    return {
        "config": unfenced(config, fence) if fence else config,
        "last_seq": (raw.get("state") or {}).get("last_seq", 0),
        "consumers": [{key: item[key] for key in kept if key in item} for item in consumers],
    }


def protected_config(config: Raw, *, protected: bool, until: int | None = None) -> Raw:
    """Return the server's config with or without the mark in its metadata that protects the stream.

    `until` protects it until then (ns). The `max_age` of a restored stream is not restored: older messages would expire
    at once.
    """
    ours = (PROTECT_KEY, KEEP_UNTIL_KEY)
    metadata = {key: value for key, value in (config.get("metadata") or {}).items() if key not in ours}
    mark = {KEEP_UNTIL_KEY: format_instant(until)} if until is not None else {PROTECT_KEY: "true"}
    return config | {"metadata": metadata | (mark if protected else {})}


def max_age_off(config: Raw) -> int | None:
    """Return the original `max_age` (ns) that a restored stream lacks; None if it lacks none."""
    max_age = (config.get("metadata") or {}).get(MAX_AGE_KEY, "")
    return int(max_age) if re.fullmatch("[0-9]{1,18}", max_age) and not config.get("max_age") else None


def unfinished(config: Raw, what: str) -> Raw:
    """Return the config with the mark of an unfinished restore. `what` is missing: `messages` or `consumers`."""
    metadata = config.get("metadata") or {}
    return config if config.get("sealed") else config | {"metadata": metadata | {UNFINISHED_KEY: what}}


def unfinished_part(config: Raw) -> str | None:
    """Return what an interrupted restore has not written; None if the stream is complete."""
    what = (config.get("metadata") or {}).get(UNFINISHED_KEY)
    return None if what is None else str(what)


def restored_config(config: Raw) -> Raw:
    """Return the config of a restored stream: protected, and without `max_age`, which old messages may exceed."""
    config = protected_config(config, protected=True)
    if not config.get("max_age"):
        return config
    return config | {"max_age": 0, "metadata": config["metadata"] | {MAX_AGE_KEY: str(config["max_age"])}}
