"""What all commands share: exit codes, errors with their hints, JSON, terminals, pipes, signals, passwords."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer
from conftest import Database
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from support.cli import PROGRAM, call, environment, program, terminal
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py.cli import app, reading
from gendurable_py.cli.frame import Frame

Conn = psycopg.Connection[Any]
ROOT = Path(__file__).resolve().parents[2]
SECRET = "tr0ub4dor"


def commands() -> list[tuple[str, typer.models.CommandInfo]]:
    found = []

    def walk(one: typer.Typer, path: str) -> None:
        found.extend((f"{path}{info.name}", info) for info in one.registered_commands)
        for group in one.registered_groups:
            assert group.typer_instance is not None
            walk(group.typer_instance, f"{path}{group.name} ")

    walk(app.make(), "")
    return found


COMMANDS = dict(commands())


@pytest.mark.parametrize("name", COMMANDS.keys() - {"completion"})
def test_every_command_takes_a_dsn_and_answers_in_json(name: str) -> None:
    function = COMMANDS[name].callback
    assert function is not None
    assert {"dsn", "json"} <= set(inspect.signature(function).parameters)
    assert inspect.getdoc(function)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_in_80_columns(db: Database, name: str) -> None:
    said = call(db.dsn, *name.split(), "--help")
    assert max(map(len, said.out.splitlines())) <= 80


def test_the_entry_point_is_there() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["gendurable"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_one_line_says_what_to_install(missing: str) -> None:
    script = f"import sys; sys.modules[{missing!r}] = None; from gendurable_py.cli import main; main([])"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(""), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"gendurable: the command line needs {missing}: pip install 'gendurable_py[cli]'\n"


# -- exit codes


def test_exit_codes(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "mail")
    call(db.dsn, "show", id, code=0)
    assert "there is no instance 99" in call(db.dsn, "show", 99, code=1).err
    assert "no such" in call(db.dsn, "trigger", "nightly", code=1).err.lower()
    call(db.dsn, "wait", id, "--timeout", "0", code=1)
    call(db.dsn, "show", "x", code=2)
    call(db.dsn, "insert", "mail", "{", code=2)
    said = call(db.dsn, "list", "--status", "nope", code=3)
    assert "no such status" in said.err
    assert "hint: Statuses: runnable" in said.err


def test_errors_are_json_too(db: Database) -> None:
    said = call(db.dsn, "list", "--status", "nope", "--json", code=3)
    assert said.out == ""
    told = json.loads(said.err)
    assert (told["sqlstate"], told["error"].split(" (")[0]) == ("GD501", "no such status")
    assert told["hint"].startswith("Statuses:")
    assert json.loads(call(db.dsn, "show", 99, "--json", code=1).err) == {"error": "there is no instance 99 (any more)"}


def test_a_database_without_gendurable_is_told(empty_db: Database) -> None:
    said = call(empty_db.dsn, "list", code=3)
    assert "gendurable install" in " ".join(said.err.split())


def test_a_role_without_rights_is_told(db: Database, conn: Conn) -> None:
    role = f"gd_cli_{conn.info.backend_pid}"
    conn.execute(f"create role {role} login".encode())
    try:
        conn.execute("select gd_grant(%s::regrole, 'reader')", (role,))
        id = gd.insert(conn, "mail")
        assert id is not None
        as_role = make_conninfo(db.dsn, options=f"-c role={role}")
        call(as_role, "list", code=0)
        call(as_role, "show", id, code=0)
        said = call(as_role, "cancel", id, code=3)
        assert "permission denied" in said.err
        assert "operator" in said.err
    finally:
        conn.execute(f"drop owned by {role}; drop role {role}".encode())


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", 2**63],
        ["cancel", 1, 2**70],
        ["insert", "mail", "--priority", 2**31],
        ["list", "--parent", -(2**64)],
        ["list", "--version", 2**31],
        ["insert", "\udcff"],
        ["list", "--key", "a\udcff"],
        ["signal", 1, "\udcff"],
    ],
)
def test_what_the_server_has_no_argument_for_is_usage(db: Database, arguments: list[object]) -> None:
    said = call(db.dsn, *arguments, code=2)
    assert "Invalid value" in said.err


# -- passwords


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://ada:{SECRET}@127.0.0.1:1/x",
        f"postgresql://127.0.0.1:1/x?user=ada&password={SECRET}",
        f"postgrsql://ada:{SECRET}@127.0.0.1:1/x",
        f"postgresql://ada:%{SECRET}@127.0.0.1:1/x",
        f"postgresql://ada:{SECRET}@127.0.0.1:port/x",
        f"host=127.0.0.1 port=1 password={SECRET}",
        f"host=127.0.0.1 port=1 password='{SECRET}",
        f"host=127.0.0.1 port=1 pasword={SECRET}",
        f"host=127.0.0.1 port=1 password=a {SECRET}",
        f"{SECRET}",
    ],
)
@pytest.mark.parametrize("command", [["list"], ["list", "--json"], ["worker", "tests_py.support.handlers"]])
def test_no_password_is_shown(dsn: str, command: list[str]) -> None:
    said = call(dsn, *command, code=None)
    assert said.code in (2, 3)
    assert said.err
    assert SECRET not in said.out + said.err


def test_no_password_is_shown_by_help_and_by_usage_errors(db: Database) -> None:
    for arguments in (["list", "--help"], ["list", "--nope"], ["show"]):
        done = program(make_conninfo(db.dsn, password=SECRET), *arguments, PGPASSWORD=SECRET)
        assert SECRET not in done.stdout + done.stderr


def test_a_password_in_the_text_of_an_error_is_hidden() -> None:
    frame = Frame(f"postgresql://ada:{SECRET}@h/x", False)
    for text in (f"bad {SECRET}", f"postgres://u:{SECRET}x@h", "password = 'a b c'", "sslpassword=xyz host=h"):
        said = frame.scrub(text)
        assert "***" in said
        assert not {SECRET, "a b c", "xyz"} & set(re.split(r"[ =@:/]", said))


# -- who acts


def test_what_is_done_is_told_with_who_did_it(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "mail")
    call(db.dsn, "cancel", id, "--reason", "not any more")
    call(db.dsn, "pause", "queue", "default")
    done = [(row.call, row.actor, row.application) for row in gd.audit(conn).calls]
    assert done == [("gd_pause_queue", "ada", "gendurable"), ("gd_cancel_many", "ada", "gendurable")]


def test_who_acts_is_forgotten_with_the_transaction(db: Database) -> None:
    # Behind a proxy that pools transactions the session is somebody else's next.
    frame = Frame(db.dsn, False)
    with frame.acting() as conn:
        assert conn.execute("select current_setting('gendurable.actor', true)").fetchone() != ("",)
    assert frame.conn.execute("select current_setting('gendurable.actor', true)").fetchone() == ("",)
    frame.close()


# -- terminals and pipes

HOSTILE = ["\x1b[2Jx", "[red]no[/red]", "a\nb", "\u202eright", "\x07\x9b1m", "ü \U0001f600", ":smile:", "x" * 300]


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_of_others_do_not_steer_the_terminal(db: Database, conn: Conn, text: str) -> None:
    id = gd.insert(conn, f"m{text}"[:200], {text: text}, queue=f"q{text}"[:200], unique_key=text, meta={text: text})
    assert id is not None
    gd.cancel(conn, id, text)
    for arguments in (["list"], ["show", id], ["why", id], ["errors", id], ["queues"], ["audit"], ["top", "--once"]):
        said = call(db.dsn, *arguments)
        assert [letter for letter in said.out if letter != "\n" and not letter.isprintable()] == [], arguments
    ended = call(db.dsn, "wait", id, code=1)
    assert [letter for letter in ended.out if letter != "\n" and not letter.isprintable()] == []
    assert "[red]no[/red]" not in text or "[red]no[/red]" in call(db.dsn, "list").out
    row = call(db.dsn, "list", "--json").json["instances"][0]
    assert (row["unique_key"], row["last_error"]) == (text, text)


@pytest.mark.parametrize("columns", [80, 40])
def test_a_narrow_terminal_shows_whole_ids_and_no_line_is_broken(db: Database, conn: Conn, columns: int) -> None:
    conn.execute("select setval(pg_get_serial_sequence('gendurable.instance', 'id'), 1234567890123)")
    id = gd.insert(conn, "a.very.long.name.of.a.module:ThatIsAMachine", queue="a-very-long-name-of-a-queue")
    with terminal(db.dsn, "list", columns=columns) as shown:
        assert shown.ends() == 0
        assert str(id) in "\n".join(shown.lines)
        assert "runnable" in "\n".join(shown.lines)
    plain = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", shown.raw).decode()
    assert max(len(line) for line in plain.splitlines()) <= columns


def test_without_colour_there_is_no_escape(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "mail")
    assert id is not None
    gd.cancel(conn, id)
    with terminal(db.dsn, "show", id) as shown:
        assert shown.ends() == 0
    assert b"\x1b[" in shown.raw  # the terminal is one that has colours
    with terminal(db.dsn, "show", id, NO_COLOR="1", TERM="dumb") as shown:
        assert shown.ends() == 0
        assert "cancelled" in "\n".join(shown.lines)
    assert b"\x1b[3" not in shown.raw


def test_in_a_pipe_nothing_is_cut(db: Database, conn: Conn) -> None:
    name = "m" * 150
    gd.insert(conn, name, queue="q" * 150, unique_key="u" * 150)
    assert name in call(db.dsn, "list").out
    assert "u" * 150 in call(db.dsn, "list").out


def test_an_encoding_that_cannot_say_it(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "müll", {"ü": "ö"})
    for arguments in (["show", id], ["list"], ["queues"], ["top", "--once"], ["list", "--help"]):
        done = program(db.dsn, *arguments, PYTHONIOENCODING="ascii", LC_ALL="C")
        assert done.returncode == 0, done.stderr
        assert done.stdout.isascii()
    done = program(db.dsn, "list", "--json", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert json.loads(done.stdout)["instances"][0]["fsm"] == "müll"


def test_a_broken_pipe_is_quiet(db: Database, conn: Conn) -> None:
    gd.insert_many(conn, [{"fsm": "mail"}] * 3000)
    for arguments in (["list", "--all", "--json"], ["list", "--all"]):
        with subprocess.Popen(
            [*PROGRAM, *arguments], env=environment(db.dsn), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(30) == 141


def test_an_interrupt_is_quiet_and_ends_the_query(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "mail")
    with subprocess.Popen(
        [*PROGRAM, "wait", str(id)], env=environment(db.dsn), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        asks = "select count(*) from pg_stat_activity where application_name = 'gendurable'"
        wait_until(lambda: conn.execute(asks).fetchone() == (1,))
        wait_until(lambda: conn.execute("select count(*) from gendurable.watch").fetchone() == (1,))
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (130, b"", b"")
        wait_until(lambda: conn.execute(asks).fetchone() == (0,))


def test_pg_variables_say_where(db: Database, conn: Conn) -> None:
    gd.insert(conn, "mail")
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    given = {names[key]: str(value) for key, value in conninfo_to_dict(db.dsn).items() if key in names}
    done = program("", "list", "--count", **given)
    assert (done.returncode, done.stdout) == (0, "1\n")


# -- what is typed


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("5m", 300),
        ("2h", 7200),
        ("1d", 86400),
        ("1h30m", 5400),
        ("250ms", 0.25),
        ("1w", 604800),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert reading.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "5x", "-5", "1h x", "h", "1e9"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        reading.duration(text)


@pytest.mark.parametrize("text", ["", "tomorrow", "2027-13-01", "99999999999999w"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        reading.moment(text)


@pytest.mark.parametrize("text", ["default=0", "=3", "a=b", "", "a,,b", "a=-1"])
def test_what_are_no_queues_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        reading.concurrency(text)


def test_queues() -> None:
    assert reading.concurrency("default=10, mail ,a=b=2") == {"default": 10, "mail": 10, "a=b": 2}
