"""The app: its name in the project is ``gendurable``."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks


class GendurableConfig(AppConfig):
    """Found by Django through ``INSTALLED_APPS``."""

    name = "gendurable_py.contrib.django"
    label = "gendurable"
    verbose_name = "gendurable"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from .checks import check_settings

        checks.register(check_settings)
