"""Steps in SQL: one session that calls gd_run, by what a step writes beside its transition, and as chains."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from . import _sql
from ._measure import Bench, Workload, processor_time

BATCH = 200
ROWS = 100_000

# One row of the yardstick's table, by a random key: what each transaction of the yardstick does.
HANDLERS = """
create schema bench_steps;
create table bench_steps.account (id int primary key, n int not null);
create table bench_steps.transfer (instance_id bigint primary key, amount int not null);
insert into bench_steps.account select g, 0 from generate_series(1, 100000) g;

create function bench_steps.nothing(ctx jsonb) returns jsonb language plpgsql as $$
begin
    return '{"kind": "done"}';
end $$;

create function bench_steps.update_one(ctx jsonb) returns jsonb language plpgsql as $$
begin
    update bench_steps.account set n = n + 1 where id = (ctx #> '{state,id}')::int;
    return '{"kind": "done"}';
end $$;

create function bench_steps.transfer(ctx jsonb) returns jsonb language plpgsql as $$
begin
    update bench_steps.account set n = n - 1 where id = (ctx #> '{state,id}')::int;
    update bench_steps.account set n = n + 1 where id = (ctx #> '{state,to}')::int;
    insert into bench_steps.transfer values ((ctx -> 'id')::bigint, 1);
    return '{"kind": "done"}';
end $$;

create function bench_steps.update_many(ctxs jsonb) returns setof jsonb language plpgsql as $$
begin
    update bench_steps.account a
    set n = a.n + s.count
    from (
        select (c #> '{state,id}')::int as id, count(*) as count from jsonb_array_elements(ctxs) c group by 1
    ) s
    where a.id = any(array[s.id]);
    return query select jsonb_build_object('id', c -> 'id', 'kind', 'done') from jsonb_array_elements(ctxs) c;
end $$;

create function bench_steps.next(ctx jsonb) returns jsonb language plpgsql as $$
declare
    v_at constant int := right(ctx ->> 'step', 1)::int;
begin
    return case
        when v_at < 5 then jsonb_build_object('kind', 'next', 'step', left(ctx ->> 'step', -1) || (v_at + 1))
        else '{"kind": "done"}'
    end;
end $$;

create function bench_steps.update_next(ctx jsonb) returns jsonb language plpgsql as $$
begin
    update bench_steps.account set n = n + 1 where id = (ctx #> '{state,id}')::int;
    return bench_steps.next(ctx);
end $$;

select gd_define_step('bench_steps', s, to_regprocedure(format('bench_steps.%s(jsonb)', s)))
from unnest('{nothing,update_one,transfer,update_many}'::text[]) s;
select gd_define_step('bench_steps', f || s, to_regprocedure(format('bench_steps.%s(jsonb)', f)))
from unnest('{next,update_next}'::text[]) f cross join generate_series(1, 5) s;
"""


def through(step: str, steps: int = 1, **options: Any) -> Callable[[Bench], float]:
    """Steps a second of one session that runs `scale` instances from this step on."""

    def run(bench: Bench) -> float:
        if not bench.value("select count(*) from pg_namespace where nspname = 'bench_steps'"):
            bench.conn.execute(HANDLERS)
        bench.conn.execute("truncate bench_steps.transfer")
        bench.conn.execute("vacuum analyze bench_steps.account")
        # the first call of a session compiles what it calls, and the first pages after a checkpoint are logged in full
        fill(bench, step, BATCH)
        call(bench, options)
        fill(bench, step, bench.scale)
        bench.conn.execute("vacuum analyze gendurable.instance")
        before, started = processor_time(bench.conn.info.backend_pid), time.perf_counter()
        result = call(bench, options)
        seconds = time.perf_counter() - started
        spent = processor_time(bench.conn.info.backend_pid) - before
        bench.notes.append(f"{step}: {1e6 * spent / steps / bench.scale:.0f} us of the session's processor time a step")
        if bench.value("select count(*) from gd_instances where status = 'done'") != bench.scale + BATCH:
            raise RuntimeError(f"gd_run: {result}")
        return steps * bench.scale / seconds

    return run


def fill(bench: Bench, step: str, count: int) -> None:
    rows = _sql.instances(count, fsm="bench_steps", step=step)
    for number, row in enumerate(rows):
        # scattered, and the same in each round
        row["state"] = {"id": 1 + number * 7919 % ROWS, "to": 1 + number * 104729 % ROWS}
    _sql.insert(bench.conn, rows)


def call(bench: Bench, options: dict[str, Any]) -> dict[str, Any]:
    row = bench.conn.execute(
        "call gd_run(p_limit => 10000000, p_options => %s)", [json.dumps({"batch": BATCH} | options)]
    ).fetchone()
    assert row is not None
    result: dict[str, Any] = row[0]
    return result


STEPS = [
    Workload("steps in SQL: no-op", "steps/s", "", through("nothing")),
    Workload("steps in SQL: one-row update", "steps/s", ">= 1.3 U", through("update_one")),
    Workload("steps in SQL: transfer", "steps/s", ">= 1.1 U", through("transfer")),
    Workload("steps in SQL: five chained no-ops", "steps/s", ">= 3 U", through("next1", 5)),
    Workload("steps in SQL: five chained updates", "steps/s", ">= 2 U", through("update_next1", 5)),
    Workload("steps in SQL: five no-ops, not chained", "steps/s", "", through("next1", 5, chain=1)),
    Workload("steps in SQL: one-row update, set-based", "steps/s", ">= 1.5 U", through("update_many")),
]
