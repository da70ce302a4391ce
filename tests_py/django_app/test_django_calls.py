"""Calls on Django's own connection: they commit and roll back with it, whatever Django does with it."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Any
from unittest import mock

import psycopg
import pytest
from conftest import Database
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.core.management import call_command
from django.db import DatabaseError, IntegrityError, OperationalError, connections, transaction
from django.db.transaction import TransactionManagementError
from django.test import override_settings
from support import djangoproject
from support.engine import ended, running
from support.shop.machines import Checkout
from support.shop.models import Order

import gendurable_py as gd
from gendurable_py import FSM, Context, Done, Engine, step, testing
from gendurable_py.contrib import django as glue
from gendurable_py.contrib.django import serving
from gendurable_py.telemetry import instrument


def count(db: Database) -> int:
    """As others see it."""
    return gd.count(db.connect(), {}).instances


def test_what_is_inserted_in_atomic_is_there_when_that_commits(project: Database) -> None:
    with transaction.atomic():
        order = Order.objects.create(name="a")
        id = glue.insert(Checkout, {"order": order.pk})
        assert count(project) == 0
    assert count(project) == 1
    conn = project.connect()
    with running(Engine(project.dsn, [Checkout], {"shop": 2})):
        [result] = ended(conn, id)
    assert (result.status, result.result) == ("done", 1)
    assert Order.objects.get(pk=order.pk).paid == 1


def test_what_is_rolled_back_never_was(project: Database) -> None:
    @transaction.atomic
    def view() -> None:
        glue.insert(Checkout, {"order": 1})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        view()
    assert count(project) == 0


def test_a_savepoint_takes_its_own_back_alone(project: Database) -> None:
    Order.objects.create(pk=1, name="a")

    @transaction.atomic
    def part() -> None:
        glue.insert(Checkout, {"order": 2})
        Order.objects.create(pk=1, name="b")

    with transaction.atomic():
        kept = glue.insert(Checkout, {"order": 1})
        with pytest.raises(IntegrityError):
            part()
    [row] = gd.list(project.connect(), {}).instances
    assert row.id == kept


def test_a_refused_call_costs_its_savepoint_and_keeps_its_own_error(project: Database) -> None:
    with transaction.atomic():
        kept = glue.insert(Checkout, {"order": 1})
        with pytest.raises(gd.InvalidArgument, match="queue"), transaction.atomic():
            glue.insert(Checkout, {"order": 2}, queue="q" * 10_000)
        assert kept is not None
        assert glue.result(kept) == gd.Result("runnable", None, None)
    assert count(project) == 1


def test_in_a_block_that_has_failed_nothing_more_is_asked(project: Database) -> None:
    with transaction.atomic():
        transaction.set_rollback(True)
        with pytest.raises(TransactionManagementError):
            glue.insert(Checkout, {"order": 1})
    assert count(project) == 0


def test_steps_run_inline_in_a_test_that_rolls_back(project: Database) -> None:
    class Undone(Exception):
        pass

    @transaction.atomic
    def case() -> None:
        order = Order.objects.create(name="a")
        id = glue.insert(Checkout, {"order": order.pk})
        assert testing.drain(glue.connection()) == 2
        assert id is not None
        assert glue.result(id) == gd.Result("done", 1, None)
        order.refresh_from_db()
        assert order.paid == 1
        raise Undone

    with pytest.raises(Undone):
        case()
    assert (count(project), Order.objects.count()) == (0, 0)


def test_without_atomic_each_call_is_a_transaction(project: Database) -> None:
    id = glue.insert(Checkout, {"order": 1, "wait": True}, unique_key="order:1")
    assert id is not None
    assert glue.find("order:1") == id
    assert glue.signal("order:1", "paid", {"by": "ada"}) == "delivered"
    assert glue.signal_many([id], "paid") == {id: "done"}
    assert [row.created for row in glue.insert_many([gd.Child(Checkout, {"order": 3})] * 2)] == [True, True]
    assert glue.cancel(id, "changed her mind")
    assert glue.retry(id)
    assert count(project) == 3


@pytest.mark.parametrize(
    "options",
    [
        {"OPTIONS": {"pool": True}},
        {"OPTIONS": {"server_side_binding": True}},
        {"CONN_MAX_AGE": 60},
        {"TIME_ZONE": "Asia/Tokyo"},
    ],
    ids=["pool", "binding", "kept", "zone"],
)
def test_however_the_connection_is_made(project: Database, options: dict[str, Any]) -> None:
    djangoproject.use(default=djangoproject.described(project.dsn, **options))
    with transaction.atomic():
        id = glue.insert(Checkout, {"order": 1}, attributes={"tenant": "acme"})
        assert count(project) == 0
    conn = glue.connection()
    assert isinstance(conn, psycopg.Connection)
    [row] = gd.list(conn, {"attributes": {"tenant": "acme"}}).instances
    assert (row.id, row.attributes) == (id, {"tenant": "acme"})
    assert row.inserted_at.tzinfo is not None
    assert id is not None
    assert [cause.cause for cause in gd.why(conn, id)]


def test_without_zones_times_are_as_django_has_them(project: Database) -> None:
    with override_settings(USE_TZ=False, TIME_ZONE="Europe/Berlin"):
        djangoproject.use(default=djangoproject.described(project.dsn))
        id = glue.insert(Checkout, {"order": 1})
        [row] = gd.list(glue.connection(), {"id": id}).instances
        assert row.inserted_at.tzinfo is None


def test_another_database_is_named(project: Database, server: Any) -> None:
    other = Database(server)
    try:
        djangoproject.use(
            default={"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
            jobs=djangoproject.described(other.dsn),
        )
        with pytest.raises(ImproperlyConfigured, match="'default' is sqlite"):
            glue.insert(Checkout, {"order": 1})
        glue.insert.using("jobs")(Checkout, {"order": 1})
        with override_settings(GENDURABLE={"DATABASES": ["jobs"]}):
            glue.insert(Checkout, {"order": 2})
        with transaction.atomic(using="jobs"):
            gd.insert(glue.connection("jobs"), Checkout, {"order": 3})
            assert count(other) == 2
        assert count(other) == 3
    finally:
        djangoproject.leave()
        other.close()


def test_another_driver_is_told_of(project: Database) -> None:
    wrapper = connections["default"]
    wrapper.ensure_connection()
    with mock.patch.object(wrapper, "connection", object()), pytest.raises(ImproperlyConfigured, match="psycopg 3"):
        glue.insert(Checkout, {"order": 1})


def test_errors_of_the_connection_are_those_of_django(project: Database) -> None:
    wrapper = connections["default"]
    wrapper.ensure_connection()
    pid = wrapper.connection.info.backend_pid
    project.connect().execute("select pg_terminate_backend(%s)", (pid,))
    with pytest.raises(OperationalError):
        glue.insert(Checkout, {"order": 1})
    assert wrapper.errors_occurred  # so that the end of the request closes it
    wrapper.close_if_unusable_or_obsolete()
    assert glue.insert(Checkout, {"order": 1}) is not None


def test_a_database_without_gendurable_says_so(empty_project: Database) -> None:
    with pytest.raises(DatabaseError, match="gd_insert"):
        glue.insert(Checkout, {"order": 1})


def test_async_views_have_the_same(project: Database) -> None:
    async def view() -> int | None:
        with pytest.raises(SynchronousOnlyOperation, match="ainsert"):
            glue.insert(Checkout, {"order": 1})
        id = await glue.ainsert(Checkout, {"order": 1, "wait": True}, unique_key="order:1")
        assert await glue.asignal("order:1", "paid") == "delivered"
        assert id is not None
        assert (await glue.aresult(id)) == gd.Result("runnable", None, None)
        await glue.ainsert_many([Checkout])
        return id

    asyncio.run(view())
    assert count(project) == 2


@pytest.mark.parametrize(
    "said",
    [
        [],
        {"DATABASE": ["default"]},
        {"DATABASES": "default"},
        {"DATABASES": []},
        {"EXTENSION": "yes"},
        {"MODULES": [1]},
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(said: object) -> None:
    from gendurable_py.contrib.django.checks import check_settings

    with override_settings(GENDURABLE=said):
        [found] = check_settings()
        assert found.id == "gendurable.E001"
        with pytest.raises(ImproperlyConfigured):
            glue.connection()


def test_checks_name_what_is_wrong_with_the_databases(project: Database) -> None:
    from gendurable_py.contrib.django.checks import check_settings

    djangoproject.use(
        default={"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}, jobs=djangoproject.described(project.dsn)
    )
    with override_settings(GENDURABLE={"DATABASES": ["jobs", "default", "none"]}):
        assert [found.id for found in check_settings()] == ["gendurable.E003", "gendurable.E002"]
    with override_settings(GENDURABLE={"DATABASES": ["jobs"]}):
        assert check_settings() == []


class Spoiled(FSM, name="shop.spoiled", queue="shop", max_attempts=1):
    """Its transaction can only be rolled back, and the server knows nothing of that."""

    @step(transactional=glue.atomic())
    def start(self, ctx: Context[Any]) -> Done:
        Order.objects.create(name="lost")
        with suppress(ZeroDivisionError), transaction.atomic(savepoint=False):
            raise ZeroDivisionError
        return Done("as if all were well")


def test_a_step_whose_block_has_failed_does_not_end_as_if_it_had_not(project: Database) -> None:
    id = glue.insert(Spoiled, {})
    with running(Engine(project.dsn, [Spoiled], {"shop": 2})):
        [result] = ended(project.connect(), id)
    assert result.status == "failed"
    assert "TransactionManagementError" in str(result.last_error)
    assert not Order.objects.exists()


def test_a_command_leaves_the_connection_of_its_caller(project: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENDURABLE_DSN", raising=False)
    with transaction.atomic():
        Order.objects.create(name="kept")
        with pytest.raises(SystemExit) as end:
            call_command("gendurable", "queues", "--json")
    assert end.value.code == 0
    assert Order.objects.filter(name="kept").exists()
    assert "GENDURABLE_DSN" not in os.environ


class Counting(FSM, name="shop.counting", queue="shop", max_attempts=4, backoff=lambda attempt: 0.05):
    @step
    async def start(self, ctx: Context[Any]) -> Done:
        return Done(await Order.objects.acount())


def test_async_steps_go_on_after_their_connection_was_lost(project: Database) -> None:
    conn = project.connect()
    before = instrument.current
    serving.take_care()
    try:
        with running(Engine(project.dsn, [Counting], {"shop": 2})):
            ended(conn, glue.insert(Counting, {}))
            lost = conn.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
                "where query ilike 'select count(*)%' and pid <> pg_backend_pid()"
            ).fetchall()
            assert lost == [(True,)]
            [result] = ended(conn, glue.insert(Counting, {}))
    finally:
        instrument.use(before)
    assert (result.status, result.result) == ("done", 0)
