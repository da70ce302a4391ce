\ir helpers/tap.psql
select no_plan();

-- A group of handlers and their commit: what one of them does wrong costs the others nothing, however it does it

\ir helpers/steps.psql

create function app.acts(ctx jsonb) returns jsonb language plpgsql as $$
begin
    perform nextval('app.calls');
    perform app.add(ctx #> '{state,n}');
    if ctx #> '{state,bad}' @> (ctx #> '{state,n}') then
        execute format(ctx #>> '{state,do}', ctx -> 'id', ctx -> 'claim_no');
    end if;
    return coalesce(ctx #> '{state,out}', '{"kind": "done"}');
end $$;
select gd_define_step('m', 'acts', 'app.acts(jsonb)');
create function t.paid() returns text language sql as $$
    select string_agg(a.id || case when a.n = 1 then '' else 'x' || a.n end, ' ' order by a.id) from app.account a where a.n <> 0
$$;

-- five rounds: a group in which ever more of them fail has an end

select t.hold('acts', 30, '{"bad": [6, 8, 10, 12, 14, 16, 18, 20], "do": "select 1 / 0"}');
create temp table rounds as select * from t.rows('{"budget_ms": 10000}');
select is((select string_agg(n::text, ' ' order by n) from rounds where result = 'ok'), '1 2 3 4', 'those before the group are done');
select is((select string_agg(n::text, ' ' order by n) from rounds where detail ->> 'sqlstate' = '22012'), '6 8 10 12',
    'four of the group are known to fail');
select is((select string_agg(distinct result, ' ') from rounds where n > 4), 'left', 'the rest of it is left');
select is(t.paid(), '1 2 3 4', '(undone)');
select is((select max(v.attempt) from gd_instances v where v.step = 'acts'), 0, 'without an attempt burnt');

-- slow ones: a statement takes a quarter of the budget at most

create function app.slow(ctx jsonb) returns jsonb language plpgsql as $$
begin
    perform app.add(ctx #> '{state,n}');
    perform pg_sleep(0.01);
    return '{"kind": "done"}';
end $$;
select gd_define_step('m', 'slow', 'app.slow(jsonb)');
select t.hold('slow', 60);
select t.rows('{"budget_ms": 400}') is not null as ran into temp table slow;
select cmp_ok(
    (select max(g.count) from (select count(*) from app.account a where a.n = 1 group by a.xmin::text) g), '<=', 10::bigint,
    'so slow ones run in small groups');
select cmp_ok((select count(*) from app.account where n = 1), '>=', 4::bigint, '(some ran)');

-- what a handler must leave as it was, in company

create role gd_t_group;
create function t.one_of_many(p_do text, p_state text, p_about text, p_told boolean = true) returns setof text language plpgsql as $$
begin
    perform t.hold('acts', 12, jsonb_build_object('bad', '[7]'::jsonb, 'do', p_do));
    return next is(t.told('{"budget_ms": 10000}'),
        array_to_string(array_fill('ok'::text, array[6]) || ('left' || case when p_told then ' ' || p_state else '' end) || array_fill('ok'::text, array[5]), ', '),
        p_about || ': the others are done');
    return next is(t.told(), 'error ' || p_state, p_about || ': alone it is an error');
    return next is(t.paid(), '1 2 3 4 5 6 8 9 10 11 12', p_about || ': its effect is undone');
end $$;
select t.one_of_many('set role gd_t_group', 'GD507', 'role');
select t.one_of_many('select set_config(''role'', ''gd_t_group'', false)', 'GD507', 'role by set_config');
select t.one_of_many('set session authorization gd_t_group', 'GD507', 'session authorization');
select t.one_of_many('set search_path = app', 'GD507', 'search_path');
select t.one_of_many('set local search_path = ''''', 'GD507', 'search_path of the transaction');
select t.one_of_many('set transaction read only', 'GD507', 'READ ONLY');
select is(current_user::text || session_user || current_setting('search_path') || current_setting('transaction_read_only'),
    session_user || session_user || '"$user", public' || 'off', 'all is as it was');
drop role gd_t_group;

-- constraints that are checked at the commit: also triggers, and of one that several wrote

create table app.pair (id int primary key, other int);
create function app.check_pair() returns trigger language plpgsql as $$
begin
    if not exists (select from app.pair p where p.id = new.other) then
        raise exception using errcode = '23514', message = 'the other one is missing';
    end if;
    return null;
end $$;
create constraint trigger pair after insert on app.pair deferrable initially deferred for each row execute function app.check_pair();
select t.one_of_many('insert into app.pair values (1, 2)', '23514', 'a deferred trigger');
select t.one_of_many('set constraints all deferred; insert into app.pair values (1, 2)', '23514', 'one that the handler defers again');
select t.one_of_many('insert into app.pair values (1, 2); set constraints all immediate', '23514', 'one that it looks at itself');
select t.hold('acts', 1, '{"bad": [1], "do": "insert into app.pair values (1, 2), (2, 1)"}');
select is(t.told(), 'ok', 'what is whole at the end of the handler is');

-- claims that handlers end: their own in every way, and those before and behind them

select t.one_of_many('select gd_commit(''w'', ''[{"id": %1$s, "claim_no": %2$s, "kind": "done"}]'')', 'GD507', 'commits its own', false);
select t.one_of_many('select gd_commit_one(''w'', ''{"id": %1$s, "claim_no": %2$s, "kind": "done"}'')', 'GD507', 'commits it by gd_commit_one', false);
select t.one_of_many('select gd_release(''w'', ''[[%1$s, %2$s]]'')', 'GD507', 'releases its own', false);
select t.one_of_many('select gd_cancel(%1$s)', 'GD507', 'cancels its own', false);
select t.hold('acts', 12, '{"bad": [7], "do": "select gd_cancel(%1$s + 1), gd_cancel(%1$s)"}');
select is(t.told('{"budget_ms": 10000}'), 'ok, ok, ok, ok, ok, ok, left, left, ok, ok, ok, ok', 'its own and the next one');
select is(t.told(), 'error GD507, ok', '(each by itself: both are as they were)');
select t.hold('acts', 12, '{"bad": [7], "do": "select gd_cancel(%1$s - 1)"}');
select is(t.told('{"budget_ms": 10000}'), 'ok, ok, ok, ok, ok, left, ok, ok, ok, ok, ok, ok', 'one that cancels the one before it');
select is((select count(*) from t.held), 0::bigint, '(which has ended)');
select is(t.paid(), '1 2 3 4 5 7 8 9 10 11 12', '(without an effect)');

-- functions that are replaced meanwhile: once more before it counts

create function app.replaced(ctx jsonb) returns jsonb language plpgsql as $$
begin
    if nextval('app.calls') <= (ctx #> '{state,misses}')::int then
        raise exception using errcode = ctx #>> '{state,code}', message = 'cache lookup failed for function 1';
    end if;
    return '{"kind": "done"}';
end $$;
select gd_define_step('m', 'replaced', 'app.replaced(jsonb)');
select t.hold('replaced', 1, '{"code": "XX000", "misses": 1}');
select is(t.told(), 'ok', 'an internal error that is gone the next time');
select t.hold('replaced', 1, '{"code": "42883", "misses": 1}');
select is(t.told(), 'ok', 'a function that is there the next time');
select t.hold('replaced', 1, '{"code": "XX000", "misses": 2}');
select is(t.told(), 'error XX000', 'one that stays');
select t.hold('replaced', 1, '{"code": "22012", "misses": 1}');
select is(t.told(), 'error 22012', 'any other error counts at once');

-- no steps inside of a step, in no way

select t.one_of_many('select gd_run_claims(''w'', ''[[%1$s, %2$s]]'')', 'GD507', 'runs its own claim');
select t.one_of_many('call gd_run()', '2D000', 'calls gd_run');
select t.hold('acts', 1);
select is(t.told(), 'ok', 'and then all is as before');
select is(current_setting('gendurable.running'), '', '(the mark is gone)');

-- what the commit raises is nobody's here: it goes up, with all

create function app.fails() returns trigger language plpgsql as $$
begin
    raise exception using errcode = '53200', message = 'out of memory';
end $$;
create trigger fails before update on gendurable.instance for each row when (new.status = 'done') execute function app.fails();
select t.hold('acts', 6);
select throws_ok('select t.told()', '53200', 'out of memory', 'an error of the commit itself');
select is(t.paid(), null, '(nothing is written)');
drop trigger fails on gendurable.instance;
select is(t.told('{"budget_ms": 10000}'), 'ok, ok, ok, ok, ok, ok', '(and all can run again)');

-- many at once: one outcome for each, and no other

create function app.answers(ctxs jsonb) returns setof jsonb language plpgsql as $$
begin
    perform nextval('app.calls');
    perform app.add(c #> '{state,n}') from jsonb_array_elements(ctxs) c;
    return query
        select case c #>> '{state,how}'
            when 'twice' then jsonb_build_object('id', ctxs #> '{0,id}', 'kind', 'done')
            when 'null' then case when c #> '{state,n}' <> '3' then jsonb_build_object('id', c -> 'id', 'kind', 'done') end
            when 'text' then jsonb_build_object('id', c ->> 'id', 'kind', 'done')
            else case
                when c #> '{state,n}' <> '3' then jsonb_build_object('id', c -> 'id', 'kind', 'done')
                else jsonb_build_object('id', c -> 'id', 'kind', 'go')
            end
        end
        from jsonb_array_elements(ctxs) c;
end $$;
select gd_define_step('m', 'answers', 'app.answers(jsonb)');
select t.hold('answers', 4, '{"how": "kind"}');
select is(t.told('{"budget_ms": 10000}'), 'ok, ok, left, ok', 'one outcome that is not valid');
select is(t.told(), 'error GD501', '(alone)');
select is(t.paid(), '1 2 4', '(undone)');
select t.hold('answers', 4, '{"how": "null"}');
select is(t.told('{"budget_ms": 10000}'), 'ok, ok, left GD507, ok', 'one that is null');
select t.hold('answers', 2, '{"how": "twice"}');
select is(t.told('{"budget_ms": 10000}'), 'ok, ok', 'one for the same instance twice: each by itself is right');
select is((select last_value from app.calls), 3::bigint, '(called for both, and for each)');
select t.hold('answers', 1, '{"how": "text"}');
select is(t.told(), 'error GD507', 'an id that is no number');

select * from finish();
