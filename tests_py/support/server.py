"""Finds a PostgreSQL server for the tests: yours, a container, the embedded one, a local installation."""

from __future__ import annotations

import itertools
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from support import container as _container
from support.container import Unavailable

from gendurable_py import embedded
from gendurable_py.embedded.cluster import Cluster, Installation
from gendurable_py.install import extension_files as our_files
from gendurable_py.install import install, version

ROOT = Path(__file__).resolve().parents[2]
# A lost machine may lose a test's data; a killed server may not, and does not with these.
FAST = {"fsync": "off", "full_page_writes": "off", "max_connections": "200"}
IMAGE = os.environ.get("GENDURABLE_TEST_IMAGE", "postgres:18")


@dataclass
class Server:
    """A running server: `dsn` of a superuser (or of whom you named), and fresh databases."""

    dsn: str
    name: str
    cluster: Cluster | None = None
    close: Callable[[], None] = lambda: None
    as_extension: bool = True
    _number: Iterable[int] = field(default_factory=itertools.count)
    _template: str | None = None

    def new_database(self, *, empty: bool = False) -> str:
        """The dsn of a new database, with gendurable in it unless `empty`."""
        template = "template0" if empty else self._made_template()
        name = self._new_name("t")
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute(
                sql.SQL("create database {} template {} {}").format(
                    sql.Identifier(name), sql.Identifier(template), sql.SQL(self._how)
                )
            )
        return self.dsn_of(name)

    @property
    def _how(self) -> str:
        """To copy files takes a third of the time of writing every page to the log; it begins with a checkpoint, which
        costs nothing where nothing is flushed."""
        return "strategy file_copy" if self.cluster is not None else ""

    def drop_database(self, dsn: str) -> None:
        name = str(conninfo_to_dict(dsn)["dbname"])
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    def dsn_of(self, database: str) -> str:
        return make_conninfo(self.dsn, dbname=database)

    def _new_name(self, kind: str) -> str:
        # Several test runs may share a server that you named.
        return f"gd_{kind}_{os.getpid()}_{next(iter(self._number))}"

    def _made_template(self) -> str:
        if self._template is None:
            self._template = self._new_name("template")
            with psycopg.connect(self.dsn, autocommit=True) as conn:
                conn.execute(sql.SQL("create database {} template template0").format(sql.Identifier(self._template)))
            with psycopg.connect(self.dsn_of(self._template), autocommit=True) as conn:
                if self.as_extension:
                    conn.execute("create extension gendurable")
                else:
                    install(conn)
        return self._template

    def drop_template(self) -> None:
        if self._template is not None and self.cluster is None:
            with suppress(psycopg.Error):
                self.drop_database(self.dsn_of(self._template))


def forget_libpq() -> None:
    """For a server of our own: PGOPTIONS, PGSERVICE and the others are about another one."""
    for name in [name for name in os.environ if re.fullmatch("PG[A-Z]+", name)]:
        del os.environ[name]


def build_scripts() -> None:
    """Write sql/*.sql, so that the tests never run yesterday's functions."""
    runpy.run_path(str(ROOT / "tools" / "assemble.py"))["write"](ROOT)


def _named() -> Server:
    dsn = os.environ.get("GENDURABLE_TEST_DSN")
    if not dsn:
        raise Unavailable("GENDURABLE_TEST_DSN is not set")
    with psycopg.connect(dsn, autocommit=True) as conn:
        offered = conn.execute(
            "select from pg_available_extension_versions where name = 'gendurable' and version = %s",
            (version(),),
        ).fetchone()
        number = conn.info.server_version // 10000
    # A server elsewhere has no extension files, and ours may be newer than those it has.
    same_host = offered is not None and os.environ.get("GENDURABLE_TEST_EXTENSION") == "1"
    how = "its extension" if same_host else "the plain script"
    return Server(dsn, f"GENDURABLE_TEST_DSN, PostgreSQL {number}, {how}", as_extension=same_host)


def _docker() -> Server:
    return of_image(IMAGE)


def of_image(image: str, *, extension_files: Iterable[Path] = ()) -> Server:
    """A temporary server in a container of that image, with the extension's files and others in it."""
    container = _container.start(image, settings=FAST, files=[*our_files(), *extension_files])
    return Server(container.dsn, f"container of {image}", close=container.stop)


def _embedded() -> Server:
    major = int(os.environ.get("GENDURABLE_TEST_VERSION", "18"))
    try:
        installation = embedded.installation(major)
    except ImportError as error:
        raise Unavailable(str(error)) from None
    return of_installation(installation, f"embedded PostgreSQL {major}")


def _local() -> Server:
    program = os.environ.get("PG_CONFIG", "pg_config")
    try:
        installation = Installation.of(program)
        major = installation.major
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"{program}: {error}") from None
    return of_installation(installation, f"PostgreSQL {major} of {program}")


def installations() -> Iterator[Installation]:
    """Those of this machine: that of PG_CONFIG, then those of Debian's packages."""
    for program in (os.environ.get("PG_CONFIG", "pg_config"), *Path("/usr/lib/postgresql").glob("*/bin/pg_config")):
        try:
            installation = Installation.of(program)
        except (OSError, subprocess.CalledProcessError):
            continue
        yield installation


def of_installation(installation: Installation, name: str, *, extension_files: Iterable[Path] = ()) -> Server:
    """A temporary server of that installation, with the extension's files and others in it."""
    files = [*our_files(), *extension_files]
    cluster = Cluster(installation, extension_files=files, settings=FAST, scratch=_scratch())
    return Server(cluster.dsn, name, cluster, cluster.stop)


def _scratch() -> str | None:
    """Memory where there is plenty: a database for each test is some 300 files, made and removed."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 8 << 30
    return str(memory) if roomy else None


KINDS: dict[str, Callable[[], Server]] = {"dsn": _named, "docker": _docker, "embedded": _embedded, "local": _local}


def find() -> tuple[Server, list[str]]:
    """The first kind of server that can be had, and why the others before it cannot.

    GENDURABLE_TEST_SERVER = dsn | docker | embedded | local asks for that one only.
    """
    build_scripts()
    wanted = os.environ.get("GENDURABLE_TEST_SERVER")
    if wanted is not None and wanted not in KINDS:
        sys.exit(f"GENDURABLE_TEST_SERVER is {wanted!r}: one of {', '.join(KINDS)}")
    reasons = []
    for kind in [wanted] if wanted else KINDS:
        try:
            return KINDS[kind](), reasons
        except Unavailable as error:
            reasons.append(str(error))
    sys.exit("no PostgreSQL server for the tests: " + "; ".join(reasons))
