"""All commands put together, and what is about the program itself: ``--version``, ``completion``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from ..install import version as package_version
from . import (
    dashboard,
    inserting,
    limits,
    looking,
    moving,
    pausing,
    queues,
    steering,
    tail,
    talking,
    top,
    trouble,
    upkeep,
    working,
)

_GROUPS = (
    working,
    inserting,
    talking,
    looking,
    trouble,
    steering,
    queues,
    pausing,
    limits,
    moving,
    upkeep,
    top,
    tail,
    dashboard,
)


def make() -> typer.Typer:
    """The program."""
    app = typer.Typer(
        name="gendurable",
        help="Operate gendurable: durable state machines in PostgreSQL.\n\nExit codes: 0 ok, 1 a negative answer, "
        "2 usage, 3 the server said no.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,  # they would show variables
        rich_markup_mode=None if _is_plain() else "rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_callback)
    for group in _GROUPS:
        group.add(app)
    app.command("completion", rich_help_panel="Installation and upkeep")(_complete)
    return app


def _is_plain() -> bool:
    """What frames look like where they cannot be drawn is worse than none."""
    return not (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")


def run(arguments: Sequence[str]) -> None:
    """Run a command and exit with its code."""
    make()(args=list(arguments), prog_name="gendurable")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(package_version())
        raise typer.Exit


def _callback(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version of this package.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    return


def _complete(shell: Annotated[str, typer.Argument(help="bash, zsh or fish.")]) -> None:
    """Print what a shell needs to complete commands: eval "$(gendurable completion bash)"."""
    if shell not in ("bash", "zsh", "fish"):
        raise typer.BadParameter(f"{shell!r} is not bash, zsh or fish", param_hint="SHELL")
    os.environ["_GENDURABLE_COMPLETE"] = f"source_{shell}"
    make()(args=[], prog_name="gendurable")
