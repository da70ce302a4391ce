"""In a real browser: find an order that is stuck, read why, retry it, see it finish; keys; a narrow screen.

Needs Chromium and its driver: apt-get install chromium chromium-driver.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from axe_core_python.selenium import Axe
from conftest import Database
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from support.cli import PROGRAM, commit_for, environment
from support.engine import running
from support.people import People
from support.proxy import Proxy
from support.server import find
from support.wait import wait_until
from support.web import serving

import gendurable_py as gd
from gendurable_py import FSM, Await, Context, Done, Engine, Next, calls, step
from gendurable_py.web import app
from gendurable_py.web.acts import ACTS

Conn = psycopg.Connection[Any]
TOKEN = "a long token, and secret"
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="no Chromium here: apt-get install chromium chromium-driver"
)


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


class Chromium:
    """A page, and what is on it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def text(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").text

    def shows(self, *texts: str, without: str = "", timeout: float = 30) -> None:
        try:
            wait_until(lambda: self._has(texts, without), timeout)
        except TimeoutError:
            raise AssertionError(f"{texts} (without {without!r}) are not to be seen:\n{self.text()}") from None

    def _has(self, texts: tuple[str, ...], without: str) -> bool:
        try:
            text = self.text()
        except Exception:  # noqa: BLE001 - the page changes under the driver
            return False
        return all(said in text for said in texts) and not (without and without in text)

    def click(self, word: str) -> None:
        """A link or a button, by its word."""
        found = [
            element
            for element in self.driver.find_elements(By.CSS_SELECTOR, "a, button")
            if element.text.strip() == word and element.is_displayed()
        ]
        assert found, f"no {word!r} on the page:\n{self.text()}"
        found[0].click()

    def press(self, *keys: str) -> None:
        self.driver.switch_to.active_element.send_keys(*keys)

    def field(self, name: str) -> WebElement:
        return self.driver.find_element(By.NAME, name)

    def troubles(self) -> list[str]:
        """What the browser has complained about: scripts that fail, what the policy refuses."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] == "SEVERE" and "favicon" not in entry["message"]
        ]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
    ):
        options.add_argument(argument)
    # not below the clone, which others may not read
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(DRIVER, log_output=subprocess.DEVNULL)
    made = webdriver.Chrome(options, service)
    yield made
    made.quit()


@pytest.fixture
def page(driver: webdriver.Chrome) -> Chromium:
    driver.set_window_size(1280, 900)
    driver.get("about:blank")
    driver.get_log("browser")
    return Chromium(driver)


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
            for path in ("/", "/queue?name=slow", "/instances?fsm=order", f"/instances/{ids[0]}", f"/instances/{ids[1]}",
                         "/machine?name=order", "/schedules", "/limits", "/worker?name=w1", "/pauses"):  # fmt: skip
                page.driver.get(address + path)
                page.shows("live")
                offered = page.driver.find_elements(By.CSS_SELECTOR, "a[href*='/act/'], form[method=post]:not([action$='/logout'])")
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
        const body = new URLSearchParams({proof, ids: String(id), name: "order", reason: "x", at: "now", start: "1", to: "1"});
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
            [*PROGRAM, "dashboard", "--port", str(port), "--refresh", "0.2s"], env=environment(db.dsn), stderr=subprocess.PIPE, text=True
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


def test_no_page_is_wider_than_a_phone(db: Database, conn: Conn, page: Chromium, tmp_path: Path) -> None:
    id = gd.insert(
        conn, "a machine with a long name " * 5, {"text": "x" * 500}, partition_key="k" * 300, queue="q" * 200
    )
    paths = ("/", "/queues", "/instances", f"/instances/{id}", "/failures", "/machines", "/limits", "/doctor", "/audit",
             f"/act/instance/edit?id={id}")  # fmt: skip
    with serving(app(db.dsn, operate=True)) as address:
        # narrower than a window may be
        size = {"width": 375, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        try:
            for path in paths:
                page.driver.get(address + path)
                wide = page.driver.execute_script("return document.documentElement.scrollWidth")
                assert wide <= 375, (path, wide)
        finally:
            page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_axe_finds_nothing_serious_on_any_page(db: Database, conn: Conn, page: Chromium) -> None:
    ids = filled(conn)
    with serving(app(db.dsn, operate=True, token=TOKEN)) as address:
        page.driver.get(address + "/login")
        found = {"/login": serious(page)}
        page.field("token").send_keys(TOKEN, Keys.ENTER)
        page.shows("Overview")
        for path in (
            *(
                "/",
                "/queues",
                "/queue?name=default",
                "/instances",
                "/instances?status=failed",
                "/failures",
                "/machines",
            ),
            *(f"/instances/{id}" for id in ids),
            *(f"/instances/{ids[0]}/history", "/machine?name=order", "/line?key=customer:1", "/schedules", "/limits"),
            *("/workers", "/worker?name=w1", "/pauses", "/doctor", "/audit", "/instances?status=what", "/nothing"),
            *(f"/act/instance/edit?id={ids[0]}", "/act/many/cancel?fsm=order", "/act/everything/hold"),
        ):
            # in the dark, the pages that between them have all colours
            dark = ("dark",) if path in ("/", f"/instances/{ids[0]}", "/doctor", "/machine?name=order") else ()
            for scheme in ("light", *dark):
                media = [{"name": "prefers-color-scheme", "value": scheme}]
                page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
                page.driver.get(address + path)
                found[f"{path} {scheme}"] = serious(page)
    assert {path: said for path, said in found.items() if said} == {}


def serious(page: Chromium) -> list[str]:
    """What axe says that is serious or worse, with the first place of each."""
    page.driver.execute_script("document.body.dataset.live = 'no'")
    results = Axe().run(page.driver)
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:200]} {one['nodes'][0]['failureSummary'][:200]}"
        for one in results["violations"]
        if one["impact"] in ("serious", "critical")
    ]


def filled(conn: Conn) -> list[int]:
    """Instances that have everything that can be shown."""
    options = {"history": "states", "steps": ["start", "pay", "end"]}
    gd.register(conn, "order", version=1, initial_step="start", queue="default", options=options)
    failed = gd.insert(conn, "order", {"card": {"no": 1, "valid": True, "of": None}}, partition_key="customer:1")
    commit_for(conn, failed, "next", step="pay")
    commit_for(conn, failed, "stop", reason="no card", traceback="Traceback:\n  pay.py\nKeyError")
    waits = gd.insert(conn, "order", {"n": 1}, partition_key="customer:1")
    commit_for(conn, waits, "await", signals=["paid"])
    gd.signal(conn, waits or 0, "payed", {"sum": 1})
    parent = gd.insert(conn, "order")
    commit_for(conn, parent, "schedule_childs", step="end", childs=[{"fsm": "order"}, {"fsm": "order"}])
    calls.set_rate_limit(conn, "mail", 1, 60)
    gd.insert(conn, "mail", rate_limit="mail", queue="slow")
    gd.schedule(conn, "nightly", "0 6 * * *", "mail")
    calls.pause_queue(conn, "slow")
    calls.hold_all(conn, "a restored copy")
    calls.hello(
        conn, "w1", {"queues": {"default": 4}, "machines": [["order", 1, ["start"]]], "host": "web-3", "pid": 7}
    )
    return [id for id in (failed, waits, parent) if id is not None]


SCREENS = Path(__file__).resolve().parents[2] / "docs" / "screens"


def test_the_screens_of_the_docs_can_be_taken(db: Database, conn: Conn, page: Chromium, tmp_path: Path) -> None:
    # GENDURABLE_SCREENS=1 writes those of the docs: a picture is another one with each font.
    folder = SCREENS if os.environ.get("GENDURABLE_SCREENS") else tmp_path
    folder.mkdir(exist_ok=True)
    ids = filled(conn)
    calls.release_hold(conn)
    told = [["order", step, outcome, 40 + 9 * n, 1.5] for n, (step, outcome) in enumerate(
        (("start", "next"), ("pay", "done"), ("pay", "await"), ("pay", "error"))
    )]  # fmt: skip
    calls.hello(conn, "w1", {"queues": {"default": 4}, "host": "web-3", "counters": {"no": 1, "rows": told}})
    with serving(app(db.dsn, operate=True, auth=lambda request: "ada")) as address:
        for name, path in (("overview", "/"), ("instance", f"/instances/{ids[0]}"), ("machine", "/machine?name=order")):
            for scheme, wide, tall in (("light", 1280, 900), ("dark", 1280, 900), ("light", 375, 800)):
                media = [{"name": "prefers-color-scheme", "value": scheme}]
                page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
                size = {"width": wide, "height": tall, "deviceScaleFactor": 1, "mobile": wide < 500}
                page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
                page.driver.get(address + path)
                page.shows("live")
                taken = folder / f"{name}-{'phone' if wide < 500 else scheme}.png"
                assert page.driver.save_screenshot(str(taken))
                assert taken.stat().st_size > 10_000
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
