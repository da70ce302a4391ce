"""A browser for the tests that ask for one. Chromium and selenium are only looked for by these."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from selenium import webdriver
    from support.chromium import Chromium


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    from selenium import webdriver
    from support.chromium import CHROMIUM, DRIVER

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
    from support.chromium import Chromium

    driver.set_window_size(1280, 900)
    driver.get("about:blank")
    driver.get_log("browser")
    return Chromium(driver)
