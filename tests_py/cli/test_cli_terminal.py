"""An operator with a terminal and nothing but the command line."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from conftest import Database
from psycopg import sql
from psycopg.conninfo import make_conninfo
from support.cli import Shell, Terminal, call, commit_for, terminal
from support.engine import running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine, job
from gendurable_py.calls import viewing
from gendurable_py.cli.frame import Frame
from gendurable_py.cli.top import _Asking

Conn = psycopg.Connection[Any]


@job(name="test_cli_terminal.quick", queue="quick")
def quick(args: dict[str, Any]) -> int:
    return 1


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
        shown.shows("FROZEN")
        gd.insert(conn, "other", queue="c-late")
        shown.press("s")
        shown.shows("sorted by delayed")
        assert "c-late" not in "\n".join(shown.lines)
        shown.press(" ")
        shown.shows("c-late")
        assert max(map(len, shown.lines)) <= 80
        shown.press("q")
        assert shown.ends() == 0
    assert b"\x1b[?1049l" in shown.raw  # the screen that was there before is back


def order(shown: Terminal) -> list[str]:
    return [found[1] for line in shown.lines if (found := re.match(r"[> ] +(a-rest|b-more|quick) ", line))]


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


def test_top_pauses_and_resumes_the_chosen_queue(db: Database, conn: Conn) -> None:
    for name in ("a", "b", "c"):
        gd.insert(conn, "mail", queue=f"queue-{name}")
    with terminal(db.dsn, "top", "--interval", "200ms") as shown:
        shown.shows("queue-c", "q quit")
        assert chosen(shown) == "queue-a"
        # Down by a letter and by an arrow, up by the other arrow; no further than the last one.
        shown.press("j\x1b[B\x1b[B")
        wait_until(lambda: chosen(shown) == "queue-c")
        shown.press("\x1bOA")
        wait_until(lambda: chosen(shown) == "queue-b")
        # Who does not say yes has not said so.
        shown.press("p")
        shown.shows("Pause queue queue-b? [y/N]")
        shown.press("q")
        shown.shows("Nothing was done.")
        assert gd.claim(conn, "w", "queue-b", 0) == [] and paused(conn) == set()
        shown.press("p")
        shown.shows("Pause queue queue-b? [y/N]")
        shown.press("y")
        shown.shows("queue-b is paused")
        assert paused(conn) == {"queue-b"}
        wait_until(lambda: any("queue-b" in line and line.endswith("paused") for line in shown.lines))
        # What is pasted answers no question.
        shown.press("python\n")
        shown.shows("Resume queue queue-b? [y/N]")
        shown.press("n")
        shown.shows("Nothing was done.")
        assert paused(conn) == {"queue-b"}
        # It stays chosen, whatever the order.
        shown.press("s")
        shown.shows("sorted by due")
        assert chosen(shown) == "queue-b"
        shown.press("p")
        shown.shows("Resume queue queue-b? [y/N]")
        shown.press("y")
        shown.shows("queue-b goes on")
        assert paused(conn) == set()
        shown.press("q")
        assert shown.ends() == 0
    assert {row.actor for row in gd.audit(conn).calls} == {"ada"}


def chosen(shown: Terminal) -> str:
    found = [line.split()[1] for line in shown.lines if line.startswith("> ")]
    return found[0] if len(found) == 1 else ""


def paused(conn: Conn) -> set[str]:
    return {str(row["queue"]) for row in viewing.pauses(conn)}


@pytest.fixture
def reader(db: Database, conn: Conn) -> Iterator[str]:
    """The DSN of a role that may look and no more."""
    role = f"gd_top_{conn.info.backend_pid}"
    conn.execute(f"create role {role} login".encode())
    try:
        gd.grant(conn, role, "reader")
        yield make_conninfo(db.dsn, options=f"-c role={role}")
    finally:
        conn.execute(f"drop owned by {role}; drop role {role}".encode())


def test_top_says_who_may_not_pause(conn: Conn, reader: str) -> None:
    gd.insert(conn, "mail", queue="mails")
    with terminal(reader, "top", "--interval", "200ms") as shown:
        shown.shows("mails", "q quit")
        shown.press("p")
        shown.shows("Pause queue mails? [y/N]")
        shown.press("y")
        shown.shows("No: permission denied for function gd_pause_queue. The profile operator may.")
        assert paused(conn) == set()
        # It goes on.
        gd.insert(conn, "mail", queue="more")
        shown.shows("more")
        shown.press("q")
        assert shown.ends() == 0


def test_top_outlives_its_connection(db: Database, conn: Conn) -> None:
    gd.insert(conn, "mail", queue="mails")
    with terminal(db.dsn, "top", "--interval", "200ms") as shown:
        shown.shows("mails", "q quit")
        with refusing(conn):
            shown.shows("The connection is lost, trying again:", "mails")
            # Keys work, and a pause that cannot be made is told.
            shown.press("s")
            shown.shows("sorted by due")
        gd.insert(conn, "mail", queue="later")
        shown.shows("later")
        assert "lost" not in "\n".join(shown.lines)
        shown.press("q")
        assert shown.ends() == 0


def test_top_can_be_left_while_the_database_does_not_answer(db: Database, conn: Conn) -> None:
    gd.insert(conn, "mail", queue="mails")
    with terminal(db.dsn, "top", "--interval", "200ms") as shown:
        shown.shows("mails", "q quit")
        with db.connect(autocommit=False) as other:
            other.execute("lock table gendurable.queue_setting in access exclusive mode")
            shown.shows("The database has not answered for", timeout=60)
            shown.press("q")
            assert shown.ends() == 0


def test_an_error_in_the_thread_of_top_is_not_waited_for() -> None:
    def fail(before: Any) -> Any:
        raise UnicodeError("no text")

    woken = threading.Event()
    asking = _Asking(Frame("", json=False), None, woken.set)  # type: ignore[arg-type]
    asking.ask(fail)
    assert woken.wait(10)
    assert isinstance(asking.fault, UnicodeError)


def test_tail_outlives_its_connection(db: Database, conn: Conn) -> None:
    first, second = gd.insert(conn, "mail"), gd.insert(conn, "mail")
    with terminal(db.dsn, "tail", "--interval", "100ms", "-n", "2") as shown:
        wait_until(lambda: clients(conn))
        gd.cancel(conn, first, "no paper")
        shown.shows(f"{first}  cancelled  mail start  no paper")
        with refusing(conn):
            shown.shows("The connection is lost. Trying again.")
            gd.cancel(conn, second, "no ink")
        shown.shows("The connection is there again.", f"{second}  cancelled  mail start  no ink")
        assert shown.ends() == 0
    assert shown.raw.count(b"no paper") == 1


def clients(conn: Conn) -> list[int]:
    """The servers of the commands that are connected."""
    rows = conn.execute(
        "select pid from pg_stat_activity where datname = current_database() and application_name = 'gendurable'"
    )
    return [row[0] for row in rows.fetchall()]


@contextlib.contextmanager
def refusing(conn: Conn) -> Iterator[None]:
    """Cut what is connected, and let nobody in but whoever is."""
    name = conn.info.dbname
    with psycopg.connect(conn.info.dsn, dbname="postgres", password=conn.info.password, autocommit=True) as beside:
        beside.execute(sql.SQL("alter database {} connection limit 0").format(sql.Identifier(name)))
        # superusers are let in all the same
        beside.execute(sql.SQL("alter database {} allow_connections false").format(sql.Identifier(name)))
        try:
            for pid in clients(conn):
                beside.execute("select pg_terminate_backend(%s)", (pid,))
            yield
        finally:
            beside.execute(sql.SQL("alter database {} allow_connections true").format(sql.Identifier(name)))
            beside.execute(sql.SQL("alter database {} connection limit -1").format(sql.Identifier(name)))


@pytest.mark.parametrize("size", [(24, 200), (16, 60), (10, 40), (5, 20), (2, 9)])
def test_top_follows_the_size_of_its_terminal(db: Database, conn: Conn, size: tuple[int, int]) -> None:
    for number in range(40):
        gd.insert(conn, "mail", queue=f"queue-{number:02}")
    stopped = gd.insert(conn, "bad", queue="default")
    commit_for(conn, stopped, "stop", reason="a long reason that has no end " * 9)
    with terminal(db.dsn, "top", "--interval", "60s") as shown:
        shown.shows("q quit", "more queues", "a long reason")
        shown.resize(*size)
        # drawn anew at once, and as large as it is now
        wait_until(lambda: "q quit" in shown.lines[-1])
        assert len(shown.lines) == size[0] and max(map(len, shown.lines)) <= size[1]
        if size[0] >= 10:
            assert "queue-00" in "\n".join(shown.lines)
            shown.press("G")
            shown.shows(">", "queue-39")
        shown.press("q")
        assert shown.ends() == 0


def test_top_without_colours_and_on_a_dumb_terminal(db: Database, conn: Conn) -> None:
    gd.insert(conn, "mail", queue="mails")
    gd.hold_all(conn, "a test")
    with terminal(db.dsn, "top", NO_COLOR="1") as shown:
        shown.shows(">  mails", "Everything is held", "q quit")
        shown.press("q")
        assert shown.ends() == 0
        # no colour of the foreground or background, by number or by name
        assert re.search(rb"\x1b\[[0-9;]*\b(3[0-8]|4[0-8]|9[0-7])\b[0-9;]*m", shown.raw) is None
    with terminal(db.dsn, "top", TERM="dumb") as shown:
        shown.shows("mails")
        assert shown.ends() == 0
        assert b"\x1b" not in shown.raw


def test_no_terminal_is_needed(db: Database, conn: Conn) -> None:
    gd.insert(conn, "mail")
    assert "default" in call(db.dsn, "top").out
