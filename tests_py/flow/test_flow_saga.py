"""Sagas: what is undone stays undone, also where somebody has the flow tried again."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

import gendurable_py as gd
from gendurable_py import FlowContext, StepFailed, flow
from gendurable_py.testing import assert_done, assert_failed, drain

Conn = psycopg.Connection[Any]

done: list[str] = []
broken: set[str] = set()


@pytest.fixture(autouse=True)
def fresh() -> None:
    done.clear()
    broken.clear()


def do(what: str) -> None:
    if what in broken:
        raise ConnectionError(what)
    done.append(what)


@flow(name="saga.trip")
async def trip(ctx: FlowContext) -> None:
    async with ctx.saga() as saga:
        for part in ("a", "b", "c"):
            await ctx.step(part, do, part)
            saga.undo(f"undo {part}", do, f"-{part}")


def fail(conn: Conn, *parts: str) -> int:
    broken.update(parts)
    id = gd.insert(conn, trip)
    drain(conn, [trip])
    assert id is not None and "ConnectionError: c" in assert_failed(conn, id)
    return id


def test_a_retry_does_not_go_on_in_the_middle_of_what_was_undone(conn: Conn) -> None:
    id = fail(conn, "c")
    assert done == ["a", "b", "-b", "-a"]
    broken.clear()
    assert gd.retry(conn, id)
    drain(conn, [trip])
    assert "ConnectionError: c" in assert_failed(conn, id)
    assert done == ["a", "b", "-b", "-a"]


def test_a_retry_goes_on_at_the_undo_step_that_failed(conn: Conn) -> None:
    id = fail(conn, "c", "-b")
    assert done == ["a", "b", "-a"]
    broken.clear()
    assert gd.retry(conn, id)
    drain(conn, [trip])
    assert "ConnectionError: c" in assert_failed(conn, id)
    assert done == ["a", "b", "-a", "-b", "-a"]


def test_where_nothing_was_to_be_undone_a_retry_goes_on_at_the_failed_step(conn: Conn) -> None:
    broken.add("a")
    id = gd.insert(conn, trip)
    drain(conn, [trip])
    broken.clear()
    assert id is not None and gd.retry(conn, id)
    drain(conn, [trip])
    assert assert_done(conn, id) is None
    assert done == ["a", "b", "c"]


@flow(name="saga.caught")
async def caught(ctx: FlowContext) -> str:
    try:
        async with ctx.saga() as saga:
            saga.undo("undo a", do, "-a")
            await ctx.step("a", do, "a")
    except StepFailed:
        await ctx.step("tell", do, "tell")
    return "told"


def test_a_step_behind_it_that_fails_is_tried_again(conn: Conn) -> None:
    broken.update(["a", "tell"])
    id = gd.insert(conn, caught)
    drain(conn, [caught])
    assert id is not None and "tell" in assert_failed(conn, id)
    broken.clear()
    assert gd.retry(conn, id)
    drain(conn, [caught])
    assert assert_done(conn, id) == "told"
    assert done == ["-a", "tell"]
