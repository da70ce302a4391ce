"""The command line: in this process, for what it answers; as a program, for how it ends; on a terminal, for people."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pexpect
import psycopg
import pyte
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py.cli import main

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-m", "gendurable_py.cli"]
_lock = threading.Lock()


@dataclass(frozen=True)
class Said:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment(dsn: str, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    return {**kept, "GENDURABLE_DSN": dsn, "PYTHONPATH": str(ROOT), "GENDURABLE_ACTOR": "ada", **more}


def call(dsn: str, *arguments: object, input: str | bytes = "", code: int | None = 0) -> Said:
    """Run a command in this process, and check its exit code unless that is None."""
    text = input.encode() if isinstance(input, str) else input
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    ended = 0
    with _lock:
        before = (sys.stdin, sys.stdout, sys.stderr, dict(os.environ))
        try:
            sys.stdin, sys.stdout, sys.stderr = io.TextIOWrapper(io.BytesIO(text), encoding="utf-8"), out, err
            os.environ.clear()
            os.environ.update(environment(dsn))
            try:
                main([str(argument) for argument in arguments])
            except SystemExit as end:
                ended = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        finally:
            sys.stdin, sys.stdout, sys.stderr = before[:3]
            os.environ.clear()
            os.environ.update(before[3])
    out.flush()
    err.flush()
    said = Said(ended, out.buffer.getvalue().decode(), err.buffer.getvalue().decode())  # type: ignore[attr-defined]
    assert code is None or said.code == code, said
    return said


def program(
    dsn: str, *arguments: object, input: str | None = None, timeout: float = 60, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as a program of its own, to its end."""
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        env=environment(dsn, **more),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def commit_for(
    conn: psycopg.Connection[Any], id: int | None, kind: str = "done", worker: str = "w", **keys: Any
) -> None:
    """Claim one of the queue "default", and commit an outcome for it."""
    claims = gd.claim(conn, worker, "default", 100)
    [claim] = [claim for claim in claims if claim.id == id]
    gd.release(conn, worker, [(other.id, other.claim_no) for other in claims if other.id != id])
    [answer] = gd.commit(conn, worker, [{"id": id, "claim_no": claim.claim_no, "kind": kind, **keys}])
    assert answer.result == "ok", answer


class Terminal:
    """A program on a terminal of its own: what its screen shows, and keys for it."""

    def __init__(self, child: pexpect.spawn[bytes], rows: int, columns: int) -> None:
        self.child = child
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""

    def _read(self) -> None:
        # ValueError: it has ended, and was closed
        with contextlib.suppress(pexpect.EOF, pexpect.TIMEOUT, ValueError):
            while True:
                text = self.child.read_nonblocking(65536, timeout=0.05)
                self.raw += text
                self._stream.feed(text)

    @property
    def lines(self) -> list[str]:
        self._read()
        return [line.rstrip() for line in self.screen.display]

    def shows(self, *texts: str, timeout: float = 30) -> None:
        """Wait until all of these are on the screen."""
        try:
            wait_until(lambda: all(text in "\n".join(self.lines) for text in texts), timeout)
        except TimeoutError:
            raise AssertionError(f"{texts} are not on the screen:\n" + "\n".join(self.lines)) from None

    def press(self, keys: str) -> None:
        self.child.send(keys)

    def type(self, text: str) -> None:
        self.child.sendline(text)

    def resize(self, rows: int, columns: int) -> None:
        """Make it smaller or larger, as people do with a window."""
        self._read()
        self.screen.resize(rows, columns)
        self.child.setwinsize(rows, columns)

    def ends(self, timeout: float = 30) -> int:
        """Wait for its end; the exit code, or minus the signal."""
        wait_until(lambda: (self._read(), not self.child.isalive())[1], timeout)
        self.child.close()
        return self.child.exitstatus if self.child.exitstatus is not None else -(self.child.signalstatus or 0)


@contextlib.contextmanager
def terminal(
    dsn: str, *arguments: object, rows: int = 24, columns: int = 80, cwd: Path | None = None, **more: str
) -> Iterator[Terminal]:
    """Run a command, or with ``arguments`` that begin with a path a program, on a terminal."""
    said: list[str] = [str(argument) for argument in arguments]
    command = said if said[0].startswith("/") else [*PROGRAM, *said]
    env: Mapping[str, str] = environment(dsn, **{"TERM": "xterm-256color", **more})
    child = pexpect.spawn(
        command[0], command[1:], dimensions=(rows, columns), env=dict(env), cwd=None if cwd is None else str(cwd)
    )
    try:
        yield Terminal(child, rows, columns)
    finally:
        child.close(force=True)


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
