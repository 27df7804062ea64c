"""A job directory that asks an HTTP API, with one request for each job. 404 means absent; any unclear answer, unknown.

An answer is limited in time, in bytes (compressed answers are refused) and in depth. Redirects are not followed, so no
other host gets the credentials.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import KW_ONLY, InitVar, dataclass
from typing import Any
from urllib.parse import quote

import httpx

from reactor.core.foreign_json import read_json
from reactor.core.model import DirectoryStatus
from reactor.job_status.protocol import Answer, instant_with_offset

FOUND, ABSENT = 200, 404
MAX_BYTES = 1 << 20
"""The largest answer about one job, in bytes."""


@dataclass(eq=False, repr=False)
class HttpDirectory:
    """Asks an HTTP API.

    `url` holds `{job_id}`; `status` and `ended_at` are JSON pointers (RFC 6901) into the answer.

    `authorization` is the whole value of the Authorization header.
    """

    url: str
    _: KW_ONLY
    status: str
    ended_at: str | None
    authorization: InitVar[str | None]
    timeout_s: float
    at_once: InitVar[int]

    def __post_init__(self, authorization: str | None, at_once: int) -> None:
        self._slots = asyncio.Semaphore(at_once)
        self._client = httpx.AsyncClient(
            timeout=self.timeout_s,
            limits=httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"}
            | ({"Authorization": authorization} if authorization else {}),
        )

    async def ask(self, job_ids: Sequence[str]) -> Answer:
        """Ask for all jobs concurrently, within a limit."""
        answers = dict(zip(job_ids, await asyncio.gather(*map(self._one, job_ids)), strict=True))
        return Answer(
            {job: answer for job, answer in answers.items() if isinstance(answer, DirectoryStatus)},
            {job: answer for job, answer in answers.items() if isinstance(answer, str)},
        )

    async def _one(self, job_id: str) -> DirectoryStatus | str | None:
        """Return the job's status; None if it is absent; or why it is unknown, as text."""
        try:
            async with self._slots, asyncio.timeout(self.timeout_s):
                code, body = await self._get(self.url.replace("{job_id}", quote(job_id, safe="")))
            if code == ABSENT:
                return None
            if code != FOUND:
                return f"it answered {code}"
            answer = read_json(body)
        except TimeoutError:
            return f"its answer took longer than {self.timeout_s:g} s"
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            return str(error) or type(error).__name__
        status = _at(answer, self.status)
        if not isinstance(status, str) or not status.strip():
            return f"its answer has no status at {self.status}"
        return DirectoryStatus(
            status.strip(), instant_with_offset(_at(answer, self.ended_at) if self.ended_at else None)
        )

    async def _get(self, url: str) -> tuple[int, bytes]:
        """Return status code and body. Raises ValueError for a compressed or too large body, and httpx's errors."""
        async with self._client.stream("GET", url) as response:
            if response.status_code != FOUND:
                return response.status_code, b""
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise ValueError(
                    f"its answer is compressed ({response.headers['Content-Encoding']}), which was not asked for"
                )
            body = b""
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise ValueError(f"its answer about one job has more than {MAX_BYTES} bytes")
            return response.status_code, body

    async def check(self) -> None:
        """Check nothing: an API can only be asked for a job."""

    def listener(self) -> None:
        """Return None: an API sends no notifications."""

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()


def _at(document: Any, pointer: str) -> Any:  # noqa: ANN401  # JSON
    """Return the value at a JSON pointer; None if there is none."""
    for token in pointer.split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict):
            document = document.get(key)
        elif isinstance(document, list) and key.isdecimal() and int(key) < len(document):
            document = document[int(key)]
        else:
            return None
    return document
