"""The settings of the job system."""

import os

SECRET_KEY = "for tests"  # noqa: S105  # it guards nothing
INSTALLED_APPS = ["reactor.client.django", "jobs"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ["DATABASE"],
        "USER": "jobs",
        "HOST": "127.0.0.1",
        "PORT": os.environ["PG_PORT"],
        "TEST": {"NAME": f"test_{os.environ['DATABASE']}"},
    }
}
