"""What must hold in the end, asked of the shop's tables and of the engine: each answer is a sentence, none is well."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

import gendurable_py as gd

from .machine import MACHINE
from .orders import Order


@dataclass(frozen=True, slots=True)
class Kill:
    """A worker that was killed, and the instances that it held then: their steps must run again elsewhere."""

    pid: int
    held: tuple[int, ...]


def problems(conn: psycopg.Connection[Any], orders: Sequence[Order], kills: Sequence[Kill]) -> list[str]:
    """Everything that does not hold for these orders after these kills."""
    return [
        *_once(conn, orders),
        *_amounts(conn, orders),
        *_stock(conn, orders),
        *_ended(conn, orders),
        *_kills(conn, kills),
        *_upkeep(conn),
    ]


def _once(conn: psycopg.Connection[Any], orders: Iterable[Order]) -> list[str]:
    """Exactly one row for each order, and none for anything else."""
    numbers = {order.order for order in orders}
    found = []
    for table in ("reservation", "payment", "shipment"):
        counts: dict[int, int] = dict(
            conn.execute(f"select order_no, count(*) from shop.{table} group by order_no").fetchall()
        )
        found += [
            f"order {number} has {counts.get(number, 0)} {table} rows instead of one"
            for number in sorted(numbers | counts.keys())
            if counts.get(number, 0) != (number in numbers)
        ]
    return found


def _amounts(conn: psycopg.Connection[Any], orders: Iterable[Order]) -> list[str]:
    paid: dict[int, int] = dict(
        conn.execute("select order_no, sum(cents)::int from shop.payment group by order_no").fetchall()
    )
    return [
        f"order {order.order} paid {paid.get(order.order, 0)} cents instead of {order.cents}"
        for order in orders
        if paid.get(order.order, 0) != order.cents
    ]


def _stock(conn: psycopg.Connection[Any], orders: Iterable[Order]) -> list[str]:
    sold: dict[str, int] = {}
    for order in orders:
        sold[order.sku] = sold.get(order.sku, 0) + order.pieces
    left = conn.execute("select sku, pieces from shop.stock order by sku").fetchall()
    return [
        f"the stock of {sku} is {pieces} instead of {100 - sold.get(sku, 0)}"
        for sku, pieces in left
        if pieces != 100 - sold.get(sku, 0)
    ]


def _ended(conn: psycopg.Connection[Any], orders: Iterable[Order]) -> list[str]:
    status: dict[str, str] = dict(
        conn.execute("select unique_key, status from gd_instances where fsm = %s", (MACHINE,)).fetchall()
    )
    return [
        f"{order.key} is {status.get(order.key, 'missing')} instead of done"
        for order in orders
        if status.get(order.key) != "done"
    ]


def _kills(conn: psycopg.Connection[Any], kills: Sequence[Kill]) -> list[str]:
    if not any(kill.held for kill in kills):
        return ["no worker was killed in the middle of a step"]
    found = []
    for kill in kills:
        for id in kill.held:
            runs = conn.execute(
                "select pid, step, attempt from shop.step_run where instance_id = %s order by id", (id,)
            ).fetchall()
            last = max(at for at, (pid, _, _) in enumerate(runs) if pid == kill.pid)
            again = [run for run in runs[last + 1 :] if run[1] == runs[last][1] and run[2] > runs[last][2]]
            if not again:
                found.append(f"instance {id} never ran step {runs[last][1]} again after worker {kill.pid} was killed")
    return found


def _upkeep(conn: psycopg.Connection[Any]) -> list[str]:
    repaired = gd.maintain(conn)["repaired"]
    return [f"gd_maintain had to repair {repaired} keys"] if repaired else []
