"""A Django project whose database is that of the test. Django is only imported by tests that ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Database


@pytest.fixture
def project(db: Database) -> Iterator[Database]:
    """With gendurable, and the tables of the shop."""
    from support import djangoproject

    djangoproject.use(default=djangoproject.described(db.dsn))
    djangoproject.make_tables()
    yield db
    djangoproject.leave()


@pytest.fixture
def empty_project(empty_db: Database) -> Iterator[Database]:
    """Without anything."""
    from support import djangoproject

    djangoproject.use(default=djangoproject.described(empty_db.dsn))
    yield empty_db
    djangoproject.leave()


@pytest.fixture
def migrated(empty_project: Database) -> Database:
    """After ``migrate``, with the tables of the shop."""
    from django.core.management import call_command
    from support import djangoproject

    call_command("migrate", verbosity=0)
    djangoproject.make_tables()
    return empty_project
