"""What `prepare` answers, in the worker and over NATS. Pure, and free of other libraries: job systems import it."""

import json
from dataclasses import asdict, dataclass

from reactor.core.foreign_json import Unreadable, read_json

PREPARE_SUBJECT = "reactor.prepare"
"""Requests of job systems to the workers, over core NATS: `{"job_id": "42", "timeout_s": 60}`."""


class NotPrepared(Exception):
    """Publishing may not be safe. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Publishing is safe. `stream` is None if the job has no stream, so it must be created."""

    job_id: str
    stream: str | None = None
    purged: int = 0
    """Messages of the former run."""


def request_of(job_id: str, timeout_s: float) -> bytes:
    """Return the request of a job system."""
    return json.dumps({"job_id": job_id, "timeout_s": timeout_s}).encode()


def read_request(data: bytes) -> tuple[str, float]:
    """Return job and timeout. Raises Unreadable."""
    try:
        told = read_json(data)
        return str(told["job_id"]), float(told["timeout_s"])
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"a request to prepare needs job_id and timeout_s: {error}") from error


def answer_of(outcome: Prepared | str) -> bytes:
    """Return the answer: what was prepared, or why it was not."""
    return json.dumps({"error": outcome} if isinstance(outcome, str) else asdict(outcome)).encode()


def read_answer(data: bytes) -> Prepared:
    """Return what was prepared. Raises NotPrepared."""
    try:
        told = read_json(data)
        if error := told.get("error"):
            raise NotPrepared(str(error))
        return Prepared(str(told["job_id"]), told["stream"], int(told["purged"]))
    except (Unreadable, AttributeError, KeyError, TypeError) as error:
        raise NotPrepared(f"the worker's answer cannot be read: {error}") from error
