"""Glue to frameworks: their connections for calls, their transactions for steps, their ways to start and to migrate.

Each module needs its library, and nothing else imports it: `contrib.sqlalchemy`, `contrib.alembic`, `contrib.fastapi`,
`contrib.django`, `contrib.pydantic_ai`.
"""

from __future__ import annotations


def missing(extra: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """What to raise in place of an import that failed: the same, with the extra that brings the library."""
    return ModuleNotFoundError(f"{error.msg}: pip install 'gendurable_py[{extra}]'", name=error.name)
