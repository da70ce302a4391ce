"""A database of the tests as frameworks want to be told of it."""

from __future__ import annotations

from typing import Any

import psycopg
from sqlalchemy import URL


def url(dsn: str, driver: str = "psycopg") -> URL:
    """For `create_engine`; a driver that has no socket directory in its query gets it as its host."""
    known: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(dsn)
    made = URL.create(f"postgresql+{driver}", username=known.get("user"), password=known.get("password"))
    query = {"host": str(known["host"]), "port": str(known.get("port", 5432))}
    return made.set(database=str(known["dbname"]), query=query)
