"""A trip of three bookings; what was booked is cancelled again, last first, when a later one cannot be had.

`python -m examples saga`. Errors that may pass are tried again; the one that will not pass turns the saga around.
"""

from __future__ import annotations

from pydantic import BaseModel

import gendurable_py as gd
from gendurable_py import FSM, Context, Done, Next, Outcome, Replay, Stop, step

from ._run import Conn, connect

SCHEMA = """
create table booking (
    reference text primary key,
    what text not null,
    status text not null
);
create table outage (what text primary key, times int not null)
"""

PARTS = ("flight", "hotel", "car")


class SoldOut(Exception):
    """No use in asking again."""


class Trip(FSM, queue="trips", initial="book"):
    class State(BaseModel):
        trip: str
        sold_out: str | None = None
        booked: list[str] = []
        reason: str | None = None

    @step
    def book(self, ctx: Context[State]) -> Next | Done:
        state = ctx.state
        if len(state.booked) == len(PARTS):
            return Done({"trip": state.trip, "booked": state.booked})
        part = PARTS[len(state.booked)]
        if part == state.sold_out:
            raise SoldOut(part)
        reserve(f"{state.trip}:{part}", part)
        return Next(self.book, state.model_copy(update={"booked": [*state.booked, part]}))

    @step
    def compensate(self, ctx: Context[State]) -> Next | Stop:
        state = ctx.state
        if not state.booked:
            return Stop(state.reason or "given up")
        part = state.booked[-1]
        cancel(f"{state.trip}:{part}")
        return Next(self.compensate, state.model_copy(update={"booked": state.booked[:-1]}))

    def handle(self, error: Exception, ctx: Context[State]) -> Outcome:
        # A compensation must succeed some day: it is tried for ever. A booking is tried four times.
        if ctx.step == "compensate" or (not isinstance(error, SoldOut) and ctx.attempt < 3):
            return Replay(delay=min(0.05 * 2**ctx.attempt, 60))
        reason = f"{type(error).__name__}: {error}"
        # The step that failed may have booked before it failed: its part is cancelled as well.
        part = PARTS[len(ctx.state.booked)]
        return Next(
            self.compensate,
            ctx.state.model_copy(update={"booked": [*ctx.state.booked, part], "reason": reason}),
        )


def reserve(reference: str, what: str) -> None:
    """The booking office: one booking for each reference; now and then it does not answer."""
    with connect() as conn:
        conn.execute(
            "insert into booking (reference, what, status) values (%s, %s, 'booked') on conflict do nothing",
            (reference, what),
        )
    with connect() as conn:
        out = conn.execute("update outage set times = times - 1 where what = %s and times > 0", (what,)).rowcount
    if out:
        raise ConnectionError(f"the {what} office did not answer")


def cancel(reference: str) -> None:
    """Run twice it changes nothing; of what was never booked it leaves a mark, so that a late booking finds it."""
    with connect() as conn:
        conn.execute(
            """
            insert into booking (reference, what, status) values (%s, %s, 'cancelled')
            on conflict (reference) do update set status = 'cancelled'
            """,
            (reference, reference.partition(":")[2]),
        )


async def scene(conn: Conn) -> object:
    """A trip that is booked although two offices stutter, and one that has to be undone."""
    await conn.execute("insert into outage (what, times) values ('flight', 1), ('hotel', 2)")
    trips = [
        await gd.insert(conn, Trip, {"trip": "rome"}, unique_key="trip:rome"),
        await gd.insert(conn, Trip, {"trip": "oslo", "sold_out": "car"}, unique_key="trip:oslo"),
    ]
    ended = [await gd.wait(conn, id, timeout=30) for id in trips if id is not None]
    found = await conn.execute("select reference, status from booking order by reference")
    return {"ended": [(one.status, one.last_error) for one in ended], "bookings": dict(await found.fetchall())}


MACHINES, QUEUES = [Trip], {"trips": 2}
