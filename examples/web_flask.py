"""A shop in Flask: an order and its checkout are kept together, or neither of them: `python -m examples web_flask`.

By itself it is served by `flask --app examples.web_flask run`, and its steps run elsewhere, by
`gendurable worker examples.web_flask --queues orders=10`. Both go to the database of the PG* variables.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from flask import Flask, abort, request
from psycopg_pool import ConnectionPool
from pydantic import BaseModel

import gendurable_py as gd
from gendurable_py import FSM, Await, Context, Done, Stop, step

from ._run import Conn


class Checkout(FSM, name="flask.checkout", queue="orders"):
    class State(BaseModel):
        order: int
        cents: int

    @step
    def start(self, ctx: Context[State]) -> Await | Done | Stop:
        payment = ctx.signal("paid")
        if payment is None and not ctx.timed_out:
            return Await("paid", timeout=3600)
        return Stop("not paid within an hour") if payment is None else Done({"paid": ctx.state.cents})


def create_app(pool: ConnectionPool[Any] | None = None) -> Flask:
    """The app; without a pool it makes one, which connects when the first request needs it."""
    app = Flask(__name__)
    if pool is None:
        pool = ConnectionPool(min_size=0, max_size=10, check=ConnectionPool.check_connection, open=True)

    @app.post("/orders")
    def place() -> tuple[dict[str, int], int]:
        asked = request.get_json()
        with pool.connection() as conn:  # one transaction: committed here, and undone by whatever is raised in it
            [row] = conn.execute(
                "insert into flask_order (customer) values (%s) returning id", (asked["customer"],)
            ).fetchall()
            order = int(row[0])
            gd.insert(conn, Checkout, {"order": order, "cents": asked["cents"]}, unique_key=f"flask:{order}")
            if asked["cents"] <= 0:
                abort(422)  # raises, and so keeps neither
        return {"order": order}, 202

    @app.post("/orders/<int:order>/paid")
    def paid(order: int) -> dict[str, str]:
        with pool.connection() as conn:
            # The shop's bank sends each message until it is answered: the key lets the second one do nothing.
            said = gd.signal(conn, f"flask:{order}", "paid", dedup_key=request.headers["Idempotency-Key"])
        if said == "no_target":
            abort(404)
        return {"signal": said}

    return app


async def scene(conn: Conn) -> object:
    """Two orders, one of them refused, and a payment that is told twice."""

    def act() -> list[Any]:
        with ConnectionPool(os.environ["EXAMPLES_DSN"], min_size=1, open=True) as pool:
            client = create_app(pool).test_client()
            placed = client.post("/orders", json={"customer": "ada", "cents": 250})
            refused = client.post("/orders", json={"customer": "bob", "cents": 0})
            address = f"/orders/{placed.get_json()['order']}/paid"
            said = [client.post(address, headers={"Idempotency-Key": "message-1"}) for _ in range(2)]
            nobody = client.post("/orders/999/paid", headers={"Idempotency-Key": "message-2"})
            return [placed.status_code, refused.status_code, *(one.get_json()["signal"] for one in said), nobody.status]

    said = await asyncio.to_thread(act)
    [row] = await (await conn.execute("select id from gd_instances where fsm = 'flask.checkout'")).fetchall()
    ended = await gd.wait(conn, row[0], timeout=20)
    orders = await (await conn.execute("select customer from flask_order")).fetchall()
    return {"said": said, "result": ended.result, "orders": [name for (name,) in orders]}


SCHEMA = "create table flask_order (id int generated always as identity, customer text not null)"
MACHINES, QUEUES = [Checkout], {"orders": 4}
