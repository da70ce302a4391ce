"""Chromium, headless, at a dashboard; and a database that has something of everything for it to show."""

from __future__ import annotations

import shutil
from typing import Any

import psycopg
import pytest
from axe_core_python.selenium import Axe
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from support.cli import commit_for
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import calls

Conn = psycopg.Connection[Any]
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
NEEDED = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="no Chromium here: apt-get install chromium chromium-driver"
)
TOKEN = "a long token, and secret"


class Chromium:
    """A page, and what is on it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def text(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").text

    def shows(self, *texts: str, without: str = "", timeout: float = 90) -> None:
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
        """A link or a button, by its word, as soon as it is there."""
        try:
            wait_until(lambda: self._clicks(word), 90)
        except TimeoutError:
            raise AssertionError(f"no {word!r} on the page:\n{self.text()}") from None

    def _clicks(self, word: str) -> bool:
        for element in self.driver.find_elements(By.CSS_SELECTOR, "a, button"):
            try:
                if element.text.strip() == word and element.is_displayed():
                    element.click()
                    return True
            except WebDriverException:  # it belongs to the page before, which goes
                return False
        return False

    def press(self, *keys: str) -> None:
        self.driver.switch_to.active_element.send_keys(*keys)

    def field(self, name: str) -> WebElement:
        wait_until(lambda: bool(self.driver.find_elements(By.NAME, name)), 90)
        return self.driver.find_element(By.NAME, name)

    def troubles(self) -> list[str]:
        """What the browser has complained about: scripts that fail, what the policy refuses."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] == "SEVERE" and "favicon" not in entry["message"]
        ]


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
