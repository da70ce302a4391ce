"""Attributes and on_conflict from Python: inserts, children, outcomes and what a step sees."""

from __future__ import annotations

from typing import Any, cast

import psycopg
import pytest

import gendurable_py as gd
from gendurable_py import FSM, Child, Context, Done, Insert, InvalidArgument, Next, ScheduleChilds, step, testing

Conn = psycopg.Connection[Any]

SEEN: list[dict[str, Any]] = []


class Kid(FSM, name="test_attributes.kid"):
    @step
    def start(self, ctx: Context[Any]) -> Done:
        SEEN.append(dict(ctx.attributes))
        return Done()


class Order(FSM, name="test_attributes.order"):
    @step
    def start(self, ctx: Context[Any]) -> Next:
        SEEN.append(dict(ctx.attributes))
        return Next(self.split, attributes={"draft": None, "number": 17})

    @step
    def split(self, ctx: Context[Any]) -> ScheduleChilds:
        SEEN.append(dict(ctx.attributes))
        return ScheduleChilds(self.end, [Child(Kid, attributes={"kid": True})])

    @step
    def end(self, ctx: Context[Any]) -> Done:
        SEEN.append(dict(ctx.attributes))
        return Done(attributes={"paid": True}, insert=[Insert(Kid, attributes={"mail": [1, 2]})])


def found(conn: Conn, **attributes: Any) -> list[int]:
    return [one.id for one in gd.list(conn, {"attributes": attributes}).instances]


def test_attributes_from_the_insert_to_the_end(conn: Conn) -> None:
    SEEN.clear()
    id = gd.insert(conn, Order, attributes={"tenant": "a", "draft": True})
    assert found(conn, tenant="a") == found(conn, draft=True) == [id]
    testing.drain(conn, [Order, Kid])
    assert {"tenant": "a", "draft": True} in SEEN and {"kid": True} in SEEN and {"mail": [1, 2]} in SEEN
    assert SEEN.count({"tenant": "a", "number": 17}) == 2
    assert found(conn, draft=True) == []
    assert found(conn, tenant="a", number=17, paid=True) == [id]
    assert len(found(conn, kid=True)) == len(found(conn, mail=[2])) == 1
    assert gd.count(conn, {"attributes": {"tenant": "a"}, "status": "done"}) == (1, True)
    assert id is not None
    assert (gd.get(conn, id) or {})["attributes"] == {"tenant": "a", "number": 17, "paid": True}


def test_what_is_no_attribute(conn: Conn) -> None:
    with pytest.raises(InvalidArgument):
        gd.insert(conn, Order, attributes={"x": "y" * 5000})
    with pytest.raises(InvalidArgument):
        gd.list(conn, {"attributes": {"x": None}})
    with pytest.raises(InvalidArgument):
        gd.insert(conn, Order, attributes={"x": object()})


def test_many_and_a_context(conn: Conn) -> None:
    gd.insert_many(conn, [Child(Kid, attributes={"n": 1}), {"fsm": "elsewhere", "attributes": {"n": 1}}, Kid])
    assert len(found(conn, n=1)) == 2
    assert testing.context(Kid, attributes={"n": 1}).attributes == {"n": 1}
    assert testing.context(Kid).attributes == {}


def test_what_becomes_of_the_holder(conn: Conn) -> None:
    id = gd.insert(conn, "m", {"n": 1}, unique_key="u", delay=3600)
    assert gd.insert(conn, "m", {"n": 2}, unique_key="u") is None
    assert gd.insert(conn, "m", {"n": 2}, unique_key="u", on_conflict="id") == id
    assert gd.insert(conn, "m", {"n": 2}, unique_key="u", delay=60, on_conflict="reschedule") == id
    assert id is not None
    assert (gd.get(conn, id) or {})["state"] == {"n": 1}
    assert gd.insert(conn, "m", {"n": 3}, unique_key="u", on_conflict="replace") == id
    [claim] = gd.claim(conn, "w", "default")
    assert (claim.id, claim.state, claim.attributes) == (id, {"n": 3}, {})
    assert gd.insert(conn, "m", {"n": 4}, unique_key="u", on_conflict="replace") is None
    with pytest.raises(InvalidArgument):
        gd.insert(conn, "m", unique_key="u", on_conflict=cast("Any", "update"))
