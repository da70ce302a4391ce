"""Looking at instances: ``show``, ``why``, ``list``, ``errors``, ``history``, ``journal``, ``line``, ``audit``.
Next: `trouble`.

Nothing is changed. What the server cut or has not looked at is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypeVar, cast

import typer
from pydantic import JsonValue
from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from .. import calls
from ..calls import Cause, Entry, JournalEntry, Kept, Listed, Node, Page, viewing
from .filters import Filters
from .frame import Frame, Id, command, no_instance
from .output import age, clock, encode, facts, first_line, plain, stack, styled, table
from .reading import moment, value

PANEL = "Looking"
# A page of all that finds little goes on looking, so many times.
_MOST_LOOKS = 50
# So many instances a call looks at, and so many calls in the audit.
_LOOK = 20_000
_LOOK_AT_CALLS = 100_000


def add(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "list", panel=PANEL)(list_)
    command(app, "show", panel=PANEL)(show)
    command(app, "why", panel=PANEL)(why)
    command(app, "errors", panel=PANEL)(errors)
    command(app, "history", panel=PANEL)(history)
    command(app, "journal", panel=PANEL)(journal)
    command(app, "line", panel=PANEL)(line)
    command(app, "audit", panel=PANEL)(audit)


# -- one


def show(
    frame: Frame,
    id: Id,
    traceback: Annotated[bool, typer.Option("--traceback", help="With the traceback of each error.")] = False,
) -> None:
    """Show all of an instance: state, why it does not run, errors, children, history, journal."""
    conn = frame.conn
    found = calls.get(conn, id)
    if found is None:
        raise no_instance(id)
    causes, kept = calls.why(conn, id), calls.errors(conn, id, 20)
    tree = calls.tree(conn, id, limit=200)
    entries = viewing.latest(conn, id, 20)
    recorded = calls.journal(conn, id, -20, values=False)
    whole = {"instance": found, "why": causes, "errors": kept, "tree": tree, "history": entries, "journal": recorded}

    def render() -> RenderableType:
        parts: list[RenderableType] = [_facts_of(found)]
        if causes:
            parts.append(stack_of("Why", _causes(causes)))
        if kept:
            parts.append(stack_of("Errors", _errors(kept, traceback)))
        if len(tree) > 1:
            parts.append(stack_of("Children", _tree(tree)))
        if entries:
            parts.append(stack_of("History", _entries(entries)))
        if recorded:
            parts.append(stack_of("Journal", _recorded(recorded)))
        return stack(parts)

    frame.answer(whole, render)


def stack_of(title: str, part: RenderableType) -> RenderableType:
    """A part under its title."""
    return Group(Text(title, style="bold underline"), part)


_TIMES = ("eligible_at", "deadline_at", "lease_expires_at", "timeout_at", "expires_at", "keep_until", "paused_at")
_TIMES_PAST = ("inserted_at", "updated_at", "finished_at")
_APART = {"errors", "watched", "watchers"}
_FIRST = ("id", "fsm", "fsm_version", "status", "step", "queue")
_LAST = ("attributes", "meta", "state", "result", "last_error")
# Said only where it is not what it mostly is.
_USUAL: dict[str, object] = {"priority": 0, "attempt": 0, "crashes": 0, "children_pending": 0, "weight": 1}


def _facts_of(found: dict[str, JsonValue]) -> RenderableType:
    pairs: list[tuple[str, object]] = []
    between = [name for name in found if name not in (*_FIRST, *_LAST)]
    for name in (*_FIRST, *between, *_LAST):
        what = found.get(name)
        if name in _APART or (name in _USUAL and what == _USUAL[name]):
            continue
        if name == "status":
            pairs.append((name, styled(what)))
        elif name in (*_TIMES, *_TIMES_PAST) and what is not None:
            when = age(what)
            pairs.append((name, f"{clock(what)} ({when if when.startswith('in ') else when + ' ago'})"))
        else:
            pairs.append((name, what))
    return facts(pairs)


def why(frame: Frame, id: Id) -> None:
    """Say why an instance does not run now, the decisive cause first."""
    causes = calls.why(frame.conn, id)
    if not causes:
        raise no_instance(id)
    frame.answer(causes, lambda: _causes(causes))


def _causes(causes: list[Cause]) -> RenderableType:
    made = []
    for cause in causes:
        times = [f"since {clock(cause.since)}"] if cause.since else []
        times += [f"until {clock(cause.until)}"] if cause.until else []
        head = Text(plain(cause.cause), style="bold")
        if times:
            head.append(f"  ({', '.join(times)})", style="dim")
        made += [head, Text("  " + plain(cause.message))]
    return Group(*made)


def errors(
    frame: Frame,
    id: Id,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 20,
    traceback: Annotated[bool, typer.Option("--traceback/--no-traceback", help="With tracebacks.")] = True,
) -> None:
    """Show the last errors of an instance, newest first."""
    kept = calls.errors(frame.conn, id, limit)
    if not kept and calls.result(frame.conn, id) is None:
        raise no_instance(id)
    frame.answer(kept, lambda: _errors(kept, traceback) if kept else Text("It has had no errors."))


def _errors(kept: list[Kept], traceback: bool) -> RenderableType:
    made: list[RenderableType] = []
    for error in kept:
        head = Text(f"{clock(error.at)}  {plain(error.kind)}", style="bold")
        by = f" by {plain(error.worker)}" if error.worker else ""
        head.append(f"  step {plain(error.step)}, attempt {error.attempt}{by}", style="dim")
        made.append(head)
        text = error.traceback if traceback and error.traceback else error.error
        if text:
            made.append(Text("\n".join("  " + part for part in plain(text.strip(), lines=True).split("\n"))))
    return Group(*made)


def history(
    frame: Frame,
    id: Id,
    after: Annotated[int, typer.Option("--after", help="From behind this entry on.", metavar="NO")] = 0,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 1000,
    states: Annotated[bool, typer.Option("--states", help="With the states that were kept.")] = False,
) -> None:
    """Show what happened to an instance, if its machine keeps a history."""
    entries = calls.history(frame.conn, id, after, limit)
    if not entries and calls.result(frame.conn, id) is None:
        raise no_instance(id)
    frame.answer(
        entries,
        lambda: _entries(entries, states) if entries else Text("Nothing is kept: its machine keeps no history."),
    )


def _entries(entries: list[Entry], states: bool = False) -> RenderableType:
    made: list[RenderableType] = []
    wide = len(str(entries[-1].no))
    for entry in entries:
        moved = f" > {plain(entry.next_step)}" if entry.next_step not in (None, entry.step) else ""
        head = Text(f"{entry.no:>{wide}}  {clock(entry.at)}  ")
        head.append_text(styled(entry.kind))
        head.append(f"  {plain(entry.step)}{moved}")
        if entry.seconds is not None:
            head.append(f"  {entry.seconds:.3f} s", style="dim")
        more = (
            [f"{name}: {readable_line(what)}" for name, what in entry.detail.items()]
            if isinstance(entry.detail, dict)
            else []
        )
        more += [f"state: {encode(entry.state)}"] if states and entry.state is not None else []
        made += [head, *(Text(" " * (wide + 2) + plain(line)) for line in more)]
    return Group(*made)


def journal(
    frame: Frame,
    id: Id,
    after: Annotated[
        int, typer.Option("--after", help="From behind this entry on; -20: the last 20.", metavar="SEQ")
    ] = 0,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 1000,
    values: Annotated[bool, typer.Option("--values", help="With what steps and signals have given.")] = False,
) -> None:
    """Show what a flow has come through: its checkpoints, and how they ended."""
    entries = calls.journal(frame.conn, id, after, limit, values=values)
    if not entries and calls.result(frame.conn, id) is None:
        raise no_instance(id)
    frame.answer(entries, lambda: _recorded(entries, values) if entries else Text("There is nothing in its journal."))


def _recorded(entries: list[JournalEntry], values: bool = False) -> RenderableType:
    made: list[RenderableType] = []
    wide = len(str(entries[-1].seq))
    for entry in entries:
        when = "" if entry.at is None else clock(entry.at)
        head = Text(f"{entry.seq:>{wide}}  {when:<19}  ")
        head.append(plain(entry.kind), style="bold")
        if entry.name is not None:
            head.append("  " + plain(entry.name) + (f" (number {entry.n + 1})" if entry.n else ""))
        more = [] if entry.error is None else [f"error: {first_line(entry.error)}"]
        more += [f"value: {encode(entry.value)}"] if values and entry.value is not None else []
        made += [head, *(Text(" " * (wide + 2) + plain(line)) for line in more)]
    return Group(*made)


def _tree(nodes: list[Node]) -> RenderableType:
    made: dict[int, Tree] = {}
    root = None
    for node in nodes:
        label = Text.assemble(f"{node.id} {plain(node.fsm)} {plain(node.step)} ", styled(node.status))
        if node.last_error:
            label.append(f"  {first_line(node.last_error)}", style="dim")
        above = None if node.parent_id is None else made.get(node.parent_id)
        if above is None:
            made[node.id] = Tree(label, guide_style="dim")
            root = root or made[node.id]
        else:
            made[node.id] = above.add(label)
    assert root is not None
    if len(nodes) >= 200:
        root.add(Text("... and more: gendurable list --parent ID"))
    return root


# -- many


def list_(
    frame: Frame,
    filters: Filters,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10000, help="At most so many.")] = 50,
    after: Annotated[str | None, typer.Option("--after", help="The cursor of the page before.", metavar="JSON")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All pages, one after the other.")] = False,
    count: Annotated[bool, typer.Option("--count", help="Only how many there are.")] = False,
) -> None:
    """List instances, newest first."""
    wanted = filters.read()
    if count:
        counted = calls.count(frame.conn, wanted)
        frame.answer(
            {"count": counted.instances, "exact": counted.exact},
            lambda: Text(f"{counted.instances}" + ("" if counted.exact else " or more")),
        )
        return

    def fetch(cursor: JsonValue, limit: int) -> Page:
        return calls.list(frame.conn, wanted, cursor, limit, _LOOK)

    cursor = None if after is None else value(after)
    if everything and frame.json:
        _stream(frame, wanted, cursor)
        return
    found = 0
    while True:
        # One look is one call, which is quick whatever there is; who wants more says so.
        rows, cursor = _page(fetch, cursor, limit, looks=_MOST_LOOKS if everything else 1)
        found += len(rows)
        if frame.json:
            frame.line(encode({"instances": rows, "next": cursor}))
        elif rows:
            frame.out.print(_listed(rows))
        if not everything or cursor is None:
            break
    if cursor is not None:
        said = "There may be more" if rows else f"None of the {_LOOK:,} that were looked at fits, and there are more"
        frame.note(f"{said}: --all goes through all of them, or --after '{encode(cursor)}'")
    elif not found:
        frame.note("No instance fits.")


Row = TypeVar("Row")


def _page(
    fetch: Callable[[Any, int], tuple[list[Row], Any]], cursor: Any, limit: int, looks: int
) -> tuple[list[Row], Any]:
    """A page, from a call that looks at a bounded part each time, and says where to go on."""
    rows: list[Row] = []
    for _ in range(looks):
        found, cursor = fetch(cursor, limit - len(rows))
        rows += found
        if cursor is None or len(rows) >= limit:
            break
    return rows, cursor


def _stream(frame: Frame, wanted: dict[str, JsonValue], cursor: JsonValue) -> None:
    """One document, written as it comes: there may be millions."""

    def texts() -> Iterator[str]:
        nonlocal cursor
        while True:
            page = calls.list(frame.conn, wanted, cursor, 1000)
            cursor = page.next
            yield from map(encode, page.instances)
            if cursor is None:
                return

    separator = '{"instances": ['
    for text in texts():
        frame.line(separator + text)
        separator = ", "
    frame.line(('{"instances": [' if separator != ", " else "") + '], "next": null}')


def _listed(rows: list[Listed]) -> RenderableType:
    cells: list[list[Any]] = []
    for row in rows:
        since = row.finished_at or row.updated_at
        what = plain(row.partition_key or row.unique_key or "")
        status = Text("paused", style="yellow") if row.paused_at else styled(row.status)
        lost = row.crashes or ""
        cells.append([row.id, row.fsm, row.step, status, row.queue, age(since), what, lost, first_line(row.last_error)])
    # lost: how often in a row its worker was
    columns = ("id", "machine", "step", "status", "queue", "since", "key", "lost", "error")
    return table(columns, cells, keep=("id", "status", "since"))


def line(
    frame: Frame,
    key: Annotated[str, typer.Argument(help="The partition key.")],
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 100,
) -> None:
    """Show who holds a partition key, and who waits for it, in the order in which they start."""
    rows = calls.line(frame.conn, key, limit)
    cells = [(row.place, row.id, row.standing, row.fsm, row.step, age(row.since), row.worker) for row in rows]
    columns = ("place", "id", "standing", "machine", "step", "since", "worker")
    frame.answer(
        rows, lambda: table(columns, cells, keep=("id", "standing")) if rows else Text("Nobody is in this line.")
    )


def audit(
    frame: Frame,
    id: Annotated[int | None, typer.Option("--id", help="What concerned this instance.")] = None,
    call: Annotated[str | None, typer.Option("--call", help="This function: gd_cancel.")] = None,
    by: Annotated[str | None, typer.Option("--actor", help="What this one did.")] = None,
    since: Annotated[str | None, typer.Option("--since", help="A time, or 2h: ago.", metavar="TIME")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 50,
    after: Annotated[int | None, typer.Option("--after", help="Where the page before ended.", metavar="NO")] = None,
) -> None:
    """Show who did what by hand, newest first."""
    said = {"id": id, "call": call, "actor": by, "after": None if since is None else moment(since).isoformat()}
    wanted = {key: what for key, what in said.items() if what is not None}
    found, goes_on = calls.audit(frame.conn, wanted, after, limit, _LOOK_AT_CALLS)
    cells = [
        (row.no, clock(row.at), row.actor or row.session_role, row.call, row.id, row.affected, readable_line(row.what))
        for row in found
    ]
    columns = ("no", "at", "who", "call", "id", "affected", "what")
    frame.answer(
        {"calls": found, "next": goes_on},
        lambda: table(columns, cells, keep=("no", "at", "id", "call")) if cells else Text("Nothing."),
    )
    if goes_on is not None:
        nothing = f"Not one more of the {_LOOK_AT_CALLS:,} that were looked at fits, and there are more"
        frame.note(f"{'There may be more' if len(found) == limit else nothing}: --after {goes_on}")


def readable_line(what: object) -> str:
    """A value in one line."""
    return plain(what) if isinstance(what, str) else "" if what is None else encode(cast("JsonValue", what))
