"""Machines: what a class statement accepts, refuses and registers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from gendurable_py import FSM, Cancel, Child, Context, Done, InvalidArgument, Job, Next, Stop, job, sql_step, step
from gendurable_py.fsm import spec_of
from gendurable_py.machine.codec import StateCodec
from gendurable_py.machine.encode import encode_insert, encode_outcome
from gendurable_py.machine.registry import autoload, lookup
from gendurable_py.outcome import Retry
from gendurable_py.testing import context


class Module(FSM):
    @step
    def start(self, ctx: Context[dict[str, Any]]) -> Done:
        return Done()


class Args(BaseModel):
    path: str


@job(name="test_fsm.typed")
def typed(args: Args) -> str:
    return args.path


def test_the_default_name_says_where_the_class_is() -> None:
    spec = spec_of(Module)
    assert spec.name == f"{__name__}:Module"
    assert (spec.version, spec.queue, spec.initial) == (1, "default", "start")
    assert lookup(spec.name, 1) is spec
    assert lookup(spec.name, 2) is None


def test_a_default_name_that_no_other_process_can_find_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="name="):

        class Local(FSM):
            @step
            def start(self, ctx: Context[Any]) -> Done:
                return Done()

    with pytest.raises(InvalidArgument, match="name="):
        type("Main", (FSM,), {"__module__": "__main__", "start": Module.__dict__["start"]})


def test_two_classes_with_one_name_and_version_are_refused_but_two_versions_live_side_by_side() -> None:
    class One(FSM, name="test_fsm.twice"):
        @step
        def start(self, ctx: Context[Any]) -> Done:
            return Done()

    class Two(FSM, name="test_fsm.twice", version=2):
        @step
        def start(self, ctx: Context[Any]) -> Done:
            return Done()

    assert lookup("test_fsm.twice", 1) is spec_of(One)
    assert lookup("test_fsm.twice", 2) is spec_of(Two)
    with pytest.raises(InvalidArgument, match="two machines"):

        class Other(FSM, name="test_fsm.twice"):
            @step
            def start(self, ctx: Context[Any]) -> Done:
                return Done()


def test_steps_are_named_by_method_or_by_hand_and_inherited() -> None:
    class Base(FSM, abstract=True, queue="q", max_attempts=3):
        @step
        def start(self, ctx: Context[Any]) -> Next:
            return Next(self.second)

        @step("two")
        def second(self, ctx: Context[Any]) -> Done:
            return Done("base")

    class Derived(Base, name="test_fsm.derived"):
        def second(self, ctx: Context[Any]) -> Done:
            return Done("derived")

    spec = spec_of(Derived)
    assert list(spec.steps) == ["start", "two"]
    assert (spec.queue, spec.max_attempts) == ("q", 3)
    assert spec.steps["two"].run(context(Derived)) == Done("derived")
    assert spec.options() == {"max_attempts": 3, "timeouts": None, "steps": ["start", "two"]}
    with pytest.raises(InvalidArgument, match="not a machine"):
        spec_of(Base)


def test_a_class_without_steps_or_with_both_kinds_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no step"):

        class Nothing(FSM, name="test_fsm.nothing"):
            pass

    with pytest.raises(InvalidArgument, match="Job"):

        class NotAJob(FSM, name="test_fsm.not_a_job"):
            def perform(self, args: object) -> None: ...

    with pytest.raises(InvalidArgument, match="both"):

        class Both(Job, name="test_fsm.both"):
            @step
            def start(self, ctx: Context[Any]) -> Done:
                return Done()

            def perform(self, args: object) -> None: ...

    with pytest.raises(InvalidArgument, match="no step 'begin'"):

        class NoInitial(FSM, name="test_fsm.no_initial", initial="begin"):
            @step
            def start(self, ctx: Context[Any]) -> Done:
                return Done()

    with pytest.raises(InvalidArgument, match="two steps named"):

        class Twice(FSM, name="test_fsm.two_names"):
            @step
            def start(self, ctx: Context[Any]) -> Done:
                return Done()

            @step("start")
            def other(self, ctx: Context[Any]) -> Done:
                return Done()


def test_one_instance_per_class_made_at_first_use() -> None:
    made = []

    class Counted(FSM, name="test_fsm.counted"):
        def __init__(self) -> None:
            made.append(self)

        @step
        def start(self, ctx: Context[Any]) -> Done:
            return Done()

    spec = spec_of(Counted)
    assert made == []
    assert spec.steps["start"] is spec.steps["start"]
    assert spec.instance is spec.instance
    assert len(made) == 1


class Model(BaseModel):
    order: int
    total: float = Field(default=0.0, alias="sum")


@dataclass
class Data:
    order: int


class Typed(TypedDict):
    order: int


@pytest.mark.parametrize(
    ("kind", "state"), [(Model, Model(order=1)), (Data, Data(1)), (Typed, {"order": 1}), (None, {"order": 1})]
)
def test_a_state_of_any_kind_comes_back_as_it_was(kind: Any, state: Any, request: pytest.FixtureRequest) -> None:
    body = {"State": kind} if kind is not None else {}
    body |= {"start": Module.__dict__["start"], "__module__": __name__}
    machine = type("M", (FSM,), body, name=f"test_fsm.state.{request.node.name}")
    codec = spec_of(machine).codec
    assert codec.decode(codec.encode(state).decode()) == state
    if kind is not None:
        assert codec.decode(codec.encode({"order": 1}).decode()) == state
        with pytest.raises(InvalidArgument, match="does not fit"):
            codec.encode({"order": "many"})


@pytest.mark.parametrize(
    "bad", [{"x": float("nan")}, {"x": float("inf")}, {"x": "a\x00"}, {"x": "\ud800"}, [1], "s", 1]
)
def test_what_the_server_would_refuse_is_refused_here(bad: Any) -> None:
    with pytest.raises(InvalidArgument):
        spec_of(Module).codec.encode(bad)


@pytest.mark.parametrize("fine", [{"x": "NaN"}, {"x": "\\u0000"}, {"x": "Infinity war"}, {"é": "\u2028 \U0001f600"}])
def test_what_only_looks_like_it_is_accepted(fine: Any) -> None:
    codec = spec_of(Module).codec
    assert codec.decode(codec.encode(fine).decode()) == fine


@dataclass
class Anything:
    x: Any


@pytest.mark.parametrize("kind", [dict, dict[str, object], dict[str, Any], Anything, None])
@pytest.mark.parametrize("bad", [float("nan"), [float("-inf")], "\ud800", {"\ud800": 1}, "\x00", {1: 1, "1": 2}])
def test_where_the_type_says_nothing_what_json_cannot_hold_is_refused(kind: Any, bad: object) -> None:
    codec = StateCodec(kind)
    state = Anything(bad) if kind is Anything else {"x": bad}
    with pytest.raises(InvalidArgument):
        codec.encode(state)


@pytest.mark.parametrize("kind", [dict, dict[str, object], dict[str, Any], Anything, None])
@pytest.mark.parametrize("fine", ["NaN", "Infinity", -0.0, 1e300, 2**70, "9" * 5000, [None, True, {"é": [{}]}]])
def test_where_the_type_says_nothing_what_json_can_hold_comes_back(kind: Any, fine: object) -> None:
    codec = StateCodec(kind)
    state = Anything(fine) if kind is Anything else {"x": fine}
    assert codec.decode(codec.encode(state).decode()) == state


def test_not_a_number_in_a_typed_state_is_not_turned_into_null() -> None:
    class Typed(FSM, name="test_fsm.nan"):
        State = Model

        @step
        def start(self, ctx: Context[Model]) -> Done:
            return Done()

    with pytest.raises(InvalidArgument, match="NaN"):
        spec_of(Typed).codec.encode(Model(order=1, sum=float("nan")))


def test_a_job_is_still_a_function() -> None:
    assert typed(Args(path="/tmp")) == "/tmp"
    spec = spec_of(typed)
    assert (spec.name, spec.initial, spec.max_attempts) == ("test_fsm.typed", "start", 20)
    assert spec.codec.kind is Args
    assert spec.steps["start"].run(context(typed, {"path": "/x"})) == "/x"


def test_a_job_class_takes_the_context_if_it_wants_it() -> None:
    class Cleanup(Job, name="test_fsm.cleanup", max_attempts=5):
        def perform(self, args: dict[str, Any], ctx: Context[dict[str, Any]]) -> int:
            return int(args["n"]) + ctx.attempt

    assert spec_of(Cleanup).steps["start"].run(context(Cleanup, {"n": 1}, attempt=2)) == 3


def test_the_default_handler_follows_the_retry_rule() -> None:
    error = ValueError("no")
    assert Module().handle(error, context(Module)) == Stop(error)

    class Retried(FSM, name="test_fsm.retried", max_attempts=3, backoff=lambda attempt: 2.0**attempt):
        @step
        def start(self, ctx: Context[Any]) -> Done:
            return Done()

    machine = Retried()
    assert machine.handle(error, context(Retried, attempt=3)) == Retry(error, delay=8.0)
    assert machine.handle(Cancel("enough"), context(Retried)) == Stop("enough")
    job_machine = typed.machine()
    assert job_machine.handle(error, context(typed, {"path": "/"})) == Retry(error, delay=None)


def test_autoload_imports_only_below_its_list(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "autoloaded"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "machines.py").write_text(
        "from gendurable_py import FSM, Done, step\n"
        "class Late(FSM):\n"
        "    @step\n"
        "    def start(self, ctx):\n"
        "        return Done()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    name = "autoloaded.machines:Late"
    for refused in ([], ["auto"], ["autoloaded.other"]):
        assert not autoload(name, refused)
    assert not autoload("custom", ["autoloaded"])
    assert not autoload("autoloaded.machines;x:Late", ["autoloaded"])
    assert lookup(name, 1) is None
    assert autoload(name, ["autoloaded"])
    assert lookup(name, 1) is not None


class WithSql(FSM, name="test_fsm.with_sql", initial="audit", timeout=30):
    audit = sql_step()
    other = sql_step("another name")

    @step
    def close(self, ctx: Context[Any]) -> Done:
        return Done()


def test_a_step_in_sql_is_a_name_and_nothing_else() -> None:
    spec = spec_of(WithSql)
    assert list(spec.steps) == ["close"]
    assert spec.in_sql == {"audit": "audit", "other": "another name"}
    machine = WithSql()
    ctx = context(WithSql, step="close")
    for target in (machine.audit, WithSql.audit, "audit"):
        assert b'"step":"audit"' in encode_outcome(ctx, spec, Next(target), False)
    assert b'"step":"another name"' in encode_outcome(ctx, spec, Next(machine.other), False)
    assert b'"step":"audit"' in encode_insert(Child(WithSql, step=WithSql.audit))
    assert spec.options()["timeouts"] == {"close": 30000}
    with pytest.raises(InvalidArgument, match="is a function of the database"):
        machine.audit(ctx)
    with pytest.raises(InvalidArgument, match=r"has no step 'x'.*\n.*close, audit, another name"):
        encode_outcome(ctx, spec, Next("x"), False)


def test_an_override_decides_where_a_step_runs() -> None:
    class InPython(WithSql, name="test_fsm.in_python"):
        def audit(self, ctx: Context[Any]) -> Done:  # type: ignore[override]
            return Done()

    class InSql(WithSql, name="test_fsm.in_sql"):
        close = sql_step()  # type: ignore[assignment]

    assert set(spec_of(InPython).steps) == {"audit", "close"}
    assert spec_of(InSql).in_sql == {"audit": "audit", "other": "another name", "close": "close"}
    assert spec_of(InSql).steps == {}
    assert b'"step":"close"' in encode_outcome(context(InSql), spec_of(InSql), Next(WithSql.close), False)
    assert b'"step":"audit"' in encode_outcome(context(InPython), spec_of(InPython), Next(WithSql.audit), False)


def test_steps_in_sql_that_cannot_be() -> None:
    with pytest.raises(InvalidArgument, match="the name of a step"):
        sql_step("")
    with pytest.raises(InvalidArgument, match="two steps named 'audit'"):

        class Twice(FSM, name="test_fsm.twice"):
            audit = sql_step()
            other = sql_step("audit")

    with pytest.raises(InvalidArgument, match="both steps and perform"):

        class Both(Job, name="test_fsm.both"):
            audit = sql_step()

            def perform(self, args: dict[str, Any]) -> None: ...

    with pytest.raises(InvalidArgument, match="no step 'start'"):

        class Lost(FSM, name="test_fsm.lost"):
            audit = sql_step()
