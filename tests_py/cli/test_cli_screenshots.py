"""The pictures of docs/cli.md are what a terminal shows. GENDURABLE_WRITE_SCREENSHOTS=1 makes them anew."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Database
from support.cli import Terminal, commit_for, terminal
from support.screenshots import keep_or_compare, picture, shape
from support.wait import wait_until

import gendurable_py as gd

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "screenshots"
WRITE = os.environ.get("GENDURABLE_WRITE_SCREENSHOTS") == "1"
Conn = psycopg.Connection[Any]


@pytest.fixture
def shop(conn: Conn) -> int:
    """A shop in trouble: a failed order, a queue at rest, a picture that kills its workers. Answers the order."""
    conn.execute("""select gd_register('order', 1, 'start', 'default', '{"history": "steps"}')""")
    order = gd.insert(conn, "order", {"order": 4711}, partition_key="customer:7", unique_key="order:4711")
    assert order is not None
    commit_for(conn, order, "next", "app1-4f0c", step="parcels", state={"order": 4711, "weight": 2.5})
    childs = [{"fsm": "parcel", "state": {"part": part}, "queue": "parcels"} for part in (1, 2)]
    commit_for(conn, order, "schedule_childs", "app1-4f0c", step="pay", childs=childs)
    for claim in gd.claim(conn, "app1-4f0c", "parcels", 2):
        gd.commit(conn, "app1-4f0c", [{"id": claim.id, "claim_no": claim.claim_no, "kind": "done"}])
    error = "ConnectionError: no route to bank"
    commit_for(conn, order, "error", "app1-4f0c", error=error, delay_ms=0)
    commit_for(conn, order, "stop", "app1-4f0c", reason=error)

    about = {"host": "app1", "pid": 17, "version": "0.4.0", "queues": {"orders": 10, "pictures": 4}, "machines": []}
    gd.hello(conn, "app1-4f0c", about)
    gd.insert(conn, "picture", queue="pictures")
    for _ in range(4):
        claims = gd.claim(conn, "app1-4f0c", "pictures", 1)
        gd.release(conn, "app1-4f0c", [(claim.id, claim.claim_no) for claim in claims], crashed=True)
    for queue, number in (("mails", 12), ("orders", 40), ("pictures", 3)):
        gd.insert_many(conn, [{"fsm": queue[:-1], "queue": queue}] * number)
    gd.insert_many(conn, [{"fsm": "mail", "queue": "mails", "delay_ms": 3_600_000}] * 5)
    gd.claim(conn, "app1-4f0c", "orders", 7)
    gd.pause_queue(conn, "mails")
    return order


def taken(shown: Terminal, title: str) -> str:
    return picture(shown.screen, title)


def test_top(db: Database, shop: int) -> None:
    with terminal(db.dsn, "top", "--interval", "300ms", rows=26, TZ="UTC") as shown:
        shown.shows("ended", "lost worker", "no route to bank", "q quit")
        shown.press("j")
        wait_until(lambda: any(line.startswith(">  mails") for line in shown.lines))
        keep_or_compare(PICTURES / "top.svg", taken(shown, "gendurable top"), WRITE)
        shown.press("q")
        assert shown.ends() == 0


def test_show(db: Database, shop: int) -> None:
    with terminal(db.dsn, "show", shop, rows=60, TZ="UTC") as shown:
        assert shown.ends() == 0
        keep_or_compare(PICTURES / "show.svg", taken(shown, "gendurable show"), WRITE)


def test_what_a_picture_says_is_compared() -> None:
    def said(text: str) -> list[str]:
        return shape(f'<text x="1" y="1.0">{text}</text><text x="9" y="1.0">due 3</text>')

    assert said("12:00:01 queue mails 1.5 s") == said("13:00:01  queue mails  12 min")
    assert said("queue mails") != said("queue orders")
    assert said("queue mails") != said("queue")
