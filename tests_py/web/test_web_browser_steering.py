"""In a real browser: many at once, who may not, and what is killed meanwhile."""

from __future__ import annotations

import socket
import subprocess
from typing import Any

import psycopg
import pytest
from conftest import Database
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from support.chromium import NEEDED, TOKEN, Chromium, filled
from support.cli import PROGRAM, environment
from support.people import People
from support.server import find
from support.web import serving

import gendurable_py as gd
from gendurable_py.web import app
from gendurable_py.web.acts import ACTS

Conn = psycopg.Connection[Any]
pytestmark = [NEEDED, pytest.mark.timeout(400)]


def test_500_are_cancelled_by_filter_after_a_preview(db: Database, conn: Conn, page: Chromium) -> None:
    gd.insert_many(conn, [{"fsm": "mail", "queue": "news"} for _ in range(500)])
    others = [gd.insert(conn, "mail", queue="bills"), gd.insert(conn, "order", queue="news")]
    with serving(app(db.dsn, operate=True, token=TOKEN)) as address:
        page.driver.get(address + "/instances")
        page.field("name").send_keys("ada")
        page.field("token").send_keys(TOKEN, Keys.ENTER)
        page.shows("Instances", "live")
        # all at once are not offered: it takes a filter
        assert "Cancel these…" not in page.text()
        page.field("fsm").send_keys("mail")
        page.field("queue").send_keys("news", Keys.ENTER)
        page.shows("Cancel these…")
        assert page.driver.current_url == f"{address}/instances?fsm=mail&queue=news"
        page.click("Cancel these…")
        page.shows("Cancel 500 instances: fsm mail, queue news", "500 instances fit now.", "They end as cancelled")
        # a preview has done nothing, and who comes meanwhile is not meant
        assert gd.count(conn, {"status": "cancelled"}).instances == 0
        others.append(gd.insert(conn, "mail", queue="news"))
        page.field("reason").send_keys("sent twice")
        page.click("Cancel 500 instances")
        page.shows("Cancel: 500 of 500 done")
        page.click("Look whether there are more")
        page.shows("1 instance fit", "Leave it")
        page.click("Leave it")
        page.shows("live", "runnable", "sent twice")
        assert page.troubles() == []
        page.driver.get(address + "/audit")
        page.shows("gd_cancel_many", "ada", "fsm mail")
        assert page.driver.find_element(By.CSS_SELECTOR, "tbody tr td:nth-child(7)").text == "500"
    assert gd.count(conn, {"status": "cancelled", "error": "sent twice"}).instances == 500
    assert gd.count(conn, {"id": [id or 0 for id in others], "status": "runnable"}).instances == 3
    calls = gd.audit(conn).calls
    assert sum(row.affected for row in calls) == 500
    for row in calls:
        assert (row.call, row.actor, row.what["reason"]) == ("gd_cancel_many", "ada", "sent twice")
        assert isinstance(row.what["filter"], dict)
        assert (row.what["filter"]["fsm"], row.what["filter"]["queue"]) == ("mail", "news")


@pytest.mark.parametrize("operate", [False, True], ids=["looks only", "operates"])
def test_a_role_without_rights_sees_no_buttons_and_is_refused(people: People, page: Chromium, operate: bool) -> None:
    database = people.database()
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(f"select gd_grant('{people.role('looks')}', 'reader')".encode())
        conn.execute(f"select gd_grant('{people.role('steers')}', 'operator')".encode())
        ids = filled(conn)
        rows = "select id, status, paused_at from gd_instances order by id"
        before = conn.execute(rows).fetchall(), len(gd.audit(conn).calls)
        # whose role may do all, where the dashboard was not started for that; and the other way round
        dsn = people.dsn(database, "looks" if operate else "steers")
        with serving(app(dsn, operate=operate, token=TOKEN)) as address:
            page.driver.get(address)
            page.field("token").send_keys(TOKEN, Keys.ENTER)
            page.shows("Overview", "live", "dashboard" if operate else "looks only")
            for path in (
                *("/", "/queue?name=slow", "/instances?fsm=order", f"/instances/{ids[0]}", f"/instances/{ids[1]}"),
                *("/machine?name=order", "/schedules", "/limits", "/worker?name=w1", "/pauses"),
            ):
                page.driver.get(address + path)
                page.shows("live")
                offered = page.driver.find_elements(
                    By.CSS_SELECTOR, "a[href*='/act/'], form[method=post]:not([action$='/logout'])"
                )
                assert [one.get_attribute("outerHTML") for one in offered] == [], path
            # nor may who knows the addresses, with the cookies and the proof of this browser
            proof = page.driver.find_element(By.NAME, "proof").get_attribute("value")
            sent = page.driver.execute_async_script(SEND, sorted(ACTS), ids[0], proof)
            assert {(answer, posted) for _, answer, posted in sent} == {(403, 403)}
            assert len(sent) == len(ACTS)
            page.driver.get(f"{address}/act/instance/retry?id={ids[0]}")
            page.shows("Not allowed", "has no right to do this" if operate else "only shows")
        assert (conn.execute(rows).fetchall(), len(gd.audit(conn).calls)) == before


# What a page of ours could do by script: load each action, and send it.
SEND = """
const [acts, id, proof, done] = arguments;
(async () => {
    const found = [];
    for (const [kind, verb] of acts) {
        const path = `/act/${kind}/${verb}?` + (kind === "many" ? "fsm=order" : `id=${id}&name=order`);
        const values = {proof, ids: String(id), name: "order", reason: "x", at: "now", start: "1", to: "1"};
        const body = new URLSearchParams(values);
        const shown = await fetch(path, {headers: {Accept: "text/html"}});
        const sent = await fetch(path, {method: "POST", body, redirect: "manual"});
        found.push([verb, shown.status, sent.status]);
    }
    done(found);
})().catch((error) => done(String(error)));
"""


def test_the_database_is_killed_and_the_page_goes_on_when_it_is_back(page: Chromium) -> None:
    server = find()[0]
    if server.cluster is None:
        server.close()
        pytest.skip("needs a server of its own to kill: GENDURABLE_TEST_SERVER=embedded or local")
    try:
        dsn = server.new_database()
        with psycopg.connect(dsn, autocommit=True) as conn:
            id = gd.insert(conn, "order", {"n": 1}, queue="a", delay=3600)
        with serving(app(dsn, operate=True, refresh=0.2, patience=2)) as address:
            page.driver.get(f"{address}/instances/{id}")
            page.shows("live", "runnable", "Pause")
            page.click("Pause")
            page.shows("It starts no further step")
            server.cluster.kill()
            # what is sent meanwhile is refused, and said
            page.click("Pause it")
            page.shows("The database does not answer", "comes back by itself")
            page.driver.get(f"{address}/instances/{id}")
            page.shows("The database does not answer")
            server.cluster.restart()
            # no hand is needed: the page loads itself again
            page.shows("live", "runnable", without="does not answer", timeout=60)

            # a page that was watched goes on where it was, without a load
            page.driver.execute_script("window.same = true")
            server.cluster.kill()
            page.shows("The database does not answer", "runnable")
            server.cluster.restart()
            with psycopg.connect(dsn, autocommit=True) as conn:
                gd.cancel(conn, id or 0, "while it was away")
            page.shows("live", "cancelled", "while it was away", without="does not answer", timeout=60)
            assert page.driver.execute_script("return window.same")
    finally:
        server.close()


def test_the_dashboard_itself_ends_and_comes_back(db: Database, conn: Conn, page: Chromium) -> None:
    gd.insert(conn, "order", queue="a")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*PROGRAM, "dashboard", "--port", str(port), "--refresh", "0.2s"],
            env=environment(db.dsn),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        assert "http://" in process.stderr.readline()
        return process

    process = start()
    try:
        page.driver.get(f"http://127.0.0.1:{port}/queues")
        page.shows("live")
        page.driver.execute_script("window.same = true")
        process.kill()
        process.wait()
        page.shows("The dashboard does not answer")
        gd.insert(conn, "order", queue="another")
        process = start()
        page.shows("live", "another", without="does not answer", timeout=60)
        assert page.driver.execute_script("return window.same")
    finally:
        process.kill()
        process.wait()
