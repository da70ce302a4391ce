"""Forks, moves and deploys: ``fork``, ``export``, ``import``, ``machines``, ``migrate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from .. import calls
from ..calls.deploying import Moved
from ..machine.outcome import UNSET
from .frame import NO, OK, Frame, Id, Machine, Negative, Yes, command
from .looking import readable_line
from .many import count, progress
from .output import table
from .reading import mapping

PANEL = "Deploys and moves"
_ROWS = 1000
_SHOWN = 20


def add(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "machines", panel=PANEL)(machines)
    command(app, "migrate", panel=PANEL)(migrate)
    command(app, "fork", panel=PANEL)(fork)
    command(app, "export", panel=PANEL)(export)
    command(app, "import", panel=PANEL)(import_)


def machines(frame: Frame) -> None:
    """List the versions of machines, with their steps and their open instances."""
    rows = calls.machines(frame.conn)
    cells = [
        (
            row.fsm,
            f"{row.version}{' pinned' if row.pinned else ''}{'' if row.registered else ' (not registered)'}",
            row.runnable,
            row.executing,
            row.awaiting_signal + row.awaiting_children,
            row.unrunnable or "",
            "" if row.steps is None else ", ".join(row.steps),
        )
        for row in rows
    ]
    columns = ("machine", "version", "runnable", "executing", "awaiting", "unrunnable", "steps")
    frame.answer(rows, lambda: table(columns, cells, keep=("machine",)) if rows else Text("There is no machine."))
    if not all(row.exact for row in rows):
        frame.note("There may be more instances than were looked at.")


def migrate(
    frame: Frame,
    machine: Machine,
    from_version: Annotated[int, typer.Argument(help="The version that they have.", metavar="FROM")],
    to_version: Annotated[int, typer.Argument(help="The version that they are to have.", metavar="TO")],
    step: Annotated[
        list[str] | None, typer.Option("--step", help="Which step becomes which; several times.", metavar="OLD=NEW")
    ] = None,
    state: Annotated[
        str | None, typer.Option("--state", help="A function that makes the new state: app.upgrade(jsonb).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do it and undo it: what would become of each.")] = False,
    yes: Yes = False,
) -> int:
    """Move instances that do not execute to another version of their machine. Code 1: not all could be moved."""
    renamed = dict(_pair(text) for text in step or [])
    if not dry_run:
        wanted = {"fsm": machine, "version": from_version}
        counted = calls.count(frame.conn, wanted)
        least = "" if counted.exact else "at least "
        frame.confirm(f"Move {least}{count(counted.instances)} of {machine} to version {to_version}?", yes)
    moved: list[Moved] = []
    after: int | None = 0
    with progress(frame) as bar:
        task = bar.add_task("moving", total=None)
        while after is not None:
            with frame.acting() as conn:
                page = calls.migrate(
                    conn,
                    machine,
                    from_version,
                    to_version,
                    steps=renamed,
                    state=state,
                    limit=_ROWS,
                    dry_run=dry_run,
                    after=after,
                )
            moved += page.instances
            after = page.next
            bar.update(task, completed=len(moved))
    others = [one for one in moved if one.result != "done"]
    done = len(moved) - len(others)
    frame.answer(
        {"done": done, "dry_run": dry_run, "others": others, **({"states": moved} if dry_run else {})},
        lambda: _moved(moved, others, done, dry_run),
    )
    return NO if others else OK


def _pair(text: str) -> tuple[str, str]:
    old, said, new = text.partition("=")
    if not (old and said and new):
        raise typer.BadParameter(f"{text!r} names no two steps: say OLD=NEW", param_hint="--step")
    return old, new


def _moved(moved: list[Moved], others: list[Moved], done: int, dry_run: bool) -> Text:
    text = Text(f"{'would move' if dry_run else 'moved'}: {done}")
    if dry_run:
        for one in [one for one in moved if one.result == "done"][:_SHOWN]:
            text.append(f"\n  {one.id} at {one.step}: {readable_line(one.state)}")
    for one in others[:_SHOWN]:
        text.append(f"\n  {one.id} at {one.step}: {one.result}" + (f", {one.problem}" if one.problem else ""))
    if len(others) > _SHOWN:
        text.append(f"\n  ... and {len(others) - _SHOWN} more that could not be moved")
    return text


def fork(
    frame: Frame,
    id: Id,
    no: Annotated[int | None, typer.Option("--at", help="From this entry of its history.", metavar="NO")] = None,
    step: Annotated[str | None, typer.Option("--step", help="Begin at this step.")] = None,
    state: Annotated[str | None, typer.Option("--state", help="With this state.", metavar="JSON")] = None,
    options: Annotated[
        str | None,
        typer.Option("--options", help="Options of an insert, but fsm, step and state; and journal.", metavar="JSON"),
    ] = None,
) -> int:
    """Make a new instance that begins where another one stands, or stood, and print its id."""
    with frame.acting() as conn:
        made = calls.fork(
            conn,
            id,
            no,
            step=step,
            state=UNSET if state is None else mapping(state),
            options=None if options is None else mapping(options),
        )
    if made is None:
        raise Negative("the unique key is held by another instance")
    frame.answer({"id": made}, lambda: Text(str(made)))
    return OK


def export(
    frame: Frame,
    id: Id,
    file: Annotated[str, typer.Argument(help="Where to; - is stdout.")] = "-",
) -> None:
    """Write an instance with all that belongs to it, and its descendants, as a JSON document."""
    document = calls.export(frame.conn, id)
    if file == "-":
        sys.stdout.buffer.write(document.encode() + b"\n")
        sys.stdout.flush()
        return
    try:
        Path(file).write_text(document + "\n", encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="FILE") from None
    frame.answer({"file": file, "id": id}, lambda: Text(f"instance {id} is in {file}"))


def import_(frame: Frame, file: Annotated[str, typer.Argument(help="A document of export; - is stdin.")] = "-") -> int:
    """Make the instances of a document of export, and print the new id of the first. Code 1: a unique key is taken."""
    try:
        document = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="FILE") from None
    with frame.acting() as conn:
        made = calls.import_(conn, document)
    if made is None:
        raise Negative("a unique key is taken: nothing was imported")
    frame.answer({"id": made}, lambda: Text(str(made)))
    return OK
