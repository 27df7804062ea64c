"""An entry in the listing of an object store."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object: name, size in bytes, and when it was written (s since 1970, by the store's clock)."""

    name: str
    size: int
    written_s: float
    content: str = ""
    """The store's identifier of the content, if it has one."""
