"""``pause`` and ``resume`` of a queue, an instance, a machine, a step or a schedule, and what is paused: ``pauses``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer
from rich.text import Text

from .. import calls
from ..calls import viewing
from .frame import NO, OK, Frame, Id, Machine, Queue, Schedule, command
from .output import age, table

PANEL = "Queues and workers"
Step = Annotated[str, typer.Argument(help="The step.")]
Version = Annotated[int | None, typer.Option("--version", help="This version alone.")]


def add(app: typer.Typer) -> None:
    """Add the commands."""
    pause = typer.Typer(no_args_is_help=True, help="Pause a queue, an instance, a machine, a step or a schedule.")
    for name, function in (
        ("queue", pause_queue),
        ("instance", pause_instance),
        ("machine", pause_machine),
        ("step", pause_step),
        ("schedule", pause_schedule),
    ):
        command(pause, name, panel=PANEL)(function)
    app.add_typer(pause, name="pause", rich_help_panel=PANEL)
    resume = typer.Typer(no_args_is_help=True, help="End a pause.")
    for name, function in (
        ("queue", resume_queue),
        ("instance", resume_instance),
        ("machine", resume_machine),
        ("step", resume_step),
        ("schedule", resume_schedule),
    ):
        command(resume, name, panel=PANEL)(function)
    app.add_typer(resume, name="resume", rich_help_panel=PANEL)
    command(app, "pauses", panel=PANEL)(pauses)


def pauses(frame: Frame) -> None:
    """List what is paused: queues, machines, versions, steps and instances."""
    rows = viewing.pauses(frame.conn)
    cells = [
        (
            row["kind"],
            row["id"],
            row["queue"],
            row["fsm"],
            row["version"],
            row["step"],
            age(row["paused_at"]),
            row["paused_by"],
        )
        for row in rows
    ]
    columns = ("what", "id", "queue", "machine", "version", "step", "since", "by")
    frame.answer(rows, lambda: table(columns, cells, keep=("id",)) if rows else Text("Nothing is paused."))


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


def pause_instance(frame: Frame, id: Id) -> int:
    """Do not run an instance; a step that executes is finished."""
    with frame.acting() as conn:
        changed = calls.pause(conn, id)
    return _paused(frame, {"id": id}, f"instance {id}", changed)


def resume_instance(frame: Frame, id: Id) -> int:
    """Let an instance run again."""
    with frame.acting() as conn:
        changed = calls.resume(conn, id)
    return _resumed(frame, {"id": id}, f"instance {id}", changed)


def pause_machine(frame: Frame, machine: Machine, version: Version = None) -> int:
    """Do not run a machine, or a version of it, whatever the queue."""
    with frame.acting() as conn:
        changed = calls.pause_machine(conn, machine, version)
    return _paused(frame, {"machine": machine, "version": version}, _name(machine, version, None), changed)


def resume_machine(frame: Frame, machine: Machine, version: Version = None) -> int:
    """Let a machine run again, paused by the same arguments."""
    with frame.acting() as conn:
        changed = calls.resume_machine(conn, machine, version)
    return _resumed(frame, {"machine": machine, "version": version}, _name(machine, version, None), changed)


def pause_step(frame: Frame, machine: Machine, step: Step, version: Version = None) -> int:
    """Do not run a step of a machine, whatever the queue."""
    with frame.acting() as conn:
        changed = calls.pause_machine(conn, machine, version, step)
    said = {"machine": machine, "step": step, "version": version}
    return _paused(frame, said, _name(machine, version, step), changed)


def resume_step(frame: Frame, machine: Machine, step: Step, version: Version = None) -> int:
    """Let a step run again, paused by the same arguments."""
    with frame.acting() as conn:
        changed = calls.resume_machine(conn, machine, version, step)
    said = {"machine": machine, "step": step, "version": version}
    return _resumed(frame, said, _name(machine, version, step), changed)


def pause_schedule(frame: Frame, name: Schedule) -> int:
    """Stop the ticks of a schedule."""
    with frame.acting() as conn:
        changed = calls.pause_schedule(conn, name)
    return _paused(frame, {"schedule": name}, name, changed)


def resume_schedule(frame: Frame, name: Schedule) -> int:
    """Let a schedule tick again."""
    with frame.acting() as conn:
        changed = calls.resume_schedule(conn, name)
    return _resumed(frame, {"schedule": name}, name, changed)


def _name(machine: str, version: int | None, step: str | None) -> str:
    return machine + ("" if version is None else f" v{version}") + ("" if step is None else f", step {step},")


def _paused(frame: Frame, what: Mapping[str, object], name: str, changed: bool) -> int:
    text = f"{name} is paused" if changed else f"{name} was paused already, or has ended"
    frame.answer({**what, "paused": True, "changed": changed}, lambda: Text(text))
    return OK if changed else NO


def _resumed(frame: Frame, what: Mapping[str, object], name: str, changed: bool) -> int:
    text = f"{name} goes on" if changed else f"{name} was not paused"
    frame.answer({**what, "paused": False, "changed": changed}, lambda: Text(text))
    return OK if changed else NO
