"""The order of the files is the order of reading: SQL calls forward, Python imports downward, and files stay small."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FUNCTIONS = sorted((ROOT / "sql" / "functions").glob("*.sql"))
# A file that passes "about 400" has two subjects.
LONGEST = 400
# 000_base.sql, and what else may be needed by every stage.
BASE = "00"
# From the ground up: each imports from those before it. Modules that are not named here stand where they are needed.
ORDER = (
    "errors",
    "outcome",
    "context",
    "fsm",
    "calls",
    "_work",
    "_perform",
    "_threads",
    "_executor",
    "_committer",
    "_wakeup",
    "install",
    "engine",
    "testing",
    "cli",
)


def without_comments(text: str) -> str:
    return re.sub(r"--[^\n]*", "", text)


def definitions() -> dict[str, set[Path]]:
    found: dict[str, set[Path]] = {}
    # What a release knows of itself is written by the assembler, before all others.
    found["_api"] = found["_version"] = {ROOT / "sql" / "functions" / "000_base.sql"}
    for path in FUNCTIONS:
        text = without_comments(path.read_text())
        for name in re.findall(r"create or replace function (?:gendurable\.)?([a-z_0-9]+)\s*\(", text):
            found.setdefault(name, set()).add(path)
    return found


def calls(path: Path) -> set[str]:
    text = without_comments(path.read_text())
    # Not the places that define, describe or revoke.
    text = re.sub(r"(create or replace function|comment on function)\s+(gendurable\.)?\w+", "", text)
    return set(re.findall(r"gendurable\.(_[a-z_0-9]+)\s*\(", text))


@pytest.mark.parametrize("path", FUNCTIONS, ids=lambda path: path.name)
def test_a_function_calls_its_own_file_the_base_or_a_later_file(path: Path) -> None:
    where = definitions()
    backward = {
        f"{name} ({home.name})"
        for name in calls(path)
        for home in where.get(name, set())
        if not home.name.startswith(BASE) and home.name < path.name
    }
    assert not backward


@pytest.mark.parametrize("path", FUNCTIONS, ids=lambda path: path.name)
def test_every_called_helper_is_defined(path: Path) -> None:
    assert calls(path) <= set(definitions())


def test_a_helper_is_defined_in_one_file() -> None:
    assert {name: homes for name, homes in definitions().items() if len(homes) > 1} == {}


def test_every_helper_is_called() -> None:
    called = set().union(*(calls(path) for path in [*FUNCTIONS, ROOT / "tools" / "assemble.py"]))
    views = "".join(path.read_text() for path in (ROOT / "sql" / "schema").glob("*.sql"))
    unused = {name for name in definitions() if name.startswith("_") and name not in called and name not in views}
    assert not unused


@pytest.mark.parametrize("path", FUNCTIONS, ids=lambda path: path.name)
def test_function_files_only_create_or_replace(path: Path) -> None:
    # They run again in every upgrade.
    assert not re.findall(r"^create (?!or replace function)", path.read_text(), re.MULTILINE)


SOURCES = [path for folder in ("schema", "functions", "upgrades") for path in sorted((ROOT / "sql" / folder).glob("*"))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sql_means_the_same_whatever_the_encoding_and_the_settings(path: Path) -> None:
    # A server of another encoding refuses, or stores as something else, what is not ASCII. Bodies are read under the
    # caller's standard_conforming_strings, so a backslash stands in E'...' or not at all.
    text = path.read_bytes()
    assert [line for line in text.splitlines() if not line.isascii()] == []
    assert [
        line for line in without_comments(text.decode()).splitlines() if "\\" in re.sub(r"E'[^']*'", "", line)
    ] == []


def modules() -> list[Path]:
    return sorted((ROOT / "gendurable_py").rglob("*.py"))


def imports(path: Path) -> set[str]:
    """The modules of the package that a module imports when it is loaded, by their first name."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            if node.level == 1 and node.module:
                found.add(node.module.split(".")[0])
            elif node.level == 1 or node.module == "gendurable_py":
                found |= {alias.name for alias in node.names}
            elif node.module and node.module.startswith("gendurable_py."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("gendurable_py.")}
    return found & {module.stem for module in modules()}


@pytest.mark.parametrize("path", [path for path in modules() if path.stem in ORDER], ids=lambda path: path.name)
def test_python_imports_downward(path: Path) -> None:
    upward = imports(path) & set(ORDER[ORDER.index(path.stem) + 1 :])
    assert not upward


def test_python_imports_have_no_cycle() -> None:
    graph = {path.stem: imports(path) - {path.stem} for path in modules() if path.stem != "__init__"}
    done: set[str] = set()
    while ready := {name for name, needs in graph.items() if name not in done and needs - {"__init__"} <= done}:
        done |= ready
    assert set(graph) == done


@pytest.mark.parametrize(
    "path",
    [
        path
        for folder, pattern in (
            ("sql/schema", "*.sql"),
            ("sql/functions", "*.sql"),
            ("gendurable_py", "**/*.py"),
            ("tests_sql", "*.sql"),
            ("tests_py", "**/*.py"),
            ("tools", "*"),
            ("examples", "**/*.py"),
            ("bench", "**/*.py"),
        )
        for path in sorted((ROOT / folder).glob(pattern))
        if path.is_file()
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST
