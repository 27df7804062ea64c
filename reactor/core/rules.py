"""Retention rules: for which streams guards, protection, action or backup differ from the settings. Pure.

The first rule that matches a stream counts. What it leaves out is as in the settings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from reactor.core.model import Record, Stream, fold

GUARDS = ("age_guard", "terminal_grace", "idle_guard", "missing_guard")
"""The guards that a rule can set."""
DEFAULT, OWN = "default", "stream"
"""Names used if no rule decides: the settings, or the times in the stream's own metadata."""
When = Literal["never", "pending", "always"]
"""Which streams are backed up before deletion. `pending` means those with unacknowledged work."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. All its conditions must match; an empty condition matches everything."""

    name: str
    streams: tuple[str, ...] = ()
    """Globs over stream names, case-sensitive; one of them must match."""
    statuses: frozenset[str] = frozenset()
    """Statuses of the job's last event, upper case. A job without an event has none."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Entries of the stream's own metadata."""
    guards: Mapping[str, int] = field(default_factory=dict)
    """Spans (ns) of some of `GUARDS`."""
    protect: bool = False
    action: Literal["delete", "report"] | None = None
    backup: When | None = None

    def matches(self, stream: Stream, record: Record | None) -> bool:
        """Return whether the stream meets all conditions."""
        return (
            (not self.streams or any(fnmatchcase(stream.name, glob) for glob in self.streams))
            and (not self.statuses or (record is not None and fold(record.status) in self.statuses))
            and all(stream.metadata.get(key) == value for key, value in self.metadata.items())
        )

    def may_match(self, status: str) -> bool:
        """Return whether a job with this status can meet the condition on the status."""
        return not self.statuses or fold(status) in self.statuses

    def takes_all_of(self, later: "Rule") -> bool:
        """Return whether this rule surely matches every stream that `later` matches."""
        takes_names = not self.streams or (
            bool(later.streams) and all(any(_within(glob, ours) for ours in self.streams) for glob in later.streams)
        )
        takes_statuses = not self.statuses or (bool(later.statuses) and later.statuses <= self.statuses)
        return takes_names and takes_statuses and self.metadata.items() <= later.metadata.items()

    def as_dict(self) -> dict[str, Any]:
        """Return the rule as JSON; spans are in nanoseconds."""
        return asdict(self) | {"streams": list(self.streams), "statuses": sorted(self.statuses)}


def read_rule(entry: Mapping[str, Any]) -> Rule:
    """Read the JSON of `as_dict`, maybe of another release. Raises KeyError, TypeError and ValueError."""
    guards = {name: int(span) for name, span in entry["guards"].items() if name in GUARDS}
    return Rule(
        name=str(entry["name"]),
        streams=tuple(map(str, entry["streams"])),
        statuses=frozenset(map(str, entry["statuses"])),
        metadata=dict(entry["metadata"]),
        guards=guards,
        protect=bool(entry["protect"]),
        action=entry["action"],
        backup=entry["backup"],
    )


def never_matching(rules: Sequence[Rule]) -> list[tuple[Rule, Rule]]:
    """Return the rules that never match, each with the earlier rule that matches first."""
    pairs = (
        (later, next((rule for rule in rules[:n] if rule.takes_all_of(later)), None)) for n, later in enumerate(rules)
    )
    return [(later, earlier) for later, earlier in pairs if earlier is not None]


def _within(glob: str, other: str) -> bool:
    """Return whether `other` surely matches every name that `glob` matches."""
    if other in (glob, "*"):
        return True
    literal = min((glob.find(wild) for wild in "*?[" if wild in glob), default=len(glob))
    if literal == len(glob):
        return fnmatchcase(glob, other)
    begins = other.removesuffix("*")
    return other.endswith("*") and not set(begins) & set("*?[") and glob[:literal].startswith(begins)
