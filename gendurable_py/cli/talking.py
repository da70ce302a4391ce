"""Talking to instances: ``signal``, ``signals``, ``wait``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from .. import calls
from .frame import NO, OK, Frame, Id, command, no_instance
from .inserting import show_end
from .looking import readable_line
from .output import clock, table
from .reading import duration, value

PANEL = "Putting work in"


def add(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "signal", panel=PANEL)(signal)
    command(app, "signals", panel="Looking")(signals)
    command(app, "wait", panel=PANEL)(wait)


def signal(
    frame: Frame,
    target: Annotated[str, typer.Argument(help="An id, or with --unique a unique key.", metavar="ID|KEY")],
    name: Annotated[str, typer.Argument(help="The name of the signal.")],
    payload: Annotated[str, typer.Argument(help="What it brings; @FILE reads it.", metavar="[JSON]")] = "null",
    unique: Annotated[bool, typer.Option("--unique", help="The target is a unique key.")] = False,
    dedup: Annotated[str | None, typer.Option("--dedup", help="Of signals with one such key only one counts.")] = None,
) -> int:
    """Send a signal. Code 1: there is nobody to take it."""
    if not unique and not target.isdecimal():
        raise typer.BadParameter(f"{target!r} is no id; --unique says that it is a unique key", param_hint="ID")
    aim: int | str = target if unique else int(target)
    brought = value(payload)
    with frame.acting() as conn:
        answer = calls.signal(conn, aim, name, brought, dedup_key=dedup)
    frame.answer({"result": answer}, lambda: Text(answer))
    return NO if answer == "no_target" else OK


def signals(
    frame: Frame,
    id: Id,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 100,
) -> None:
    """Show the inbox of an instance. Looking uses nothing up."""
    found = calls.signals(frame.conn, id, limit=limit)
    if not found and calls.result(frame.conn, id) is None:
        raise no_instance(id)
    rows = [{"id": one.id, "name": one.name, "payload": one.payload, "at": one.inserted_at} for one in found]
    cells = [(one.id, one.name, clock(one.inserted_at), readable_line(one.payload)) for one in found]
    frame.answer(rows, lambda: table(("id", "name", "at", "payload"), cells) if rows else Text("Nothing is in there."))


def wait(
    frame: Frame,
    id: Id,
    timeout: Annotated[str | None, typer.Option("--timeout", "-t", help="How long: 30s.", metavar="TIME")] = None,
) -> int:
    """Wait for the end of an instance and show it. Code 0: it is done; 1: it is not, or the time is up."""
    return show_end(frame, id, None if timeout is None else duration(timeout))
