"""The plain script: gendurable in a database whose server has no place for extension files.

`install`, `upgrade` and `uninstall` each take a sync connection, or an AsyncConnection (then they are awaited), and run
in one transaction: the caller's, if one is open. A plain installation can be part of a migration for that reason.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

from psycopg.pq import TransactionStatus

from ._statement import About, Rows, Script, Statement, one_value, script
from .errors import VersionMismatch

R = TypeVar("R")


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


def upgrade_script(installed: str) -> str:
    """What leads a plain installation of that version to this package's, to be run in one transaction.

    Raises:
        VersionMismatch: no script leads on from there.
    """
    path = _folder()[1] / f"gendurable.upgrade--{installed}--{version()}.sql"
    if not path.exists():
        raise VersionMismatch(
            f"no upgrade leads from gendurable {installed} to this package's {version()}",
            hint=_newer(installed),
        )
    # The script sets a search_path until the transaction ends, and others may have more to do in it.
    return f"{_KEEP_PATH};\n{path.read_text(encoding='utf-8')}\n{_RESTORE_PATH};"


def uninstall_script() -> str:
    """What drops a plain installation of this package's version, to be run in one transaction."""
    drops = [_drop(kind, _OURS) for kind in ("view", "function")]
    return "\n".join(f"{text.strip()};" for text in (_KEEP_PATH, _PIN_PATH, *drops, _DROP_SCHEMA, _RESTORE_PATH))


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


@script
def ensure(extension: bool | None = None) -> Script[str]:
    """Bring gendurable to this package's version, whatever there is; returns the version that is there then.

    What is installed stays of its kind. A new installation is an extension for True, the plain script for False, and
    for None an extension where the server offers this version of it. A newer version is left as it is.

    Raises:
        VersionMismatch: the server does not have the extension in this version, or no script leads to it.
    """
    return (yield from _in_transaction(_ensure(extension)))


@script
def installed() -> Script[str | None]:
    """The version that is in the database, as an extension or not; None: there is none."""
    extension, plain = yield from _in_transaction(_state())
    return extension or plain


@script
def remove() -> Script[None]:
    """Drop gendurable with all its instances, an extension or not; nothing happens where there is none.

    Raises:
        psycopg.errors.DependentObjectsStillExist: somebody's view reads ours.
    """
    return (yield from _in_transaction(_remove()))


@script
def lock() -> Script[None]:
    """Lock all tables of ours until the end of the caller's transaction: what is counted then is all that there is.

    Raises:
        GD504: the transaction is not READ COMMITTED, so it would not see what was written before the lock.
        psycopg.errors.InsufficientPrivilege: the role does not own them.
    """
    yield _run(_LOCK)


# -- below: how

# All tables or none, as an upgrade takes them: calls that run lock some of them in an order of their own, so waiting
# for one after the other would be a deadlock now and then.
_LOCK = """
do $lock$
declare
    v_tables constant text := (
        select string_agg(c.oid::regclass::text, ', ' order by c.relname)
        from pg_class c
        where c.relnamespace = 'gendurable'::regnamespace and c.relkind in ('r', 'p'));
    v_timeout constant text := current_setting('lock_timeout');
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'the transaction is not read committed' using errcode = 'GD504',
            hint = 'begin it without an isolation level';
    end if;
    for v_try in 1 .. 100 loop
        begin
            perform set_config('lock_timeout', case when v_try < 100 then '100ms' else v_timeout end, true);
            execute 'lock table ' || v_tables || ' in access exclusive mode';
            perform set_config('lock_timeout', v_timeout, true);
            exit;
        exception when lock_not_available then
            if v_try = 100 then raise; end if;
            perform pg_sleep(0.05);
        end;
    end loop;
end $lock$
"""

# A name goes through the server only: what it is written in may have no words for it here.
_KEEP_PATH = "select pg_catalog.set_config('gendurable.path', pg_catalog.current_setting('search_path'), true)"
_PIN_PATH = "select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true)"
_RESTORE_PATH = "select pg_catalog.set_config('search_path', pg_catalog.current_setting('gendurable.path'), true)"

# The schema of the functions is the user's: it may have been renamed since its name was written down, and may hold
# functions named gd_... that are not ours, also overloads of ours.
_DROP = """
do $drop$
declare
    v_schema constant text := coalesce((
        select n.nspname
        from pg_proc p
        join pg_namespace n on n.oid = p.pronamespace
        where p.proname = 'gd_version' and p.pronargs = 0 and p.prosecdef
            and p.proowner = (select g.nspowner from pg_namespace g where g.nspname = 'gendurable')
        order by exists (select from gendurable.meta m where m.api_schema = n.nspname) desc, p.oid desc
        limit 1), (select m.api_schema from gendurable.meta m));
    v_object text;
begin
    for v_object in {ours} loop
        execute 'drop {made} ' || v_object;
    end loop;
end $drop$
"""
_OURS = """
        select case a.kind
            when 'view' then to_regclass(format('%I.%I', v_schema, a.signature))::text
            else to_regprocedure(format('%I.%s', v_schema, a.signature))::text
        end
        from gendurable._api() a
        where a.kind = '{kind}' and case a.kind
            when 'view' then to_regclass(format('%I.%I', v_schema, a.signature)) is not null
            else to_regprocedure(format('%I.%s', v_schema, a.signature)) is not null
        end
"""
# 0.1.0 did not write down what is its own.
_OURS_BY_NAME = """
        select p.oid::regprocedure::text from pg_proc p
        where '{kind}' = 'function' and p.pronamespace = quote_ident(v_schema)::regnamespace
            and p.proname = any('{{names}}') and p.prosecdef
            and p.proowner = (select g.nspowner from pg_namespace g where g.nspname = 'gendurable')
        union all
        select c.oid::regclass::text from pg_class c
        where '{kind}' = 'view' and c.relnamespace = quote_ident(v_schema)::regnamespace
            and c.relkind = 'v' and c.relname = any('{{names}}')
"""

_DROP_SCHEMA = "drop schema gendurable cascade"


def _drop(kind: str, ours: str) -> str:
    made = "routine" if kind == "function" else kind
    return _DROP.replace("{ours}", ours).replace("{kind}", kind).replace("{made}", made)


def _in_transaction(steps: Script[R]) -> Script[R]:
    """The steps in the caller's transaction, or, where an autocommit connection has none, in one of their own."""
    own = yield About(lambda conn: conn.autocommit and conn.info.transaction_status == TransactionStatus.IDLE)
    if not own:
        return (yield from steps)
    yield _run("begin isolation level read committed")
    try:
        answer = yield from steps
    except BaseException:
        yield _run("rollback")
        raise
    yield _run("commit")
    return answer


def _run(text: str) -> Statement[Rows]:
    # Without parameters a script of many statements may be sent, and its percent signs are its own.
    return Statement(text.replace("%", "%%"), (), lambda rows: rows)


def _state() -> Script[tuple[str | None, str | None]]:
    """The version of the extension, and what is written down, which a plain installation has as well."""
    # Two processes that install at their start are one after the other; the second sees what the first did.
    yield _run("select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('gendurable.install', 0::bigint))")
    extension = yield _run("select extversion from pg_catalog.pg_extension where extname = 'gendurable'")
    exists = yield _run("select 1 where pg_catalog.to_regclass('gendurable.meta') is not null")
    found = (yield _run("select version from gendurable.meta")) if exists else []
    if exists and not found:
        # Restored from a dump without data.
        found = yield _run("select gendurable._version()")
    return _text(extension), _text(found)


def _text(rows: Rows) -> str | None:
    # Where the client's encoding is SQL_ASCII, as in a database of that encoding, texts arrive as bytes.
    value = one_value(rows)
    return value.decode() if isinstance(value, bytes) else value


def require_release(installed: str, ours: str) -> None:
    """Raise VersionMismatch unless the database is of the release (major.minor) of this package, or of the next minor
    one: the database is upgraded first, and its workers after it."""

    def release(version: str) -> tuple[int, int]:
        major, minor = version.split(".")[:2]
        return int(major), int(minor)

    major, minor = release(ours)
    if release(installed) not in ((major, minor), (major, minor + 1)):
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
    have, want = extension or installed, version()
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
    if installed != want:
        yield _run(upgrade_script(installed))
    return want


def _uninstall() -> Script[None]:
    extension, installed = yield from _state()
    if extension is not None:
        raise VersionMismatch("gendurable is installed as an extension", hint="run DROP EXTENSION gendurable")
    if installed is None:
        return
    text = plain_script()
    yield _run(_KEEP_PATH)
    yield _run(_PIN_PATH)
    named = yield _run("select 1 where to_regprocedure('gendurable._api()') is not null")
    for kind in ("view", "function"):
        names = re.findall(rf"^create (?:or replace )?{kind}\s+(gd_\w+)", text, re.MULTILINE)
        ours = _OURS if named else _OURS_BY_NAME.replace("{names}", ",".join(names))
        yield _run(_drop(kind, ours))
    yield _run(_DROP_SCHEMA)
    yield _run(_RESTORE_PATH)


def _ensure(extension: bool | None) -> Script[str]:
    as_extension, installed = yield from _state()
    have, want = as_extension or installed, version()
    if have == want:
        return want
    if have is not None and _numbers(have) > _numbers(want):
        return have
    if as_extension is None and have is not None:
        return (yield from _upgrade())
    offered = yield _run(
        f"select 1 from pg_catalog.pg_available_extension_versions where name = 'gendurable' and version = '{want}'"
    )
    if as_extension is None and (extension is False or (extension is None and not offered)):
        return (yield from _install())
    if not offered:
        raise VersionMismatch(
            f"the server does not offer the extension gendurable {want}",
            hint="put its files there: make install PG_CONFIG=...",
        )
    if as_extension is None:
        yield _run(f"create extension gendurable version '{want}'")
    else:
        yield _run(f"alter extension gendurable update to '{want}'")
    return want


def _remove() -> Script[None]:
    extension, _ = yield from _state()
    if extension is None:
        yield from _uninstall()
    else:
        yield _run("drop extension gendurable")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
