"""Python imports downward, from wing to wing as it may, and files stay small."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A file that passes "about 400" has two subjects.
LONGEST = 400
# The wings of the package, and what each may import besides itself. A wing is a folder, or the modules named here.
BASE_MODULES = ("_contract", "_listen", "_log", "_statement", "_trace", "errors")
MAY_IMPORT: dict[str, set[str]] = {
    "base": set(),
    "machine": {"base"},
    "flow": {"base", "machine"},
    "calls": {"base", "machine"},
    "telemetry": {"base", "machine"},
    "install": {"base"},
    "embedded": {"base", "install"},
    "dispatch": {"base", "machine", "flow", "calls", "telemetry", "install"},
    "engine": {"base", "machine", "telemetry", "install", "dispatch"},
    "contrib": {"base", "machine", "calls", "telemetry", "install", "cli", "flow", "web"},
    "testing": {"base", "machine", "flow", "calls", "dispatch", "embedded"},
    "web": {"base", "machine", "calls", "dispatch"},
    "cli": {"base", "machine", "calls", "telemetry", "install", "embedded", "engine", "prometheus", "web"},
    # what users may import by these names, and the door
    "context": {"machine"},
    "fsm": {"machine"},
    "outcome": {"machine"},
    "otel": {"telemetry"},
    "prometheus": {"telemetry"},
    "": {"machine", "flow", "calls", "install", "engine", "base"},
}
MOST_LEVELS = 8


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


def count_levels(names: set[str]) -> int:
    """How deep these modules import each other; fails where they do so in a circle."""
    needed = {name: IMPORTS[name] & names for name in names}
    done: set[str] = set()
    levels = 0
    while ready := {name for name, needs in needed.items() if name not in done and needs <= done}:
        levels += 1
        done |= ready
    assert done == names, "the others import each other in a circle"
    return levels


def test_python_imports_have_no_circle_and_few_levels() -> None:
    count_levels(set(IMPORTS))
    # The command line stands on top of all that, and nobody imports it but what joins the package to a framework; the
    # dashboard below it, and nobody else but these does.
    commands = {name for name in IMPORTS if wing(name) == "cli"}
    glue = {name for name in IMPORTS if wing(name) == "contrib"}
    pages = {name for name in IMPORTS if wing(name) == "web"}
    assert all(not IMPORTS[name] & commands for name in set(IMPORTS) - commands - glue)
    assert all(not IMPORTS[name] & glue for name in set(IMPORTS) - glue)
    assert all(not IMPORTS[name] & pages for name in set(IMPORTS) - commands - glue - pages)
    # So does the testing kit. Flows are a story of their own between machines and those who run them.
    kit = {name for name in IMPORTS if wing(name) == "testing"}
    flows = {name for name in IMPORTS if wing(name) == "flow"}
    assert all(not IMPORTS[name] & kit for name in set(IMPORTS) - kit)
    assert count_levels(set(IMPORTS) - commands - glue - pages - kit - flows) <= MOST_LEVELS
    assert count_levels(kit) <= MOST_LEVELS
    assert count_levels(flows) <= MOST_LEVELS
    assert count_levels(pages) <= MOST_LEVELS
    assert count_levels(commands) <= MOST_LEVELS
    assert count_levels(glue) <= MOST_LEVELS


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
    "gendurable_py.calls": "CLAIMED LEASE RETENTION cancel cancel_many childs claim claim_many close_rate_limit commit "
    "commit_one ensure_rate_limit find gc grant heartbeat hold_all insert insert_many maintain match pause_queue reap "
    "register release release_hold reschedule reschedule_many result resume_queue retry retry_many set_key_limit "
    "set_queue set_rate_limit signal signals sleep version wake watch when",
    "gendurable_py.context": "ClaimRow Context",
    "gendurable_py.embedded": "EmbeddedServer installation start",
    "gendurable_py.engine": "Engine OnEvent",
    "gendurable_py.errors": "ClaimLost GendurableError InvalidArgument UnknownInstance UnknownName VersionMismatch "
    "WrongIsolation from_sqlstate translate",
    "gendurable_py.flow": "ChildFailed FlowContext FlowError FlowFunction NonDeterministic Saga StepFailed current "
    "flow",
    "gendurable_py.fsm": "FSM Backoff Spec Step spec_of step step_name",
    "gendurable_py.install": "ensure extension_files install installed plain_script remove require_release uninstall "
    "upgrade version",
    "gendurable_py.outcome": "UNSET Await Cancel Child ChildResult Done MachineLike Next Outcome Replay Retry "
    "ScheduleChilds Signal Stop StepLike Unset describe",
    "gendurable_py.testing": "assert_awaiting assert_done assert_failed context crash_everywhere drain rehearse",
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
            ("sql/kernel", "*.sql"),
            ("sql/api", "*.sql"),
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
