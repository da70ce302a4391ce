"""In a real browser: find an order that is stuck, read why, retry it, see it finish; keys; what stays while it changes.

Needs Chromium and its driver: apt-get install chromium chromium-driver.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from conftest import Database
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from support.chromium import NEEDED, TOKEN, Chromium
from support.engine import running
from support.proxy import Proxy
from support.wait import wait_until
from support.web import serving

import gendurable_py as gd
from gendurable_py import FSM, Await, Context, Done, Engine, Next, step
from gendurable_py.web import app

Conn = psycopg.Connection[Any]
pytestmark = [NEEDED, pytest.mark.timeout(400)]


class Order(FSM, name="browser.order", queue="orders", history="steps"):
    """An order that fails without an address and waits for a payment."""

    @step
    def start(self, ctx: Context[dict]) -> Next:
        if not ctx.state.get("address"):
            raise ValueError(f"order {ctx.state['n']} has no address")
        return Next("pay", ctx.state)

    @step
    def pay(self, ctx: Context[dict]) -> Done | Await:
        return Done({"paid": True}) if ctx.signal("paid") else Await("paid", ctx.state)


def test_a_stuck_order_is_found_understood_retried_and_seen_to_finish(db: Database, conn: Conn, page: Chromium) -> None:
    engine = Engine(db.dsn, [Order], {"orders": 4}, poll_interval=0.1)
    with running(engine), serving(app(db.dsn, operate=True, token=TOKEN, refresh=0.2)) as address:
        ids = [gd.insert(conn, Order, {"n": n, "address": "here" if n != 3 else ""}) for n in range(5)]
        stuck = ids[3]
        wait_until(lambda: gd.get(conn, stuck or 0)["status"] == "failed")  # type: ignore[index]

        page.driver.get(address)
        page.shows("Who are you?")
        page.field("name").send_keys("ada")
        page.field("token").send_keys(TOKEN, Keys.ENTER)
        page.shows("Overview", "live", "order # has no address")
        page.click(str(stuck))
        page.shows('It has ended as "failed"', "order 3 has no address", "ValueError", "start")

        page.click("Retry")
        page.shows(f"Retry browser.order {stuck}", "It runs again")
        page.field("state").send_keys('{"n": 3, "address": "there"}')
        page.click("Run it again")
        page.shows("Done: retry.", "It awaits", "awaiting signal", "live")

        # no load of a page in between: it changes while one looks
        gd.signal(conn, stuck or 0, "paid")
        page.shows('It has ended as "done"', "paid true", without="awaiting signal")
        assert page.troubles() == []
    [call] = [row for row in gd.audit(conn).calls if row.call == "gd_retry"]
    assert (call.id, call.actor) == (stuck, "ada")


def test_the_page_says_when_the_server_is_away_and_goes_on(db: Database, conn: Conn, page: Chromium) -> None:
    gd.insert(conn, "order", queue="a")
    with Proxy(db.dsn) as proxy, serving(app(proxy.dsn, refresh=0.2, patience=1)) as address:
        page.driver.get(address + "/queues")
        page.shows("live")
        proxy.refusing = True
        proxy.cut()
        page.shows("The database does not answer")
        gd.insert(conn, "order", queue="another")
        proxy.refusing = False
        page.shows("live", "another", without="does not answer")


def test_all_but_the_live_parts_works_without_scripts(db: Database, conn: Conn, page: Chromium) -> None:
    id = gd.insert(conn, "order", {"n": 1}, delay=3600)
    page.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        with serving(app(db.dsn, operate=True, token=TOKEN)) as address:
            page.driver.get(address)
            page.field("name").send_keys("ada")
            page.field("token").send_keys(TOKEN, Keys.ENTER)
            page.shows("Overview", without="live")
            page.field("q").send_keys(str(id), Keys.ENTER)
            page.shows(f"order {id}", "runnable", "n 1", "ago")
            page.click("Pause")
            page.click("Pause it")
            page.shows("Done: pause.", "paused")
            page.click("Instances")
            page.field("fsm").send_keys("order", Keys.ENTER)
            page.click("Cancel these…")
            page.shows("1 instance fit")
            page.click("Cancel 1 instance")
            page.shows("1 of 1 done")
            page.click("Leave")
            page.shows("Who are you?")
    finally:
        page.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert gd.count(conn, {"status": "cancelled"}).instances == 1


def test_focus_and_what_was_opened_stay_while_the_page_changes(db: Database, conn: Conn, page: Chromium) -> None:
    id = gd.insert(conn, "order", {"deep": {"a": {"b": {"c": {"d": 1}}}}}, delay=3600)
    with serving(app(db.dsn, refresh=0.1)) as address:
        page.driver.get(f"{address}/instances/{id}")
        page.shows("live")
        closed = next(
            one for one in page.driver.find_elements(By.CSS_SELECTOR, "details.twig") if not one.get_property("open")
        )
        closed.find_element(By.TAG_NAME, "summary").click()
        link = page.driver.find_element(By.LINK_TEXT, "Raw JSON")
        page.driver.execute_script("arguments[0].focus()", link)
        gd.reschedule(conn, id or 0, datetime(2100, 1, 1, tzinfo=UTC))
        gd.pause(conn, id or 0)
        page.shows("paused")
        assert closed.get_property("open")
        assert page.driver.switch_to.active_element == link
        page.driver.find_element(By.ID, "find").send_keys("nothing like it")
        assert not page.driver.find_element(By.CSS_SELECTOR, "details.twig li").is_displayed()


def test_keys_search_and_walk_through_rows(db: Database, conn: Conn, page: Chromium) -> None:
    ids = [gd.insert(conn, "order", queue="a") for _ in range(3)]
    with serving(app(db.dsn)) as address:
        page.driver.get(address + "/instances")
        page.shows("live")
        body = page.driver.find_element(By.TAG_NAME, "body")
        body.send_keys("j")
        page.press("j")
        assert page.driver.switch_to.active_element.text == str(ids[1])
        page.press("k")
        assert page.driver.switch_to.active_element.text == str(ids[2])
        page.press(Keys.ENTER)
        page.shows(f"order {ids[2]}")
        page.driver.find_element(By.TAG_NAME, "body").send_keys("?")
        page.shows("next, previous row")
        page.press(Keys.ESCAPE)
        page.driver.find_element(By.TAG_NAME, "body").send_keys("/")
        page.press("order", Keys.ENTER)
        page.shows("Instances")
        assert page.driver.current_url.endswith("/instances?fsm=order")
        page.driver.find_element(By.TAG_NAME, "body").send_keys("g", "q")
        page.shows("Queues")
        assert page.troubles() == []


def test_keys_reach_every_page_and_do_nothing_in_a_field(db: Database, conn: Conn, page: Chromium) -> None:
    with serving(app(db.dsn)) as address:
        page.driver.get(address + "/audit")
        for key, path in (("o", "/"), ("q", "/queues"), ("i", "/instances"), ("f", "/failures"), ("m", "/machines"),
                          ("w", "/workers")):  # fmt: skip
            page.driver.find_element(By.TAG_NAME, "body").send_keys("g", key)
            wait_until(lambda path=path: page.driver.current_url == address + path, 10)  # type: ignore[misc]
            page.shows("live")
        # where there are no rows, j and k are no mistake
        page.driver.find_element(By.TAG_NAME, "body").send_keys("j", "k")
        page.driver.find_element(By.TAG_NAME, "body").send_keys("/")
        page.press("gq?jk/")
        assert page.field("q").get_property("value") == "gq?jk/"
        assert not page.driver.find_element(By.ID, "keys").is_displayed()
        page.press(Keys.ESCAPE)
        page.press("?")
        page.shows("next, previous row")
        # the dialog has the focus, and gives it back
        assert page.driver.execute_script("return document.getElementById('keys').contains(document.activeElement)")
        page.press(Keys.ESCAPE)
        assert not page.driver.find_element(By.ID, "keys").is_displayed()
        assert page.troubles() == []


ORDER = """
const seen = [];
const reached = "a[href], button, input:not([type=hidden]), textarea, summary, [tabindex='0']";
for (const one of document.querySelectorAll(reached)) {
    if (one.checkVisibility()) seen.push(one);
}
return [seen.length, seen.every((one) => one.tabIndex === 0)];
"""


def test_the_focus_goes_through_a_page_as_it_is_read(db: Database, conn: Conn, page: Chromium) -> None:
    id = gd.insert(conn, "order", {"a": {"b": 1}}, delay=3600)
    with serving(app(db.dsn, operate=True)) as address:
        for path in ("/", "/instances?fsm=order", f"/instances/{id}", f"/act/instance/edit?id={id}"):
            page.driver.get(address + path)
            # nothing takes part in an order of its own
            count, plain = page.driver.execute_script(ORDER)
            assert plain, path
            page.press(Keys.TAB)
            assert page.driver.switch_to.active_element.text == "To the content"
            met, box = [], page.driver.switch_to.active_element
            for _ in range(count - 1):
                page.press(Keys.TAB)
                box = page.driver.switch_to.active_element
                met.append(box)
                # one sees where it is
                assert page.driver.execute_script(
                    "return getComputedStyle(arguments[0]).outlineStyle !== 'none' && arguments[0].checkVisibility()",
                    box,
                ), (path, box.get_attribute("outerHTML"))
            placed = page.driver.execute_script(
                "return arguments[0].every((one, place, all) => place === 0 ||"
                " Boolean(all[place - 1].compareDocumentPosition(one) & Node.DOCUMENT_POSITION_FOLLOWING))",
                met,
            )
            assert placed, path
            # the search, the pages, the content
            assert met[0].text or met[0].get_attribute("class") == "site"
            assert met[1].get_attribute("id") == "q"
        # past all that stands on every page
        page.driver.get(f"{address}/instances/{id}")
        page.press(Keys.TAB, Keys.ENTER)
        page.press(Keys.TAB)
        assert page.driver.execute_script("return document.getElementById('main').contains(document.activeElement)")


SHIFTS = """
window.shifted = [];
// a number that has grown begins further to the left: that is itself, and not a box beside it
const moved = (one) => one.sources.filter(({node}) => node && node.nodeType === 1).map(({node}) => node.outerHTML);
new PerformanceObserver((list) => { for (const one of list.getEntries()) window.shifted.push(...moved(one)); })
    .observe({type: "layout-shift", buffered: false});
"""


def test_nothing_moves_when_numbers_change_or_the_database_goes_away(db: Database, conn: Conn, page: Chromium) -> None:
    gd.insert(conn, "order", queue="a")
    with Proxy(db.dsn) as proxy, serving(app(proxy.dsn, refresh=0.2, patience=1)) as address:
        for path, shows in (("/", "1,235"), ("/queues", "2,469")):
            page.driver.get(address + path)
            page.shows("live")
            page.driver.execute_script(SHIFTS)
            gd.insert_many(conn, [{"fsm": "order", "queue": "a", "priority": 1}] * 1234)
            page.shows(shows)
            proxy.refusing = True
            proxy.cut()
            page.shows("The database does not answer")
            proxy.refusing = False
            page.shows("live", without="does not answer")
            assert page.driver.execute_script("return window.shifted") == [], path
