"""Handlers of several people in one schema: who defines them, who runs them, and whether they were called.

A sequence counts the calls: what it counts survives every rollback.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from support.people import People
from support.server import Server

_number = itertools.count()
# The author could act as the worker, the boss is a superuser, the others have a profile and nothing in common.
PROFILES = {
    "author": ("author",),
    "worker": ("worker",),
    "stranger": ("author",),
    "heir": ("author",),
    "boss": ("author", "worker"),
}


@dataclass
class Stage:
    """A schema of handlers with a machine and a queue of the same name, its people, and a count of calls."""

    people: People
    database: str
    name: str
    _open: list[psycopg.Connection[Any]] = field(default_factory=list)

    def role(self, name: str) -> str:
        return self.people.role(name)

    def connect(self, who: str) -> psycopg.Connection[Any]:
        """`worker`, or `superuser set role worker`: the one who logs in, and what it says then."""
        login, _, said = who.partition(" ")
        conn = (
            psycopg.connect(self.database, autocommit=True)
            if login == "superuser"
            else self.people.connect(self.database, login)
        )
        conn.row_factory = dict_row
        self._open.append(conn)
        if said:
            words, _, role = said.rpartition(" ")
            conn.execute(f"{words} {self.role(role)}".encode())
        return conn

    def do(self, *statements: str, who: str = "superuser") -> None:
        """Statements with `{s}` for the schema and `{author}` and the like for roles."""
        conn = self.connect(who)
        for statement in statements:
            conn.execute(self.text(statement))
        conn.close()

    def text(self, statement: str) -> bytes:
        roles = {name: self.role(name) for name in PROFILES}
        return statement.format(s=self.name, **roles).encode()

    def handler(self, name: str, *, of: str, body: str = "", options: str = "", language: str = "plpgsql") -> None:
        """A function that counts its calls, does what `body` says and answers with who it was."""
        self.do(
            f"""create function {{s}}.{name}(ctx jsonb) returns jsonb language {language} {options} as $$
            begin
                perform nextval('{self.name}.calls');
                {body}
                return jsonb_build_object('kind', 'done', 'result', current_user);
            end $$""",
            f"alter function {{s}}.{name}(jsonb) owner to {{{of}}}",
        )

    def define(self, name: str, who: str) -> None:
        self.do(f"select gd_define_step('{{s}}', '{name}', '{{s}}.{name}(jsonb)')", who=who)

    def insert(self, step: str, **state: Any) -> int:
        with psycopg.connect(self.database, autocommit=True) as conn:
            row = conn.execute(
                "select gd_insert(%s, %s, p_step => %s, p_queue => %s)", (self.name, Jsonb(state), step, self.name)
            ).fetchone()
        assert row is not None
        return int(row[0])

    def calls(self) -> int:
        with psycopg.connect(self.database, autocommit=True) as conn:
            row = conn.execute(
                sql.SQL("select last_value - 1 + is_called::int from {}.calls").format(sql.Identifier(self.name))
            ).fetchone()
        assert row is not None
        return int(row[0])

    def status(self, id: int) -> tuple[str, Any]:
        with psycopg.connect(self.database, autocommit=True) as conn:
            row = conn.execute("select status, result from gd_instances where id = %s", (id,)).fetchone()
        assert row is not None
        return row[0], row[1]

    def run(self, who: str | psycopg.Connection[Any], **options: Any) -> dict[str, Any]:
        conn = self.connect(who) if isinstance(who, str) else who
        row = conn.execute("call gd_run(%s, p_options => %s)", (self.name, Jsonb(options))).fetchone()
        assert row is not None
        result: dict[str, Any] = row["p_result"]
        return result

    def problem(self, who: str, step: str) -> str | None:
        row = (
            self.connect(who)
            .execute("select problem from gd_steps where fsm = %s and step = %s", (self.name, step))
            .fetchone()
        )
        assert row is not None
        problem: str | None = row["problem"]
        return problem

    def close(self) -> None:
        for conn in self._open:
            conn.close()


def sqlstate(conn: psycopg.Connection[Any], statement: bytes) -> str | None:
    try:
        conn.execute(statement)
    except psycopg.Error as error:
        return error.sqlstate
    return None


@pytest.fixture(scope="module")
def people(server: Server) -> Iterator[tuple[People, str]]:
    """A database in which these people have their profiles."""
    made = People(server)
    database = made.database()
    with psycopg.connect(database, autocommit=True) as conn:
        for name, profiles in PROFILES.items():
            for profile in profiles:
                conn.execute("select gd_grant(%s::text::regrole, %s)", (made.role(name), profile))
        conn.execute(f"alter role {made.role('boss')} superuser".encode())
        conn.execute(f"grant {made.role('worker')} to {made.role('author')}".encode())
    yield made, database
    made.close()


@contextmanager
def on_stage(people: People, database: str) -> Iterator[Stage]:
    made = Stage(people, database, f"s{next(_number)}")
    made.do(
        "create schema {s}",
        "grant usage on schema {s} to public",
        "create sequence {s}.calls",
        "grant all on sequence {s}.calls to public",
        "grant create on schema {s} to {author}, {heir}",
    )
    yield made
    made.close()
    made.do("drop schema {s} cascade")


@pytest.fixture
def stage(people: tuple[People, str]) -> Iterator[Stage]:
    with on_stage(*people) as made:
        yield made
