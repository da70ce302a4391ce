"""What type checkers say to users of flows: what a step gives back, its arguments, and how flows are put in."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# ``# E:`` what mypy says there; pyright has to find something wrong in the same lines.
PROGRAM = """
from __future__ import annotations

import asyncio
import functools
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type
from uuid import UUID

from psycopg import AsyncConnection, Connection
from pydantic import BaseModel, JsonValue

import gendurable_py as gd
from gendurable_py import (
    Cancel,
    Child,
    ChildFailed,
    ChildResult,
    Engine,
    FlowContext,
    FlowError,
    NonDeterministic,
    Signal,
    StepFailed,
    flow,
    job,
)
from gendurable_py.flow import Saga, current


class Order(BaseModel):
    number: int


class Receipt(BaseModel):
    cents: int


@job
async def mail(args: Order) -> None: ...


async def charge(order: Order, *, cents: int = 0) -> Receipt:
    return Receipt(cents=cents)


def label(order: Order, copies: int) -> list[str]:
    return [str(order.number)] * copies


def release(receipt: Receipt) -> None: ...


async def debit(conn: AsyncConnection, order: Order) -> int:
    return order.number


def credit(conn: Connection, order: Order, cents: int) -> list[int]:
    return [cents]


class Office:
    async def book(self, what: str) -> int:
        return len(what)


@flow(name="checkout", version=1, queue="checkout", max_attempts=5)
async def checkout(ctx: FlowContext, order: Order) -> Receipt:
    paid = await ctx.step("charge", charge, order, cents=5)
    assert_type(paid, Receipt)
    assert_type(await ctx.step("label", label, order, 2), list[str])
    assert_type(await ctx.step("book", Office().book, "a"), int)
    assert_type(await ctx.step("undo", release, paid), None)
    assert_type(await ctx.step("part", functools.partial(charge, order)), Receipt)
    both = await asyncio.gather(ctx.step("charge", charge, order), ctx.step("label", label, order, copies=1))
    assert_type(both, tuple[Receipt, list[str]])
    patient = ctx.using(max_attempts=3, delay=timedelta(seconds=1), never=KeyError)
    assert_type(await patient.step("label", label, order, 1), list[str])
    assert_type(await asyncio.gather(patient.step("a", charge, order), ctx.signal("a")), tuple[Receipt, Signal])
    async with asyncio.TaskGroup() as group:
        assert_type(group.create_task(ctx.step("b", charge, order)), asyncio.Task[Receipt])
    assert_type(await ctx.transaction("debit", debit, order), int)
    assert_type(await ctx.transaction("credit", credit, order, cents=3), list[int])
    moved = await asyncio.gather(ctx.transaction("d", debit, order), ctx.transaction("c", credit, order, 3))
    assert_type(moved, tuple[int, list[int]])
    assert_type(await ctx.signal("a"), Signal)
    assert_type(await ctx.signal("a", timeout=None), Signal)
    assert_type(await ctx.signal("a", timeout=5), Signal | None)
    assert_type(await ctx.signal("a", timeout=timedelta(days=1)), Signal | None)
    children = [Child(mail, order), Child("else", {"a": 1}, delay=5), Child(part)]
    assert_type(await ctx.childs([*children, mail, part], name="all"), list[ChildResult])
    assert_type(await ctx.child(mail, order, priority=3), JsonValue)
    assert_type(await ctx.child(part), JsonValue)
    assert_type(await part(ctx), int)
    assert_type(await rest(ctx, order), Receipt)
    assert_type(ctx.now(), datetime)
    assert_type(ctx.uuid(), UUID)
    assert_type(ctx.random.random(), float)
    assert_type(ctx.idempotency_key("a"), str)
    assert_type(ctx.patched("a"), bool)
    await ctx.sleep(timedelta(days=1))
    await ctx.sleep_until(datetime.now(UTC), name="until")
    async with ctx.saga() as saga:
        assert_type(saga, Saga)
        saga.undo("release", release, paid)
        saga.undo("charge", charge, order, cents=3)
        saga.undo("release", release, order)  # E: expected "Receipt"
        saga.undo("release", release)  # E: Missing positional
    try:
        await ctx.step("label", label, order, 2)
    except StepFailed as failed:
        assert_type(failed.name, str)
        assert_type(failed.is_a(ConnectionError), bool)
        raise Cancel("no") from failed
    except ChildFailed as failed_child:
        assert_type(failed_child.status, str)
    except NonDeterministic as error:
        wide: FlowError = error
        raise wide
    await ctx.step("charge", charge)  # E: No overload
    await ctx.step("charge", charge, "order")  # E: No overload
    await ctx.step("charge", charge, order, dents=5)  # E: Unexpected keyword
    await ctx.step("label", label, order, "2")  # E: No overload
    await ctx.transaction("debit", debit)  # E: No overload
    await ctx.transaction("credit", credit, order, "3")  # E: No overload
    await ctx.step(charge, order)  # E: No overload
    await ctx.signal()  # E: at least one argument
    await ctx.using(max_attempt=3).step("label", label, order, 1)  # E: Unexpected keyword
    await ctx.childs([5])  # E: incompatible type "int"
    await ctx.child(5)  # E: incompatible type "int"
    ctx.step("charge", charge, order)  # E: must be used
    wrong: int = await ctx.step("charge", charge, order)  # E: No overload
    await rest(ctx, "order")  # E: expected "Order"
    await rest(order)  # E: Missing positional|expected "FlowContext"
    if ctx.replaying:
        ctx.restart(order)
        print("never")
    return paid


@flow
async def part(ctx: FlowContext) -> int:
    assert_type(current(), FlowContext)
    return 5


@flow()
async def rest(ctx: FlowContext, order: Order) -> Receipt:
    return Receipt(cents=0)


@flow  # E: incompatible type
def no_async(ctx: FlowContext) -> int:
    return 1


@flow  # E: incompatible type
async def no_context(order: Order) -> int:
    return 1


engine = Engine("dsn", machines=[checkout, part, mail], queues={"checkout": 5})


def sync(conn: Connection) -> None:
    assert_type(gd.insert(conn, checkout, Order(number=1), unique_key="a"), int | None)
    gd.insert_many(conn, [Child(checkout, Order(number=1))])
    gd.insert(conn, sync)  # E: No overload


async def outside(conn: AsyncConnection) -> None:
    assert_type(await gd.insert(conn, checkout, Order(number=1)), int | None)


def in_tests() -> Coroutine[Any, Any, Receipt]:
    ctx: FlowContext = current()
    return checkout(ctx, Order(number=1))
"""
WANTED = {number: line.partition("# E: ")[2] for number, line in enumerate(PROGRAM.splitlines(), 1) if "# E: " in line}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard", "include": ["program.py"]}')
    return tmp_path


def ask(command: list[str], place: Path) -> str:
    done = subprocess.run(
        command,
        cwd=place,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(Path.home())},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_what_mypy_says_of_flows(place: Path) -> None:
    # Without the settings of this project, which are no user's.
    options = ["--strict", "--config-file", "", "--cache-dir", str(place)]
    said = ask([sys.executable, "-m", "mypy", *options, "program.py"], place)
    found: dict[int, str] = {}
    for line, message in re.findall(r"^program\.py:(\d+): error: (.*)$", said, re.MULTILINE):
        found[int(line)] = found.get(int(line), "") + message
    assert set(found) == set(WANTED), said
    assert [said for number, said in found.items() if not re.search(WANTED[number], said)] == []


def find_pyright() -> list[str]:
    if importlib.util.find_spec("pyright") is not None:
        return [sys.executable, "-m", "pyright"]
    program = shutil.which("pyright")
    if program is None:
        pytest.skip("needs pyright: npm install -g pyright, or pip install pyright")
    return [program]


@pytest.mark.timeout(300)
def test_what_pyright_says_of_flows(place: Path) -> None:
    said = ask([*find_pyright(), "--pythonpath", sys.executable, "--outputjson"], place)
    told = json.loads(said[said.index("{") :])["generalDiagnostics"]
    assert {one["range"]["start"]["line"] + 1 for one in told if one["severity"] == "error"} == set(WANTED), said
