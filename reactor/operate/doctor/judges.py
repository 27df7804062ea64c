"""Judge what the doctor read from NATS and from the ledger. Pure: plain values in, a check out."""

from collections.abc import Collection, Mapping, Sequence
from shlex import quote
from typing import Any

from reactor.core.checks import Check, counted, error, ok, size, some, warning
from reactor.core.explain import span
from reactor.core.model import SECOND, Coverage, Record, Stream, to_the_second
from reactor.core.pause import Pause
from reactor.core.policy import Policy

Raw = Mapping[str, Any]

NEARLY = 0.8
"""The used share of a limit from which it is reported."""
OFFSET_S = 5.0
"""Clocks that differ by more (s) mislead people who compare logs, and emitters that stamp events."""
FULL = 0.8
"""The used share of the lifecycle stream's limit from which it is reported."""
LAG_S = 60.0
"""An event that is not read for so long (s) is waiting for a worker that does not run."""
OLD_S = 7 * 86_400.0
"""A job that is live for longer (s) may have ended without an event."""
RECENT_S = 3_600.0
"""A silent emitter is judged by the streams that were created in this time (s),"""
SETTLED_S = 60.0
"""but not in this time (s), because their first event may be on its way."""
PASSES = 3
"""Intervals without a full pass until that is reported."""


def judge_limits(account: Raw) -> Check:
    """Judge the account's use of its limits, from the answer to `$JS.API.INFO`, for each tier."""
    tiers: Mapping[str, Raw] = account.get("tiers") or {"": account}
    near = [f"{words}{f' ({tier})' if tier else ''}" for tier, usage in tiers.items() for words in _near(usage)]
    if near:
        fix = "raise the account's limits, or delete what is not needed: else jobs cannot create their streams"
        return warning("nats.limits", f"the account has nearly used up its limits: {'; '.join(near)}", fix)
    return ok("nats.limits", f"{counted(account['streams'], 'stream')} of {size(account['storage'])}, no limit is near")


def _near(usage: Raw) -> list[str]:
    """Return limits that are nearly used up. Storage that streams have reserved counts as used."""
    limits = usage.get("limits") or {}
    used = {
        "storage": (max(usage["storage"], usage.get("reserved_storage", 0)), limits.get("max_storage", -1)),
        "memory": (max(usage["memory"], usage.get("reserved_memory", 0)), limits.get("max_memory", -1)),
        "streams": (usage["streams"], limits.get("max_streams", -1)),
        "consumers": (usage["consumers"], limits.get("max_consumers", -1)),
    }
    return [f"{what} {have} of {limit}" for what, (have, limit) in used.items() if 0 < limit * NEARLY <= have]


def judge_rights(lacking: Sequence[str], asked: int) -> Check:
    """Judge the missing permissions, except those for deleting."""
    if lacking:
        fix = f"allow reactor's user to publish to {', '.join(lacking)} (docs/permissions.md)"
        return error("nats.rights", f"no permission to publish to {', '.join(lacking)}", fix)
    return ok("nats.rights", f"{asked} kinds of requests that it needs are allowed")


def judge_deleting(lacking: Sequence[str], *, deletes: bool) -> Check:
    """Judge whether streams may be fenced and deleted. In report mode a missing permission does not matter."""
    if lacking and not deletes:
        return ok("nats.deleting", f"report mode deletes nothing; to delete it lacks {', '.join(lacking)}")
    if lacking:
        why = f"deletes would be paused: no permission to publish to {', '.join(lacking)}"
        fix = f"allow reactor's user to publish to {', '.join(lacking)} (docs/permissions.md)"
        return error("nats.deleting", why, fix)
    return ok("nats.deleting", "streams may be fenced and deleted")


def judge_lifecycle(info: Raw, wished_max_age: int) -> Check:
    """Judge the lifecycle stream's limits, which decide how long the last event of a job is kept (ns)."""
    config, name = info["config"], info["config"]["name"]
    refusing = config.get("max_msgs", -1) > 0 or config.get("max_bytes", -1) > 0
    if config.get("discard") == "new" and (refusing or config.get("discard_new_per_subject")):
        fix = "let it discard old events instead (discard: old): a job's newest event is what counts"
        return warning("streams.limits", f"stream {name} refuses new lifecycle events once it is full", fix)
    if 0 < config.get("max_age", 0) < wished_max_age:
        kept, wish = span(config["max_age"] / SECOND), span(wished_max_age / SECOND)
        fix = "raise its max_age, or set REACTOR_EVENTS_MAX_AGE to it if no job takes longer"
        return warning("streams.limits", f"stream {name} forgets events after {kept}, not {wish}", fix)
    if config.get("max_msgs_per_subject", -1) == 1:
        fix = "let it keep some more for each subject (reactor's own keeps 8)"
        return warning("streams.limits", f"stream {name} keeps one event a job: a late older one displaces it", fix)
    return ok("streams.limits", f"stream {name} keeps the last event of each job as long as wished")


def judge_replicas(info: Raw) -> Check:
    """Judge whether the loss of one node would lose the lifecycle stream."""
    name, copies = info["config"]["name"], info["config"].get("num_replicas", 1)
    cluster = (info.get("cluster") or {}).get("name")
    if copies == 1 and cluster:
        finding = f"stream {name} has one copy in cluster {cluster}: without its node nothing is read or drained"
        fix = f"nats stream edit {name} --replicas 3; and REACTOR_EVENTS_REPLICAS=3 for those that reactor declares"
        return warning("streams.replicas", finding, fix)
    finding = f"stream {name} has {copies} copies in cluster {cluster}" if cluster else "there is no cluster to copy to"
    return ok("streams.replicas", finding)


def judge_durable(check: str, stream: str, info: Raw, difference: str | None) -> Check:
    """Judge reactor's durable consumer on a stream that it reads."""
    name, config, waiting = info["name"], info["config"], info.get("num_ack_pending", 0)
    if info.get("paused"):
        finding = (
            f"durable {name} on stream {stream} is paused until {config.get('pause_until', 'somebody resumes it')}"
        )
        return error(check, finding, f"nats consumer resume {stream} {name}")
    if 0 < config.get("max_ack_pending", -1) <= waiting:
        finding = f"durable {name} on stream {stream} has {waiting} unacknowledged messages, and gets no more"
        return error(check, finding, "look at the worker's log for why it cannot ack: Redis, or a right")
    if difference:
        finding = f"durable {name} on stream {stream} differs from the wished one: {difference}"
        fix = f"nats consumer rm {stream} {name}; the worker creates it again and reads all events again, harmlessly"
        return warning(check, finding, fix)
    return ok(check, f"durable {name} on stream {stream} is as wished")


def judge_lag(behind: int, oldest_s: float | None, waiting: int) -> Check:
    """Judge the number of events that are not acked, the age of the oldest (s), and the open requests for them."""
    if not behind or oldest_s is None:
        return ok("streams.lag", "every lifecycle event is read")
    finding = f"{counted(behind, 'lifecycle event')} not read yet, the oldest for {span(oldest_s)}"
    if oldest_s < LAG_S:
        return ok("streams.lag", finding)
    if waiting:
        return warning("streams.lag", finding, "look at the worker's log: it asks for events and does not ack them")
    return warning("streams.lag", f"{finding}, and no client requests them", "start reactor worker")


def judge_room(lacking: Sequence[str]) -> Check:
    """Judge reactor's own streams that a worker could not create."""
    if lacking:
        finding = f"there is no room for {'; '.join(lacking)}; what has zombies is drained all the same"
        return error("streams.room", finding, "raise the limit, or wait until the zombies are gone: it is tried again")
    return ok("streams.room", "there is room for reactor's own streams")


def judge_lifecycle_room(info: Raw) -> Check:
    """Judge how close the lifecycle stream is to a limit at which it drops events."""
    config, state = info["config"], info["state"]
    limits = {"max_bytes": state.get("bytes", 0), "max_msgs": state.get("messages", 0)}
    full = [
        f"{held} of {config[limit]} ({limit})"
        for limit, held in limits.items()
        if 0 < config.get(limit, -1) * FULL <= held
    ]
    name = config["name"]
    if full:
        fix = f"nats stream edit {name} with a higher limit, before the oldest events are dropped"
        return warning("streams.lifecycle_room", f"stream {name} is nearly full: {', '.join(full)}", fix)
    return ok("streams.lifecycle_room", f"stream {name} has room: it drops no event")


def judge_dead_letters(number: int, stream: str) -> Check:
    """Judge events that could not be read."""
    if number:
        fix = f"nats stream view {stream} shows them with the reason; then nats stream purge {stream}"
        return warning("streams.dead_letters", f"{counted(number, 'event')} could not be read", fix)
    return ok("streams.dead_letters", "every event could be read")


def judge_pause(pause: Pause | None) -> Check:
    """Judge whether an operator has paused deleting."""
    if pause:
        return warning("streams.control", str(pause), "reactor resume lets it go on")
    return ok("streams.control", "deleting is not paused")


def judge_dead_letter_limits(config: Raw) -> Check:
    """Judge whether a flood of unreadable events could fill the storage."""
    name = config["name"]
    if config.get("max_msgs", -1) <= 0 and config.get("max_bytes", -1) <= 0:
        fix = f"nats stream edit {name} --max-msgs 100000 --max-bytes 256MiB --discard old"
        return warning(
            "streams.dead_letter_limits", f"stream {name} has no limit: an emitter gone mad could fill it", fix
        )
    return ok("streams.dead_letter_limits", f"stream {name} is bounded")


def judge_advisories(advisory_streams: Sequence[str], unheard: Sequence[str]) -> Check:
    """Judge which streams capture the advisories, and whether reactor may subscribe to them."""
    if unheard:
        fix = f"allow reactor's user to subscribe to {', '.join(unheard)} (docs/permissions.md): a pass is slower"
        return warning("streams.advisories", f"no permission to subscribe to {', '.join(unheard)}", fix)
    where = f", and {some(advisory_streams)} keeps them" if advisory_streams else ""
    return ok("streams.advisories", f"JetStream's advisories are received{where}")


def judge_disputes(known: Sequence[tuple[Stream, Record]], policy: Policy) -> Check:
    """Judge jobs whose last events disagree, and how far their emitters' clocks may differ."""
    disputed = [(stream.name, record) for stream, record in known if policy.is_disputed(record)]
    if not disputed:
        return ok("ledger.disputes", "no job's last events disagree")
    rows = [f"{name} ({_said(record)})" for name, record in disputed]
    fix = (
        "set the clocks of the emitting hosts right (NTP), or leave occurred_at out; the right status, published once "
        "more, settles it at once"
    )
    return warning("ledger.disputes", f"the last events of {counted(len(rows), 'job')} disagree: {some(rows)}", fix)


def _said(record: Record) -> str:
    latest, last = record.latest, record.last
    apart = (last.published_at - last.occurred_at - latest.published_at + latest.occurred_at) / SECOND
    return (
        f"{latest.status} is the latest by time, {last.status} by sequence: "
        f"the host of the latter is probably {span(abs(apart))} {'behind' if apart > 0 else 'ahead'}"
    )


def judge_early(names: Sequence[str]) -> Check:
    """Judge streams of jobs that were reported as done while their work went on."""
    if names:
        fix = "emit SUCCESS when a job's tasks are done, not when they are queued; until they are, such streams wait"
        return warning("ledger.early", f"worked on after their jobs were called done: {some(names)}", fix)
    return ok("ledger.early", "no job that is done is still worked on")


def judge_pattern(matching: Collection[str], others: Collection[str], pattern: str) -> Check:
    """Judge whether the pattern matches the job system's streams."""
    finding = f"the pattern {pattern} matches {len(matching)} of {len(matching) + len(others)} streams"
    if others and not matching:
        fix = "set REACTOR_POLICY_STREAM_PATTERN, with a group (?P<job_id>…), if some of these are job streams"
        return warning("streams.pattern", f"{finding}; there are {some(others)}", fix)
    return ok("streams.pattern", finding)


def judge_fences(streams: Sequence[Stream], streams_by_subject: Mapping[str, str]) -> Check:
    """Judge streams that have a fence now: from a deletion under way, or left by a replica that died.

    `streams_by_subject` has the stream of each subject. A subject that another stream has cannot be restored.
    """
    fenced = {item.name: item.fence for item in streams if item.fence}
    unreadable = [name for name, fence in fenced.items() if not fence.subjects]
    expired = {item.name: item.observed_at - item.fence.until for item in streams if item.fence and item.fence.subjects}
    expired = {name: late for name, late in expired.items() if late >= 0}
    if unreadable:
        fix = "restore their subjects and remove reactor.fence.* from their metadata"
        return error("streams.fenced", f"fences that cannot be read: {some(unreadable)}", fix)
    taken = {
        item.name: streams_by_subject[s]
        for item in streams
        if item.fence
        for s in item.fence.subjects
        if s in streams_by_subject
    }
    if taken:
        finding = "; ".join(f"{name} cannot get its subject back from {other}" for name, other in sorted(taken.items()))
        return error(
            "streams.fenced", finding, "take that subject from the other stream; then it is given back by itself"
        )
    if expired:
        late = span(max(expired.values()) / SECOND)
        fix = "a worker takes them over or gives the subjects back at its next pass: start one, or reactor reconcile"
        return warning("streams.fenced", f"fenced, and the lease ran out up to {late} ago: {some(expired)}", fix)
    return ok("streams.fenced", f"{some(fenced)}: a deletion is under way" if fenced else "no stream is fenced")


def judge_unreported(names: Collection[str]) -> Check:
    """Judge streams of which the server reports only the name."""
    if names:
        fix = "bring the node or the quorum back; until then they are left alone"
        return error("streams.reported", f"the server could not report {some(names)}", fix)
    return ok("streams.reported", "the server reports every stream whole")


def judge_fenceable(streams: Sequence[Stream]) -> Check:
    """Judge job streams that cannot be fenced, so that they are never drained."""
    if names := [item.name for item in streams if item.reported and not item.fenceable and not item.fence]:
        fix = "remove the mirrors and sources that refer to them, or delete them by hand when their jobs have ended"
        finding = (
            f"{counted(len(names), 'job stream')} cannot be fenced, so never drained (mirrors, sources): {some(names)}"
        )
        return warning("streams.fenceable", finding, fix)
    return ok("streams.fenceable", "every job stream can be fenced")


def judge_retention(streams: Sequence[Stream]) -> Check:
    """Judge streams whose retention times in their metadata cannot be read, so that they are kept."""
    if unreadable := [f"{item.name} ({item.own.unreadable})" for item in streams if item.own and item.own.unreadable]:
        fix = "write a duration such as 24h, or for reactor.keep-until a time such as 2026-01-31T12:00:00Z"
        return warning("streams.retention", f"kept, since their own times cannot be read: {some(unreadable)}", fix)
    return ok("streams.retention", "every stream's own times can be read")


def judge_overlap(captured_by: Mapping[str, Collection[str]], read: Collection[str]) -> Check:
    """Judge streams that capture reactor's own subjects, and job streams that reactor reads from."""
    if taken := {subject: names for subject, names in captured_by.items() if names}:
        finding = "; ".join(f"{some(names)} captures {subject}" for subject, names in sorted(taken.items()))
        fix = (
            "take these subjects from it: two streams cannot share one (10065), so nothing can be fenced or kept there"
        )
        return error("streams.overlap", finding, fix)
    if read:
        fix = "give that stream a name that REACTOR_POLICY_STREAM_PATTERN does not match"
        finding = f"reactor reads from {some(read)}, which would else be a job stream: it is never judged"
        return warning("streams.overlap", finding, fix)
    return ok("streams.overlap", "no stream captures a subject of reactor's own")


def judge_clock(name: str, whose: str, offset_s: float, uncertainty_s: float) -> Check:
    """Judge a server's clock against this machine's. The uncertainty is half the round trip."""
    ahead = "ahead of" if offset_s > 0 else "behind"
    finding = f"{whose} clock is {span(abs(offset_s))} {ahead} this machine's (± {span(uncertainty_s)})"
    if abs(offset_s) <= uncertainty_s:
        finding = f"{whose} clock agrees with this machine's (± {span(uncertainty_s)})"
    if abs(offset_s) - uncertainty_s > OFFSET_S:
        fix = (
            "set the clocks right (NTP): no verdict depends on this machine's, but occurred_at of events that are "
            "stamped here, and the times that people read, do"
        )
        return warning(name, finding, fix)
    return ok(name, finding)


def judge_owner(owner: str | None, identity: str) -> Check | None:
    """Judge which lifecycle stream the ledger in Redis belongs to; None if all is well."""
    if owner is None or owner == identity:
        return None
    fix = (
        "if another reactor uses this namespace, give each its own REACTOR_REDIS_NAMESPACE; "
        "if the stream was created again, a worker rebuilds the ledger by itself"
    )
    return warning("ledger.owner", f"Redis holds the ledger of {owner}, and this account's is {identity}", fix)


def judge_coverage(coverage: Coverage, *, has_events: bool) -> Check:
    """Judge the coverage, and whether the ledger ever got an event."""
    if coverage.intact and coverage.gap is None and coverage.since is not None:
        return ok("ledger.coverage", f"the ledger covers jobs since {to_the_second(coverage.since)}")
    reads = "a worker reads and rebuilds by itself: start one, or run reactor reconcile"
    fix = reads if has_events or not coverage.intact else "publish an event whenever a job's status changes (README)"
    return warning("ledger.coverage", coverage.gap or "the ledger vouches for nothing", fix)


def judge_oldest(known: int, live: Mapping[str, Record], streams: Mapping[str, str], now: int) -> Check:
    """Judge the live job with the oldest last event, among those with a stream if any has one."""
    if not live:
        return ok("ledger.oldest_live", f"{counted(known, 'job')} known, none alive")
    job_id, record = min(((job, live[job]) for job in live.keys() & streams or live), key=lambda pair: pair[1].latest)
    age_s = (now - record.occurred_at) / SECOND
    stream = streams.get(job_id)
    has = f"its stream is {stream}" if stream else "it has no stream"
    oldest = f"job {job_id} has been {record.status} for {span(age_s)}, {has}"
    finding = f"{counted(known, 'job')} known, {len(live)} alive; {oldest}"
    if stream and age_s > OLD_S:
        fix = (
            f"is job {job_id} really still running? Its stream is kept until an event says that it ended; "
            f"if it has, publish that (reactor emit {quote(job_id)} DELETED)"
        )
        return warning("ledger.oldest_live", finding, fix)
    return ok("ledger.oldest_live", finding)


def judge_emitter(streams: Sequence[Stream], known: Collection[str], last_event: int | None, subject: str) -> Check:
    """Judge whether the job system publishes events for the jobs that it creates streams for."""
    silent = [
        item for item in streams if item.created is not None and item.job_id not in known and _age_s(item) > SETTLED_S
    ]
    recent = [item.created or 0 for item in silent if _age_s(item) <= RECENT_S]
    last_seen = "no event ever came" if last_event is None else f"the last event came at {to_the_second(last_event)}"
    finding = (
        f"no event has come for the jobs of {counted(len(silent), 'stream')}: {some([item.name for item in silent])}"
    )
    if recent and (last_event is None or last_event < max(recent) - SETTLED_S * SECOND):
        fix = f"emitter silent or misconfigured: does the job system publish on {subject}, in this account?"
        return error("ledger.emitter", f"{finding}; {len(recent)} of them new, and {last_seen}", fix)
    if silent:
        fix = "reactor explain STREAM shows what happens to one; reactor reconcile --assume-missing deletes leftovers"
        return warning("ledger.emitter", f"{finding}; {last_seen}", fix)
    return ok("ledger.emitter", f"every job with a stream has an event; {last_seen}" if streams else last_seen)


def _age_s(stream: Stream) -> float:
    return (stream.observed_at - (stream.created or 0)) / SECOND


def judge_pass(last: Raw | None, age_s: float | None, interval_s: float) -> Check:
    """Judge the last full pass of any replica: its age, and what it could not do."""
    if last is None or age_s is None:
        return warning("ledger.last_pass", "there was no full pass yet", "start reactor worker, or reactor reconcile")
    finding = f"the last full pass was {span(age_s)} ago"
    if last.get("breaker"):
        fix = "check with reactor reconcile --dry-run; if it is right, reactor reconcile --yes"
        return error("ledger.last_pass", f"{finding}, and the breaker tripped: {last['breaker']}", fix)
    if last.get("error"):
        return error("ledger.last_pass", f"{finding}, and broke off: {last['error']}", "fix what the error names")
    if age_s > PASSES * interval_s:
        fix = "no worker runs? Start reactor worker; if a timer runs reactor reconcile, set its interval"
        return warning("ledger.last_pass", f"{finding}, with an interval of {span(interval_s)}", fix)
    if last.get("unfixable"):
        fix = "reactor history says which, and why; reactor explain STREAM says what would change it"
        return warning("ledger.last_pass", f"{finding}, with {counted(last['unfixable'], 'stream')} unfixable", fix)
    return ok("ledger.last_pass", f"{finding}, with {counted(last['checked'], 'job stream')}")
