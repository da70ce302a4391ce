"""Transactional steps in sessions of SQLAlchemy, sync and async, with the real library."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from conftest import Database
from support.engine import ended, field, running

import gendurable_py as gd
from gendurable_py import Engine, job

pytest.importorskip("sqlalchemy", reason="needs SQLAlchemy: pip install sqlalchemy greenlet")
pytest.importorskip("greenlet", reason="needs greenlet: pip install sqlalchemy greenlet")

from sqlalchemy import URL, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool
from support import frameworks

from gendurable_py.contrib.sqlalchemy import async_session, session


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    balance: Mapped[int]


@pytest.fixture
def url(db: Database, accounts: None) -> URL:
    return frameworks.url(db.dsn)


def balance(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute("select balance from account where id = 1").fetchone()
    assert row is not None
    return int(row[0])


def act(how: str, made: Any) -> object:
    """What the steps do with their session; None: they go on to their end."""
    if how == "commits":
        return made.commit()
    if how == "raises":
        raise ValueError("no")
    if how == "closes":
        return made.close()
    return None


ENDS = {
    "plain": ("done", 90),
    "commits": ("done", 90),
    "closes": ("done", 100),  # an end without commit takes back what was not flushed
    "raises": ("failed", 100),
    "rejected": ("failed", 100),
    "breaks a constraint": ("failed", 100),
    "nothing": ("done", 100),
}


@pytest.mark.parametrize("how", ENDS)
def test_a_session_and_the_outcome_are_one(conn: psycopg.Connection[Any], db: Database, url: Any, how: str) -> None:
    engine = create_engine(url, poolclass=NullPool)

    @job(name="sa_sync", max_attempts=1, transactional=session(engine))
    def run(args: Any, ctx: gd.Context[Any]) -> object:
        assert isinstance(ctx.conn, Session)
        if how != "nothing":
            ctx.conn.get(Account, 1).balance -= 1000 if how == "breaks a constraint" else 10
        act(how, ctx.conn)
        return gd.Next("nowhere") if how == "rejected" else None

    id = gd.insert(conn, run, {})
    with running(Engine(db.dsn, [run])):
        (result,) = ended(conn, id)
    assert (result.status, balance(conn)) == ENDS[how], result.last_error
    assert field(conn, id, "crashes") == 0


@pytest.mark.parametrize("how", [how for how in ENDS if how != "closes"])
def test_an_async_session_and_the_outcome_are_one(
    conn: psycopg.Connection[Any], db: Database, url: Any, how: str
) -> None:
    engine = create_async_engine(url, poolclass=NullPool)

    @job(name="sa_async", max_attempts=1, transactional=async_session(engine))
    async def run(args: Any, ctx: gd.Context[Any]) -> object:
        if how != "nothing":
            account = await ctx.conn.get(Account, 1)
            account.balance -= 1000 if how == "breaks a constraint" else 10
        made = act(how, ctx.conn)
        if made is not None:
            await made
        return gd.Next("nowhere") if how == "rejected" else None

    id = gd.insert(conn, run, {})
    with running(Engine(db.dsn, [run])):
        (result,) = ended(conn, id)
    assert (result.status, balance(conn)) == ENDS[how], result.last_error


def test_a_conflict_makes_the_step_run_again_in_a_new_session(
    conn: psycopg.Connection[Any], db: Database, url: Any
) -> None:
    seen: list[int] = []

    @job(name="sa_again", max_attempts=1, transactional=session(create_engine(url, poolclass=NullPool)))
    def run(args: Any, ctx: gd.Context[Any]) -> None:
        seen.append(ctx.conn.get(Account, 1).balance)
        ctx.conn.get(Account, 1).balance -= 10
        ctx.conn.flush()
        if len(seen) < 3:
            ctx.conn.execute(text("do $$begin raise exception using errcode = '40001'; end$$"))

    id = gd.insert(conn, run, {})
    with running(Engine(db.dsn, [run])):
        assert ended(conn, id)[0].status == "done"
    assert seen == [100, 100, 100]
    assert balance(conn) == 90


def test_an_engine_of_another_isolation_is_no_matter(conn: psycopg.Connection[Any], db: Database, url: Any) -> None:
    engine = create_engine(url, poolclass=NullPool, isolation_level="SERIALIZABLE")

    @job(name="sa_level", max_attempts=1, transactional=session(engine))
    def run(args: Any, ctx: gd.Context[Any]) -> Any:
        ctx.conn.get(Account, 1).balance -= 10
        return ctx.conn.scalar(text("show transaction_isolation"))

    id = gd.insert(conn, run, {})
    with running(Engine(db.dsn, [run])):
        assert ended(conn, id)[0].result == "read committed"
    assert balance(conn) == 90
