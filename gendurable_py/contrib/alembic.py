"""Migrations of Alembic: install, upgrade and uninstall as operations, and autogenerate that leaves our tables alone.

::

    from gendurable_py.contrib.alembic import install_gendurable, uninstall_gendurable

    def upgrade():
        install_gendurable()

    def downgrade():
        uninstall_gendurable()

Once this module is imported (by ``env.py``, say) the same are methods of Alembic: ``op.install_gendurable()``. They run
the plain script in the transaction of the migration, over the driver psycopg, sync or async; with ``--sql`` they write
it out.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, cast
from weakref import WeakSet

from ..errors import InvalidArgument
from ..install import install, installed, plain_script, uninstall, uninstall_script, upgrade, upgrade_script, version
from . import missing
from .sqlalchemy import call

try:
    from alembic import op
    from alembic.operations import MigrateOperation, Operations
    from alembic.runtime.migration import MigrationContext
except ModuleNotFoundError as error:
    raise missing("alembic", error) from error

__all__ = [
    "InstallGendurable",
    "UninstallGendurable",
    "UpgradeGendurable",
    "include_name",
    "include_object",
    "install_gendurable",
    "uninstall_gendurable",
    "upgrade_gendurable",
]

_SCHEMA = "gendurable"
# Offline nobody can be asked what is installed: the runs that have written an installation out, which is today's.
_installed: WeakSet[MigrationContext] = WeakSet()


# -- in migrations


def install_gendurable() -> None:
    """Install this package's version, with the gd_* functions in the schema that is current; nothing where it is there.

    A database that is made anew by all migrations gets the version of the package that runs them, and not the one of
    the day on which the migration was written; `upgrade_gendurable` in a later one then has nothing to do.

    Raises:
        VersionMismatch: another version is installed.
        InvalidArgument: the driver of the migration is another one than psycopg.
    """
    op.invoke(InstallGendurable())


def upgrade_gendurable(from_version: str | None = None) -> None:
    """Bring the database to this package's version; nothing where it is there. There is no way back.

    ``from_version``: which one is installed, such as ``"0.3.0"``. It is needed by ``--sql`` alone, where nobody can be
    asked.

    Raises:
        VersionMismatch: nothing is installed, it is an extension of another version, or no script leads on from its
            version.
        InvalidArgument: ``--sql`` without ``from_version``; or as in `install_gendurable`.
    """
    op.invoke(UpgradeGendurable(from_version))


def uninstall_gendurable() -> None:
    """Drop gendurable with all its instances. With ``--sql``, an installation of this package's version.

    Raises:
        VersionMismatch: it is an extension.
        psycopg.errors.DependentObjectsStillExist: somebody's view reads ours.
    """
    op.invoke(UninstallGendurable())


# -- in env.py


def include_name(name: str | None, type_: str, parent_names: MutableMapping[Any, str | None]) -> bool:
    """Whether autogenerate is to look at it: not at what is in the schema ``gendurable``.

    For ``context.configure(include_schemas=True, include_name=include_name)``: without it, tables that no model has
    are dropped. A function of one's own asks this one first.
    """
    if type_ == "schema":
        return name != _SCHEMA
    return parent_names.get("schema_name") != _SCHEMA


def include_object(object: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
    """The same for ``context.configure(include_object=include_object)``, where tables have been read already."""
    table = getattr(object, "table", object)
    return getattr(table, "schema", None) != _SCHEMA


# -- below: how


@Operations.register_operation("install_gendurable")
class InstallGendurable(MigrateOperation):
    """The operation of `install_gendurable`."""

    @classmethod
    def install_gendurable(cls, operations: Operations) -> None:
        operations.invoke(cls())

    def reverse(self) -> MigrateOperation:
        return UninstallGendurable()


@Operations.register_operation("upgrade_gendurable")
class UpgradeGendurable(MigrateOperation):
    """The operation of `upgrade_gendurable`."""

    def __init__(self, from_version: str | None = None) -> None:
        self.from_version = from_version

    @classmethod
    def upgrade_gendurable(cls, operations: Operations, from_version: str | None = None) -> None:
        operations.invoke(cls(from_version))


@Operations.register_operation("uninstall_gendurable")
class UninstallGendurable(MigrateOperation):
    """The operation of `uninstall_gendurable`."""

    @classmethod
    def uninstall_gendurable(cls, operations: Operations) -> None:
        operations.invoke(cls())

    def reverse(self) -> MigrateOperation:
        return InstallGendurable()


@Operations.implementation_for(InstallGendurable)
def _install(operations: Operations, operation: InstallGendurable) -> None:
    context = operations.migration_context
    if context.as_sql:
        _installed.add(context)
        _write(context, plain_script())
    else:
        call(operations.get_bind(), install)


@Operations.implementation_for(UpgradeGendurable)
def _upgrade(operations: Operations, operation: UpgradeGendurable) -> None:
    context = operations.migration_context
    if not context.as_sql:
        if call(operations.get_bind(), installed) != version():
            call(operations.get_bind(), upgrade)
    elif context not in _installed:
        if operation.from_version is None:
            raise InvalidArgument(
                "with --sql nobody can be asked which version of gendurable is installed",
                hint='say it: upgrade_gendurable("0.3.0")',
            )
        if operation.from_version != version():
            _write(context, upgrade_script(operation.from_version))


@Operations.implementation_for(UninstallGendurable)
def _uninstall(operations: Operations, operation: UninstallGendurable) -> None:
    context = operations.migration_context
    if context.as_sql:
        _installed.discard(context)
        _write(context, uninstall_script())
    else:
        call(operations.get_bind(), uninstall)


def _write(context: MigrationContext, script: str) -> None:
    # As it stands: what is executed offline has its tabs and percent signs changed, and the hashes of functions count.
    cast(Any, context.impl).static_output(script)
