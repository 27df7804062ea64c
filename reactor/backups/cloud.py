"""Objects in S3, Google Cloud Storage and Azure, by obstore. Credentials come from the usual places."""

from collections.abc import AsyncIterable, AsyncIterator, Collection
from dataclasses import InitVar, dataclass
from functools import cached_property
from typing import Any

from reactor.core.objects import StoredObject

PART = 8 * 1024 * 1024
"""The size of a part of a large object in bytes. S3 wants at least 5 MiB."""
AT_ONCE = 2
"""How many parts are sent at once. All of them are in memory."""


@dataclass(eq=False, repr=False)
class CloudObjects:
    """The objects of one bucket, perhaps under a prefix. Methods raise obstore's errors."""

    url: str
    options: InitVar[dict[str, Any]]

    def __post_init__(self, options: dict[str, Any]) -> None:
        self._options = options

    @cached_property
    def _store(self) -> Any:  # noqa: ANN401  # obstore's
        from obstore.store import from_url  # noqa: PLC0415  # an extra, and most commands need no backups

        return from_url(self.url, **self._options)

    async def put(self, name: str, chunks: AsyncIterable[bytes]) -> None:
        """Store an object, a large one in parts. It is visible when the last part is stored."""
        import obstore  # noqa: PLC0415  # as above

        await obstore.put_async(self._store, name, chunks, use_multipart=True, chunk_size=PART, max_concurrency=AT_ONCE)

    async def get(self, name: str) -> AsyncIterator[bytes]:
        """Yield the content of an object in pieces."""
        import obstore  # noqa: PLC0415  # as above

        response = await obstore.get_async(self._store, name)
        async for chunk in response.stream(min_chunk_size=512 * 1024):
            yield bytes(chunk)

    async def list(self) -> list[StoredObject]:
        """Return all objects."""
        import obstore  # noqa: PLC0415  # as above

        objects = list[StoredObject]()
        async for some in obstore.list(self._store):
            objects += [StoredObject(item["path"], item["size"], item["last_modified"].timestamp()) for item in some]
        return objects

    async def delete(self, names: Collection[str]) -> None:
        """Delete objects."""
        import obstore  # noqa: PLC0415  # as above

        for name in names:  # one after another: the first one counts most
            await obstore.delete_async(self._store, name)

    async def sweep(self, listed: Collection[StoredObject], older_than_s: float) -> None:
        """Do nothing. A lifecycle rule of the bucket must delete parts that never became an object."""
