"""Responses in JSON, and the HTTP status of each error."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from reactor.backups.store import BackupCorrupt
from reactor.core.checks import Misconfigured
from reactor.jetstream.errors import JetStreamError
from reactor.job_status.ledger_directory import describe_outage
from reactor.operate.overview import NoJobStream, NoSuchStream
from reactor.operate.protect import NotProtected
from reactor.operate.restore import NotRestored
from reactor.store.keyspace import LedgerError


class Declined(Exception):
    """The request is declined. The message says why."""

    def __init__(self, status: int, why: str) -> None:
        """`status` is the HTTP status code."""
        super().__init__(why)
        self.status = status


def declined(status: int, why: str) -> Response:
    """Return a response with an error."""
    return JSONResponse({"error": why}, status_code=status)


def answering(ask: Callable[[Request], Awaitable[object]]) -> Callable[[Request], Awaitable[Response]]:
    """Return a route that responds with the result of `ask`, or with its error."""

    async def answer(request: Request) -> Response:
        try:
            return JSONResponse(await ask(request))
        except Declined as error:
            return declined(error.status, str(error))
        except NoSuchStream as error:
            return JSONResponse({"error": str(error), **error.gone}, status_code=404)
        except NoJobStream as error:
            return declined(404, str(error))
        except (NotProtected, NotRestored, BackupCorrupt, Misconfigured) as error:
            return declined(409, str(error))
        except (JetStreamError, LedgerError) as error:
            return declined(503, describe_outage(error))

    return answer
