"""Calls that show what was kept of an instance, and the text of tracebacks."""

from __future__ import annotations

import sys
from typing import Any

import psycopg
import pytest

import gendurable_py as gd
from gendurable_py import calls
from gendurable_py.machine.tracebacks import LONGEST, cut, describe_traceback
from gendurable_py.testing import assert_done, drain

Conn = psycopg.Connection[Any]


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001 - SystemExit is one of them
        return caught


def test_errors_and_history(conn: Conn) -> None:
    @gd.job(name="records.flaky", max_attempts=3, history="states")
    def flaky(args: dict[str, Any], ctx: gd.Context[Any]) -> str:
        if ctx.attempt == 0:
            raise ValueError("not \x00 yet")
        return "now"

    id = gd.insert(conn, flaky, {"n": 1}) or 0
    drain(conn, [flaky], advance=True)
    [error] = calls.errors(conn, id)
    assert (error.step, error.attempt, error.kind, error.error) == ("start", 0, "error", "ValueError: not \ufffd yet")
    assert error.traceback is not None and error.worker is not None
    assert error.traceback.startswith("Traceback (most recent call last):\n") and __file__ in error.traceback
    assert 'raise ValueError("not \\x00 yet")' in error.traceback and "gendurable_py/dispatch" not in error.traceback
    first, moved, last = gd.history(conn, id)
    assert (first.no, first.kind, first.step, first.next_step, first.attempt) == (1, "error", "start", "start", 0)
    assert first.state == {"n": 1} and isinstance(first.detail, dict) and first.detail["error"] == error.error
    assert (moved.kind, moved.seconds) == ("reschedule", None)  # drain has let the time pass
    assert (last.kind, last.next_step, last.attempt, last.detail) == ("done", None, 1, None)
    assert last.seconds is not None and last.seconds >= 0
    assert gd.history(conn, id, after=1) == [moved, last] and gd.history(conn, id, limit=1) == [first]
    assert gd.history(conn, id, after=3) == []
    assert calls.errors(conn, id, limit=0) == calls.errors(conn, 10**9) == []
    shown = gd.get(conn, id)
    assert shown is not None and isinstance(shown["errors"], list) and len(shown["errors"]) == 1


async def test_the_same_on_an_async_connection(db: Any) -> None:
    async with await db.aconnect() as conn:
        id = await gd.insert(conn, "work") or 0
        await gd.cancel(conn, id, "not needed")
        [error] = await calls.errors(conn, id)
        assert (error.kind, error.error, error.traceback) == ("cancel", "not needed", None)
        assert await gd.history(conn, id) == []


@pytest.mark.parametrize("given", ["all", "", 1, True, None])
def test_how_much_history_is_one_of_three(conn: Conn, given: Any) -> None:
    if given is None:
        return_value = gd.register(conn, "records.none", options={"history": None})
        assert return_value is None
        return
    with pytest.raises(gd.InvalidArgument, match="history"):

        @gd.job(name="records.refused", history=given)
        def refused(args: dict[str, Any]) -> None: ...

    with pytest.raises(gd.InvalidArgument, match="history"):
        gd.register(conn, "records.refused", options={"history": given})


def test_a_class_inherits_its_history_and_registers_it(conn: Conn) -> None:
    class Base(gd.FSM, abstract=True, history="steps"):
        pass

    class Kept(Base, name="records.inherits"):
        @gd.step
        def start(self, ctx: gd.Context[Any]) -> gd.Done:
            return gd.Done(1)

    class Silent(Base, name="records.silent", history="none"):
        @gd.step
        def start(self, ctx: gd.Context[Any]) -> gd.Done:
            return gd.Done(1)

    ids = [gd.insert(conn, machine) or 0 for machine in (Kept, Silent)]
    drain(conn, [Kept, Silent])
    assert [len(gd.history(conn, id)) for id in ids] == [1, 0]


def test_a_failed_assertion_shows_where_it_was_raised(conn: Conn) -> None:
    @gd.job(name="records.asserted", max_attempts=1)
    def broken(args: dict[str, Any]) -> None:
        raise LookupError("where is it")

    id = gd.insert(conn, broken) or 0
    drain(conn, [broken])
    with pytest.raises(AssertionError) as caught:
        assert_done(conn, id)
    assert "is failed in step 'start' (LookupError: where is it), not done" in str(caught.value)
    assert 'raise LookupError("where is it")' in str(caught.value)


def test_a_traceback_of_what_was_never_raised_is_none() -> None:
    assert describe_traceback(ValueError("x")) is None
    assert describe_traceback("x") is None
    assert describe_traceback(None) is None


def test_a_traceback_names_causes_in_their_order() -> None:
    try:
        try:
            raise ValueError("first")
        except ValueError as error:
            raise KeyError("second") from error
    except KeyError as caught:
        text = describe_traceback(caught) or ""
    assert text.index("ValueError: first") < text.index("This was the cause") < text.index("KeyError: 'second'")
    assert text.endswith("KeyError: 'second'")
    loop = raised(ValueError("round"))
    loop.__context__ = loop
    assert (describe_traceback(loop) or "").count("ValueError: round") == 1


def test_a_traceback_is_bounded() -> None:
    def deep(n: int) -> None:
        if n:
            deep(n - 1)
        raise ValueError("x" * 100_000)

    with pytest.raises(ValueError, match="x") as caught:
        deep(500)
    text = describe_traceback(caught.value) or ""
    assert "frames ..." in text and len(text.encode()) <= LONGEST and text.count("deep(n - 1)") < 60
    long = "\u20ac" * 20_000 + "y" * 20_000 + "\U0001f600" * 5_000
    short = cut(long)
    assert len(short.encode()) <= LONGEST and short.startswith("\u20ac") and short.endswith("\U0001f600")
    assert f"{len(long) - short.count(chr(0x20AC)) - short.count(chr(0x1F600))} characters cut" in short
    chain: BaseException = raised(ValueError("0"))
    for n in range(1, 50):
        chain.__cause__, chain = chain.__cause__, raised(ValueError(str(n)))
        chain.__cause__ = raised(ValueError(f"of {n}"))
    assert (describe_traceback(chain) or "").count("Traceback") <= 5


def test_the_frames_of_a_traceback_are_ascii() -> None:
    # a database in LATIN1 takes it, whatever stands in a line of code; the message is that of the error itself
    scope: dict[str, Any] = {}
    exec(compile("def größe():\n    raise ValueError('ü')\n", "/größe.py", "exec"), scope)
    with pytest.raises(ValueError, match="ü") as caught:
        scope["größe"]()
    text = describe_traceback(caught.value) or ""
    assert "gr\\xf6\\xdfe.py" in text and text.endswith("\nValueError: ü")
    assert text.removesuffix("ü").isascii()


class Hostile(Exception):
    def __str__(self) -> str:
        raise SystemExit("even this")


@pytest.mark.parametrize("error", [Hostile(), ValueError("\ud800\x00"), ExceptionGroup("many", [ValueError("a")])])
def test_whatever_is_raised_can_be_described(conn: Conn, error: Exception) -> None:
    text = describe_traceback(raised(error))
    assert text is not None and "\x00" not in text
    assert conn.execute("select %s::text", [text]).fetchone() == (text,)
    assert sys.exc_info() == (None, None, None)
