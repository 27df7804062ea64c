"""An object in an object store, as every store lists it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoredObject:
    """Its name, its size in bytes, and when it was written (s since 1970), by the store's own clock."""

    name: str
    size: int
    written_s: float
    content: str = ""
    """The store's own name for what it holds, if it has one."""
