"""Pausing from Python: instances, machines, and the settings of queues."""

from __future__ import annotations

from typing import Any

import psycopg
from pydantic import BaseModel

import gendurable_py as gd
from gendurable_py import FSM, Context, Done, Next, job, step

Conn = psycopg.Connection[Any]


class Order(FSM, name="test_pauses.order"):
    class State(BaseModel):
        order: int

    @step
    def start(self, ctx: Context[State]) -> Next:
        return Next("end")

    @step
    def end(self, ctx: Context[State]) -> Done:
        return Done()


@job(name="test_pauses.work")
def work(args: dict[str, Any]) -> None: ...


def test_an_instance(conn: Conn) -> None:
    id = gd.insert(conn, work)
    assert id is not None
    assert gd.pause(conn, id)
    assert not gd.pause(conn, id)
    assert gd.claim(conn, "w") == []
    assert gd.resume(conn, id)
    assert not gd.resume(conn, id)
    assert [claim.id for claim in gd.claim(conn, "w")] == [id]


def test_a_machine_by_its_name_or_its_class(conn: Conn) -> None:
    id = gd.insert(conn, work)
    assert gd.pause_machine(conn, work, 1)
    assert gd.pause_machine(conn, work, step="start")
    assert not gd.pause_machine(conn, "test_pauses.work", 1)
    assert gd.claim(conn, "w") == []
    assert gd.resume_machine(conn, work, step="start")
    assert gd.claim(conn, "w") == []
    assert gd.resume_machine(conn, "test_pauses.work", 1)
    assert [claim.id for claim in gd.claim(conn, "w")] == [id]
    assert not gd.resume_machine(conn, Order, step=Order.end)
    assert gd.pause_machine(conn, Order, 1, Order.end)
    assert gd.resume_machine(conn, "test_pauses.order", 1, "end")


def test_the_settings_of_a_queue(conn: Conn) -> None:
    query = "select paused, concurrency, max_executing from gd_queues where queue = 'default'"
    gd.insert(conn, work)
    gd.set_queue(conn, "default", paused=True, concurrency=3)
    assert gd.claim(conn, "w") == []
    gd.set_queue(conn, "default", paused=None, limit=7)
    assert conn.execute(query).fetchone() == (False, 3, 7)
    gd.set_queue(conn, "default", concurrency=None, limit=None)
    assert conn.execute(query).fetchone() == (False, None, None)
