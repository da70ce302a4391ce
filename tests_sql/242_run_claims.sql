\ir helpers/tap.psql
select no_plan();

-- gd_run_claims, rule by rule: what a step writes into the database is committed with its transition, or not at all

\ir helpers/steps.psql

-- what a handler gets and what it returns

create table app.seen (ctx jsonb);
create function app.look(ctx jsonb) returns jsonb language sql as $$
    insert into app.seen values (ctx);
    select '{"id": 1, "claim_no": 1, "kind": "next", "step": "looked", "keep": true, "state": {"n": 7}}'::jsonb
$$;
select gd_define_step('m', 'look', 'app.look(jsonb)');
select t.hold('look');
select gd_signal(h.id, 'a', '5') from t.held h;
select is(t.told(), 'ok', 'a step is run');
select is(
    (select string_agg(k.name, ' ' order by k.name) from app.seen s cross join jsonb_object_keys(s.ctx) k (name)),
    'attempt attributes awaits childs claim_no fsm id meta parent_id partition_key queue signals state step timed_out unique_key version',
    'the handler gets what a claim shows');
select is((select ctx #>> '{signals,0,name}' from app.seen), 'a', '(with the inbox)');
select is((select v.status || (v.state ->> 'n') from gd_instances v where v.step = 'looked'), 'runnable7',
    'the transition is that of its claim, whatever id it says, and the claim is not kept');

-- a kind, and only one that there is

create function app.none(ctx jsonb) returns jsonb language sql as $$
    select app.add('1'); select case ctx #>> '{state,how}' when 'null' then null when 'array' then '[]' when 'kind' then '{"kind": "go"}'
        when 'key' then '{"kind": "done", "reslut": 1}' when 'big' then '{"kind": "await", "signals": []}' end::jsonb
$$;
select gd_define_step('m', 'none', 'app.none(jsonb)');
select t.hold('none', 1, '{"how": "null"}');
select is(t.told(), 'error GD507', 'null is an error');
select is((select n from app.account where id = 1), 0, '(and what it wrote is undone)');
select t.hold('none', 1, '{"how": "array"}');
select is(t.told(), 'error GD507', 'what is no object');
select t.hold('none', 1, '{"how": "kind"}');
select is(t.told(), 'error GD501', 'an unknown kind');
select t.hold('none', 1, '{"how": "key"}');
select is(t.told(), 'error GD501', 'an unknown key');
select t.hold('none', 1, '{"how": "big"}');
select is(t.told(), 'error GD501', 'a value that is not valid');
select is((select n from app.account where id = 1), 0, '(all of it undone)');
select is((select max(v.last_error) from gd_instances v where v.step = 'none' and v.state ->> 'how' = 'null'),
    'the handler returned no outcome (GD507)', 'the instance says why');
create function app.gives_up(ctx jsonb) returns jsonb language sql as $$ select app.add('1'); select '{"kind": "error", "error": "no"}'::jsonb $$;
select gd_define_step('m', 'gives_up', 'app.gives_up(jsonb)');
select t.hold('gives_up');
select is(t.told(), 'error', 'an error that it returns');
select is((select n from app.account where id = 1), 1, '(keeps what it wrote)');

-- groups: one that fails takes nobody with it, and few savepoints

create function app.pay(ctx jsonb) returns jsonb language plpgsql as $$
begin
    perform nextval('app.calls');
    perform app.add(ctx #> '{state,n}', case when ctx #> '{state,n}' = ctx #> '{state,bad}' then -1 else 1 end);
    return '{"kind": "done"}';
end $$;
select gd_define_step('m', 'pay', 'app.pay(jsonb)');
select t.hold('pay', 100);
select is((select string_agg(distinct r.result, ' ') from t.rows('{"budget_ms": 10000}') r), 'ok', 'a hundred');
select is((select count(*) from app.account where n = 1), 100::bigint, '(each once)');
select cmp_ok((select count(distinct xmin::text) from app.account), '<', 20::bigint, 'in a few sub-transactions');
select is((select last_value from app.calls), 100::bigint, '(no handler was called twice)');
select t.hold('pay', 100, '{"bad": 50}');
create temp table answered as select * from t.rows('{"budget_ms": 10000}');
select is((select count(*) from answered where result = 'ok'), 99::bigint, 'one that raises: all others');
select is((select detail - 'message' from answered where n = 50), '{"again": "first", "sqlstate": "23514"}', 'in company it counts for nothing');
select is((select count(*) from app.account where n = 1), 99::bigint, '(each once, whatever was run again)');
select is((select v.attempt from gd_instances v where v.id = (select h.id from t.held h)), 0, '(no attempt)');
select is(t.told(), 'error 23514', 'alone it does');
select is((select n from app.account where id = 50), 0, '(undone)');
select t.hold('pay', 5, '{"bad": 1}');
select is(t.told(), 'error 23514, ok, ok, ok, ok', 'the first one is alone, others go on behind it');

-- an error counts only alone

create function app.temp(ctx jsonb) returns jsonb language plpgsql as $$
begin
    create temp table scratch (id int) on commit drop;
    return '{"kind": "done"}';
end $$;
select gd_define_step('m', 'temp', 'app.temp(jsonb)');
select t.hold('temp', 3);
select is(t.told(), 'ok, left 42P07, left 42P07', 'a temporary table until the commit');
select is(t.told(), 'ok, left 42P07', 'the next transaction');
select is(t.told(), 'ok', 'and the next');
select is((select max(v.attempt) from gd_instances v where v.step = 'temp'), 0, 'without an attempt burnt');

-- time

select t.hold('pay', 3);
select is(t.told('{"budget_ms": 0}'), 'ok, left, left', 'after its budget a transaction begins nothing more');
select is(t.told('{"budget_ms": 10000}'), 'ok, ok', '(the others)');

-- each in a transaction of its own

select gd_define_step('m', 'alone', 'app.pay(jsonb)', '{"alone": true}');
select t.hold('alone', 3);
select is(t.told('{"budget_ms": 10000}'), 'ok, left, left', 'alone');
select is(t.told('{"budget_ms": 10000}'), 'ok, left', '(one each)');

-- what a handler must leave as it was

create role gd_t_step;
create function app.sets(ctx jsonb) returns jsonb language plpgsql as $$
begin
    execute ctx #>> '{state,set}';
    return '{"kind": "done"}';
end $$;
select gd_define_step('m', 'sets', 'app.sets(jsonb)');
select t.hold('sets', 1, '{"set": "set role gd_t_step"}');
select is(t.told(), 'error GD507', 'the role');
select t.hold('sets', 1, '{"set": "set local role gd_t_step"}');
select is(t.told(), 'error GD507', '(also for the transaction)');
select t.hold('sets', 1, '{"set": "set session authorization gd_t_step"}');
select is(t.told(), 'error GD507', 'the role that logged in');
select t.hold('sets', 1, '{"set": "set search_path = app"}');
select is(t.told(), 'error GD507', 'the search_path');
select t.hold('sets', 2, '{"set": "set transaction read only"}');
select is(t.told(), 'error GD507, error GD507', 'READ ONLY');
select is(current_user::text || session_user || current_setting('search_path') || current_setting('transaction_read_only'),
    session_user || session_user || '"$user", public' || 'off', 'all is as it was');
select t.hold('sets', 1, '{"set": "set local work_mem = ''5MB''"}');
select is(t.told(), 'ok', 'other settings are its own matter');
drop role gd_t_step;

-- names mean to a handler what they mean to the caller

create function app.path(ctx jsonb) returns jsonb language sql as $$
    select jsonb_build_object('kind', 'done', 'result', current_setting('search_path') || ' ' || current_setting('lock_timeout'))
$$;
select gd_define_step('m', 'path', 'app.path(jsonb)');
select t.hold('path');
set search_path = public, app;
set lock_timeout = '7s';
select is(t.told(), 'ok', '(run)');
select is((select v.result from gd_instances v where v.step = 'path'), '"public, app 7s"', 'its search_path, and its lock_timeout for the first one');
select is(current_setting('search_path') || current_setting('lock_timeout'), 'public, app7s', 'which stay');
reset search_path;
reset lock_timeout;

select t.hold('path', 3);
create temp table path as select h.id from t.held h;
select is(t.told('{"lock_ms": 700}'), 'ok, ok, ok', '(three)');
select results_eq(
    $$select split_part(v.result #>> '{}', ' ', 3) from gd_instances v join path using (id) order by v.id$$,
    $$values ('700ms'), ('20ms'), ('20ms')$$, 'without one the first waits for lock_ms, and those behind it hardly at all');

-- constraints that are checked at the commit

create table app.child (id int primary key, account int references app.account (id) deferrable initially deferred);
create function app.defers(ctx jsonb) returns jsonb language plpgsql as $$
begin
    insert into app.child values ((ctx #> '{state,n}')::int, case when ctx #> '{state,n}' = '6' then 1000 else 1 end);
    return '{"kind": "done"}';
end $$;
select gd_define_step('m', 'defers', 'app.defers(jsonb)');
select t.hold('defers', 8);
select is(t.told('{"budget_ms": 10000}'), 'ok, ok, ok, ok, ok, left 23503, ok, ok', 'are checked while it is known whose they are');
select is(t.told(), 'error 23503', '(alone)');
select is((select count(*) from app.child), 7::bigint, '(the others are there)');
delete from app.child;

-- claims that handlers end

create function app.ends(ctx jsonb) returns jsonb language plpgsql as $$
begin
    perform app.add(ctx #> '{state,n}');
    if ctx #>> '{state,n}' = '5' then
        perform gd_cancel(v.id) from gd_instances v
        where v.queue = ctx ->> 'queue' and v.id = (ctx ->> 'id')::bigint + (ctx #> '{state,by}')::int;
    end if;
    return '{"kind": "done"}';
end $$;
select gd_define_step('m', 'ends', 'app.ends(jsonb)');
select t.hold('ends', 8, '{"by": 0}');
select is(t.told('{"budget_ms": 10000}'), 'ok, ok, ok, ok, left, ok, ok, ok', 'its own: not in company');
select is(t.told(), 'error GD507', 'alone it is an error');
select is((select n from app.account where id = 5), 0, '(undone)');
select t.hold('ends', 8, '{"by": 1}');
select is(t.told('{"budget_ms": 10000}'), 'ok, ok, ok, ok, ok, left, ok, ok', 'that of the next one');
select t.hold('ends', 1, '{"by": 0}');
update t.held set claim_no = claim_no - 1;
select is(t.told(), 'stale', 'a claim that was lost is stale');
select is((select n from app.account where id = 1), 0, '(and its handler is not called)');

-- a function that is not there

create function app.misses(ctx jsonb) returns jsonb language plpgsql as $$
begin
    perform nextval('app.calls');
    perform app.never_was();
    return '{"kind": "done"}';
end $$;
select gd_define_step('m', 'misses', 'app.misses(jsonb)');
select t.hold('misses');
select is(t.told(), 'error 42883', 'something that the handler calls is missing');
select is((select last_value from app.calls), 2::bigint, 'it was called once more: it might have been replaced');
select t.hold('misses');
drop function app.misses(jsonb);
select is(t.told(), 'no_handler', 'the handler itself is');
select t.hold('never');
select is(t.told(), 'no_handler', 'nobody has defined one');
select is((select v.status from gd_instances v where v.id = (select h.id from t.held h)), 'executing', '(its claim stands)');

-- no steps inside of a step; no commit

create function app.nests(ctx jsonb) returns jsonb language plpgsql as $$
begin
    perform gd_run_claims('w', '[]');
    return '{"kind": "done"}';
end $$;
create function app.commits(ctx jsonb) returns jsonb language plpgsql as $$
begin
    commit;
    return '{"kind": "done"}';
end $$;
create function app.inserts(ctx jsonb) returns jsonb language sql as $$
    select gd_insert('m', p_step => 'made', p_queue => 'made');
    select '{"kind": "done"}'::jsonb
$$;
create function app.asserts(ctx jsonb) returns jsonb language plpgsql as $$ begin assert false; return '{"kind": "done"}'; end $$;
select gd_define_step('m', 'nests', 'app.nests(jsonb)'), gd_define_step('m', 'commits', 'app.commits(jsonb)');
select gd_define_step('m', 'inserts', 'app.inserts(jsonb)'), gd_define_step('m', 'asserts', 'app.asserts(jsonb)');
select t.hold('nests');
select is(t.told(), 'error GD507', 'a step does not run steps');
select t.hold('commits');
select matches(t.told(), '^error (2D000|0A000)$', 'nor commits');
select t.hold('asserts');
select is(t.told(), 'error P0004', 'an assertion is an error as any other');
select t.hold('inserts');
select is(t.told(), 'ok', 'it may insert instances');
select is((select count(*) from gd_instances v where v.step = 'made'), 1::bigint, '(it did)');

-- many at once

create function app.many(ctxs jsonb) returns setof jsonb language plpgsql as $$
begin
    perform nextval('app.calls');
    perform app.add(c #> '{state,n}', case when c #> '{state,n}' = c #> '{state,bad}' then -1 else 1 end) from jsonb_array_elements(ctxs) c;
    return query
        select jsonb_build_object('id', c -> 'id', 'kind', 'done')
        from jsonb_array_elements(ctxs) c
        where coalesce(c #> '{state,n}' <> c #> '{state,lost}', true)
        order by (c -> 'id')::bigint desc;
    if ctxs #> '{0,state,more}' is not null then
        return next '{"id": 1, "kind": "done"}'::jsonb;
    end if;
end $$;
select gd_define_step('m', 'many', 'app.many(jsonb)');
select t.hold('many', 100);
select is((select string_agg(distinct r.result, ' ') from t.rows('{"budget_ms": 10000}') r), 'ok', 'a set-based handler');
select is((select last_value from app.calls), 1::bigint, 'all in one call');
select t.hold('many', 8, '{"bad": 3}');
select is(t.told('{"budget_ms": 10000}'), 'ok, ok, left 23514, ok, ok, ok, ok, ok', 'one that makes it raise is found in halves');
select is(t.told(), 'error 23514', '(alone)');
select t.hold('many', 4, '{"lost": 2}');
select is(t.told('{"budget_ms": 10000}'), 'ok, left GD507, ok, ok', 'one that it forgets');
select is((select n from app.account where id = 2), 0, '(has no effect)');
select is(t.told(), 'error GD507', '(alone)');
select t.hold('many', 1, '{"more": 1}');
select is(t.told(), 'error GD507', 'one that nobody asked for');

-- bad calls

select t.raises($$select gd_run_claims('w', '{}')$$, 'GD501', 'claims are an array');
select t.raises($$select gd_run_claims('w', '[[1]]')$$, 'GD501', 'of pairs');
select t.raises($$select gd_run_claims('', '[]')$$, 'GD501', 'a worker has a name');
select t.raises($$select gd_run_claims('w', '[]', '{"budget": 1}')$$, 'GD501', 'an unknown option');
select t.raises($$select gd_run_claims('w', '[]', '{"lock_ms": -1}')$$, 'GD501', 'a negative one');
select is_empty($$select * from gd_run_claims('w', '[]')$$, 'no claims: no answers');
select t.hold('pay', 1);
insert into t.held (id, claim_no) select id, claim_no from t.held;
select is((select string_agg(r.result, ' ') from t.rows() r), 'ok stale', 'the same claim twice: once');
set default_transaction_isolation = 'repeatable read';
select t.raises($$select gd_run_claims('w', '[]')$$, 'GD504', 'not under a fixed snapshot');
reset default_transaction_isolation;
select t.hold('pay', 1);
set default_transaction_read_only = on;
select throws_ok($$select t.told()$$, '25006', null, 'nor in a transaction that only reads');
reset default_transaction_read_only;

select * from finish();
