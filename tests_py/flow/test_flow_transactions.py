"""Transactional steps of flows: their writes and their checkpoint are one commit."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from support.engine import ended, running

import gendurable_py as gd
from gendurable_py import Engine
from gendurable_py.flow import FlowContext, StepFailed, flow
from gendurable_py.testing import assert_done, crash_everywhere, drain

Conn = psycopg.Connection[Any]


@pytest.fixture
def seats(conn: Conn) -> Conn:
    conn.execute("create table public.seat (name text primary key, tries int not null default 1)")
    return conn


def book(conn: Conn, name: str) -> int:
    conn.execute("insert into public.seat values (%s)", (name,))
    return len(name)


async def abook(conn: psycopg.AsyncConnection[Any], name: str) -> int:
    await conn.execute("insert into public.seat values (%s)", (name,))
    return len(name)


def refuse(conn: Conn) -> None:
    conn.execute("insert into public.seat values ('lost')")
    raise ValueError("no")


async def slow(x: int) -> int:
    await asyncio.sleep(0.05)
    return x


@flow(name="flow.transactions")
async def booking(ctx: FlowContext) -> list[Any]:
    first = await ctx.step("slow", slow, 1)
    a, b, c = await asyncio.gather(
        ctx.transaction("book", book, "1a"), ctx.step("slow", slow, 2), ctx.transaction("book", abook, "1bb")
    )
    try:
        await ctx.using(max_attempts=2, delay=0.01).transaction("refuse", refuse)
        failed = None
    except StepFailed as error:
        failed = error.attempts
    return [first, a, b, c, failed]


def test_writes_and_checkpoint_are_one_commit(db: Any, seats: Conn) -> None:
    with running(Engine(db.dsn, machines=[booking])):
        [result] = ended(seats, gd.insert(seats, booking))
    assert result == ("done", [1, 2, 2, 3, 2], None)
    assert seats.execute("select name from public.seat order by name").fetchall() == [("1a",), ("1bb",)]


@flow(name="flow.sync_transactions")
async def sync_booking(ctx: FlowContext) -> int:
    await ctx.step("slow", slow, 1)
    return await ctx.transaction("book", book, "1a") + await ctx.transaction("book", book, "22")


def test_no_kill_makes_it_write_twice(seats: Conn) -> None:
    # the primary key of the table would refuse a second row
    assert crash_everywhere(seats, sync_booking) > 8
    id = gd.insert(seats, sync_booking)
    drain(seats, [sync_booking])
    assert assert_done(seats, id) == 4


def test_draining_needs_a_connection_of_its_kind(seats: Conn) -> None:
    id = gd.insert(seats, booking)
    drain(seats, [booking], advance=True)
    row = gd.result(seats, id or 0)
    assert row is not None and row.status == "failed" and "async transactional" in str(row.last_error)


def test_a_claim_that_is_lost_rolls_it_back(db: Any, seats: Conn) -> None:
    @flow(name="flow.cancelled_inside")
    async def cancelled(ctx: FlowContext) -> None:
        def write(conn: Conn) -> None:
            conn.execute("insert into public.seat values ('x')")
            gd.cancel(seats, ctx.id)

        await ctx.transaction("write", write)

    with running(Engine(db.dsn, machines=[cancelled])):
        [result] = ended(seats, gd.insert(seats, cancelled))
    assert result.status == "cancelled"
    assert seats.execute("select count(*) from public.seat").fetchone() == (0,)


def test_a_timeout_is_refused(seats: Conn) -> None:
    @flow(name="flow.timed_transaction")
    async def timed(ctx: FlowContext) -> None:
        await ctx.using(timeout=1).transaction("book", book, "1")

    id = gd.insert(seats, timed)
    drain(seats, [timed])
    assert "statement_timeout" in str(gd.result(seats, id or 0))
