"""Two accounts for transactional steps to write to: the fixture `accounts` makes them."""

from __future__ import annotations

from typing import Any

import psycopg


def create(conn: psycopg.Connection[Any]) -> None:
    conn.execute("create table account (id int primary key, balance int not null check (balance >= 0))")
    conn.execute("insert into account values (1, 100), (2, 100)")


def balances(conn: psycopg.Connection[Any]) -> list[int]:
    return [row[0] for row in conn.execute("select balance from account order by id")]


def debit(conn: Any, amount: int, account: int = 1) -> Any:
    return conn.execute("update account set balance = balance - %s where id = %s", (amount, account))
