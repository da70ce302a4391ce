"""What the workers run. Each step first writes down that it ran, in a file that no rollback takes back."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gendurable_py import FSM, Await, Child, Context, Done, Next, Outcome, Replay, ScheduleChilds, Stop, job, step

# How often the counter n is raised on the way to done.
STEPS = {
    "chaos.steps": ("start", "second", "third", "last"),
    "chaos.keyed": ("start", "last"),
    "chaos.child": ("start",),
    "chaos.unique": ("start",),
    "chaos.parent": ("start", "join"),
    "chaos.strict": ("start", "second", "last"),
    "chaos.limited": ("start",),
    "chaos.few": ("start", "last"),
    "chaos.tick": ("start",),
}
# Machines of the rough load: they may end as failed, or wait for their time.
ROUGH = {
    "chaos.flaky": ("start",),
    "chaos.backoff": ("start",),
    "chaos.late": ("start",),
    "chaos.timed": ("start",),
}
# Long enough for faults to meet steps under way.
PACE = 0.004
# So long that a step runs a second time when the worker comes back that was stopped in the first.
SLOW = 0.5
# How long a run of the timed machine may take, and how long those live that have a deadline.
TIMEOUT = 0.2
LIFE = 1.0
TERMINAL = ("done", "failed", "cancelled")

# How long finished instances are kept, in seconds: some vanish while it goes on.
RETENTION = 4

# Attempts in all, and the pause before the next one in seconds (from, to).
ATTEMPTS = {"chaos.flaky": 4, "chaos.backoff": 2}
REPLAY_DELAY = 0.05

# Partition keys with this prefix have the limit that operators set; all others have one slot.
WIDE = "wide"

# The rate limit of chaos.limited: so many a second in each bucket, so many at once, and what one of them may weigh.
LIMIT = "chaos"
RATE = 30.0
BURST = 6.0
WEIGHTS = (1.0, 1.0, 0.5, 3.0)
BUCKETS = ("chaos", "chaos:a", "chaos:b")

# A queue of which so many execute at once, over all workers.
FEW = "few"
MOST = 2

# What is inserted each second, by name: the options of the schedule.
SCHEDULES: dict[str, dict[str, Any]] = {
    "each": {"catch_up": "all"},
    "one by one": {"catch_up": "one", "overlap": "queue", "queue": "keyed"},
}
PERIOD = 1_000_000

# In which statuses a unique key is held. Behind "done" it is held until the instance is removed.
SCOPES: dict[str, tuple[str, ...] | None] = {
    "unique:0": None,
    "unique:1": None,
    "unique:2": ("executing",),
    "unique:3": ("runnable",),
    "unique:4": ("runnable", "executing", "done"),
}


def pause_after(fsm: str, attempt: int, how: str) -> tuple[float, float]:
    if how == "replay":
        return REPLAY_DELAY, REPLAY_DELAY
    if fsm == "chaos.flaky":
        return flaky_backoff(attempt), flaky_backoff(attempt)
    return 0.8 * 2**attempt, 1.2 * 2**attempt


def flaky_backoff(attempt: int) -> float:
    return 0.05 * 2.0**attempt


def micros() -> int:
    """Now, by the clock that the server on this machine reads too."""
    return time.time_ns() // 1000


class Journal:
    """An append-only file of JSON lines. A line is one write, so a killed process leaves whole lines."""

    def __init__(self, path: str | Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, **line: Any) -> None:
        os.write(self._file, (json.dumps(line) + "\n").encode())


journal: Journal | None = None
# Ticks come whatever else stands still: what they write must not pass for work that goes on.
ticking: Journal | None = None


@contextmanager
def ran(ctx: Context[Any], to: Journal | None = None, **more: Any) -> Iterator[None]:
    """Around a step: that it began, and that it ended, however it did."""
    to = to or journal
    assert to is not None
    # The number of the claim is what tells two runs of a step apart; steps have no business with it otherwise.
    claim = ctx._row.claim_no
    about = {"id": ctx.id, "fsm": ctx.fsm, "step": ctx.step, "attempt": ctx.attempt, "key": ctx.partition_key}
    to.write(what="run", claim=claim, by=f"engine:{os.getpid()}", at=micros(), **about, **more)
    try:
        yield
    finally:
        to.write(what="ended", id=ctx.id, claim=claim, at=micros())


def is_slow(id: int) -> bool:
    return id % 3 == 0


def counted(ctx: Context[Any], **more: Any) -> dict[str, Any]:
    return {**ctx.state, **more, "n": ctx.state["n"] + 1}


class Steps(FSM, name="chaos.steps", run_ahead=True):
    @step
    def start(self, ctx: Context[Any]) -> Next:
        with ran(ctx):
            time.sleep(PACE)
            return Next("second", counted(ctx))

    @step
    async def second(self, ctx: Context[Any]) -> Next:
        with ran(ctx):
            await asyncio.sleep(SLOW if is_slow(ctx.id) else PACE)
            return Next("third", counted(ctx), delay=0.02 * (ctx.id % 3))

    @step
    def third(self, ctx: Context[Any]) -> Next:
        with ran(ctx):
            return Next("last", counted(ctx), priority=ctx.id % 2)

    @step
    def last(self, ctx: Context[Any]) -> Done:
        with ran(ctx):
            return Done({"n": ctx.state["n"] + 1})


class Keyed(FSM, name="chaos.keyed", queue="keyed"):
    @step
    def start(self, ctx: Context[Any]) -> Next:
        with ran(ctx):
            time.sleep(PACE)
            return Next("last", counted(ctx), delay=0.01 * (ctx.id % 4 // 3))

    @step
    async def last(self, ctx: Context[Any]) -> Done:
        with ran(ctx):
            await asyncio.sleep(PACE / 2)
            return Done({"n": ctx.state["n"] + 1})


@job(name="chaos.unique")
def unique(args: dict[str, Any], ctx: Context[Any]) -> dict[str, Any]:
    with ran(ctx):
        time.sleep(PACE)
        return {"n": args["n"] + 1}


@job(name="chaos.limited")
def limited(args: dict[str, Any], ctx: Context[Any]) -> dict[str, Any]:
    with ran(ctx):
        time.sleep(PACE)
        return {"n": args["n"] + 1}


class Few(FSM, name="chaos.few", queue=FEW, run_ahead=True):
    @step
    def start(self, ctx: Context[Any]) -> Next:
        with ran(ctx):
            time.sleep(PACE)
            return Next("last", counted(ctx), delay=0.01 * (ctx.id % 4 // 3))

    @step
    async def last(self, ctx: Context[Any]) -> Done:
        with ran(ctx):
            await asyncio.sleep(PACE)
            return Done({"n": ctx.state["n"] + 1})


@job(name="chaos.tick")
def tick(args: dict[str, Any], ctx: Context[Any]) -> dict[str, Any]:
    with ran(ctx, to=ticking):
        return {"n": args["n"] + 1}


@job(name="chaos.late")
def late(args: dict[str, Any], ctx: Context[Any]) -> dict[str, Any]:
    with ran(ctx):
        return {"n": args["n"] + 1}


@job(name="chaos.timed", timeout=TIMEOUT)
def timed(args: dict[str, Any], ctx: Context[Any]) -> dict[str, Any]:
    """Its first run takes longer than it may: what that says must never be committed."""
    with ran(ctx):
        late = ctx.attempt == 0
        if late:
            time.sleep(SLOW)
        return {"n": args["n"] + 1, "late": late}


def fail_as_told(ctx: Context[Any], state: dict[str, Any]) -> None:
    if ctx.attempt < state["fails"]:
        raise RuntimeError("as it was told")


class Flaky(FSM, name="chaos.flaky", max_attempts=ATTEMPTS["chaos.flaky"], backoff=flaky_backoff):
    """Fails so many times, by an error or by asking for another attempt."""

    @step
    def start(self, ctx: Context[Any]) -> Outcome:
        with ran(ctx, fails=ctx.state["fails"], how=ctx.state["how"]):
            if ctx.state["how"] == "replay" and ctx.attempt < ctx.state["fails"]:
                return Replay(ctx.state, delay=REPLAY_DELAY)
            fail_as_told(ctx, ctx.state)
            return Done({"n": ctx.state["n"] + 1})


@job(name="chaos.backoff", max_attempts=ATTEMPTS["chaos.backoff"])
def backoff(args: dict[str, Any], ctx: Context[Any]) -> dict[str, Any]:
    """The same with the server's own back-off."""
    with ran(ctx, fails=args["fails"], how="raise"):
        fail_as_told(ctx, args)
        return {"n": args["n"] + 1}


class Kid(FSM, name="chaos.child"):
    @step
    async def start(self, ctx: Context[Any]) -> Outcome:
        with ran(ctx):
            await asyncio.sleep(PACE)
            return Stop("as it was told") if ctx.state["fails"] else Done({"n": ctx.state["n"] + 1})


class Parent(FSM, name="chaos.parent"):
    @step
    def start(self, ctx: Context[Any]) -> ScheduleChilds:
        with ran(ctx):
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
        with ran(ctx, kids=[[kid.id, kid.status, kid.result, kid.last_error] for kid in ctx.childs]):
            return Done({"n": ctx.state["n"] + 1})


class Waiter(FSM, name="chaos.waiter"):
    """Gathers signals of two names until it has all that were announced."""

    @step
    def start(self, ctx: Context[Any]) -> Outcome:
        got = [*ctx.state["got"]]
        taken = ctx.signal("even") or ctx.signal("odd")
        with ran(ctx, took=None if taken is None else taken.payload, timed_out=ctx.timed_out):
            if taken is None:
                # Short, so that deadlines and signals meet.
                return Await(("even", "odd"), ctx.state, timeout=0.3 if ctx.id % 2 else None)
            got.append(taken.payload)
            if len(got) == ctx.state["wants"]:
                return Done({"n": ctx.state["n"] + 1, "got": got})
            return Next("start", counted(ctx, got=got))


MACHINES: list[Any] = [Steps, Keyed, unique, limited, Few, tick, late, timed, Flaky, backoff, Kid, Parent, Waiter]
