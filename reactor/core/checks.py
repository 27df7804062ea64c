"""A check of `reactor doctor`, with its fix, and all of them together. Pure.

Laws of a check:

* Each check says in one sentence what it found, and, if that is not in order, in one more how to fix it.
* An error means that reactor cannot work, or that a live stream is in danger. A warning informs a person.
* What could not be checked never counts as in order.
"""

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

GROUPS = ("nats", "streams", "redis", "directory", "backups", "clocks", "workers", "ledger", "notify")
EXAMPLES = 5
_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


class Level(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Check:
    """One check. Its name is `<group>.<what>` and does not change, so scripts can rely on it."""

    name: str
    level: Level
    found: str
    fix: str | None = None

    @property
    def group(self) -> str:
        """The first part of the name."""
        return self.name.split(".")[0]


class Misconfigured(Exception):
    """The system does not fit the settings, and only a person can change that. Retrying does not help."""

    def __init__(self, found: str, fix: str) -> None:
        """`found` says what is wrong with which stream or setting. `fix` says what to do."""
        super().__init__(f"{found}: {fix}")
        self.found, self.fix = found, fix


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The results of all checks, by group."""

    checks: tuple[Check, ...]
    unreachable: bool
    """True if NATS or Redis was away, so that some checks could not be made."""

    @classmethod
    def of(cls, checks: Iterable[Check], *, unreachable: bool) -> "Diagnosis":
        """Return the checks in the order of their groups, within a group in the order in which they were made."""
        ordered = sorted(checks, key=lambda check: GROUPS.index(check.group))
        return cls(tuple(ordered), unreachable)

    def count(self, level: Level) -> int:
        """Return the number of checks of this level."""
        return sum(check.level is level for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """Return the contract's object. `ok` is that there is no error."""
        errors, warnings = self.count(Level.ERROR), self.count(Level.WARNING)
        checks = [asdict(check) for check in self.checks]
        return {"ok": not errors, "errors": errors, "warnings": warnings, "checks": checks}


def ok(name: str, found: str) -> Check:
    """Return a check that is in order."""
    return Check(name, Level.OK, found)


def warning(name: str, found: str, fix: str) -> Check:
    """Return a check that a person should know about."""
    return Check(name, Level.WARNING, found, fix)


def error(name: str, found: str, fix: str) -> Check:
    """Return a check that keeps reactor from its work, or endangers a live stream."""
    return Check(name, Level.ERROR, found, fix)


def size(number: int) -> str:
    """Return a number of bytes as text, such as `1.42 MB`."""
    size, unit = next((size for size in _SIZES if number >= size[0]), (1.0, "bytes"))
    return f"{number / size:.3g} {unit}"


def some(names: Collection[str]) -> str:
    """Return the first few names, and how many more there are."""
    shown = sorted(names)[:EXAMPLES]
    return ", ".join(shown) + (f" and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else "")


def counted(number: int, what: str) -> str:
    """Return `no streams`, `1 stream`, `2 streams`."""
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
