"""Find or declare the streams and the durable that reactor needs. What exists is used unchanged.

Two streams cannot capture the same subject (10065). So if a job system already stores its lifecycle events in a stream,
reactor reads that one. Reactor creates no stream for advisories; it receives them over core NATS, so that a job system
can create one at any time. Streams of others are never altered.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from reactor.core.checks import Misconfigured
from reactor.core.stream_info import ADVISORY, Raw, instant
from reactor.core.subjects import DesiredStreams
from reactor.jetstream.client import JetStream
from reactor.jetstream.errors import NotFound, PermissionDenied, Refused

DEAD_LETTERS = "REACTOR_DEAD_LETTERS"
DEAD_LETTER_SUBJECT = "reactor.dead_letters"
CONTROL = "REACTOR_CONTROL"
"""The control stream: it stores an operator's pause, which must survive an emptied Redis."""
CONTROL_SUBJECTS = "reactor.control.*"
PAUSE_SUBJECT = "reactor.control.pause"
OWN_STREAMS = frozenset({DEAD_LETTERS, CONTROL})
"""Reactor's own streams. They are never job streams, even if the pattern matches."""
ADVISORY_SUBJECTS = (
    f"{ADVISORY}.STREAM.CREATED.*",
    f"{ADVISORY}.STREAM.UPDATED.*",
    f"{ADVISORY}.STREAM.DELETED.*",
    f"{ADVISORY}.CONSUMER.MAX_DELIVERIES.*.*",
    f"{ADVISORY}.CONSUMER.MSG_TERMINATED.*.*",
)
"""The advisories that reactor needs and no others, because each costs the server some work (3% measured)."""
NO_ROOM = frozenset({10002, 10023, 10027, 10028, 10047, 10122})
"""Error codes if there is no room for a stream: storage or number of streams of the account or server, or its size."""
SIZE_DEMANDED = 10113
"""The error code if the account demands `max_bytes` of every stream."""
DEMANDED, DEMANDED_FOR_EVENTS, LEAST_ROOM = 1 << 20, 1 << 30, 1 << 18
"""Bytes to request from such an account, for a stream and for the lifecycle stream; and the least that is useful."""
LETTERS_SHARE, EVENTS_SHARE = 50, 4
"""Dead letters may take a fiftieth of the account's storage. In an account that demands sizes, the lifecycle stream may
take a quarter."""


class ProvisionError(Misconfigured):
    """A stream or durable exists that reactor cannot use and must not alter."""


@dataclass(frozen=True, slots=True)
class Source:
    """A stream that reactor reads, the subjects it needs, and how the durable differs from the desired one."""

    stream: str
    subjects: tuple[str, ...]
    difference: str | None = None


NO_EVENTS = Source("", ())
"""The source if there is no lifecycle stream, or no durable on it."""


@dataclass(frozen=True, slots=True)
class Provision:
    """Reactor's own streams, as they were found or declared."""

    events: Source
    lacking: tuple[str, ...] = ()
    """Reactor's streams that there is no room for, each with the server's reason."""
    lifecycle_stream: str = ""
    """The lifecycle stream, if it was found without a durable."""

    @property
    def own_streams(self) -> frozenset[str]:
        """Streams of reactor's own, which are never job streams."""
        return OWN_STREAMS | ({self.events.stream, self.lifecycle_stream} - {""})


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """The positions of the lifecycle stream and its durable."""

    stream: str
    identity: str
    """Name and creation time. A stream that was deleted and created again has another identity."""
    since: int | None
    """Since when the stream has the last event of every job (ns); None if it has none."""
    first_seq: int
    last_seq: int
    ack_floor: int
    behind: int
    """How many messages of the durable are not acked yet, delivered or not."""


NO_LIFECYCLE = Lifecycle("", "none", None, 0, 0, 0, 0)
"""The lifecycle if there is no lifecycle stream, because there is no room and a directory decides."""


@dataclass(frozen=True, slots=True)
class Topology:
    """How streams depend on each other. `unseen` says what could not be read."""

    sourced: frozenset[str] = frozenset()
    """Streams that another stream mirrors or sources."""
    sourced_by: Mapping[str, str] = field(default_factory=dict)
    """That other stream, if a listing has shown it."""
    advisory_streams: Sequence[str] = ()
    """Streams that capture advisories, so that companions may be on them."""
    consumer_locations: Mapping[str, Sequence[str]] | None = None
    """The streams of each consumer by its name; None if the consumers were not listed."""
    unseen: tuple[str, ...] = ()


UNKNOWN = Topology()
"""The topology if no listing was made."""


async def provision(
    js: JetStream, desired: DesiredStreams, *, make_control: bool, needs_events: bool = True
) -> Provision:
    """Find or declare every stream and durable. Raises ProvisionError and JetStreamError.

    If there is no room, reactor works without dead letters, the control stream and, unless `needs_events`, the
    lifecycle stream. Without `make_control` a missing control stream is not created.
    """
    lacking = list[str]()
    try:
        events = await _events_source(js, desired)
    except Refused as error:
        if needs_events or error.err_code not in NO_ROOM:
            raise
        events = Source(desired.events_stream, (desired.events_subject.wildcard,))
        lacking.append(f"{desired.events_stream}: {error}")
    letters = _config(DEAD_LETTERS, [DEAD_LETTER_SUBJECT], desired.max_age, desired.replicas)
    limits = {"max_msgs": desired.letters_max_msgs, "discard": "old"}
    limits["max_bytes"] = await _affordable(js, desired, desired.letters_max_bytes, LETTERS_SHARE)
    lacking += await _declare_if_room(js, letters | limits)
    if make_control:
        lacking += await _declare_if_room(js, _control_config(desired.replicas))
    return Provision(events, tuple(lacking))


async def declare_control(js: JetStream, replicas: int) -> None:
    """Create the control stream if it is missing. Raises ProvisionError and JetStreamError."""
    try:
        await _declare(js, _control_config(replicas))
    except Refused as error:
        raise ProvisionError(
            f"nothing has changed, since NATS refuses stream {CONTROL} ({error})",
            "to stop all deleting now, stop the workers",
        ) from error


def _control_config(replicas: int) -> Raw:
    return _config(CONTROL, [CONTROL_SUBJECTS], 0, replicas) | {"max_msgs_per_subject": 64}


async def _affordable(js: JetStream, desired: DesiredStreams, wanted: int, share: int) -> int:
    """Return the bytes to reserve: `wanted`, but at most a share of what the account has left."""
    try:
        account = await js.call("INFO")
    except PermissionDenied:
        return wanted
    tiers = account.get("tiers") or {}
    limits = (tiers.get(f"R{desired.replicas}") or account).get("limits") or {}
    room = limits.get("max_storage", -1)
    return min(wanted, max(room // share, 1)) if room > 0 else wanted


TOO_MANY_PENDING = 10121
_LIMIT = re.compile(r"limit of (\d{1,9})\b", re.ASCII)

_WIDE = {ADVISORY[0], "*", ">"}
"""The first tokens of subjects that may capture advisories."""


class Survey:
    """Collects the topology from configs, one after another."""

    def __init__(self) -> None:
        """Start with no streams."""
        self._sourced = dict[str, str]()
        self._advisory_streams = set[str]()

    def add(self, config: Raw) -> None:
        """Add the config of one stream."""
        origins = (config.get("mirror"), *(config.get("sources") or ()))
        self._sourced.update((origin["name"], config["name"]) for origin in origins if origin)
        if any(subject[:1] in _WIDE and overlaps(subject, f"{ADVISORY}.>") for subject in config.get("subjects") or ()):
            self._advisory_streams.add(config["name"])

    @property
    def topology(self) -> Topology:
        """The topology of the streams added so far."""
        return Topology(frozenset(self._sourced), dict(self._sourced), advisory_streams=sorted(self._advisory_streams))


def topology_of(configs: Iterable[Raw]) -> Topology:
    """Return the topology of streams with these configs."""
    survey = Survey()
    for config in configs:
        survey.add(config)
    return survey.topology


async def list_topology(js: JetStream) -> Topology:
    """List all streams, and return their topology."""
    return topology_of((await js.list_streams()).configs())


async def streams_of_advisories(js: JetStream) -> list[str]:
    """Return the streams that capture advisories now. Companions are on them."""
    return sorted(await js.stream_names(f"{ADVISORY}.>"))


def wrong_account(owner: str, desired: DesiredStreams) -> ProvisionError:
    """Return the error for a Redis with the ledger of a lifecycle stream that the account does not have."""
    return ProvisionError(
        f"Redis holds the ledger of lifecycle stream {owner}, and this account has no stream on "
        f"{desired.events_subject.wildcard}",
        "wrong account, domain or Redis? If that stream was deleted on purpose, set a new REACTOR_REDIS_NAMESPACE",
    )


async def find_lifecycle_stream(js: JetStream, desired: DesiredStreams) -> str | None:
    """Return the stream that captures all lifecycle events, or None. Raises ProvisionError if it captures a part."""
    wanted = desired.events_subject.wildcard
    streams = sorted(await js.stream_names(wanted))
    if not streams:
        return None
    config = (await js.stream_info(streams[0]))["config"]
    if config.get("retention") != "limits":
        raise ProvisionError(
            f"stream {streams[0]} captures {wanted} and forgets events once they are read, so a job's last event "
            "cannot be read again",
            "let a stream with limits retention capture that subject",
        )
    if len(streams) == 1 and any(covers(subject, wanted) for subject in config.get("subjects") or ()):
        return streams[0]
    raise ProvisionError(
        f"stream {', '.join(streams)} captures a part of {wanted} only", "let one stream capture all of it"
    )


async def lifecycle_stream(js: JetStream, desired: DesiredStreams) -> str:
    """Return the name of the lifecycle stream. Create it if it is missing. Raises ProvisionError and JetStreamError."""
    stream = await find_lifecycle_stream(js, desired)
    if stream is None:
        stream = desired.events_stream
        config = _config(stream, [desired.events_subject.wildcard], desired.max_age, desired.replicas)
        reserved = {} if desired.events_max_bytes is None else {"max_bytes": desired.events_max_bytes}
        demanded = await _affordable(js, desired, DEMANDED_FOR_EVENTS, EVENTS_SHARE)
        # It keeps the last eight events of each job, not one, because a late publisher's event may come last.
        await _declare(js, config | {"max_msgs_per_subject": 8} | reserved, demanded)
    return stream


async def _events_source(js: JetStream, desired: DesiredStreams) -> Source:
    stream = await lifecycle_stream(js, desired)
    return await _with_durable(js, desired.durable, stream, (desired.events_subject.wildcard,))


def _config(name: str, subjects: Sequence[str], max_age: int, replicas: int) -> Raw:
    return {
        "name": name,
        "subjects": list(subjects),
        "storage": "file",
        "retention": "limits",
        "max_age": max_age,
        "num_replicas": replicas,
    }


async def _declare(js: JetStream, config: Raw, demanded: int = DEMANDED) -> None:
    """Create a stream if it is missing. If the account demands a size, reserve `demanded` bytes."""
    if await is_declared(js, config["name"], config["subjects"]):
        return
    try:
        await js.create_stream(config)
    except Refused as error:
        if error.err_code != SIZE_DEMANDED:
            raise
        await _create_smaller(js, config | {"max_bytes": demanded})


async def _declare_if_room(js: JetStream, config: Raw) -> list[str]:
    """Create a stream as `_declare` does, smaller if need be. Return why, if there is no room at all."""
    try:
        await _declare(js, config)
    except Refused as error:
        if error.err_code not in NO_ROOM:
            raise
        try:
            await _create_smaller(js, config)
        except Refused as refused:
            return [f"{config['name']}: {refused}"]
    return []


async def _create_smaller(js: JetStream, config: Raw) -> None:
    """Create a stream, halving its size until it fits. Raises Refused if no size does."""
    while True:
        try:
            await js.create_stream(config)
        except Refused as error:
            if error.err_code not in NO_ROOM or config.get("max_bytes", 0) < 2 * LEAST_ROOM:
                raise
            config = config | {"max_bytes": config["max_bytes"] // 2}
        else:
            return


async def is_declared(js: JetStream, name: str, subjects: Sequence[str]) -> bool:
    """Return whether the stream exists. Raises ProvisionError if it does not capture the subjects."""
    try:
        there = (await js.stream_info(name))["config"].get("subjects") or []
    except NotFound:
        return False
    if lacking := [subject for subject in subjects if not any(covers(have, subject) for have in there)]:
        raise ProvisionError(
            f"stream {name} exists and does not capture {', '.join(lacking)}",
            "add the subject to it, or give reactor another stream name",
        )
    return True


async def _with_durable(js: JetStream, durable: str, stream: str, subjects: tuple[str, ...]) -> Source:
    """Return the source with its durable. Create a missing one; leave one that differs unchanged."""
    source = await find_durable(js, durable, stream, subjects)
    if source is None:
        await _create_durable(js, stream, _durable_config(durable, subjects))
    return source or Source(stream, subjects)


async def find_durable(js: JetStream, durable: str, stream: str, subjects: tuple[str, ...]) -> Source | None:
    """Return the source with the differences of its durable; None if there is no durable. Raises ProvisionError."""
    try:
        there = (await js.consumer_info(stream, durable))["config"]
    except NotFound:
        return None
    if there.get("deliver_subject"):
        raise ProvisionError(
            f"durable {durable} on stream {stream} is a push consumer", "name another with REACTOR_EVENTS_DURABLE"
        )
    config = _durable_config(durable, subjects)
    differing = [f"{key} is {there.get(key)}, not {wish}" for key, wish in config.items() if there.get(key) != wish]
    return Source(stream, subjects, "; ".join(differing) or None)


def _durable_config(durable: str, subjects: Sequence[str]) -> Raw:
    config: Raw = {
        "durable_name": durable,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": 30 * 1_000_000_000,
        "max_ack_pending": 4096,
        "max_deliver": -1,
    }
    return config | ({"filter_subject": subjects[0]} if len(subjects) == 1 else {"filter_subjects": list(subjects)})


async def _create_durable(js: JetStream, stream: str, config: Raw) -> None:
    """Create the durable, with as many unacked messages as the server allows."""
    try:
        try:
            await js.create_consumer(stream, config)
        except Refused as error:
            limit = _LIMIT.search(str(error)) if error.err_code == TOO_MANY_PENDING else None
            if limit is None:
                raise
            await js.create_consumer(stream, config | {"max_ack_pending": int(limit[1])})
    except Refused as error:
        raise ProvisionError(
            f"stream {stream} refuses durable {config['durable_name']} ({error})", "raise the limit that it names"
        ) from error


async def read_lifecycle(js: JetStream, source: Source, durable: str) -> Lifecycle:
    """Return the positions of the lifecycle stream and its durable now. Raises NotFound if one is gone."""
    stream = await js.stream_info(source.stream)
    consumer = await js.consumer_info(source.stream, durable)
    state = stream["state"]
    return Lifecycle(
        stream=source.stream,
        identity=identity_of(stream),
        # It has all events since it was created, or since the first message that its limits have left.
        since=instant(stream["created"]) if state["first_seq"] <= 1 else instant(state.get("first_ts")),
        first_seq=state["first_seq"],
        last_seq=state["last_seq"],
        ack_floor=consumer["ack_floor"]["stream_seq"],
        behind=consumer["num_pending"] + consumer["num_ack_pending"],
    )


def identity_of(raw: Raw) -> str:
    """Return the identity of a lifecycle stream: its name and creation time."""
    return f"{raw['config']['name']}@{raw['created']}"


def covers(pattern: str, subject: str) -> bool:
    """Return whether `pattern` captures every subject that `subject` matches (wildcards allowed)."""
    wants, has = pattern.split("."), subject.split(".")
    for index, want in enumerate(wants):
        if want == ">":
            return len(has) > index
        if index >= len(has) or has[index] == ">" or want not in {"*", has[index]}:
            return False
    return len(wants) == len(has)


def overlaps(item: str, other: str) -> bool:
    """Return whether some subject is captured by both (wildcards allowed)."""
    left, right = item.split("."), other.split(".")
    for mine, theirs in zip(left, right, strict=False):
        if ">" in {mine, theirs}:
            return True
        if "*" not in {mine, theirs} and mine != theirs:
            return False
    return len(left) == len(right)
