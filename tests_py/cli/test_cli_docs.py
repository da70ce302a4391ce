"""The commands of docs/cli.md run as they stand, from top to bottom, and the table names every command."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Database
from support.cli import PROGRAM, call, environment
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "cli.md"
SERVES = ("gendurable worker", "gendurable top\n")
Conn = psycopg.Connection[Any]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def bash(db: Database, here: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Each command has to end with 0, or as its comment says."""
    script = f'gendurable() {{ {shlex.quote(sys.executable)} -m gendurable_py.cli "$@"; }}\n'
    for line in text.splitlines():
        command, _, said = line.partition("    # exit code ")
        # The server of the tests has settings that nobody should have.
        most = "-le 1" if "doctor" in command else f"-eq {said or 0}"
        script += f"{command}\n[ $? {most} ] || {{ echo 'line {text[: text.index(line)].count(chr(10))}'; exit 9; }}\n"
    return subprocess.run(
        ["bash", "-c", script],
        cwd=here,
        env=environment(db.dsn),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


# each command is a process of its own
@pytest.mark.timeout(600)
def test_the_commands_of_the_page(db: Database, conn: Conn, tmp_path: Path) -> None:
    [shop] = blocks("python")
    (tmp_path / "shop.py").write_text(shop)
    serving: list[subprocess.Popen[bytes]] = []
    try:
        for block in blocks("sh"):
            for part in re.findall(r"(?:(?!gendurable top\n).+\n)+|gendurable top\n", block):
                if not part.startswith(SERVES):
                    done = bash(db, tmp_path, part)
                    assert done.returncode == 0, done.stdout + done.stderr
                    settled(conn)
                elif part.startswith("gendurable worker"):
                    command = [*PROGRAM, *part.split()[1:]]
                    serving.append(subprocess.Popen(command, cwd=tmp_path, env=environment(db.dsn)))
                    wait_until(lambda: conn.execute("select count(*) from gendurable.machine").fetchone() == (3,), 60)
    finally:
        for process in serving:
            process.send_signal(signal.SIGTERM)
        assert {process.wait(60) for process in serving} <= {0}

    assert len(serving) == 3


def settled(conn: Conn) -> None:
    """What can run has run: the page goes on with what came of it."""
    open_now = {
        "status": ["runnable", "executing"],
        "due_before": (datetime.now(UTC) + timedelta(minutes=1)).isoformat(),
    }
    wait_until(lambda: gd.count(conn, open_now).instances == 0, 60)


def test_the_table_names_every_command(db: Database) -> None:
    page = PAGE.read_text("utf-8")
    made = app.make()
    names = {str(info.name) for info in made.registered_commands} | {str(info.name) for info in made.registered_groups}
    table = page[page.index("## All commands") :]
    named = set(re.findall(r"`([a-z-]+)(?: [a-z]+)?`", table))
    assert names <= named
    assert {name for name in named if name not in names} <= {"queue", "instance", "machine", "step", "schedule"}
    helped = call(db.dsn, "--help").out
    assert all(name in helped for name in names)
