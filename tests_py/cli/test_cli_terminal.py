"""An operator with a terminal and nothing but the command line."""

from __future__ import annotations

import re
import shlex
import sys
from typing import Any

import psycopg
import pytest
from conftest import Database
from support.cli import Terminal, call, commit_for, terminal
from support.engine import running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine, job

Conn = psycopg.Connection[Any]


@job(name="test_cli_terminal.quick", queue="quick")
def quick(args: dict[str, Any]) -> int:
    return 1


class Shell:
    """A shell in which ``gendurable`` is a command; each answer is what stands below its prompt."""

    def __init__(self, shown: Terminal) -> None:
        self.shown = shown
        self._count = 0
        shown.type(f"gendurable() {{ {shlex.quote(sys.executable)} -m gendurable_py.cli \"$@\"; }}; PS1='> '; clear")
        shown.shows(">")

    def run(self, command: str, *answers: str) -> str:
        """Type a command, answer what it asks, and wait for its end: what it said, and ``=> CODE``."""
        self._count += 1
        mark = f"end {self._count}"
        self.shown.type(f'clear; gendurable {command}; echo "=> $?, {mark[:3]} {self._count}"')
        for answer in answers:
            self.shown.shows("[y/N]")
            self.shown.type(answer)
        self.shown.shows(f", {mark}")
        return "\n".join(self.shown.lines)


def test_an_operator_finds_out_and_helps(db: Database, conn: Conn) -> None:
    bad = gd.insert(conn, "order", {"order": 1}, partition_key="customer:7", max_attempts=2)
    commit_for(
        conn,
        bad,
        "error",
        "w1",
        error="ConnectionError: no route to bank",
        traceback="File pay.py, line 12",
        delay_ms=0,
    )
    stuck = gd.insert(conn, "order", {"order": 2}, partition_key="customer:7")
    [claim] = gd.claim(conn, "w1", limit=1)
    assert claim.id == bad

    with terminal(db.dsn, "/bin/bash", "--norc", "--noprofile", rows=50) as shown:
        shell = Shell(shown)

        # Why is the second order of this customer stuck?
        assert f"{stuck}" in shell.run("list --key customer:7")
        said = shell.run(f"why {stuck}")
        assert "key" in said
        assert f"behind instance {bad}" in " ".join(said.split())
        assert "holds" in shell.run("line customer:7")

        # The first one has failed: what does it say?
        gd.commit(
            conn, "w1", [{"id": bad, "claim_no": claim.claim_no, "kind": "error", "error": "ConnectionError: no bank"}]
        )
        assert "no bank" in shell.run("failures")
        assert f"{bad}" in shell.run("list --status failed")
        said = shell.run(f"errors {bad}")
        assert "File pay.py, line 12" in said

        # So the second one could go on, and the bank is there again.
        commit_for(conn, stuck, "done", "w1")
        assert "done: 1" in shell.run("retry --machine order --error ConnectionError", "y")
        assert "=> 0" in shell.run(f"show {bad}")
        commit_for(conn, bad, "done", "w1")
        assert "done" in shell.run(f"show {bad}")

        # A tree that nobody wants any more.
        tree = gd.insert(conn, "tree")
        commit_for(conn, tree, "schedule_childs", "w1", step="join", childs=[{"fsm": "leaf"}] * 3)
        assert "leaf start runnable" in shell.run(f"show {tree}")
        assert "Nothing was done." in shell.run(f"cancel {tree} --tree", "n")
        said = shell.run(f"cancel {tree} --tree --reason 'not needed'", "y")
        assert "Cancel 1 instance and 3 below?" in said
        assert gd.count(conn, {"fsm": "leaf", "status": "cancelled"}).instances == 3

        # A queue that is to rest.
        gd.insert(conn, "mail", queue="mails")
        shell.run("pause queue mails")
        assert re.search(r"mails +1 .*paused", shell.run("queues"))
        assert gd.claim(conn, "w1", "mails") == []
        assert "mails goes on" in shell.run("resume queue mails")
        assert len(gd.claim(conn, "w1", "mails")) == 1
        assert "=> 1" in shell.run("show 99")
        assert "gd_resume_queue" in shell.run("audit")


def test_top_while_jobs_run(db: Database, conn: Conn) -> None:
    gd.insert(conn, "other", queue="a-rest")
    for _ in range(10):
        gd.insert_many(conn, [{"fsm": "test_cli_terminal.quick", "queue": "quick"}] * 1000)
    with terminal(db.dsn, "top", "--interval", "200ms", rows=30) as shown:
        shown.shows("due 10001", "q quit", "sorted by queue")
        with running(Engine(db.dsn, [quick], queues={"quick": 20})):
            # It is seen as it happens.
            wait_until(lambda: re.search(r"ended [1-9][\d,.]*/s", "\n".join(shown.lines)), 60)
            wait_until(lambda: gd.count(conn, {"status": "done"}).instances == 10_000, 90)
        shown.shows("due 1 ", timeout=60)

        # Keys: another order, a pause, the end.
        gd.insert_many(conn, [{"fsm": "other", "queue": "b-more"}] * 5)
        shown.shows("b-more")
        assert order(shown) == ["a-rest", "b-more", "quick"]
        shown.press("s")
        shown.shows("sorted by due")
        assert order(shown)[0] == "b-more"
        shown.press("r")
        wait_until(lambda: order(shown)[-1] == "b-more")
        shown.press(" ")
        shown.shows("PAUSED")
        gd.insert(conn, "other", queue="c-late")
        shown.press("s")
        shown.shows("sorted by delayed")
        assert "c-late" not in "\n".join(shown.lines)
        shown.press("p")
        shown.shows("c-late")
        assert max(map(len, shown.lines)) <= 80
        shown.press("q")
        assert shown.ends() == 0
    assert b"\x1b[?1049l" in shown.raw  # the screen that was there before is back


def order(shown: Terminal) -> list[str]:
    return [line.split()[0] for line in shown.lines if re.match(r"(a-rest|b-more|quick) ", line)]


@pytest.mark.parametrize("key", ["\x03", "q"])
def test_top_leaves_the_terminal_as_it_was(db: Database, conn: Conn, key: str) -> None:
    with terminal(db.dsn, "/bin/bash", "--norc", "--noprofile") as shown:
        Shell(shown)
        shown.type("clear; gendurable top")
        shown.shows("q quit")
        shown.press(key)
        wait_until(lambda: shown.lines and b"\x1b[?1049l" in shown.raw)
        shown.type("clear; stty -a | grep -c -- '-icanon' ; stty -a | grep -c -- '-echo ' ; echo 'aft''er'")
        shown.shows("after")
        assert [line for line in shown.lines if line in ("0", "1")] == ["0", "0"]


def test_top_on_a_small_terminal(db: Database, conn: Conn) -> None:
    for number in range(40):
        gd.insert(conn, "mail", queue=f"queue-{number}")
    with terminal(db.dsn, "top", rows=16, columns=60) as shown:
        shown.shows("more queues", "q quit")
        shown.press("q")
        assert shown.ends() == 0


def test_no_terminal_is_needed(db: Database, conn: Conn) -> None:
    gd.insert(conn, "mail")
    assert "default" in call(db.dsn, "top").out
