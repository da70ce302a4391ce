"""The plain script: gendurable in a database whose server has no place for extension files.

`install`, `upgrade` and `uninstall` each take a sync connection, or an AsyncConnection (then they are awaited), and run
in one transaction: the caller's, if one is open. A plain installation can be part of a migration for that reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from psycopg.pq import TransactionStatus

from ._call import About, Rows, Script, Statement, script
from .errors import VersionMismatch

R = TypeVar("R")


class _Installed(NamedTuple):
    version: str
    api_schema: str


# -- the files


def _folder() -> tuple[Path, Path]:
    """The control file and the directory of the scripts: in the wheel, or in the checkout that this is run from."""
    packed = Path(__file__).parent / "_sql"
    if packed.exists():
        return packed / "gendurable.control", packed
    root = Path(__file__).parent.parent
    if not (root / "sql" / "gendurable.sql").exists():
        raise FileNotFoundError(f"{root / 'sql' / 'gendurable.sql'} is not built: run make in {root}")
    return root / "gendurable.control", root / "sql"


def version() -> str:
    """The version of the scripts in this package."""
    match = re.search(r"default_version = '([^']+)'", _folder()[0].read_text(encoding="utf-8"))
    assert match is not None
    return match.group(1)


def extension_files() -> list[Path]:
    """What a server's extension directory needs: the control file, the extension script and its upgrades."""
    control, scripts = _folder()
    return [control, *sorted(scripts.glob("gendurable--*.sql"))]


def plain_script() -> str:
    """The plain script, to be run in one transaction with the wanted schema first in the search_path."""
    return (_folder()[1] / "gendurable.sql").read_text(encoding="utf-8")


# -- the calls


@script
def install() -> Script[str]:
    """Install the plain script, the gd_* functions in the connection's current schema; returns the version.

    Does nothing where this version is installed already, also as an extension.

    Raises:
        VersionMismatch: another version is installed.
    """
    return (yield from _in_transaction(_install()))


@script
def upgrade() -> Script[str]:
    """Bring a plain installation to this package's version, in the schema where it was installed; returns the version.

    Raises:
        VersionMismatch: nothing is installed, it is an extension, or no script leads on from its version.
    """
    return (yield from _in_transaction(_upgrade()))


@script
def uninstall() -> Script[None]:
    """Drop a plain installation with all its instances; nothing happens where there is none.

    Raises:
        VersionMismatch: it is an extension.
        psycopg.errors.DependentObjectsStillExist: somebody's view reads ours.
    """
    return (yield from _in_transaction(_uninstall()))


# -- below: how


def _in_transaction(steps: Script[R]) -> Script[R]:
    """The steps in the caller's transaction, or, where an autocommit connection has none, in one of their own."""
    own = yield About(lambda conn: conn.autocommit and conn.info.transaction_status == TransactionStatus.IDLE)
    if not own:
        return (yield from steps)
    yield _run("begin")
    try:
        answer = yield from steps
    except BaseException:
        yield _run("rollback")
        raise
    yield _run("commit")
    return answer


def _run(text: str, params: Sequence[object] | None = None) -> Statement[Rows]:
    # Without parameters a script of many statements may be sent, and its percent signs are its own.
    text = text if params else text.replace("%", "%%")
    return Statement(text, params or (), lambda rows: rows)


def _state() -> Script[tuple[str | None, _Installed | None]]:
    # Two processes that install at their start are one after the other; the second sees what the first did.
    yield _run("select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('gendurable.install', 0::bigint))")
    extension = yield _run("select extversion from pg_extension where extname = 'gendurable'")
    exists = yield _run("select 1 where to_regclass('gendurable.meta') is not null")
    found = (yield _run("select version, api_schema from gendurable.meta")) if exists else []
    return (extension[0][0] if extension else None), (_Installed(*found[0]) if found else None)


def require_release(installed: str, ours: str) -> None:
    """Raise VersionMismatch unless both are of one release (major.minor): only the engine's calls fit each other."""

    def release(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in version.split(".")[:2])

    if release(installed) != release(ours):
        raise VersionMismatch(
            f"the database has gendurable {installed}, this package is {ours}",
            hint=_newer(installed)
            if release(installed) > release(ours)
            else "run ALTER EXTENSION gendurable UPDATE, or gendurable_py.upgrade(conn)",
        )


def _newer(installed: str) -> str:
    release = ".".join(installed.split(".")[:2])
    return f"upgrade this package: pip install -U 'gendurable_py=={release}.*'"


def _install() -> Script[str]:
    extension, installed = yield from _state()
    have, want = extension or (installed and installed.version), version()
    if have is None:
        yield _run(plain_script())
    elif have != want:
        how = "run ALTER EXTENSION gendurable UPDATE" if extension else "call upgrade"
        raise VersionMismatch(f"gendurable {have} is installed, this package has {want}", hint=how)
    return want


def _upgrade() -> Script[str]:
    extension, installed = yield from _state()
    if extension is not None:
        raise VersionMismatch("gendurable is installed as an extension", hint="run ALTER EXTENSION gendurable UPDATE")
    if installed is None:
        raise VersionMismatch("gendurable is not installed in this database", hint="call install")
    want = version()
    if installed.version != want:
        path = _folder()[1] / f"gendurable.upgrade--{installed.version}--{want}.sql"
        if not path.exists():
            raise VersionMismatch(
                f"no upgrade leads from gendurable {installed.version} to this package's {want}",
                hint=_newer(installed.version),
            )
        saved = yield _run("select current_setting('search_path')")
        yield _run(path.read_text(encoding="utf-8"))
        # The script sets its own until the transaction ends, and the transaction may be the caller's.
        yield _run("select set_config('search_path', %s, true)", saved[0])
    return want


def _uninstall() -> Script[None]:
    extension, installed = yield from _state()
    if extension is not None:
        raise VersionMismatch("gendurable is installed as an extension", hint="run DROP EXTENSION gendurable")
    if installed is None:
        return
    # The schema of the API is the user's, and may hold gd_ things that are not ours.
    text = plain_script()
    for kind, query in (
        ("view", "select c.oid::regclass::text from pg_class c where (c.relnamespace, c.relkind, c.relname)"),
        ("function", "select p.oid::regprocedure::text from pg_proc p where (p.pronamespace, p.prokind, p.proname)"),
    ):
        names = re.findall(rf"^create (?:or replace )?{kind}\s+(gd_\w+)", text, re.MULTILINE)
        found = yield _run(
            f'{query} in (select n.oid, %s::"char", name::name from pg_namespace n, unnest(%s::text[]) name'
            " where n.nspname = %s::name)",
            (kind[0], names, installed.api_schema),
        )
        if found:
            yield _run(f"drop {kind} {', '.join(row[0] for row in found)}")
    yield _run("drop schema gendurable cascade")
