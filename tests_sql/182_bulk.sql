\ir helpers/tap.psql
select no_plan();

-- The ids that fit, walked in pages.
create function t.matched(p_filter jsonb, p_limit int = 1000, p_look int = 20000) returns bigint[]
language plpgsql as $$
declare
    v_ids bigint[] := '{}';
    v_page record;
    v_after bigint := 0;
begin
    loop
        select * into v_page from gd_match(p_filter, v_after, p_limit, p_look);
        v_ids := v_ids || v_page.ids;
        exit when v_page.next is null;
        v_after := v_page.next;
    end loop;
    return v_ids;
end $$;
create function t.found(p_filter jsonb) returns text
language sql as $$
    select coalesce(string_agg(v.meta ->> 'n', ' ' order by v.id), '') from gd_instances v where v.id = any(t.matched(p_filter))
$$;
create function t.results(p_sql text) returns text
language plpgsql as $$
declare
    v_text text;
begin
    execute format('select string_agg(r.result, '' '' order by r.id) from (%s) r', p_sql) into v_text;
    return v_text;
end $$;

-- filters

select gd_insert('fa', p_queue => 'fq1', p_partition_key => 'tenant:1', p_meta => '{"n": "a", "tags": {"x": 1}}') as a \gset
select gd_insert('fb', p_queue => 'fq1', p_partition_key => 'tenant:2', p_unique_key => 'order:7', p_meta => '{"n": "b"}') as b \gset
select gd_insert('fa', p_queue => 'fq2', p_unique_key => 'order:8', p_delay => '1 hour', p_meta => '{"n": "c"}') as c \gset
select gd_insert('fa', p_queue => 'fq3', p_meta => '{"n": "d"}') as d \gset
select t.run('fq3', '{"kind": "stop", "reason": "no route to 100% of hosts"}');
select gd_insert('fb', p_queue => 'fq3', p_meta => '{"n": "e"}') as e \gset
select t.run('fq3', '{"kind": "schedule_childs", "step": "j", "childs": [{"fsm": "fc", "queue": "fq4", "meta": {"n": "f"}, "version": 3}]}');
select t.take('fq1', 1, 'worker 1');
select gendurable._put_bell('fq1', 0, clock_timestamp(), 'bell', null) as _ \gset
update gendurable.instance set rate_limit = 'mail:x', weight = 1 where id = :c;
update gendurable.instance set inserted_at = '2020-01-01Z' where id = :a;
update gendurable.instance set finished_at = '2021-01-01Z' where id = :d;
update gendurable.instance set updated_at = now() - interval '1 hour' where id in (:a, :c, :d, :e);

select is(t.found('{}'), 'a b c d e f', 'no filter: all, and no bell');
select is(t.found(null), 'a b c d e f', 'null: all');
select is(t.found(format('{"id": %s}', :b)::jsonb), 'b', 'id');
select is(t.found(format('{"id": [%s, %s]}', :b, :e)::jsonb), 'b e', 'ids');
select is(t.found('{"id": []}'), '', 'no ids');
select is(t.found('{"id": -1}'), '', 'a bell is no instance');
select is(t.found('{"fsm": "fa"}'), 'a c d', 'fsm');
select is(t.found('{"version": 3}'), 'f', 'version');
select is(t.found('{"step": "j"}'), 'e', 'step');
select is(t.found('{"status": "failed"}'), 'd', 'status');
select is(t.found('{"status": ["failed", "executing"]}'), 'a d', 'statuses');
select is(t.found('{"queue": "fq1"}'), 'a b', 'queue');
select is(t.found('{"partition_key": "tenant:1"}'), 'a', 'partition_key');
select is(t.found('{"partition_prefix": "tenant:"}'), 'a b', 'partition_prefix');
select is(t.found('{"unique_key": "order:8"}'), 'c', 'unique_key');
select is(t.found('{"unique_prefix": "order"}'), 'b c', 'unique_prefix');
select is(t.found('{"unique_prefix": "orde_"}'), '', 'a prefix is no pattern');
select is(t.found('{"rate_limit": "mail"}'), 'c', 'rate_limit: with its partitions');
select is(t.found('{"rate_limit": "mail:x"}'), 'c', 'and one of them');
select is(t.found('{"rate_limit": "mai"}'), '', 'and no other');
select is(t.found(format('{"parent_id": %s}', :e)::jsonb), 'f', 'parent_id');
select is(t.found('{"worker": "worker 1"}'), 'a', 'worker');
select is(t.found('{"error": "100% of"}'), 'd', 'error: a substring, and no pattern');
select is(t.found('{"error": "NO ROUTE"}'), '', 'as it is written');
select is(t.found('{"meta": {"tags": {"x": 1}}}'), 'a', 'meta: what it contains');
select is(t.found('{"inserted_before": "2020-01-02T00:00:00Z"}'), 'a', 'inserted_before');
select is(t.found('{"inserted_after": "2020-01-02T00:00:00Z"}'), 'b c d e f', 'inserted_after');
select is(t.found('{"inserted_after": "2020-01-01T00:00:00Z", "inserted_before": "2020-01-01T00:00:00.000001Z"}'), 'a', 'from, and before');
select is(t.found('{"finished_before": "2021-01-02T00:00:00Z"}'), 'd', 'finished_before');
select is(t.found('{"finished_after": "2021-01-02T00:00:00Z"}'), '', 'finished_after');
select is(t.found(jsonb_build_object('due_before', to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))), 'a b f', 'due_before');
select is(t.found('{"stuck_for_ms": 60000}'), 'a e', 'stuck_for_ms: what has not moved, whoever should do it');
select is(t.found('{"stuck_for_ms": 60000, "fsm": "fa", "status": "executing"}'), 'a', 'all keys have to fit');

select t.raises(format('select gd_match(%L)', f.filter), 'GD501', 'refused: ' || f.filter)
from unnest(array['[]', '"x"', '{"fsmm": "a"}', '{"attribute": {}}', '{"fsm": null}', '{"fsm": 1}', '{"fsm": ""}', '{"fsm": ["a"]}',
    '{"status": "running"}', '{"status": [1]}', '{"status": [null]}', '{"status": {}}', '{"id": "1"}', '{"id": 1.5}', '{"id": 1e30}', '{"id": [null]}',
    '{"version": 1e10}', '{"version": "1"}', '{"parent_id": 1e19}', '{"parent_id": "x"}', '{"meta": []}', '{"meta": null}',
    '{"inserted_before": "yesterday"}', '{"due_before": "2020-01-01"}', '{"due_before": 5}', '{"stuck_for_ms": -1}', '{"stuck_for_ms": "1"}',
    '{"stuck_for_ms": 1e20}', '{"error": 5}']) f (filter);
select is(t.found('{"stuck_for_ms": 9e15}'), '', 'a very long time');
select t.raises($$select gd_match('{}', 0, -1)$$, 'GD501', 'a negative limit');
select t.raises($$select gd_match('{}', 0, 1, 0)$$, 'GD501', 'no looks');
select throws_ok($$select gd_match('{"inserted_before": "2020-99-01T00:00:00Z"}')$$, '22008', null, 'a time that is none');

-- pages

select count(gd_insert('pg', p_queue => 'pg', p_meta => jsonb_build_object('n', g))) from generate_series(1, 25) g;
select min(v.id) - 1 as first, max(v.id) as last from gd_instances v where v.fsm = 'pg' \gset
select is(cardinality(t.matched('{"fsm": "pg"}', 4)), 25, 'page by page');
select is(cardinality(t.matched('{"fsm": "pg"}', 1000, 3)), 25, 'however few are looked at');
select is((select row(cardinality(m.ids), m.next = :first + 10)::text from gd_match('{"fsm": "nobody"}', :first, 5, 10) m), '(0,t)',
    'a page ends behind so many looks, whatever it finds');
select is((select row(m.ids = array[:first + 1, :first + 2]::bigint[], m.next = :first + 2)::text from gd_match('{"fsm": "pg"}', :first, 2, 10) m), '(t,t)',
    'or with as many ids as are wanted');
select is((select row(cardinality(m.ids), m.next)::text from gd_match('{}', :first, 100, 100) m), '(25,)', 'the last page says that it is the last');
select is((select row(m.ids, m.next)::text from gd_match('{}', :last) m), '({},)', 'behind all there is nothing');
select is((select row(m.ids, m.next = 7)::text from gd_match('{}', 7, 0) m), '({},t)', 'no ids wanted: where it was');
select is((select m.ids[1] from gd_match('{}', -100) m), :'a', 'from below all ids on, no bells');
select is((select cardinality(m.ids) from gd_match('{}', null, null, null) m), 31, 'null: the defaults');

-- cancel

select array_agg(gd_insert('can', p_queue => 'can', p_partition_key => case when g % 3 = 0 then 'can:' || g % 2 end) order by g) as ids
from generate_series(1, 9) g \gset
select t.take('can', 2);
select gd_cancel((:'ids'::bigint[])[1]);
select is(t.results(format('select * from gd_cancel_many(%L, %L)', :'ids'::bigint[] || :'ids' || array[null, -1, 0, 99999999]::bigint[], 'enough')),
    'none none no done done done done done done done done none none', 'each is answered once');
select is((select count(*) from gd_instances v where v.fsm = 'can' and v.status = 'cancelled' and v.last_error = 'enough'), 8::bigint, 'with the reason');
select is_empty($$select * from t.take('can', 100)$$, 'none is left');
select is(t.results('select * from gd_cancel_many(''{}'')'), null, 'none are none');
select is((select r.last_error from gd_result((:'ids'::bigint[])[2]) r), 'enough', '(so it is)');
select gd_insert('can', p_queue => 'can') as id \gset
select is((select r.result from gd_cancel_many(array[:id], repeat('x', 20000)) r), 'done', 'a reason of any length');
select is((select length(r.last_error) from gd_result(:id) r), 8006, 'is cut');

-- keys: those behind the cancelled ones go on, whoever was the baton
select array_agg(gd_insert('bat', p_queue => 'bat', p_partition_key => 'bat:' || g % 700) order by g) as ids from generate_series(1, 2100) g \gset
select count(*) from t.take('bat', 100);
select is((select string_agg(distinct r.result, ' ') from gd_cancel_many((:'ids'::bigint[])[:1400]) r), 'done', 'two of three of 700 keys');
select is(t.repaired(), 0, 'no baton was dropped');
create temp table went (id bigint);
do $$
begin
    for v_round in 1 .. 40 loop
        insert into went select c.id from t.take('bat', 100) c;
        perform t.put(v.id, '{"kind": "done"}') from gd_instances v where v.fsm = 'bat' and v.status = 'executing';
    end loop;
end $$;
select is((select count(*) from went), 700::bigint, 'the last of each key runs');
select array_agg(gd_insert('ord', p_queue => 'ord', p_partition_key => 'ord') order by g) as ids from generate_series(1, 6) g \gset
select t.take('ord');
select gd_cancel_many((:'ids'::bigint[])[1:3] || (:'ids'::bigint[])[5]);
select is(t.run('ord', '{"kind": "done"}'), (:'ids'::bigint[])[4], 'the key goes on in its order');
select is(t.run('ord', '{"kind": "done"}'), (:'ids'::bigint[])[6], '(so it does)');

-- parents
select gd_insert('par', p_queue => 'par') as p \gset
select t.run('par', '{"kind": "schedule_childs", "step": "j",
        "childs": [{"fsm": "pc", "queue": "pc"}, {"fsm": "pc", "queue": "pc"}, {"fsm": "pc", "queue": "pc"}]}');
select is(t.results($$select * from gd_cancel_many(array(select v.id from gd_instances v where v.fsm = 'pc' order by v.id limit 2))$$), 'done done',
    'children');
select is((select v.children_pending from gd_instances v where v.id = :p), 1, 'are counted out');
select is(t.results(format('select * from gd_cancel_many(array(select v.id from gd_instances v where v.fsm = %L) || %s::bigint)', 'pc', :p)), 'done no no done',
    'a parent with its last child');
select is(t.status(:p), 'cancelled', 'is not called back');

-- one that cannot be written costs no other
create function t.refuse() returns trigger language plpgsql as $$
begin
    if new.meta ? 'poison' then
        raise exception 'not this one';
    end if;
    return new;
end $$;
create trigger refuse before update on gendurable.instance for each row execute function t.refuse();
select array_agg(gd_insert('poi', p_queue => 'poi', p_meta => case when g in (3, 700) then '{"poison": 1}' else '{}' end::jsonb) order by g) as ids
from generate_series(1, 1000) g \gset
set client_min_messages = error;
select is((select string_agg(r.result || ' ' || r.count, ', ' order by r.result) from (
    select r.result, count(*) from gd_cancel_many(:'ids') r group by 1) r), 'done 998, no 2', 'two of 1,000 that a trigger refuses');
select is(t.results(format('select * from gd_reschedule_many(%L, now())', (:'ids'::bigint[])[2:4])), 'no no no', '(also so)');
set client_min_messages = warning;
drop trigger refuse on gendurable.instance;
select is(t.results(format('select * from gd_cancel_many(%L)', (:'ids'::bigint[])[2:4])), 'no done no', '(now it can)');

-- retry

select array_agg(gd_insert('ret', p_queue => 'ret', p_unique_key => case when g < 3 then 'ret:' || g end) order by g) as ids from generate_series(1, 6) g \gset
select gd_cancel_many((:'ids'::bigint[])[1:4]);
select gd_insert('ret', p_queue => 'ret', p_unique_key => 'ret:1') as holder \gset
select gd_insert('ret', p_queue => 'ret', p_unique_key => 'ret:2') as twin \gset
select gd_cancel(:twin);
select t.run('ret', '{"kind": "done"}') as done \gset
select is(t.results(format('select * from gd_retry_many(%L)', :'ids'::bigint[] || :twin || :holder || array[null, 99999999]::bigint[])),
    'no done done done no no no no none none', 'retry: its key is taken, three that ended, live ones, the holder, one whose twin was first');
select is((select count(*) from gd_instances v where v.id = any((:'ids'::bigint[])[2:4]) and v.status = 'runnable' and v.attempt = 0), 3::bigint,
    '(they run again)');
select is(gd_find('ret:2'), (:'ids'::bigint[])[2], 'with their keys');
select gd_insert('rep', p_queue => 'rep') as p \gset
select t.run('rep', '{"kind": "schedule_childs", "step": "j",
        "childs": [{"fsm": "rc", "queue": "rc"}, {"fsm": "rc", "queue": "rc"}, {"fsm": "rc", "queue": "rc"}]}');
select t.run('rc', '{"kind": "stop", "reason": "x"}');
select t.run('rc', '{"kind": "stop", "reason": "x"}');
select is(t.results($$select * from gd_retry_many(array(select v.id from gd_instances v where v.fsm = 'rc'))$$), 'done done no', 'two of three children');
select is((select v.children_pending from gd_instances v where v.id = :p), 3, 'are waited for again');
select count(t.run('rc', '{"kind": "done"}')) from generate_series(1, 3);
select is((select c.step from t.take('rep') c), 'j', 'and then the parent goes on');

-- reschedule

select array_agg(gd_insert('res', p_queue => 'res', p_delay => '1 hour', p_partition_key => case when g > 2 then 'res' end) order by g) as ids
from generate_series(1, 5) g \gset
select gd_cancel((:'ids'::bigint[])[2]);
select is(t.results(format('select * from gd_reschedule_many(%L, now() - interval ''1 second'')', :'ids'::bigint[] || 99999999::bigint)),
    'done no done done done none', 'reschedule');
select is((select count(*) from t.take('res', 10)), 2::bigint, 'one without a key, and one of the key');
select is(t.results(format('select * from gd_reschedule_many(%L, ''2099-01-01Z'')', :'ids')), 'no no no done done', 'what executes is not moved');
select t.put(v.id, '{"kind": "done"}') from gd_instances v where v.fsm = 'res' and v.status = 'executing';
select is_empty($$select * from t.take('res', 10)$$, 'the others wait for their time');
select gd_insert('rea', p_queue => 'rea') as id \gset
select t.run('rea', '{"kind": "await", "signals": "x"}');
select is(t.results(format('select * from gd_reschedule_many(%L, now() - interval ''1 second'')', array[:id])), 'done', 'an await gets a deadline');
select is((select c.timed_out from t.take('rea') c), true, 'that has passed');

select t.raises($$select gd_cancel_many(null)$$, 'GD501', 'cancel: null');
select t.raises($$select gd_cancel_many(array(select generate_series(1, 10001)))$$, 'GD501', 'cancel: too many');
select t.raises($$select gd_retry_many(null)$$, 'GD501', 'retry: null');
select t.raises($$select gd_reschedule_many('{1}', null)$$, 'GD501', 'reschedule: no time');
select t.raises($$select gd_reschedule_many('{1}', 'infinity')$$, 'GD501', 'reschedule: an infinite time');
set default_transaction_isolation = 'repeatable read';
select t.raises($$select gd_cancel_many('{1}')$$, 'GD504', 'cancel: under REPEATABLE READ');
select t.raises($$select gd_retry_many('{1}')$$, 'GD504', 'retry: under REPEATABLE READ');
select t.raises($$select gd_reschedule_many('{1}', now())$$, 'GD504', 'reschedule: under REPEATABLE READ');
select lives_ok($$select gd_match()$$, 'gd_match works under any level');
set default_transaction_isolation = 'read committed';

select is(t.repaired(), 0, 'no baton was dropped');

select * from finish();
