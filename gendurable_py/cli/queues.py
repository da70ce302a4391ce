"""Queues and workers: ``queues``, ``queue set``, ``hold``, ``workers``, ``drain``, ``stats``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from pydantic import JsonValue
from rich.console import RenderableType
from rich.text import Text

from .. import calls
from ..calls import viewing
from ..machine.outcome import UNSET
from .frame import NO, OK, Frame, Negative, Queue, command
from .output import age, facts, table
from .reading import number_or_none

PANEL = "Queues and workers"


def add(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "queues", panel=PANEL)(queues)
    queue = typer.Typer(no_args_is_help=True, help="Set what holds for a queue.")
    command(queue, "set", panel=PANEL)(queue_set)
    app.add_typer(queue, name="queue", rich_help_panel=PANEL)
    command(app, "hold", panel=PANEL)(hold)
    command(app, "workers", panel=PANEL)(workers)
    command(app, "drain", panel=PANEL)(drain)
    command(app, "stats", panel=PANEL)(stats)


QUEUES = ("queue", "due", "delayed", "executing", "parked", "limited", "oldest", "")


def queue_cells(rows: Sequence[viewing.Row]) -> list[list[object]]:
    """The queues as cells of a table with the columns ``QUEUES``."""
    return [
        [
            row["queue"],
            _count(row, "due", row["executing"]),
            _count(row, "delayed"),
            row["executing"],
            _count(row, "parked"),
            row["limited"] or "",
            age(row["oldest_due_at"]) if row["oldest_due_at"] else "",
            _remarks(row),
        ]
        for row in rows
    ]


def _count(row: viewing.Row, name: str, beside: JsonValue = 0) -> str:
    """A count of a queue; with a plus where it was cut."""
    found, most = row[name], row.get("counted_to")
    is_cut = all(isinstance(one, int) for one in (found, beside, most)) and found + beside >= most  # type: ignore[operator]
    return f"{found}+" if is_cut else f"{found}"


def _remarks(row: viewing.Row) -> str:
    said = ["paused"] if row["paused"] else []
    if row["max_executing"] is not None:
        said.append(f"limit {row['max_executing']}")
    if row.get("concurrency") is not None:
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
    said = {
        "limit": UNSET if limit is None else number_or_none(limit, "--limit"),
        "concurrency": UNSET if concurrency is None else number_or_none(concurrency, "--concurrency"),
    }
    with frame.acting() as conn:
        calls.set_queue(conn, queue, limit=said["limit"], concurrency=said["concurrency"])
    found: dict[str, object] = {"queue": queue, **{name: value for name, value in said.items() if value is not UNSET}}
    frame.answer(found, lambda: facts((name, "none" if value is None else value) for name, value in found.items()))


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


WORKERS = ("worker", "state", "executing", "oldest claim", "queues", "host", "version", "seen")


def worker_cells(rows: Sequence[viewing.Row]) -> list[list[object]]:
    """The workers as cells of a table with the columns ``WORKERS``."""
    return [
        [
            row["worker"],
            row.get("state") or "unknown",
            row["executing"],
            age(row["oldest_claim_at"]) if row["oldest_claim_at"] else "",
            _served(row.get("queues")),
            row.get("host"),
            row.get("version"),
            age(row.get("seen_at")) if row.get("seen_at") else "",
        ]
        for row in rows
    ]


def _served(queues: JsonValue) -> str:
    return ", ".join(f"{name}={number}" for name, number in queues.items()) if isinstance(queues, dict) else ""


def workers(frame: Frame) -> None:
    """List the workers that live, and whoever else holds claims."""
    rows = viewing.workers(frame.conn)
    frame.answer(rows, lambda: table(WORKERS, worker_cells(rows), keep=("worker",)) if rows else Text("Nobody works."))


def drain(
    frame: Frame,
    worker: Annotated[str, typer.Argument(help="The worker, as `gendurable workers` names it.")],
    resume: Annotated[bool, typer.Option("--resume", help="Take it back.")] = False,
) -> int:
    """Let a worker finish what it has and claim nothing more. Code 1: there is no such worker."""
    with frame.acting() as conn:
        done = calls.resume_worker(conn, worker) if resume else calls.drain_worker(conn, worker)
    if not done:
        raise Negative(f"{worker} was not draining" if resume else f"no worker that lives has the name {worker}")
    said = {"worker": worker, "draining": not resume}
    frame.answer(said, lambda: Text(f"{worker} goes on" if resume else f"{worker} drains"))
    return OK


def stats(
    frame: Frame,
    minutes: Annotated[int, typer.Option("--minutes", min=1, help="Of the last so many minutes.")] = 60,
) -> None:
    """Show how many steps have ended, by machine, step and outcome, as workers report it."""
    rows = calls.stats(frame.conn, minutes)
    sums: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        found = sums.setdefault((row.fsm, row.step, row.outcome), [0, 0.0])
        found[0] += row.ended
        found[1] += row.seconds
    cells = [
        (*key, int(ended), f"{1000 * seconds / ended:.1f}" if ended else "")
        for key, (ended, seconds) in sorted(sums.items(), key=lambda one: -one[1][0])
    ]
    columns = ("machine", "step", "outcome", "ended", "ms each")
    frame.answer(rows, lambda: table(columns, cells) if cells else Text("No worker has reported any."))
