"""What a type checker says to users of the glue: the same arguments and answers as of the calls, sync and async."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
from collections.abc import Coroutine
from typing import Annotated, Any, assert_type

from fastapi import FastAPI
from psycopg import AsyncConnection, Connection
from psycopg_pool import AsyncConnectionPool
from sqlalchemy import create_engine
from sqlalchemy import Connection as SyncCore
from sqlalchemy.ext.asyncio import AsyncConnection as AsyncCore
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import gendurable_py as gd
from gendurable_py.contrib import alembic, sqlalchemy as sa
from gendurable_py.contrib.fastapi import Gendurable, transaction

engine, async_engine = create_engine("postgresql+psycopg://"), create_async_engine("postgresql+psycopg://")
durable = Gendurable({"host": "db"}, engine=gd.Engine(), size=5, pool=lambda: AsyncConnectionPool(open=False))
app = FastAPI(lifespan=durable.lifespan)


@app.get("/")
async def of_a_request(conn: Annotated[AsyncConnection, durable.transaction]) -> None:
    assert_type(await gd.insert(conn, "mail"), int | None)


@app.get("/sync")
def of_a_sync_request(
    conn: Annotated[Connection, durable.sync_transaction], db: Annotated[Session, transaction(sessionmaker(engine))]
) -> None:
    assert_type(gd.insert(conn, "mail"), int | None)
    assert_type(sa.insert(db, "mail", delay=5), int | None)


async def outside(db: Annotated[AsyncSession, transaction(async_sessionmaker(async_engine))]) -> None:
    async with durable.begin() as conn:
        assert_type(conn, AsyncConnection[Any])
    with durable.begin_sync() as sync_conn:
        assert_type(sync_conn, Connection[Any])
    assert_type(await sa.insert(db, "mail"), int | None)


def sync(db: Session, scoped: scoped_session[Session], core: SyncCore) -> None:
    assert_type(sa.signal(scoped, 1, "paid"), str)
    assert_type(sa.result(core, 1), gd.Result | None)
    assert_type(sa.call(db, gd.wait, 1, timeout=5), gd.Result)
    sa.insert(db, "mail", dealy=5)  # E: Unexpected keyword argument|No overload
    sa.insert("dsn", "mail")  # E: No overload
    sa.call(db, gd.wait, "1")  # E: No overload|incompatible
    sa.call(db, len, [])  # E: No overload|incompatible


async def asynchronous(db: AsyncSession, scoped: async_scoped_session[AsyncSession], core: AsyncCore) -> None:
    assert_type(await sa.insert_many(db, []), list[gd.Inserted])
    assert_type(await sa.find(scoped, "order:1"), int | None)
    waiting: Coroutine[Any, Any, int | None] = sa.find(core, "order:1")
    await waiting
    sa.find(core, "order:1")  # E: must be used
    assert_type(await sa.call(core, gd.wait, 1), gd.Result)
    found: int | None = sa.find(db, "order:1")  # E: Incompatible types in assignment


def migrate() -> None:
    alembic.install_gendurable()
    alembic.upgrade_gendurable("0.3.0")
    alembic.upgrade_gendurable(3)  # E: incompatible type
    alembic.uninstall_gendurable()
"""


@pytest.mark.timeout(300)
def test_what_mypy_says(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    said = subprocess.run(
        # Without the settings of this project, which are no user's.
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", str(tmp_path), "program.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    found: dict[int, str] = {}
    for line, message in re.findall(r"^program\.py:(\d+): error: (.*)$", said.stdout, re.MULTILINE):
        found[int(line)] = found.get(int(line), "") + message
    wanted = {
        number: line.partition("# E: ")[2] for number, line in enumerate(PROGRAM.splitlines(), 1) if "# E: " in line
    }
    assert set(found) == set(wanted), said.stdout + said.stderr
    assert [said for number, said in found.items() if not re.search(wanted[number], said)] == []
