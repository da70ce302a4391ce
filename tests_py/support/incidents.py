"""A night of docs/incident.md: a database in which something is wrong, and the blocks that are still to be run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from support.cli import PROGRAM, environment
from support.server import ROOT
from support.shown import Part, read_tables, sections, steady
from support.wait import wait_until

import gendurable_py as gd

_SECTIONS = sections(ROOT / "docs" / "incident.md")
BEGINNING = _SECTIONS.pop("")
SYMPTOMS = _SECTIONS
# The application whose night it is: what each of its steps does, the symptoms say.
SHOP = """
import asyncio
import os
from pathlib import Path

from gendurable_py import FSM, Await, Context, Done, Next, job, step


class Order(FSM, name="order", queue="orders", max_attempts=1):
    @step
    def start(self, ctx: Context[dict]) -> Next:
        return Next(self.pay, ctx.state)

    @step
    async def pay(self, ctx: Context[dict]) -> Done | Await:
        if ctx.state.get("waits"):
            paid = ctx.signal("payment")
            return Done(paid.payload) if paid else Await("payment", ctx.state)
        if ctx.state.get("hangs"):
            await asyncio.Event().wait()
        if "card" not in ctx.state and Path("broken").exists():
            raise KeyError("card")
        return Done()


@job(name="mail", queue="mails")
def mail(args: dict) -> str:
    return "sent"


@job(name="report", queue="reports")
def report(args: dict) -> str:
    return "written"


@job(name="thumbnail", queue="photos")
def thumbnail(args: dict) -> str:
    if args["photo"] == "huge.tiff":
        os.abort()
    return "small"
"""


class Night:
    """The database, whoever looks into it, and the processes that the page starts."""

    def __init__(self, dsn: str, folder: Path, path: str) -> None:
        self.dsn, self._folder, self._path = dsn, folder, path
        self._stack = ExitStack()
        self.conn = self.session()
        self._parts: list[Part] = []
        (folder / "shop.py").write_text(SHOP)

    def session(self, **options: Any) -> psycopg.Connection[Any]:
        """Another session, until the night is over."""
        return self._stack.enter_context(psycopg.connect(self.dsn, autocommit=True, **options))

    def insert(self, fsm: str, state: dict[str, Any] | None = None, **options: Any) -> int:
        id = gd.insert(self.conn, fsm, state or {}, **options)
        assert id is not None
        return id

    def file(self, name: str) -> Path:
        """A file beside the application, which it may look for."""
        return self._folder / name

    def one(self, query: str, *values: Any) -> Any:
        row = self.conn.execute(query.encode(), values).fetchone()
        assert row is not None
        return row[0]

    def until(self, query: str, timeout: float = 60) -> None:
        wait_until(lambda: self.one(query), timeout)

    def age(self, minutes: int, where: str = "true") -> None:
        """What is there has been there for so long."""
        earlier = ", ".join(
            f"{column} = {column} - interval '{minutes} minutes'"
            for column in ("inserted_at", "updated_at", "eligible_at", "lane_at", "finished_at", "lease_expires_at")
        )
        self.conn.execute(f"update gendurable.instance set {earlier} where {where}".encode())

    def ends(self, *ids: int, status: str = "done", timeout: float = 60) -> None:
        query = "select count(*) = %s from gd_instances where id = any(%s) and status = %s"
        wait_until(lambda: self.one(query, len(ids), list(ids), status), timeout)

    # -- the page

    def answers(self, text: str, *options: str) -> str:
        """What psql says to these statements."""
        program = shutil.which("psql", path=self._path)
        if program is None:
            pytest.skip("needs psql (Debian: apt-get install postgresql-client)")
        names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
        said = {names[key]: str(value) for key, value in conninfo_to_dict(self.dsn).items() if key in names}
        done = subprocess.run(
            [program, "-X", "-v", "ON_ERROR_STOP=1", "-f", "-", *options],
            input=text,
            env={**os.environ, "PATH": self._path, **said},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, (text, done.stdout, done.stderr)
        return done.stdout

    def looks(self, pid: int = 0) -> None:
        """The next block shows what the page shows. ``pid``: the process that is 4711 on the page."""
        part = self._parts.pop(0)
        assert part.language == "sql" and part.answer, part
        said = re.sub(rf"\b{pid}\b", "4711", self.answers(part.text)) if pid else self.answers(part.text)
        found, told = read_tables(steady(said)), read_tables(steady(part.answer))
        if part.answer.startswith("> "):
            assert [": ".join(row) for row in found[1:]] == [": ".join(row) for row in told]
        elif "gd_doctor" in part.text:  # the server of a test has more that it would tell
            assert [row for row in found if row in told] == told, found
        else:
            assert found == told, part.text

    def continues(self, other: Night) -> None:
        """The page goes on here, in another database."""
        self._parts = other._parts

    def cures(self, *answers: str, dsn: str = "") -> None:
        """The next block is done; in SQL, each of its statements answers this. ``dsn``: what its hosts are here."""
        part = self._parts.pop(0)
        assert not part.answer, part
        if part.language == "sql":
            said = self.answers(part.text, "-q", "-A", "-t").splitlines()
            assert said == list(answers), part.text
            return
        for line in part.text.splitlines():
            if line.startswith("export GENDURABLE_DSN="):
                shown = conninfo_to_dict(shlex.split(line)[1].partition("=")[2])
                assert {**shown, **conninfo_to_dict(dsn)}["target_session_attrs"] == shown["target_session_attrs"]
                self.dsn = make_conninfo(**{**shown, **conninfo_to_dict(dsn)})
            elif line.startswith("gendurable worker "):
                self.serves(*shlex.split(line.partition(" # ")[0])[2:])
            else:
                self._shell(line)

    def _shell(self, line: str) -> None:
        done = subprocess.run(
            ["bash", "-c", f'gendurable() {{ {shlex.quote(sys.executable)} -m gendurable_py.cli "$@"; }}; {line}'],
            cwd=self._folder,
            env={**environment(self.dsn), "PATH": self._path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)

    def serves(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A worker of the application, until the night is over."""
        before = self.one("select count(*) from gd_workers where state = 'running'")
        process = subprocess.Popen([*PROGRAM, "worker", *arguments], cwd=self._folder, env=environment(self.dsn))

        def end() -> None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            finally:
                process.kill()

        self._stack.callback(end)
        wait_until(lambda: self.one("select count(*) from gd_workers where state = 'running'") > before, 60)
        return process

    @contextmanager
    def of(self, symptom: str, first_id: int = 42) -> Iterator[None]:
        """The blocks below that heading; at the end all of them have been run."""
        [self._parts] = [list(parts) for name, parts in SYMPTOMS.items() if name.partition(" ")[2] == symptom]
        self.conn.execute(f"alter sequence gendurable.instance_id_seq restart with {first_id}".encode())
        self.conn.execute("set gendurable.actor = 'ada'")
        yield
        assert not self._parts, f"not run: {self._parts}"

    def close(self) -> None:
        self._stack.close()
