"""Who acts: the process, the person, and what they have overridden. Pure."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Actor:
    """One process of reactor's, as the audit names it."""

    role: str
    """`worker`, or the command."""
    host: str
    pid: int
    user: str
    """Of the operating system."""
    version: str
    overrides: tuple[str, ...] = ()
    """Flags that stood for a setting, a guard or the breaker."""

    @property
    def by(self) -> str:
        """In short."""
        return f"{self.host}:{self.pid}"

    @property
    def person(self) -> str:
        """The person who gave a command."""
        return f"{self.user}@{self.host}"

    def as_dict(self) -> dict[str, Any]:
        """Return the audit's JSON object."""
        return asdict(self) | {"overrides": list(self.overrides)}
