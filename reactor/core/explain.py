"""Verdicts in sentences, for the person on call. Pure."""

import difflib
from collections.abc import Sequence

from reactor.core.model import (
    UNREADABLE,
    Coverage,
    Drain,
    Keep,
    Outcome,
    Reason,
    Record,
    StatusEvent,
    Stream,
    Unfixable,
    Verdict,
    Wait,
    parse_instant,
    to_the_second,
)
from reactor.core.pause import Pause
from reactor.core.rules import DEFAULT
from reactor.core.schemas import Entry

MINUTE_S = 60
SHORT_S = 0.01
_UNITS = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (MINUTE_S, "min", 1, "s"))

_WHY = {
    Reason.PROTECTED: "it is protected, by its metadata (reactor.protect, reactor.keep-until), by a rule, or by "
    "REACTOR_POLICY_PROTECT",
    Reason.RETENTION_UNREADABLE: "its metadata says how long to keep it, and that cannot be read",
    Reason.UNREPORTED: "the server could not report it whole: a node or a quorum is away",
    Reason.FENCED: "a replica is deleting it: its subjects are taken away until its lease runs out",
    Reason.FENCE_UNREADABLE: "it carries a fence that cannot be read, so its own subjects are unknown",
    Reason.CREATED_UNREADABLE: "the server gives no readable creation time for it",
    Reason.RUNNING: "its job is live",
    Reason.DISPUTED: "its job's last events disagree, and one of them is live",
    Reason.FRESH: "it is younger than the age guard",
    Reason.GRACE: "its job has ended less than the terminal grace ago",
    Reason.ACTIVE: "it was used within the idle guard; or, if no event of its job is known, within the missing guard",
    Reason.TERMINAL: "its job has ended and all guards have passed",
    Reason.MISSING: "its job does not exist and all guards have passed",
    Reason.UNKNOWN: "no source confirms that its job does not exist",
    Reason.BACKUP_FAILED: "no backup of it could be written",
    Reason.PAUSED: "it would be drained, and deleting is paused",
    Reason.NOT_FENCEABLE: "it would be drained, but cannot be fenced: it is a mirror, or another stream sources it",
}
_CHANGES = {
    Reason.PROTECTED: "Nothing but an operator who takes the protection away: {unprotect}.",
    Reason.RETENTION_UNREADABLE: "A value that can be read: a duration such as 24h, or, for reactor.keep-until, a time "
    "such as 2026-01-31T12:00:00Z.",
    Reason.UNREPORTED: "The node or quorum coming back; then it is judged again.",
    Reason.FENCED: "The end of the lease: then it is taken over, or gets its subjects back.",
    Reason.FENCE_UNREADABLE: "An operator who restores its subjects and removes reactor.fence.* from its metadata.",
    Reason.CREATED_UNREADABLE: "A server that reports its creation time.",
    Reason.RUNNING: "A terminal event of the job; if it is over without an event: reactor emit {job_id} FAILURE.",
    Reason.DISPUTED: "The right status, published once more (reactor emit {job_id} STATUS); or the dispute guard, "
    "without any use of the stream.",
    Reason.FRESH: "Time; {keep}.",
    Reason.GRACE: "Time; {keep}.",
    Reason.ACTIVE: "Time without use; {keep}.",
    Reason.TERMINAL: "{Keep}, before it is drained.",
    Reason.MISSING: "{Keep}, before it is drained by a full pass.",
    Reason.PAUSED: "An operator who lets deleting go on: reactor resume.",
    Reason.UNKNOWN: "An event of the job: reactor emit {job_id} STATUS. If the job does not exist: "
    "reactor reconcile --assume-missing --stream {stream}.",
    Reason.NOT_FENCEABLE: "Removing the mirror or source that refers to it, or deleting it by hand.",
}
_KEEP = "to keep it: reactor protect {stream}, or, if its job is live, reactor emit {job_id} STARTED"


def sentence(name: str, verdict: Verdict, record: Record | None, coverage: Coverage) -> str:
    """Return a sentence that says what will happen to a stream, and why."""
    match verdict:
        case Keep(reason):
            fate = "is kept"
        case Wait(reason, until):
            fate = f"waits until {to_the_second(until)}"
        case Drain(reason):
            fate = "is drained at the next inspection"
        case Unfixable(reason):
            fate = "needs a person"
    last = f"; its job's last event is {record.status} at {to_the_second(record.occurred_at)}" if record else ""
    if record and record.status == UNREADABLE:
        last = f"; its job's last event ({record.latest.seq}) could not be read: see REACTOR_DEAD_LETTERS"
    if record and reason is Reason.DISPUTED:
        last = f": {both_events(record)}"
    gap = f" ({coverage.gap})" if reason is Reason.UNKNOWN and coverage.gap else ""
    return f"{name} {fate}: {_WHY.get(reason, reason.value)}{gap}{last}."


def both_events(record: Record) -> str:
    """Return text that names a job's two last events, which disagree."""
    latest, last = record.latest, record.last
    return (
        f"by time {latest.status} ({to_the_second(latest.occurred_at)}, event {latest.seq}), "
        f"by sequence {last.status} ({to_the_second(last.occurred_at)}, event {last.seq})"
    )


def deletion_of(entry: Entry) -> str:
    """Return a sentence about a deletion, from its audit entry."""
    did = "drained it" if entry["outcome"] == Outcome.DRAINED.value else "began to drain it, and it was found gone"
    at = to_the_second(parse_instant(entry["at"]))
    return f"reactor {did} at {at}: {entry['reason']}, {_condemned(entry)}, {_messages(entry)} ({actor_of(entry)})"


def actor_of(entry: Entry) -> str:
    """Return who acted: the process; for a command also the person and the overridden settings."""
    actor = entry.get("actor")
    if not actor:
        return entry["by"]
    person = "" if actor["role"] == "worker" else f" of {actor['user']}"
    overrides = f" with {' '.join(actor['overrides'])}" if actor["overrides"] else ""
    return f"{actor['role']} {entry['by']}{person}{overrides}"


def _condemned(entry: Entry) -> str:
    """Return the status of the job, its source, and the rule that the stream was judged by."""
    rule = f", rule {entry['rule']}" if entry.get("rule", DEFAULT) != DEFAULT else ""
    if not entry.get("status"):
        return f"no job known{rule}"
    event, which = entry.get("event"), ""
    if entry.get("directory"):
        which = " (by the job directory)"
    elif event:
        which = f" (event {event['seq']}{' by ' + event['source'] if event['source'] else ''})"
    return f"its job's status {entry['status']}{which}{rule}"


def _messages(entry: Entry) -> str:
    return f"{entry.get('messages', 0)} messages"


def event_line(job_id: str, event: StatusEvent) -> str:
    """Return a lifecycle event as a line of a timeline."""
    if event.status == UNREADABLE:
        return (
            f"event {event.seq} of job {job_id} could not be read, so the job counts as live: "
            f"nats stream view REACTOR_DEAD_LETTERS has it whole"
        )
    when = "" if event.occurred_at == event.published_at else f", since {to_the_second(event.occurred_at)}"
    return f"job {job_id} was reported as {event.status} (event {event.seq}{when})"


def details_of(entry: Entry) -> str:
    """Return the details of an audit entry: reason, proof and actor."""
    detail, parts = entry.get("detail") or "", list[str]()
    if entry["phase"] in ORDERS:
        actor = entry["actor"]
        parts = [detail, f"by {actor['user']}@{actor['host']}"]
    elif entry["phase"] == "unfixable":
        parts = [entry["reason"], detail, f"({actor_of(entry)})"]
    else:
        proof, backup = entry.get("proof"), entry.get("backup")
        parts = [f"{entry['reason']}, {_condemned(entry)}, {_messages(entry)}", f"({actor_of(entry)})", proof or ""]
        parts += [f"backup {backup}" if backup else "", detail]
    return "; ".join(filter(None, parts)).replace("; (", " (")


PHASES = ("prepared", "paused", "resumed", "protected", "unprotected", "restored", "afterwards")
"""Values of `history --outcome` besides the outcomes of deletions."""
ORDERS = frozenset({"paused", "resumed", "protected", "unprotected", "restored"})
"""Phases of an operator's orders."""


def entry_line(entry: Entry) -> str:
    """Return an audit entry as a line of a timeline."""
    detail, reason = entry.get("detail") or "", entry["reason"]
    rest = f": {detail}" if detail else ""
    match entry["phase"], entry.get("outcome"):
        case "intent", _:
            return f"{actor_of(entry)} began to drain it: {reason}, {_condemned(entry)}"
        case "outcome", Outcome.DRAINED.value:
            proof = f", {entry['proof']}" if entry.get("proof") else ""
            backup = f", backup {entry['backup']}" if entry.get("backup") else ""
            return f"it was drained: {_messages(entry)}{proof}{backup}{rest}"
        case "outcome", Outcome.ALREADY_GONE.value:
            return f"it was found gone{rest}"
        case "outcome", outcome:
            return f"the drain was given up ({outcome}){rest}"
        case "unfixable", _:
            return f"an attempt failed ({reason}){rest}"
        case "prepared", _:
            return f"it was emptied for a new run of its job: {_messages(entry)} purged"
        case "would_drain", _:
            return f"report mode would have drained it: {reason}, {_condemned(entry)}"
        case "afterwards", what:
            return f"later, after report mode kept it: {what}"
        case phase, _:
            return f"it was {phase} by {actor_of(entry)}{rest}"


def unknown_value(word: str, known: Sequence[str]) -> str:
    """Return a sentence that a value is not one of the known ones, with a suggestion."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"{word!r} is none of {', '.join(known)}" + (f": did you mean {close[0]}?" if close else "")


def span(seconds: float) -> str:
    """Return a duration in its two largest units: `250 ms`, `4.2 s`, `3 min 10 s`, `2 d 4 h`."""
    whole = round(seconds)
    if seconds < 1:
        return f"{seconds * 1000:.{0 if seconds == 0 or seconds >= SHORT_S else 1}f} ms"
    if whole < MINUTE_S:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    size, name, smaller, small_name = next(unit for unit in _UNITS if whole >= unit[0])
    rest = whole % size // smaller
    return f"{whole // size} {name}" + (f" {rest} {small_name}" if rest else "")


def changes(reason: Reason, stream: Stream) -> str:
    """Return what would change the verdict on a stream, with the command to type."""
    keep = _KEEP.format(stream=stream.name, job_id=stream.job_id)
    if reason is Reason.PROTECTED and stream.keep_until is not None and not stream.protected:
        return f"Time ({to_the_second(stream.keep_until)}), or an operator: reactor unprotect {stream.name}."
    others = "see REACTOR_POLICY_PROTECT and reactor rules"
    unprotect = f"reactor unprotect {stream.name}" if stream.protected else others
    text = _CHANGES.get(reason, "Another inspection.")
    keeps = {"keep": keep, "Keep": keep[0].upper() + keep[1:]}
    return text.format(stream=stream.name, job_id=stream.job_id, unprotect=unprotect, **keeps)


def paused_sentence(stream: Stream, pause: Pause) -> str:
    """Return a sentence about a zombie that is kept because deleting is paused."""
    return f"{stream.name} would be drained at the next inspection, but {pause}."
