"""What who looks gets to see, by profile; and code, settings and names of others in the way of who looks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from support import looking, people
from support.looking import LOOKS, Looks
from support.people import EXACT, People
from support.server import Server

from gendurable_py.install import plain_script

Conn = psycopg.Connection[Any]
PROFILES = ("client", "worker", "operator", "reader", "author")

# Words that stand in one place each, and what leads there.
WORDS = {
    "state": "a state",
    "result": "a result",
    "error": "an error",
    "traceback": "a traceback",
    "payload": "a signal's payload",
    "meta": "the meta of an instance",
    "attributes": "its attributes",
    "history": "a state in a history",
    "query": "what another session runs",
}

# "Who sees what" in docs/operations.md: what looks show to a profile. Workers get what they claim besides.
SEES: dict[str, set[str]] = {
    "client": {"state", "result", "error"},
    "worker": {"state", "result", "error", "payload"},
    "reader": set(WORDS) - {"query"},
    "operator": set(WORDS) - {"query"},
    "author": set(),
}


class Place:
    """A database with a role of each profile, and an instance that has each of the words somewhere."""

    def __init__(self, server: Server) -> None:
        self.people = People(server)
        self.dsn = self.people.database()
        self.owner = psycopg.connect(self.dsn, autocommit=True)
        for profile in PROFILES:
            self.owner.execute("select gd_grant(%s::text::regrole, %s)", (self.people.role(profile), profile))
        self.looks = looking.fill(self.owner)
        self.owner.execute(
            "update gendurable.instance set state = %s, result = %s, last_error = %s, meta = %s, attributes = %s "
            "where id = %s",
            (word("state"), word("result"), "word_error", word("meta"), word("attributes"), self.looks.ids["id"]),
        )
        self.owner.execute("update gendurable.signal set payload = %s", (word("payload"),))
        self.owner.execute("update gendurable.error set error = 'word_error', traceback = 'word_traceback'")
        self.owner.execute("update gendurable.history set state = %s", (word("history"),))
        self.other = psycopg.connect(self.dsn)  # somebody in the middle of something
        self.other.execute("select 'word_query', id from gendurable.instance for update")

    def as_(self, profile: str) -> Conn:
        return self.people.connect(self.dsn, profile)

    def close(self) -> None:
        self.other.close()
        self.owner.close()
        self.people.close()


def word(name: str) -> str:
    return json.dumps({name: f"word_{name}"})


@pytest.fixture(scope="module")
def place(server: Server) -> Iterator[Place]:
    place = Place(server)
    yield place
    place.close()


def said(conn: Conn, looks: Looks) -> dict[str, str]:
    """All that the calls that look answer, refusals included."""
    found = {}
    for name in LOOKS:
        answers = []
        for call, ids in looks.calls(name):
            try:
                # as JSON, in which times have one form; views come in any order
                rows = conn.execute(f"select pg_catalog.to_jsonb(x)::pg_catalog.text from ({call}) x".encode(), ids)
                answers.append(str(sorted(row[0] for row in rows)))
            except psycopg.errors.InsufficientPrivilege as error:
                answers.append(str(error))
        found[name] = " ".join(answers)
    return found


@pytest.mark.parametrize("profile", PROFILES)
def test_who_sees_what(place: Place, profile: str) -> None:
    with place.as_(profile) as conn:
        seen = " ".join(said(conn, place.looks).values())
    assert {name for name in WORDS if f"word_{name}" in seen} == SEES[profile]


def test_the_owner_sees_it_all(place: Place) -> None:
    """Every word is there to be seen: the tests above would find it."""
    seen = " ".join(said(place.owner, place.looks).values())
    assert {name for name in WORDS if f"word_{name}" in seen} == set(WORDS)


def test_who_may_see_all_sessions_sees_their_queries_here_too(place: Place) -> None:
    role = place.people.role("reader")
    with place.as_("reader") as conn:
        why = "select * from gd_why(%(id)s)"
        assert "word_query" not in str(conn.execute(why, place.looks.ids).fetchall())
        place.owner.execute(f"grant pg_read_all_stats to {role}".encode())
        try:
            assert "word_query" in str(conn.execute(why, place.looks.ids).fetchall())
        finally:
            place.owner.execute(f"revoke pg_read_all_stats from {role}".encode())


@pytest.mark.parametrize("profile", ["reader", "operator"])
def test_who_looks_writes_nothing(place: Place, profile: str) -> None:
    with place.as_(profile) as conn:
        conn.execute("set default_transaction_read_only = on")
        said(conn, place.looks)


def test_names_and_code_of_the_caller_change_nothing(place: Place) -> None:
    """Functions and operators of the same names before pg_catalog, and temporary tables named like ours."""
    evil = place.people.role("evil")
    place.owner.execute(f"create schema evil authorization {evil}".encode())
    for profile in ("operator", "reader"):
        place.owner.execute("select gd_grant(%s::text::regrole, %s)", (evil, profile))
    place.owner.execute(f"grant temporary on database {place.owner.info.dbname} to {evil}".encode())
    tables = [row[0] for row in place.owner.execute("select tablename from pg_tables where schemaname = 'gendurable'")]
    system = ["pg_locks", "pg_stat_activity", "pg_proc", "pg_class", "pg_roles", "pg_database", "pg_prepared_xacts"]
    plain = said(place.as_("operator"), place.looks)
    with place.people.connect(place.dsn, "evil") as conn:
        assert people.fill(conn, EXACT, "evil", plain_script()) > 300
        for table in (*tables, *system):
            conn.execute(f'create temp table "{table}" (id int, mine int)'.encode())
        for name in ("status", "filter", "line"):
            conn.execute(f"create type pg_temp.{name} as (mine int)".encode())
        conn.execute("set search_path to evil, public, pg_catalog, pg_temp")
        with pytest.raises(psycopg.Error, match="hostile code is called"):
            conn.execute("select clock_timestamp()")
        found = said(conn, place.looks)
    for name in set(LOOKS) - {"gd_why", "gd_doctor", "gd_rate_limits"}:  # these tell how long it was
        assert found[name] == plain[name], name
    for name in ("gd_why", "gd_doctor"):
        assert len(found[name]) > 100 and "hostile" not in found[name]


# What a client may set for itself; nothing of it may change an answer or stop a look.
SETTINGS = {
    "datestyle": "'German, DMY'",
    "intervalstyle": "sql_standard",
    "timezone": "'Pacific/Apia'",
    "bytea_output": "escape",
    "transform_null_equals": "on",
    "array_nulls": "off",
    "quote_all_identifiers": "on",
    "work_mem": "'64kB'",
    "enable_indexscan": "off",
    "enable_nestloop": "off",
    "plan_cache_mode": "force_custom_plan",
    "default_transaction_isolation": "serializable",
    "statement_timeout": "'60s'",
    "plpgsql.extra_errors": "none",
    "gendurable.actor": "E'postgres\\n\\x01'",
    "gendurable.floor": "nonsense",
    "gendurable.place": "nonsense",
    "gendurable.short": "nonsense",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_the_caller_change_nothing(place: Place, setting: str) -> None:
    with place.as_("reader") as conn:
        plain = said(conn, place.looks)
        conn.execute(f"set {setting} = {SETTINGS[setting]}".encode())
        found = said(conn, place.looks)
    for name in set(LOOKS) - {"gd_why", "gd_doctor", "gd_rate_limits"}:
        assert found[name] == plain[name] or setting == "timezone", name
    assert all(len(found[name]) > 2 for name in set(LOOKS) - {"gd_holds"})


def test_who_says_who_he_is_says_it_beside_who_he_is(place: Place) -> None:
    """gendurable.actor is what somebody says: a hold has the role behind it, on one line, however long the name is."""
    role = place.people.role("operator")
    with place.as_("operator") as conn:
        conn.execute("select set_config('gendurable.actor', %s, false)", ("postgres\n\x01" + "x" * 100_000,))
        conn.execute("select gd_hold_all(%s)", ("because\nof\x01 it" + "y" * 1_900,))
        try:
            row = conn.execute(
                "select message from gd_why(%(parent)s) where cause = 'everything held'", place.looks.ids
            ).fetchone()
            assert row is not None
            assert len(row[0]) < 500 and "\n" not in row[0] and "\x01" not in row[0]
            held = conn.execute("select held_by from gd_holds").fetchone()
            assert held is not None and held[0].endswith(f" as {role}") and len(held[0]) < 500
        finally:
            conn.execute("select gd_release_hold()")
