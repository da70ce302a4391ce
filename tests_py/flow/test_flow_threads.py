"""Threads in flows: there are none, and what asks for one is told so, or called there and then."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio.to_thread
import psycopg
import pytest

import gendurable_py as gd
from gendurable_py.flow import FlowContext, FlowError, flow
from gendurable_py.flow.loop import FlowLoop, Inline
from gendurable_py.testing import assert_done, assert_failed, drain

Conn = psycopg.Connection[Any]
inline = Inline(max_workers=1)


def where(error: Exception | None = None) -> int:
    if error is not None:
        raise error
    return threading.get_ident()


def test_what_an_inline_executor_is_given_is_called_in_the_thread_of_the_flow() -> None:
    loop = FlowLoop(lambda timer: None, lambda timer: None)

    async def ask(*args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(inline, where, *args)

    called, failed = loop.create_task(ask()), loop.create_task(ask(ValueError("no")))
    loop.run(1000)
    assert called.result() == threading.get_ident()
    with pytest.raises(ValueError, match="no"):
        failed.result()
    assert inline.submit(where).result(10) != threading.get_ident()  # elsewhere it has threads


async def compute() -> int:
    return await asyncio.get_running_loop().run_in_executor(inline, where)


@flow(name="threads.flow")
async def threaded(ctx: FlowContext) -> list[bool]:
    here = await compute() == threading.get_ident()
    with pytest.raises(FlowError, match="run_in_executor in a flow"):
        await asyncio.to_thread(where)
    return [here, await ctx.step("compute", compute) != threading.get_ident()]


def test_a_step_of_the_same_code_has_a_thread(conn: Conn) -> None:
    id = gd.insert(conn, threaded)
    drain(conn, [threaded])
    assert assert_done(conn, id) == [True, True]


@flow(name="threads.foreign")
async def foreign(ctx: FlowContext) -> int:
    return await anyio.to_thread.run_sync(where)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_a_library_starts_by_itself_is_named(conn: Conn) -> None:
    id = gd.insert(conn, foreign)
    drain(conn, [foreign])
    assert_failed(conn, id, "what another thread would bring belongs into a step")
