"""The order of the files is the order of reading: SQL calls forward, Python imports downward, and files stay small."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FUNCTIONS = sorted((ROOT / "sql" / "functions").glob("*.sql"))
# A file that passes "about 400" has two subjects.
LONGEST = 400
# 000_base.sql, and what else may be needed by every stage.
BASE = "00"
# The wings of the package, and what each may import besides itself. A wing is a folder, or the modules named here.
BASE_MODULES = ("_contract", "_listen", "_log", "_statement", "_trace", "errors")
MAY_IMPORT: dict[str, set[str]] = {
    "base": set(),
    "machine": {"base"},
    "calls": {"base", "machine"},
    "telemetry": {"base", "machine"},
    "install": {"base"},
    "embedded": {"base", "install"},
    "dispatch": {"base", "machine", "calls", "telemetry", "install"},
    "engine": {"base", "machine", "telemetry", "install", "dispatch"},
    "testing": {"base", "machine", "calls", "dispatch", "embedded"},
    # what users may import by these names, and the door
    "context": {"machine"},
    "fsm": {"machine"},
    "outcome": {"machine"},
    "otel": {"telemetry"},
    "": {"machine", "calls", "install", "engine", "base"},
}
MOST_LEVELS = 8


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


PACKAGE = ROOT / "gendurable_py"


def module_name(path: Path) -> str:
    """Below the package: ``dispatch.work``, ``calls`` for its ``__init__``, and nothing for that of the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(name: str) -> set[str]:
    """The modules of the package that a module imports: when it is loaded, inside functions, or for its types alone."""
    path = MODULES[name]
    here = name.split(".") if name else []
    package = here if path.stem == "__init__" else here[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            absolute = [alias.name.split(".")[1:] for alias in node.names if alias.name.split(".")[0] == PACKAGE.name]
            found |= {".".join(parts) for parts in absolute}
        elif isinstance(node, ast.ImportFrom):
            below = node.module.split(".") if node.module else []
            if node.level == 0 and below[:1] != [PACKAGE.name]:
                continue
            start = below[1:] if node.level == 0 else [*package[: len(package) - node.level + 1], *below]
            for alias in node.names:
                whole = ".".join([*start, alias.name])
                found.add(whole if whole in MODULES else ".".join(start))
    assert found <= set(MODULES), name
    return found - {name}


IMPORTS = {name: imports(name) for name in MODULES}


def wing(name: str) -> str:
    return "base" if name in BASE_MODULES else name.partition(".")[0]


@pytest.mark.parametrize("name", MODULES, ids=lambda name: name or "gendurable_py")
def test_a_module_imports_from_the_wings_that_its_own_may_import(name: str) -> None:
    own = wing(name)
    assert {other for other in IMPORTS[name] if wing(other) not in MAY_IMPORT[own] | {own}} == set()


def test_python_imports_have_no_circle_and_few_levels() -> None:
    done: set[str] = set()
    levels = []
    while ready := {name for name, needs in IMPORTS.items() if name not in done and needs <= done}:
        levels.append(ready)
        done |= ready
    assert set(IMPORTS) == done, "the others import each other in a circle"
    assert len(levels) <= MOST_LEVELS


def test_wings_are_in_an_order() -> None:
    # To load a module its package is loaded first: two wings that needed each other would be a circle after all.
    done: set[str] = set()
    while ready := {name for name, needs in MAY_IMPORT.items() if name not in done and needs <= done}:
        done |= ready
    assert set(MAY_IMPORT) == done


@pytest.mark.parametrize("name", MODULES, ids=lambda name: name or "gendurable_py")
def test_a_module_says_what_it_owns(name: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[name].read_text()))


@pytest.mark.parametrize("name", MODULES, ids=lambda name: name or "gendurable_py")
def test_nothing_private_of_asyncio_is_used(name: str) -> None:
    # By its names, that is: a loop's own attributes change with each version of Python.
    assert re.findall(r"\b(?:asyncio|loop)\._\w+", MODULES[name].read_text()) == []


# What is written elsewhere, in code of users and in the documentation: the homes behind these names may move.
PUBLIC = {
    "gendurable_py.calls": "CLAIMED LEASE RETENTION cancel childs claim claim_many commit commit_one find gc grant "
    "heartbeat insert insert_many maintain pause_queue reap register release reschedule result resume_queue retry "
    "set_key_limit signal signals sleep version wake watch when",
    "gendurable_py.context": "ClaimRow Context",
    "gendurable_py.embedded": "EmbeddedServer installation start",
    "gendurable_py.engine": "Engine OnEvent",
    "gendurable_py.errors": "ClaimLost GendurableError InvalidArgument UnknownInstance UnknownName VersionMismatch "
    "WrongIsolation from_sqlstate translate",
    "gendurable_py.fsm": "FSM Backoff Spec Step spec_of step step_name",
    "gendurable_py.install": "extension_files install plain_script require_release uninstall upgrade version",
    "gendurable_py.outcome": "UNSET Await Cancel Child ChildResult Done MachineLike Next Outcome Replay Retry "
    "ScheduleChilds Signal Stop StepLike Unset describe",
    "gendurable_py.testing": "assert_awaiting assert_done assert_failed context drain",
}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_modules_keep_their_names(module: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in PUBLIC[module].split() if not hasattr(found, name)] == []


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
