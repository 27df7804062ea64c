"""Requests to prepare a job, and their answers. Pure, without other libraries, because job systems import it."""

import json
from dataclasses import asdict, dataclass

from reactor.core.foreign_json import Unreadable, read_json

PREPARE_SUBJECT = "reactor.prepare"
"""The subject of these requests, over core NATS: `{"job_id": "42", "timeout_s": 60}`."""


class NotPrepared(Exception):
    """Publishing may not be safe. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Publishing is safe. `stream` is None if the job has no stream, so it must be created."""

    job_id: str
    stream: str | None = None
    purged: int = 0
    """How many messages of the former run were purged."""


def request_of(job_id: str, timeout_s: float) -> bytes:
    """Return the body of a request."""
    return json.dumps({"job_id": job_id, "timeout_s": timeout_s}).encode()


def read_request(data: bytes) -> tuple[str, float]:
    """Return the job and the timeout (s) of a request. Raises Unreadable."""
    try:
        request = read_json(data)
        return str(request["job_id"]), float(request["timeout_s"])
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"a request to prepare needs job_id and timeout_s: {error}") from error


def answer_of(outcome: Prepared | str) -> bytes:
    """Return the body of an answer: what was prepared, or why it was not."""
    return json.dumps({"error": outcome} if isinstance(outcome, str) else asdict(outcome)).encode()


def read_answer(data: bytes) -> Prepared:
    """Return the content of an answer. Raises NotPrepared."""
    try:
        answer = read_json(data)
        if error := answer.get("error"):
            raise NotPrepared(str(error))
        return Prepared(str(answer["job_id"]), answer["stream"], int(answer["purged"]))
    except (Unreadable, AttributeError, KeyError, TypeError) as error:
        raise NotPrepared(f"the worker's answer cannot be read: {error}") from error
