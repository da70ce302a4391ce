"""How pages look: axe in light and dark, a narrow screen, pages without anything, the screens of the docs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Database
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from support.chromium import NEEDED, TOKEN, Chromium, filled, serious
from support.web import serving

import gendurable_py as gd
from gendurable_py import calls
from gendurable_py.web import app
from gendurable_py.web.acts import ACTS
from gendurable_py.web.application import _PAGES

Conn = psycopg.Connection[Any]
pytestmark = [NEEDED, pytest.mark.timeout(400)]


def all_pages(ids: list[int]) -> list[str]:
    """Every page with something on it, some of them without, every refusal, and the form of every action."""
    named = {"/queue": "default", "/machine": "order", "/bucket": "mail", "/worker": "w1"}
    pages = [
        path if path not in named else f"{path}?name={named[path]}"
        for path in _PAGES
        if "{id}" not in path and path != "/line"
    ]
    pages += [path.format(id=ids[0]) for path in _PAGES if "{id}" in path]
    pages += [f"/instances/{id}" for id in ids[1:]]
    pages += ["/line?key=customer:1", "/line", "/instances?status=failed", "/instances?fsm=nobody", "/queue?name=slow"]
    pages += ["/instances?status=what", "/nothing", "/instances/999999"]
    for kind, verb in ACTS:
        said = {"many": "fsm=order", "instance": f"id={ids[0]}", "worker": "name=w1", "limit": "name=mail"}
        pages.append(f"/act/{kind}/{verb}?" + said.get(kind, {"machine": "name=order"}.get(kind, "name=slow")))
    return pages


def shown_as(page: Chromium, scheme: str) -> None:
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})


def on_a_screen(page: Chromium, wide: int, tall: int) -> None:
    """Narrower than a window may be, where it is a phone."""
    size = {"width": wide, "height": tall, "deviceScaleFactor": 1, "mobile": wide < 500}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.fixture
def as_it_was(page: Chromium) -> Iterator[Chromium]:
    """A browser of which light and size are changed."""
    yield page
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    shown_as(page, "light")


def test_no_page_is_wider_than_a_phone(db: Database, conn: Conn, as_it_was: Chromium) -> None:
    page = as_it_was
    ids = filled(conn)
    long = gd.insert(
        conn, "a machine with a long name " * 5, {"text": "x" * 500}, partition_key="k" * 300, queue="q" * 200
    )
    wide = {}
    with serving(app(db.dsn, operate=True, token=TOKEN)) as address:
        on_a_screen(page, 375, 800)
        page.driver.get(address + "/login")
        wide["/login"] = page.driver.execute_script("return document.documentElement.scrollWidth")
        page.field("token").send_keys(TOKEN, Keys.ENTER)
        page.shows("Overview")
        for path in (*all_pages([*ids, long or 0]), f"/act/instance/edit?id={long}", "/queue?name=" + "q" * 200):
            page.driver.get(address + path)
            wide[path] = page.driver.execute_script("return document.documentElement.scrollWidth")
    assert {path: width for path, width in wide.items() if width > 375} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_page(db: Database, conn: Conn, as_it_was: Chromium, scheme: str) -> None:
    page = as_it_was
    ids = filled(conn)
    shown_as(page, scheme)
    with serving(app(db.dsn, operate=True, token=TOKEN)) as address:
        page.driver.get(address + "/login")
        found = {"/login": serious(page)}
        page.field("token").send_keys("not this one, and wrong", Keys.ENTER)
        page.shows("This is not the token")
        found["/login wrong"] = serious(page)
        page.field("token").send_keys(TOKEN, Keys.ENTER)
        page.shows("Overview")
        for path in all_pages(ids):
            page.driver.get(address + path)
            found[path] = serious(page)
        # what an action answers
        page.driver.get(address + "/act/many/cancel?fsm=order&status=awaiting_signal")
        page.click("Cancel 1 instance")
        page.shows("1 of 1 done")
        found["many"] = serious(page)
        gd.register(conn, "order", version=2, initial_step="start", queue="default")
        page.driver.get(address + "/act/machine/migrate?name=order")
        page.click("Go")
        page.shows("dry run")
        found["migrate"] = serious(page)
        page.driver.get(address)
        page.driver.find_element(By.TAG_NAME, "body").send_keys("?")
        page.shows("next, previous row")
        found["keys"] = serious(page)
    assert {path: said for path, said in found.items() if said} == {}
    assert len(found) > len(_PAGES) + len(ACTS)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_where_there_is_nothing(db: Database, as_it_was: Chromium, scheme: str) -> None:
    page = as_it_was
    shown_as(page, scheme)
    found = {}
    with serving(app(db.dsn, operate=True)) as address:
        for path in _PAGES:
            if "{id}" not in path and path not in ("/queue", "/machine", "/bucket", "/worker"):
                page.driver.get(address + path)
                found[path] = serious(page)
                if path != "/doctor":
                    [*said] = page.driver.find_elements(By.CSS_SELECTOR, ".empty")
                    assert said, path
                    assert all(len(one.text.split()) > 1 for one in said), path
    assert {path: said for path, said in found.items() if said} == {}


SCREENS = Path(__file__).resolve().parents[2] / "docs" / "screens"


def test_the_screens_of_the_docs_can_be_taken(db: Database, conn: Conn, as_it_was: Chromium, tmp_path: Path) -> None:
    page = as_it_was
    # GENDURABLE_SCREENS=1 writes those of the docs: a picture is another one with each font.
    folder = SCREENS if os.environ.get("GENDURABLE_SCREENS") else tmp_path
    folder.mkdir(exist_ok=True)
    ids = filled(conn)
    calls.release_hold(conn)
    told = [
        ["order", "start", "next", 214, 6.1, "pay"], ["order", "pay", "await", 31, 0.9],
        ["order", "pay", "error", 9, 4.2], ["order", "pay", "next", 170, 12.5, "end"],
        ["order", "end", "done", 165, 2.2],
    ]  # fmt: skip
    calls.hello(conn, "w1", {"queues": {"default": 4}, "host": "web-3", "counters": {"no": 1, "rows": told}})
    many = {"My orders": "fsm=order&status=open", "No card": "status=failed&error=no card"}
    with serving(app(db.dsn, operate=True, auth=lambda request: "ada", filters=many)) as address:
        for name, path in (
            ("overview", "/"),
            ("instance", f"/instances/{ids[0]}"),
            ("machine", "/machine?name=order"),
            ("instances", "/instances?fsm=order&status=open"),
            ("preview", "/act/many/cancel?fsm=order&status=open"),
        ):
            for look, scheme, wide, tall in (
                ("light", "light", 1280, 900), ("dark", "dark", 1280, 900), ("phone", "light", 375, 800),
                ("phone-dark", "dark", 375, 800),
            ):  # fmt: skip
                shown_as(page, scheme)
                on_a_screen(page, wide, tall)
                page.driver.get(address + path)
                page.shows("live" if name != "preview" else "fit now")
                taken = folder / f"{name}-{look}.png"
                assert page.driver.save_screenshot(str(taken))
                assert taken.stat().st_size > 10_000
    # those that the page shows are among them
    shown = set(re.findall(r"\(screens/([^)]+)\)", (SCREENS.parent / "dashboard.md").read_text("utf-8")))
    assert shown
    assert shown <= {path.name for path in folder.iterdir()}
