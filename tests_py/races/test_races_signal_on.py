"""Rows that signal, against open transactions: of steps, of other writers, of those who set it up."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from support.races import Session, outcome, three
from support.wait import run_in_thread, wait_until_blocked


@pytest.fixture
def orders(db: Any) -> Any:
    with db.connect() as conn:
        conn.execute("create table orders (id int primary key, status text)")
        conn.execute("select gd_signal_on('orders', 'go', 'order:{id}', 'status = ''paid''', p_name => 'go')")
        conn.execute("select gd_signal_on('orders', 'other', 'order:all', 'status = ''paid''', p_name => 'other')")
    return db


def pay(session: Session, id: int) -> None:
    session.rows("insert into orders values (%s, 'paid') returning id", id)


def paid(session: Session, id: int) -> bool:
    return bool(session.one("select exists (select from orders where id = %s and status = 'paid')", id))


def presented(session: Session) -> list[str]:
    [claim] = session.claim_soon()
    return [signal["name"] for signal in claim["signals"]]


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_row_that_is_still_open_when_the_instance_parks(orders: Any, how: str) -> None:
    a, b, c = three(orders)
    id = c.insert(unique_key="order:1")
    claim = a.claim_one()
    pay(b.begin(), 1)
    assert not paid(a, 1)
    park = outcome(claim, "await", signals="go")
    assert a.commit(park) == ["busy"]
    b.end(how)
    assert a.commit(park) == ["ok"]
    if how == "commit":
        assert presented(a) == ["go"]
    else:
        assert c.status(id) == "awaiting_signal" and a.claim() == []


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_park_that_is_still_open_when_the_row_is_written(orders: Any, how: str) -> None:
    a, b, c = three(orders)
    id = c.insert(unique_key="order:1")
    claim = a.claim_one()
    assert a.begin().commit(outcome(claim, "await", signals="go")) == ["ok"]
    waiting = b.blocked(c, pay, b, 1)
    a.end(how)
    waiting.result()
    assert c.one("select count(*) from gendurable.signal where instance_id = %s", id) == 1
    assert c.status(id) == ("runnable" if how == "commit" else "executing")


def test_a_writer_waits_as_long_as_its_session_says_and_then_fails(orders: Any) -> None:
    a, _, c = three(orders)
    c.insert(unique_key="order:1")
    a.begin().signal("order:1")
    for timeout in ("20ms", "0"):
        conn: psycopg.Connection[Any] = orders.connect()
        conn.execute(f"set lock_timeout = '{timeout}'".encode())
        with pytest.raises(psycopg.errors.LockNotAvailable):
            conn.execute("insert into orders values (1, 'paid')")
        assert conn.execute("show lock_timeout").fetchone() == (timeout,)
    assert not paid(c, 1)
    a.commit_open()
    with conn.transaction():
        conn.execute("insert into orders values (1, 'paid')")
        # what waits later in the transaction waits as before
        assert conn.execute("show lock_timeout").fetchone() == ("0",)
    assert paid(c, 1)


def test_a_row_of_another_instance_waits_for_nobody(orders: Any) -> None:
    a, b, c = three(orders)
    for n in (1, 2):
        c.insert(unique_key=f"order:{n}")
    pay(a.begin(), 1)
    pay(b, 2)
    assert presented(b) == ["go"]
    a.commit_open()
    assert presented(b) == ["go"]


def test_the_rows_of_one_key_are_one_after_the_other(orders: Any) -> None:
    a, b, c = three(orders)
    id = c.insert(unique_key="order:all")
    pay(a.begin(), 1)
    waiting = b.blocked(c, pay, b, 2)
    a.commit_open()
    waiting.result()
    assert c.one("select count(*) from gendurable.signal where instance_id = %s", id) == 2


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_fixed_snapshot_loses_no_signal(orders: Any, level: str) -> None:
    a, b, c = three(orders)
    id = c.insert(unique_key="order:1")
    b.begin(level).one("select count(*) from orders")
    claim = a.claim_one()
    assert a.commit(outcome(claim, "await", signals="go")) == ["ok"]
    # The row has been written since the snapshot: the writer has to begin again, and nobody waits for ever.
    with pytest.raises(psycopg.errors.SerializationFailure):
        pay(b, 1)
    b.roll_back()
    pay(b.begin(level), 1)
    b.commit_open()
    assert c.status(id) == "runnable"


def test_two_who_set_it_up_at_once(orders: Any) -> None:
    a, b, c = three(orders)
    call = "select gd_signal_on('orders', 'new', 'order:{id}', p_name => %s)"
    for name in ("new", "go"):
        a.begin().one(call, name)
        waiting = b.blocked(c, b.one, call, name)
        a.commit_open()
        assert waiting.result() == name
    assert c.one("select count(*) from pg_trigger where tgrelid = 'orders'::regclass and not tgisinternal") == 3
    assert c.one("select count(*) from pg_proc where proname like 'gd_signal_on_orders%%'") == 3
    assert a.begin().one("select gd_signal_off('orders', 'new')") is True
    waiting = b.blocked(c, b.one, "select gd_signal_off('orders', 'new')")
    a.commit_open()
    assert waiting.result() is False


def test_setting_it_up_waits_for_open_writes_as_its_session_says(orders: Any) -> None:
    a, b, c = three(orders)
    a.begin().rows("insert into orders values (5, 'new') returning id")
    b.rows("select set_config('lock_timeout', '20ms', false)")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        b.one("select gd_signal_on('orders', 'new', 'order:{id}')")
    assert c.one("select count(*) from pg_class where relname like 'gd_signal_on%%'") == 0
    b.rows("select set_config('lock_timeout', '0', false)")
    waiting = run_in_thread(b.one, "select gd_signal_on('orders', 'new', 'order:{id}')")
    wait_until_blocked(c.conn, b.conn)
    a.commit_open()
    assert waiting.result() == "gd_signal_on_new"


@pytest.mark.parametrize(
    "change", ["drop column note", "add column more text default 'x'", "alter column note type int using 1"]
)
def test_a_session_goes_on_over_a_change_of_the_table(orders: Any, change: str) -> None:
    a, b, c = three(orders)
    c.conn.execute("alter table orders add column note text, add column sum int default 7")
    c.rows("select gd_signal_on('orders', 'sum', 'order:{id}', 'sum > 5', '{sum}', 'sum')")
    for n in (1, 2):
        id = c.insert(unique_key=f"order:{n}")
        b.rows("insert into orders (id, status) values (%s, 'paid') returning id", n)
        got = c.rows("select name, payload from gendurable.signal where instance_id = %s order by name", id)
        assert got == [{"name": "go", "payload": {}}, {"name": "sum", "payload": {"sum": 7}}]
        if n == 1:
            a.conn.execute(f"alter table orders {change}".encode())
