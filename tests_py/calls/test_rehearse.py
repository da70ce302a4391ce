"""Rehearsals from Python: of steps in SQL by `rehearse`, of machines by `testing.rehearse`."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

import gendurable_py as gd
from gendurable_py import FSM, Await, Child, Context, Done, Insert, Next, ScheduleChilds, Send, step
from gendurable_py.calls.rows import Rehearsed
from gendurable_py.testing import assert_awaiting, drain, rehearse

Conn = psycopg.Connection[Any]

SETUP = """
create table account (id int primary key, n int not null default 0 check (n >= 0));
insert into account values (1), (2);
create function pay(ctx jsonb) returns jsonb language plpgsql as $$
begin
    update account set n = n + (ctx #>> '{state,n}')::int;
    return '{"kind": "next", "step": "ask", "state": {"paid": true},
        "insert": [{"fsm": "mail", "state": {}, "delay_ms": 9000}],
        "signal": [{"unique_key": "x", "name": "paid", "payload": null}]}';
end $$;
create function ask(ctx jsonb) returns jsonb language sql as $$ select '{"kind": "await", "signals": "go"}'::jsonb $$;
select gd_define_step('rehearse.sql', 'start', 'pay(jsonb)'), gd_define_step('rehearse.sql', 'ask', 'ask(jsonb)');
"""

WRITTEN = {"public.account": {"inserted": 0, "updated": 2, "deleted": 0}}


class Pays(FSM, name="rehearse.py"):
    """What the functions do."""

    @step(transactional=True)
    def start(self, ctx: Context[Any]) -> Next:
        ctx.conn.execute("update account set n = n + %s", (ctx.state["n"],))
        return Next(self.ask, {"paid": True}, insert=[Insert("mail", {}, delay=9)], signal=[Send("x", "paid")])

    @step
    def ask(self, ctx: Context[Any]) -> Any:
        return Await("go") if ctx.signal("go") is None else Done({"late": False})


class Later(FSM, name="rehearse.later"):
    @step
    async def start(self, ctx: Context[Any]) -> Next:
        return Next(self.split, delay=1000)

    @step
    def split(self, ctx: Context[Any]) -> ScheduleChilds:
        return ScheduleChilds(self.join, [Child(Pays, {"n": 1}, step="ask")])

    @step
    def join(self, ctx: Context[Any]) -> Done:
        return Done(1)


def everything(conn: Conn) -> list[Any]:
    rows = conn.execute(
        "select to_jsonb(i) from gendurable.instance i union all select to_jsonb(a) from account a "
        "union all select to_jsonb(m) from gendurable.machine m order by 1"
    )
    return rows.fetchall()


def without_times(told: list[Rehearsed]) -> list[Rehearsed]:
    return [row._replace(id=None, fsm=None, after={**row.after, "eligible_at": None}) for row in told]


@pytest.fixture
def shop(conn: Conn) -> Conn:
    conn.execute(SETUP)
    return conn


def test_steps_in_sql(shop: Conn) -> None:
    id = gd.insert(shop, "rehearse.sql", {"n": 1})
    other = gd.insert(shop, "rehearse.sql", {"n": -1}, queue="other")
    before = everything(shop)
    first, second = gd.rehearse(shop)
    assert (first.ord, first.id, first.fsm, first.step, first.result) == (0, id, "rehearse.sql", "start", "ok")
    assert first.writes == WRITTEN and second.writes == {}
    assert second.after["awaits"] == ["go"]
    [failed] = gd.rehearse(shop, id=other)
    assert (failed.result, failed.after["sqlstate"], failed.writes) == ("error", "23514", None)
    assert [row.step for row in gd.rehearse(shop, "other", limit=1)] == ["start"]
    assert gd.rehearse(shop, "nothing") == []
    assert everything(shop) == before
    with pytest.raises(gd.UnknownInstance):
        gd.rehearse(shop, id=10**9)
    gd.pause_queue(shop, "other")
    [waits] = gd.rehearse(shop, "other")
    assert waits == Rehearsed(0, None, None, None, "waits", {"why": "the queue is paused: other"}, None)


async def test_steps_in_sql_on_an_async_connection(db: Any, shop: Conn) -> None:
    gd.insert(shop, "rehearse.sql", {"n": 1})
    aconn = await db.aconnect()
    assert without_times(await gd.rehearse(aconn)) == without_times(gd.rehearse(shop))


def test_a_machine_is_told_as_functions_are(shop: Conn) -> None:
    gd.insert(shop, "rehearse.sql", {"n": 1})
    in_sql = gd.rehearse(shop)
    assert without_times(rehearse(shop)) == without_times(in_sql)
    gd.cancel(shop, in_sql[0].id or 0)
    gd.insert(shop, Pays, {"n": 1})
    before = everything(shop)
    in_python = rehearse(shop)
    assert without_times(in_python) == without_times(in_sql)
    assert everything(shop) == before


class Mixed(FSM, name="rehearse.mixed"):
    @step
    def start(self, ctx: Context[Any]) -> Next:
        return Next("sub", {"n": 2})

    @step
    def sub(self, ctx: Context[Any]) -> Done:
        raise AssertionError("it is in SQL")


def test_a_machine_with_steps_in_both(shop: Conn) -> None:
    gd.insert(shop, Mixed)
    shop.execute("select gd_define_step('rehearse.mixed', 'sub', 'pay(jsonb)')")
    first, second, third = rehearse(shop)
    assert (first.step, first.result, first.writes) == ("start", "ok", {})
    assert (second.step, second.result, second.writes) == ("sub", "ok", WRITTEN)
    assert second.after["signal"] == [{"unique_key": "x", "name": "paid", "payload": None}]
    # where it goes on nobody knows
    assert (third.step, third.result) == ("ask", "no_handler")
    shop.execute("update account set n = -1000 where false; alter table account add check (n < 1)")
    failed = rehearse(shop)[1]
    assert (failed.result, failed.after["sqlstate"], failed.writes) == ("error", "23514", None)
    shop.execute("drop function pay(jsonb)")
    assert rehearse(shop)[1].after == {"problem": "there is no such function"}


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_nothing_of_it_is_left(db: Any, shop: Conn, autocommit: bool, inside: bool) -> None:
    gd.insert(shop, Pays, {"n": 1}, step="start")
    before = everything(shop)
    ours = db.connect(autocommit=autocommit)
    if inside:
        ours.execute("begin" if autocommit else "select 1")
    assert [row.step for row in rehearse(ours, [Later])] == ["start", "ask"]
    assert everything(shop) == before
    # nor is anything locked, also where its transaction is open
    assert len(gd.claim(shop, "w", limit=10)) == 1
    ours.commit()
    assert len(everything(shop)) == len(before)
    gd.release(shop, "w", None)
    # and its session sees all: it remembers nothing of what was undone
    assert len(gd.claim(ours, "w", limit=10)) == 1


def test_in_a_transaction_what_it_has_inserted_and_sent(shop: Conn) -> None:
    with shop.transaction(force_rollback=True):
        id = gd.insert(shop, Pays, {"n": 1}, step="ask")
        assert id is not None
        assert drain(shop) == 1
        assert rehearse(shop) == []
        gd.signal(shop, id, "go")
        [row] = rehearse(shop)
        assert (row.step, row.after["result"]) == ("ask", {"late": False})
        gd.cancel(shop, id)
        assert rehearse(shop) == []
    assert gd.rehearse(shop) == []


def test_a_step_that_raises_has_written_nothing(shop: Conn) -> None:
    gd.insert(shop, Pays, {"n": -1})
    [row] = rehearse(shop)
    assert (row.result, row.writes, row.after["status"], row.after["attempt"]) == ("error", None, "failed", 0)
    assert "CheckViolation" in str(row.after["last_error"])


def test_time_children_and_limits(shop: Conn) -> None:
    gd.insert(shop, Later)
    assert [row.step for row in rehearse(shop)] == ["start"]
    told = rehearse(shop, advance=True)
    assert [(row.fsm, row.step) for row in told] == [
        ("rehearse.later", "start"),
        ("rehearse.later", "split"),
        ("rehearse.py", "ask"),
    ]
    assert told[1].after["children_pending"] == 1 and len(told[1].after["childs"]) == 1  # type: ignore[arg-type]
    assert [row.step for row in rehearse(shop, advance=True, limit=2)] == ["start", "split"]
    assert rehearse(shop, queues=["other"], advance=True) == []


def test_what_is_not_known_here_is_told(shop: Conn) -> None:
    gd.insert(shop, "nobody", queue="a")
    gd.insert(shop, Pays, {"n": 1}, queue="b")
    told = rehearse(shop)
    assert sorted((row.fsm or "", row.result) for row in told) == [
        ("nobody", "no_handler"),
        ("rehearse.py", "ok"),
        ("rehearse.py", "ok"),
    ]
    assert "no such machine" in str(next(row for row in told if row.fsm == "nobody").after["problem"])


async def test_on_an_async_connection(db: Any, shop: Conn) -> None:
    gd.insert(shop, Later)
    gd.insert(shop, Pays, {"n": 1}, queue="sync")
    before = everything(shop)
    aconn = await db.aconnect()
    told = await rehearse(aconn, advance=True)
    assert [row.result for row in told if row.fsm == "rehearse.later"] == ["ok", "ok"]
    # a sync transactional step cannot use it
    assert [(row.result, "sync" in str(row.after)) for row in told if row.step == "start"][-1:] == [
        ("no_handler", True)
    ]
    assert everything(shop) == before


def test_an_interruption_undoes_it(shop: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    id = gd.insert(shop, Pays, {"n": 1}, step="ask")
    before = everything(shop)

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gendurable_py.testing.rounds.perform", broken)
    with pytest.raises(KeyboardInterrupt):
        rehearse(shop)
    assert shop.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert everything(shop) == before
    monkeypatch.undo()
    drain(shop)
    assert_awaiting(shop, id or 0, "go")


def test_a_server_that_does_not_count(shop: Conn) -> None:
    shop.execute("set track_counts = off")
    gd.insert(shop, Pays, {"n": 1}, step="ask")
    assert [row.writes for row in rehearse(shop)] == [None]
    shop.execute("set track_counts = on")
    assert [row.writes for row in rehearse(shop)] == [{}]
