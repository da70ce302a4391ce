"""Calls on sessions and connections of SQLAlchemy, sync and async: they are what the session's transaction is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from conftest import Database
from sqlalchemy import Engine, create_engine, select, text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker
from support.frameworks import url
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py.contrib import sqlalchemy as sa

Conn = psycopg.Connection[Any]


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    balance: Mapped[int]


@pytest.fixture
def engine(db: Database, accounts: None) -> Iterator[Engine]:
    made = create_engine(url(db.dsn), pool_size=1, max_overflow=0, pool_timeout=5)
    yield made
    made.dispose()


@pytest.fixture
async def async_engine(db: Database, accounts: None) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(url(db.dsn), pool_size=1, max_overflow=0, pool_timeout=5)
    yield made
    await made.dispose()


def there(conn: Conn) -> tuple[int, int]:
    """How many instances are committed, and the balance of account 1."""
    row = conn.execute("select (select count(*) from gd_instances), balance from account where id = 1").fetchone()
    assert row is not None
    return row[0], row[1]


def test_an_instance_is_what_its_transaction_becomes(conn: Conn, engine: Engine) -> None:
    with Session(engine) as db:
        account = db.scalars(select(Account).where(Account.id == 1)).one()
        account.balance -= 10
        id = sa.insert(db, "mail", {"to": "ada"}, unique_key="mail:1")
        assert there(conn) == (0, 100)
        db.rollback()
        assert there(conn) == (0, 100)

        account.balance -= 10
        id = sa.insert(db, "mail", {"to": "ada"}, unique_key="mail:1")
        assert sa.signal(db, "mail:1", "seen", {"by": "bob"}) == "delivered"
        db.commit()
    assert there(conn) == (1, 90)
    assert gd.find(conn, "mail:1") == id
    assert [signal.payload for signal in gd.signals(conn, id or 0)] == [{"by": "bob"}]


async def test_an_async_session_is_the_same(conn: Conn, async_engine: AsyncEngine) -> None:
    async with AsyncSession(async_engine) as db:
        account = (await db.scalars(select(Account).where(Account.id == 1))).one()
        account.balance -= 10
        await sa.insert(db, "mail", unique_key="mail:1")
        await db.rollback()
        assert there(conn) == (0, 100)

        account = (await db.scalars(select(Account).where(Account.id == 1))).one()
        account.balance -= 10
        await sa.insert(db, "mail", unique_key="mail:1")
        assert await sa.signal(db, "mail:1", "seen") == "delivered"
        assert there(conn) == (0, 100)
        await db.commit()
    assert there(conn) == (1, 90)


def lose(db: Session) -> None:
    db.scalars(select(Account).where(Account.id == 1)).one().balance -= 10
    sa.insert(db, "lost")
    raise ZeroDivisionError


def test_a_block_of_begin_and_a_savepoint(conn: Conn, engine: Engine) -> None:
    with Session(engine) as db, db.begin():
        kept = sa.insert(db, "kept")
        with pytest.raises(ZeroDivisionError), db.begin_nested():
            lose(db)
        with pytest.raises(gd.UnknownInstance), db.begin_nested():
            sa.retry(db, 12345)
        with db.begin_nested():
            also = sa.insert(db, "kept")
    assert [row[0] for row in conn.execute("select id from gd_instances order by id")] == [kept, also]


async def test_savepoints_of_an_async_session(conn: Conn, async_engine: AsyncEngine) -> None:
    async def lose_it(db: AsyncSession) -> None:
        async with db.begin_nested():
            await sa.insert(db, "lost")
            await sa.retry(db, 12345)

    async with AsyncSession(async_engine) as db, db.begin():
        kept = await sa.insert(db, "kept")
        with pytest.raises(gd.UnknownInstance):
            await lose_it(db)
    assert [row[0] for row in conn.execute("select id from gd_instances")] == [kept]


def test_a_block_that_raises_keeps_nothing(conn: Conn, engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError), Session(engine) as db, db.begin():
        lose(db)
    assert there(conn) == (0, 100)
    with Session(engine) as db:
        sa.insert(db, "mail")  # closed without a commit
    assert there(conn) == (0, 100)


def test_every_call_of_the_module(conn: Conn, engine: Engine) -> None:
    with Session(engine) as db:
        made = sa.insert_many(db, [gd.Insert("a"), {"fsm": "b", "unique_key": "b:1"}])
        a, b = (one.id or 0 for one in made)
        assert sa.find(db, "b:1") == b
        assert sa.signal_many(db, [a, 999], "x") == {a: "done", 999: "none"}
        assert sa.cancel(db, a)
        found = sa.result(db, a)
        assert found is not None and found.status == "cancelled"
        assert sa.retry(db, a)
        assert sa.reschedule(db, a, datetime(2100, 1, 1, tzinfo=UTC))
        assert (sa.get(db, a) or {})["fsm"] == "a"
        assert sa.cancel_many(db, [a, b]) == {a: "done", b: "done"}
        db.commit()
    assert conn.execute("select count(*) from gd_instances where status = 'cancelled'").fetchone() == (2,)


def test_any_other_call(conn: Conn, engine: Engine) -> None:
    with Session(engine) as db:
        sa.call(db, gd.set_queue, "mails", limit=3)
        db.rollback()
        sa.call(db, gd.pause_queue, "mails")
        db.commit()
    assert conn.execute("select queue, paused from gd_queues where paused").fetchall() == [("mails", True)]


def test_a_connection_begins_what_its_commit_ends(conn: Conn, engine: Engine) -> None:
    with engine.connect() as connection:
        sa.insert(connection, "first")
        connection.commit()
        assert there(conn)[0] == 1
        sa.insert(connection, "lost")
        connection.rollback()
        sa.insert(connection, "lost")
    with engine.begin() as connection:
        sa.insert(connection, "second")
    assert [row[0] for row in conn.execute("select fsm from gd_instances order by id")] == ["first", "second"]


async def test_an_async_connection(conn: Conn, async_engine: AsyncEngine) -> None:
    async with async_engine.connect() as connection:
        await sa.insert(connection, "first")
        await connection.commit()
        await sa.insert(connection, "lost")
    async with async_engine.begin() as connection:
        await sa.insert(connection, "second")
    assert [row[0] for row in conn.execute("select fsm from gd_instances order by id")] == ["first", "second"]


def test_a_scoped_session(conn: Conn, engine: Engine) -> None:
    scoped = scoped_session(sessionmaker(engine))
    sa.insert(scoped, "mail")
    scoped.commit()
    sa.insert(scoped, "lost")
    scoped.remove()
    assert there(conn)[0] == 1


async def test_an_async_scoped_session(conn: Conn, async_engine: AsyncEngine) -> None:
    scoped = async_scoped_session(async_sessionmaker(async_engine), scopefunc=lambda: 1)
    await sa.insert(scoped, "mail")
    await scoped.commit()
    await scoped.remove()
    assert there(conn)[0] == 1


async def test_the_sync_session_inside_an_async_one(conn: Conn, async_engine: AsyncEngine) -> None:
    def place(db: Session) -> int | None:
        db.scalars(select(Account).where(Account.id == 1)).one().balance -= 10
        return sa.insert(db, "mail")

    async with AsyncSession(async_engine) as db:
        id = await db.run_sync(place)
        with pytest.raises(gd.InvalidArgument):
            await db.run_sync(lambda inner: sa.insert(inner, "", {}))
        await db.rollback()
        assert there(conn) == (0, 100)
        id = await db.run_sync(place)
        await db.commit()
    assert there(conn) == (1, 90)
    assert gd.result(conn, id or 0) is not None


def test_a_session_that_does_not_begin_by_itself(conn: Conn, engine: Engine) -> None:
    with Session(engine, autobegin=False) as db:
        with pytest.raises(InvalidRequestError, match=r"[Aa]utobegin"):
            sa.insert(db, "mail")
        with db.begin():
            sa.insert(db, "mail")
    assert there(conn)[0] == 1


def test_autocommit_keeps_each_call(conn: Conn, engine: Engine) -> None:
    with Session(engine.execution_options(isolation_level="AUTOCOMMIT")) as db:
        sa.insert(db, "mail")
        db.rollback()
    assert there(conn)[0] == 1


def test_a_session_whose_models_are_in_several_databases(conn: Conn, engine: Engine) -> None:
    with Session(binds={Account: engine}) as db:
        sa.insert(db.connection(bind_arguments={"mapper": Account}), "mail")
        assert there(conn)[0] == 0
        db.commit()
    assert there(conn)[0] == 1


def test_errors_are_those_of_the_calls(conn: Conn, engine: Engine) -> None:
    with Session(engine) as db:
        with pytest.raises(gd.UnknownInstance) as told:
            sa.retry(db, 12345)
        assert told.value.sqlstate == "GD503"
        # As after any error of the server: the transaction is over.
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            sa.insert(db, "mail")
        db.rollback()
        sa.insert(db, "mail")
        db.commit()
    assert there(conn)[0] == 1


def test_a_step_is_checked_before_a_connection_is_asked(engine: Engine) -> None:
    @gd.job(name="checked")
    def checked(args: int) -> None: ...

    with Session(engine) as db, pytest.raises(gd.InvalidArgument):
        sa.insert(db, checked, "no number")


def test_another_isolation_is_refused_where_it_cannot_be_right(engine: Engine, conn: Conn) -> None:
    with Session(engine.execution_options(isolation_level="SERIALIZABLE")) as db:
        id = sa.insert(db, "mail", unique_key="mail:1")
        assert sa.signal(db, id or 0, "seen") == "delivered"
        db.commit()
        with pytest.raises(gd.WrongIsolation):
            sa.call(db, gd.claim, "by hand")
    assert there(conn)[0] == 1


def backend(db: Session) -> int:
    return int(db.scalar(text("select pg_backend_pid()")) or 0)


def test_a_connection_that_is_lost_leaves_the_pool(
    conn: Conn, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with Session(engine) as db:
        conn.execute("select pg_terminate_backend(%s, 5000)", (backend(db),))
        with pytest.raises(psycopg.OperationalError):
            sa.insert(db, "lost")
        db.rollback()
        sa.insert(db, "mail")  # the same session, a new connection
        db.commit()
    assert there(conn)[0] == 1
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_an_async_connection_that_is_lost_leaves_the_pool(conn: Conn, async_engine: AsyncEngine) -> None:
    async with AsyncSession(async_engine) as db:
        pid = await db.scalar(text("select pg_backend_pid()"))
        conn.execute("select pg_terminate_backend(%s, 5000)", (pid,))
        with pytest.raises(psycopg.OperationalError):
            await sa.insert(db, "lost")
        await db.rollback()
        await sa.insert(db, "mail")
        await db.commit()
    assert there(conn)[0] == 1


@pytest.mark.parametrize("driver", ["psycopg2", "sqlite"])
def test_another_driver_is_named(db: Database, driver: str) -> None:
    engine = create_engine("sqlite://" if driver == "sqlite" else url(db.dsn, driver))
    with Session(engine) as session, pytest.raises(gd.InvalidArgument, match=driver) as told:
        sa.insert(session, "mail")
    assert "postgresql+psycopg://" in str(told.value)
    engine.dispose()


async def test_asyncpg_is_named(db: Database) -> None:
    engine = create_async_engine(url(db.dsn, "asyncpg"))
    async with AsyncSession(engine) as session:
        with pytest.raises(gd.InvalidArgument, match=r"postgresql\+asyncpg is not the driver psycopg"):
            await sa.insert(session, "mail")
    await engine.dispose()


def test_what_is_no_session_is_told(conn: Conn, engine: Engine) -> None:
    wrong: list[tuple[Any, str]] = [
        (engine, "Session(engine)"),
        (sessionmaker(engine), "Session(engine)"),
        (conn, "those of gendurable_py"),
        (None, "comes first"),
    ]
    for thing, told in wrong:
        with pytest.raises(gd.InvalidArgument, match="no session or connection of SQLAlchemy") as error:
            sa.insert(thing, "mail")
        assert told in str(error.value)


async def test_a_cancelled_wait_for_a_lock_gives_the_connection_back(
    conn: Conn, db: Database, async_engine: AsyncEngine
) -> None:
    id = gd.insert(conn, "mail")
    other = db.connect(autocommit=False)
    gd.cancel(other, id or 0)

    async def cancel_it() -> None:
        async with AsyncSession(async_engine) as session, session.begin():
            await sa.insert(session, "lost")
            await sa.cancel(session, id or 0)

    task = asyncio.create_task(cancel_it())
    waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    await asyncio.to_thread(wait_until, lambda: conn.execute(waits).fetchone() == (1,))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    other.rollback()
    async with AsyncSession(async_engine) as session, session.begin():  # the only connection of the pool
        await sa.cancel(session, id or 0)
    assert conn.execute("select status, count(*) from gd_instances group by 1").fetchall() == [("cancelled", 1)]
