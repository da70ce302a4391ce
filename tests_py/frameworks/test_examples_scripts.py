"""The examples of Flask, for cron and in a notebook run: in the real framework, as programs, in a kernel."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import psycopg
import pytest
from conftest import Database
from support.wait import wait_until

import gendurable_py as gd
from examples._run import play

ROOT = Path(__file__).resolve().parents[2]
Conn = psycopg.Connection[Any]


@pytest.fixture
def environment(db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The PG* variables of this database, here and for programs."""
    known = psycopg.conninfo.conninfo_to_dict(db.dsn)
    named = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    for key, variable in named.items():
        if key in known:
            monkeypatch.setenv(variable, str(known[key]))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.delenv("GENDURABLE_DSN", raising=False)
    return dict(os.environ)


async def test_the_shop_in_flask(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLES_DSN", db.dsn)
    example = importlib.import_module("examples.web_flask")
    assert await play(db.dsn, example.MACHINES, example.QUEUES, example.scene, example.SCHEMA) == {
        "said": [202, 422, "delivered", "duplicate", "404 NOT FOUND"],
        "result": {"paid": 250},
        "orders": ["ada"],
    }


@contextmanager
def worker(environment: dict[str, str], *arguments: str) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "gendurable_py.cli", "worker", *arguments], env=environment, cwd=ROOT
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_the_shop_is_served_by_flask_and_a_worker(db: Database, conn: Conn, environment: dict[str, str]) -> None:
    example = importlib.import_module("examples.web_flask")
    conn.execute(example.SCHEMA)
    app = example.create_app()  # with a pool of its own
    with worker(environment, "examples.web_flask", "--queues", "orders=10"):
        client = app.test_client()
        assert client.post("/orders", json={"customer": "ada", "cents": 250}).status_code == 202
        assert client.post("/orders/1/paid", headers={"Idempotency-Key": "1"}).get_json() == {"signal": "delivered"}
        wait_until(lambda: conn.execute("select status from gd_instances").fetchone() == ("done",), 60)
    found = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "examples.web_flask", "routes"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "/orders/<int:order>/paid" in found.stdout


def cron(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "examples.cron_job", *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def test_what_cron_starts_is_made_once_a_day(db: Database, conn: Conn, environment: dict[str, str]) -> None:
    assert cron(environment, "yesterday")[0] == 2
    with worker(environment, "examples.cron_job"):
        first = cron(environment, "2026-03-05")
        assert first == cron(environment, "2026-03-05")
        assert (first[0], first[1].split(": ", 1)[1]) == (0, "{'day': '2026-03-05', 'days': 5}\n")
        assert cron(environment)[0] == 0
    assert conn.execute("select status, count(*) from gd_instances group by 1").fetchall() == [("done", 2)]


def test_what_cron_started_says_that_it_failed(db: Database, conn: Conn, environment: dict[str, str]) -> None:
    example = importlib.import_module("examples.cron_job")
    id = gd.insert(conn, example.report, example.Day(day="2026-03-05"), unique_key="report:2026-03-05")
    [claim] = gd.claim(conn, "by hand")
    waits = "select count(*) from gendurable.watch"
    with subprocess.Popen(
        [sys.executable, "-m", "examples.cron_job", "2026-03-05"],
        env=environment,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait_until(lambda: conn.execute(waits).fetchone() == (1,), 60)
            stop = {"id": id, "claim_no": claim.claim_no, "kind": "stop", "reason": "no paper"}
            assert [one.result for one in gd.commit(conn, "by hand", [stop])] == ["ok"]
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, said) == (1, f"instance {id} is failed: no paper\n")


def test_the_notebook_runs_in_a_kernel(db: Database, environment: dict[str, str], tmp_path: Path) -> None:
    book = nbformat.read(ROOT / "examples" / "notebook.ipynb", as_version=4)
    assert [cell for cell in book.cells if cell.get("outputs")] == [], "it is kept without what came out"
    client = nbclient.NotebookClient(
        book, kernel_name="python3", timeout=60, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    said = [
        output["data"]["text/plain"]
        for cell in book.cells
        for output in cell.get("outputs", [])
        if output["output_type"] == "execute_result"
    ]
    squares = [None if n == 7 else n * n for n in range(10)]
    assert said[-2:] == [str(squares), "['1 of notebook.square: ValueError: seven is refused']"]
