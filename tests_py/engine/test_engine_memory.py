"""What an engine has in memory does not grow with what came through it: jobs, steps, signals, keys, failures."""

from __future__ import annotations

import gc
import itertools
import logging
import statistics
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from prometheus_client import CollectorRegistry
from support.engine import running
from support.resources import count, insert_many
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Await, Cancel, Child, Context, Done, Engine, Next, ScheduleChilds, job, prometheus, step

Conn = psycopg.Connection[Any]

PART = 600

pytestmark = pytest.mark.usefixtures("unmetered")


@job(name="memory.sync")
def sync_job(args: dict[str, Any]) -> int:
    return 1


@job(name="memory.async")
async def async_job(args: dict[str, Any]) -> int:
    return 1


@job(name="memory.fails", max_attempts=1)
def fails(args: dict[str, Any]) -> None:
    raise Cancel(f"no {args['n']}")


class Steps(FSM, name="memory.steps", run_ahead=True):
    """Goes on under its claim, waits for a child and then for a signal."""

    @step
    def start(self, ctx: Context[Any]) -> Next:
        return Next("middle", ctx.state)

    @step
    async def middle(self, ctx: Context[Any]) -> ScheduleChilds:
        return ScheduleChilds("waits", [Child(async_job)])

    @step
    def waits(self, ctx: Context[Any]) -> Await:
        return Await("go", step="last")

    @step
    def last(self, ctx: Context[Any]) -> Done:
        return Done(len(ctx.signals))


def part(conn: Conn, number: int) -> None:
    """One part of each kind, with names of their own where names can be had."""
    first = number * PART
    numbers = range(first, first + PART)
    ids = insert_many(conn, [Child(sync_job, {"n": n}, unique_key=f"u{n}") for n in numbers])
    ids += insert_many(conn, [Child(async_job, {"n": n}, partition_key=f"k{n}") for n in numbers])
    ids += insert_many(conn, [Child(fails, {"n": n}) for n in numbers[::6]])
    parked = insert_many(conn, [Child(Steps, {"n": n}, meta={"of": f"m{n}"}) for n in numbers])
    wait_until(lambda: count(conn, "id = any(%s) and status = 'awaiting_signal'", parked) == PART, 60)
    assert set(gd.signal_many(conn, parked, "go").values()) == {"done"}
    wait_until(lambda: count(conn, "id = any(%s) and finished_at is not null", ids + parked) == len(ids + parked), 60)


def footprint() -> tuple[int, int]:
    gc.collect()
    return len(gc.get_objects()), sys.getallocatedblocks()


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What is logged would be kept for the report."""
    with caplog.at_level(logging.CRITICAL):
        yield


@pytest.mark.usefixtures("quiet")
def test_memory_does_not_grow_with_what_came_through(db: Any, conn: Conn, registry: CollectorRegistry) -> None:
    machines: list[Any] = [sync_job, async_job, fails, Steps]
    engine = Engine(db.dsn, machines, heartbeat_interval=0.2, reap_interval=0.2)
    prometheus.instrument(engine, registry=registry)
    with running(engine):
        for number in range(2):  # caches fill, statements are prepared, threads begin
            part(conn, number)
        seen = [footprint()]
        for number in range(2, 8):
            part(conn, number)
            seen.append(footprint())
    # One object, or a string, that stayed from each instance of one kind would be PART more each time. What a cache
    # takes now and then, or another thread at the moment of a look, is not: so it is the median of any two looks.
    for counted in zip(*seen, strict=True):
        pairs = itertools.combinations(enumerate(counted), 2)
        growth = statistics.median((after - before) / (at - since) for (since, before), (at, after) in pairs)
        assert growth < PART / 2, counted
