"""For tests of machines: run them inline, through the real SQL, inside a transaction that is rolled back if you like.

::

    def test_checkout(conn):                                 # a psycopg connection
        with conn.transaction(force_rollback=True):
            id = gd.insert(conn, Checkout, {"order": 42})
            drain(conn, [Checkout])
            assert_awaiting(conn, id, "payment_confirmed")
            gd.signal(conn, id, "payment_confirmed")
            drain(conn, [Checkout])
            assert assert_done(conn, id) == {"shipped": True}

An assertion that fails says why the instance does not run, as `gd.why` does. On an ``AsyncConnection`` the same
functions are awaited. The fixture `gendurable_dsn` is an empty throw-away database
on an embedded server; with ``pytest_plugins = ["gendurable_py.testing"]`` in a ``conftest.py`` the tests have it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress

import psycopg

from .. import embedded
from ..calls import rehearsing
from ..calls.asserting import assert_awaiting, assert_done, assert_failed
from .contexts import context
from .crashing import crash_everywhere
from .draining import drain
from .undone import rehearse

__all__ = ["assert_awaiting", "assert_done", "assert_failed", "context", "crash_everywhere", "drain", "rehearse"]

with suppress(ImportError):
    import pytest

    @pytest.fixture(scope="session")
    def gendurable_server() -> Iterator[embedded.EmbeddedServer]:
        """One embedded server for the run; its data need not survive."""
        with embedded.start(settings={"fsync": "off", "full_page_writes": "off"}) as server:
            yield server

    @pytest.fixture
    def gendurable_dsn(gendurable_server: embedded.EmbeddedServer) -> Iterator[str]:
        """The dsn of a new database with gendurable in it, dropped after the test."""
        name = f"test_{secrets.token_hex(4)}"
        # Another database than the one that is copied: a template must have no connection.
        with psycopg.connect(gendurable_server.dsn_of("template1"), autocommit=True) as conn:
            rehearsing.create_database(conn, name)
            yield gendurable_server.dsn_of(name)
            rehearsing.drop_database(conn, name)
