"""Machines that await a row: they look at the table and then await, while others write it. Nothing is lost."""

from __future__ import annotations

import random
from typing import Any

import psycopg
from support.engine import ended, running
from support.wait import run_in_thread

import gendurable_py as gd
from gendurable_py import FSM, Await, Context, Done, Engine, step

Conn = psycopg.Connection[Any]
ORDERS = 300


class Order(FSM, name="signal_on.order", initial="look"):
    dsn = ""

    @step
    def look(self, ctx: Context[dict[str, Any]]) -> Await | Done:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            found = conn.execute("select amount from orders where id = %s and status = 'paid'", (ctx.state["id"],))
            row = found.fetchone()
        if row is not None:
            return Done(["looked", row[0]])
        return Await("paid", step=self.told)

    @step
    def told(self, ctx: Context[dict[str, Any]]) -> Done:
        [signal] = ctx.signals
        return Done(["told", signal.payload["amount"]])


def test_orders_that_are_paid_while_their_machines_look(db: Any, conn: Conn) -> None:
    Order.dsn = db.dsn
    conn.execute("create table orders (id int primary key, status text, amount int)")
    gd.signal_on(conn, "orders", "paid", "order:{id}", when="status = 'paid'", payload=["amount"])
    with conn.transaction():
        conn.execute("insert into orders select n, 'new', null from generate_series(1, %s) n", (ORDERS,))
        ids = {
            n: made.id
            for n, made in enumerate(
                gd.insert_many(
                    conn,
                    [gd.Child(Order, {"id": n}, unique_key=f"order:{n}") for n in range(1, ORDERS + 1)],
                ),
                1,
            )
        }

    def pay(numbers: list[int]) -> None:
        # one by one and some at once, some taken back and paid again
        draw, open_ones = random.Random(numbers[0]), list[int]()
        with psycopg.connect(db.dsn) as paying:
            for n in numbers:
                open_ones.append(n)
                paying.execute("update orders set status = 'paid', amount = id * 10 where id = %s", (n,))
                if draw.random() < 0.2:
                    paying.rollback()
                    paying.execute(
                        "update orders set status = 'paid', amount = id * 10 where id = any(%s)", (open_ones,)
                    )
                if draw.random() < 0.7:
                    paying.commit()
                    open_ones = []

    order = list(range(1, ORDERS + 1))
    random.Random(1).shuffle(order)
    with running(Engine(db.dsn, [Order], {"default": 8})):
        payers = [run_in_thread(pay, order[:150]), run_in_thread(pay, order[150:])]
        results = ended(conn, *ids.values(), timeout=30)
        for payer in payers:
            payer.result()
    assert {result.status for result in results} == {"done"} and len(results) == ORDERS
    ways = []
    for n, result in zip(ids, results, strict=True):
        way, amount = result.result  # type: ignore[misc]
        assert amount == n * 10
        ways.append(way)
    assert ways.count("told") > 20
    rest = conn.execute("select count(*) from gendurable.signal").fetchone()
    assert rest == (0,)
