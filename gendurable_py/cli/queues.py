"""Queues and workers: ``queues``, ``queue set``, ``hold``, ``workers``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from .. import calls
from ..calls import viewing
from ..machine.outcome import UNSET, Unset
from .frame import NO, OK, Frame, command
from .output import age, facts, table

PANEL = "Queues and workers"
Queue = Annotated[str, typer.Argument(help="The queue.")]


def add(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "queues", panel=PANEL)(queues)
    queue = typer.Typer(no_args_is_help=True, help="Set what holds for a queue.")
    command(queue, "set", panel=PANEL)(queue_set)
    app.add_typer(queue, name="queue", rich_help_panel=PANEL)
    command(app, "hold", panel=PANEL)(hold)
    command(app, "workers", panel=PANEL)(workers)


QUEUES = ("queue", "due", "delayed", "executing", "parked", "limited", "oldest", "")


def queue_cells(rows: Sequence[viewing.Row]) -> list[list[object]]:
    """The queues as cells of a table with the columns ``QUEUES``."""
    return [
        [
            row["queue"],
            row["due"],
            row["delayed"],
            row["executing"],
            row["parked"],
            row["limited"] or "",
            age(row["oldest_due_at"]) if row["oldest_due_at"] else "",
            _remarks(row),
        ]
        for row in rows
    ]


def _remarks(row: viewing.Row) -> str:
    said = ["paused"] if row["paused"] else []
    if row["max_executing"] is not None:
        said.append(f"limit {row['max_executing']}")
    if row["concurrency"] is not None:
        said.append(f"{row['concurrency']} a worker")
    return ", ".join(said)


def queues(frame: Frame) -> None:
    """List the queues: what is due, delayed, executing and parked in each."""
    rows = viewing.queues(frame.conn)
    held = viewing.holds(frame.conn)

    def render() -> RenderableType:
        return table(QUEUES, queue_cells(rows), keep=("oldest",)) if rows else Text("There is no queue.")

    frame.answer(rows, render)
    for hold in held:
        frame.note(f"Everything is held: {hold['reason']} ({hold['held_by']})")


def queue_set(
    frame: Frame,
    queue: Queue,
    limit: Annotated[
        str | None, typer.Option("--limit", help="How many execute at once over all workers; none: any number.")
    ] = None,
    concurrency: Annotated[
        str | None, typer.Option("--concurrency", help="How many each worker executes at once; none: its own number.")
    ] = None,
) -> None:
    """Set how many of a queue execute at once, over all workers or in each."""
    if limit is None and concurrency is None:
        raise typer.BadParameter("nothing is said to be set: add --limit or --concurrency")
    said = {"limit": _number(limit, "--limit"), "concurrency": _number(concurrency, "--concurrency")}
    with frame.acting() as conn:
        calls.set_queue(conn, queue, limit=said["limit"], concurrency=said["concurrency"])
    found: dict[str, object] = {"queue": queue, **{name: value for name, value in said.items() if value is not UNSET}}
    frame.answer(found, lambda: facts((name, "none" if value is None else value) for name, value in found.items()))


def _number(text: str | None, name: str) -> int | Unset | None:
    if text is None:
        return UNSET
    if text == "none":
        return None
    if not text.isdecimal():
        raise typer.BadParameter(f"{text!r} is no number, and not none", param_hint=name)
    return int(text)


def hold(
    frame: Frame,
    reason: Annotated[str | None, typer.Argument(help="Why.")] = None,
    release: Annotated[bool, typer.Option("--release", help="Let everything go on.")] = False,
) -> int:
    """Hand out nothing more, in any queue; with --release go on; with neither say what is held."""
    if release and reason is not None:
        raise typer.BadParameter("a reason and --release exclude each other")
    if release:
        with frame.acting() as conn:
            was_held = calls.release_hold(conn)
        frame.answer({"released": was_held}, lambda: Text("everything goes on" if was_held else "nothing was held"))
        return OK if was_held else NO
    if reason is not None:
        with frame.acting() as conn:
            calls.hold_all(conn, reason)
        frame.answer({"held": True, "reason": reason}, lambda: Text("nothing is handed out any more"))
        return OK
    held = viewing.holds(frame.conn)
    cells = [(age(row["held_at"]), row["held_by"], row["reason"]) for row in held]
    frame.answer(held, lambda: table(("since", "by", "reason"), cells) if held else Text("nothing is held"))
    return OK


def worker_cells(rows: Sequence[viewing.Row]) -> list[list[object]]:
    return [[row["worker"], row["executing"], age(row["oldest_claim_at"])] for row in rows]


WORKERS = ("worker", "executing", "oldest claim")


def workers(frame: Frame) -> None:
    """List who holds claims now."""
    rows = viewing.workers(frame.conn)
    frame.answer(rows, lambda: table(WORKERS, worker_cells(rows)) if rows else Text("Nobody holds claims."))
