"""What is given to a machine's declaration and returned by its steps: right, or refused in words."""

from __future__ import annotations

import functools
import importlib
import json
import sys
import types
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from pydantic import BaseModel

import gendurable_py as gd
from gendurable_py import FSM, Await, Child, Context, Done, InvalidArgument, Job, Next, Retry, Stop, job, step
from gendurable_py.fsm import spec_of
from gendurable_py.machine.encode import encode_inserts, encode_outcome
from gendurable_py.machine.last_resort import encode_stop
from gendurable_py.machine.registry import generation, lookup
from gendurable_py.outcome import describe
from gendurable_py.testing import assert_done, assert_failed, context, drain

if TYPE_CHECKING:
    from decimal import Decimal

Conn = psycopg.Connection[Any]


class Base(FSM, abstract=True):
    @step
    def start(self, ctx: Context[Any]) -> Next:
        return Next(self.ship)

    @step
    def again(self, ctx: Context[Any]) -> Next:
        return Next(Base.ship)

    @step
    def ship(self, ctx: Context[Any]) -> Done:
        return Done("base")


class Override(Base, name="around.override"):
    def ship(self, ctx: Context[Any]) -> Done:
        return Done("override")


class Renamed(Base, name="around.renamed"):
    @step("send")
    def ship(self, ctx: Context[Any]) -> Done:
        return Done("renamed")


class Foreign(FSM, name="around.foreign"):
    @step
    def start(self, ctx: Context[Any]) -> Next:
        return Next(Base.ship)

    @step
    def ship(self, ctx: Context[Any]) -> Done:
        return Done()


@pytest.mark.parametrize(("machine", "answer"), [(Override, "override"), (Renamed, "renamed")])
@pytest.mark.parametrize("first", ["start", "again"])
def test_an_override_of_a_step_given_by_reference_runs(conn: Conn, machine: Any, answer: str, first: str) -> None:
    id = gd.insert(conn, machine, step=first)
    assert id is not None
    drain(conn, [machine])
    assert assert_done(conn, id) == answer
    assert gd.insert(conn, machine, step=Base.ship) is not None


def outcome_of(machine: Any, outcome: object, name: str = "start") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encode_outcome(context(machine, step=name), spec_of(machine), outcome, False))
    return found


async def later() -> Done:
    return Done()


@job(name="around.job")
def work(args: dict[str, Any]) -> None: ...


REFUSED: list[tuple[Any, object, str]] = [
    (Override, Next(Foreign.ship), "step of another machine"),
    (Foreign, Next(Base.ship), "step of another machine"),
    (Override, Next(work), "not a step"),
    (Override, Next(print), "not a step"),
    (Override, Next([]), "not a step"),  # type: ignore[arg-type]
    (Override, Next("nowhere"), "no step 'nowhere'"),
    (Override, Done, "the class Done.*Done"),
    (work, Done, "the class Done"),
    (Override, Child, "the class Child"),
    (Override, None, "NoneType, which is no outcome"),
    (Override, 5, "int, which is no outcome"),
]


@pytest.mark.parametrize(("machine", "outcome", "said"), REFUSED)
def test_what_is_no_outcome_is_refused_in_words(machine: Any, outcome: object, said: str) -> None:
    with pytest.raises(InvalidArgument, match=f"(?s){said}"):
        outcome_of(machine, outcome)


@pytest.mark.parametrize("machine", [Override, work])
@pytest.mark.filterwarnings("error")
def test_an_async_step_behind_a_sync_decorator_is_told(machine: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"(?s)'start'.*coroutine.*async"):
        outcome_of(machine, later())


class Model(BaseModel):
    a: int = 0


def make(**options: Any) -> Callable[[], object]:
    body = options.pop("body", {"start": Base.__dict__["start"]})
    bases = options.pop("bases", (FSM,))
    return lambda: type("Made", bases, {"__module__": __name__, **body}, **{"name": "around.made", **options})


def generator(self: object, ctx: object) -> Any:
    yield Done()


async def async_generator(self: object, ctx: object) -> Any:
    yield Done()


def stepped(function: Any, name: str = "start") -> dict[str, Any]:
    return {name: step(name)(types.FunctionType(function.__code__, globals(), name))}


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (make(version=0), "version is 0"), (make(version=-1), "version is -1"), (make(version=True), "version is True"),
        (make(version=1.5), "version is 1.5"), (make(version=2**31), "version is"), (make(version=None), "version"),
        (make(name=""), "name is ''"), (make(name=5), "name is a int"), (make(name="x" * 2001), "2001 bytes"),
        (make(name="a\x00"), "name is"), (make(name="\ud800"), "name is"), (make(queue=""), "queue is"),
        (make(queue=["a"]), "queue is a list"), (make(queue="é" * 1001), "2002 bytes"), (make(initial=""), "initial"),
        (make(max_attempts=0), "max_attempts is 0"), (make(max_attempts=True), "max_attempts"),
        (make(backoff=5), "backoff is a int"),
        (make(body={"start": Base.__dict__["start"], "State": Model()}), "type of its state cannot be used"),
        (make(body={"start": Base.__dict__["start"], "State": {"a": 1}}), "type of its state cannot be used"),
        (make(body={"start": Base.__dict__["start"], "State": Model.__dict__}), "type of its state cannot be used"),
        (lambda: make(body=stepped(generator))(), "generator"),
        (lambda: make(body=stepped(async_generator))(), "generator"),
        (make(bases=(Job,), body={"perform": generator}), "generator"),
        (lambda: step("")(later), "name of a step"), (lambda: step("x" * 2001)(later), "2001 bytes"),
        (lambda: step(work), "machine, not a step"), (lambda: step(Override), "machine, not a step"),
        (lambda: step(5), "step"), (lambda: job(5), "cannot be a job"), (lambda: job(Model), "cannot be a job"),  # type: ignore[call-overload]
        (lambda: spec_of(Base), "not a machine"), (lambda: encode_inserts([Child(Base)]), "not a machine"),
        (lambda: encode_inserts([Base]), "not a machine"), (lambda: spec_of(None), "not a machine"),  # type: ignore[arg-type, list-item]
    ],
)  # fmt: skip
def test_a_declaration_that_is_wrong_is_refused_in_words(made: Callable[[], object], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        made()
    assert lookup("around.made", 1) is None


def test_an_abstract_class_below_a_machine_is_no_machine() -> None:
    class Below(Override, abstract=True):
        pass

    with pytest.raises(InvalidArgument, match="not a machine"):
        spec_of(Below)


def test_a_machine_that_is_defined_again_takes_the_place_of_the_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gd_reloaded.py"
    text = "from gendurable_py import job\n@job(name='around.reloaded')\ndef work(args):\n    return {}\n"
    path.write_text(text.format(1))
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("gd_reloaded")
    older, before = lookup("around.reloaded", 1), generation()
    assert older is not None
    path.write_text(text.format("'newer'"))
    importlib.reload(module)
    found = lookup("around.reloaded", 1)
    assert found is not None
    assert found is not older
    assert found.steps["start"].run(context(module.work)) == "newer"
    assert generation() > before, "what was kept of the older is asked for again"
    del sys.modules["gd_reloaded"]


# Annotations: only that of the arguments is needed.


@job(name="around.priced")
def priced(args: dict[str, int], ctx: Context[Nowhere], more: Never = 1) -> Decimal:  # type: ignore[name-defined]  # noqa: F821
    return args["price"]  # type: ignore[return-value]


class Priced(Job, name="around.priced_class"):
    def perform(self, args: Model, ctx: Context[Decimal]) -> Decimal: ...


@job(name="around.forward")
def forward(args: Forward) -> int:
    return args.n


class Forward(BaseModel):
    n: int


@job(name="around.unknown")
def unknown(args: Decimal) -> None: ...


def wrapped(function: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(function)
    def call(*args: Any) -> object:
        return function(*args)

    return call


def plain(args: Forward, other: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def test_names_that_only_type_checkers_know_do_not_matter_elsewhere(conn: Conn) -> None:
    id = gd.insert(conn, priced, {"price": 1})
    assert id is not None
    drain(conn, [priced])
    assert assert_done(conn, id) == 1
    assert spec_of(Priced).codec.kind is Model
    assert spec_of(forward).codec.kind is Forward, "a name that comes later is looked up when it is needed"
    assert spec_of(job(name="around.wrapped")(wrapped(plain))).codec.kind is Forward


def test_an_annotation_that_cannot_be_evaluated_says_so(conn: Conn) -> None:
    with pytest.raises(InvalidArgument, match=r"(?s)around.unknown.*Decimal.*TYPE_CHECKING"):
        gd.insert(conn, unknown, {})


# What is kept of an error


class Rude(Exception):
    def __str__(self) -> str:
        raise SystemExit("no")

    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        raise KeyboardInterrupt


def raised(error: BaseException, cause: BaseException | None = None, context: BaseException | None = None) -> Any:
    try:
        try:
            if context is not None:
                raise context
        finally:
            if cause is None:
                raise error
            raise error from cause
    except BaseException as found:  # noqa: BLE001
        return found


def test_a_group_says_who_is_in_it_and_an_error_where_it_came_from() -> None:
    noted = ValueError("no")
    noted.add_note("order 42")
    inner = ExceptionGroup("inner", [KeyError("k"), noted])
    text = describe(raised(ExceptionGroup("outer", [inner, OSError(2, "gone")]), cause=raised(TypeError("because"))))
    assert text.splitlines() == [
        "ExceptionGroup: outer (2 sub-exceptions)",
        "  - ExceptionGroup: inner (2 sub-exceptions)",
        "    - KeyError: 'k'",
        "    - ValueError: no",
        "      order 42",
        "  - FileNotFoundError: [Errno 2] gone",
        "caused by TypeError: because",
    ]
    assert describe(raised(ValueError("b"), context=TypeError("a"))) == "ValueError: b\nwhile handling TypeError: a"
    assert describe(noted) == "ValueError: no\n  order 42"


def endless() -> BaseException:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def deep(levels: int) -> BaseException:
    made: Exception = ValueError("x" * 5000)
    for _ in range(levels):
        made = ExceptionGroup("y" * 5000, [made] * 30)
    return made


@pytest.mark.parametrize(
    "error",
    [Rude(), ExceptionGroup("g", [Rude(), Rude()]), endless(), deep(6), ValueError("\ud800\x00"),
     ValueError("x" * 10**6), raised(Rude(), cause=Rude()), 5, None, object(), "text\x00"],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_an_error_of_any_kind_is_described_in_a_bounded_text_that_can_be_stored(error: Any, conn: Conn) -> None:
    text = describe(error)
    assert 0 < len(text) <= 8000
    assert conn.execute("select %s::text", (text,)).fetchone() == (text,)
    assert json.loads(encode_stop(context(Override)._row, error))["kind"] == "stop"


class Grouped(FSM, name="around.grouped"):
    @step
    def start(self, ctx: Context[Any]) -> Done:
        raise ExceptionGroup("both", [ValueError("one"), TypeError("two")])


def test_a_group_stands_in_last_error(conn: Conn) -> None:
    id = gd.insert(conn, Grouped)
    assert id is not None
    drain(conn, [Grouped])
    assert assert_failed(conn, id, "both").splitlines()[1:3] == ["  - ValueError: one", "  - TypeError: two"]


# "An error, try again", as an outcome


@job(name="around.retry_job", max_attempts=3)
def retry_job(args: dict[str, Any], ctx: Context[Any]) -> object:
    return Retry("not yet", delay=args.get("delay", 0)) if ctx.attempt < args["until"] else ctx.attempt


class RetryStep(FSM, name="around.retry_step"):
    @step
    def start(self, ctx: Context[Any]) -> Done | Retry:
        delay = timedelta(seconds=5)
        return Retry(ValueError("not yet"), delay=delay) if ctx.attempt < ctx.state["until"] else Done(ctx.attempt)


@pytest.mark.parametrize(("machine", "most"), [(retry_job, 3), (RetryStep, 20)])
def test_retry_runs_the_step_again_until_the_attempts_are_used_up(conn: Conn, machine: Any, most: int) -> None:
    soon, never = gd.insert(conn, machine, {"until": 2}), gd.insert(conn, machine, {"until": 99})
    few = gd.insert(conn, machine, {"until": 99}, max_attempts=2)
    assert soon is not None
    assert never is not None
    assert few is not None
    drain(conn, [machine], advance=True)
    assert assert_done(conn, soon) == 2
    for id, attempts in ((never, most), (few, 2)):
        assert "not yet" in assert_failed(conn, id)
        row = conn.execute("select attempt from gd_instances where id = %s", (id,)).fetchone()
        assert row == (attempts - 1,)


def test_retry_with_a_delay_waits_so_long_and_without_one_backs_off(conn: Conn) -> None:
    found = outcome_of(RetryStep, Retry("x", delay=timedelta(minutes=2)))
    assert (found["kind"], found["delay_ms"], found["error"]) == ("error", 120_000, "x")
    assert outcome_of(RetryStep, Retry("x", delay=0))["delay_ms"] == 0
    assert "delay_ms" not in outcome_of(RetryStep, Retry("x"))
    assert outcome_of(RetryStep, Retry(raised(ValueError("a"), cause=TypeError("b"))))["error"] == (
        "ValueError: a\ncaused by TypeError: b"
    )
    with pytest.raises(InvalidArgument, match="delay"):
        outcome_of(RetryStep, Retry("x", delay=-1))


def test_what_is_exported_is_there() -> None:
    for name in gd.__all__:
        assert getattr(gd, name) is not None
    assert Stop(Rude()).text() == "Rude: (no text: its __str__ failed)" or Stop(Rude()).text().startswith("Rude")
    assert outcome_of(RetryStep, Await("a"))["kind"] == "await"
