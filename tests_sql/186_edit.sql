\ir helpers/tap.psql
select no_plan();

-- edit: a runnable one

select gd_insert('m', '{"n": 1}', p_queue => 'ed', p_meta => '{"a": 1}', p_delay => '1 hour') as id \gset
select to_jsonb(i) - '{step,state,meta,priority,updated_at,attempt,crashes}'::text[] as before from gendurable.instance i where i.id = :id \gset
select is(gd_edit(:id, 'b', '{"n": 2}', null, 7, '{"b": 1}'), true, 'step, state, priority and meta');
select is(row(v.step, v.state, v.priority, v.meta)::text, '(b,"{""n"": 2}",7,"{""b"": 1}")', '(so it is)') from gd_instances v where v.id = :id;
select is(to_jsonb(i) - '{step,state,meta,priority,updated_at,attempt,crashes}'::text[], :'before'::jsonb, 'and nothing else')
from gendurable.instance i where i.id = :id;
select is(gd_edit(:id), true, 'nothing to change');
select is((select count(*) from gendurable.error), 1::bigint, 'leaves nothing behind');
select is(gd_edit(:id, p_state => '{}'), true, 'an empty state');
select is(row(v.step, v.state)::text, '(b,{})', 'empties it, and the rest stays') from gd_instances v where v.id = :id;
select is(gd_edit(:id, p_state => 'null', p_meta => 'null', p_priority => 8), true, 'JSON null is the same as null');
select is(row(v.state, v.meta, v.priority)::text, '({},"{""b"": 1}",8)', '(so it is)') from gd_instances v where v.id = :id;
select t.due(:id);
select is((select row(c.step, c.state, c.attempt)::text from t.take('ed') c), '(b,{},0)', 'the step gets what was set');
select is(gd_edit(:id, 'c'), false, 'one that executes is not changed');
select t.expire(:id);
select is(gd_edit(:id, 'c'), false, 'nor where its worker is lost');
select is(gd_reap(), 1, 'until it is taken back');
select is(gd_edit(:id, 'c'), true, 'then it is');
select t.run('ed', '{"kind": "error", "error": "x"}') as _ \gset
select is(v.attempt, 1, '(an attempt was made)') from gd_instances v where v.id = :id;
select is(gd_edit(:id, p_state => '{"n": 3}'), true, 'the state alone');
select is(v.attempt, 1, 'leaves the attempts') from gd_instances v where v.id = :id;
select is(gd_edit(:id, 'c'), true, 'its step, though the same');
select is(row(v.attempt, v.crashes)::text, '(0,0)', 'begins them anew') from gd_instances v where v.id = :id;
select cmp_ok(v.eligible_at, '>', clock_timestamp(), 'and the back-off stays') from gd_instances v where v.id = :id;

-- what stands about it

select set_config('gendurable.actor', 'Ada', false);
select gd_insert('m', p_queue => 'told') as id \gset
select gd_edit(:id, 'b', '{"secret": 1}') as _ \gset
select results_eq(
    format('select kind, step, worker, error from gd_errors(%s)', :id),
    $$values ('edited', 'start', 'Ada', 'changed by hand: step, state')$$, 'gd_errors: what was changed, and by whom');
select results_eq(
    format($$select call, actor, id, what from gd_audit('{"id": %s}')$$, :id),
    format($$values ('gd_edit', 'Ada', %s::bigint, '{"step": "b", "changed": ["step", "state"]}'::jsonb)$$, :id), 'gd_audit, without the state');
select is((select count(*) from gd_history(:id)), 0::bigint, 'no history unless the machine keeps one');
select gd_register('h', 1, 's', 'told', '{"history": "states"}');
select gd_insert('h', '{"n": 1}', p_queue => 'told') as h \gset
select gd_edit(:h, 'b', '{"n": 2}', p_priority => 1) as _ \gset
select results_eq(
    format('select kind, step, next_step, state, detail from gd_history(%s)', :h),
    $$values ('edited', 's', 'b', '{"n": 1}'::jsonb, '{"by": "Ada", "changed": ["step", "state", "priority"]}'::jsonb)$$, 'gd_history, with the state before');
select set_config('gendurable.actor', '', false);
select count(gd_edit(:id, p_priority => g)) from generate_series(1, 30) g \gset
select is((select count(*) from gendurable.error e where e.instance_id = :id), 20::bigint, 'of many edits the last 20 errors');

-- what it waits for stays

select gd_insert('m', p_queue => 'aw') as id \gset
select t.run('aw', '{"kind": "await", "signals": "x", "timeout_ms": 3600000}') as _ \gset
select is(gd_edit(:id, 'b', '{"n": 2}'), true, 'one that awaits a signal');
select is(row(v.status, v.awaits)::text, '(awaiting_signal,{x})', 'goes on') from gd_instances v where v.id = :id;
select gd_signal(:id, 'x', '1') as _ \gset
select is((select row(c.step, c.state, c.awaits, jsonb_array_length(c.signals))::text from t.take('aw') c), '(b,"{""n"": 2}",{x},1)', 'the new step gets it');
select gd_insert('m', p_queue => 'ch') as id \gset
select t.run('ch', '{"kind": "schedule_childs", "step": "j", "childs": [{"fsm": "c", "queue": "ch2"}]}') as _ \gset
select is(gd_edit(:id, 'k', p_queue => 'ch3'), true, 'one that waits for children');
select t.run('ch2', '{"kind": "done", "result": 5}') as _ \gset
select is((select row(c.step, c.childs -> 0 -> 'result')::text from t.take('ch3') c), '(k,5)', 'and gets them in the new step and queue');

-- ended ones

select gd_insert('m', p_queue => 'end') as id \gset
select t.run('end', '{"kind": "stop", "reason": "x"}') as _ \gset
select is(gd_edit(:id, 'b', '{"n": 2}', 'end2', 3), true, 'one that has failed');
select is(row(v.status, v.last_error, v.step)::text, '(failed,x,b)', 'has failed still') from gd_instances v where v.id = :id;
select is_empty($$select * from t.take('end2')$$, '(it does not run)');
select is((select e.kind from gd_errors(:id) e limit 1), 'edited', 'it is told of it');
select gd_retry(:id) as _ \gset
select is((select row(c.step, c.state)::text from t.take('end2') c), '(b,"{""n"": 2}")', 'retried it runs so');

-- queues, priorities and steps with a queue

select gd_insert('m', p_queue => 'q1') as a \gset
select gd_insert('m', p_queue => 'q1') as b \gset
select gd_edit(:b, p_priority => -1) as _ \gset
select is((select c.id from t.take('q1') c), :'b', 'a better priority comes first');
select gd_edit(:a, p_queue => 'q2') as _ \gset
select is_empty($$select * from t.take('q1')$$, 'in another queue');
select is((select v.queue from gd_queues v where v.queue = 'q2'), 'q2', '(which the views know)');
select is((select c.id from t.take('q2') c), :'a', 'it runs there');
-- a session that has looked further finds it at once, too: it keeps its floors here
select count(gd_insert('m', p_queue => 'fl')) from generate_series(1, 1500) \gset
select gd_insert('m', p_queue => 'fl1') as id \gset
select count(*) from gd_claim('w', 'fl', 1000) \gset
select count(*) from gd_claim('w', 'fl', 400) \gset
select gd_edit(:id, p_queue => 'fl') as _ \gset
select is((select count(*) filter (where c.id = :id) from gd_claim('w', 'fl', 1000) c), 1::bigint, 'also beyond what was looked at');
select gd_define_step('r', 'draw', null, '{"queue": "gpu"}');
select gd_insert('r', p_queue => 'own') as id \gset
select gd_edit(:id, 'draw') as _ \gset
select is(row(i.queue, i.home)::text, '(gpu,own)', 'a step with a queue of its own') from gendurable.instance i where i.id = :id;
select gd_edit(:id, p_queue => 'own2') as _ \gset
select is(row(i.queue, i.home)::text, '(gpu,own2)', 'another queue of its own') from gendurable.instance i where i.id = :id;
select gd_edit(:id, 'other') as _ \gset
select is(row(i.queue, i.home)::text, '(own2,)', 'and back') from gendurable.instance i where i.id = :id;

-- keys: whoever is next has the baton, whatever is edited

select array_agg(gd_insert('k', p_queue => 'k1', p_partition_key => 'key') order by g) as k from generate_series(1, 6) g \gset
select (:'k'::bigint[])[1] as a, (:'k'::bigint[])[2] as b, (:'k'::bigint[])[3] as c, (:'k'::bigint[])[4] as d, (:'k'::bigint[])[5] as e \gset
select is((select x.id from t.take('k1', 10) x), :'a', '(the first one runs, and the others are parked)');
select gd_edit(:c, p_priority => -1) as _ \gset
select t.put(:a, '{"kind": "done"}');
select is((select x.id from t.take('k1') x), :'c', 'a parked one comes to the head of its key');
select t.put(:c, '{"kind": "done"}');
select isnt(i.eligible_at, null, '(the next one has the baton)') from gendurable.instance i where i.id = :b;
select gd_edit(:d, p_priority => -1) as _ \gset
select is((select x.id from t.take('k1') x), :'d', 'also where another one had the baton');
select t.put(:d, '{"kind": "done"}');
select gd_edit(:b, p_queue => 'k2') as _ \gset
select is_empty($$select * from t.take('k1')$$, 'the line of a key goes across queues');
select is((select x.id from t.take('k2') x), :'b', '(who is first)');
select t.put(:b, '{"kind": "done"}');
select gd_pause_queue('k3');
select gd_edit(:e, p_queue => 'k3') as _ \gset
select is((select x.id from t.take('k1') x), (:'k'::bigint[])[6], 'who is moved into a paused queue lets the next one go first');
select t.put((:'k'::bigint[])[6], '{"kind": "done"}');
select is_empty($$select * from t.take('k3')$$, '(paused)');
select gd_edit(:e, p_queue => 'k1') as _ \gset
select is((select x.id from t.take('k1') x), :'e', 'and out of it, it runs');
select t.put(:e, '{"kind": "done"}');

-- lines before rate limits are of a queue and a priority

select gd_set_rate_limit('slow', 1, '1 hour', 1);
select gd_insert('l', p_queue => 'l1', p_rate_limit => 'slow') as a \gset
select gd_insert('l', p_queue => 'l1', p_rate_limit => 'slow') as b \gset
select count(*) from t.take('l1', 5) \gset
select isnt(i.bucket_at, null, '(one waits in the line)') from gendurable.instance i where i.id = :b;
select gd_edit(:b, 'x', p_meta => '{"n": 1}') as _ \gset
select isnt(i.bucket_at, null, 'whose step is changed stays in it') from gendurable.instance i where i.id = :b;
select gd_edit(:b, p_priority => 5) as _ \gset
select is(i.bucket_at, null, 'another priority: out of it') from gendurable.instance i where i.id = :b;
select is_empty($$select * from t.take('l1', 5)$$, 'it may not start');
select gd_set_rate_limit('slow', null);
select is((select c.id from t.take('l1', 5) c), :'b', 'until the limit is gone');

-- what a pause has set aside

select gd_insert('pm', p_queue => 'pm') as id \gset
select gd_pause_machine('pm', p_step => 'start') as _ \gset
select is_empty($$select * from t.take('pm')$$, '(its step is paused)');
select isnt(i.aside_at, null, '(it is set aside)') from gendurable.instance i where i.id = :id;
select gd_edit(:id, p_state => '{}') as _ \gset
select isnt(i.aside_at, null, 'it stays so') from gendurable.instance i where i.id = :id;
select gd_edit(:id, 'other') as _ \gset
select is((select c.step from t.take('pm') c), 'other', 'but before another step it runs');

-- what cannot be

select t.raises(format('select gd_edit(%s, %L)', :b, ''), 'GD501', 'an empty step');
select t.raises(format('select gd_edit(%s, %L)', :b, repeat('x', 2001)), 'GD501', 'a step of more than 2,000 bytes');
select t.raises(format('select gd_edit(%s, p_queue => %L)', :b, ''), 'GD501', 'an empty queue');
select t.raises(format('select gd_edit(%s, p_queue => %L)', :b, repeat('x', 2001)), 'GD501', 'a queue of more than 2,000 bytes');
select t.raises(format($$select gd_edit(%s, p_state => '[]')$$, :b), 'GD501', 'a state that is no object');
select t.raises(format($$select gd_edit(%s, p_meta => '1')$$, :b), 'GD501', 'a meta that is no object');
select t.raises('select gd_edit(999999999)', 'GD503', 'edit: no such instance');
select t.raises('select gd_edit(null)', 'GD503', 'edit: null');
select t.raises('select gd_edit(-1)', 'GD503', 'edit: no bell');
set default_transaction_isolation = 'repeatable read';
select t.raises(format('select gd_edit(%s)', :b), 'GD504', 'edit: under REPEATABLE READ');
select t.raises(format('select gd_delete(%s)', :b), 'GD504', 'delete: under REPEATABLE READ');
select t.raises($$select gd_delete_many('{1}')$$, 'GD504', 'delete_many: under REPEATABLE READ');
select t.raises($$select gd_signal_many('{1}', 'x')$$, 'GD504', 'signal_many: under REPEATABLE READ');
set default_transaction_isolation = 'read committed';

-- delete

select gd_insert('d', p_queue => 'd1', p_unique_key => 'd') as id \gset
select is(gd_delete(:id), false, 'what has not ended is not deleted');
select gd_signal(:id, 'x', '1', 'dedup') as _ \gset
select t.run('d1', '{"kind": "error", "error": "x"}') as _ \gset
select gd_cancel(:id, 'enough') as _ \gset
select is(gd_delete(:id), true, 'what has ended is');
select is((select row(
    (select count(*) from gendurable.instance i where i.id = :id), (select count(*) from gendurable.signal s where s.instance_id = :id),
    (select count(*) from gendurable.signal_seen s where s.instance_id = :id), (select count(*) from gendurable.error e where e.instance_id = :id))::text),
    '(0,0,0,0)', 'with all that it owns');
select is(a.what, '{"fsm": "d", "status": "cancelled"}', 'gd_audit says what it was') from gd_audit(format('{"id": %s}', :id)::jsonb, p_limit => 1) a;
select t.raises(format('select gd_delete(%s)', :id), 'GD503', 'delete: it is gone');
select gd_insert('d', p_queue => 'd2') as p \gset
select t.run('d2', '{"kind": "schedule_childs", "step": "j", "childs": [{"fsm": "c", "queue": "d3"}, {"fsm": "c", "queue": "d3"}]}') as _ \gset
select t.run('d3', '{"kind": "done", "result": 1}') as c \gset
select is(gd_delete(:c), false, 'a child whose parent will be handed it');
select is((select r.result from gd_delete_many(array[:c]) r), 'no', '(the same of many)');
select gd_cancel(:p) as _ \gset
select is(gd_delete(:c), true, 'and when the parent has ended');
select is(gd_delete(:p), true, 'a parent with a child that has not');
select is((select count(*) from t.take('d3')), 1::bigint, '(which goes on)');

-- one that carries the baton of its key
select array_agg(gd_insert('car', p_queue => 'car', p_partition_key => 'car') order by g) as ids from generate_series(1, 3) g \gset
select gendurable._end_and_carry((:'ids'::bigint[])[1:1], 'cancelled', null, clock_timestamp());
update gendurable.instance i set eligible_at = null where i.id = any((:'ids'::bigint[])[2:3]);
select isnt(i.eligible_at, null, '(it does)') from gendurable.instance i where i.id = (:'ids'::bigint[])[1];
select is((select r.result from gd_delete_many((:'ids'::bigint[])[1:1]) r), 'busy', 'is busy among many');
select is(gd_delete((:'ids'::bigint[])[1]), true, 'alone it is deleted');
select is((select c.id from t.take('car') c), (:'ids'::bigint[])[2], 'and the next one has the baton');

-- somebody's foreign key
create table t.refers (id bigint references gendurable.instance);
select gd_insert('f', p_queue => 'f') as a \gset
select gd_insert('f', p_queue => 'f') as b \gset
select count(gd_cancel(x)) from unnest(array[:a, :b]) x \gset
insert into t.refers values (:a);
select throws_ok(format('select gd_delete(%s)', :a), '23503', null, 'a foreign key of others raises its own error');
set client_min_messages = error;
select is((select string_agg(r.result, ' ' order by r.id) from gd_delete_many(array[:a, :b]) r), 'no done', 'and costs no other');
set client_min_messages = warning;
drop table t.refers;
-- and a trigger that keeps a row without a word
create function t.keep() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger keep before delete on gendurable.instance for each row execute function t.keep();
select is((select r.result from gd_delete_many(array[:a]) r), 'no', 'what a trigger keeps is not gone');
select is(gd_delete(:a), false, '(nor alone)');
drop trigger keep on gendurable.instance;

-- many

select array_agg(gd_insert('dm', p_queue => 'dm') order by g) as ids from generate_series(1, 4) g \gset
select count(gd_cancel(x)) from unnest((:'ids'::bigint[])[1:3]) x \gset
select is((select string_agg(r.result, ' ' order by r.id) from gd_delete_many(:'ids'::bigint[] || array[null, -1, 0, 99999999, (:'ids'::bigint[])[1]]) r),
    'none none done done done no none none', 'delete_many: each is answered once');
select is((select count(*) from gd_instances v where v.fsm = 'dm'), 1::bigint, '(so it is)');
select matches(a.what::text, '"given": 9', 'gd_audit has it') from gd_audit('{"call": "gd_delete_many"}', p_limit => 1) a;
select t.raises('select gd_delete_many(null)', 'GD501', 'delete_many: null');
select t.raises('select gd_delete_many(array(select generate_series(1, 10001)))', 'GD501', 'delete_many: too many');

-- signal_many

select array_agg(gd_insert('sm', p_queue => 'sm', p_partition_key => case when g > 4 then 'sm' end) order by g) as ids from generate_series(1, 6) g \gset
select count(t.run('sm', '{"kind": "await", "signals": ["go", "stop"]}')) from generate_series(1, 2) \gset
select t.run('sm', '{"kind": "await", "signals": "other"}') as _ \gset
select t.run('sm', '{"kind": "done"}') as _ \gset
select is((select string_agg(r.result, ' ' order by r.id) from gd_signal_many(:'ids'::bigint[] || array[null, -1, 99999999]::bigint[],
    'go', '{"n": 1}', 'd') r),
    'none done done done no done done none none', 'signal_many: each is answered once');
select is((select string_agg(v.status, ' ' order by v.id) from gd_instances v where v.id = any(:'ids')),
    'runnable runnable awaiting_signal done runnable runnable', 'who awaits it runs');
select is((select string_agg(r.result, ' ' order by r.id) from gd_signal_many(:'ids', 'go', '{"n": 1}', 'd') r), 'no no no no no no', 'the same once more');
select is((select string_agg(r.result, ' ' order by r.id) from gd_signal_many(:'ids', 'go', p_dedup_key => 'e') r),
    'done done done no done done', 'with another key');
select is((select string_agg(r.result, ' ' order by r.id) from gd_signal_many(:'ids', 'go') r), 'done done done no done done', 'without one');
select results_eq(
    format('select s.name, s.payload from gd_signals(%s) s', (:'ids'::bigint[])[1]),
    $$values ('go', '{"n": 1}'::jsonb), ('go', 'null'), ('go', 'null')$$, 'the inbox');
select is(a.what - 'ids', '{"given": 9, "name": "go", "dedup_key": "d"}', 'gd_audit has it, without the payload')
from gd_audit('{"call": "gd_signal_many"}') a where a.count = 5 and a.what ? 'dedup_key' and a.what ->> 'dedup_key' = 'd';
select t.raises($$select gd_signal_many('{1}', '')$$, 'GD501', 'an empty name');
select t.raises($$select gd_signal_many('{1}', null)$$, 'GD501', 'no name');
select t.raises($$select gd_signal_many('{1}', 'x', null, '')$$, 'GD501', 'an empty dedup_key');
select t.raises($$select gd_signal_many(null, 'x')$$, 'GD501', 'signal_many: null');
select t.raises($$select gd_signal_many(array(select generate_series(1, 10000)), 'x', to_jsonb(repeat('x', 10001)))$$, 'GD501', 'more than 100 MB in all');
select is((select string_agg(r.result, ' ') from gd_signal_many(array[(:'ids'::bigint[])[1]], 'x', null) r), 'done', 'a payload of null');
create function t.refuse() returns trigger language plpgsql as $$ begin raise exception 'not this one'; end $$;
select array_agg(gd_insert('poi', p_queue => 'poi') order by g) as ids from generate_series(1, 3) g \gset
select count(t.run('poi', '{"kind": "await", "signals": "go"}')) from generate_series(1, 3) \gset
create trigger refuse before update on gendurable.instance for each row when (old.id % 3 = 0) execute function t.refuse();
set client_min_messages = error;
select is((select count(*) filter (where r.result = 'done') || ' ' || count(*) filter (where r.result = 'no') from gd_signal_many(:'ids', 'go') r), '2 1',
    'one that a trigger refuses costs no other');
set client_min_messages = warning;
drop trigger refuse on gendurable.instance;

select is(t.repaired(), 0, 'no baton was dropped');

select * from finish();
