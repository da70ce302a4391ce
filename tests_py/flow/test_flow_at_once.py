"""Steps that begin here and now: they have a task as asyncio expects it, and share it if they wait for nothing."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

from gendurable_py.dispatch.at_once import AtOnce

variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

Begin = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None] | None"]


def in_callback(use: Callable[[Begin], None], then: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
    """Call it with `begin` of a loop, where no task runs, and let the loop turn a few times."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        called: asyncio.Future[None] = loop.create_future()

        def callback() -> None:
            at_once = AtOnce(loop, contextvars.Context())
            try:
                use(lambda coro: at_once.begin(coro, contextvars.copy_context()))
            except BaseException as error:  # noqa: BLE001 - it is for the test
                called.set_exception(error)
            else:
                called.set_result(None)

        loop.call_soon(callback)
        await called
        for _ in range(10):
            await asyncio.sleep(0)
        if then is not None:
            await then()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_what_waits_for_nothing_shares_a_task() -> None:
    seen: list[str] = []

    async def one() -> None:
        task = asyncio.current_task()
        assert task is not None
        async with asyncio.timeout(5), asyncio.Lock():
            seen.append(task.get_name())
        variable.set(variable.get() + 1)
        assert variable.get() == 1

    def use(begin: Begin) -> None:
        assert [begin(one()) for _ in range(100)] == [None] * 100
        assert asyncio.current_task() is None

    in_callback(use)
    assert len(seen) == 100
    assert len(set(seen)) == 1


def test_what_waits_goes_on_in_the_task_that_it_saw() -> None:
    ended: list[asyncio.Task[Any] | None] = []
    gone_on: list[asyncio.Task[Any] | None] = []

    async def waits() -> None:
        first = asyncio.current_task()
        variable.set(7)
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await asyncio.sleep(0.001)
        assert variable.get() == 7
        assert asyncio.current_task() is first
        ended.append(first)

    def use(begin: Begin) -> None:
        gone_on.extend([begin(waits()), begin(waits())])

    async def then() -> None:
        await asyncio.sleep(0.05)

    in_callback(use, then)
    assert None not in gone_on
    assert len(set(gone_on)) == 2
    assert set(ended) == set(gone_on)


def test_what_leaves_something_at_its_task_is_the_last_of_it() -> None:
    kept: list[Any] = []
    names: list[str] = []
    called: list[str] = []

    async def keeps() -> None:
        kept.append(asyncio.current_task())

    async def hangs() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: called.append("ended"))

    async def cancels() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async def looks() -> None:
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()
        names.append(task.get_name())

    def use(begin: Begin) -> None:
        for one in (keeps, hangs, cancels):
            begin(looks())
            assert begin(one()) is None
        begin(looks())

    in_callback(use)
    assert len(set(names)) == 4
    assert called == ["ended"]


def test_a_cancellation_before_the_first_turn_reaches_what_is_awaited() -> None:
    said: list[str] = []

    async def inner() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            said.append("inner")
            raise

    async def outer() -> None:
        task = asyncio.get_running_loop().create_task(inner())
        try:
            await task
        except asyncio.CancelledError:
            said.append("outer")
            assert task.cancelled() or task.done()
            raise

    async def yields() -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            said.append("yields")
            raise

    begun: list[asyncio.Task[None]] = []

    def use(begin: Begin) -> None:
        for one in (outer(), yields()):
            task = begin(one)
            assert task is not None
            begun.append(task)
            task.cancel()

    in_callback(use)
    assert all(task.cancelled() for task in begun)
    assert sorted(said) == ["outer", "yields"]  # the inner one had not begun


def test_an_error_is_that_of_its_task() -> None:
    begun: list[asyncio.Task[None] | None] = []

    async def fails() -> None:
        raise ValueError("no")

    def use(begin: Begin) -> None:
        begun.append(begin(fails()))

    in_callback(use)
    [task] = begun
    assert task is not None
    assert isinstance(task.exception(), ValueError)


def test_what_was_done_to_a_task_does_not_reach_the_next() -> None:
    names: list[str] = []
    said: list[str] = []

    async def takes_back() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        task.uncancel()

    async def renames() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name("mine")

    async def waits() -> None:
        task = asyncio.current_task()
        assert task is not None
        names.append(task.get_name())
        await asyncio.sleep(0)
        said.append("went on")

    def use(begin: Begin) -> None:
        for one in (takes_back, renames):
            assert begin(one()) is None
            assert begin(waits()) is not None

    in_callback(use)
    assert said == ["went on", "went on"]
    assert "mine" not in names


def test_a_cancellation_comes_too_late_for_what_has_failed() -> None:
    begun: list[asyncio.Task[None]] = []

    async def fails() -> None:
        raise ValueError("no")

    def use(begin: Begin) -> None:
        task = begin(fails())
        assert task is not None
        begun.append(task)
        task.cancel()

    in_callback(use)
    assert isinstance(begun[0].exception(), ValueError)


def test_what_has_failed_needs_no_collector() -> None:
    class Failed(Exception):
        pass

    kept: list[weakref.ref[BaseException]] = []

    async def fails() -> None:
        error = Failed("no")
        kept.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    def use(begin: Begin) -> None:
        task = begin(fails())
        assert task is not None
        task.add_done_callback(lambda ended: ended.exception() and None)
        del task

    collects = gc.isenabled()
    gc.disable()
    try:
        in_callback(use)
        assert [one() for one in kept] == [None]
    finally:
        if collects:
            gc.enable()


def test_a_task_shows_the_coroutine_that_goes_on_in_it() -> None:
    states: list[str] = []
    shown: list[str] = []

    async def waits() -> None:
        await asyncio.sleep(0)

    def use(begin: Begin) -> None:
        task = begin(waits())
        assert task is not None
        coro: Any = task.get_coro()
        states.append(inspect.getcoroutinestate(coro))
        shown.append(repr(task))

    in_callback(use)
    assert states == [inspect.CORO_SUSPENDED]
    assert "waits()" in shown[0]
