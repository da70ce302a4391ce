"""A flow that one Python has recorded goes on under another."""

from __future__ import annotations

import itertools
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support import flow_elsewhere
from support.engine import ended, field
from support.flows import changed_entries, watch_journals
from support.server import ROOT
from support.wait import wait_until

import gendurable_py as gd

PYTHONS = runpy.run_path(str(ROOT / "tools" / "pythons.py"))
MINORS: tuple[str, ...] = PYTHONS["MINORS"]
# What a worker needs.
PACKAGES = (*PYTHONS["project"]()["dependencies"], "psycopg[binary]")


@pytest.fixture(scope="module")
def pythons(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Those that are here, each with what a worker needs."""
    made: list[str] = []
    for minor in MINORS:
        try:
            program = PYTHONS["find"](minor)
        except PYTHONS["Unavailable"]:
            continue
        folder = tmp_path_factory.mktemp(f"python{minor}")
        subprocess.run([program, "-m", "venv", "--without-pip", folder], check=True)
        python = folder / "bin" / "python"
        install = ["uv", "pip", "install", "--quiet", "--python", str(python), *PACKAGES]
        done = subprocess.run(
            [sys.executable, "-m", *install], env=PYTHONS["_index"](), capture_output=True, check=False
        )
        if done.returncode == 0:
            made.append(str(python))
    if len(made) < 2:
        pytest.skip(f"two Pythons of {', '.join(MINORS)} are needed, with an index of packages: see tools/pythons.py")
    return made


@contextmanager
def serving(python: str, dsn: str) -> Iterator[None]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests_py'}"}
    with subprocess.Popen([python, "-m", "support.flow_elsewhere", dsn], env=environment) as process:
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.timeout(300)
def test_a_flow_goes_on_under_another_python(db: Any, conn: psycopg.Connection[Any], pythons: list[str]) -> None:
    watch_journals(conn)
    ids: list[int] = []
    orders = list(itertools.permutations(pythons, 2))
    for first, second in orders:
        [id] = [gd.insert(conn, "elsewhere")]
        assert id is not None
        ids.append(id)
        for turn, python in enumerate((first, second, first)):
            with serving(python, db.dsn):
                wait_until(lambda id=id: field(conn, id, "status") in ("awaiting_signal", "failed"), 30)
                assert field(conn, id, "status") == "awaiting_signal", field(conn, id, "last_error")
            gd.signal(conn, id, "go", turn)
    with serving(pythons[-1], db.dsn):
        results = ended(conn, *ids, timeout=60)
    assert changed_entries(conn) == []
    for result, order in zip(results, orders, strict=True):
        assert result.status == "done", result
        made: Any = result.result
        names = [Path(python).parent.parent.name for python in order]
        by = [row[0] for row in made]
        assert len(set(by)) == 2, (by, names)
        for row in made:
            draws, rest = row[1][:3], row[1][3:]
            assert len(set(map(str, draws))) == 3
            assert rest == [
                {"ü": 1e22, "a": [0.1, None]},
                [0, 1, 2],
                1,
                ["step 'fail' failed: LookupError: none"],
                "late",
                [0, 1, 2],
                [0, 1, 2],
            ]
    assert flow_elsewhere.ROUNDS == 3
