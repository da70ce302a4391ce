"""Steering instances: ``cancel``, ``retry``, ``reschedule``, ``delete`` and signals, of one or of many,
by ids or by filters; ``edit`` of one."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from .. import calls
from .._contract import TERMINAL
from ..machine.outcome import UNSET
from .filters import OPEN, Filters
from .frame import NO, OK, Frame, Id, Yes, command
from .many import Chosen, carry_out, choose, count, one_by_one
from .reading import mapping, moment, value

PANEL = "Steering"
Ids = Annotated[
    list[int] | None, typer.Argument(help="The instances; none: those that the filters find.", metavar="[ID...]")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say which ones.")]
Limit = Annotated[int | None, typer.Option("--limit", "-n", min=1, help="At most so many of those that are found.")]


def add(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "cancel", panel=PANEL)(cancel)
    command(app, "retry", panel=PANEL)(retry)
    command(app, "reschedule", panel=PANEL)(reschedule)
    command(app, "edit", panel=PANEL)(edit)
    command(app, "delete", panel=PANEL)(delete)
    command(app, "signal-many", panel=PANEL)(signal_many)


def cancel(
    frame: Frame,
    filters: Filters,
    ids: Ids = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Why; it becomes its last error.")] = None,
    tree: Annotated[bool, typer.Option("--tree", help="With all that came out of them.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    limit: Limit = None,
) -> int:
    """End instances as cancelled."""
    chosen = choose(frame, ids, filters, {"status": [*OPEN]}, limit)
    if not tree:
        return carry_out(
            frame, "cancel", chosen, lambda conn, some: calls.cancel_many(conn, some, reason), dry_run=dry_run, yes=yes
        )
    if chosen.named:
        below, exact = _count_below(frame, chosen.ids)
        if below and not dry_run:
            least = "" if exact else "at least "
            frame.confirm(f"Cancel {count(len(chosen.ids))} and {least}{below} below?", yes)
    act = one_by_one(lambda conn, id: calls.cancel(conn, id, reason, cascade=True))
    return carry_out(frame, "cancel", chosen, act, dry_run=dry_run, yes=yes, batch=1)


def _count_below(frame: Frame, ids: list[int]) -> tuple[int, bool]:
    """How many of their descendants have not ended, as far as is looked."""
    most = 10_000
    found, exact = 0, True
    for id in ids:
        nodes = calls.tree(frame.conn, id, 100, most)
        found += sum(node.id != id and node.status in OPEN for node in nodes)
        exact = exact and len(nodes) < most
    return found, exact


def retry(
    frame: Frame,
    filters: Filters,
    ids: Ids = None,
    from_step: Annotated[str | None, typer.Option("--from", help="From this step, in place of the last one.")] = None,
    state: Annotated[str | None, typer.Option("--state", help="With this state.", metavar="JSON")] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    limit: Limit = None,
) -> int:
    """Run failed or cancelled instances again; by filters: failed ones, unless --status says more."""
    chosen = choose(frame, ids, filters, {"status": "failed"}, limit)
    if from_step is None and state is None:
        return carry_out(frame, "retry", chosen, calls.retry_many, dry_run=dry_run, yes=yes)
    given = UNSET if state is None else mapping(state)
    act = one_by_one(lambda conn, id: calls.retry(conn, id, from_step, given))
    return carry_out(frame, "retry", chosen, act, dry_run=dry_run, yes=yes, batch=1)


def reschedule(
    frame: Frame,
    filters: Filters,
    ids: Ids = None,
    at: Annotated[
        str, typer.Option("--at", help="When they are due: a time, now, or 2h: from now.", metavar="TIME")
    ] = "now",
    dry_run: DryRun = False,
    yes: Yes = False,
    limit: Limit = None,
) -> int:
    """Move when instances are due, or the deadline of what they await."""
    when = moment(at, ahead=True)
    chosen: Chosen = choose(frame, ids, filters, {"status": ["runnable", "awaiting_signal"]}, limit)
    return carry_out(
        frame,
        "reschedule",
        chosen,
        lambda conn, some: calls.reschedule_many(conn, some, when),
        dry_run=dry_run,
        yes=yes,
    )


def edit(
    frame: Frame,
    id: Id,
    step: Annotated[str | None, typer.Option("--step", help="Its step.")] = None,
    state: Annotated[str | None, typer.Option("--state", help="Its state; @FILE reads it.", metavar="JSON")] = None,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="Its queue.")] = None,
    priority: Annotated[int | None, typer.Option("--priority", help="Lower runs earlier.")] = None,
    meta: Annotated[str | None, typer.Option("--meta", help="Its meta.", metavar="JSON")] = None,
) -> int:
    """Change an instance that does not execute. Code 1: it does. What is left out stays as it is."""
    if all(said is None for said in (step, state, queue, priority, meta)):
        raise typer.BadParameter("nothing is said to be changed")
    with frame.acting() as conn:
        done = calls.edit(
            conn,
            id,
            step,
            UNSET if state is None else mapping(state),
            queue=queue,
            priority=priority,
            meta=None if meta is None else mapping(meta),
        )
    frame.answer({"id": id, "changed": done}, lambda: Text("changed" if done else "it executes: nothing was changed"))
    return OK if done else NO


def delete(
    frame: Frame, filters: Filters, ids: Ids = None, dry_run: DryRun = False, yes: Yes = False, limit: Limit = None
) -> int:
    """Remove instances that have ended."""
    chosen = choose(frame, ids, filters, {"status": [*TERMINAL]}, limit)
    return carry_out(frame, "delete", chosen, calls.delete_many, dry_run=dry_run, yes=yes)


def signal_many(
    frame: Frame,
    filters: Filters,
    name: Annotated[str, typer.Argument(help="The name of the signal.")],
    ids: Ids = None,
    payload: Annotated[str, typer.Option("--payload", help="What it brings; @FILE reads it.", metavar="JSON")] = "null",
    dedup: Annotated[str | None, typer.Option("--dedup", help="Of signals with one such key only one counts.")] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    limit: Limit = None,
) -> int:
    """Send one signal to many instances."""
    chosen = choose(frame, ids, filters, {"status": [*OPEN]}, limit)
    brought = value(payload)
    return carry_out(
        frame,
        "signal",
        chosen,
        lambda conn, some: calls.signal_many(conn, some, name, brought, dedup_key=dedup),
        dry_run=dry_run,
        yes=yes,
    )
