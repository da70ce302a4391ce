"""Three sessions of gd_run at once: parents join once, and keys keep their order, whoever is in their way."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.races import Session, no_baton_was_lost, three
from support.wait import Running, run_in_thread, wait_until

# GENDURABLE_MANY=5 for five times as many
MANY = int(os.environ.get("GENDURABLE_MANY", "1"))
SESSIONS = 3
SETUP = """
create schema app;
create table app.account (id int primary key, n int not null default 0);
insert into app.account select g from generate_series(0, 9) g;
create table app.done (seq bigint generated always as identity, what text not null, n int);
create function app.work(ctx jsonb) returns jsonb language plpgsql as $$
begin
    update app.account set n = n + 1 where id = (ctx #> '{state,account}')::int;
    insert into app.done (what, n) values (ctx ->> 'partition_key', (ctx #> '{state,n}')::int);
    return '{"kind": "done", "result": 1}';
end $$;
create function app.fan_out(ctx jsonb) returns jsonb language sql as $$
    select jsonb_build_object('kind', 'schedule_childs', 'step', 'join', 'childs', (
        select jsonb_agg('{"fsm": "m", "step": "child"}'::jsonb)
        from generate_series(1, (ctx #> '{state,childs}')::int)))
$$;
create function app.child(ctx jsonb) returns jsonb language plpgsql as $$
begin
    insert into app.done (what) values (ctx ->> 'id');
    return '{"kind": "done", "result": 1}';
end $$;
create function app.join(ctx jsonb) returns jsonb language plpgsql as $$
begin
    insert into app.done (what, n) values ('join ' || (ctx ->> 'id'), jsonb_array_length(ctx -> 'childs'));
    return jsonb_build_object('kind', 'done', 'result', jsonb_array_length(
        jsonb_path_query_array(ctx -> 'childs', '$[*] ? (@.status == "done" && @.result == 1)')));
end $$;
select gd_define_step('m', 'work', 'app.work(jsonb)'), gd_define_step('m', 'fan_out', 'app.fan_out(jsonb)');
select gd_define_step('m', 'child', 'app.child(jsonb)'), gd_define_step('m', 'join', 'app.join(jsonb)');
"""
FREE = "select count(*) from gendurable.instance where finished_at is null and (state -> 'account')::int <> all(%s)"
LEFT = "select count(*) from gendurable.instance where id > 0 and finished_at is null"


@pytest.fixture
def look(db: Any) -> Session:
    session = three(db)[0]
    session.conn.execute(SETUP)
    return session


def run_all(session: Session, options: dict[str, Any]) -> Counter[str]:
    """Until nothing is left, in a session that is like any client's."""
    session.conn.execute("set lock_timeout = 0")
    counts: Counter[str] = Counter()
    while session.one(LEFT):
        result = session.run(**options)
        counts.update({name: count for name, count in result.items() if isinstance(count, int)})
    return counts


@contextmanager
def sessions(db: Any, **options: Any) -> Iterator[list[Running[Counter[str]]]]:
    running = [run_in_thread(run_all, Session(db, f"run {n}"), options) for n in range(SESSIONS)]
    yield running
    for one in running:
        one.result(120)


@pytest.mark.timeout(300)
def test_each_parent_joins_once_however_many_children_end_at_once(db: Any, look: Session) -> None:
    parents, childs = 4, 500 * MANY
    for _ in range(parents):
        look.insert(step="fan_out", state={"childs": childs})
    with sessions(db) as running:
        pass
    ran = sum((one.result() for one in running), Counter[str]())
    assert (ran["ok"], ran["error"]) == (parents * (childs + 2), 0)
    joined = look.rows("select n from app.done where starts_with(what, 'join ')")
    assert [row["n"] for row in joined] == [childs] * parents
    results = look.rows("select result from gd_instances where parent_id is null")
    assert [row["result"] for row in results] == [childs] * parents
    assert look.one("select max(c) from (select count(*) as c from app.done group by what) d") == 1
    assert look.one("select count(*) from app.done") == parents * (childs + 1)
    no_baton_was_lost(look)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("in_the_way", [False, True], ids=["free", "busy"])
def test_a_key_keeps_its_order(db: Any, look: Session, in_the_way: bool) -> None:
    keys, each = 10, 50 * MANY
    instances = [
        {"step": "work", "partition_key": f"key {key}", "state": {"account": key, "n": n}}
        for n in range(each)
        for key in range(keys)
    ]
    look.insert_many(*instances)
    holder = Session(db, "holder")
    turn = 0

    def hold() -> list[int]:
        held = [turn % keys, turn * 3 % keys]
        holder.begin().rows("select from app.account where id = any(%s) for update", held)
        return held

    # from the beginning: it may all be over soon
    held = hold() if in_the_way else []
    with sessions(db, batch=20, lock_ms=10) as running:
        while in_the_way and not any(one.done for one in running):
            # Its rows are busy, given back, and claimed again; those of the other keys go on meanwhile.
            done = look.one("select count(*) from app.done")
            wait_until(
                lambda done=done, held=held: (
                    look.one("select count(*) from app.done") > done + 5 or not look.one(FREE, held)
                )
            )
            holder.roll_back()
            turn += 1
            held = hold()
        holder.roll_back()
    ran = sum((one.result() for one in running), Counter[str]())
    assert (ran["ok"], ran["error"]) == (keys * each, 0)
    assert not in_the_way or ran["busy"] > 0
    for key in range(keys):
        order = look.rows("select n from app.done where what = %s order by seq", f"key {key}")
        assert [row["n"] for row in order] == list(range(each)), key
    assert look.one("select min(n) = max(n) and max(n) = %s from app.account", each)
    assert look.one("select max(attempt + crashes) from gd_instances") == 0
    no_baton_was_lost(look)
