"""Python imports downward, and files stay small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# A file that passes "about 400" has two subjects.
LONGEST = 400
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
