"""The job system's own API: one request a job. 404 is absence; everything else that is no clear answer is unknown."""

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import httpx

from reactor.core.model import Told
from reactor.directories.opinion import Answer, time_told, unvouched, with_canary

FOUND, ABSENT = 200, 404


class HttpDirectory:
    """Asks an API."""

    def __init__(
        self,
        url: str,
        *,
        status: str,
        ended_at: str | None,
        token: str | None,
        timeout_s: float,
        at_once: int,
        canary: str | None = None,
    ) -> None:
        """`url` holds `{job_id}`; `status` and `ended_at` are JSON pointers (RFC 6901) into the answer."""
        self._url = url
        self._status = status
        self._ended_at = ended_at
        self._canary = canary
        self._slots = asyncio.Semaphore(at_once)
        self._client = httpx.AsyncClient(
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once),
            headers={"Accept": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {}),
        )

    async def ask(self, job_ids: Sequence[str]) -> Answer:
        """All at once, within bounds. No absence counts where the canary is not found."""
        asked = with_canary(job_ids, self._canary)
        answers = dict(zip(asked, await asyncio.gather(*map(self._one, asked)), strict=True))
        found = {job: answer for job, answer in answers.items() if isinstance(answer, Told) and job in job_ids}
        unknown = {job: answer for job, answer in answers.items() if isinstance(answer, str) and job in job_ids}
        if self._canary and not isinstance(answers[self._canary], Told):
            why = unvouched(self._canary)
            unknown |= {job: why for job in job_ids if answers[job] is None}
        return Answer(found, unknown)

    async def _one(self, job_id: str) -> Told | str | None:
        """What it says; None for absence, and why it cannot tell."""
        try:
            async with self._slots:
                response = await self._client.get(self._url.replace("{job_id}", quote(job_id, safe="")))
            if response.status_code == ABSENT:
                return None
            if response.status_code != FOUND:
                return f"it answered {response.status_code}"
            answer = response.json()
        except (httpx.HTTPError, ValueError) as error:
            return str(error) or type(error).__name__
        status = _at(answer, self._status)
        if not isinstance(status, str) or not status.strip():
            return f"its answer has no status at {self._status}"
        return Told(status.strip(), time_told(_at(answer, self._ended_at) if self._ended_at else None))

    async def check(self) -> None:
        """Nothing can be known before it is asked for a job."""

    def listener(self) -> None:
        """Nobody."""

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()


def _at(document: Any, pointer: str) -> Any:  # noqa: ANN401  # JSON
    """What a JSON pointer points at; None where there is nothing."""
    for token in pointer.split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict):
            document = document.get(key)
        elif isinstance(document, list) and key.isdecimal() and int(key) < len(document):
            document = document[int(key)]
        else:
            return None
    return document
