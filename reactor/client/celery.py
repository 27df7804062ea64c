"""For Celery: the tasks that are jobs tell reactor of their states.

    from reactor.client.celery import connect

    connect(lambda task, args, kwargs: kwargs.get("job_id"))

The function says which job a task is, None for none. **The end of a task that only queues work is not the end of its
job**: where the work is done by whoever polls the job's stream, let that job's own status be told instead (`emit`, or
`reactor.client.django`); else its stream falls while the work waits in it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery import signals

from reactor.client import emit

JobOf = Callable[[Any, Sequence[Any], Mapping[str, Any]], int | str | None]


def connect(job_of: JobOf) -> None:
    """Tell of STARTED, RETRY, SUCCESS, FAILURE and REVOKED, in the process that runs the task."""

    def tell(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], status: str) -> None:  # noqa: ANN401  # Celery's
        job_id = job_of(task, args or (), kwargs or {})
        if job_id is not None:
            emit(job_id, status)

    def of_request(status: str) -> Callable[..., None]:
        def hear(sender: Any, **_: Any) -> None:  # noqa: ANN401  # Celery's
            tell(sender, sender.request.args, sender.request.kwargs, status)

        return hear

    def started(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], **_: Any) -> None:  # noqa: ANN401  # as above
        tell(task, args, kwargs, "STARTED")

    def revoked(sender: Any, request: Any, **_: Any) -> None:  # noqa: ANN401  # as above
        tell(sender, request.args, request.kwargs, "REVOKED")

    signals.task_prerun.connect(started, weak=False)
    signals.task_success.connect(of_request("SUCCESS"), weak=False)
    signals.task_failure.connect(of_request("FAILURE"), weak=False)
    signals.task_retry.connect(of_request("RETRY"), weak=False)
    signals.task_revoked.connect(revoked, weak=False)
