"""The calls, on both kinds of connection, against a real server."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from keyword import iskeyword
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from pydantic import BaseModel

import gendurable_py as gd
from gendurable_py import FSM, Child, Context, Done, Next, calls, errors, job, step
from gendurable_py._statement import Call

Conn = psycopg.Connection[Any]


class Order(FSM, name="test_calls.order", queue="orders", max_attempts=3):
    class State(BaseModel):
        order: int

    @step
    def start(self, ctx: Context[State]) -> Next:
        return Next("end")

    @step
    def end(self, ctx: Context[State]) -> Done:
        return Done()


@job(name="test_calls.work")
def work(args: dict[str, Any]) -> None: ...


def row(conn: Conn, id: int | None) -> dict[str, Any]:
    with conn.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute("select * from gd_instances where id = %s", (id,)).fetchone()
    assert found is not None
    return found


def finish(conn: Conn, id: int, kind: str = "done", **keys: Any) -> None:
    claims = gd.claim_many(conn, "w", {"default": 100, "orders": 100})
    [claim] = [c for c in claims if c.id == id]
    gd.release(conn, "w", [(c.id, c.claim_no) for c in claims if c.id != id])
    [answer] = gd.commit(conn, "w", [{"id": id, "claim_no": claim.claim_no, "kind": kind, **keys}])
    assert answer.result == "ok", answer


def test_every_function_of_the_contract_has_a_call(conn: Conn) -> None:
    names = {
        name for (name,) in conn.execute("select distinct proname from pg_proc where proname like 'gd\\_%'").fetchall()
    }

    def called(name: str) -> str:
        bare = name.removeprefix("gd_")
        return f"{bare}_" if iskeyword(bare) else bare

    missing = {name for name in names if not isinstance(getattr(calls, called(name), None), Call)}
    assert not missing
    # gendurable_py.errors is the module of the exceptions
    assert {name for name in names if not isinstance(getattr(gd, called(name), None), Call)} == {"gd_errors"}


def test_insert_says_everything(conn: Conn) -> None:
    at = datetime(2035, 1, 1, tzinfo=UTC)
    id = gd.insert(
        conn,
        Order,
        Order.State(order=1),
        step=Order.end,
        priority=5,
        partition_key="p",
        unique_key="u",
        unique_scope=["runnable"],
        eligible_at=at,
        max_attempts=7,
        meta={"trace": "t"},
    )
    found = row(conn, id)
    assert (found["fsm"], found["step"], found["queue"], found["priority"]) == ("test_calls.order", "end", "orders", 5)
    assert (found["state"], found["meta"]) == ({"order": 1}, {"trace": "t"})
    assert (found["eligible_at"], found["unique_key"], found["partition_key"]) == (at, "u", "p")
    assert gd.find(conn, "u") == id
    assert gd.insert(conn, Order, {"order": 2}, unique_key="u") is None


def test_a_class_checks_state_and_step_before_any_sql(conn: Conn) -> None:
    for refused in (
        lambda: gd.insert(conn, Order, {"order": "many"}),
        lambda: gd.insert(conn, Order),
        lambda: gd.insert(conn, Order, {"order": 1}, step="nowhere"),
        lambda: gd.insert(conn, work, {"x": float("nan")}),
        lambda: gd.insert(conn, work, eligible_at=datetime(2030, 1, 1)),
        lambda: gd.insert(conn, work, delay=-1),
        lambda: gd.insert_many(conn, [Child(Order, {"order": None})]),
    ):
        with pytest.raises(gd.InvalidArgument) as caught:
            refused()
        assert caught.value.sqlstate == "GD501"
        assert caught.value.pgresult is None
    assert conn.execute("select count(*) from gd_instances").fetchone() == (0,)


def test_insert_many_keeps_the_order_and_names_the_holders(conn: Conn) -> None:
    gd.register(conn, Order)
    made = gd.insert_many(
        conn,
        [
            Child(Order, {"order": 1}, unique_key="a"),
            work,
            {"fsm": "test_calls.order", "state": {"order": 3}, "delay_ms": 1000},
            Child("elsewhere", {"x": 1}, unique_key="a"),
        ],
    )
    assert [(m.ord, m.created) for m in made] == [(0, True), (1, True), (2, True), (3, False)]
    assert made[3].id == made[0].id
    assert [row(conn, m.id)["queue"] for m in made[:3]] == ["orders", "default", "orders"]


def test_a_call_joins_the_transaction_of_its_connection(db: Any) -> None:
    ours, other = db.connect(autocommit=False), db.connect()
    id = gd.insert(ours, work)
    assert id is not None
    assert gd.result(other, id) is None
    ours.rollback()
    assert gd.result(other, id) is None
    kept = gd.insert(ours, work)
    ours.commit()
    assert gd.result(other, kept or 0) == gd.Result("runnable", None, None)


def test_the_connection_keeps_its_row_factory_and_its_cursors(db: Any) -> None:
    conn = db.connect(row_factory=dict_row, cursor_factory=psycopg.RawCursor)
    id = gd.insert(conn, work, {"n": 1})
    [claim] = gd.claim(conn, "w")
    assert (claim.id, claim.state, claim.signals, claim.childs) == (id, {"n": 1}, [], [])
    assert conn.row_factory is dict_row


def test_working_by_hand(conn: Conn) -> None:
    first, second = gd.insert(conn, work, {"n": 1}), gd.insert(conn, work)
    claims = gd.claim(conn, "w", limit=2, lease=5)
    assert [c.id for c in claims] == [first, second]
    pairs = [(c.id, c.claim_no) for c in claims]
    assert gd.heartbeat(conn, "w", [*pairs, (first, 1)], lease=timedelta(minutes=1)) == [(first, 1)]
    assert gd.release(conn, "w", [pairs[1]]) == 1
    answers = gd.commit(
        conn,
        "w",
        [
            {"id": first, "claim_no": pairs[0][1], "kind": "next", "step": "two", "state": {"n": 2}},
            {"id": second, "claim_no": pairs[1][1], "kind": "done"},
            {"id": second, "claim_no": pairs[1][1], "kind": "nonsense"},
        ],
    )
    assert [a.result for a in answers] == ["ok", "stale", "rejected"]
    detail: Any = answers[2].detail
    assert detail["sqlstate"] == "GD501"
    assert row(conn, first)["step"] == "two"
    [claim] = [c for c in gd.claim(conn, "w", limit=10) if c.id == second]
    with conn.transaction():
        gd.commit_one(conn, "w", {"id": second, "claim_no": claim.claim_no, "kind": "done", "result": [1]})
    assert gd.result(conn, second or 0) == gd.Result("done", [1], None)
    assert gd.release(conn, "w", None) == 1
    assert gd.reap(conn) == 0


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda conn: gd.insert(conn, ""), gd.InvalidArgument),
        (lambda conn: gd.insert_many(conn, [{"fsm": "x", "colour": "red"}]), gd.InvalidArgument),
        (lambda conn: gd.insert(conn, "x", rate_limit="nowhere"), gd.UnknownName),
        (lambda conn: gd.cancel(conn, 10**9), gd.UnknownInstance),
        (lambda conn: gd.commit_one(conn, "w", {"id": 1, "claim_no": 1, "kind": "done"}), gd.ClaimLost),
    ],
)
def test_each_sqlstate_has_its_class(conn: Conn, call: Any, error: type[gd.GendurableError]) -> None:
    with pytest.raises(error) as caught:
        call(conn)
    assert caught.value.sqlstate == error.sqlstate == caught.value.diag.sqlstate
    assert caught.value.hint == caught.value.diag.message_hint
    assert isinstance(caught.value.__cause__, psycopg.Error)
    assert isinstance(caught.value, psycopg.DatabaseError)


def test_the_wrong_isolation_has_its_class(db: Any) -> None:
    conn = db.connect(autocommit=False)
    conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with pytest.raises(gd.WrongIsolation):
        gd.claim(conn, "w")


def test_other_errors_stay_what_they_are(db: Any) -> None:
    conn = db.connect(autocommit=False)
    with pytest.raises(gd.UnknownInstance):
        gd.cancel(conn, 10**9)
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        gd.version(conn)
    assert errors.translate(psycopg.OperationalError("gone")).sqlstate is None


def test_signals_find_their_instance_by_id_and_by_key(conn: Conn) -> None:
    id = gd.insert(conn, work, unique_key="order:1")
    assert id is not None
    assert gd.signal(conn, id, "go", {"x": [1]}) == "delivered"
    assert gd.signal(conn, "order:1", "go", None, dedup_key="e1") == "delivered"
    assert gd.signal(conn, "order:1", "go", None, dedup_key="e1") == "duplicate"
    assert gd.signal(conn, "nobody", "go") == gd.signal(conn, 10**9, "go") == "no_target"
    [claim] = gd.claim(conn, "w")
    signals: Any = claim.signals
    assert [(s["name"], s["payload"]) for s in signals] == [("go", {"x": [1]}), ("go", None)]


def test_operating(conn: Conn) -> None:
    id = gd.insert(conn, work)
    assert id is not None
    gd.pause_queue(conn, "default")
    assert gd.claim(conn, "w") == []
    gd.resume_queue(conn, "default")
    later = datetime.now(UTC) + timedelta(hours=1)
    assert gd.reschedule(conn, id, later)
    assert row(conn, id)["eligible_at"] == later
    assert gd.cancel(conn, id, "not wanted")
    assert not gd.cancel(conn, id)
    assert gd.result(conn, id) == gd.Result("cancelled", None, "not wanted")
    assert gd.retry(conn, id, "start", {"n": 1})
    assert row(conn, id)["state"] == {"n": 1}
    gd.set_key_limit(conn, "tenant", 2)
    gd.set_key_limit(conn, "tenant", None)
    gd.hold_all(conn, "a restored copy")
    assert gd.claim(conn, "w") == []
    assert gd.release_hold(conn)
    assert not gd.release_hold(conn)
    gd.set_queue(conn, "default", limit=0)
    gd.set_queue(conn, "default")
    assert gd.claim(conn, "w") == []
    gd.set_queue(conn, "default", limit=None)
    finish(conn, id)
    assert gd.gc(conn, retention=0) == 1
    assert isinstance(gd.maintain(conn), dict)
    assert gd.version(conn).count(".") == 2
    assert gd.wake(conn, "w") is None
    slept = gd.sleep(conn, "w", ["default"])
    assert (slept.next_due, slept.due_in) == (None, None)
    assert int(slept.horizon) > 0


def test_many_at_once(conn: Conn) -> None:
    ids = [gd.insert(conn, work, partition_key=f"tenant:{n}") or 0 for n in range(5)]
    assert gd.match(conn, {"partition_prefix": "tenant:"}) == gd.Matched(ids, None)
    assert gd.match(conn) == gd.Matched(ids, None)
    first = gd.match(conn, {"queue": "default"}, limit=3)
    assert first == gd.Matched(ids[:3], ids[2])
    assert gd.match(conn, {"queue": "default"}, after=ids[2]) == gd.Matched(ids[3:], None)
    assert gd.match(conn, {"fsm": "nobody"}, look=2) == gd.Matched([], ids[1])
    assert gd.cancel_many(conn, iter([*ids[:3], 10**9]), "not wanted") == {
        ids[0]: "done",
        ids[1]: "done",
        ids[2]: "done",
        10**9: "none",
    }
    assert gd.retry_many(conn, ids[2:4]) == {ids[2]: "done", ids[3]: "no"}
    later = datetime.now(UTC) + timedelta(hours=1)
    assert gd.reschedule_many(conn, ids[:3], later) == {ids[0]: "no", ids[1]: "no", ids[2]: "done"}
    assert row(conn, ids[2])["eligible_at"] == later
    with pytest.raises(gd.InvalidArgument):
        gd.match(conn, {"fsmm": "work"})


def test_childs_are_read_in_pages(conn: Conn) -> None:
    parent = gd.insert(conn, work)
    assert parent is not None
    childs = [{"fsm": "c", "state": {"n": n}} for n in range(3)]
    finish(conn, parent, "schedule_childs", step="join", childs=childs)
    first = gd.childs(conn, parent, limit=2)
    assert [c.state for c in first] == [{"n": 0}, {"n": 1}]
    assert [c.state for c in gd.childs(conn, parent, after=first[-1].id)] == [{"n": 2}]
    assert first[0].status == "runnable"


async def test_the_same_calls_are_awaited_on_an_async_connection(db: Any) -> None:
    conn = await db.aconnect()
    id = await gd.insert(conn, Order, {"order": 1}, unique_key="k")
    assert await gd.find(conn, "k") == id
    [made] = await gd.insert_many(conn, [work])
    assert made.created
    [claim] = await gd.claim(conn, "w", "orders")
    [answer] = await gd.commit(conn, "w", [{"id": claim.id, "claim_no": claim.claim_no, "kind": "done", "result": 1}])
    assert answer.result == "ok"
    assert await gd.wait(conn, claim.id, 5) == gd.Result("done", 1, None)
    with pytest.raises(gd.UnknownInstance):
        await gd.cancel(conn, 10**9)
    with pytest.raises(gd.InvalidArgument):
        await gd.insert(conn, Order, {"order": "many"})


def test_wait_returns_when_it_has_ended_and_gives_up_in_time(db: Any) -> None:
    conn, other = db.connect(), db.connect()
    id = gd.insert(conn, work)
    assert id is not None
    with pytest.raises(TimeoutError, match="runnable"):
        gd.wait(conn, id, timeout=0)
    with pytest.raises(gd.UnknownInstance):
        gd.wait(conn, 10**9)
    thread = threading.Thread(target=finish, args=(other, id), kwargs={"result": 5})
    thread.start()
    assert gd.wait(conn, id, timeout=10) == gd.Result("done", 5, None)
    thread.join()


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_wait_can_listen_and_hands_on_what_is_not_its_own(db: Any, kind: str) -> None:
    other = db.connect()
    one, two = gd.insert(other, work), gd.insert(other, work)
    assert one is not None
    assert two is not None
    conn: Any = await db.aconnect() if kind == "async" else db.connect()

    async def run(made: Any) -> Any:
        return await made if kind == "async" else made

    await run(conn.execute("listen mine"))
    pid = conn.info.backend_pid
    gone = threading.Event()

    def end_both() -> None:
        # Not before it listens: it is idle after its look, and its last statement was the look.
        while not gone.is_set():
            [(state, query)] = other.execute(
                "select state, query from pg_stat_activity where pid = %s", (pid,)
            ).fetchall()
            if state == "idle" and "gd_result" in query:
                break
        other.execute("notify mine, 'a'")
        finish(other, one, result=1)
        finish(other, two, result=2)
        other.execute("notify mine, 'b'")

    thread = threading.Thread(target=end_both)
    thread.start()
    try:
        wait = gd.wait(conn, two, timeout=10, listen=True)
        assert await run(wait) == gd.Result("done", 2, None)
        assert await run(gd.wait(conn, one, timeout=10, listen=True)) == gd.Result("done", 1, None)
    finally:
        gone.set()
        thread.join()
    heard = []
    if kind == "async":
        async for notify in conn.notifies(timeout=5, stop_after=2):
            heard.append((notify.channel, notify.payload))
    else:
        heard = [(n.channel, n.payload) for n in conn.notifies(timeout=5, stop_after=2)]
    assert [h for h in heard if h[0] == "mine"] == [("mine", "a"), ("mine", "b")]
    channels = await run(conn.execute("select array(select pg_listening_channels())"))
    assert (await run(channels.fetchone())) == (["mine"],)


def test_wait_refuses_to_listen_inside_a_transaction(db: Any) -> None:
    conn = db.connect(autocommit=False)
    id = gd.insert(conn, work)
    assert id is not None
    with pytest.raises(gd.InvalidArgument, match="autocommit"):
        gd.wait(conn, id, listen=True)


async def test_a_waiting_call_lets_the_loop_run(db: Any) -> None:
    conn, other = await db.aconnect(), await db.aconnect()
    id = await gd.insert(conn, work)
    assert id is not None
    waiting = asyncio.create_task(gd.wait(conn, id, timeout=10))
    [claim] = await gd.claim(other, "w")
    await gd.commit(other, "w", [{"id": claim.id, "claim_no": claim.claim_no, "kind": "stop", "reason": "no"}])
    assert await waiting == gd.Result("failed", None, "no")


def test_a_role_gets_the_rights_of_its_profile(conn: Conn) -> None:
    conn.execute('drop role if exists "Test Calls"')
    conn.execute('create role "Test Calls"')
    try:
        gd.grant(conn, "Test Calls", "client")
        with pytest.raises(gd.UnknownName):
            gd.grant(conn, "Test Calls", "king")
        conn.execute('set role "Test Calls"')
        id = gd.insert(conn, work)
        assert gd.result(conn, id or 0) == gd.Result("runnable", None, None)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            gd.claim(conn, "w")
    finally:
        conn.execute("reset role")
        conn.execute('drop owned by "Test Calls"')
        conn.execute('drop role "Test Calls"')
    assert timedelta(seconds=60) == calls.LEASE
