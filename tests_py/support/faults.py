"""A fault of the server on demand: what somebody put on a table of ours, a full disk, a full queue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

Conn = psycopg.Connection[Any]


@contextmanager
def broken_commits(conn: Conn, sqlstate: str, message: str, when: str = "true") -> Iterator[None]:
    """Until it is left, a transaction that ends an instance fails at its COMMIT, with these words."""
    conn.execute(
        f"""
        create function broken() returns trigger language plpgsql as $body$
        begin
            raise exception using errcode = '{sqlstate}', message = '{message}';
        end $body$;
        create constraint trigger broken after update on gendurable.instance deferrable initially deferred
        for each row when (new.finished_at is not null and old.finished_at is null and {when})
        execute function broken();
        """  # type: ignore[arg-type]
    )
    try:
        yield
    finally:
        conn.execute("drop trigger broken on gendurable.instance; drop function broken()")
