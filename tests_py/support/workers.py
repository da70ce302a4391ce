"""Workers in processes of their own, for what only a process can show: signals, forks, and how it ends."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from support.wait import wait_until

ROOT = Path(__file__).resolve().parents[2]


class Worker:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []

    def says(self, text: str) -> str:
        """Read on until a line contains it; the line."""
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            self.said.append(line.rstrip())
            if text in line:
                return line.rstrip()
        raise AssertionError(f"it ended without {text!r}: {self.said}")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ends(self, timeout: float = 20) -> int:
        """Wait for its end; its exit code. What it said until then is in `said`."""
        code = self.process.wait(timeout)
        assert self.process.stdout is not None
        self.said += self.process.stdout.read().splitlines()
        return code


@contextlib.contextmanager
def worker(script: str, *args: object, package: Path = ROOT) -> Iterator[Worker]:
    """Run a script with the package that lies there; its log and its errors are part of what it says."""
    prelude = "import logging, sys\nlogging.basicConfig(level=logging.INFO, stream=sys.stdout, format='%(message)s')\n"
    with subprocess.Popen(
        [sys.executable, "-P", "-u", "-c", prelude + script, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(package)},
    ) as process:
        try:
            yield Worker(process)
        finally:
            process.kill()


def alive(pid: int) -> bool:
    """Whether a process runs, zombies not counted."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int) -> None:
    wait_until(lambda: not alive(pid))
