"""A job directory that reads the job system's table, with one read-only query for all jobs of a request.

It uses SQLAlchemy's async engine, so any database with an async driver will do. A job is unknown if the answer is not
clear: an error, a timeout, a row that was not requested, two rows that disagree, a status that is not a word.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass
from datetime import UTC, datetime
from itertools import repeat
from typing import Any

from sqlalchemy import Row, bindparam, text
from sqlalchemy.exc import DBAPIError, InterfaceError, NoSuchModuleError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from reactor.core.model import DirectoryStatus
from reactor.jetstream.coalesce import CoalescedRequest
from reactor.job_status.protocol import Answer, DirectoryConfigError, Listener, instant_with_offset

CHUNK = 2000
"""Jobs in a query. Every database accepts this many parameters."""
CONNECTIONS = 2
"""One for queries, one for a check at the same time."""
COLUMNS = {"id", "status"}
NEVER = -1
"""An id that no job has, for a query that only checks the columns."""
_BOUNDS = text(
    "SELECT set_config('transaction_read_only', 'on', true), set_config('statement_timeout', :milliseconds, true)"
)
_NO_VALUE = "invalid input for query argument"
"""asyncpg's message if a value does not fit the type of its parameter."""
_BOUNCED = "; if PgBouncer pools transactions in front of it, use postgresql+psycopg://"
"""asyncpg's prepared statements are not there in the next transaction (measured with PgBouncer 1.18)."""
_UNREADABLE = "its row cannot be read"


@dataclass(eq=False, repr=False)
class SqlDirectory:
    """Reads a table.

    `query` takes `:ids` and returns the columns `id` and `status`, and optionally `ended_at`.

    Raises DirectoryConfigError if the URL's driver is not installed.
    """

    url: InitVar[str]
    query: InitVar[str]
    _: KW_ONLY
    timeout_s: float
    channel: InitVar[str | None] = None

    def __post_init__(self, url: str, query: str, channel: str | None) -> None:
        try:
            self._engine = create_async_engine(
                url, pool_size=CONNECTIONS, max_overflow=1, pool_timeout=self.timeout_s, pool_pre_ping=True
            )
        except (SQLAlchemyError, NoSuchModuleError, ImportError, ValueError, TypeError) as error:
            raise DirectoryConfigError(
                f"REACTOR_DIRECTORY_URL names no async driver that is installed ({type(error).__name__}: {error})",
                "install the driver, or name another, such as postgresql+asyncpg://",
            ) from error
        self._listener = self._listening_on(channel) if channel else None
        self._query = text(query).bindparams(bindparam("ids", expanding=True))
        self._asked = dict[str, None]()
        """The jobs of the next query."""
        self._shared_request = CoalescedRequest(self._ask, under_way=1)
        self._as_numbers: bool | None = None
        """Whether the id column holds numbers; None if that is not known yet."""

    def _listening_on(self, channel: str) -> Listener:
        if self._engine.dialect.driver != "asyncpg":
            raise DirectoryConfigError(
                "REACTOR_DIRECTORY_CHANNEL needs PostgreSQL", "set a URL such as postgresql+asyncpg://…"
            )
        from reactor.job_status.postgres_notify import Notifications  # noqa: PLC0415  # asyncpg, which others need not have

        return Notifications(self._engine, channel)

    def listener(self) -> Listener | None:
        """Return the source of notifications, if the settings name a channel."""
        return self._listener

    async def ask(self, job_ids: Sequence[str]) -> Answer:
        """Ask together with all concurrent callers, because a query costs more than a row."""
        self._asked |= dict.fromkeys(job_ids)
        return (await self._shared_request()).about(job_ids)

    async def _ask(self) -> Answer:
        """Run the query in chunks. The jobs of a failed chunk are unknown."""
        asked, self._asked = list(self._asked), {}
        chunks = [asked[first : first + CHUNK] for first in range(0, len(asked), CHUNK)]
        return Answer.merged([await self._ask_chunk(chunk) for chunk in chunks])

    async def _ask_chunk(self, job_ids: Sequence[str]) -> Answer:
        try:
            keys, rows = await self._rows(job_ids)
        except (TimeoutError, OSError, OverflowError, SQLAlchemyError) as error:
            if isinstance(error, OverflowError) or _NO_VALUE in str(error):  # one of the ids cannot be in that column
                return await self._halved(job_ids, error)
            return Answer.nothing(job_ids, _short_text(error))
        if missing := COLUMNS - keys:
            return Answer.nothing(job_ids, f"the query gives no column {', '.join(sorted(missing))}")
        return self._answer(job_ids, rows)

    async def _halved(self, job_ids: Sequence[str], error: Exception) -> Answer:
        half = len(job_ids) // 2
        if not half:
            return Answer.nothing(job_ids, _short_text(error))
        return Answer.merged([await self._ask_chunk(job_ids[:half]), await self._ask_chunk(job_ids[half:])])

    def _answer(self, job_ids: Sequence[str], rows: Sequence[Row[Any]]) -> Answer:
        asked, found, unknown = set(job_ids), dict[str, DirectoryStatus](), dict[str, str]()
        for job_id, current in _read(rows):
            if job_id not in asked:
                return Answer.nothing(job_ids, "the query gave a job that was not asked for: it must select by :ids")
            if current is None or found.get(job_id, current) != current:
                unknown[job_id] = _UNREADABLE
            found[job_id] = current or DirectoryStatus("")
        return Answer({job: found[job] for job in job_ids if job in found and job not in unknown}, unknown)

    async def _rows(self, ids: Sequence[str]) -> tuple[set[str], Sequence[Row[Any]]]:
        """Return columns and rows. Raises TimeoutError, OSError, OverflowError and SQLAlchemyError.

        PostgreSQL accepts only numbers for a column of numbers, and only texts for a column of texts. So if it accepts
        numbers, the column holds no other ids. SQLite compares both, so it gets both. Other databases convert.
        """
        match self._engine.dialect.name:
            case "postgresql":
                return await self._rows_by_type(ids)
            case "sqlite":
                return await self._select([*ids, *_numbers(ids)])
            case _:
                return await self._select(ids)

    async def _rows_by_type(self, ids: Sequence[str]) -> tuple[set[str], Sequence[Row[Any]]]:
        if self._as_numbers is None:
            try:
                await self._select([0])
                self._as_numbers = True
            except DBAPIError as error:
                if error.connection_invalidated or isinstance(error, OperationalError | InterfaceError):
                    raise
                await self._select(["0"])
                self._as_numbers = False
        return await self._select(_numbers(ids) or [NEVER] if self._as_numbers else ids)

    async def _select(self, values: Sequence[int | str]) -> tuple[set[str], Sequence[Row[Any]]]:
        async with asyncio.timeout(self.timeout_s), self._engine.connect() as connection:
            await self._bound(connection)
            result = await connection.execute(self._query, {"ids": _padded(values)})
            return set(result.keys()), result.all()

    async def _bound(self, connection: AsyncConnection) -> None:
        """Make the session read-only, and set the server's own timeout."""
        match connection.dialect.name:
            case "postgresql":
                await connection.execute(_BOUNDS, {"milliseconds": str(int(self.timeout_s * 1000))})
            case "sqlite":
                await connection.execute(text("PRAGMA query_only = ON"))
            case "mysql" | "mariadb":
                await connection.execute(text("SET TRANSACTION READ ONLY"))
            case _:
                pass

    async def check(self) -> None:
        """Check the columns and the right to read them. Raises DirectoryConfigError. An outage is not an error here."""
        try:
            keys, _ = await self._rows(["0"])
        except (TimeoutError, OSError, InterfaceError, OperationalError) as error:
            if _is_about_the_query(error):
                raise _refused(error) from error
            return
        except SQLAlchemyError as error:
            raise _refused(error) from error
        if missing := COLUMNS - keys:
            raise DirectoryConfigError(
                f"REACTOR_DIRECTORY_QUERY gives no column {', '.join(sorted(missing))}",
                "select the columns id and status (and ended_at, if there is one)",
            )

    async def close(self) -> None:
        """Close all connections."""
        if self._listener is not None:
            await self._listener.close()
        await self._engine.dispose()


def _padded(values: Sequence[int | str]) -> list[int | str]:
    """Repeat the last value up to a power of two, so there are few different queries, each prepared once."""
    length = 1 << (len(values) - 1).bit_length()
    return [*values, *repeat(values[-1], length - len(values))]


def _numbers(ids: Sequence[str]) -> list[int]:
    return [int(item) for item in ids if item.isascii() and item.isdecimal()]


def _read(rows: Sequence[Row[Any]]) -> Iterator[tuple[str, DirectoryStatus | None]]:
    """Yield each row's job and status; None for a status that cannot be read."""
    for row in rows:
        fields = row._mapping  # noqa: SLF001  # SQLAlchemy's public name for it
        status = fields["status"]
        readable = isinstance(status, str) and bool(status.strip())
        yield str(fields["id"]), DirectoryStatus(status.strip(), _instant(fields.get("ended_at"))) if readable else None


def _instant(value: object) -> int | None:
    """Return a time with an offset (ns). None without an offset: the time could be hours off."""
    if isinstance(value, datetime):
        value = value.astimezone(UTC).isoformat() if value.tzinfo else None
    return instant_with_offset(value.replace(" ", "T", 1) if isinstance(value, str) else None)


def _is_about_the_query(error: Exception) -> bool:
    """Return whether the query is wrong. SQLite reports a missing table in the way that others report an outage."""
    return "no such" in str(error) or "syntax error" in str(error)


def _refused(error: Exception) -> DirectoryConfigError:
    return DirectoryConfigError(
        f"the database refuses REACTOR_DIRECTORY_QUERY ({_short_text(error)})",
        "correct the query, or give its user the right to read the table",
    )


def _short_text(error: Exception) -> str:
    """Return the error's text without the query, its parameters and the URL."""
    origin = getattr(error, "orig", None) or error
    text = str(origin).splitlines()[0][:200] if str(origin) else type(origin).__name__
    return text + _BOUNCED if "prepared statement" in text else text
