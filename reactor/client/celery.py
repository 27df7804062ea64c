"""The client for Celery: tasks that are jobs publish their states.

    from reactor.client.celery import connect

    connect(lambda task, args, kwargs: kwargs.get("job_id"), task="jobs.run")

The function returns the job of a task, or None if the task is not a job. STARTED, RETRY, FAILURE and REVOKED are
published.

**If a task only queues work, its end is not the end of the job.** So the success of a task is published only with
`ends="all"`. Use that if the task does all of the job's work. Otherwise publish the end when the work is done, with
`emit` or `reactor.client.django`.

Celery signals a failure, too, if a task that is acknowledged late exceeds its time limit and will run again
(`acks_on_failure_or_timeout=False`). That is published as RETRY. Celery sends no signal for a task that ends with
`Ignore` or is killed with the whole worker. For those, publish from the job's row, or use `announce_jobs`;
docs/adopting.md lists all endings.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from celery import signals
from celery.exceptions import TimeLimitExceeded, WorkerLostError

from reactor.client import emit

JobOf = Callable[[Any, Sequence[Any], Mapping[str, Any]], int | str | None]


def connect(
    job_of: JobOf, *, task: str | Collection[str] | None = None, ends: Literal["failures", "all"] = "failures"
) -> None:
    """Publish the states of tasks from the process that runs them.

    `task` names the tasks that are jobs; None passes every task to `job_of`. `ends="all"` publishes SUCCESS, too.
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

    failed, retried = of_request("FAILURE"), of_request("RETRY")

    def failure(sender: Any, exception: object = None, **more: Any) -> None:  # noqa: ANN401  # Celery's
        runs_again = isinstance(exception, TimeLimitExceeded | WorkerLostError) and _is_redelivered(sender)
        (retried if runs_again else failed)(sender, **more)

    def started(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], **_: Any) -> None:  # noqa: ANN401  # as above
        publish(task, args, kwargs, "STARTED")

    def revoked(sender: Any, request: Any, **_: Any) -> None:  # noqa: ANN401  # as above
        publish(sender, request.args, request.kwargs, "REVOKED")

    signals.task_prerun.connect(started, weak=False)
    signals.task_failure.connect(failure, weak=False)
    signals.task_retry.connect(retried, weak=False)
    signals.task_revoked.connect(revoked, weak=False)
    if ends == "all":
        signals.task_success.connect(of_request("SUCCESS"), weak=False)


def _is_redelivered(task: Any) -> bool:  # noqa: ANN401  # Celery's
    """Return whether a task's message is redelivered if the task exceeds its time limit."""
    both = getattr(task, "acks_on_failure_or_timeout", True)
    of_timeout = getattr(task, "acks_on_timeout", None)  # since Celery 5.7
    return bool(task.acks_late) and not (both if of_timeout is None else of_timeout)
