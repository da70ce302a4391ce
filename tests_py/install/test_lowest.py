"""The lower bounds of pyproject.toml are named, and true: a quick choice of tests runs with the lowest versions."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from support.server import ROOT

sys.path.insert(0, str(ROOT / "tools"))
try:
    TOOL: dict[str, Any] = runpy.run_path(str(ROOT / "tools" / "lowest.py"))
finally:
    sys.path.pop(0)

UNREACHABLE = 3


def test_everything_has_a_lower_bound_and_nothing_an_upper_one() -> None:
    texts: list[str] = TOOL["_requirements"]()
    assert texts
    for text in texts:
        assert [one.operator for one in Requirement(text).specifier] == [">="], text


def test_the_quick_choice_meets_every_dependency() -> None:
    chosen: list[str] = TOOL["chosen"]()
    files = {name.split("::")[0] for name in chosen}
    assert all((ROOT / name).is_file() for name in files)
    read = "".join((ROOT / name).read_text("utf-8") for name in files)
    for library in ("psycopg", "pydantic", "django", "sqlalchemy", "opentelemetry", "cli", "embedded"):
        assert library in read, library


@pytest.mark.timeout(600)
def test_the_lower_bounds_are_true(tmp_path: Path) -> None:
    # A server that these tests were given is not meant for another run beside this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GENDURABLE_TEST_")}
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "lowest.py", "--folder", tmp_path / "lowest"],
        cwd=ROOT,
        env=environment | {"GENDURABLE_TEST_SERVER": "embedded"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=580,
    )
    if done.returncode == UNREACHABLE:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout and " skipped" not in done.stdout, done.stdout
