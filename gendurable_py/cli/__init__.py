"""The command line ``gendurable``: a wing on top of the calls and the engine, without SQL or scheduling of its own.

`frame` has what all commands share: the connection, the exit codes and how errors are told. `output` makes values
readable. Then a module for each group of commands; `app` puts them together. Needs the extra ``cli``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code, by default the one of this process."""
    try:
        from .app import run
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("typer", "rich"):
            raise
        sys.exit(f"gendurable: the command line needs {missing}: pip install 'gendurable_py[cli]'")
    run(sys.argv[1:] if arguments is None else arguments)
