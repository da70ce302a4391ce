"""gd_migrate among others: whose function it runs, whom it waits for, and what it leaves when it ends early."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import psycopg
import pytest
from support.people import People
from support.server import Server

import gendurable_py as gd

Conn = psycopg.Connection[Any]
BODY = "returns jsonb language sql as $$ select s || jsonb_build_object('as', current_user) $$"


class Place:
    def __init__(self, people: People) -> None:
        self.people = people
        self.database = people.database()
        self.owner = psycopg.connect(self.database, autocommit=True)
        self.owner.execute("select gd_grant(%s::text::regrole, 'operator')", (people.role("operator"),))
        people.role("other")
        for version in (1, 2):
            gd.register(self.owner, "m", version=version)

    def as_(self, name: str) -> Conn:
        return self.people.connect(self.database, name)

    def insert(self, key: str | None = None) -> int:
        return cast("int", gd.insert(self.owner, "m", {}, version=1, partition_key=key))

    def row(self, id: int) -> tuple[Any, ...] | None:
        return self.owner.execute("select fsm_version, state from gd_instances where id = %s", (id,)).fetchone()

    def home(self, name: str, *, opened: bool = True) -> None:
        """A schema of somebody's, which the operator may use."""
        role = self.people.role(name)
        self.owner.execute(f"create schema {name} authorization {role}".encode())
        if opened:
            self.owner.execute(f"grant usage on schema {name} to {self.people.role('operator')}".encode())


@pytest.fixture
def place(server: Server) -> Iterator[Place]:
    people = People(server)
    made = Place(people)
    yield made
    made.owner.close()
    people.close()


def test_a_function_of_somebody_who_could_not_act_as_the_caller_is_not_run(place: Place) -> None:
    place.home("other")
    id = place.insert()
    with place.as_("other") as other, place.as_("operator") as operator:
        other.execute(f"create function other.up(s jsonb) {BODY}".encode())
        other.commit()
        moved = gd.migrate(operator, "m", 1, 2, state="other.up(jsonb)")
        assert [each.result for each in moved.instances] == ["no"]
        assert "the owner of the function could not act as the role (GD507)" in str(moved.instances[0].problem)
        assert place.row(id) == (1, {})
        # with its owner's rights it does no harm
        other.execute("alter function other.up(jsonb) security definer")
        other.commit()
        moved = gd.migrate(operator, "m", 1, 2, state="other.up(jsonb)")
        assert [each.result for each in moved.instances] == ["done"]
        operator.commit()
        assert place.row(id) == (2, {"as": place.people.role("other")})


def test_a_function_of_the_caller_runs_with_his_rights_and_settings(place: Place) -> None:
    place.home("operator", opened=False)
    id, second = place.insert(), place.insert()
    with place.as_("operator") as operator:
        operator.execute(f"create function operator.up(s jsonb) {BODY}".encode())
        operator.execute("create table operator.here (note text)")
        operator.execute(
            "create function operator.down(s jsonb) returns jsonb language plpgsql as $$ begin"
            " insert into here values ('ran'); perform set_config('search_path', 'public', false); return s; end $$"
        )
        operator.execute("set search_path = operator, public")
        moved = gd.migrate(operator, "m", 1, 2, state="up(jsonb)", limit=1)
        assert (moved.next, [each.result for each in moved.instances]) == (id, ["done"])
        operator.commit()
        assert place.row(id) == (2, {"as": place.people.role("operator")})
        # one that changes what others find by their names is undone
        [refused] = gd.migrate(operator, "m", 1, 2, state="down(jsonb)").instances
        assert refused.result == "no" and "search_path" in str(refused.problem)
        assert operator.execute("select count(*) from here").fetchone() == (0,)
        assert operator.execute("show search_path").fetchone() == ("operator, public",)
        assert place.row(second) == (1, {})


def test_the_tables_stay_out_of_reach(place: Place) -> None:
    place.home("operator", opened=False)
    id = place.insert()
    with place.as_("operator") as operator:
        operator.execute(
            "create function operator.up(s jsonb) returns jsonb language plpgsql as"
            " 'begin return (select to_jsonb(i) from gendurable.instance i limit 1); end'"
        )
        [refused] = gd.migrate(operator, "m", 1, 2, state="operator.up(jsonb)").instances
        assert "permission denied" in str(refused.problem)
        assert place.row(id) == (1, {})


def test_nobody_is_waited_for_and_nothing_is_left_behind(place: Place) -> None:
    ids = [place.insert(f"k{n % 2}") for n in range(4)]
    with psycopg.connect(place.database) as stuck, psycopg.connect(place.database) as conn:
        stuck.execute("select from gendurable.instance where id = %s for update", (ids[1],))
        conn.execute("set statement_timeout = '5s'")
        dry = gd.migrate(conn, "m", 1, 2, dry_run=True)
        assert [each.result for each in dry.instances] == ["done", "busy", "done", "done"]
        # a dry run holds nothing, also where its transaction stays open
        with psycopg.connect(place.database) as other:
            other.execute("set lock_timeout = '1s'")
            other.execute("select from gendurable.instance where id = %s for update nowait", (ids[0],))
        moved = gd.migrate(conn, "m", 1, 2)
        assert [each.result for each in moved.instances] == ["done", "busy", "done", "done"]
        conn.rollback()
        assert [place.row(id) for id in ids] == [(1, {})] * 4
        stuck.rollback()
        gd.migrate(conn, "m", 1, 2)
        conn.commit()
    assert [place.row(id) for id in ids] == [(2, {})] * 4


def test_who_locks_a_key_is_not_waited_for_where_the_next_step_has_a_queue(place: Place) -> None:
    gd.define_step(place.owner, "m", "far", queue="far")
    first, second = place.insert("locked"), place.insert("free")
    with psycopg.connect(place.database) as stuck:
        stuck.execute("select pg_advisory_xact_lock(gendurable._key_lock('locked'))")
        place.owner.execute("set statement_timeout = '5s'")
        moved = gd.migrate(place.owner, "m", 1, 2, steps={"start": "far"})
        assert [(each.id, each.result) for each in moved.instances] == [(first, "busy"), (second, "done")]
        assert place.row(first) == (1, {})
    [left] = gd.migrate(place.owner, "m", 1, 2, steps={"start": "far"}).instances
    assert (left.id, left.result) == (first, "done")


def test_a_migration_that_is_cancelled_has_moved_nothing(place: Place) -> None:
    ids = [place.insert() for _ in range(3)]
    place.owner.execute(
        "create function slow(s jsonb) returns jsonb language plpgsql as"
        " $$ begin perform pg_sleep(30); return s; end $$"
    )
    place.owner.execute("set statement_timeout = '200ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        gd.migrate(place.owner, "m", 1, 2, state="slow(jsonb)")
    assert [place.row(id) for id in ids] == [(1, {})] * 3
