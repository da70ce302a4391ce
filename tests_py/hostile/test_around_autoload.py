"""Autoload imports machines, not programs: what a name out of the database can and cannot make a process do."""

from __future__ import annotations

import asyncio
import importlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.wait import wait_until

from gendurable_py.machine import registry
from gendurable_py.machine.registry import autoload, autoload_async, generation, lookup

MACHINE = """
from gendurable_py import FSM, Done, Job, job, step

class Base(FSM, abstract=True):
    @step
    def start(self, ctx):
        return Done()

class Late(Base):
    class Inner(Base):
        pass

class Plain:
    pass

@job
def cleanup(args):
    return 1

def helper(args):
    return 1
"""

Package = Callable[..., str]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Package]:
    """Writes modules into a package of its own; each run of a module leaves its name in ``sys.gd_runs``."""
    name = f"gd_auto_{abs(hash(request.node.nodeid))}"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "gd_runs", [], raising=False)

    def write(**modules: str) -> str:
        for module, text in {"__init__": "", **modules}.items():
            path = tmp_path / name / f"{module.replace('_DOT_', '/')}.py"
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text(f"import sys\nsys.gd_runs.append(__name__)\n{text}")
        importlib.invalidate_caches()
        return name

    yield write
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]


def runs() -> list[str]:
    found: list[str] = sys.gd_runs  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("qualname", ["Late", "Late.Inner", "cleanup"])
def test_what_the_source_defines_is_imported(package: Package, qualname: str) -> None:
    name = package(machines=MACHINE)
    before = generation()
    assert lookup(f"{name}.machines:{qualname}", 1) is None
    assert autoload(f"{name}.machines:{qualname}", [name])
    assert lookup(f"{name}.machines:{qualname}", 1) is not None
    assert generation() > before
    assert autoload(f"{name}.machines:{qualname}", [name]), "asked again, it is still known"


@pytest.mark.parametrize(
    "asked",
    [
        "{}.machines:Nothing", "{}.machines:Plain", "{}.machines:helper", "{}.machines:Inner", "{}.machines:",
        "{}.machines", "{}.machines:Late.Nothing", "{}.machines:Late:x", "{}.nothing:Late", "{}.machines.deeper:Late",
        "{}:Late", "{}.namespace:Late", "{}.namespace.inside.nothing:Late", "{}.bytecode:Late", "{}.no_syntax:Late",
        "{}.__main__:Late", "{}.conftest:Late", "{}.__init__:Late", "{}.sub.__main__:Late", "{}..machines:Late",
        "{}.machines\n:Late", "{}.mach\x00ines:Late", "os:system", "__main__:Late",
    ],
)  # fmt: skip
def test_what_it_does_not_define_runs_nothing_at_all(package: Package, tmp_path: Path, asked: str) -> None:
    name = package(
        machines=MACHINE, __main__=MACHINE, conftest=MACHINE, sub_DOT___init__="", sub_DOT___main__=MACHINE,
        no_syntax=f"def\n{MACHINE}", other=MACHINE,
    )  # fmt: skip
    (tmp_path / name / "namespace" / "inside").mkdir(parents=True)
    import py_compile

    py_compile.compile(str(tmp_path / name / "other.py"), str(tmp_path / name / "bytecode.pyc"))
    assert not autoload(asked.format(name), [name])
    assert runs() == []


def test_nothing_outside_of_the_named_packages_is_imported(package: Package) -> None:
    name = package(machines=MACHINE)
    for allowed in ([], [name[:-1]], [f"{name}.other"], [f"{name}.machines.x"]):
        assert not autoload(f"{name}.machines:Late", allowed)
    assert runs() == []
    assert autoload(f"{name}.machines:Late", [f"{name}.machines"])
    assert runs() == [name, f"{name}.machines"]


@pytest.mark.parametrize(
    "ending", ["sys.exit(2)", "raise KeyboardInterrupt", "raise BaseException('no')", "raise ImportError", "1 / 0"]
)
def test_a_module_that_ends_at_import_is_told_once_and_not_tried_again(
    package: Package, caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    name = package(ends=f"{MACHINE}\n{ending}\n".replace("from gendurable_py", f"{ending}\nfrom gendurable_py"))
    for _ in range(3):
        assert not autoload(f"{name}.ends:Late", [name])
    assert runs() == [name, f"{name}.ends"]
    assert len([r for r in caplog.records if f"{name}.ends" in r.getMessage()]) == 1


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    event = threading.Event()
    monkeypatch.setattr(sys, "gd_gate", event, raising=False)
    yield event
    event.set()
    wait_until(lambda: not registry._running)


def test_a_module_that_blocks_at_import_costs_its_deadline_and_no_more(package: Package, gate: threading.Event) -> None:
    name = package(blocks=f"sys.gd_gate.wait()\n{MACHINE}", machines=MACHINE)
    assert not autoload(f"{name}.blocks:Late", [name], 0.2)
    begun = time.monotonic()
    assert not autoload(f"{name}.blocks:cleanup", [name], 60), "its other names are not waited for"
    assert time.monotonic() - begun < 30
    assert autoload(f"{name}.machines:Late", [name]), "its neighbour is imported meanwhile"
    gate.set()
    wait_until(lambda: lookup(f"{name}.blocks:Late", 1) is not None)


def test_imports_that_hang_are_counted(package: Package, gate: threading.Event) -> None:
    modules = {f"blocks{n}": f"sys.gd_gate.wait()\n{MACHINE}" for n in range(12)}
    name = package(**modules)
    for module in modules:
        assert not autoload(f"{name}.{module}:Late", [name], 0.05)
    # the threads reach their modules in their own time, eight of them and no ninth
    wait_until(lambda: len(runs()) == 9)
    assert len([t for t in threading.enumerate() if t.name.startswith(f"gendurable import {name}")]) == 8


def test_a_loop_goes_on_while_a_module_blocks_and_ends_without_it(package: Package, gate: threading.Event) -> None:
    name = package(blocks=f"sys.gd_gate.wait()\n{MACHINE}", machines=MACHINE, exits="class X(int): pass\nsys.exit(1)\n")

    async def main() -> None:
        hanging = asyncio.create_task(autoload_async(f"{name}.blocks:Late", [name], 60))
        assert await autoload_async(f"{name}.machines:Late", [name], 60)
        assert not await autoload_async(f"{name}.exits:X", [name], 60)
        assert not hanging.done()
        hanging.cancel()

    asyncio.run(main())
    assert not asyncio.run(autoload_async(f"{name}.blocks:Late", [name], 60)), "under way, and not begun twice"


def test_a_handler_of_logging_that_raises_does_no_harm(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    name = package(ends=f"{MACHINE}\nsys.exit(1)\n")

    def refuse(*_: Any) -> None:
        raise RuntimeError("a broken handler")

    monkeypatch.setattr(registry.logger, "warning", refuse)
    assert not autoload(f"{name}.ends:Late", [name])
