"""Fixtures: one server for the run, one fresh database for each test that asks for it.

    def test_it(conn): ...            one autocommit connection to a fresh database with gendurable
    def test_two(db):  ...            db.dsn, db.connect(), await db.aconnect(): as many as wanted, closed at the end

Helpers stand in support/: `from support.wait import wait_until, run_in_thread, wait_until_blocked`.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import psycopg
import pytest
from support import accounts as _accounts
from support.people import People
from support.server import Server, find, forget_libpq

pytest_plugins = ["support.chromiumfixtures", "support.djangofixtures", "support.meterfixtures"]


class Database:
    """A fresh database, and the connections to it that end with the test."""

    def __init__(self, server: Server, *, empty: bool = False) -> None:
        self.server = server
        self.dsn = server.new_database(empty=empty)
        self._stack = ExitStack()
        self._async: list[psycopg.AsyncConnection[Any]] = []

    def connect(self, autocommit: bool = True, **kwargs: Any) -> psycopg.Connection[Any]:
        return self._stack.enter_context(psycopg.connect(self.dsn, autocommit=autocommit, **kwargs))

    async def aconnect(self, autocommit: bool = True, **kwargs: Any) -> psycopg.AsyncConnection[Any]:
        conn = await psycopg.AsyncConnection.connect(self.dsn, autocommit=autocommit, **kwargs)
        self._async.append(conn)
        return conn

    def close(self) -> None:
        # The test's loop is gone, so is what an async connection would need to say goodbye.
        for conn in self._async:
            with suppress(psycopg.Error):
                conn.pgconn.finish()
        # A test may have broken its connections on purpose.
        with suppress(psycopg.Error):
            self._stack.close()
        self.server.drop_database(self.dsn)


_SERVER = pytest.StashKey[Server]()
_REASONS = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    # A job in the background of a shell ignores interrupts, and so would all that the tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.option.help or config.option.version or getattr(config.option, "collectonly", False):
        return
    try:
        server, reasons = find()
    except SystemExit as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[_SERVER] = server
    if server.cluster is not None:
        forget_libpq()
    config.add_cleanup(server.close)
    config.add_cleanup(server.drop_template)
    config.stash[_REASONS] = reasons


def pytest_report_header(config: pytest.Config) -> list[str]:
    server = config.stash.get(_SERVER, None)
    if server is None:
        return []
    passed_over = config.stash[_REASONS]
    return [f"server: {server.name}" + (f" (passed over: {'; '.join(passed_over)})" if passed_over else "")]


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config) -> Server:
    return pytestconfig.stash[_SERVER]


@pytest.fixture
def db(server: Server) -> Iterator[Database]:
    database = Database(server)
    yield database
    database.close()


@pytest.fixture
def empty_db(server: Server) -> Iterator[Database]:
    """A database without gendurable."""
    database = Database(server, empty=True)
    yield database
    database.close()


@pytest.fixture
def conn(db: Database) -> psycopg.Connection[Any]:
    return db.connect()


@pytest.fixture
def accounts(conn: psycopg.Connection[Any]) -> None:
    """The table `account` of the transactional steps."""
    _accounts.create(conn)


@pytest.fixture
def people(server: Server) -> Iterator[People]:
    """Roles that log in, and databases of theirs."""
    made = People(server)
    yield made
    made.close()
