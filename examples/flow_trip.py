"""A trip of three bookings as a flow: a saga undoes what was booked, last first, when a later one cannot be had.

`python -m examples flow_trip`. `examples/saga.py` is the same as a machine: its steps say where to go on, and here the
function's own lines do.
"""

from __future__ import annotations

from pydantic import BaseModel

import gendurable_py as gd
from gendurable_py import Cancel, FlowContext, StepFailed, flow

from ._run import Conn
from .saga import SCHEMA as SCHEMA
from .saga import SoldOut, cancel, reserve

PARTS = ("flight", "hotel", "car")


class Trip(BaseModel):
    trip: str
    sold_out: str | None = None


def book(trip: Trip, part: str) -> str:
    """The booking office; it answers a second time what it did the first. Now and then it does not answer at all."""
    if part == trip.sold_out:
        raise SoldOut(part)
    reference = f"{trip.trip}:{part}"
    reserve(reference, part)
    return reference


@flow(name="flow_trip", queue="trips")
async def travel(ctx: FlowContext, trip: Trip) -> list[str]:
    booking = ctx.using(max_attempts=4, delay=0.05, never=SoldOut)
    booked: list[str] = []
    try:
        async with ctx.saga() as saga:
            for part in PARTS:
                # Before the booking: an office that did not answer may have booked all the same.
                saga.undo(f"cancel {part}", cancel, f"{trip.trip}:{part}")
                booked.append(await booking.step(f"book {part}", book, trip, part))
    except StepFailed as failed:
        # All is undone here. A reason of ours in place of the error: that is the end, and nothing to be tried again.
        raise Cancel(f"{failed.name}: {failed.message}") from failed
    return booked


async def scene(conn: Conn) -> object:
    """A trip that is booked although two offices stutter, and one that has to be undone."""
    await conn.execute("insert into outage (what, times) values ('flight', 1), ('hotel', 2)")
    trips = [
        await gd.insert(conn, travel, Trip(trip="rome"), unique_key="trip:rome"),
        await gd.insert(conn, travel, Trip(trip="oslo", sold_out="car"), unique_key="trip:oslo"),
    ]
    ended = [await gd.wait(conn, id, timeout=30) for id in trips if id is not None]
    found = await conn.execute("select reference, status from booking order by reference")
    return {"ended": [(one.status, one.last_error) for one in ended], "bookings": dict(await found.fetchall())}


MACHINES, QUEUES = [travel], {"trips": 2}
