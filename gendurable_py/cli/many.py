"""Doing something to many instances: which ones is found first, so that the confirmation names the number.

Batches are transactions of their own. What was busy is sent again a few times; the rest is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
import typer
from pydantic import JsonValue
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from .. import calls
from ..calls import viewing
from ..errors import UnknownInstance
from .filters import Filters
from .frame import NO, OK, Frame, Negative

BATCH = 500
"""As many as `calls.cancel_many` and its like take best."""
_ROUNDS = 5
_PAUSE = 0.2
_SHOWN = 20

Act = Callable[[psycopg.Connection[Any], list[int]], dict[int, str]]
"""What is done to some ids: done, no, busy or none for each."""


@dataclass(frozen=True)
class Chosen:
    """What a command is about: ids that were named, or found by a filter."""

    ids: list[int]
    filter: dict[str, JsonValue] | None = None

    @property
    def named(self) -> bool:
        return self.filter is None


def choose(
    frame: Frame, ids: list[int] | None, filters: Filters, usual: dict[str, JsonValue], limit: int | None
) -> Chosen:
    """The ids that were named, or those that fit the filter; ``usual`` is what else it asks unless that is said."""
    wanted = filters.read()
    if ids:
        if wanted:
            raise typer.BadParameter("ids and filters exclude each other")
        return Chosen(list(dict.fromkeys(ids)))
    if not wanted:
        raise typer.BadParameter("name ids, or say which ones by filters, such as --machine NAME")
    wanted = {**usual, **wanted}
    found: list[int] = []
    after = 0
    with progress(frame) as bar:
        task = bar.add_task("looking", total=None)
        while limit is None or len(found) < limit:
            page = calls.match(frame.conn, wanted, after, 1000 if limit is None else min(1000, limit - len(found)))
            found += page.ids
            bar.update(task, completed=len(found))
            if page.next is None:
                break
            after = page.next
    return Chosen(found, wanted)


def carry_out(
    frame: Frame, verb: str, chosen: Chosen, act: Act, *, dry_run: bool, yes: bool, batch: int = BATCH
) -> int:
    """Do it, and tell what came of it: an exit code."""
    total = len(chosen.ids)
    if dry_run:
        shown = chosen.ids[:_SHOWN]
        more = f" and {total - len(shown)} more" if total > len(shown) else ""
        frame.answer(
            {"would": verb, "count": total, "ids": chosen.ids},
            lambda: Text(f"Would {verb} {count(total)}" + (f": {', '.join(map(str, shown))}{more}" if total else "")),
        )
        return OK
    if not total:
        raise Negative("No instance fits.")
    if not chosen.named:
        frame.confirm(f"{verb[0].upper()}{verb[1:]} {count(total)}?", yes)
    tally = _in_batches(frame, verb, chosen, act, batch)
    frame.answer(tally.report(), lambda: Text(tally.tell()))
    return OK if tally.done == total else NO


def count(number: int) -> str:
    return f"{number} instance{'' if number == 1 else 's'}"


@dataclass
class Tally:
    """What came of it: how many are done, and the ids of the others."""

    done: int = 0
    others: dict[str, list[int]] = field(default_factory=lambda: {"no": [], "busy": [], "none": []})

    def add(self, results: dict[int, str]) -> list[int]:
        """Count; answers those that were busy."""
        busy = [id for id, result in results.items() if result == "busy"]
        for id, result in results.items():
            if result == "done":
                self.done += 1
            elif result != "busy":
                self.others.setdefault(result, []).append(id)
        return busy

    def report(self) -> dict[str, object]:
        return {"done": self.done, **self.others}

    def tell(self) -> str:
        words = {
            "no": "not possible now (they had ended, or may not be written)",
            "busy": "locked by somebody",
            "none": "not there",
        }
        lines = [f"done: {self.done}"]
        for name, ids in self.others.items():
            if ids:
                more = ", ..." if len(ids) > _SHOWN else ""
                lines.append(f"{words.get(name, name)}: {len(ids)} ({', '.join(map(str, ids[:_SHOWN]))}{more})")
        return "\n".join(lines)


def _in_batches(frame: Frame, verb: str, chosen: Chosen, act: Act, batch: int) -> Tally:
    tally = Tally()
    with progress(frame) as bar:
        task = bar.add_task(verb, total=len(chosen.ids))
        left = chosen.ids
        for turn in range(_ROUNDS):
            if turn:
                time.sleep(_PAUSE * turn)
            busy: list[int] = []
            for start in range(0, len(left), batch):
                with frame.acting() as conn:
                    if chosen.filter is not None:
                        viewing.says_which(conn, chosen.filter)
                    results = act(conn, left[start : start + batch])
                again = tally.add(results)
                busy += again
                bar.update(task, advance=len(results) - len(again))
            left = busy
            if not left:
                break
        tally.others["busy"] = left
    return tally


def one_by_one(act: Callable[[psycopg.Connection[Any], int], bool]) -> Act:
    """A call for one instance as one for several: each in a part of the transaction."""

    def several(conn: psycopg.Connection[Any], ids: list[int]) -> dict[int, str]:
        results: dict[int, str] = {}
        for id in ids:
            try:
                with conn.transaction():
                    results[id] = "done" if act(conn, id) else "no"
            except UnknownInstance:
                results[id] = "none"
        return results

    return several


def progress(frame: Frame, *, counted: bool = True) -> Progress:
    """A bar on stderr, where somebody looks; ``counted``: with how many of how many."""
    how_many = [MofNCompleteColumn()] if counted else []
    columns = [TextColumn("{task.description}"), BarColumn(), *how_many, TimeRemainingColumn()]
    hidden = frame.json or not frame.err.is_terminal
    # Before its version 15, rich ends even a bar that is not shown with an empty line.
    console = Console(quiet=True) if hidden else frame.err
    return Progress(*columns, console=console, transient=True, disable=hidden)
