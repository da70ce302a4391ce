"""The files and commands of docs/frameworks.md that are Alembic's; its other snippets run in test_readme.py."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import psycopg
from conftest import Database

import gendurable_py as gd
from gendurable_py.contrib import sqlalchemy
from gendurable_py.install import version

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "frameworks.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_project_of_alembic(empty_db: Database, tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s\npath_separator = os\n")
    (tmp_path / "script.py.mako").write_text("")
    files = {text.split('"""')[1]: text for text in blocks("py")}
    assert set(files) == {"versions/0001_gendurable.py", "versions/0002_gendurable_0_4.py", "env.py"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    known = psycopg.conninfo.conninfo_to_dict(empty_db.dsn)
    named = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    environment = {**os.environ, **{variable: str(known[key]) for key, variable in named.items() if key in known}}
    [commands] = blocks("sh")

    def run(text: str) -> None:
        program = f'set -e; alembic() {{ {shlex.quote(sys.executable)} -m alembic "$@"; }}\n'
        done = subprocess.run(
            ["bash", "-c", program + text],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    conn = empty_db.connect()
    run(commands)
    assert gd.version(conn) == version()
    assert "create schema gendurable;" in (tmp_path / "0001.sql").read_text()
    assert conn.execute("select queue from gd_queues where queue = 'mails'").fetchone() == ("mails",)
    run("alembic downgrade base; alembic upgrade head; alembic downgrade base")
    assert conn.execute("select to_regnamespace('gendurable')").fetchone() == (None,)


def test_the_page_names_the_calls_that_sessions_have() -> None:
    calls = {name for name in sqlalchemy.__all__ if isinstance(getattr(sqlalchemy, name), sqlalchemy.SessionCall)}
    [said] = re.findall(r"^A `Session`, .*$", PAGE, re.MULTILINE)
    assert calls <= set(re.findall(r"`(\w+)`", said))
