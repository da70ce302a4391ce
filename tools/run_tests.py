"""Run the suites and add them up: the last line is `N passed, N failed, N skipped`, the exit code says if all is well.

    run_tests.py [lint] [sql] [py] [-- arguments]     the arguments go to pytest, or name files of tests_sql

The SQL tests run on every PostgreSQL that can be had: the one of PG_CONFIG (normally Debian's) and the embedded one,
each started privately, side by side; or on the server of GENDURABLE_TEST_DSN alone, or, with
GENDURABLE_TEST_SERVER=docker, in a container alone.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests_py")]

from support import server as _server  # noqa: E402 - found by the line above

from gendurable_py import embedded  # noqa: E402
from gendurable_py.embedded.cluster import Installation  # noqa: E402

DEBIAN = "Debian: apt-get install postgresql-NN-{}, or make test as root"
SPEC_SECONDS = 120


@dataclass
class Count:
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, what: str, passed: int = 0, failed: int = 0, skipped: int = 0, why: str = "") -> None:
        with self._lock:
            self.passed += passed
            self.failed += failed
            self.skipped += skipped
        numbers = [f"{n} {word}" for n, word in ((passed, "passed"), (failed, "FAILED"), (skipped, "skipped")) if n]
        print(f"{what} ... {', '.join(numbers) or 'nothing to run'}{f' ({why})' if why else ''}", flush=True)

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


@dataclass
class SqlServer:
    """A server for SQL tests, and the installation that it was started from (None: a server that was named)."""

    server: _server.Server
    installation: Installation | None

    def psql(self) -> str:
        if self.server.cluster is not None:
            return str(self.server.cluster.bindir / "psql")
        return shutil.which("psql") or "psql"

    def isolationtester(self) -> Path | None:
        if self.installation is None:
            found = shutil.which("isolationtester")
            return Path(found) if found else None
        program = self.installation.pkglibdir / "pgxs" / "src" / "test" / "isolation" / "isolationtester"
        return program if program.exists() else None

    def has(self, extension: str) -> bool:
        with psycopg.connect(self.server.dsn) as conn:
            query = "select 1 from pg_available_extensions where name = %s"
            return conn.execute(query, (extension,)).fetchone() is not None

    def database(self, *extensions: str) -> str:
        dsn = self.server.new_database()
        with psycopg.connect(dsn, autocommit=True) as conn:
            for name in extensions:
                conn.execute(f"create extension if not exists {name}".encode())
        return dsn


def prepare() -> None:
    if not os.environ.get("GENDURABLE_TEST_DSN"):
        _server.forget_libpq()
    _server.build_scripts()


def local_installation() -> Installation | None:
    try:
        found = Installation.of(os.environ.get("PG_CONFIG", "pg_config"))
    except (OSError, subprocess.CalledProcessError):
        return None
    return found if (found.bindir / "postgres").exists() else None


def sql_servers() -> Iterator[AbstractContextManager[SqlServer]]:
    """The servers of the SQL tests; each is started when it is entered, and stopped when it is left."""
    if os.environ.get("GENDURABLE_TEST_DSN"):
        yield _named_server()
        return
    local = local_installation()
    # pgTAP is only SQL: the files of the local PostgreSQL serve the others too.
    pgtap = sorted((local.sharedir / "extension").glob("pgtap*")) if local else []
    if os.environ.get("GENDURABLE_TEST_SERVER") == "docker":
        yield _server_in_container(local, pgtap)
        return
    if local is not None:
        yield _private_server(local, f"PostgreSQL {local.major}", [])
    try:
        installation = embedded.installation()
    except ImportError as error:
        print(f"embedded PostgreSQL: {error}")
    else:
        yield _private_server(installation, "embedded PostgreSQL 18", pgtap)


@contextmanager
def _named_server() -> Iterator[SqlServer]:
    server = _server.KINDS["dsn"]()
    try:
        yield SqlServer(server, None)
    finally:
        server.drop_template()


@contextmanager
def _server_in_container(local: Installation | None, pgtap: list[Path]) -> Iterator[SqlServer]:
    try:
        server = _server.of_image(_server.IMAGE, extension_files=pgtap)
    except _server.Unavailable as error:
        sys.exit(f"no PostgreSQL server for the tests: {error}")
    try:
        # Its programs are clients here.
        yield SqlServer(server, local)
    finally:
        server.close()


@contextmanager
def _private_server(installation: Installation, name: str, files: list[Path]) -> Iterator[SqlServer]:
    server = _server.of_installation(installation, name, extension_files=files)
    try:
        yield SqlServer(server, installation)
    finally:
        server.close()


# -- the linters


def run_linters(count: Count) -> None:
    folders = [
        name for name in ("sql/schema", "sql/kernel", "sql/api", "sql/upgrades", "tests_sql") if any_sql(ROOT / name)
    ]
    for name, *arguments in (
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy", "--strict", "gendurable_py"),
        ("sqlfluff", "lint", "--disable-progress-bar", "--processes", "0", *folders),
    ):
        what = f"{name} {arguments[0]}" if name != "mypy" else "mypy --strict"
        done = subprocess.run(
            # Not the script, which begins with its interpreter's path: spaces and long names break that.
            [sys.executable, "-m", name, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            print(done.stdout)
        count.add(what, *((1, 0) if done.returncode == 0 else (0, 1)))


def any_sql(folder: Path) -> bool:
    return any(folder.rglob("*.sql"))


PLPGSQL_CHECK = """
select distinct p.oid::regprocedure::text, c.level, c.lineno, c.message, c.detail, c.hint
from pg_proc p
join pg_language l on l.oid = p.prolang and l.lanname = 'plpgsql'
left join pg_trigger t on t.tgfoid = p.oid
cross join lateral plpgsql_check_function_tb(p.oid::regprocedure, coalesce(t.tgrelid, 0::oid)) c
where (p.pronamespace = 'gendurable'::regnamespace or p.proname like 'gd\\_%')
    -- the column of gd_doctor is called so, and quoted
    and c.message <> 'name of parameter "check" is reserved keyword'
order by 1, 3
"""


def run_plpgsql_check(count: Count) -> None:
    local = local_installation()
    if local is None or not (local.sharedir / "extension" / "plpgsql_check.control").exists():
        count.add("plpgsql_check", skipped=1, why="not installed; " + DEBIAN.format("plpgsql-check"))
        return
    server = _server.of_installation(local, f"PostgreSQL {local.major}")
    try:
        dsn = SqlServer(server, local).database("plpgsql_check")
        with psycopg.connect(dsn) as conn:
            findings = conn.execute(PLPGSQL_CHECK.encode()).fetchall()
    finally:
        server.close()
    for function, level, line, message, *more in findings:
        print(f"{function} line {line}: {level}: {'; '.join([message, *filter(None, more)])}")
    count.add("plpgsql_check", *((1, 0) if not findings else (0, 1)))


def run_references(count: Count) -> None:
    """Processes of their own: they are programs as well, make docs, and one takes its server from here."""
    for tool, page in (("reference", "docs/sql.md"), ("cli_reference", "docs/cli-reference.md")):
        done = subprocess.run([sys.executable, ROOT / "tools" / f"{tool}.py", "--check"], cwd=ROOT, check=False)
        count.add(page, *((1, 0) if done.returncode == 0 else (0, 1)))


# -- SQL tests


def run_sql(count: Count, wanted: list[str]) -> None:
    def chosen(pattern: str) -> list[Path]:
        found = sorted((ROOT / "tests_sql").glob(pattern))
        return [path for path in found if not wanted or any(name in str(path) for name in wanted)]

    files, specs = chosen("*.sql"), chosen("isolation/specs/*.spec")
    # Each server has its turns for itself; beside each other they take half of the time.
    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(run_sql_on, count, one, files, specs) for one in sql_servers()]:
            done.result()


def run_sql_on(count: Count, server: AbstractContextManager[SqlServer], files: list[Path], specs: list[Path]) -> None:
    with server as one:
        if files and not one.has("pgtap"):
            why = "pgTAP is not installed; " + DEBIAN.format("pgtap")
            count.add(f"{one.server.name}: pgTAP", skipped=len(files), why=why)
        else:
            for path in files:
                run_pgtap(count, one, path)
        program = one.isolationtester()
        if specs and program is None:
            count.add(
                f"{one.server.name}: isolation specs",
                skipped=len(specs),
                why="no isolationtester; Debian: apt-get install postgresql-server-dev-NN, or make test as root",
            )
        elif program is not None:
            for path in specs:
                run_spec(count, one, program, path)


def run_pgtap(count: Count, one: SqlServer, path: Path) -> None:
    """One file in a database of its own. The harness judges, its verbose output is counted."""
    dsn = one.database("pgtap")
    prove = shutil.which("pg_prove")
    if prove:
        command = [prove, "--psql-bin", one.psql(), "--verbose", "--merge", str(path)]
    else:
        quiet = ["-X", "-q", "-A", "-t", "-P", "pager=off", "-v", "ON_ERROR_ROLLBACK=1", "-v", "ON_ERROR_STOP=1"]
        command = [one.psql(), *quiet, "-f", str(path)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | libpq_variables(dsn),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    good, bad, skipped, planned = tap_counts(done.stdout)
    # A file that dies, or runs another number of tests than it planned, is a failure beside those it counted.
    broken = bad == 0 and (done.returncode != 0 or planned != good + skipped)
    if bad or broken:
        print(done.stdout)
    count.add(
        f"{one.server.name}: {path.relative_to(ROOT)}",
        good,
        bad + broken,
        skipped,
        "the file broke off" if broken else "",
    )
    one.server.drop_database(dsn)


def libpq_variables(dsn: str) -> dict[str, str]:
    """The dsn for a program that takes no connection string, as pg_prove."""
    known = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    return {known[key]: str(value) for key, value in conninfo_to_dict(dsn).items() if key in known and value}


def tap_counts(output: str) -> tuple[int, int, int, int | None]:
    """Passed, failed, skipped and planned tests; a failing test that is marked as to do counts as passed."""
    good = bad = skipped = 0
    planned: int | None = None
    for line in output.splitlines():
        if plan := re.match(r"1\.\.(\d+)(\s+# SKIP)?", line, re.IGNORECASE):
            planned = int(plan[1])
            if plan[2]:
                skipped, planned = skipped + 1, 1
        elif test := re.match(r"(not )?ok \d+[^#]*(?:#\s*(skip|todo)\b)?", line, re.IGNORECASE):
            mark = (test[2] or "").lower()
            skipped += mark == "skip"
            bad += bool(test[1]) and not mark
            good += mark != "skip" and (not test[1] or mark == "todo")
    return good, bad, skipped, planned


def run_spec(count: Count, one: SqlServer, program: Path, path: Path) -> None:
    dsn = one.database()
    expected = [
        file for end in ("", "_1") if (file := path.parent.parent / "expected" / f"{path.stem}{end}.out").exists()
    ]
    try:
        with path.open() as spec:
            done = subprocess.run(
                [program, dsn],
                stdin=spec,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                timeout=SPEC_SECONDS,
            )
        output = done.stdout
    except subprocess.TimeoutExpired as late:
        output = (late.stdout or b"").decode() + f"\nstopped after {SPEC_SECONDS} s\n"
    matches = any(output == file.read_text() for file in expected)
    if not matches:
        results = path.parent.parent / "results"
        results.mkdir(exist_ok=True)
        (results / f"{path.stem}.out").write_text(output)
        want = expected[0].read_text() if expected else ""
        name = f"{path.stem}.out"
        lines = (want.splitlines(), output.splitlines(), f"expected/{name}", f"results/{name}")
        print("\n".join(difflib.unified_diff(*lines, lineterm="")))
    count.add(f"{one.server.name}: {path.relative_to(ROOT)}", int(matches), int(not matches))
    one.server.drop_database(dsn)


# -- pytest


def run_pytest(count: Count, arguments: list[str], python: str | Path = sys.executable) -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        code = subprocess.run(
            [python, "-m", "pytest", f"--junit-xml={report}", *arguments], cwd=ROOT, check=False
        ).returncode
        total = failed = skipped = 0
        if report.exists():
            for suite in ET.parse(report).getroot().iter("testsuite"):
                total += int(suite.get("tests", 0))
                failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
                skipped += int(suite.get("skipped", 0))
    # It may also end without a report, or fail outside of any test.
    if code not in (0, 5) and failed == 0:
        total, failed = total + 1, 1
    count.add("pytest", max(total - failed - skipped, 0), failed, skipped)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", metavar="suite", help="lint, sql, py (default: all)")
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    suites = parser.parse_args(sys.argv[1:at]).suites or ["lint", "sql", "py"]
    if unknown := set(suites) - {"lint", "sql", "py"}:
        parser.error(f"unknown suite: {', '.join(sorted(unknown))}")
    arguments = sys.argv[at + 1 :]
    prepare()
    count = Count()
    if "lint" in suites:
        run_linters(count)
        run_plpgsql_check(count)
        run_references(count)
    if "sql" in suites:
        run_sql(count, arguments)
    if "py" in suites:
        run_pytest(count, arguments)
    summary = os.environ.get("GD_SUMMARY")
    if summary:
        Path(summary).write_text(f"{count}\n")
    else:
        print(count)
    return 1 if count.failed else 0


if __name__ == "__main__":
    sys.exit(main())
