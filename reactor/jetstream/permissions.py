"""The NATS permissions that reactor needs, each tried with a message that has no effect.

An empty body names no stream or consumer to create. `{` is not a valid pull request. No stream or consumer can have the
probe's name. The subject of an acknowledgement has nine tokens. JetStream refuses each of these messages, so only the
permission is tested. docs/permissions.md lists the same permissions. Publishing on `reactor.drained.*` and
`reactor.alert.*` is not tried, because subscribers would receive it.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from reactor.core.stream_info import FENCES
from reactor.jetstream.client import JetStream
from reactor.jetstream.topology import ADVISORY_SUBJECTS, CONTROL, DEAD_LETTER_SUBJECT, PAUSE_SUBJECT

PROBE = "reactor/rights_probe"
"""A name that no stream or consumer can have (10128)."""
NO_PULL = b"{"


@dataclass(frozen=True, slots=True)
class Right:
    """A permission, and the message that tests it."""

    allow: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """A subject that the permission matches."""
        return self.allow.replace("*", PROBE).replace(">", PROBE)

    @property
    def trial(self) -> tuple[str, bytes, dict[str, str] | None]:
        """The arguments of `may_publish` that test it."""
        return self.subject, self.body, self.headers or None


@dataclass(frozen=True, slots=True)
class Needs:
    """What the permissions depend on: the streams to read, to declare, to give a durable, to delete companions from."""

    events: str
    streams: Collection[str]
    durables: Collection[str]
    companions: Collection[str]
    durable: str
    backups: bool
    """Whether the settings ask for backups."""


def for_deleting(js: JetStream) -> Iterator[Right]:
    """Return the permissions to fence, to send a barrier, and to delete."""
    yield Right(js.api("STREAM.UPDATE.*"))
    yield Right(FENCES, headers={"Nats-Expected-Stream": PROBE})
    yield Right(js.api("STREAM.DELETE.*"))


def for_the_rest(js: JetStream, needs: Needs) -> Iterator[Right]:
    """Return the permissions to declare streams, to read, and to rebuild the ledger."""
    events, durable = needs.events, needs.durable
    requests = [
        *(f"STREAM.CREATE.{stream}" for stream in needs.streams),
        *(f"CONSUMER.DURABLE.CREATE.{stream}.{durable}" for stream in needs.durables),
        *("STREAM.LIST", "STREAM.NAMES", "STREAM.INFO.*", f"STREAM.MSG.GET.{events}", f"STREAM.MSG.GET.{CONTROL}"),
        *("CONSUMER.LIST.*", "CONSUMER.NAMES.*", "CONSUMER.INFO.*.*"),
        *(f"CONSUMER.CREATE.{events}", f"CONSUMER.CREATE.{events}.>"),
        *(f"CONSUMER.DELETE.{stream}.*" for stream in needs.companions),
    ]
    yield from (Right(js.api(verb)) for verb in requests)
    yield Right(js.api(f"CONSUMER.MSG.NEXT.{events}.*"), NO_PULL)
    yield Right(js.api(f"CONSUMER.MSG.NEXT.{events}.{durable}"), NO_PULL)
    yield Right(f"$JS.ACK.{events}.{durable}.>")
    yield Right(DEAD_LETTER_SUBJECT, headers={"Nats-Expected-Stream": PROBE})
    if needs.backups:
        yield Right(js.api("STREAM.SNAPSHOT.*"))
        yield Right("$JS.SNAPSHOT.ACK.>")
    yield Right(PAUSE_SUBJECT, headers={"Nats-Expected-Stream": PROBE})


async def barred_advisories(js: JetStream) -> list[str]:
    """Return the advisory subjects that we may not subscribe to. Raises Unreachable and Unanswered."""
    return [subject for subject in ADVISORY_SUBJECTS if not await js.may_subscribe(subject)]


async def lacking(js: JetStream, rights: Iterable[Right]) -> list[str]:
    """Return those of the permissions that are missing. Raises Unreachable and Unanswered."""
    return [item.allow for item in rights if not await js.may_publish(*item.trial)]
