"""The protocol of a drain as a transition system, small enough to look at every interleaving of it.

One stream with its leader's queue (or Raft log), two incarnations of it, messages on their way, a job that is retried,
attempts of replicas under leases that run out or are forgotten by an emptied Redis; a crash, or a lost request or
answer, at every step. The stream may refuse messages once it is full, and its leader may be cut off from followers that
then elect another, which has no fence that came after the cut. Breadth first, so that what is found is the shortest
story of a loss.

What is assumed: an effect that was begun within its lease lands before the lease's time is over, or never; nobody else
deletes and makes a stream again between the barrier and the deletion; no leader is elected while a deletion that was
begun in time is on the wire; and not both an emptied Redis and such a foreign
deletion within one drain. The first two can be dropped (`LATE_DELETE`, `FOREIGN_DELETER`): these are the residual races
of docs/safety.md.
"""

from collections import deque
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple

OPEN = -1
"""The stream's own subject; behind a fence it has that of an attempt."""
FREE = -1
"""A lease that nobody holds."""


class Without(Enum):
    """Parts of the protocol, or its assumptions, that can be removed."""

    BARRIER = auto()
    """Instead of it, the stream is looked at again."""
    GUARDS = auto()
    """The fence lifts `discard: new` while messages are in the queue."""
    FOLLOWERS = auto()
    """A leader's word counts, however long ago it has heard its followers."""
    CHECK_BEFORE_DELETE = auto()
    CHECKS_BEFORE_FENCE_AND_UNFENCE = auto()
    RESPECT = auto()
    """For a fence of another that runs."""
    RECHECK = auto()
    """The second reading of the job's last event."""
    LEASE_CHECK = auto()
    """Only the clock is asked, not Redis, whether the lease is still one's own."""
    LATE_DELETE = auto()
    FOREIGN_DELETER = auto()


class Message(NamedTuple):
    """A message. `at` is its sequence, when it is acknowledged."""

    state: str = "unsent"
    incarnation: int = 0
    at: int = 0


class Attempt(NamedTuple):
    """One replica's attempt under one lease. `step` is its next step; one that ends in `!` is under way."""

    step: str = "rest"
    last_seq: int = 0
    incarnation: int = 0
    over: bool = False
    """The lease has run out."""
    fenced: bool = False
    """Its own fence has stood."""
    retried_before: bool = False
    """When its fence stood, the job had been started again."""


class State(NamedTuple):
    """Everything at one moment. Incarnation 0 means that there is no stream."""

    incarnation: int
    subject: int
    last_seq: int
    queue: tuple[tuple[str, int], ...]
    messages: tuple[Message, ...]
    retried: bool
    lease: int
    attempts: tuple[Attempt, ...]
    flushes: int
    remakes: int
    loss: str = ""
    room: int = 0
    """Messages that the stream takes before it refuses more; 0 for any number."""
    lifted: bool = False
    """The fence that stands has lifted that limit."""
    cuts: int = 0
    leader: str = ""
    """`cut` off from its followers, or another was `elected`."""
    followers: int = OPEN
    """The subject that the followers know, once they are cut off."""
    stale: tuple[tuple[int, int], ...] = ()
    """Barriers in the queue of a leader that is none any more, with the end that it knows."""


Step = tuple[str, State]
ACTIVE = 2
"""Replicas at work at once."""
ON_THE_WIRE = {"fence!", "delete!", "unfence!"}


def first(messages: int, attempts: int, *, flushes: int = 0, remakes: int = 0, room: int = 0, cuts: int = 0) -> State:
    """Return a zombie that no replica has inspected yet."""
    nobody = (Attempt(),) * attempts
    start = State(1, OPEN, 0, (), (Message(),) * messages, False, FREE, nobody, flushes, remakes)  # noqa: FBT003  # not retried
    return start._replace(room=room, cuts=cuts)


class Protocol:
    """Everything that can happen next."""

    def __init__(self, without: frozenset[Without] = frozenset()) -> None:
        self.without = without

    def after(self, s: State) -> Iterator[Step]:
        """Yield every next step and its result."""
        yield from self._publishers(s)
        yield from self._surroundings(s)
        working = [i for i, attempt in enumerate(s.attempts) if attempt.step not in {"rest", "end"}]
        for i in working:
            yield from self._replica(s, i)
        resting = next((i for i, attempt in enumerate(s.attempts) if attempt.step == "rest"), None)
        if resting is not None and s.lease == FREE and len(working) < ACTIVE:
            yield f"attempt {resting} takes the lease", _at(s._replace(lease=resting), resting, "look")

    def _publishers(self, s: State) -> Iterator[Step]:
        for m, message in enumerate(s.messages):
            if message.state == "unsent":
                if s.incarnation and s.subject == OPEN:
                    accepted = _message(s, m, Message("accepted"))
                    yield f"message {m} is accepted", accepted._replace(queue=(*s.queue, ("message", m)))
                else:
                    yield f"message {m} is refused loudly", _message(s, m, Message("refused"))
                break  # they are alike
        if s.queue:
            (kind, who), queue = s.queue[0], s.queue[1:]
            if kind == "message":
                yield self._commits(s._replace(queue=queue), who)
            else:
                yield self._answers(s._replace(queue=queue), who, s.last_seq)
        if s.stale:
            (who, end), stale = s.stale[0], s.stale[1:]
            yield self._answers(s._replace(stale=stale), who, end)

    def _commits(self, s: State, who: int) -> Step:
        held = [
            m
            for m, message in enumerate(s.messages)
            if (message.state, message.incarnation) == ("acknowledged", s.incarnation)
        ]
        if s.room and len(held) >= s.room and not s.lifted:
            return f"message {who} is refused loudly: the stream is full", _message(s, who, Message("refused"))
        done = Message("acknowledged", s.incarnation, s.last_seq + 1)
        stored = _message(s._replace(last_seq=s.last_seq + 1), who, done)
        if s.room and len(held) >= s.room:
            stored = stored._replace(loss=f"message {held[0]} was acknowledged and is destroyed to make room")
        return f"message {who} is committed and acknowledged", stored

    def _answers(self, s: State, who: int, end: int) -> Step:
        """Return what the answer to a barrier means. A replaced leader has no recent contact with its followers."""
        proven = s.attempts[who].last_seq == end
        word = f"its end is {end}: " + ("proven" if proven else "somebody published")
        if proven and s.leader == "elected" and Without.FOLLOWERS not in self.without:
            proven, word = False, f"its end is {end}, but its followers were not heard: nothing is proven"
        return f"the barrier of attempt {who} is answered, {word}", _at(s, who, "delete" if proven else "unfence")

    def _surroundings(self, s: State) -> Iterator[Step]:
        if not s.retried:
            yield "the job is started again: its event is stored", s._replace(retried=True)
        if s.flushes and s.lease != FREE:
            yield "Redis is emptied, leases and all", s._replace(flushes=s.flushes - 1, lease=FREE)
        proven = any(attempt.step in {"delete", "delete!"} for attempt in s.attempts)
        if s.remakes and s.incarnation and (not proven or Without.FOREIGN_DELETER in self.without):
            gone = tuple(Message("refused") if message.state == "accepted" else message for message in s.messages)
            anew = s._replace(incarnation=s.incarnation + 1, subject=OPEN, last_seq=0, messages=gone, lifted=False)
            yield "its owner deletes the stream and makes it anew", _unanswered(anew)._replace(remakes=s.remakes - 1)

        if s.cuts and s.incarnation and not s.leader:
            cut = s._replace(cuts=s.cuts - 1, leader="cut", followers=s.subject)
            yield "the stream's leader is cut off from its followers", cut
        deleting = any(attempt.step == "delete!" for attempt in s.attempts)
        if s.leader == "cut" and s.incarnation and (not deleting or Without.LATE_DELETE in self.without):
            yield "the followers elect another leader", _elected(s)

    def _replica(self, s: State, i: int) -> Iterator[Step]:
        me = s.attempts[i]
        late = me.step == "delete!" and Without.LATE_DELETE in self.without
        if not me.over and (me.step not in ON_THE_WIRE or late):
            over = s._replace(lease=FREE if s.lease == i else s.lease)
            yield f"the lease of attempt {i} runs out", _at(over, i, me.step, over=True)
        if me.step != "wait":
            yield f"attempt {i} dies, or its request is lost", _at(s, i, "end")
        yield from self._lands(s, i) if me.step in ON_THE_WIRE else self._acts(s, i)

    def _acts(self, s: State, i: int) -> Iterator[Step]:
        """Yield what a replica does next."""
        me = s.attempts[i]
        match me.step:
            case "look":
                yield self._look(s, i)
            case "delete" if s.leader == "elected" and Without.FOLLOWERS not in self.without:
                yield f"attempt {i} does not delete: the followers were heard too long ago", _at(s, i, "unfence")
            case "fence" | "unfence" | "delete" as effect:
                if self._may(s, i, effect):
                    yield f"attempt {i} sends its {effect}", _at(s, i, f"{effect}!")
                else:
                    yield f"attempt {i} stops before its {effect}: its time is over", _end(s, i)
            case "recheck":
                if s.lease != i and Without.LEASE_CHECK not in self.without:
                    yield f"attempt {i} stops behind its fence: its lease is another's", _end(s, i)
                    return
                lives = s.retried and Without.RECHECK not in self.without
                word = "it lives" if lives else "as before"
                step = "unfence" if lives else "look again" if Without.BARRIER in self.without else "barrier"
                yield f"attempt {i} reads the job's last event again: {word}", _at(s, i, step)
            case "look again":
                same = s.incarnation and s.subject == i and s.last_seq == me.last_seq
                word = "nothing has changed" if same else "it has changed"
                yield f"attempt {i} looks again: {word}", _at(s, i, "delete" if same else "unfence")
            case "barrier" if s.incarnation and s.subject == i:
                yield f"attempt {i} sends its barrier", _at(s._replace(queue=(*s.queue, ("barrier", i))), i, "wait")
            case "barrier":
                yield f"nobody hears the barrier of attempt {i}", _end(s, i)

    def _lands(self, s: State, i: int) -> Iterator[Step]:
        """Return the effect of a request under way on the stream, if there is one."""
        me = s.attempts[i]
        match me.step:
            case "fence!" if s.incarnation:
                fenced = s._replace(subject=i, lifted=Without.GUARDS in self.without)
                step = "recheck" if s.incarnation == me.incarnation else "unfence"
                yield f"the fence of attempt {i} stands", _at(fenced, i, step, fenced=True, retried_before=s.retried)
                yield f"the fence of attempt {i} stands, its answer is lost", _at(fenced, i, "end")
            case "fence!":
                yield f"the fence of attempt {i} finds no stream", _end(s, i)
            case "delete!":
                yield f"the deletion of attempt {i} is done", _deleted(s, i)
            case _:
                opened = s._replace(subject=OPEN, lifted=False) if s.incarnation else s
                yield f"attempt {i} gives the subjects back", _end(opened, i)

    def _look(self, s: State, i: int) -> Step:
        fence = s.subject
        if not s.incarnation:
            return f"attempt {i} looks: gone", _end(s, i)
        if fence != OPEN and Without.RESPECT not in self.without and not s.attempts[fence].over:
            return f"attempt {i} looks: another's fence runs", _end(s, i)
        if s.retried:
            return f"attempt {i} looks: the job lives", _end(s, i) if fence == OPEN else _at(s, i, "unfence")
        judged = s.attempts[i]._replace(step="fence", last_seq=s.last_seq, incarnation=s.incarnation)
        return f"attempt {i} looks: a zombie of {s.last_seq} messages", _attempt(s, i, judged)

    def _may(self, s: State, i: int, effect: str) -> bool:
        """Return whether the effect may begin: by the clock, and before the first effect also by Redis."""
        checks = Without.CHECK_BEFORE_DELETE if effect == "delete" else Without.CHECKS_BEFORE_FENCE_AND_UNFENCE
        if checks in self.without:
            return True
        asked = effect == "fence" or (effect == "unfence" and not s.attempts[i].fenced)
        return not s.attempts[i].over and (not asked or s.lease == i or Without.LEASE_CHECK in self.without)


def _deleted(s: State, i: int) -> State:
    """Return the state after reactor's deletion, with the loss if it is one."""
    me = s.attempts[i]
    loss = [
        f"message {m} was acknowledged and is destroyed"
        for m, message in enumerate(s.messages)
        if message.state == "acknowledged" and message.incarnation == s.incarnation
        if s.incarnation != me.incarnation or message.at > me.last_seq
    ]
    if s.incarnation and me.retried_before:
        loss.append("the job had been started again before the fence stood")
    gone = tuple(Message("refused") if message.state == "accepted" else message for message in s.messages)
    after = _unanswered(s._replace(incarnation=0, subject=OPEN, last_seq=0, messages=gone, lifted=False))
    return _end(after, i)._replace(loss="; ".join(loss))


def _unanswered(s: State) -> State:
    """Return the state without waiting answers: they are lost with the stream."""
    attempts = tuple(attempt._replace(step="end") if attempt.step == "wait" else attempt for attempt in s.attempts)
    return s._replace(queue=(), stale=(), attempts=attempts)


def _elected(s: State) -> State:
    """Return the state with a new leader.

    Uncommitted messages are never acknowledged, and it lacks a fence set after the cut.
    """
    messages = tuple(Message("refused") if message.state == "accepted" else message for message in s.messages)
    stale = tuple((who, s.last_seq) for kind, who in s.queue if kind == "barrier")
    return s._replace(leader="elected", subject=s.followers, queue=(), stale=stale, messages=messages)


def _message(s: State, m: int, message: Message) -> State:
    return s._replace(messages=(*s.messages[:m], message, *s.messages[m + 1 :]))


def _attempt(s: State, i: int, attempt: Attempt) -> State:
    return s._replace(attempts=(*s.attempts[:i], attempt, *s.attempts[i + 1 :]))


def _at(s: State, i: int, step: str, **changes: bool) -> State:
    return _attempt(s, i, s.attempts[i]._replace(step=step, **changes))


def _end(s: State, i: int) -> State:
    """Return the state after the attempt has ended and released its lease."""
    return _at(s._replace(lease=FREE if s.lease == i else s.lease), i, "end")


class Found(NamedTuple):
    """The number of states, and the shortest story of a loss, if there is one."""

    states: int
    story: list[str]


def explore(protocol: Protocol, start: State) -> Found:
    """Explore every reachable state until one is a loss."""
    before: dict[State, tuple[str, State] | None] = {start: None}
    todo = deque([start])
    while todo:
        state = todo.popleft()
        for label, after in protocol.after(state):
            if after in before:
                continue
            before[after] = (label, state)
            if after.loss:
                return Found(len(before), [*_story(before, after), after.loss])
            todo.append(after)
    return Found(len(before), [])


def _story(before: dict[State, tuple[str, State] | None], end: State) -> list[str]:
    steps = []
    at: State = end
    while (came := before[at]) is not None:
        steps.append(came[0])
        at = came[1]
    return steps[::-1]
