"""Triggers of gd_signal_on: whose they are, what they may, dumps, other schemas, and life without gendurable."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege
from support.people import People
from support.server import Server
from test_dump import installed, program

import gendurable_py as gd
from gendurable_py.errors import InvalidArgument
from gendurable_py.install import uninstall

Conn = psycopg.Connection[Any]
HOWS = ("extension", "plain script")


def value(conn: Conn, query: str, *params: Any) -> Any:
    row = conn.execute(query.encode(), params).fetchone()
    assert row is not None
    return row[0]


class Shop:
    """A table of 'seller', a client; 'clerk' writes it, a stranger to gendurable; 'thief' may create beside it."""

    def __init__(self, people: People, database: str) -> None:
        self.people, self.database = people, database
        seller, clerk, thief = (people.role(name) for name in ("seller", "clerk", "thief"))
        with psycopg.connect(database, autocommit=True) as owner:
            owner.execute(f"create schema shop authorization {seller}".encode())
            owner.execute(f"grant usage on schema shop to {clerk}; grant all on schema shop to {thief}".encode())
            owner.execute("select gd_grant(%s::text::regrole, 'client')", (seller,))
        with self.as_("seller") as conn:
            conn.execute("create table shop.orders (id int primary key, status text)")
            conn.execute(f"grant insert, update, select on shop.orders to {clerk}".encode())

    def as_(self, name: str) -> Conn:
        return self.people.connect(self.database, name)

    def owner(self) -> Conn:
        return psycopg.connect(self.database, autocommit=True)

    def listen(self, **arguments: Any) -> str:
        with self.as_("seller") as conn:
            return gd.signal_on(
                conn, "shop.orders", "paid", "order:{id}", when="status = 'paid'", payload=["status"], **arguments
            )

    def function(self) -> str:
        with self.owner() as conn:
            return str(value(conn, "select tgfoid::regproc::text from pg_trigger where tgname = 'gd_signal_on_paid'"))

    def write(self, id: int, name: str = "clerk") -> None:
        with self.as_(name) as conn:
            conn.execute("insert into shop.orders values (%s, 'paid')", (id,))

    def heard(self, key: str) -> list[Any]:
        with self.owner() as conn:
            return [signal.payload for signal in gd.signals(conn, gd.find(conn, key) or 0)]

    def insert(self, key: str) -> None:
        with self.owner() as conn:
            assert gd.insert(conn, "m", unique_key=key)


@pytest.fixture
def shop(people: People) -> Shop:
    return Shop(people, people.database())


# -- rights, both ways


def test_who_writes_the_table_needs_no_right_on_gendurable(shop: Shop) -> None:
    shop.insert("order:1")
    assert shop.listen() == "gd_signal_on_paid"
    with shop.as_("clerk") as conn, pytest.raises(InsufficientPrivilege):
        conn.execute("select gd_signal('order:1', 'paid')")
    shop.write(1)
    assert shop.heard("order:1") == [{"status": "paid"}]
    with shop.owner() as conn:
        seller = shop.people.role("seller")
        assert (
            value(conn, f"select proowner::regrole::text from pg_proc where oid = '{shop.function()}'::regproc")
            == seller
        )
    with shop.as_("seller") as conn:
        assert gd.signal_off(conn, "shop.orders", "gd_signal_on_paid") is True
        assert gd.signal_off(conn, "shop.orders", "gd_signal_on_paid") is False


def test_who_is_no_client_may_not(shop: Shop) -> None:
    with shop.as_("clerk") as conn:
        for call in ("gd_signal_on('shop.orders', 'paid', 'order:{id}')", "gd_signal_off('shop.orders', 'x')"):
            with pytest.raises(InsufficientPrivilege):
                conn.execute(f"select {call}".encode())


def test_a_client_needs_the_rights_for_it(shop: Shop) -> None:
    with shop.owner() as conn:
        for name in ("clerk", "thief"):
            conn.execute("select gd_grant(%s::text::regrole, 'client')", (shop.people.role(name),))
        conn.execute(f"grant all on shop.orders to {shop.people.role('thief')}".encode())
    for name in ("clerk", "thief"):
        # Whose code would run on the types of whose table: the owner of the table must be able to act as the caller.
        with shop.as_(name) as conn, pytest.raises(InvalidArgument, match="somebody else"):
            gd.signal_on(conn, "shop.orders", "paid", "order:{id}")
    with shop.owner() as conn:
        conn.execute(f"grant {shop.people.role('clerk')} to {shop.people.role('seller')}".encode())
    with shop.as_("clerk") as conn, pytest.raises(InsufficientPrivilege):
        # Then what the server says: no right to create there.
        gd.signal_on(conn, "shop.orders", "paid", "order:{id}")
    shop.listen()
    with shop.as_("thief") as conn, pytest.raises(InsufficientPrivilege):
        gd.signal_off(conn, "shop.orders", "gd_signal_on_paid")
    with shop.owner() as conn:
        conn.execute(
            "alter schema shop owner to current_user;"
            f" revoke create on schema shop from {shop.people.role('seller')}".encode()
        )
    with shop.as_("seller") as conn, pytest.raises(InsufficientPrivilege):
        gd.signal_on(conn, "shop.orders", "sold", "order:{id}")


def test_the_right_to_signal_is_looked_at_first_and_its_loss_fails_the_writes(shop: Shop) -> None:
    seller = shop.people.role("seller")
    with shop.owner() as conn:
        conn.execute(f"revoke all on function gd_signal(text, text, jsonb, text) from {seller}".encode())
    with pytest.raises(InsufficientPrivilege, match="gd_signal"):
        shop.listen()
    with shop.owner() as conn:
        conn.execute("select gd_grant(%s::text::regrole, 'client')", (seller,))
    shop.listen()
    with shop.owner() as conn:
        conn.execute(f"revoke all on function gd_signal(text, text, jsonb, text) from {seller}".encode())
    with pytest.raises(InsufficientPrivilege, match="gd_signal"):
        shop.write(1)
    with shop.as_("clerk") as conn:
        conn.execute("insert into shop.orders values (2, 'new')")


# -- code of others


EVIL = """
create type shop.evil as enum ('paid', 'new');
create function shop.steal(shop.evil) returns text language plpgsql as $$
begin insert into shop.stolen values (current_user); return 'paid'; end $$;
create table shop.stolen (by_whom text);
grant all on shop.stolen to public;
create cast (shop.evil as text) with function shop.steal(shop.evil) as implicit;
create domain shop.sly as text check (shop.peek(value));
"""
PEEK = """
create function shop.note() returns void language plpgsql as $$
begin insert into shop.stolen values (current_user); end $$;
create function shop.peek(text) returns boolean language plpgsql immutable as $$
begin perform shop.note(); return true; end $$;
"""


def test_the_owner_of_a_table_gets_nobodys_rights_by_it(shop: Shop) -> None:
    with shop.as_("seller") as conn:
        conn.execute((PEEK + EVIL).encode())
        conn.execute("create table shop.trap (id int, status shop.evil, sly shop.sly)")
        conn.execute("truncate shop.stolen")
    with shop.owner() as conn:
        for when in ("length(status) > 0", "sly = 'x'", "true"):
            with pytest.raises(InvalidArgument, match="somebody else"):
                gd.signal_on(conn, "shop.trap", "paid", "order:{status}", when=when)
        assert value(conn, "select count(*) from shop.stolen") == 0
        # As the owner of the table it may be done, with the owner's rights.
        conn.execute(f"set role {shop.people.role('seller')}".encode())
        gd.signal_on(conn, "shop.trap", "paid", "order:{status}", when="length(status) > 0")
        conn.execute(f"grant insert on shop.trap to {shop.people.role('clerk')}".encode())
        conn.execute("reset role")
    with shop.as_("clerk") as conn:
        conn.execute("insert into shop.trap (id, status) values (1, 'new')")
    with shop.owner() as conn:
        found = {name for (name,) in conn.execute("select by_whom from shop.stolen")}
    # the domain is the writer's business
    assert shop.people.role("seller") in found <= {shop.people.role("seller"), shop.people.role("clerk")}


def test_the_function_of_a_trigger_is_nobody_elses(shop: Shop) -> None:
    with shop.as_("seller") as conn:
        conn.execute(
            "alter default privileges in schema shop"
            f" grant execute on functions to {shop.people.role('thief')}".encode()
        )
    shop.listen()
    function = shop.function()
    with shop.as_("thief") as conn:
        conn.execute("create table shop.mine (id int, status text)")
        with pytest.raises(InsufficientPrivilege):
            conn.execute(f"select {function}()".encode())
        with pytest.raises(InsufficientPrivilege):
            conn.execute(
                f"create trigger t after insert on shop.mine for each row execute function {function}()".encode()
            )
    with shop.as_("seller") as conn, pytest.raises(psycopg.errors.FeatureNotSupported):
        conn.execute(f"select {function}()".encode())


def test_who_may_create_beside_it_changes_nothing(shop: Shop) -> None:
    """Overloads of gd_signal that fit better, operators and functions, and a gd_signal where there is none any more."""
    shop.insert("order:1")
    thief = shop.people.role("thief")
    with shop.owner() as conn:
        conn.execute(f"grant create on schema public to {thief}".encode())
    shop.listen()
    body = "language plpgsql as $$ begin raise exception 'hostile code is called'; end $$"
    with shop.as_("thief") as conn:
        for arguments in ("text, text, jsonb", "text, text", "text, text, jsonb, name"):
            conn.execute(f"create function public.gd_signal({arguments}) returns text {body}".encode())
        conn.execute(f"create function public.octet_length(text) returns int {body}".encode())
        conn.execute(f"create function shop.gd_signal(text, text, jsonb, text) returns text {body}".encode())
    shop.write(1)
    assert shop.heard("order:1") == [{"status": "paid"}]
    with shop.owner() as conn:
        conn.execute("drop extension if exists gendurable cascade")
        if value(conn, "select to_regnamespace('gendurable') is not null"):
            uninstall(conn)
        conn.execute(f"create schema gendurable authorization {thief}".encode())
    with shop.as_("thief") as conn:
        conn.execute("create table shop.stolen (by_whom text)")
        conn.execute("grant all on shop.stolen to public")
        steal = "language sql as $$ insert into shop.stolen values (current_user) returning by_whom $$"
        conn.execute(f"create function public.gd_signal(text, text, jsonb, text) returns text {steal}".encode())
    with pytest.raises(psycopg.DatabaseError, match="that this trigger knows"):
        shop.write(2)
    with shop.as_("thief") as conn:
        assert value(conn, "select count(*) from shop.stolen") == 0
        # One that is called has its owner's rights, and none of the trigger's.
        conn.execute("alter function public.gd_signal(text, text, jsonb, text) security definer")
        conn.execute("grant execute on function public.gd_signal(text, text, jsonb, text) to public")
    shop.write(2)
    with shop.as_("thief") as conn:
        assert conn.execute("select * from shop.stolen").fetchall() == [(thief,)]


def test_a_table_that_has_a_new_owner(shop: Shop) -> None:
    shop.insert("order:1")
    shop.listen()
    with shop.owner() as conn:
        heir = shop.people.role("thief")
        conn.execute("select gd_grant(%s::text::regrole, 'client')", (heir,))
        conn.execute(f"alter table shop.orders owner to {heir}".encode())
    with shop.as_("thief") as conn:
        gd.signal_on(conn, "shop.orders", "paid", "order:{id}", when="status = 'paid'", payload=["status"])
    with shop.owner() as conn:
        assert (
            value(conn, f"select proowner::regrole::text from pg_proc where oid = '{shop.function()}'::regproc") == heir
        )
    shop.write(1)
    assert shop.heard("order:1") == [{"status": "paid"}]
    with shop.as_("thief") as conn:
        assert gd.signal_off(conn, "shop.orders", "gd_signal_on_paid") is True


# -- where gendurable is, and where it is not


def test_the_schema_of_the_api_may_get_another_name(shop: Shop) -> None:
    shop.insert("order:1")
    shop.listen()
    with shop.owner() as conn:
        conn.execute("alter schema public rename to elsewhere")
        conn.execute("create schema public")
    shop.write(1)
    with shop.owner() as conn:
        conn.execute("set search_path to elsewhere")
        assert len(gd.signals(conn, gd.find(conn, "order:1") or 0)) == 1
        gd.insert(conn, "m", unique_key="1")
        conn.execute(f"set role {shop.people.role('seller')}".encode())
        gd.signal_on(conn, "shop.orders", "digits", "{id}")
        conn.execute("reset role")
        conn.execute('alter schema elsewhere rename to "Odd \'one"')
        conn.execute("update shop.orders set status = 'new'")
        conn.execute("delete from shop.orders")
    shop.write(1)
    with shop.owner() as conn:
        conn.execute('set search_path to "Odd \'one"')
        assert [s.name for s in gd.signals(conn, gd.find(conn, "1") or 0)] == ["digits"]
        assert len(gd.signals(conn, gd.find(conn, "order:1") or 0)) == 2


@pytest.mark.parametrize("how", HOWS)
def test_a_table_goes_on_without_gendurable_and_with_a_new_one(server: Server, people: People, how: str) -> None:
    shop = Shop(people, installed(server, people, how))
    shop.listen()
    with shop.owner() as conn:
        if how == "extension":
            conn.execute("drop extension gendurable")
        else:
            uninstall(conn)
    shop.write(1)
    with shop.owner() as conn:
        if how == "extension":
            conn.execute("create extension gendurable schema api")
        else:
            gd.install(conn)
        conn.execute("select gd_grant(%s::text::regrole, 'client')", (people.role("seller"),))
    shop.insert("order:2")
    shop.write(2)
    assert shop.heard("order:2") == [{"status": "paid"}]


@pytest.mark.parametrize("flags", [[], ["--no-owner"]], ids=["as it is", "without owners"])
@pytest.mark.parametrize("how", HOWS)
def test_it_is_dumped_with_the_table(server: Server, people: People, how: str, flags: list[str]) -> None:
    old = Shop(people, installed(server, people, how))
    old.insert("order:1")
    old.insert("order:2")
    old.listen()
    old.write(1)
    dump = subprocess.run(
        [program(server, "pg_dump"), *flags, "-d", old.database], check=True, capture_output=True, text=True
    ).stdout
    new = people.database(empty=True)
    with psycopg.connect(new, autocommit=True) as conn:
        conn.execute(f"alter database {conn.info.dbname} set search_path to api, public".encode())
    subprocess.run(
        [program(server, "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", new],
        input=dump,
        check=True,
        text=True,
        stdout=subprocess.DEVNULL,
    )
    restored = Shop.__new__(Shop)
    restored.people, restored.database = people, new
    assert len(restored.heard("order:1")) == 1
    restored.write(2)
    assert restored.heard("order:2") == [{"status": "paid"}]
    with restored.owner() as conn:
        if not flags:
            conn.execute(f"set role {people.role('seller')}".encode())
        # The same call finds its trigger there, and it goes as it came.
        again = gd.signal_on(
            conn, "shop.orders", "paid", "order:{id}", when="status = 'paid'", payload=["status"], name=None
        )
        assert gd.signal_off(conn, "shop.orders", again) is True
        assert value(conn, "select count(*) from pg_proc where pronamespace = 'shop'::regnamespace") == 0


def test_the_table_alone_in_a_dump_brings_its_trigger(server: Server, people: People, tmp_path: Path) -> None:
    old = Shop(people, installed(server, people, "plain script"))
    old.listen()
    dump = subprocess.run(
        [program(server, "pg_dump"), "-n", "shop", "-d", old.database], check=True, capture_output=True, text=True
    ).stdout
    new = people.database(empty=True)
    subprocess.run(
        [program(server, "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", new],
        input=dump,
        check=True,
        text=True,
        stdout=subprocess.DEVNULL,
    )
    restored = Shop.__new__(Shop)
    restored.people, restored.database = people, new
    restored.write(1)
