"""The job system's own API: one request a job. 404 is absence; everything else that is no clear answer is unknown.

An answer is bounded: its whole time, its bytes (compressed ones are refused), its depth. A redirect is not followed, so
no other host gets to see the credentials.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import KW_ONLY, InitVar, dataclass
from typing import Any
from urllib.parse import quote

import httpx

from reactor.core.foreign_json import read_json
from reactor.core.model import DirectoryStatus
from reactor.job_status.protocol import Answer, time_told

FOUND, ABSENT = 200, 404
MAX_BYTES = 1 << 20
"""Of an answer about one job."""


@dataclass(eq=False, repr=False)
class HttpDirectory:
    """Asks an API.

    `url` holds `{job_id}`; `status` and `ended_at` are JSON pointers (RFC 6901) into the answer.

    `authorization` is the whole value of that header.
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
        """Ask for all jobs at once, within bounds."""
        answers = dict(zip(job_ids, await asyncio.gather(*map(self._one, job_ids)), strict=True))
        return Answer(
            {job: answer for job, answer in answers.items() if isinstance(answer, DirectoryStatus)},
            {job: answer for job, answer in answers.items() if isinstance(answer, str)},
        )

    async def _one(self, job_id: str) -> DirectoryStatus | str | None:
        """Return what it says; None for absence, and why it cannot tell."""
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
        return DirectoryStatus(status.strip(), time_told(_at(answer, self.ended_at) if self.ended_at else None))

    async def _get(self, url: str) -> tuple[int, bytes]:
        """Return code and body. Raises ValueError for a body that is compressed or too large, and httpx's errors."""
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
        """Check nothing: an API tells nothing before it is asked for a job."""

    def listener(self) -> None:
        """Return None: an API tells nobody about changes."""

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()


def _at(document: Any, pointer: str) -> Any:  # noqa: ANN401  # JSON
    """Return what a JSON pointer points at; None if there is nothing."""
    for token in pointer.split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict):
            document = document.get(key)
        elif isinstance(document, list) and key.isdecimal() and int(key) < len(document):
            document = document[int(key)]
        else:
            return None
    return document
