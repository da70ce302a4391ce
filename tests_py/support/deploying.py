"""The commands of docs/deployment.md, run in a shell as they stand, and the workers that they start."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.cli import PROGRAM, environment
from support.server import ROOT

_TEXT = (ROOT / "docs" / "deployment.md").read_text("utf-8")
# What stands below each heading of the second level.
PAGE = dict(part.split("\n", 1) for part in re.split(r"^## ", _TEXT, flags=re.MULTILINE)[1:])


def page_blocks(heading: str, language: str) -> list[str]:
    """The blocks below a heading, those inside of lists as well."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", PAGE[heading], re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


class Commands:
    """A shell in a folder, with one connection and some variables."""

    def __init__(self, dsn: str, folder: Path, **variables: str) -> None:
        self._folder = folder
        self._environment = environment(dsn, **variables)

    def run(self, block: str) -> str:
        """Run the commands of a block; each has to end with 0. A worker is started with `serves` instead."""
        program = f'gendurable() {{ {shlex.quote(sys.executable)} -m gendurable_py.cli "$@"; }}\n'
        said = ""
        for line in block.splitlines():
            done = subprocess.run(
                ["bash", "-c", program + line],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            # The server of the tests has settings that nobody should have, and the doctor says so.
            allowed = (0, 1) if "doctor" in line else (0,)
            assert done.returncode in allowed, (line, done.stdout, done.stderr)
            said += done.stdout
        return said

    @contextmanager
    def serves(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """A worker, until the end of the block; it has to drain."""
        process = subprocess.Popen([*PROGRAM, "worker", *arguments], cwd=self._folder, env=self._environment)
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
