"""Pages of the documentation as a reader follows them: files are written, commands run, and what they show compared.

A page that is played has blocks of these kinds, in the order in which they stand:

- ``python title="NAME"``, also ``ini`` and others with a title: the file NAME is written to the current folder.
- ``sh``: commands; a line that ends with ``# exit code N`` has to end so, every other with 0. A block that begins with
  ``gendurable worker`` or ``.venv/bin/gendurable worker`` is a second terminal: it serves until the prose says
  **Ctrl-C**, another worker begins or the page ends.
  What it exports, and a virtual environment that it activates, lasts for what follows.
- ``sql``: statements for psql, in the database of ``GENDURABLE_DSN``; before that is set, by whom ``admin`` names.
- ``text``: what the block before it shows, but for times, names of processes, versions, and the width of columns.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import Database
from psycopg.conninfo import conninfo_to_dict
from support.wait import wait_until

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# Run from top to bottom by tests of their own, as somebody follows them.
PLAYED = [DOCS / "quick-start.md", *sorted((DOCS / "tutorial").glob("[0-9]*.md"))]
CLI = f'gendurable() {{ {shlex.quote(sys.executable)} -m gendurable_py.cli "$@"; }}\n'


class Block(NamedTuple):
    heading: str
    language: str
    text: str
    title: str = ""


def pages() -> list[Path]:
    """All pages of the repository that people read: those of docs/ and its folders, and those at the top."""
    below = [path for path in sorted(DOCS.rglob("*.md")) if DOCS / "templates" not in path.parents]
    top = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docker/README.md")]
    return [*top, *below]


def parts(page: Path) -> Iterator[Block]:
    """The blocks of a page, and what stands between them as blocks of the language ``prose``."""
    under, text, at = "", page.read_text("utf-8"), 0
    # A heading or a fenced block; a line that begins with # inside a block is part of it.
    for part in re.finditer(r"^#+ ([^\n]+)$|^```(\w*)([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(under, "prose", text[at : part.start()])
        at = part.end()
        if part[1] is not None:
            under = part[1]
        else:
            title = re.search(r'title="([^"]+)"', part[3])
            yield Block(under, part[2], part[4], title[1] if title else "")
    yield Block(under, "prose", text[at:])


def blocks(page: Path, heading: str | None = None, language: str | None = None) -> list[Block]:
    found = [part for part in parts(page) if part.language != "prose"]
    return [one for one in found if heading in (None, one.heading) and language in (None, one.language)]


def pg_environment(db: Database) -> dict[str, str]:
    """The PG* variables that make a bare psql or psycopg.connect() come to this database."""
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    given = conninfo_to_dict(db.dsn)
    path = os.environ["PATH"]
    if db.server.cluster is not None:
        path = f"{db.server.cluster.bindir}{os.pathsep}{path}"
    return {**os.environ, "PATH": path, **{names[key]: str(value) for key, value in given.items() if key in names}}


def run(command: list[str], db: Database, text: str) -> str:
    done = subprocess.run(
        command, input=text, env=pg_environment(db), cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def psql(db: Database, text: str, *options: str) -> str:
    program = shutil.which("psql", path=pg_environment(db)["PATH"])
    if program is None:
        pytest.skip("needs psql (Debian: apt-get install postgresql-client)")
    return run([program, "-X", "-v", "ON_ERROR_STOP=1", "-f", "-", *options], db, text)


def python(db: Database, text: str) -> str:
    return run([sys.executable, "-"], db, text)


def steady(text: str) -> str:
    """What a reader sees at another time, on another machine, with a wider column."""
    text = re.sub(r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?:[+-]\d\d(?::?\d\d)?)?", "TIME", text)
    text = re.sub(r"\b\d{16}\b", "NUMBER", text)
    text = re.sub(r"errors\.pydantic\.dev/[\d.]+/", "errors.pydantic.dev/", text)
    # Paths of a traceback, and the marks below its lines that a newer Python draws.
    text = re.sub(r'File "[^"]*/', 'File "', text)
    text = re.sub(r"^ *[~^]+ *$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\b\d+\.\d{2,3}\b", "SECONDS", text)
    text = re.sub(r"\b\d+\.\d+\.\d+\b", "VERSION", text)
    text = re.sub(r"\b\d+(?:\.\d+)? ?(?:ms|s|min|h|d)\b( ago)?", r"AGE\1", text)
    text = re.sub(r"\b[\w.-]+:\d+:\w{8}\b", "WORKER", text)
    text = re.sub(r"[─-]{2,}", "--", text)
    lines = [re.sub(r" {2,}", " ", line).strip() for line in text.strip().splitlines()]
    return "\n".join(line for line in lines if line)


class Player:
    """Somebody who follows pages, in one folder and one environment."""

    def __init__(
        self,
        here: Path,
        env: Mapping[str, str],
        settled: Callable[[], None] = lambda: None,
        before: str = CLI,
        admin: str | None = None,
    ) -> None:
        self.here = here
        self._admin = admin
        self.env = dict(env)
        self._settled = settled
        self._before = before
        self._worker: subprocess.Popen[bytes] | None = None
        self._said = 0

    def play(self, page: Path, compare: bool = True) -> list[tuple[Block, str]]:
        """Follow one page to its end; answers each block with what it showed."""
        told: list[tuple[Block, str]] = []
        try:
            for part in parts(page):
                where = f"{page.name}, {part.heading}:\n{part.text}"
                if part.language == "text":
                    assert told, where
                    if compare:
                        assert steady(told[-1][1]) == steady(part.text), where
                else:
                    told += [(part, said)] if (said := self._follow(part, where)) is not None else []
        finally:
            self.stop()
        return told

    def _follow(self, part: Block, where: str) -> str | None:
        if part.language == "prose":
            if "**Ctrl-C**" in part.text:
                self.stop()
            return None
        if part.title:
            (self.here / part.title).write_text(part.text, "utf-8")
            return ""
        if part.language == "sql":
            dsn = self.env.get("GENDURABLE_DSN", self._admin)
            assert dsn is not None, where
            return self._run(["psql", "-X", "-v", "ON_ERROR_STOP=1", "-d", dsn, "-f", "-"], part.text, where)
        assert part.language == "sh", f"nobody knows how to follow this:\n{where}"
        if re.match(r"(\.venv/bin/)?gendurable worker ", part.text):
            self._serve(part.text)
            return ""
        said = self._run(["bash", "-c", self._script(part.text)], "", where)
        # What lasts in a terminal.
        self.env.update(re.findall(r"^export (\w+)=(\S+)$", part.text, re.MULTILINE))
        if ". .venv/bin/activate" in part.text.splitlines():
            self.env["PATH"] = f"{self.here / '.venv' / 'bin'}{os.pathsep}{self.env['PATH']}"
        if self._worker is not None:
            self._settled()
        return said

    def _script(self, text: str) -> str:
        script = self._before
        for line in text.splitlines():
            command, _, code = line.partition("    # exit code ")
            script += f"{command}\n[ $? -eq {code or 0} ] || exit 9\n" if not line.endswith("\\") else f"{command}\n"
        return script

    def _run(self, command: list[str], text: str, where: str) -> str:
        program = shutil.which(command[0], path=self.env["PATH"]) or command[0]
        done = subprocess.run(
            [program, *command[1:]],
            input=text,
            cwd=self.here,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{where}\nended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def _serve(self, text: str) -> None:
        self.stop()
        log = self.here / "worker.log"
        with log.open("ab") as out:
            self._said = out.tell()
            script = self._before + text.strip().replace("\n", " ")
            self._worker = subprocess.Popen(
                # A terminal sends Ctrl-C to all processes of the command.
                ["bash", "-c", script],
                cwd=self.here,
                env=self.env,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        worker = self._worker
        wait_until(lambda: b" serves " in self._log() or worker.poll() is not None, 60)
        assert worker.poll() is None, self._log().decode()

    def _log(self) -> bytes:
        return (self.here / "worker.log").read_bytes()[self._said :]

    def stop(self) -> None:
        """Ctrl-C in the terminal of the worker, which drains."""
        if self._worker is None:
            return
        worker, self._worker = self._worker, None
        os.killpg(worker.pid, signal.SIGINT)
        try:
            worker.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
            raise
        assert b" has stopped" in self._log(), self._log().decode()
