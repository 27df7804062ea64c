"""From settings to the job system's own directory. Its libraries are extras, imported only when they are needed."""

from reactor.config.settings import DirectorySettings
from reactor.job_status.protocol import DirectoryConfigError, JobDirectory
from reactor.job_status.witness import WitnessedDirectory


def job_directory(settings: DirectorySettings) -> WitnessedDirectory | None:
    """Return the directory, or None if the lifecycle events decide. Raises DirectoryConfigError."""
    jobs = _job_directory(settings)
    return WitnessedDirectory(jobs, settings.canary) if jobs else None


def _job_directory(settings: DirectorySettings) -> JobDirectory | None:
    if settings.kind == "events" or settings.url is None:
        return None
    url, timeout_s = settings.url.get_secret_value(), settings.timeout.total_seconds()
    try:
        if settings.kind == "sql":
            from reactor.job_status.sql import SqlDirectory  # noqa: PLC0415  # an extra

            return SqlDirectory(url, settings.query or "", timeout_s=timeout_s, channel=settings.channel)
        from reactor.job_status.http import HttpDirectory  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise DirectoryConfigError(
            f"REACTOR_DIRECTORY_KIND={settings.kind} needs pip install 'jetstream-reactor[{settings.kind}]' ({error})"
        ) from error
    return HttpDirectory(
        url,
        status=settings.status,
        ended_at=settings.ended_at,
        authorization=settings.authorization,
        timeout_s=timeout_s,
        at_once=settings.concurrency,
    )
