"""For Celery: the tasks that are jobs publish their states.

    from reactor.client.celery import connect

    connect(lambda task, args, kwargs: kwargs.get("job_id"), task="jobs.run")

The function says which job a task is, None for none. It publishes STARTED, RETRY, FAILURE and REVOKED.

**The end of a task that only queues work is not the end of its job.** So the success of a task is published only with
`ends="all"`: ask for that if the task does all of the job's work itself. Otherwise publish the end when the work is
done, with `emit` or `reactor.client.django`.

No signal tells of a task that was rejected without requeueing, that was killed with its worker process, or that ran
into a hard time limit in the threads, solo, gevent and eventlet pools. Let the job's own row tell, or `announce_jobs`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from celery import signals

from reactor.client import emit

JobOf = Callable[[Any, Sequence[Any], Mapping[str, Any]], int | str | None]


def connect(
    job_of: JobOf, *, task: str | Collection[str] | None = None, ends: Literal["failures", "all"] = "failures"
) -> None:
    """Publish the states of tasks, in the process that runs them.

    `task` names the tasks that are jobs; None asks `job_of` about each. `ends="all"` publishes SUCCESS, too.
    """
    names = {task} if isinstance(task, str) else None if task is None else set(task)

    def publish(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], status: str) -> None:  # noqa: ANN401  # Celery's
        if names is not None and task.name not in names:
            return
        job_id = job_of(task, args or (), kwargs or {})
        if job_id is not None:
            emit(job_id, status)

    def of_request(status: str) -> Callable[..., None]:
        def receive(sender: Any, args: Any = None, kwargs: Any = None, **_: Any) -> None:  # noqa: ANN401  # Celery's
            request = sender.request
            publish(
                sender, request.args if args is None else args, request.kwargs if kwargs is None else kwargs, status
            )

        return receive

    def started(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], **_: Any) -> None:  # noqa: ANN401  # as above
        publish(task, args, kwargs, "STARTED")

    def revoked(sender: Any, request: Any, **_: Any) -> None:  # noqa: ANN401  # as above
        publish(sender, request.args, request.kwargs, "REVOKED")

    signals.task_prerun.connect(started, weak=False)
    signals.task_failure.connect(of_request("FAILURE"), weak=False)
    signals.task_retry.connect(of_request("RETRY"), weak=False)
    signals.task_revoked.connect(revoked, weak=False)
    if ends == "all":
        signals.task_success.connect(of_request("SUCCESS"), weak=False)
