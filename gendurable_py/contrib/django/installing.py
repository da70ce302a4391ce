"""What the app's migrations do: bring gendurable in a database to the version of this package.

Each release has a migration with the same operation, so that `migrate` after an update of the package upgrades the
database, as people expect of an app. On a new database the first one does everything, and the others find it done.
"""

from __future__ import annotations

from typing import Any

import psycopg
from django.db import router, transaction
from django.db.migrations.exceptions import IrreversibleError
from django.db.migrations.operations.base import Operation

from ... import calls
from ...calls import viewing
from ...install import ensure, installed, lock, plain_script, remove, version
from . import conf
from .calling import connection, need_postgresql, translated


class Install(Operation):
    """Install gendurable, or bring it to the version of this package, in the databases that the setting names.

    Backwards it removes gendurable if nothing would be lost, and else refuses. Where it is ``first=False`` it does
    nothing backwards: workers and clients of the release before go on with the newer database.
    """

    reversible = True

    def __init__(self, release: str, first: bool = False) -> None:
        self.release = release
        self.first = first

    def deconstruct(self) -> tuple[str, list[object], dict[str, object]]:
        return type(self).__name__, [self.release], {"first": True} if self.first else {}

    def state_forwards(self, app_label: str, state: Any) -> None:
        return

    def describe(self) -> str:
        return f"Bring gendurable to {self.release} or newer"

    @property
    def migration_name_fragment(self) -> str:
        return f"gendurable_{self.release.replace('.', '_')}"

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if not _concerns(app_label, schema_editor.connection):
            return
        if schema_editor.collect_sql:
            schema_editor.collected_sql += _as_sql(self.first)
            return
        with translated(schema_editor.connection):
            ensure(connection(schema_editor.connection.alias), conf.read().extension)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if not self.first or not _concerns(app_label, schema_editor.connection):
            return
        if schema_editor.collect_sql:
            schema_editor.collected_sql.append("-- removes gendurable, unless it has instances or rules")
            return
        alias = schema_editor.connection.alias
        conn = connection(alias)
        with translated(schema_editor.connection), transaction.atomic(using=alias):
            if installed(conn) is None:
                return
            _refuse_losses(conn, alias)
            # Whoever writes now waits, and then finds nothing: so look again at what was written before.
            lock(conn)
            _refuse_losses(conn, alias)
            remove(conn)


def _concerns(app_label: str, wrapper: Any) -> bool:
    if wrapper.alias not in conf.read().databases or not router.allow_migrate(wrapper.alias, app_label):
        return False
    need_postgresql(wrapper)
    return True


def _as_sql(first: bool) -> list[str]:
    """For ``sqlmigrate``, which knows no database's version: what a new installation is."""
    note = "-- the upgrade from the version that is there: ALTER EXTENSION gendurable UPDATE, or gendurable upgrade"
    return [f"-- gendurable {version()}, the plain script", plain_script()] if first else [note]


def _refuse_losses(conn: psycopg.Connection[Any], alias: str) -> None:
    found = _what_would_be_lost(conn)
    if found:
        raise IrreversibleError(
            f"gendurable in the database {alias!r} has {found}, and this would remove them. "
            "Say so yourself: manage.py gendurable uninstall; then migrate again."
        )


def _what_would_be_lost(conn: psycopg.Connection[Any]) -> str:
    """In words; empty: nothing."""
    counted = calls.count(conn, {})
    found = [(counted.instances, "instances")] if counted.instances or not counted.exact else []
    found += [
        (len(rows), name)
        for name, rows in (
            ("schedules", viewing.schedules(conn)),
            ("rate limits", viewing.rate_limits(conn)),
            ("steps in SQL", viewing.steps(conn)),
            ("pauses", viewing.pauses(conn)),
            ("holds", viewing.holds(conn)),
            ("calls in its audit", calls.audit(conn).calls),
        )
        if rows
    ]
    return ", ".join(f"{number} {name}" for number, name in found)
