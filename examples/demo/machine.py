"""The checkout: five steps, each of which may run again after an error or a lost worker.

A step runs at least once, so each write asks the table whether it was made before: `on conflict do nothing` on a key
that stays the same from run to run. What does not ask (`pieces - 1`) stands in one transaction with a write that does.
"""

from __future__ import annotations

import os
import time
from typing import LiteralString

from psycopg_pool import ConnectionPool

from gendurable_py import FSM, Context, Done, Next, step

from .orders import Order

MACHINE = "demo_checkout"
QUEUE = "checkout"

_pool: ConnectionPool | None = None


def open_pool(dsn: str) -> None:
    """The shop's own connections, apart from the engine's."""
    global _pool
    _pool = ConnectionPool(dsn, min_size=1, max_size=8, open=True)


def _execute(statement: LiteralString, params: tuple[object, ...]) -> None:
    """One statement, one transaction."""
    assert _pool is not None, "open_pool comes first"
    with _pool.connection() as conn:
        conn.execute(statement, params)


def _started(ctx: Context[Order]) -> None:
    _execute(
        "insert into shop.step_run (instance_id, order_no, step, attempt, pid) values (%s, %s, %s, %s, %s)",
        (ctx.id, ctx.state.order, ctx.step, ctx.attempt, os.getpid()),
    )


def _work(seconds: float) -> None:
    """Stands for what a real step does; time enough to be seen, and to be killed."""
    time.sleep(seconds)


class CardError(Exception):
    """The payment provider could not be reached, or did not answer."""


class Checkout(
    FSM,
    name=MACHINE,
    queue=QUEUE,
    initial="validate",
    max_attempts=6,
    backoff=lambda attempt: 0.3 * 2**attempt,
):
    State = Order

    @step
    def validate(self, ctx: Context[Order]) -> Next:
        _started(ctx)
        _work(0.1)
        return Next(self.reserve)

    @step
    def reserve(self, ctx: Context[Order]) -> Next:
        _started(ctx)
        order = ctx.state
        # A second run finds the reservation and takes nothing: both rows change in one statement, or neither.
        _execute(
            """
            with reserved as (
                insert into shop.reservation (order_no, sku, pieces) values (%s, %s, %s)
                on conflict do nothing
                returning sku, pieces
            )
            update shop.stock s set pieces = s.pieces - r.pieces from reserved r where s.sku = r.sku
            """,
            (order.order, order.sku, order.pieces),
        )
        _work(0.15)
        return Next(self.charge)

    @step
    def charge(self, ctx: Context[Order]) -> Next:
        _started(ctx)
        order = ctx.state
        _work(0.15)
        if order.order % 4 == 0 and ctx.attempt < 1:
            raise CardError("the card terminal timed out")
        if order.order % 7 == 0 and ctx.attempt < 2:
            raise CardError("the payment provider is not reachable")
        # The provider's rule: one payment for each idempotency key, and the order's number is the key.
        _execute(
            "insert into shop.payment (idempotency_key, order_no, cents) values (%s, %s, %s) on conflict do nothing",
            (order.key, order.order, order.cents),
        )
        if order.order % 9 == 0 and ctx.attempt < 1:
            raise CardError("paid, but the provider's answer was lost")
        return Next(self.ship)

    @step
    def ship(self, ctx: Context[Order]) -> Next:
        _started(ctx)
        order = ctx.state
        _execute(
            "insert into shop.shipment (order_no, sku, pieces) values (%s, %s, %s) on conflict do nothing",
            (order.order, order.sku, order.pieces),
        )
        # The row is written and the step is not committed: a worker that dies now leaves it to be run again.
        _work(0.5)
        return Next(self.notify)

    @step
    def notify(self, ctx: Context[Order]) -> Done:
        _started(ctx)
        order = ctx.state
        _work(0.1)
        _execute(
            "insert into shop.mail (message_id, customer, body) values (%s, %s, %s) on conflict do nothing",
            (f"{order.key}:shipped", order.customer, f"{order.pieces} x {order.sku} on the way"),
        )
        return Done({"order": order.order, "cents": order.cents})
