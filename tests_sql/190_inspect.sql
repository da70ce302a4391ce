\ir helpers/tap.psql
select no_plan();

-- the views have the columns that the contract names

select columns_are(
    'gd_instances',
    string_to_array('id fsm fsm_version step status queue priority eligible_at attempt crashes worker lease_expires_at awaits '
        || 'partition_key unique_key parent_id children_pending state result last_error meta inserted_at updated_at finished_at '
        || 'rate_limit expires_at timeout_at keep_until attributes paused_at', ' ')::name[]);
select columns_are('gd_queues', '{queue,due,delayed,executing,parked,oldest_due_at,paused,limited,max_executing,concurrency,workers,slots,counted_to}'::name[]);
select columns_are('gd_workers', ('{worker,executing,oldest_claim_at,host,pid,version,queues,machines,about,state,running,started_at,first_seen_at,seen_at,'
    || 'draining_since,drained_by,clock_skew}')::name[]);
select throws_ok(
    format('insert into %s default values', v), null, null, format('%s is read-only', v))
from unnest('{gd_queues,gd_workers}'::text[]) v;

-- results

select gd_insert('m', p_queue => 'res') as id \gset
select results_eq(
    format('select status, result, last_error from gd_result(%s)', :id), $$values ('runnable', null::jsonb, null::text)$$, 'not ended: no result');
select t.run('res', '{"kind": "done", "result": [1, 2]}');
select results_eq(
    format('select status, result from gd_result(%s)', :id), $$values ('done', '[1, 2]'::jsonb)$$, 'ended: the result');
select is_empty('select * from gd_result(999999999)', 'no such instance: no row');
select is_empty('select * from gd_result(null)', 'null: no row');

-- watchers

select is(gd_watch(:id), 'done', 'watch: it has ended');
select is((select count(*) from gendurable.watch), 0::bigint, 'and nobody waits');
select is(gd_watch(999999999), null, 'watch: no such instance');
select gd_insert('m', p_queue => 'wat') as id \gset
select is(gd_watch(:id), 'runnable', 'watch: its status now');
select is(gd_watch(:id), 'runnable', 'watch: twice');
select count(*) from t.take('wat');
select is(gd_watch(:id), 'executing', 'watch: while it executes');
select t.put(:id, '{"kind": "next", "step": "b"}');
select isnt((select count(*) from gendurable.watch), 0::bigint, 'a step is no end');
select t.run('wat', '{"kind": "stop", "reason": "x"}');
select is((select count(*) from gendurable.watch), 0::bigint, 'the end is told, once');

select is(gd_version(), (select m.version from gendurable.meta m), 'the version that was recorded');
select matches(gd_version(), '^\d+\.\d+\.\d+$', 'it is three numbers');

-- counts by queue

select gd_insert('m', p_queue => 'cnt', p_eligible_at => now() - interval '1 hour', p_priority => 2);
select count(*) from gd_insert_many('[{"fsm": "m", "queue": "cnt"}, {"fsm": "m", "queue": "cnt"}, {"fsm": "m", "queue": "cnt", "delay_ms": 60000},
    {"fsm": "m", "queue": "cnt", "priority": 1, "delay_ms": 60000}]');
select t.run('cnt', '{"kind": "await", "signals": "x"}');
select t.run('cnt', '{"kind": "await", "signals": "x", "timeout_ms": 60000}');
select gd_insert('m', p_queue => 'cnt', p_partition_key => 'cnt', p_priority => -1);
select gd_insert('m', p_queue => 'cnt', p_partition_key => 'cnt', p_priority => -1);
select count(*) from t.take('cnt', 1, 'worker-7');
select results_eq(
    $$select due, delayed, executing, parked, oldest_due_at < now() - interval '59 min', paused from gd_queues where queue = 'cnt'$$,
    $$values (2::bigint, 3::bigint, 1::bigint, 1::bigint, true, false)$$, 'gd_queues counts what is due, delayed, executing and parked');
select t.run('cnt', '{"kind": "done"}');
select results_eq(
    $$select due, delayed, executing, parked from gd_queues where queue = 'cnt'$$,
    $$values (0::bigint, 3::bigint, 1::bigint, 2::bigint)$$, 'a row that waits in its key is parked');
select results_eq(
    $$select worker, executing from gd_workers where worker = 'worker-7'$$, $$values ('worker-7', 1::bigint)$$, 'gd_workers: who holds how many');
select ok(
    w.oldest_claim_at between clock_timestamp() - interval '1 minute' and clock_timestamp(), 'and since when')
from gd_workers w where w.worker = 'worker-7';
select gd_cancel(v.id) from gd_instances v where v.queue = 'cnt' and v.finished_at is null;
select results_eq(
    $$select due, delayed, executing, parked, oldest_due_at, paused from gd_queues where queue = 'cnt'$$,
    $$values (0::bigint, 0::bigint, 0::bigint, 0::bigint, null::timestamptz, false)$$, 'a queue that had rows stays visible');

-- while it waits, an instance is not due

select gd_insert('m', p_queue => 'vis', p_partition_key => 'vis'), gd_insert('m', p_queue => 'vis', p_partition_key => 'vis');
select count(*) from t.take('vis', 5);
select is(
    (select array_agg(row(v.status, v.eligible_at is null)::text order by v.id) from gd_instances v where v.queue = 'vis'),
    '{"(executing,f)","(runnable,t)"}', 'a row that waits in its key has no time');

select * from finish();
