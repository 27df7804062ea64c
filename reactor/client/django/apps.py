"""The Django app, for its management command: put `reactor.client.django` into INSTALLED_APPS."""

from django.apps import AppConfig


class ReactorConfig(AppConfig):
    """The app. It has no models."""

    name = "reactor.client.django"
    label = "reactor_client"
