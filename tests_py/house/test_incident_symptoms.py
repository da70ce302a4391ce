"""docs/incident.md: each symptom is really produced, the page shows what its queries answer, and its cure cures it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from conftest import Database
from support.incidents import BEGINNING, SYMPTOMS, Night
from support.pages import pg_environment
from support.standby import both, primary_and_standby, promote
from support.wait import wait_until

import gendurable_py as gd


@pytest.fixture
def night(db: Database, tmp_path: Path) -> Iterator[Night]:
    made = Night(db.dsn, tmp_path, pg_environment(db)["PATH"])
    yield made
    made.close()


def test_every_symptom_is_tried() -> None:
    tree = ast.parse(Path(__file__).read_text())
    tried = [
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "of"
        and isinstance(node.args[0], ast.Constant)
    ]
    assert sorted(tried) == sorted(name.partition(" ")[2] for name in SYMPTOMS)
    assert len(tried) >= 10


def test_what_it_begins_with(night: Night) -> None:
    [(language, text, _)] = BEGINNING
    night.insert("order", queue="orders")
    said = night.answers(text)
    assert language == "sql" and " hint " in said and " orders |" in said


def test_nothing_runs(night: Night) -> None:
    with night.of("Nothing runs at all"):
        ids = [night.insert("order", queue="orders", step="start") for _ in range(3)]
        night.age(25)
        gd.hold_all(night.conn, "copy of Monday, to look at")
        night.looks()
        night.cures("t")
        night.looks()
        assert night.one("select count(*) from gd_instances where status = 'done'") == 0
        night.cures()
        night.ends(*ids)


def test_one_queue_stands(night: Night) -> None:
    with night.of("One queue stands"):
        night.serves("shop", "--queues", "orders=5")
        gd.pause_queue(night.conn, "reports")
        ids = [night.insert("mail", queue="mails"), night.insert("mail", queue="mails")]
        ids.append(night.insert("report", queue="reports"))
        night.age(25)
        night.looks()
        night.looks()
        night.cures("")
        night.cures()
        night.ends(*ids)


def test_one_instance(night: Night) -> None:
    with night.of("One instance does not go on"):
        night.serves("shop:Order")
        [id] = [night.insert("order", {"waits": True}, queue="orders")]
        night.until("select status = 'awaiting_signal' from gd_instances")
        gd.signal(night.conn, id, "paymnet", {"sum": 30})
        night.age(25)
        night.looks()
        night.cures("delivered")
        night.ends(id)


def test_a_row_crashes_its_workers(night: Night) -> None:
    with night.of("A row crashes its workers"):
        id = night.insert("thumbnail", {"photo": "huge.tiff"}, queue="photos")
        night.serves("shop:thumbnail", "--processes", "2", "--queues", "photos=1")
        night.until("select crashes >= 3 from gd_instances")
        night.looks()
        night.cures("t")
        night.until("select status = 'runnable' from gd_instances")
        night.looks()
        night.cures("t", "t")
        others = [night.insert("thumbnail", {"photo": "b.png"}, queue="photos")]
        night.ends(id, *others)


def test_the_table_grows(night: Night) -> None:
    with night.of("The table grows and grows"):
        ids = [night.insert("mail") for _ in range(3)]
        gd.cancel_many(night.conn, ids)
        night.conn.execute("create table invoice (no int primary key, job bigint references gendurable.instance)")
        night.conn.execute("insert into invoice values (1, 42), (2, 44)")
        night.age(60 * 24 * 8)
        gd.maintain(night.conn)
        night.looks()
        night.looks()
        night.cures()
        night.looks()
        assert night.one("select count(*) from gd_instances") == 0
        assert night.one("select count(*) from invoice where job is null") == 2


def test_dead_rows(night: Night) -> None:
    with night.of("Dead rows are not cleaned up"):
        holder = night.session(application_name="report")
        holder.execute("begin isolation level repeatable read")
        holder.execute("select count(*) from gd_instances")
        for _ in range(20):
            gd.insert_many(night.conn, [{"fsm": "mail"} for _ in range(100)])
            claims = gd.claim(night.conn, "w", "default", 100)
            gd.commit(night.conn, "w", [{"id": c.id, "claim_no": c.claim_no, "kind": "done"} for c in claims])
        night.conn.execute("vacuum gendurable.instance")
        before = "select n_dead_tup >= 2000 from pg_stat_user_tables where relid = 'gendurable.instance'::regclass"
        night.until(f"select ({before})")
        night.looks(pid=holder.info.backend_pid)
        night.cures("t")
        after = "select n_dead_tup = 0 from pg_stat_user_tables where relid = 'gendurable.instance'::regclass"
        night.until(f"select ({after})")
        with pytest.raises(psycopg.OperationalError):
            holder.execute("select 1")


def test_failures_after_a_deploy(night: Night) -> None:
    with night.of("Failures explode after a deploy"):
        night.file("broken").touch()
        worker = night.serves("shop:Order")
        ids = [night.insert("order", {"order": n}, queue="orders") for n in range(30)]
        night.ends(*ids, status="failed")
        night.looks()
        night.looks()
        night.cures("t")
        more = night.insert("order", {"order": 31}, queue="orders")
        worker.terminate()
        worker.wait(60)
        night.file("broken").unlink()
        night.cures()
        night.ends(*ids, more)


def test_a_worker_hangs(night: Night) -> None:
    with night.of("A worker hangs"):
        night.serves("shop:Order", "--queues", "orders=1")
        id = night.insert("order", {"hangs": True}, queue="orders")
        night.until("select status = 'executing' and step = 'pay' from gd_instances")
        others = [night.insert("order", queue="orders") for _ in range(2)]
        # it has been so for a while
        night.conn.execute("update gendurable.instance set claim_no = claim_no - 1500000000 where id = 42")
        night.age(25, "id > 42")
        night.looks()
        night.looks()
        night.cures("t")
        night.ends(id, status="cancelled")
        night.ends(*others)


def test_a_line_stands(night: Night) -> None:
    with night.of("The line of a key stands"):
        night.serves("shop:Order")
        ids = [night.insert("order", queue="orders_eu", partition_key="customer:7")]
        ids += [night.insert("order", queue="orders", partition_key="customer:7") for _ in range(2)]
        wait_until(lambda: night.one("select count(*) from gd_queues where queue = 'orders' and parked = 2"), 30)
        night.age(25)
        night.looks()
        night.looks()
        night.cures("t")
        night.ends(*ids)


def test_full_of_parked(night: Night) -> None:
    with night.of("Thousands are parked"):
        gd.set_rate_limit(night.conn, "mail", 1, period=3600)
        first = night.insert("order", {"hangs": True}, queue="orders", step="pay", partition_key="tenant:7")
        mails = [{"fsm": "mail", "queue": "mails", "rate_limit": "mail"} for _ in range(300)]
        orders = [{"fsm": "order", "queue": "orders", "partition_key": "tenant:7"} for _ in range(200)]
        gd.insert_many(night.conn, mails + orders)
        night.serves("shop", "--queues", "mails=5,orders=20")
        night.until("select bool_and(due = 0) and sum(executing) = 1 and sum(parked) = 499 from gd_queues")
        night.until("select count(*) = 1 from gd_instances where status = 'done'")
        night.looks()
        night.looks()
        night.cures("", "")
        others = [row[0] for row in night.conn.execute("select id from gd_instances where id <> %s", [first])]
        night.ends(*others)


def test_a_schedule(night: Night) -> None:
    with night.of("A schedule did not fire"):
        conn = night.conn
        gd.set_rate_limit(conn, "partner", 10, period=60)
        gd.schedule(conn, "digest", "0 7 * * *", "mail", queue="mails")
        gd.schedule(conn, "nightly", "0 6 * * *", "report", queue="reports")
        gd.schedule(conn, "sync", "*/5 * * * *", "mail", queue="mails", rate_limit="partner")
        gd.set_rate_limit(conn, "partner", None)
        tick(night, "sync")
        assert gd.claim(conn, "w", "mails") == []
        gd.pause_schedule(conn, "digest")
        tick(night, "nightly")
        night.looks()
        night.cures("t", "t", "", "t")
        night.cures()
        night.until("select count(*) = 3 from gd_instances where status = 'done'")
        assert night.one("select bool_and(next_at > now()) from gd_schedules")


def tick(night: Night, name: str) -> None:
    """Its tick was an hour ago."""
    moved = night.one(
        "with s as (update gendurable.schedule set next_at = clock_timestamp() - interval '1 hour' where name = %s "
        "returning bell_id, next_at) "
        "update gendurable.instance i set eligible_at = s.next_at from s where i.id = s.bell_id returning i.id",
        name,
    )
    assert moved < 0


def test_after_a_failover(db: Database, tmp_path: Path) -> None:
    path = pg_environment(db)["PATH"]
    with primary_and_standby(lambda conn: None) as (primary, standby), ExitStack() as stack:
        before = Night(primary.dsn, tmp_path, path)
        with before.of("The server was exchanged"):
            id = before.insert("order", queue="orders")
            [claim] = gd.claim(before.conn, "w1", "orders", 1, lease=timedelta(seconds=1))
            assert claim.id == id
            before.conn.close()
            behind = Night(standby.dsn, tmp_path, path)
            stack.callback(behind.close)
            wait_until(lambda: behind.one('select count(*) from gd_list(\'{"status": "executing"}\')'), 30)
            behind.continues(before)
            behind.looks()
            primary.kill()
            promote(standby)
            behind.cures(dsn=both(primary, standby))
            behind.ends(id)
