"""Whatever a client holds in a transaction that it forgets: an engine does unrelated work meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from support.engine import ended, running
from support.races import Session, outcome

import gendurable_py as gd
from gendurable_py import FSM, Await, Child, Context, Done, Engine, Next, ScheduleChilds, step

Hold = Callable[[Session, dict[str, Any]], Any]


def of(column: str) -> Hold:
    return lambda s, world: s.rows("select from gendurable.instance where id = %s for update", world[column])


HOLDS: dict[str, Hold] = {
    "a runnable row": of("runnable"),
    "an executing row": of("executing"),
    "an awaiting row": of("awaiting"),
    "a parent": of("parent"),
    "a row of a key": of("keyed"),
    "a finished row": of("finished"),
    "every row": lambda s, world: s.rows("select from gendurable.instance for update"),
    "a share of every row": lambda s, world: s.rows("select from gendurable.instance for share"),
    "signals": lambda s, world: s.rows("select from gendurable.signal for update"),
    "watchers": lambda s, world: s.rows("select from gendurable.watch for update"),
    "names of queues": lambda s, world: s.rows("select from gendurable.queue_name for update"),
    "machines": lambda s, world: s.rows("select from gendurable.machine for update"),
    "paused queues": lambda s, world: s.rows("select from gendurable.paused_queue for update"),
    "limits": lambda s, world: s.rows("select from gendurable.key_limit for update"),
    "the place of the upkeep": lambda s, world: s.rows("select gd_maintain()"),
    "a signal to a parent": lambda s, world: s.signal(world["parent"], "note"),
    "a signal that wakes": lambda s, world: s.signal(world["awaiting"], "go"),
    "a cancel in a key": lambda s, world: s.rows("select gd_cancel(%s)", world["keyed"]),
    "a reschedule": lambda s, world: s.rows("select gd_reschedule(%s, now())", world["runnable"]),
    "a retry": lambda s, world: s.rows("select gd_retry(%s)", world["failed"]),
    "a watch": lambda s, world: s.rows("select gd_watch(%s)", world["awaiting"]),
    "a claim of a key": lambda s, world: s.claim(5, "aside"),
    "a commit": lambda s, world: s.commit_one(outcome(world["claim"], "done")),
    "a heartbeat": lambda s, world: s.rows(
        "select gd_heartbeat('w', jsonb_build_array(jsonb_build_array(%s::bigint, %s::bigint)))",
        world["claim"]["id"],
        world["claim"]["claim_no"],
    ),
    "a new queue": lambda s, world: s.insert(queue="new"),
    "a unique key": lambda s, world: s.insert(queue="aside", unique_key="theirs"),
    "many inserts": lambda s, world: s.insert_many(
        *({"queue": "aside", "partition_key": f"a{n}"} for n in range(2000))
    ),
    "a pause": lambda s, world: s.rows("select gd_pause_queue('aside')"),
    "a limit": lambda s, world: s.rows("select gd_set_key_limit('theirs', 3)"),
    "a registration": lambda s, world: s.rows("select gd_register('somebody', 7, 'start')"),
    "a sleep": lambda s, world: s.rows("select gd_sleep('w', '{aside}')"),
    "old rows": lambda s, world: s.rows("select gd_gc('0')"),
    "a reaping": lambda s, world: s.rows("select gd_reap()"),
}


class Unrelated(FSM, name="holders.unrelated"):
    """Delays, signals, children, keys, steps."""

    @step
    def start(self, ctx: Context[Any]) -> Next:
        return Next("fan_out", delay=0.01)

    @step
    async def fan_out(self, ctx: Context[Any]) -> ScheduleChilds:
        return ScheduleChilds("join", [Child(Leaf, partition_key=f"leaf:{ctx.id % 3}") for _ in range(2)])

    @step
    def join(self, ctx: Context[Any]) -> Await | Done:
        if ctx.signal("go") is None:
            return Await("go", step="join")
        return Done(len(ctx.childs))


class Leaf(FSM, name="holders.leaf"):
    @step
    def start(self, ctx: Context[Any]) -> Done:
        return Done()


@pytest.fixture
def world(db: Any) -> dict[str, Any]:
    """One of each kind of row, in a queue that nobody serves."""
    w = Session(db)
    made: dict[str, Any] = {"conn": w}
    made["executing"] = w.insert(queue="aside")
    made["claim"] = w.claim_one("aside", lease="1 hour")
    for kind, kinds in (
        ("awaiting", {"kind": "await", "signals": "go"}),
        (
            "parent",
            {"kind": "schedule_childs", "step": "j", "childs": [{"fsm": "c", "queue": "aside", "delay_ms": 9e9}]},
        ),
        ("finished", {"kind": "done"}),
        ("failed", {"kind": "stop", "reason": "x"}),
    ):
        made[kind] = w.insert(queue="aside")
        claim = w.claim_one("aside")
        assert w.commit({"id": claim["id"], "claim_no": claim["claim_no"], **kinds}) == ["ok"]
    made["keyed"] = w.insert(queue="aside", partition_key="theirs")
    w.insert(queue="aside", partition_key="theirs")
    made["runnable"] = w.insert(queue="aside", delay="1 hour")
    w.rows("select gd_pause_queue('somewhere')")
    w.rows("select gd_set_key_limit('some', 2)")
    w.rows("select gd_watch(%s)", made["awaiting"])
    w.signal(made["executing"], "early")
    return made


def works(conn: psycopg.Connection[Any], count: int = 15) -> None:
    ids = [row.id for row in gd.insert_many(conn, [Unrelated] * count)]
    for id in ids:
        assert gd.signal(conn, id, "go") == "delivered"
    assert {(result.status, result.result) for result in ended(conn, *ids)} == {("done", 2)}


@pytest.mark.parametrize("hold", HOLDS)
def test_an_engine_does_unrelated_work_whatever_a_client_holds(db: Any, world: dict[str, Any], hold: str) -> None:
    forgetful, conn = Session(db, "forgetful"), db.connect()
    # With upkeep at each moment, which must not wait either.
    engine = Engine(db.dsn, [Unrelated, Leaf], reap_interval=0.05, poll_interval=0.2, max_poll_interval=0.2)
    with running(engine):
        works(conn, 3)
        HOLDS[hold](forgetful.begin(), world)
        works(conn)
        gd.pause_queue(conn, "another")
        gd.resume_queue(conn, "another")
        works(conn, 3)
        forgetful.roll_back()
        works(conn, 3)
    assert world["conn"].maintain()["repaired"] == 0
