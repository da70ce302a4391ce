"""Rows that signal, by the calls."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

import gendurable_py as gd
from gendurable_py import errors

Conn = psycopg.Connection[Any]


def test_rows_signal(conn: Conn) -> None:
    conn.execute('create table "Bill" (id int primary key, paid boolean)')
    id = gd.insert(conn, "m", unique_key="bill:1")
    name = gd.signal_on(conn, '"Bill"', "paid", "bill:{id}", when="paid", payload=("id", "paid"), name="told")
    assert name == "told"
    conn.execute("""insert into "Bill" values (1, true), (2, true)""")
    assert [(s.name, s.payload) for s in gd.signals(conn, id or 0)] == [("paid", {"id": 1, "paid": True})]
    assert gd.signal_off(conn, '"Bill"', name) is True
    assert gd.signal_off(conn, '"Bill"', name) is False
    assert gd.signal_on(conn, '"Bill"', "new", "bill:{id}") == "gd_signal_on_new"
    with pytest.raises(errors.InvalidArgument, match="p_when"):
        gd.signal_on(conn, '"Bill"', "paid", "bill:{id}", when="pay")
