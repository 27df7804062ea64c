"""The actor of an action: the process, the person, and the overridden settings. Pure."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Actor:
    """One process of reactor, as the audit names it."""

    role: str
    """`worker`, or the command."""
    host: str
    pid: int
    user: str
    """The user of the operating system."""
    version: str
    overrides: tuple[str, ...] = ()
    """Flags that overrode a setting, a guard or the breaker."""

    @property
    def by(self) -> str:
        """The host and the process."""
        return f"{self.host}:{self.pid}"

    @property
    def person(self) -> str:
        """The person who ran a command."""
        return f"{self.user}@{self.host}"

    def as_dict(self) -> dict[str, Any]:
        """Return the audit's JSON object."""
        return asdict(self) | {"overrides": list(self.overrides)}
