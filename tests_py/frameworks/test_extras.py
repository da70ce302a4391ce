"""Without its library a module of the glue says what to install, and what needs no library goes without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A finder before all others, that finds nothing of a library.
WITHOUT = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {libraries!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Without())
import {module}
"""


def imported(module: str, *without: str) -> str:
    program = WITHOUT.format(libraries=without, module=module)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [
        ("sqlalchemy", "sqlalchemy", "sqlalchemy"),
        ("alembic", "alembic", "alembic"),
        ("alembic", "sqlalchemy", "sqlalchemy"),
        ("fastapi", "fastapi", "fastapi"),
        ("fastapi", "anyio", "fastapi"),
        ("pydantic_ai", "pydantic_ai", "pydantic-ai"),
    ],
)
def test_the_extra_is_named(module: str, library: str, extra: str) -> None:
    said = imported(f"gendurable_py.contrib.{module}", library)
    assert said.startswith("ModuleNotFoundError: No module named")
    assert said.endswith(f"pip install 'gendurable_py[{extra}]'")


def test_the_package_needs_none_of_them() -> None:
    modules = "gendurable_py, gendurable_py.cli, gendurable_py.testing, gendurable_py.contrib"
    assert imported(modules, "sqlalchemy", "alembic", "fastapi", "anyio", "flask", "greenlet", "pydantic_ai") == ""


def test_greenlet_comes_with_the_extra_and_is_named_without_it() -> None:
    assert "greenlet" in imported("gendurable_py.contrib.sqlalchemy", "greenlet")
    assert "sqlalchemy[asyncio]" in (ROOT / "pyproject.toml").read_text()
