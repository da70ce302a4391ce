"""An app behind a real server: clients that go away, and the end of the process.

Annotations are not put off here: FastAPI would not find the names of a function in them.
"""

import http.client
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Annotated, Any

import psycopg
import pytest
import uvicorn
from conftest import Database
from fastapi import FastAPI
from psycopg import AsyncConnection, Connection
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py.contrib.fastapi import Gendurable

Conn = psycopg.Connection[Any]
HELD = "select pg_advisory_lock(42)"
WAITING = "select count(*) from pg_locks where locktype = 'advisory' and objid = 42 and not granted"


@contextmanager
def served(app: FastAPI) -> Iterator[tuple[uvicorn.Server, int]]:
    """The server and its port; it has ended when the block has."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run, name="server under test")
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), 30)
        yield server, server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def make_app(durable: Gendurable) -> FastAPI:
    app = FastAPI(lifespan=durable.lifespan)

    @app.post("/async")
    async def post(conn: Annotated[AsyncConnection[Any], durable.transaction]) -> int | None:
        id = await gd.insert(conn, "mail")
        await conn.execute("select pg_advisory_xact_lock(42)")
        return id

    @app.post("/sync")
    def post_sync(conn: Annotated[Connection[Any], durable.sync_transaction]) -> int | None:
        id = gd.insert(conn, "mail")
        conn.execute("select pg_advisory_xact_lock(42)")
        return id

    return app


def count(conn: Conn) -> int:
    row = conn.execute("select count(*) from gd_instances").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("colour", ["async", "sync"])
def test_a_client_that_goes_away_changes_nothing(db: Database, conn: Conn, colour: str) -> None:
    conn.execute(HELD)
    with served(make_app(Gendurable(db.dsn, size=1))) as (_, port):
        client = http.client.HTTPConnection("127.0.0.1", port)
        client.request("POST", f"/{colour}")
        wait_until(lambda: conn.execute(WAITING).fetchone() == (1,))
        client.close()
        conn.execute("select pg_advisory_unlock_all()")
        wait_until(lambda: count(conn) == 1)
        again = http.client.HTTPConnection("127.0.0.1", port)
        again.request("POST", f"/{colour}")
        assert again.getresponse().status == 200
        again.close()
    assert count(conn) == 2


@pytest.mark.parametrize("colour", ["async", "sync"])
def test_a_request_that_runs_at_the_end_is_answered(db: Database, conn: Conn, colour: str) -> None:
    conn.execute(HELD)
    with ThreadPoolExecutor(1) as pool, served(make_app(Gendurable(db.dsn))) as (server, port):
        client = http.client.HTTPConnection("127.0.0.1", port)
        client.request("POST", f"/{colour}")
        answer = pool.submit(client.getresponse)
        wait_until(lambda: conn.execute(WAITING).fetchone() == (1,))
        server.should_exit = True
        wait_until(lambda: not server.servers[0].is_serving())
        conn.execute("select pg_advisory_unlock_all()")
        assert answer.result(30).status == 200
        client.close()
    assert count(conn) == 1
    others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    wait_until(lambda: conn.execute(others).fetchone() == (0,))


def test_a_step_that_runs_at_the_end_comes_to_its_own(db: Database, conn: Conn) -> None:
    begun, go = threading.Event(), threading.Event()

    @gd.job(name="slow")
    def slow(args: Any) -> str:
        begun.set()
        assert go.wait(30)
        return "to its end"

    engine = gd.Engine(db.dsn, [slow], drain_timeout=60)
    durable = Gendurable(db.dsn, engine=engine)
    with served(FastAPI(lifespan=durable.lifespan)) as (server, _):
        id = gd.insert(conn, slow)
        assert begun.wait(30)
        server.should_exit = True
        wait_until(lambda: engine.health().state == "stopping")
        go.set()
    result = gd.result(conn, id or 0)
    assert result is not None and (result.status, result.result) == ("done", "to its end")


def test_an_app_whose_database_does_not_fit_does_not_start(empty_db: Database) -> None:
    failed = uvicorn.Server(
        uvicorn.Config(make_app(Gendurable(empty_db.dsn)), port=0, log_level="critical", lifespan="on")
    )
    with ThreadPoolExecutor(1) as pool:
        assert isinstance(pool.submit(failed.run).exception(30), SystemExit)
    assert not failed.started
