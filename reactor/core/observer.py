"""Who is told of what happens: the shell hands one in, and the use cases need not know what it does with it."""

from collections.abc import Mapping
from enum import StrEnum

from reactor.core.model import Settlement


class EventOutcome(StrEnum):
    """What became of a lifecycle message."""

    APPLIED = "applied"
    STALE = "stale"
    """It changed nothing: it was known already, or something newer was."""
    MALFORMED = "malformed"


class Observer:
    """This one forgets all of it at once. No method may fail or take long: they are called in the middle of things."""

    def heard(self, messages: Mapping[tuple[str, EventOutcome], int]) -> None:
        """Lifecycle messages that the ledger has taken: how many, by status (upper case) and what became of them."""

    def dead_lettered(self) -> None:
        """A lifecycle message was kept in the dead letters."""

    def ended(self, settlement: Settlement) -> None:
        """A deletion that was begun has come to its end, whatever that is; told once for each."""

    def reported(self, settlement: Settlement) -> None:
        """In report mode: a stream that would have been deleted; told once for each."""

    def unfixable(self, settlement: Settlement) -> None:
        """An attempt came to nothing, and a person should look."""


NULL_OBSERVER = Observer()
