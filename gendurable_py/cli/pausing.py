"""``pause`` and ``resume``: a queue or a schedule."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from .. import calls
from .frame import NO, OK, Frame, command

PANEL = "Queues and workers"
Queue = Annotated[str, typer.Argument(help="The queue.")]
Schedule = Annotated[str, typer.Argument(help="The name of the schedule.")]


def add(app: typer.Typer) -> None:
    """Add the commands."""
    pause = typer.Typer(no_args_is_help=True, help="Pause a queue or a schedule.")
    command(pause, "queue", panel=PANEL)(pause_queue)
    command(pause, "schedule", panel=PANEL)(pause_schedule)
    app.add_typer(pause, name="pause", rich_help_panel=PANEL)
    resume = typer.Typer(no_args_is_help=True, help="End the pause of a queue or a schedule.")
    command(resume, "queue", panel=PANEL)(resume_queue)
    command(resume, "schedule", panel=PANEL)(resume_schedule)
    app.add_typer(resume, name="resume", rich_help_panel=PANEL)


def pause_queue(frame: Frame, queue: Queue) -> None:
    """Claim nothing more from a queue; what executes goes on."""
    with frame.acting() as conn:
        calls.pause_queue(conn, queue)
    frame.answer({"queue": queue, "paused": True}, lambda: Text(f"{queue} is paused"))


def resume_queue(frame: Frame, queue: Queue) -> None:
    """End the pause of a queue."""
    with frame.acting() as conn:
        calls.resume_queue(conn, queue)
    frame.answer({"queue": queue, "paused": False}, lambda: Text(f"{queue} goes on"))


def pause_schedule(frame: Frame, name: Schedule) -> int:
    """Stop the ticks of a schedule."""
    with frame.acting() as conn:
        done = calls.pause_schedule(conn, name)
    frame.answer({"name": name, "changed": done}, lambda: Text(f"{name} is paused" + ("" if done else " already")))
    return OK if done else NO


def resume_schedule(frame: Frame, name: Schedule) -> int:
    """Let a schedule tick again."""
    with frame.acting() as conn:
        done = calls.resume_schedule(conn, name)
    frame.answer({"name": name, "changed": done}, lambda: Text(f"{name} goes on" if done else f"{name} is not paused"))
    return OK if done else NO
