"""A bank: machines that move money between accounts, their steps in SQL and in Python; each movement is written down.

A transfer goes the route that its state tells: which steps, and which of them take the money to a clearing account,
from there to its target, or the whole way. So the sum is the same at each moment, and what has been moved is a function
of where the instance stands: `bank.half` shows what is not. A transfer tells a teller of some of its steps, by signals
of its outbox, and leaves a receipt, which is an instance of its own. An order waits for its row to be paid.

What is in SQL has a Python step of the same name: either language may run it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from gendurable_py import FSM, Await, Context, Done, Insert, Next, Outcome, Send, step

from .machines import PACE, ran

QUEUE = "bank"
# Nothing is removed before it is counted.
KEPT = 86_400
ACCOUNTS = range(1, 41)
CLEARING = range(101, 105)
SHOP = 200
TELLERS = range(12)
BALANCE = 1000
TOTAL = BALANCE * len(ACCOUNTS)
# Steps of a transfer: in SQL one by one and many at once; in Python in a transaction, sync, async and by a hook; plain.
STEPS = ("sql", "many", "sync", "async", "hooked", "plain")
HOLDS = ["runnable", "executing", "awaiting_signal", "awaiting_children", "done", "failed", "cancelled"]
"""The scope of keys that make a second insert of the same thing impossible, for good."""

SCHEMA = """
create schema bank;
create table bank.account (id int primary key, balance bigint not null, times int not null default 0);
-- What has been done, by name. A second time is counted, and not refused: nothing must hide it.
create table bank.ledger (
    part text primary key, times int not null default 1, by text[] not null, amount bigint,
    source int references bank.account deferrable initially deferred,
    target int references bank.account deferrable initially deferred
);
create table bank.asked (what text primary key);
create table bank.purchase (id int primary key, status text not null);

create function bank.apply(p_part text, p_by text, p_source int = null, p_target int = null, p_amount bigint = null)
returns void language plpgsql as $$
begin
    if p_source is not null then
        -- in one order, so that only the instances can bring a deadlock about
        perform from bank.account a where a.id in (p_source, p_target) order by a.id for no key update;
        update bank.account a
        set balance = a.balance + case a.id when p_source then -p_amount else p_amount end, times = a.times + 1
        where a.id in (p_source, p_target);
    end if;
    insert into bank.ledger as l (part, by, source, target, amount)
    values (p_part, array[p_by], p_source, p_target, p_amount)
    on conflict (part) do update set times = l.times + 1, by = l.by || excluded.by;
end $$;

create function bank.move(p_state jsonb, p_attempt int, p_by text) returns void language plpgsql as $$
declare
    v_part constant text := p_state #>> array['route', p_state ->> 'n', '1'];
    v_via constant int := (p_state -> 'via')::int;
begin
    if v_part is not null then
        perform bank.apply(
            format('transfer:%s:%s', p_state -> 'k', p_state -> 'n'), p_by,
            case v_part when 'credit' then v_via else (p_state -> 'source')::int end,
            case v_part when 'debit' then v_via else (p_state -> 'target')::int end, (p_state -> 'amount')::bigint);
    end if;
    if p_attempt = 0 and p_state -> 'raises' @> (p_state -> 'n') then
        raise exception 'as it was told';
    end if;
end $$;

create function bank.go_on(p_state jsonb) returns jsonb language plpgsql as $$
declare
    v_n constant int := (p_state -> 'n')::int;
    v_next constant jsonb := p_state -> 'route' -> (v_n + 1);
begin
    return case
        when v_next is null then jsonb_build_object(
            'kind', 'done', 'result', jsonb_build_object('n', v_n + 1),
            'insert', jsonb_build_array(jsonb_build_object(
                'fsm', 'bank.receipt', 'queue', 'bank', 'step', p_state -> 'receipt',
                'state', jsonb_build_object('k', p_state -> 'k'))))
        else jsonb_build_object(
            'kind', 'next', 'step', v_next -> 0, 'state', p_state || jsonb_build_object('n', v_n + 1))
    end || case
        when p_state -> 'tells' @> to_jsonb(v_n) then jsonb_build_object('signal', jsonb_build_array(jsonb_build_object(
            'unique_key', format('teller:%s', p_state -> 'teller'), 'name', 'note',
            'payload', format('transfer:%s:%s', p_state -> 'k', v_n))))
        else '{}'
    end;
end $$;

create function bank.transfer(ctx jsonb) returns jsonb language plpgsql as $$
begin
    perform bank.move(ctx -> 'state', (ctx -> 'attempt')::int, 'sql');
    return bank.go_on(ctx -> 'state');
end $$;

create function bank.transfers(ctxs jsonb) returns setof jsonb language plpgsql as $$
begin
    perform bank.move(c -> 'state', (c -> 'attempt')::int, 'many') from jsonb_array_elements(ctxs) c;
    return query
        select bank.go_on(c -> 'state') || jsonb_build_object('id', c -> 'id') from jsonb_array_elements(ctxs) c;
end $$;

create function bank.receive(ctx jsonb) returns jsonb language plpgsql as $$
begin
    perform bank.apply('receipt:' || (ctx #>> '{state,k}'), 'sql');
    return '{"kind": "done", "result": {"n": 1}}';
end $$;

create function bank.note(p_teller jsonb, p_signals jsonb, p_by text) returns int language plpgsql as $$
declare
    v_count int := 0;
    v_payload text;
begin
    for v_payload in
        select s ->> 'payload' from jsonb_array_elements(p_signals) s where s ->> 'name' = 'note'
    loop
        perform bank.apply(format('note:%s:%s', p_teller, v_payload), p_by);
        v_count := v_count + 1;
    end loop;
    return v_count;
end $$;

create function bank.tell(ctx jsonb) returns jsonb language plpgsql as $$
declare
    v_count constant int := bank.note(ctx #> '{state,teller}', ctx -> 'signals', 'sql');
    v_n constant int := (ctx #> '{state,n}')::int + v_count;
    v_state constant jsonb := jsonb_build_object('teller', ctx #> '{state,teller}', 'n', v_n);
    v_closes constant boolean := ctx -> 'signals' @> '[{"name": "close"}]';
begin
    -- only once nothing else is left
    return case
        when v_closes and v_count = 0 then jsonb_build_object('kind', 'done', 'result', v_state)
        else jsonb_build_object('consume', jsonb_path_query_array(ctx, '$.signals[*] ? (@.name == "note").id'))
            || case
                when v_closes then jsonb_build_object('kind', 'next', 'step', 'async', 'state', v_state)
                else jsonb_build_object(
                    'kind', 'await', 'signals', '["note", "close"]'::jsonb, 'step', 'async', 'state', v_state)
            end
    end;
end $$;

create function bank.tell_of_order(ctx jsonb) returns jsonb language plpgsql as $$
begin
    perform bank.apply('order:' || (ctx #>> '{state,order}'), 'sql');
    return jsonb_build_object('kind', 'done', 'result', jsonb_build_object(
        'signals', jsonb_array_length(ctx -> 'signals')));
end $$;

-- what of a transfer is written down though it has not got so far, is not though it has, or is more than once
create view bank.half as
select i.id, i.finished_at, (i.state -> 'k')::int as k, at.n, r.ord - 1 as part, coalesce(l.times, 0) as times
from gendurable.instance i
cross join lateral (select coalesce((i.result -> 'n')::int, (i.state -> 'n')::int) as n) at
cross join lateral jsonb_array_elements(i.state -> 'route') with ordinality r (one, ord)
left join bank.ledger l on l.part = format('transfer:%s:%s', i.state -> 'k', r.ord - 1)
where i.fsm = 'bank.transfer' and r.one ->> 1 is not null and coalesce(l.times, 0) <> (r.ord <= at.n)::int;
"""
DEFINED = (
    ("bank.transfer", "sql", "bank.transfer(jsonb)"),
    ("bank.transfer", "many", "bank.transfers(jsonb)"),
    ("bank.receipt", "sql", "bank.receive(jsonb)"),
    ("bank.teller", "sql", "bank.tell(jsonb)"),
    ("bank.order", "sql", "bank.tell_of_order(jsonb)"),
)


def open_bank(conn: psycopg.Connection[Any]) -> None:
    conn.execute(SCHEMA.encode())
    fill = "insert into bank.account (id, balance) select id, %s from unnest(%s::int[]) id"
    conn.execute(fill, (BALANCE, [*ACCOUNTS]))
    conn.execute(fill, (0, [*CLEARING, SHOP]))
    for defined in DEFINED:
        conn.execute("select gd_define_step(%s, %s, %s::regprocedure)", defined)
    conn.execute("select gd_signal_on('bank.purchase', 'paid', 'order:{id}', 'status = ''paid''')")
    for teller in TELLERS:
        conn.execute(
            "select gd_insert('bank.teller', %s, p_step => 'sql', p_queue => %s, p_unique_key => %s)",
            (Jsonb({"teller": teller, "n": 0}), QUEUE, f"teller:{teller}"),
        )


# -- the same in Python

MOVE = "select bank.move(%s, %s, %s)"
APPLY = "select bank.apply(%s, %s)"
NOTE = "select bank.note(%s, %s, %s)"
OWN_DSN = ""
"""Where the hook connects to."""


@contextmanager
def own_connection(commit: Callable[[psycopg.Connection[Any]], None]) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(OWN_DSN, application_name="gendurable hook") as conn:
        yield conn
        commit(conn)


def soon(attempt: int) -> float:
    """Far fewer attempts than there are faults must not use them up, nor wait for long."""
    return 0.05 * 1.5 ** min(attempt, 8)


def go_on(state: dict[str, Any]) -> Outcome:
    n = state["n"]
    tells = [Send(f"teller:{state['teller']}", "note", f"transfer:{state['k']}:{n}")] if n in state["tells"] else []
    if n + 1 == len(state["route"]):
        receipt = Insert("bank.receipt", {"k": state["k"]}, step=state["receipt"], queue=QUEUE)
        return Done({"n": n + 1}, insert=[receipt], signal=tells)
    return Next(state["route"][n + 1][0], {**state, "n": n + 1}, signal=tells)


def move(ctx: Context[Any]) -> Outcome:
    with ran(ctx, n=ctx.state["n"]):
        ctx.conn.execute(MOVE, (Jsonb(ctx.state), ctx.attempt, f"{ctx.step} in Python"))
        return go_on(ctx.state)


class Transfer(FSM, name="bank.transfer", queue=QUEUE, initial="plain", max_attempts=50, backoff=soon):
    @step(transactional=True)
    def sql(self, ctx: Context[Any]) -> Outcome:
        return move(ctx)

    @step(transactional=True)
    def many(self, ctx: Context[Any]) -> Outcome:
        return move(ctx)

    @step(transactional=True)
    def sync(self, ctx: Context[Any]) -> Outcome:
        return move(ctx)

    @step("async", transactional=True)
    async def async_(self, ctx: Context[Any]) -> Outcome:
        with ran(ctx, n=ctx.state["n"]):
            await ctx.conn.execute(MOVE, (Jsonb(ctx.state), ctx.attempt, "async in Python"))
            return go_on(ctx.state)

    @step(transactional=own_connection)
    def hooked(self, ctx: Context[Any]) -> Outcome:
        return move(ctx)

    @step
    def plain(self, ctx: Context[Any]) -> Outcome:
        with ran(ctx, n=ctx.state["n"]):
            time.sleep(PACE)
            if ctx.attempt == 0 and ctx.state["n"] in ctx.state["raises"]:
                raise RuntimeError("as it was told")
            return go_on(ctx.state)


class Receipt(FSM, name="bank.receipt", queue=QUEUE, initial="sync", max_attempts=50, backoff=soon, transactional=True):
    @step
    def sync(self, ctx: Context[Any]) -> Outcome:
        with ran(ctx):
            ctx.conn.execute(APPLY, (f"receipt:{ctx.state['k']}", f"{ctx.step} in Python"))
            return Done({"n": 1})

    @step
    def sql(self, ctx: Context[Any]) -> Outcome:
        return self.sync(ctx)


class Teller(FSM, name="bank.teller", queue=QUEUE, initial="sql", max_attempts=50, backoff=soon, transactional=True):
    @step
    async def sql(self, ctx: Context[Any]) -> Outcome:
        return await self.count(ctx, "async")

    @step("async")
    async def async_(self, ctx: Context[Any]) -> Outcome:
        return await self.count(ctx, "sql")

    async def count(self, ctx: Context[Any], to: str) -> Outcome:
        with ran(ctx):
            notes = [signal for signal in ctx.signals if signal.name == "note"]
            shown = Jsonb([{"name": "note", "payload": signal.payload} for signal in notes])
            await ctx.conn.execute(NOTE, (Jsonb(ctx.state["teller"]), shown, f"{ctx.step} in Python"))
            state = {**ctx.state, "n": ctx.state["n"] + len(notes)}
            if len(notes) == len(ctx.signals):
                return Await(("note", "close"), state, step=to, consume=notes)
            return Next(to, state, consume=notes) if notes else Done(state)


class Order(FSM, name="bank.order", queue=QUEUE, max_attempts=50, backoff=soon):
    @step
    def start(self, ctx: Context[Any]) -> Outcome:
        with ran(ctx):
            return Await("paid", step=("sync", "sql")[ctx.state["order"] % 2])

    @step(transactional=True)
    def sync(self, ctx: Context[Any]) -> Outcome:
        with ran(ctx):
            ctx.conn.execute(APPLY, (f"order:{ctx.state['order']}", f"{ctx.step} in Python"))
            return Done({"signals": len(ctx.signals)})

    @step(transactional=True)
    def sql(self, ctx: Context[Any]) -> Outcome:
        return self.sync(ctx)


MACHINES: list[Any] = [Transfer, Receipt, Teller, Order]
