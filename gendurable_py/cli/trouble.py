"""What goes wrong, over all instances: ``failures`` by what they say, and ``crashes``, what loses its workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from .. import calls
from .._contract import TERMINAL
from ..calls import Crashed
from .frame import Frame, command
from .output import age, styled, table
from .reading import moment

PANEL = "Looking"


def add(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "failures", panel=PANEL)(failures)
    command(app, "crashes", panel=PANEL)(crashes)


def failures(
    frame: Frame,
    machine: Annotated[str | None, typer.Option("--machine", "-m", help="Of this machine.")] = None,
    since: Annotated[str, typer.Option("--since", help="A time, or 2h: ago.", metavar="TIME")] = "1d",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many groups.")] = 20,
) -> None:
    """Show what has failed, grouped by what it says."""
    rows = calls.failures(frame.conn, machine, moment(since), limit=limit)
    cells = [(row.instances, row.fsm, row.step, age(row.last_at), row.last_id, row.message) for row in rows]
    columns = ("count", "machine", "step", "last", "last id", "message")
    frame.answer(rows, lambda: table(columns, cells, keep=("count", "last", "last id")) if rows else Text("Nothing."))
    if rows and not all(row.exact for row in rows):
        frame.note("There may be more than were looked at.")


def crashes(
    frame: Frame,
    since: Annotated[str, typer.Option("--since", help="A time, or 2h: ago.", metavar="TIME")] = "1d",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 20,
) -> None:
    """Show which instances lose their workers, the one that kills them mostly first."""
    rows = calls.crashes(frame.conn, moment(since), limit=limit)

    def render() -> RenderableType:
        if not rows:
            return Text("No instance has lost a worker in that time.")
        parts: list[RenderableType] = [table(CRASHES, crash_cells(rows), keep=("id", "in a row", "lost", "last"))]
        first, others = rows[0], rows[1:]
        if first.crashes > 1 and first.status not in TERMINAL:
            if all(row.crashes < first.crashes for row in others):
                said = f"The first one is the likely cause. To stop it: gendurable pause instance {first.id}"
            else:
                said = "Several were lost together. After three losses they are run apart: look again."
            parts.append(Text(said, style="dim"))
        return Group(*parts)

    frame.answer(rows, render)
    if rows and not rows[0].exact:
        frame.note("There may be more than were looked at.")


CRASHES = ("id", "in a row", "lost", "last", "status", "machine", "step", "worker")


def crash_cells(rows: Sequence[Crashed]) -> list[list[object]]:
    """What lost its workers, as cells of a table with the columns ``CRASHES``."""
    return [
        [row.id, row.crashes, row.lost, age(row.last_at), styled(row.status), row.fsm, row.step, row.worker]
        for row in rows
    ]
