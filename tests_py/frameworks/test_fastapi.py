"""Calls in the transaction of a request, with FastAPI's own client; what a server does is in test_fastapi_server.py.

Annotations are not put off here: FastAPI would not find the names of a function in them.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import anyio
import psycopg
import pytest
from conftest import Database
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from psycopg import AsyncConnection, Connection
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from support.requests import ENDS, act, ask, count
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py.contrib.fastapi import Gendurable

Conn = psycopg.Connection[Any]


CAUGHT = "do $$begin raise exception 'caught'; end$$"


def make_app(durable: Gendurable) -> FastAPI:
    app = FastAPI(lifespan=durable.lifespan)
    InRequest = Annotated[AsyncConnection[Any], durable.transaction]
    InSync = Annotated[Connection[Any], durable.sync_transaction]

    async def checks(conn: InRequest) -> int:
        return id(conn)

    def checks_sync(conn: InSync) -> int:
        return id(conn)

    @app.post("/async/{how}")
    async def post(how: str, conn: InRequest, checked: Annotated[int, Depends(checks)]) -> Any:
        assert checked == id(conn), "two transactions for one request"
        await gd.insert(conn, "mail", {"how": how})
        if how == "caught":
            try:
                await conn.execute(CAUGHT)
            except psycopg.Error:
                return {"ok": True}
        if how == "savepoint":
            async with conn.transaction(force_rollback=True):
                await gd.insert(conn, "mail")
        if how == "commits":
            await conn.commit()
        return act(how)

    @app.post("/sync/{how}")
    def post_sync(how: str, conn: InSync, checked: Annotated[int, Depends(checks_sync)]) -> Any:
        assert checked == id(conn), "two transactions for one request"
        gd.insert(conn, "mail", {"how": how})
        if how == "caught":
            try:
                conn.execute(CAUGHT)
            except psycopg.Error:
                return {"ok": True}
        if how == "savepoint":
            with conn.transaction(force_rollback=True):
                gd.insert(conn, "mail")
        if how == "commits":
            conn.commit()
        return act(how)

    return app


@pytest.fixture
def durable(db: Database) -> Gendurable:
    return Gendurable(db.dsn, size=1)


@pytest.fixture
def client(durable: Gendurable) -> Iterator[TestClient]:
    with TestClient(make_app(durable), raise_server_exceptions=False) as made:
        yield made


@pytest.mark.parametrize("colour", ["async", "sync"])
@pytest.mark.parametrize("how", ENDS)
def test_an_instance_is_what_its_request_becomes(conn: Conn, client: TestClient, colour: str, how: str) -> None:
    status, kept = ENDS[how]
    assert client.post(f"/{colour}/{how}").status_code == status
    assert count(conn) == kept
    assert client.post(f"/{colour}/ok").status_code == 200  # by the only connection
    assert count(conn) == kept + 1


def test_a_dict_of_arguments(db: Database, conn: Conn) -> None:
    with TestClient(make_app(Gendurable(psycopg.conninfo.conninfo_to_dict(db.dsn)))) as client:
        assert client.post("/async/ok").status_code == client.post("/sync/ok").status_code == 200
    assert count(conn) == 2


@pytest.mark.parametrize("colour", ["async", "sync"])
async def test_it_is_committed_before_the_response_is_sent(conn: Conn, durable: Gendurable, colour: str) -> None:
    app = make_app(durable)
    seen: list[int] = []
    async with durable.lifespan(app):
        assert await ask(app, f"/{colour}/ok", lambda: seen.append(count(conn))) == 200
    assert seen == [1]


def test_a_commit_that_fails_is_no_success(conn: Conn, durable: Gendurable) -> None:
    conn.execute("create table late (id int primary key, other int references late deferrable initially deferred)")
    app = FastAPI(lifespan=durable.lifespan)

    @app.post("/")
    async def post(conn: Annotated[AsyncConnection[Any], durable.transaction]) -> str:
        await gd.insert(conn, "mail")
        await conn.execute("insert into late values (1, 2)")
        return "written"

    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.post("/").status_code == 500
        assert count(conn) == 0


@pytest.mark.parametrize("colour", ["async", "sync"])
async def test_a_request_that_is_cancelled_gives_its_connection_back(
    conn: Conn, durable: Gendurable, colour: str
) -> None:
    """An async function is cut off, and nothing is kept. A thread cannot be: it comes to its end, and may be kept."""
    app = FastAPI(lifespan=durable.lifespan)
    LOCK = "select pg_advisory_xact_lock(42)"

    @app.post("/async")
    async def post(conn: Annotated[AsyncConnection[Any], durable.transaction]) -> None:
        await gd.insert(conn, "mail")
        await conn.execute(LOCK)

    @app.post("/sync")
    def post_sync(conn: Annotated[Connection[Any], durable.sync_transaction]) -> None:
        gd.insert(conn, "mail")
        conn.execute(LOCK)

    waiting = "select count(*) from pg_locks where locktype = 'advisory' and objid = 42 and not granted"
    conn.execute("select pg_advisory_lock(42)")
    async with durable.lifespan(app):
        # As a middleware does it: each await in a cancelled scope is cancelled again.
        async with anyio.create_task_group() as group:
            group.start_soon(ask, app, f"/{colour}")
            await asyncio.to_thread(wait_until, lambda: conn.execute(waiting).fetchone() == (1,))
            group.cancel_scope.cancel()
            if colour == "sync":
                conn.execute("select pg_advisory_unlock(42)")
        conn.execute("select pg_advisory_unlock_all()")
        before = count(conn)
        assert before == 0 or (before, colour) == (1, "sync")
        assert await ask(app, f"/{colour}") == 200
    assert count(conn) == before + 1


@pytest.mark.parametrize("colour", ["async", "sync"])
async def test_more_requests_than_threads_take_turns(conn: Conn, durable: Gendurable, colour: str) -> None:
    """Those who wait for the connection must not take the threads away from the function that has it."""
    app = make_app(durable)
    async with durable.lifespan(app):
        said = await asyncio.gather(*(ask(app, f"/{colour}/ok") for _ in range(100)))
    assert said == [200] * 100
    assert count(conn) == 100


async def test_a_block_that_is_cancelled_gives_its_connection_back(conn: Conn, durable: Gendurable) -> None:
    async def wait() -> None:
        async with durable.begin() as conn:
            await gd.insert(conn, "mail")
            used.add(conn.info.backend_pid)
            begun.set()
            await asyncio.Event().wait()

    used: set[int] = set()
    async with durable.lifespan():
        for _ in range(3):
            begun = asyncio.Event()
            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await begun.wait()
                group.cancel_scope.cancel()
        async with asyncio.timeout(20), durable.begin():  # the only connection
            pass
    assert count(conn) == 0
    assert len(used) == 1, "it was not rolled back, and was thrown away"


def test_an_engine_beside_the_app(db: Database, conn: Conn) -> None:
    @gd.job(name="double")
    async def double(args: dict[str, int]) -> int:
        return 2 * args["n"]

    durable = Gendurable(db.dsn, engine=gd.Engine(db.dsn, [double]))
    app = FastAPI(lifespan=durable.lifespan)

    @app.post("/double/{n}")
    async def start(n: int, conn: Annotated[AsyncConnection[Any], durable.transaction]) -> int | None:
        return await gd.insert(conn, double, {"n": n})

    for _ in range(2):  # as each test of a suite does
        with TestClient(app) as client:
            id = client.post("/double/21").json()
            assert gd.wait(conn, id, timeout=20).result == 42
    with TestClient(app) as client:
        assert client.post("/double/half").status_code == 422


def test_inside_a_lifespan_of_ones_own(db: Database, conn: Conn, durable: Gendurable) -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with durable.lifespan(app):
            async with durable.begin() as conn:
                await gd.insert(conn, "started")
            await asyncio.to_thread(in_a_thread)
            yield
            async with durable.begin() as conn:
                await gd.insert(conn, "stopped")

    def in_a_thread() -> None:
        with durable.begin_sync() as conn:
            gd.insert(conn, "in a thread")

    with TestClient(FastAPI(lifespan=lifespan)):
        pass
    said = conn.execute("select fsm from gd_instances order by id").fetchall()
    assert said == [("started",), ("in a thread",), ("stopped",)]


def test_a_dependency_can_be_replaced(db: Database, conn: Conn, durable: Gendurable) -> None:
    app = make_app(durable)
    other = db.connect(autocommit=False)
    app.dependency_overrides[durable.sync_transaction.dependency] = lambda: other
    with TestClient(app) as client:
        assert client.post("/sync/ok").status_code == 200
    assert (count(other), count(conn)) == (1, 0)


@pytest.mark.parametrize("colour", ["async", "sync"])
def test_connections_that_were_lost_are_replaced(conn: Conn, client: TestClient, colour: str) -> None:
    assert client.post(f"/{colour}/ok").status_code == 200
    conn.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid()"
    )
    assert client.post(f"/{colour}/ok").status_code == 200


def test_pools_of_ones_own(db: Database, conn: Conn) -> None:
    durable = Gendurable(
        pool=lambda: AsyncConnectionPool(db.dsn, open=False, min_size=1, kwargs={"autocommit": True}),
        sync_pool=lambda: ConnectionPool(db.dsn, open=False, min_size=1, kwargs={"autocommit": True}),
    )
    for how, (status, kept) in {"ok": (200, 1), "refused": (409, 0)}.items():
        with TestClient(make_app(durable)) as client:
            conn.execute("truncate gendurable.instance cascade")
            assert client.post(f"/async/{how}").status_code == status
            assert client.post(f"/sync/{how}").status_code == status
        assert count(conn) == 2 * kept


# Starts that cannot be


def test_without_its_lifespan(durable: Gendurable) -> None:
    for path in ("/async/ok", "/sync/ok"):
        with pytest.raises(RuntimeError, match=r"lifespan=durable\.lifespan"):
            TestClient(make_app(durable)).post(path)


async def test_two_lifespans_at_once(durable: Gendurable) -> None:
    async with durable.lifespan():
        with pytest.raises(RuntimeError, match="running already"):
            async with durable.lifespan():
                pass
        async with durable.begin() as conn:
            await gd.version(conn)


async def test_a_database_without_gendurable(empty_db: Database) -> None:
    durable = Gendurable(empty_db.dsn)
    with pytest.raises(gd.VersionMismatch, match="not installed"):
        async with durable.lifespan():
            pass
    gd.install(empty_db.connect())
    async with durable.lifespan():  # what failed can start again
        pass


async def test_a_database_that_is_not_there() -> None:
    durable = Gendurable(pool=lambda: AsyncConnectionPool("host=/nowhere", open=False, timeout=0.2))
    with pytest.raises(psycopg.OperationalError):
        async with durable.lifespan():
            pass
