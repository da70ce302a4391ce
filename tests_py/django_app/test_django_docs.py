"""The page docs/django.md runs as it stands, from top to bottom: a project is made, served, asked and tested."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Database
from psycopg.conninfo import conninfo_to_dict
from support.cli import ROOT
from support.engine import ended
from support.wait import wait_until

import gendurable_py as gd

PAGE = (ROOT / "docs" / "django.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
WORKER = "python manage.py gendurable worker"
URL = """
import json, sys
from django.test import Client
for path in sys.argv[1:]:
    response = Client(HTTP_HOST="localhost").get(path)
    assert response.status_code == 200, response.content
    print("answer", response.content.decode())
"""


def environment(db: Database) -> dict[str, str]:
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    given = conninfo_to_dict(db.dsn)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "GENDURABLE_", "DJANGO_"))}
    known = {names[name]: str(value) for name, value in given.items() if name in names}
    return {**kept, **known, "PYTHONPATH": str(ROOT)}


def command(line: str) -> list[str]:
    program, *rest = shlex.split(line)
    return [sys.executable, *(["-m", "django"] if program == "django-admin" else []), *rest]


def write(folder: Path, text: str) -> None:
    """A block whose first line names its file."""
    name, _, how = text.partition("\n")[0].removeprefix("# ").partition(" ")
    path = folder / name
    before = path.read_text() if how else ""
    if name.endswith("settings.py") and "import os" not in before:
        before = "import os\n" + before  # the settings that Django makes may do without
    path.write_text(before + text)


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/jobs/static/app.css").status_code == 200
    except httpx.TransportError:
        return False


def test_the_page(empty_db: Database, tmp_path: Path) -> None:
    env = environment(empty_db)
    serving: list[subprocess.Popen[bytes]] = []

    def run(arguments: list[str], **more: Any) -> str:
        done = subprocess.run(
            arguments, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100, check=False, **more
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def ask(code: str, *arguments: str) -> list[Any]:
        set_up = "import os, django\nos.environ['DJANGO_SETTINGS_MODULE'] = 'bookshop.settings'\ndjango.setup()\n"
        said = run([sys.executable, "-c", set_up + code, *arguments])
        return [json.loads(line.removeprefix("answer ")) for line in said.splitlines() if line.startswith("answer ")]

    try:
        for language, text in BLOCKS:
            if language == "py":
                write(tmp_path, text)
                continue
            assert language == "sh"
            for line in text.splitlines():
                if line.startswith("pip "):
                    continue
                if line.startswith(WORKER):
                    serving.append(subprocess.Popen(command(line), cwd=tmp_path, env=env))
                    continue
                run(command(line))

        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        served = [sys.executable, "-m", "uvicorn", "bookshop.asgi:application", "--port", str(port)]
        dashboard = subprocess.Popen(
            [*served, "--timeout-graceful-shutdown", "5", "--log-level", "error"], cwd=tmp_path, env=env
        )
        serving.append(dashboard)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Accept": "text/html"}) as client:
            wait_until(lambda: answers(client), 60)
            asked = client.get("/jobs/queues")
            assert (asked.status_code, asked.headers["location"]) == (303, "/admin/login/?next=%2Fjobs%2Fqueues")
            assert "csrfmiddlewaretoken" in client.get(asked.headers["location"]).text

        conn = empty_db.connect()
        [bought] = ask(URL, "/buy?email=ada%40example.com")
        wait_until(lambda: gd.result(conn, bought["instance"]).status == "awaiting_signal", 40)  # type: ignore[union-attr]
        assert ask(URL, f"/payment/{bought['order']}") == [{"answer": "delivered"}]
        [paid] = ended(conn, bought["instance"])
        assert paid.result == "paid"

        # The worker was started before there were tasks: here is another one, which knows them.
        serving.append(subprocess.Popen(command(WORKER), cwd=tmp_path, env=env))
        enqueue = "import sys\nfrom shop import tasks\nprint('answer', getattr(tasks, sys.argv[1]).enqueue(1).id)"
        ids = [ask(enqueue, name)[0] for name in ("thank", "give_back")]
        thanked, given = ended(conn, *ids, timeout=40)
        assert isinstance(thanked.result, dict)
        assert thanked.result["return_value"] == "Thank you, ada@example.com"
        assert given.status == "done", given
        assert conn.execute("select paid from shop_order").fetchone() == (False,)
    finally:
        for process in serving:
            process.send_signal(signal.SIGTERM)
        ends = {process.wait(60) for process in serving}
    assert ends <= {0, -signal.SIGTERM}
    assert len(serving) == 3


@pytest.mark.parametrize("table", ["option", "permission"])
def test_the_tables_are_complete(table: str) -> None:
    from support import djangoproject

    assert djangoproject
    rows = re.search(rf"^\| {table} \|.*?\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert rows is not None
    named = set(re.findall(r"`(?:gendurable\.)?(\w+)`", "\n".join(row.split("|")[1] for row in rows[1].splitlines())))
    if table == "option":
        pytest.importorskip("gendurable_py.contrib.django._framework")
        from gendurable_py.contrib.django.tasks import _OPTIONS

        assert named == {*_OPTIONS, "database"}
    else:
        from django.apps import apps

        known = set()
        for model in apps.get_app_config("gendurable").get_models():
            known |= {codename for codename, _ in model._meta.permissions} | {f"view_{model._meta.model_name}"}
        assert named == known
