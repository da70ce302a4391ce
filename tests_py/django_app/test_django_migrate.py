"""What the app's migration does with a database, forwards and backwards."""

from __future__ import annotations

import io
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import Database
from django.core.management import call_command
from django.db import ProgrammingError, connection, connections, transaction
from django.db.migrations.exceptions import IrreversibleError
from django.db.migrations.loader import MigrationLoader
from django.test import override_settings
from support import djangoproject
from support.shop.machines import Checkout
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py.contrib import django as glue
from gendurable_py.contrib.django.installing import Install
from gendurable_py.install import ensure, remove, version


def migrate(*arguments: str, **options: Any) -> str:
    out = io.StringIO()
    call_command("migrate", *arguments, stdout=out, **{"verbosity": 1, "skip_checks": False, **options})
    return out.getvalue()


def there(db: Database, extension: bool = False) -> bool:
    with db.connect() as conn:
        what = "pg_extension where extname" if extension else "pg_namespace where nspname"
        return conn.execute(f"select 1 from {what} = 'gendurable'").fetchone() is not None


def test_migrate_installs_and_brings_the_permissions(empty_project: Database) -> None:
    assert "gendurable.0001_install... OK" in migrate()
    assert gd.version(glue.connection()) == version()
    from django.contrib.auth.models import Permission

    found = set(Permission.objects.filter(content_type__app_label="gendurable").values_list("codename", flat=True))
    assert {"view_instance", "retry_instance", "cancel_instance", "pause_queue", "drain_worker"} <= found
    assert not {name for name in found if name.startswith(("add_", "change_", "delete_"))}
    assert "No migrations to apply" in migrate()


def test_the_newest_migration_is_of_this_release() -> None:
    # Each release has one: without it, an update of the package would leave the databases of projects behind.
    loader = MigrationLoader(None)
    assert len(loader.graph.leaf_nodes("gendurable")) == 1
    ours = [one for key, one in sorted(loader.disk_migrations.items()) if key[0] == "gendurable"]
    releases = [step.release for one in ours for step in one.operations if isinstance(step, Install)]
    assert releases[-1] == version()


def test_the_models_are_those_of_the_migration(project: Database) -> None:
    out = io.StringIO()
    call_command("makemigrations", "gendurable", "--check", "--dry-run", stdout=out)
    assert "No changes detected" in out.getvalue()


def test_every_field_is_a_column(project: Database) -> None:
    from django.apps import apps

    glue.insert(Checkout, {"order": 1})
    gd.schedule(glue.connection(), "nightly", "0 3 * * *", Checkout)
    gd.claim(glue.connection(), "w", "shop", 1)
    for model in apps.get_app_config("gendurable").get_models():
        assert [str(row) for row in model.objects.all()], model
        for change in ("save", "delete"):
            with pytest.raises(TypeError, match="read only"):
                getattr(model.objects.first(), change)()


def test_an_installation_of_somebody_else_is_left_as_it_is(project: Database) -> None:
    id = glue.insert(Checkout, {"order": 1})
    migrate("gendurable")
    assert id is not None
    assert glue.result(id) is not None


def test_what_fails_leaves_nothing(empty_project: Database) -> None:
    @transaction.atomic
    def fail() -> None:
        with connection.schema_editor(atomic=False) as editor:
            Install("0.4.0", first=True).database_forwards("gendurable", editor, None, None)
        assert gd.version(glue.connection())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not there(empty_project)


def test_backwards_it_removes_what_is_empty_and_refuses_what_is_not(migrated: Database) -> None:
    id = glue.insert(Checkout, {"order": 1})
    with pytest.raises(IrreversibleError, match=r"has 1 instances.*uninstall"):
        migrate("gendurable", "zero")
    assert id is not None
    glue.cancel(id)
    assert gd.delete(glue.connection(), id)
    with pytest.raises(IrreversibleError, match="has 2 calls in its audit"):
        migrate("gendurable", "zero")
    remove(glue.connection())
    migrate("gendurable", "zero")  # and so does whoever said it himself
    migrate("gendurable")
    migrate("gendurable", "zero")
    assert not there(migrated)
    migrate("gendurable")
    assert there(migrated)


def test_what_is_inserted_while_it_is_removed_is_not_lost(migrated: Database) -> None:
    with migrated.connect() as writer, migrated.connect() as watcher, ThreadPoolExecutor(1) as threads:
        writer.execute("begin")
        id = gd.insert(writer, Checkout, {"order": 1})
        assert id is not None

        def commit_once_somebody_waits() -> None:
            waits = "select true from pg_locks where not granted and relation = 'gendurable.instance'::regclass"
            wait_until(lambda: watcher.execute(waits).fetchone(), 30)
            writer.execute("commit")

        committing = threads.submit(commit_once_somebody_waits)
        with pytest.raises(IrreversibleError, match="has 1 instances"):
            migrate("gendurable", "zero")
        committing.result()
        assert gd.result(watcher, id) is not None
        # It has let everything go again.
        assert gd.insert(watcher, Checkout, {"order": 2})


def test_it_removes_nothing_where_it_could_not_see_what_was_written(migrated: Database) -> None:
    with transaction.atomic():
        glue.connection().execute("set transaction isolation level repeatable read")
        with pytest.raises(gd.GendurableError, match="not read committed"), transaction.atomic():
            migrate("gendurable", "zero")
    assert there(migrated)


@pytest.mark.parametrize("rule", ["schedule", "rate limit", "pause"])
def test_rules_are_something_to_lose(migrated: Database, rule: str) -> None:
    conn = glue.connection()
    match rule:
        case "schedule":
            gd.schedule(conn, "nightly", "0 3 * * *", Checkout)
        case "rate limit":
            gd.set_rate_limit(conn, "mail", 5, 60)
        case "pause":
            gd.pause_queue(conn, "shop")
    with pytest.raises(IrreversibleError, match=f"1 {rule}s"):
        migrate("gendurable", "zero")
    assert there(migrated)


def test_a_fake_migration_touches_nothing(empty_project: Database) -> None:
    migrate("gendurable", fake=True)
    assert not there(empty_project)
    migrate("gendurable", "zero", fake=True)
    migrate("gendurable", fake_initial=True)
    assert there(empty_project)


def test_sqlmigrate_gives_a_script_that_installs(empty_project: Database) -> None:
    out = io.StringIO()
    call_command("sqlmigrate", "gendurable", "0001", stdout=out)
    with empty_project.connect() as conn:
        conn.execute(out.getvalue())
        assert gd.version(conn) == version()
    out = io.StringIO()
    call_command("sqlmigrate", "gendurable", "0001", backwards=True, stdout=out)
    assert there(empty_project)
    assert "drop" not in out.getvalue().lower()


def test_only_the_databases_of_the_setting_get_it(empty_project: Database, server: Any) -> None:
    other = Database(server, empty=True)
    try:
        djangoproject.use(default=djangoproject.described(empty_project.dsn), jobs=djangoproject.described(other.dsn))
        with override_settings(GENDURABLE={"DATABASES": ["jobs"]}):
            migrate("gendurable")
            assert not there(empty_project)
            migrate("gendurable", database="jobs")
            assert there(other)
            from gendurable_py.contrib.django.models import Instance

            glue.insert(Checkout, {"order": 1})
            assert Instance.objects.count() == Instance.objects.using("jobs").count() == 1
    finally:
        djangoproject.leave()
        other.close()


class NoJobs:
    def allow_migrate(self, alias: str, app_label: str, **_: object) -> bool | None:
        return False if app_label == "gendurable" else None


def test_a_router_is_asked(empty_project: Database) -> None:
    with override_settings(DATABASE_ROUTERS=[NoJobs()]):
        migrate("gendurable")
    assert not there(empty_project)


def test_the_extension_where_it_is_asked_for_and_not_there(
    empty_project: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["gendurable_py.install"], "version", lambda: "9.9.9")
    with (
        override_settings(GENDURABLE={"EXTENSION": True}),
        pytest.raises(gd.VersionMismatch, match=r"does not offer the extension gendurable 9\.9\.9"),
    ):
        migrate("gendurable")
    assert not there(empty_project)
    migrate("gendurable")  # by the plain script then
    assert there(empty_project)
    assert not there(empty_project, extension=True)


def test_the_extension_where_the_server_has_it(empty_project: Database) -> None:
    if not empty_project.server.as_extension:
        pytest.skip("needs a server with the extension's files: GENDURABLE_TEST_SERVER=docker or dsn")
    migrate("gendurable")
    assert there(empty_project, extension=True)
    migrate("gendurable", "zero")
    assert not there(empty_project)
    with override_settings(GENDURABLE={"EXTENSION": False}):
        migrate("gendurable")
    assert there(empty_project)
    assert not there(empty_project, extension=True)


def test_an_older_release_is_upgraded_with_its_rows(empty_project: Database) -> None:
    from support.released import plain_script

    with empty_project.connect() as conn:
        with conn.transaction():
            conn.execute(plain_script("0.3.0"))
        [id] = conn.execute("select gd_insert('shop.checkout', '{\"order\": 1}', p_queue => 'shop')").fetchone() or ()
    migrate("gendurable")
    assert gd.version(glue.connection()) == version()
    assert glue.result(id) == gd.Result("runnable", None, None)


def test_a_newer_database_is_left_alone(project: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["gendurable_py.install"], "version", lambda: "0.3.9")
    with transaction.atomic():
        assert ensure(glue.connection()) == "0.4.0"


def test_a_role_without_rights_is_told(empty_project: Database) -> None:
    with empty_project.connect() as conn:
        conn.execute(
            "drop role if exists gd_django; create role gd_django login; grant all on schema public to gd_django"
        )
    try:
        djangoproject.use(default=djangoproject.described(empty_project.dsn, USER="gd_django"))
        with pytest.raises(ProgrammingError, match="permission denied"):
            migrate("gendurable")
    finally:
        connections["default"].close()
        with empty_project.connect() as conn:
            conn.execute("drop owned by gd_django; drop role gd_django")
    assert not there(empty_project)
