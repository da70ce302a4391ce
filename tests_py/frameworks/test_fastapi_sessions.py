"""Sessions of SQLAlchemy in the transaction of a request.

Annotations are not put off here: FastAPI would not find the names of a function in them.
"""

import asyncio
from typing import Annotated, Any

import anyio
import psycopg
import pytest
from conftest import Database
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from support.frameworks import url
from support.requests import ENDS, act, ask, count
from support.wait import wait_until

from gendurable_py.contrib import sqlalchemy as sa
from gendurable_py.contrib.fastapi import transaction

Conn = psycopg.Connection[Any]


@pytest.mark.parametrize("how", ["ok", "refused", "broken"])
def test_a_session_of_the_request(db: Database, conn: Conn, how: str) -> None:
    engine = create_engine(url(db.dsn), pool_size=1, max_overflow=0)
    InRequest = Annotated[Session, transaction(sessionmaker(engine))]
    app = FastAPI()

    @app.post("/{how}")
    def post(how: str, db: InRequest) -> Any:
        sa.insert(db, "mail")
        return act(how)

    client = TestClient(app, raise_server_exceptions=False)
    status, kept = ENDS[how]
    assert client.post(f"/{how}").status_code == status
    assert count(conn) == kept
    assert client.post("/ok").status_code == 200
    engine.dispose()


@pytest.mark.parametrize("how", ["ok", "refused", "broken"])
async def test_an_async_session_of_the_request(db: Database, conn: Conn, how: str) -> None:
    engine = create_async_engine(url(db.dsn), pool_size=1, max_overflow=0)
    InRequest = Annotated[AsyncSession, transaction(async_sessionmaker(engine))]
    app = FastAPI()
    seen: list[int] = []

    @app.post("/{how}")
    async def post(how: str, db: InRequest) -> Any:
        await sa.insert(db, "mail")
        assert await db.scalar(text("select count(*) from gd_instances")) == 1
        return act(how)

    status, kept = ENDS[how]
    if how == "broken":
        with pytest.raises(ZeroDivisionError):
            await ask(app, f"/{how}")
    else:
        assert await ask(app, f"/{how}", lambda: seen.append(count(conn))) == status
        assert seen == [kept]
    assert count(conn) == kept
    await engine.dispose()


async def test_an_async_session_whose_request_is_cancelled(db: Database, conn: Conn) -> None:
    engine = create_async_engine(url(db.dsn), pool_size=1, max_overflow=0, pool_timeout=5)
    app = FastAPI()

    @app.post("/")
    async def post(db: Annotated[AsyncSession, transaction(async_sessionmaker(engine))]) -> None:
        await sa.insert(db, "mail")
        await db.execute(text("select pg_advisory_xact_lock(42)"))

    conn.execute("select pg_advisory_lock(42)")
    waiting = "select count(*) from pg_locks where locktype = 'advisory' and objid = 42 and not granted"
    async with anyio.create_task_group() as group:
        group.start_soon(ask, app, "/")
        await asyncio.to_thread(wait_until, lambda: conn.execute(waiting).fetchone() == (1,))
        group.cancel_scope.cancel()
    conn.execute("select pg_advisory_unlock(42)")
    assert count(conn) == 0
    assert await ask(app, "/") == 200
    assert count(conn) == 1
    await engine.dispose()
