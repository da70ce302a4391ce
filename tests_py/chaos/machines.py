"""What the workers run. Each step first writes down that it ran, in a file that no rollback takes back."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

from gendurable_py import FSM, Await, Child, Context, Done, Next, Outcome, ScheduleChilds, Stop, job, step

# How often the counter n is raised on the way to done.
STEPS = {
    "chaos.steps": ("start", "second", "third", "last"),
    "chaos.keyed": ("start",),
    "chaos.child": ("start",),
    "chaos.unique": ("start",),
    "chaos.parent": ("start", "join"),
    "chaos.strict": ("start", "second", "last"),
}
# Long enough for faults to meet steps under way.
PACE = 0.004
TERMINAL = ("done", "failed", "cancelled")


class Journal:
    """An append-only file of JSON lines. A line is one write, so a killed process leaves whole lines."""

    def __init__(self, path: str | Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, **line: Any) -> None:
        os.write(self._file, (json.dumps(line) + "\n").encode())


journal: Journal | None = None


def ran(ctx: Context[Any], **more: Any) -> None:
    assert journal is not None
    # The number of the claim is what tells two runs of a step apart; steps have no business with it otherwise.
    journal.write(
        what="run", id=ctx.id, fsm=ctx.fsm, step=ctx.step, claim=ctx._row.claim_no, by=f"engine:{os.getpid()}", **more
    )


def counted(ctx: Context[Any], **more: Any) -> dict[str, Any]:
    return {**ctx.state, **more, "n": ctx.state["n"] + 1}


class Steps(FSM, name="chaos.steps", run_ahead=True):
    @step
    def start(self, ctx: Context[Any]) -> Next:
        ran(ctx)
        time.sleep(PACE)
        return Next("second", counted(ctx))

    @step
    async def second(self, ctx: Context[Any]) -> Next:
        ran(ctx)
        await asyncio.sleep(PACE)
        return Next("third", counted(ctx), delay=0.02 * (ctx.id % 3))

    @step
    def third(self, ctx: Context[Any]) -> Next:
        ran(ctx)
        return Next("last", counted(ctx), priority=ctx.id % 2)

    @step
    def last(self, ctx: Context[Any]) -> Done:
        ran(ctx)
        return Done({"n": ctx.state["n"] + 1})


@job(name="chaos.keyed", queue="keyed")
def keyed(args: dict[str, Any], ctx: Context[Any]) -> dict[str, Any]:
    ran(ctx)
    time.sleep(PACE)
    return {"n": args["n"] + 1}


@job(name="chaos.unique")
def unique(args: dict[str, Any], ctx: Context[Any]) -> dict[str, Any]:
    ran(ctx)
    time.sleep(PACE)
    return {"n": args["n"] + 1}


class Kid(FSM, name="chaos.child"):
    @step
    async def start(self, ctx: Context[Any]) -> Outcome:
        ran(ctx)
        await asyncio.sleep(PACE)
        return Stop("as it was told") if ctx.state["fails"] else Done({"n": ctx.state["n"] + 1})


class Parent(FSM, name="chaos.parent"):
    @step
    def start(self, ctx: Context[Any]) -> ScheduleChilds:
        ran(ctx)
        kids = [
            Child(
                Kid,
                {"n": 0, "fails": number % 4 == 3},
                partition_key=f"kids:{ctx.id % 2}" if number % 2 else None,
                queue="keyed" if number % 3 == 2 else None,
            )
            for number in range(ctx.state["kids"])
        ]
        return ScheduleChilds("join", kids, counted(ctx))

    @step
    def join(self, ctx: Context[Any]) -> Done:
        ran(ctx, kids=[[kid.id, kid.status] for kid in ctx.childs])
        return Done({"n": ctx.state["n"] + 1})


class Waiter(FSM, name="chaos.waiter"):
    """Gathers signals of two names until it has all that were announced."""

    @step
    def start(self, ctx: Context[Any]) -> Outcome:
        got = [*ctx.state["got"]]
        taken = ctx.signal("even") or ctx.signal("odd")
        ran(ctx, took=None if taken is None else taken.payload)
        if taken is None:
            # Short, so that deadlines and signals meet.
            return Await(("even", "odd"), ctx.state, timeout=0.3 if ctx.id % 2 else None)
        got.append(taken.payload)
        if len(got) == ctx.state["wants"]:
            return Done({"n": ctx.state["n"] + 1, "got": got})
        return Next("start", counted(ctx, got=got))


MACHINES = [Steps, keyed, unique, Kid, Parent, Waiter]
