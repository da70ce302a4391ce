"""One night of an operator, on one database with real workers, with nothing but a terminal and the command line."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Database
from support.cli import PROGRAM, Shell, environment, terminal
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py.calls import viewing

Conn = psycopg.Connection[Any]

SHOP = """
import os
import time
from pathlib import Path
from gendurable_py import FSM, Child, Context, Done, Next, Await, ScheduleChilds, job, step

HERE = Path(__file__).parent


class Order(FSM, name="order", queue="orders", max_attempts=2):
    @step
    def start(self, ctx: Context[dict]) -> Next:
        return Next("pay", ctx.state)

    @step
    def pay(self, ctx: Context[dict]) -> Done:
        if ctx.state.get("bank") == "down" and not (HERE / "bank is there").exists():
            raise ConnectionError("no route to bank of order 1")
        return Done({"paid": True})


class Campaign(FSM, name="campaign", queue="campaigns"):
    @step
    def start(self, ctx: Context[dict]) -> ScheduleChilds:
        return ScheduleChilds("end", [Child(Letter, {"to": n}) for n in range(3)], ctx.state)

    @step
    def end(self, ctx: Context[dict]) -> Done:
        return Done(len(ctx.childs))


class Letter(FSM, name="letter", queue="campaigns"):
    @step
    def start(self, ctx: Context[dict]) -> Await:
        return Await("printed", ctx.state)


@job(name="mail", queue="mails")
def mail(args: dict) -> int:
    time.sleep(0.02)
    return 1


@job(name="picture", queue="pictures")
def picture(args: dict) -> int:
    if args.get("broken"):
        os.kill(os.getpid(), 9)
    return 1
"""


class Workers:
    """Workers of the shop, each a program that the command line has started."""

    def __init__(self, dsn: str, here: Path) -> None:
        self._dsn, self._here = dsn, here
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, queues: str, *more: str) -> subprocess.Popen[bytes]:
        command = [*PROGRAM, "worker", "shop", "--queues", queues, *more]
        with open(self._here / f"worker-{len(self.running)}.log", "wb") as log:
            started = subprocess.Popen(
                command, cwd=self._here, env=environment(self._dsn), stdout=log, stderr=subprocess.STDOUT
            )
        self.running.append(started)
        return started

    def stop(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()


@contextlib.contextmanager
def workers(dsn: str, here: Path) -> Iterator[Workers]:
    (here / "shop.py").write_text(SHOP)
    made = Workers(dsn, here)
    try:
        yield made
    finally:
        made.stop()


def served(conn: Conn, queue: str) -> int:
    rows = [row for row in viewing.queues(conn) if row["queue"] == queue]
    return int(str(rows[0]["workers"])) if rows else 0


@pytest.mark.timeout(400)
def test_a_night_of_an_operator(db: Database, conn: Conn, tmp_path: Path) -> None:
    with (
        workers(db.dsn, tmp_path) as shop,
        terminal(db.dsn, "/bin/bash", "--norc", "--noprofile", rows=50, columns=100) as shown,
    ):
        shell = Shell(shown)
        first = shop.start("orders=4,campaigns=4,mails=10")
        wait_until(lambda: served(conn, "orders") == 1, 60)

        # A customer calls: order 2 is stuck.
        shell.run("""insert order '{"bank": "down"}' --key customer:7 --unique order:1""")
        shell.run("pause step order start")
        said = shell.run("insert order '{}' --key customer:7 --unique order:2 --json")
        stuck = json.loads(next(line for line in said.splitlines() if line.startswith("{")))["id"]
        assert f"{stuck}" in shell.run("list --unique order:2")
        until(shell, f"why {stuck}", "step paused")
        assert "order" in shell.run("pauses")
        assert "goes on" in shell.run("resume step order start")
        wait_until(lambda: finished(conn, stuck) == "done", 60)

        # The other one of this customer has failed: what does it say? The bank is there again: once more.
        wait_until(lambda: gd.count(conn, {"status": "failed"}).instances == 1, 60)
        said = shell.run("failures")
        assert "ConnectionError" in said
        bad = int(re.findall(r"^ *1 +order +pay .*? (\d+) +\S*Connection", said, re.MULTILINE)[0])
        assert "raise ConnectionError" in shell.run(f"errors {bad}")
        (tmp_path / "bank is there").touch()
        assert "=> 0" in shell.run(f"retry {bad}")
        wait_until(lambda: finished(conn, bad) == "done", 60)
        assert "done" in shell.run(f"show {bad}")

        # A campaign that nobody wants any more.
        said = shell.run("insert campaign --json")
        tree = json.loads(next(line for line in said.splitlines() if line.startswith("{")))["id"]
        wait_until(lambda: gd.count(conn, {"fsm": "letter", "status": "awaiting_signal"}).instances == 3, 60)
        assert "letter start awaiting_signal" in shell.run(f"show {tree}")
        assert "Cancel 1 instance and 3 below?" in shell.run(f"cancel {tree} --tree --reason 'not needed'", "y")
        assert gd.count(conn, {"status": "cancelled"}).instances == 4

        # The mail server is down: the queue rests, and goes on.
        assert "mails is paused" in shell.run("pause queue mails")
        shell.run("""insert mail '{"to": "ada"}' --unique mail:1""")
        assert re.search(r"mails +1 .*paused", shell.run("queues"))
        [mail] = [row.id for row in gd.list(conn, {"unique_key": "mail:1"}).instances]
        assert "queue paused" in shell.run(f"why {mail}")
        assert "mails goes on" in shell.run("resume queue mails")
        wait_until(lambda: finished(conn, mail) == "done", 60)

        # A machine is to be rebooted: its worker drains while another one goes on.
        [name] = re.findall(r"^(\S+) +running", shell.run("workers"), re.MULTILINE)
        assert f"{name} drains" in shell.run(f"drain {name}")
        until(shell, "workers", "drained")
        second = shop.start("orders=4,campaigns=4,mails=10")
        wait_until(lambda: served(conn, "orders") == 1, 60)
        shell.run("""insert mail --unique mail:2 --wait 30s""")
        first.send_signal(signal.SIGTERM)
        assert first.wait(60) == 0

        # Ten thousand mails, and top.
        lines = "".join('{"fsm": "mail"}\n' for _ in range(10_000))
        (tmp_path / "mails.jsonl").write_text(lines)
        assert "10000" in shell.run(f"insert-many {tmp_path}/mails.jsonl --json")
        with terminal(db.dsn, "top", "--interval", "200ms", rows=30) as top:
            top.shows("sorted by queue", "mails")
            wait_until(lambda: re.search(r"ended [1-9][\d,.]*/s", "\n".join(top.lines)) is not None, 60)
            wait_until(lambda: re.search(r"mails +0 +0 +0", "\n".join(top.lines)) is not None, 120)
            top.press("q")
            assert top.ends() == 0
        wait_until(lambda: gd.count(conn, {"fsm": "mail", "status": "done"}, most=20_000).instances == 10_002, 60)
        assert second.poll() is None

        # Something kills the workers of the pictures. Which one is it?
        for number in range(4):
            shell.run(
                f"insert picture '{json.dumps({'broken': True} if number == 2 else {})}' --unique picture:{number}"
            )
        shop.start("pictures=4", "--processes", "2")
        [guilty] = [row.id for row in gd.list(conn, {"unique_key": "picture:2"}).instances]
        until(shell, "doctor", "lose their worker again and again", timeout=120)
        # After three losses its neighbours are run apart from it.
        said = until(shell, "crashes", f"gendurable pause instance {guilty}", timeout=200)
        assert re.findall(r"^ *(\d+) +\d+ ", said, re.MULTILINE)[0] == str(guilty)
        assert "crashing" in shell.run(f"why {guilty}")
        assert "the worker was lost in this step" in shell.run(f"errors {guilty} --limit 2")
        until(shell, f"pause instance {guilty}", "is paused", timeout=120)
        # Its neighbours, which had lost their workers with it, are done.
        wait_until(lambda: gd.count(conn, {"fsm": "picture", "status": "done"}).instances == 3, 120)

        # In the morning: what was done?
        said = shell.run("audit")
        for call in ("gd_pause_queue", "gd_resume_queue", "gd_drain_worker", "gd_pause", "gd_cancel", "gd_retry"):
            assert f" {call}" in said


def finished(conn: Conn, id: int) -> str | None:
    found = gd.result(conn, id)
    return None if found is None else str(found.status)


def until(shell: Shell, command: str, text: str, timeout: float = 60) -> str:
    """Type a command until it says this; all that it said then."""
    said = [""]

    def is_said() -> bool:
        said[0] = shell.run(command)
        return text in " ".join(said[0].split())

    wait_until(is_said, timeout)
    return said[0]
