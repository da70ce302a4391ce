\ir helpers/tap.psql
select no_plan();

create schema app;
create function app.up(s jsonb) returns jsonb language sql as $$ select s || '{"up": true}' $$;
create function app.up_some(s jsonb) returns jsonb language plpgsql as $$
begin
    if s ? 'bad' then
        raise exception 'no way' using errcode = 'MY001';
    elsif s ? 'assert' then
        assert false, 'not so';
    elsif s ? 'null' then
        return null;
    elsif s ? 'array' then
        return '[]'::jsonb;
    end if;
    insert into app.seen select s;
    return s || '{"up": true}';
end $$;
create table app.seen (s jsonb);
select gd_register('m', 1, 'start', 'mq', '{"steps": ["a", "b", "gone"], "history": "steps"}');
select gd_register('m', 2, 'start', 'mq', '{"steps": ["a2", "b"]}');
select gd_register('else', 1, 'start', 'mq');

create function t.migrate(p_steps jsonb = '{}', p_state regprocedure = null) returns setof text
language sql as $$
    select concat_ws(' ', r.id::text, r.result, r.step, r.problem, r.next::text) from gd_migrate('m', 1, 2, p_steps, p_state) r
$$;
create function t.row(p_id bigint) returns text
language sql as $$
    select format('v%s %s %s %s', i.fsm_version, i.step, i.status, i.state) from gendurable.instance i where i.id = p_id
$$;

-- what is moved, and what is not

select gd_insert('m', '{"n": 1}', p_version => 1, p_step => 'a') as due, gd_insert('m', p_version => 1, p_step => 'b', p_delay => '1 day') as later,
    gd_insert('m', p_version => 1, p_queue => 'x') as runs, gd_insert('m', p_version => 1, p_queue => 'y') as waits,
    gd_insert('m', p_version => 1, p_queue => 'z') as family, gd_insert('m', p_version => 1, p_step => 'gone') as gone,
    gd_insert('m', p_version => 1, p_queue => 'done') as done, gd_insert('m', p_version => 1, p_queue => 'failed') as failed,
    gd_insert('m', p_version => 1) as cancelled, gd_insert('m', p_version => 2) as there, gd_insert('else') as other \gset
select count(*) from unnest('{x,y,z,done,failed}'::text[]) q (queue) cross join lateral t.take(q.queue) \gset taken_
select t.put(:waits, '{"kind": "await", "signals": ["s"], "step": "b", "timeout_ms": 1000000}');
select t.put(:family, '{"kind": "schedule_childs", "step": "b", "childs": [{"fsm": "else"}]}');
select t.put(:done, '{"kind": "done"}');
select t.put(:failed, '{"kind": "stop", "reason": "why"}');
select gd_cancel(:cancelled);
create temp table before as select i.* from gendurable.instance i;
select results_eq(
    $$select t.migrate('{"a": "a2", "never": "b"}')$$,
    format($$values ('%s done a2'), ('%s done b'), ('%s executing start'), ('%s done b'), ('%s done b'), ('%s no gone %s'), ('%s done start'),
        ('%s done start')$$,
        :due, :later, :runs, :waits, :family, :gone,
        'version 2 of the machine ''''m'''' has no step ''''gone'''': its steps are ''''a2'''', ''''b'''', ''''start''''',
        :failed, :cancelled),
    'all but what runs, what is done, and what would stand at a step that there is not');
select is(t.row(:due), 'v2 a2 runnable {"n": 1}', 'a step that has another name');
select is(t.row(:later), 'v2 b runnable {}', 'one that has not');
select is(t.row(:runs), 'v1 start executing {}', 'what runs stays');
select is(t.row(:waits), 'v2 b awaiting_signal {}', 'what awaits goes on awaiting');
select is(t.row(:family), 'v2 b awaiting_children {}', 'so with children');
select is(t.row(:gone), 'v1 gone runnable {}', 'what cannot go stays');
select is(t.row(:done), 'v1 start done {}', 'what is done as well');
select is(t.row(:failed), 'v2 start failed {}', 'what has failed may run again');
select is_empty(
    $$select b.id from before b join gendurable.instance i using (id)
      where (to_jsonb(b) - '{fsm_version,step,updated_at}'::text[]) <> (to_jsonb(i) - '{fsm_version,step,updated_at}'::text[])$$,
    'and nothing else of any row is written');
select is((select h.kind || ' ' || h.step || ' ' || h.next_step || ' ' || (h.detail - 'by')::text || (h.detail ->> 'by' = session_user)::text
    from gd_history(:due) h), 'migrated a a2 {"to": 2, "from": 1}true', 'the history tells it');
select is((select a.what || jsonb_build_object('count', a.count) from gd_audit() a where a.call = 'gd_migrate'),
    '{"fsm": "m", "from": 1, "to": 2, "count": 6}', 'so does the audit');
select is(gd_signal(:waits, 's'), 'delivered', 'a signal finds it');
select is((select string_agg(c.fsm_version || c.step, ' ' order by c.id) from t.take('y') c), '2b', 'and it goes on in the new version');
select is(gd_retry(:failed), true, 'what had failed is tried again');
select is((select string_agg(c.fsm_version || c.step, ' ' order by c.id) from t.take('failed') c), '2start', '(in the new version)');
select t.put(x.id, '{"kind": "done"}') from unnest(array[:waits, :failed]::bigint[]) x (id);
select results_eq($$select t.migrate('{"a": "a2"}')$$, format($$values ('%s executing start'), ('%s no gone %s')$$, :runs, :gone,
    'version 2 of the machine ''''m'''' has no step ''''gone'''': its steps are ''''a2'''', ''''b'''', ''''start'''''), 'again only what is left');
select gd_define_step('m', 'gone');
select is((select count(*) from t.migrate() x where x like '%done gone'), 1::bigint, 'a step that is defined is one');
select t.put(:runs, '{"kind": "next", "step": "a"}');
select results_eq($$select t.migrate('{"a": "a2"}')$$, format($$values ('%s done a2')$$, :runs), 'what ran comes behind its step');
select is_empty('select t.migrate()', 'nothing is left');

-- a function over the state

select gd_insert('m', '{"n": 1}', p_version => 1, p_step => 'a') as one, gd_insert('m', '{"bad": 1}', p_version => 1, p_step => 'a') as bad,
    gd_insert('m', '{"null": 1}', p_version => 1, p_step => 'a') as nothing, gd_insert('m', '{"n": 2}', p_version => 1, p_step => 'b') as two,
    gd_insert('m', '{"array": 1}', p_version => 1, p_step => 'b') as listed, gd_insert('m', '{"assert": 1}', p_version => 1, p_step => 'b') as asserts \gset
select results_eq($$select id, result, step, state, problem from gd_migrate('m', 1, 2, '{"a": "a2"}', 'app.up_some(jsonb)', p_dry_run => true)$$,
    format($$values
    (%s::bigint, 'done', 'a2', '{"n": 1, "up": true}'::jsonb, null), (%s, 'no', 'a2', null, 'no way (MY001)'),
    (%s, 'no', 'a2', null, 'the function returned no object (GD501)'), (%s, 'done', 'b', '{"n": 2, "up": true}', null),
    (%s, 'no', 'b', null, 'the function returned no object (GD501)'), (%s, 'no', 'b', null, 'not so (P0004)')$$, :one, :bad, :nothing, :two, :listed, :asserts),
    'a dry run says what would be');
select is_empty('select from app.seen', 'and leaves nothing');
select is(t.row(:one), 'v1 a runnable {"n": 1}', '(nor here)');
select is((select count(*) from pg_locks l where l.pid = pg_backend_pid() and l.locktype = 'transactionid'), 0::bigint, '(nor a lock)');
select results_eq($$select t.migrate('{"a": "a2"}', 'app.up_some(jsonb)')$$, format($$values ('%s done a2'), ('%s no a2 no way (MY001)'),
    ('%s no a2 the function returned no object (GD501)'), ('%s done b'), ('%s no b the function returned no object (GD501)'), ('%s no b not so (P0004)')$$,
    :one, :bad, :nothing, :two, :listed, :asserts), 'an error costs its row');
select is(t.row(:one), 'v2 a2 runnable {"n": 1, "up": true}', 'the others are moved');
select is(t.row(:two), 'v2 b runnable {"n": 2, "up": true}', '(all of them)');
select is(t.row(:bad), 'v1 a runnable {"bad": 1}', 'and it stays');
select results_eq('select s from app.seen order by s', $$values ('{"n": 1}'::jsonb), ('{"n": 2}')$$, 'what the function did for the others is there, once');
select t.migrate(p_steps => '{"a": "a2"}');

-- what it does not take

select t.raises(format('select * from gd_migrate(%s)', x.args), 'GD501', x.args)
from (values ($$null, 1, 2$$), ($$'', 1, 2$$), ($$'m', null, 2$$), ($$'m', 1, null$$), ($$'m', 1, 1$$), ($$'m', 1, 3$$), ($$'none', 1, 2$$),
    ($$'m', 1, 2, '[]'$$), ($$'m', 1, 2, '{"a": 1}'$$), ($$'m', 1, 2, '{"a": ""}'$$), ($$'m', 1, 2, '{"a": null}'$$), ($$'m', 1, 2, '{"a": "zz"}'$$),
    ($$'m', 1, 2, (select jsonb_object_agg(g, 'b') from generate_series(1, 1001) g)$$),
    ($$'m', 1, 2, p_limit => 0$$), ($$'m', 1, 2, p_limit => -1$$), ($$'m', 1, 2, p_limit => 10001$$), ($$'m', 1, 2, p_look => 0$$),
    ($$'m', 1, 2, p_state => 'pg_catalog.jsonb_strip_nulls(jsonb)'$$), ($$'m', 1, 2, p_state => 'pg_catalog.now()'$$),
    ($$'m', 1, 2, p_state => 0::regprocedure$$)) x (args)
where x.args not like '%strip_nulls%' or current_setting('server_version_num')::int < 180000;
create function app.sets(s jsonb) returns setof jsonb language sql as $$ select s $$;
create function app.texts(s jsonb) returns text language sql as $$ select s::text $$;
create function app.many(variadic s jsonb[]) returns jsonb language sql as $$ select s[1] $$;
create procedure app.does(s jsonb) language sql as $$ select s $$;
select t.raises(format('select * from gd_migrate(''m'', 1, 2, p_state => %L)', x.f), 'GD501', x.f)
from unnest('{app.sets(jsonb),app.texts(jsonb),app.many(jsonb[]),app.does(jsonb)}'::text[]) x (f);
select is_empty($$select from gd_migrate('m', 1, 2, null, null, null, null, null, null)$$, 'null is the default');
set default_transaction_isolation = 'repeatable read';
begin;
select t.raises($$select from gd_migrate('m', 1, 2)$$, 'GD504', 'under a fixed snapshot');
rollback;
set default_transaction_isolation = 'read committed';

-- by and by

select gd_register('p', 1, 'start', 'pq'), gd_register('p', 2, 'start', 'pq');
create temp table rows as select n.id from gd_insert_many((select jsonb_agg(jsonb_build_object('fsm', case g % 2 when 0 then 'p' else 'else' end,
    'version', 1, 'queue', 'pq')) from generate_series(1, 40) g)) n;
create function t.pages(p_limit int, p_look int, p_after bigint) returns text
language plpgsql as $$
declare
    v_after bigint := p_after;
    v_pages int := 0;
    v_moved int := 0;
    v_row record;
    v_next bigint;
begin
    loop
        v_next := null;
        v_pages := v_pages + 1;
        for v_row in select * from gd_migrate('p', 1, 2, p_limit => p_limit, p_after => v_after, p_look => p_look) loop
            v_moved := v_moved + (v_row.result = 'done' and v_row.id is not null)::int;
            v_next := v_row.next;
        end loop;
        exit when v_next is null;
        v_after := v_next;
    end loop;
    return v_moved || ' in ' || v_pages;
end $$;
select min(r.id) - 1 as before from rows r \gset
select is(t.pages(7, 1000, :before), '20 in 3', 'so many at once');
update gendurable.instance i set fsm_version = 1 where i.fsm = 'p';
select is(t.pages(1000, 10, :before), '20 in 5', 'so many are looked at');
update gendurable.instance i set fsm_version = 1 where i.fsm = 'p';
select is((select string_agg(r.result || coalesce(r.next::text, ''), ' ') from gd_migrate('p', 1, 2, p_limit => 20) r),
    repeat('done ', 19) || 'done', 'exactly as many as there are: no next');

-- keys and queues

select gd_register('k', 1, 'start', 'kq'), gd_register('k', 2, 'start', 'kq'), gd_register('k', 3, 'start', 'kq');
select gd_insert('k', p_version => 1, p_partition_key => 'key') as first, gd_insert('k', p_version => 1, p_partition_key => 'key') as second,
    gd_insert('k', p_version => 1, p_partition_key => 'key') as third \gset
select count(*) from t.take('kq', 3) \gset taken_
select count(*) from t.take('kq', 3) \gset taken_
select is((select string_agg(i.status || (i.eligible_at is null)::text, ' ' order by i.id) from gendurable.instance i where i.partition_key = 'key'),
    'executingfalse runnabletrue runnabletrue', 'two are parked');
create temp table places as select i.id, i.lane_at, i.eligible_at from gendurable.instance i where i.partition_key = 'key';
select is((select string_agg(r.result, ' ') from gd_migrate('k', 1, 2) r), 'executing done done', 'parked rows are moved');
select is_empty($$select p.id from places p join gendurable.instance i using (id)
    where (p.lane_at, p.eligible_at) is distinct from (i.lane_at, i.eligible_at)$$,
    'and keep their places');
select gd_define_step('k', 'far', p_options => '{"queue": "far"}');
select is((select string_agg(r.result, ' ') from gd_migrate('k', 2, 3, '{"start": "far"}') r), 'done done', 'to a step with a queue of its own');
select results_eq($$select queue, home from gendurable.instance where fsm = 'k' and fsm_version = 3$$,
    $$values ('far', 'kq'), ('far', 'kq')$$, 'they stand there');
select t.put(:first, '{"kind": "done"}');
select is((select string_agg(c.id::text, ' ') from t.take('far', 2) c), :'second', 'the next of the key is found there, in its turn');
select t.put(:second, '{"kind": "done"}');
select is((select string_agg(c.id::text, ' ') from t.take('far', 2) c), :'third', 'and the last one');
select t.put(:third, '{"kind": "done"}');
-- the row whose turn it is moves to a queue that nobody serves: it is the baton there
select gd_insert('k', p_version => 1, p_partition_key => 'two') as first,
    gd_insert('k', p_version => 1, p_partition_key => 'two', p_queue => 'kq2') as second \gset
select is((select string_agg(r.result, ' ') from gd_migrate('k', 1, 3, '{"start": "far"}') r), 'done done', 'both are due');
select is((select string_agg(c.id::text, ' ') from t.take('far', 2) c), :'first', 'one may start');
select t.put(:first, '{"kind": "done"}');
select is((select string_agg(c.id::text, ' ') from t.take('far', 2) c), :'second', 'then the other');

-- rows of more keys than a transaction locks
select gd_register('wide', 1, 'start', 'wide'), gd_register('wide', 2, 'start', 'wide');
select count(*) from gd_insert_many((select jsonb_agg(jsonb_build_object('fsm', 'wide', 'version', 1, 'partition_key', 'w' || g))
    from generate_series(1, 600) g)) \gset made_
select results_eq($$select result, count(*) from gd_migrate('wide', 1, 2, p_limit => 1000) group by 1 order by 1$$,
    $$values ('busy', 100::bigint), ('done', 500)$$, 'the others are asked for again');
select results_eq($$select result, count(*) from gd_migrate('wide', 1, 2, p_limit => 1000) group by 1$$, $$values ('done', 100::bigint)$$, '(and moved)');

-- by bytes
select gd_register('large', 1, 'start', 'large'), gd_register('large', 2, 'start', 'large');
select gd_insert('large', jsonb_build_object('x', (select string_agg(md5(g::text), '') from generate_series(1, 200000) g)), p_version => 1)
from generate_series(1, 5);
select is((select count(*) || ' ' || (max(r.next) is not null) from gd_migrate('large', 1, 2, p_state => 'app.up(jsonb)') r
    where r.result is null or r.result = 'done'), '3 true', 'what is moved at once has a bound: two, and where to go on');
select is((select count(*) from gd_migrate('large', 1, 2) r where r.result = 'done'), 3::bigint, 'without a function no state is read');

-- the doors, by themselves: whoever may call them may give them anything
select gd_insert('p', p_version => 1, p_queue => 'door') as id, gd_insert('else', p_queue => 'door') as other \gset
select throws_ok(format($$select gendurable._write_migration('p', 1, 2, array[%s], '{start}', '{"[]"}')$$, :id), 'GD501', null, 'no state that is no object');
select throws_ok(format($$select gendurable._write_migration('p', 1, 2, array[%s], '{""}', null)$$, :id), 'GD501', null, 'no step without a name');
select throws_ok(format($$select gendurable._write_migration('p', 1, 2, array[%s], '{}', null)$$, :id), 'GD501', null, 'nor none');
select throws_ok(format($$select gendurable._write_migration('p', 1, 2, array[%s], '{start}', null)$$, :other), '55P03', null, 'no other machine''s');
select throws_ok(format($$select gendurable._write_migration('p', 1, 9, array[%s], '{start}', null)$$, :id), 'GD501', null, 'no version that there is not');
select throws_ok(format($$select gendurable._write_migration('m', 2, 1, array[%s], '{zz}', null)$$, :due), 'GD501', null, 'nor step');

select * from finish();
