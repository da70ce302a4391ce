"""Transactional steps in Django's transactions, with the real library."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from conftest import Database
from support.accounts import create
from support.engine import ended, running

import gendurable_py as gd
from gendurable_py import Engine, job

django = pytest.importorskip("django", reason="needs Django: pip install django")

from django.db import transaction  # noqa: E402
from support import djangoproject  # noqa: E402


@pytest.fixture
def accounts(conn: psycopg.Connection[Any], db: Database) -> Iterator[None]:
    create(conn)
    djangoproject.use(app=djangoproject.described(db.dsn))
    yield
    djangoproject.leave()


def balance(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute("select balance from account where id = 1").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.usefixtures("accounts")
@pytest.mark.parametrize(
    ("how", "status", "left", "calls"),
    [
        ("plain", "done", 90, 1),
        ("nothing", "done", 100, 1),
        ("raises", "failed", 100, 0),
        ("rejected", "failed", 100, 0),
        ("swallows", "failed", 100, 0),
        ("conflict", "done", 90, 1),
    ],
)
def test_what_is_atomic_and_the_outcome_are_one(
    conn: psycopg.Connection[Any], db: Database, how: str, status: str, left: int, calls: int
) -> None:
    from gendurable_py.contrib.django import atomic

    called: list[int] = []
    runs: list[int] = []

    @job(name="dj", max_attempts=1, transactional=atomic("app"))
    def run(args: Any, ctx: gd.Context[Any]) -> object:
        runs.append(1)
        transaction.on_commit(lambda: called.append(1), using="app")
        if how == "nothing":
            return None
        with ctx.conn.cursor() as cursor:
            cursor.execute("update account set balance = balance - 10 where id = 1")
            if how == "conflict" and len(runs) < 3:
                cursor.execute("do $$begin raise exception using errcode = '40P01'; end$$")
            if how == "swallows":
                with pytest.raises(django.db.Error):
                    cursor.execute("select 1 / 0")
        if how == "raises":
            raise ValueError("no")
        return gd.Next("nowhere") if how == "rejected" else None

    id = gd.insert(conn, run, {})
    with running(Engine(db.dsn, [run])):
        (result,) = ended(conn, id)
    assert (result.status, balance(conn)) == (status, left), result.last_error
    assert len(called) == calls
