"""Handlers that somebody replaces while a call runs: what was looked at is what is called, or nothing is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from psycopg import sql
from support.handlers import Stage, people, sqlstate, stage
from support.wait import run_in_thread, wait_until, wait_until_blocked

__all__ = ["people", "stage"]


@contextmanager
def while_it_runs(stage: Stage, who: str) -> Iterator[dict[str, Any]]:
    """Between the look at the handlers of a batch and the call of the second one, which is `h`."""
    stage.handler("wait", of="boss", body="perform pg_advisory_xact_lock(4711, 1);")
    stage.define("wait", "boss")
    stage.insert("wait")
    id = stage.insert("h")
    holder, watcher, runner = (stage.connect(one) for one in ("superuser", "superuser", who))
    answer: dict[str, Any] = {"id": id, "runner": runner}
    holder.execute("begin; select pg_advisory_xact_lock(4711, 1)")
    run = run_in_thread(lambda: stage.run(runner, lock_ms=60000, budget_ms=60000))
    wait_until_blocked(watcher, runner)
    yield answer
    holder.execute("commit")
    answer.update(run.result())


def test_a_handler_that_somebody_else_makes_again_during_a_call_is_not_called(stage: Stage) -> None:
    stage.handler("h", of="boss")
    stage.define("h", "boss")
    with while_it_runs(stage, "superuser") as answer:
        stage.do(
            "drop function {s}.h(jsonb)",
            "set role {heir}",
            "create function {s}.h(ctx jsonb) returns jsonb language plpgsql as $$ begin"
            " perform nextval('{s}.calls'); return null; end $$",
        )
    assert (answer["ok"], answer["error"], answer["no_handler"]) == (1, 0, 1)
    assert stage.calls() == 1 and stage.status(answer["id"])[0] == "runnable"
    # an attempt was not burnt, and it goes on when its owner is back
    stage.do("drop function {s}.h(jsonb)")
    stage.handler("h", of="boss")
    assert stage.run("superuser")["ok"] == 1 and stage.status(answer["id"])[0] == "done"


def test_nor_is_it_called_as_a_link_of_a_chain(stage: Stage) -> None:
    # without a wait for a lock, which a link has 20 ms for
    stage.handler(
        "wait", of="boss", body="while not pg_try_advisory_xact_lock(4711, 2) loop perform pg_sleep(0.01); end loop;"
    )
    goes_on = "return jsonb_build_object('kind', 'next', 'step', ctx -> 'state' -> 'then');"
    stage.handler("first", of="boss", body=goes_on)
    for name in ("plain", "h"):
        stage.handler(name, of="boss")
    for name in ("wait", "first", "plain", "h"):
        stage.define(name, "boss")
    for _ in range(4):  # the first four of a transaction run by themselves
        stage.insert("plain")
    stage.insert("first", then="wait")
    id = stage.insert("first", then="h")
    holder, runner = stage.connect("superuser"), stage.connect("superuser")
    holder.execute("select pg_advisory_lock(4711, 2)")
    run = run_in_thread(lambda: stage.run(runner, budget_ms=60000))
    wait_until(lambda: stage.calls() == 7)
    stage.do(
        "drop function {s}.h(jsonb)",
        "set role {heir}",
        "create function {s}.h(ctx jsonb) returns jsonb language plpgsql as $$ begin"
        " perform nextval('{s}.calls'); return null; end $$",
    )
    holder.execute("select pg_advisory_unlock(4711, 2)")
    assert run.result()["error"] == 0
    # the links before it run again, and are committed
    assert stage.calls() == 10 and stage.status(id)[0] == "runnable"


def test_a_definer_that_gives_up_its_own_rights_during_a_call_gets_no_others(stage: Stage) -> None:
    stage.handler("h", of="stranger", options="security definer")
    stage.define("h", "stranger")
    with while_it_runs(stage, "worker") as answer:
        stage.do("alter function {s}.h(jsonb) security invoker", who="stranger")
    assert (answer["ok"], answer["error"], answer["no_handler"]) == (1, 0, 1)
    assert stage.calls() == 1
    stage.do("alter function {s}.h(jsonb) security definer", who="stranger")
    assert stage.run("worker")["ok"] == 1
    assert stage.status(answer["id"]) == ("done", stage.role("stranger"))


def test_a_handler_that_its_owner_replaces_during_a_call_is_called_as_it_is_then(stage: Stage) -> None:
    stage.handler("h", of="boss")
    stage.define("h", "boss")
    with while_it_runs(stage, "superuser") as answer:
        stage.do("drop function {s}.h(jsonb)")
        stage.handler("h", of="boss", body="return jsonb_build_object('kind', 'done', 'result', 'new');")
    assert (answer["ok"], answer["error"]) == (2, 0) and stage.status(answer["id"]) == ("done", "new")


@pytest.mark.parametrize("set_based", [False, True])
def test_between_the_last_look_and_the_call_nothing_can_be_put_in_place(stage: Stage, set_based: bool) -> None:
    """The statement itself: prepared for one version of a function, it calls no other."""
    returns = "setof jsonb" if set_based else "jsonb"
    make = (
        f"create or replace function {{s}}.h(ctx jsonb) returns {returns} language plpgsql security definer as $$"
        " begin perform nextval('{s}.calls'); return next ctx; end $$"
    )
    if not set_based:
        make = make.replace("return next ctx", "return ctx")
    stage.do(make, "alter function {s}.h(jsonb) owner to {stranger}")
    stage.define("h", "stranger")
    conn = stage.connect("superuser")
    name = f"{stage.name}.h"

    def pin() -> str:
        row = conn.execute(
            "select gendurable._pin_handler(%s, %s, current_user::regrole, current_user::regrole) as pin",
            (name, set_based),
        ).fetchone()
        assert row is not None
        return str(row["pin"])

    def call(pin: str) -> str | None:
        row = conn.execute("select gendurable._call_text(%s, %s, true) as text", (name, set_based)).fetchone()
        assert row is not None
        conn.execute(b"deallocate all")
        conn.execute(b"prepare c (jsonb[], text, text) as " + row["text"].encode())
        values = sql.SQL("execute c (array['{{}}'::jsonb], {}, {})").format(sql.Literal(name), sql.Literal(pin))
        return sqlstate(conn, values.as_string(conn).encode())

    assert call(pin()) is None and stage.calls() == 1
    for change in (
        ("alter function {s}.h(jsonb) security invoker", "alter function {s}.h(jsonb) security definer"),
        (make,),
        ("drop function {s}.h(jsonb)", make, "alter function {s}.h(jsonb) owner to {stranger}"),
        ("alter function {s}.h(jsonb) rename to x", make, "alter function {s}.h(jsonb) owner to {stranger}"),
        (
            "alter schema {s} rename to {s}_x",
            "create schema {s}",
            make,
            "alter function {s}.h(jsonb) owner to {stranger}",
        ),
    ):
        before, old = stage.calls(), pin()
        stage.do(*change)
        if "rename to {s}_x" in change[0]:
            assert call(old) == "42883"
            stage.do("drop schema {s} cascade", "alter schema {s}_x rename to {s}")
        else:
            assert call(old) == "42883", change
        assert stage.calls() == before, change
