"""Read the file of retention rules (TOML). The whole file is checked. docs/retention.md describes it.

[[rule]]
name = "failed trainings"
streams = ["job_*"]
status = ["FAILURE"]
metadata = { kind = "training" }
terminal_grace = "24h"
backup = "always"
"""

import difflib
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from reactor.config import fields
from reactor.core.model import fold, nanoseconds
from reactor.core.rules import DEFAULT, GUARDS, OWN, Rule, When, never_matching

Texts = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


class _Table(BaseModel):
    """One `[[rule]]` in the file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(min_length=1)]
    streams: Texts = []
    status: Texts = []
    metadata: dict[str, str] = {}
    age_guard: fields.Duration | None = None
    terminal_grace: fields.Duration | None = None
    idle_guard: fields.Duration | None = None
    missing_guard: fields.Duration | None = None
    protect: bool = False
    action: Literal["delete", "report"] | None = None
    backup: When | None = None

    @model_validator(mode="after")
    def _sets_something(self) -> Self:
        if self.name in {DEFAULT, OWN}:
            raise ValueError(f"{self.name!r} is shown if no rule decides; choose another name")
        if not self.guards() and not (self.protect or self.action or self.backup):
            raise ValueError("it sets nothing: give it a guard, protect, action or backup")
        return self

    def guards(self) -> dict[str, int]:
        """Return the guards that the rule sets, in nanoseconds."""
        return {name: nanoseconds(span) for name in GUARDS if (span := getattr(self, name)) is not None}

    def rule(self) -> Rule:
        return Rule(
            name=self.name,
            streams=tuple(self.streams),
            statuses=frozenset(map(fold, self.status)),
            metadata=self.metadata,
            guards=self.guards(),
            protect=self.protect,
            action=self.action,
            backup=self.backup,
        )


class RulesFaulty(Exception):
    """A file of rules cannot be used. `faults` has one line for each reason, with its place."""

    def __init__(self, faults: Sequence[str]) -> None:
        """`faults` has at least one line."""
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class RulesFile:
    """The rules, and the file they come from."""

    rules: tuple[Rule, ...] = ()
    path: str | None = None
    sha256: str | None = None


NO_RULES = RulesFile()


def read_rules(path: Path) -> RulesFile:
    """Read a file of rules. Raises RulesFaulty."""
    try:
        raw = path.read_bytes()
        content = tomllib.loads(raw.decode())
    except OSError as error:
        raise RulesFaulty([f"{path}: cannot be read: {error.strerror or error}"]) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RulesFaulty([f"{path}: is not TOML: {error}"]) from error
    reading = _Reading(str(path), raw.decode().splitlines())
    rules = reading.rules(content)
    if reading.faults:
        raise RulesFaulty(reading.faults)
    return RulesFile(tuple(rules), str(path.resolve()), sha256(raw).hexdigest())


class _Reading:
    """Reads one file and collects its `faults`."""

    def __init__(self, path: str, lines: Sequence[str]) -> None:
        self._path = path
        self._lines = lines
        self._heads = [number for number, line in enumerate(lines, 1) if re.match(r"\s*\[\[\s*rule\s*\]\]", line)]
        self.faults = list[str]()

    def rules(self, content: Mapping[str, Any]) -> list[Rule]:
        """Return the valid rules. Note the faults of the others, and of all rules together."""
        for key in content.keys() - {"rule"}:
            self._fault(None, key, f"{key}: no such key; a file of rules has [[rule]] tables and nothing else")
        tables = content.get("rule", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._fault(None, "rule", "write each rule as a [[rule]] table")
            return []
        rules = [(number, rule) for number, table in enumerate(tables) if (rule := self._rule(number, table))]
        for name, count in Counter(rule.name for _, rule in rules).items():
            if count > 1:
                last = max(number for number, rule in rules if rule.name == name)
                self._fault(last, "name", f"another rule has the name {name!r}, too")
        numbers = {id(rule): number for number, rule in rules}
        for later, earlier in never_matching([rule for _, rule in rules]):
            why = f"it can never match: rule {earlier.name!r} before it takes all of its streams"
            self._fault(numbers[id(later)], "", why, later.name)
        return [rule for _, rule in rules]

    def _rule(self, number: int, table: Mapping[str, Any]) -> Rule | None:
        try:
            return _Table.model_validate(table).rule()
        except ValidationError as error:
            name = table.get("name")
            for part in error.errors(include_url=False):
                key = str(part["loc"][0]) if part["loc"] else ""
                self._fault(number, key, _why(key, part), name if isinstance(name, str) and name else None)
        return None

    def _fault(self, number: int | None, key: str, why: str, name: str | None = None) -> None:
        whose = f"rule {name!r}: " if name else f"rule {number + 1}: " if number is not None else ""
        self.faults.append(f"{self._path}:{self._line_of(number, key)}: {whose}{why}")

    def _line_of(self, number: int | None, key: str) -> int:
        """Return the line of a key in the n-th rule, or of the rule, from the text, as TOML's reader keeps no lines."""
        heads = [*self._heads, len(self._lines) + 1]
        has_head = number is not None and number < len(self._heads)
        begin, end = (heads[number], heads[number + 1]) if number is not None and has_head else (1, heads[-1])
        wanted = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*[=.\]]""")
        lines = range(begin, end) if key else ()
        return next((line for line in lines if wanted.match(self._lines[line - 1].replace("[", ""))), begin)


def _why(key: str, error: ErrorDetails) -> str:
    """Return what is wrong with a key, or with the whole rule if `key` is None."""
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, _Table.model_fields, n=1)
        return f"{key}: no such key; " + (f"did you mean {close[0]}?" if close else f"there are {_KEYS}")
    if error["type"] == "time_delta_type":
        return f'{key}: write a duration in quotes, such as "24h"'
    what = str(error["msg"]).removeprefix("Value error, ")
    return f"{key}: {what}" if key else what


_KEYS = ", ".join(_Table.model_fields)
