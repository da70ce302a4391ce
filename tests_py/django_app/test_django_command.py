"""``manage.py gendurable`` of a real project: the command line with its database, and a worker with its apps."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Database
from support.cli import ROOT
from support.djangoproject import described
from support.engine import ended
from support.wait import wait_until

import gendurable_py as gd

MANAGE = """
import os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_settings")
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["gendurable_py.contrib.django", "books", "reports.apps.ReportsConfig"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {databases}
BACKEND = "gendurable_py.contrib.django.tasks.GendurableBackend"
TASKS = {{"default": {{"BACKEND": BACKEND, "QUEUES": ["default", "slow"]}}}}
"""
MODELS = """
from django.db import models

class Book(models.Model):
    title = models.TextField()
"""
MACHINES = """
import os
from django.db import connection
from gendurable_py import job
from .models import Book

@job(name="books.count", queue="books")
def count(args):
    return [Book.objects.count(), os.getpid(), connection.connection.info.backend_pid]
"""
TASKS = """
try:
    from django.tasks import task
except ModuleNotFoundError:
    from django_tasks import task

@task(queue_name="slow")
def write(title):
    from .models import Book
    return Book.objects.create(title=title).pk
"""
APPS = """
from django.apps import AppConfig

class ReportsConfig(AppConfig):
    name = "reports"
"""


class Project:
    """A project in a folder, with its ``manage.py``."""

    def __init__(self, folder: Path, db: Database) -> None:
        self.folder = folder
        self.db = db
        self.write("manage.py", MANAGE)
        self.settings(default=described(db.dsn))
        for app in ("books", "reports"):
            self.write(f"{app}/__init__.py", "")
        self.write("books/models.py", MODELS)
        self.write("books/machines.py", MACHINES)
        self.write("books/tasks.py", TASKS)
        self.write("reports/apps.py", APPS)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def settings(self, **databases: dict[str, Any]) -> None:
        self.write("site_settings.py", SETTINGS.format(databases=databases))

    def start(self, *arguments: str, cwd: Path | None = None, **more: str) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "GENDURABLE_DSN"))}
        return subprocess.Popen(
            [sys.executable, str(self.folder / "manage.py"), *arguments],
            cwd=cwd or self.folder,
            env={**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def manage(self, *arguments: str, code: int = 0, **more: Any) -> tuple[str, str]:
        process = self.start(*arguments, **more)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, (out, err)
        return out, err


@pytest.fixture
def project(tmp_path: Path, db: Database) -> Project:
    return Project(tmp_path, db)


def test_the_commands_have_the_database_of_the_project(project: Project) -> None:
    id = gd.insert(project.db.connect(), "books.count", queue="books")
    out, _ = project.manage("gendurable", "list", "--json", GENDURABLE_DSN="host=nowhere.invalid")
    assert [row["id"] for row in json.loads(out)["instances"]] == [id]
    out, _ = project.manage("gendurable", "show", str(id), "--settings", "site_settings", "--pythonpath=.")
    assert "books.count" in out
    project.manage("gendurable", "show", "999", code=1)
    _, err = project.manage("gendurable", "list", "--nonsense", code=2)
    assert "--nonsense" in err
    out, _ = project.manage("gendurable", "--help")
    assert "top" in out
    out, _ = project.manage("help")
    assert "gendurable" in out


def test_another_database_is_named(project: Project, empty_db: Database) -> None:
    sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    role = described(project.db.dsn, OPTIONS={"assume_role": "gd_nobody here", "connect_timeout": 5})
    project.settings(default=described(project.db.dsn), lite=sqlite, other=described(empty_db.dsn), role=role)
    out, _ = project.manage("gendurable", "install", "--json", "--database", "other")
    assert json.loads(out)["version"]
    out, _ = project.manage("gendurable", "list", "--json", "--database=other")
    assert json.loads(out)["instances"] == []
    _, err = project.manage("gendurable", "list", "--database", "none", code=1)
    assert "DATABASES has default, lite, other, role" in err
    _, err = project.manage("gendurable", "list", "--database", "lite", code=1)
    assert "needs PostgreSQL" in err
    _, err = project.manage("gendurable", "list", "--database", "role", code=3)
    assert "gd_nobody here" in err


def serve(project: Project, *arguments: str, **more: Any) -> subprocess.Popen[str]:
    return project.start("gendurable", "worker", *arguments, **more)


def stop(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, (out, err)
    return out + err


def create_books(conn: psycopg.Connection[Any]) -> None:
    conn.execute("create table books_book (id bigint generated always as identity primary key, title text not null)")


def test_a_worker_serves_the_machines_and_tasks_of_the_apps(project: Project, tmp_path_factory: Any) -> None:
    conn = project.db.connect()
    create_books(conn)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    process = serve(project, "--processes", "2", cwd=elsewhere)
    try:
        code = "from books.tasks import write; print(write.enqueue('Emma').id)"
        out, _ = project.manage("shell", "-v", "0", "-c", code)
        task = int(re.findall(r"\d+", out)[-1])
        [written] = ended(conn, task, timeout=40)
        assert written.status == "done", written
        counted = [gd.insert(conn, "books.count", queue="books") for _ in range(2)]
        for result in ended(conn, *counted):
            assert isinstance(result.result, list)
            assert result.result[0] == 1
            # As after a request: with CONN_MAX_AGE 0 nothing is left open behind a step.
            pid = result.result[2]
            wait_until(
                lambda pid=pid: conn.execute("select 1 from pg_stat_activity where pid = %s", (pid,)).fetchone() is None
            )
    finally:
        said = stop(process)
    assert "serves {'books': 10, 'default': 10, 'slow': 10}" in said


def test_a_worker_may_be_told_what_it_serves(project: Project) -> None:
    conn = project.db.connect()
    create_books(conn)
    process = serve(project, "-p", "2", "books.machines:count", "--log-level", "info")
    try:
        id = gd.insert(conn, "books.count", queue="books")
        [result] = ended(conn, id, timeout=40)
        assert result.status == "done", result
        # one of them may have done that before the other is up
        wait_until(lambda: conn.execute("select count(*) from gd_workers where state = 'running'").fetchone() == (2,))
    finally:
        said = stop(process)
    assert said.count("serves {'books': 10}") == 2


def test_a_worker_that_has_nothing_to_serve_says_so(project: Project) -> None:
    project.write("books/machines.py", "")
    project.write("books/tasks.py", "")
    _, err = project.manage("gendurable", "worker", code=1)
    assert "no installed app has a machine or a task in machines.py or tasks.py" in err
    project.write("books/tasks.py", "import nothing_of_that_name")
    _, err = project.manage("gendurable", "worker", code=1)
    assert "nothing_of_that_name" in err
    out, _ = project.manage("gendurable", "worker", "--help")
    assert "--processes" in out


def test_the_password_is_not_among_the_arguments_of_a_process(project: Project) -> None:
    settings = described(project.db.dsn, PASSWORD="s3cr3t pass'word\\")
    settings["PORT"] = "1"
    project.settings(default=settings)
    _, err = project.manage("gendurable", "list", code=3)
    assert "s3cr3t" not in err


def test_by_call_command_it_ends_as_a_command_does(project: Project) -> None:
    code = (
        "from django.core.management import call_command\n"
        "try:\n    call_command('gendurable', 'list', '--json')\n"
        "except SystemExit as end:\n    print('ended', end.code)"
    )
    out, _ = project.manage("shell", "-v", "0", "-c", code)
    assert "ended 0" in out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("", False),
        ("-p 4 --run-ahead", False),
        ("-p4 --queues=books=2 -q slow=1", False),
        ("-p4 books.machines", True),
        ("--processes=4 books.machines", True),
        ("--lease 10s books.machines", True),
    ],
)
def test_whether_a_worker_is_told_what_it_serves(words: str, named: bool) -> None:
    from gendurable_py.contrib.django.management.commands.gendurable import _names_modules

    assert _names_modules(words.split()) is named


def test_every_flag_of_a_worker_is_known() -> None:
    from typer.main import get_command

    from gendurable_py.cli import app
    from gendurable_py.contrib.django.management.commands.gendurable import _FLAGS

    worker = get_command(app.make()).commands["worker"]  # type: ignore[attr-defined]
    flags = {name for option in worker.params if getattr(option, "is_flag", False) for name in option.opts}
    assert flags == _FLAGS - {"--help", "-h"}
