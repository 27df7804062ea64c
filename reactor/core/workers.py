"""The workers that are alive, what they judge by, and by whose policy a command should judge. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, cast

from reactor.core.explain import span
from reactor.core.model import SECOND
from reactor.core.policy import Policy
from reactor.core.rules import read_rule
from reactor.core.schemas import WorkerJson, Workers

_DURATIONS = ("age_guard", "terminal_grace", "idle_guard", "missing_guard", "dispute_guard")
NO_WORKER = "no worker is alive"


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """The heartbeat of one worker."""

    instance: str
    """Host and process, as in the audit's `by`."""
    host: str
    version: str
    since: str
    """When it started (RFC 3339)."""
    policy: Mapping[str, Any]
    """Its policy, see `policy_json`."""
    directory: str
    """The kind of job directory: `events`, `sql` or `http`."""
    nats: str
    redis: str
    """Addresses of the servers, without credentials."""
    policy_file: str | None = None
    """The file of its retention rules; None if it has none."""
    policy_sha256: str | None = None
    deletes_paused: str | None = None
    """The missing right, if it may not delete; else None."""
    nats_away_since: str | None = None
    """When it lost NATS (RFC 3339); None if it is connected."""
    seen_s: float = 0.0
    """Seconds since its last heartbeat, by Redis's clock."""

    def as_dict(self) -> dict[str, Any]:
        """Return the contract's object."""
        return asdict(self)

    @property
    def deletes(self) -> bool:
        """Whether this worker deletes zombies now."""
        actions = [self.policy.get("action"), *(rule.get("action") for rule in self.policy.get("rules") or ())]
        return "delete" in actions and self.deletes_paused is None and self.nats_away_since is None


def workers_json(workers: Sequence[WorkerInfo], at: str) -> Workers:
    """Return the contract's object."""
    rows = [cast("WorkerJson", worker.as_dict() | {"deletes": worker.deletes}) for worker in workers]
    return Workers(at=at, differ=differing(workers), versions=versions_of(workers), workers=rows)


def read_worker(raw: object, seen_s: float) -> WorkerInfo | None:
    """Read a heartbeat; None if it is not one. A newer release may have more fields."""
    if not isinstance(raw, dict):
        return None
    try:
        known = {item.name: raw[item.name] for item in fields(WorkerInfo) if item.name in raw}
        worker = WorkerInfo(**{**known, "seen_s": seen_s})
    except (TypeError, KeyError):
        return None
    return worker if isinstance(worker.instance, str) and isinstance(worker.policy, dict) else None


def policy_json(policy: Policy) -> dict[str, Any]:
    """Return a policy as JSON. Spans are in nanoseconds."""
    return {
        "action": "delete" if policy.deletes else "report",
        "stream_pattern": policy.pattern.pattern,
        **{name: getattr(policy, name) for name in _DURATIONS},
        "terminal_statuses": sorted(policy.terminal_statuses),
        "protect": list(policy.protect),
        "rules": [rule.as_dict() for rule in policy.rules],
    }


def policy_from(theirs: Mapping[str, Any], local: Policy) -> Policy:
    """Return the policy in a worker's heartbeat, completed by `local`. Raises ValueError if it cannot be read."""
    try:
        spans: dict[str, Any] = {name: int(theirs[name]) for name in _DURATIONS}
        return replace(
            local,
            deletes=theirs["action"] == "delete",
            pattern=re.compile(theirs["stream_pattern"]),
            terminal_statuses=frozenset(map(str, theirs["terminal_statuses"])),
            protect=tuple(map(str, theirs["protect"])),
            rules=tuple(map(read_rule, theirs.get("rules") or ())),
            **spans,
        )
    except (KeyError, TypeError, ValueError, AttributeError, re.error) as error:
        raise ValueError(f"a worker's policy cannot be read: {error}") from error


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the names of the settings in which two policies differ."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def differing(workers: Sequence[WorkerInfo]) -> list[str]:
    """Return the names of the settings in which the workers differ among themselves."""
    return sorted({name for worker in workers[1:] for name in differences(workers[0].policy, worker.policy)})


def versions_of(workers: Sequence[WorkerInfo]) -> list[str]:
    """Return the versions of these workers."""
    return sorted({worker.version for worker in workers})


def judged_by(local: Policy, directory: str, workers: Sequence[WorkerInfo]) -> tuple[Policy, str | None]:
    """Return the policy that a command judges by: the workers' if they agree. Else also return a notice.

    The notice says what differs. `directory` is the kind of job directory in the shell's settings.
    """
    if not workers:
        return local, f"{NO_WORKER}: judged with the settings of this shell"
    if apart := differing(workers):
        return local, f"the workers differ in {', '.join(apart)}: judged with the settings of this shell"
    if others := {worker.directory for worker in workers} - {directory}:
        return local, (
            f"the workers ask {', '.join(sorted(others))} for a job's status, this shell {directory}: judged with the "
            "settings of this shell; set REACTOR_DIRECTORY_* as the workers have them"
        )
    theirs, own = workers[0].policy, policy_json(local)
    if not (names := differences(theirs, own)):
        return local, None
    try:
        policy = policy_from(theirs, local)
    except ValueError as error:
        return local, f"{error}: judged with the settings of this shell"
    apart = [f"{name} {_shown(name, theirs)} (here {_shown(name, own)})" for name in names]
    return policy, f"judged with the workers' settings: {', '.join(apart)}; --local judges with this shell's"


def _shown(name: str, policy: Mapping[str, Any]) -> str:
    value = policy.get(name)
    if name in _DURATIONS and isinstance(value, int):
        return span(value / SECOND)
    if not isinstance(value, list):
        return str(value)
    return ",".join(str(item["name"] if isinstance(item, dict) else item) for item in value) or "none"
