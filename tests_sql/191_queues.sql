\ir helpers/tap.psql
select no_plan();

-- something of all that gd_queues counts

select count(*) from gd_insert_many((
    select jsonb_agg(jsonb_build_object('fsm', 'm', 'queue', 'q' || n % 3, 'priority', n % 4,
        'delay_ms', case when n % 5 = 0 then 60000 else 0 end))
    from generate_series(1, 90) n));
select count(*) from t.take('q0', 7, 'w1');
select t.run('q1', '{"kind": "await", "signals": "x"}');
select t.run('q1', '{"kind": "await", "signals": "x", "timeout_ms": 60000}');
select gd_insert('m', p_queue => 'keyed', p_partition_key => 'k'), gd_insert('m', p_queue => 'keyed', p_partition_key => 'k');
select gd_set_rate_limit('slow', 1, '1 hour');
select count(*) from gd_insert_many((
    select jsonb_agg(jsonb_build_object('fsm', 'm', 'queue', 'lined', 'rate_limit', 'slow:' || n % 3)) from generate_series(1, 20) n));
select count(*) from t.take('lined', 20, 'w1');
select gd_pause_queue('paused'), gd_set_queue('q1', '{"limit": 3}'), gd_set_queue('set', '{"concurrency": 2}');
select gd_set_queue('q2', '{"limit": 0}');
select gd_hello('w1', '{"queues": {"q0": 4, "served": 2, "none": 0}}'), gd_hello('w2', '{"queues": {"q0": 3}}');

select results_eq(
    $$select queue, due, delayed, executing, parked, oldest_due_at, paused, limited, max_executing, concurrency, workers, slots
        from gd_list_queues()$$,
    $$select queue, due, delayed, executing, parked, oldest_due_at, paused, limited, max_executing, concurrency, workers, slots
        from gd_queues order by queue$$,
    'it says of each queue what gd_queues says, by name');
select ok(count(*) >= 8 and bool_or(q.limited > 10) and bool_or(q.paused) and bool_or(q.slots = 7), 'which is something')
from gd_list_queues() q;

-- pages

select is(
    (select array_agg(q.queue order by q.queue) from gd_list_queues(p_limit => 3) q)
    || (select array_agg(q.queue order by q.queue) from gd_list_queues(p_after => (
        select max(q.queue) from gd_list_queues(p_limit => 3) q)) q),
    (select array_agg(q.queue order by q.queue) from gd_queues q), 'a page, and those behind it');
select is_empty($$select * from gd_list_queues(p_after => 'zzz')$$, 'behind the last one there is none');
select is_empty($$select * from gd_list_queues(p_limit => 0)$$, 'none are none');
select is((select count(*) from gd_list_queues(null, null, null, null)), (select count(*) from gd_queues), 'null: the default');

-- filters

select results_eq(
    $$select q.queue, q.due, q.slots, q.counted_to from gd_list_queues('{"queue": "q0"}') q$$,
    $$select q.queue, q.due, q.slots, 10000::bigint from gd_queues q where q.queue = 'q0'$$, 'one queue');
select results_eq(
    $$select q.queue from gd_list_queues('{"queue": ["set", "nobody", "q2", "paused", "served", "lined", "q2"]}') q$$,
    $$values ('lined'), ('paused'), ('q2'), ('served'), ('set')$$, 'several, by name, without what is no queue');
select results_eq(
    $$select q.queue from gd_list_queues('{"queue": ["set", "q2", "paused"]}', 'paused', 1) q$$, $$values ('q2')$$, 'a page of them');
select results_eq(
    $$select q.queue, q.max_executing from gd_list_queues('{"limited": true}') q$$, $$values ('q1', 3), ('q2', 0)$$, 'those that have a limit');
select results_eq(
    $$select q.queue from gd_list_queues('{"limited": true, "queue": ["q0", "q2", "set"]}') q$$, $$values ('q2')$$, 'of some');
select t.raises(format('select * from gd_list_queues(%L)', f), 'GD501', f)
from unnest('{"[]","{\"name\": \"q0\"}","{\"queue\": 7}","{\"queue\": null}","{\"limited\": false}","{\"limited\": null}"}'::text[]) f;
select t.raises('select * from gd_list_queues(p_look => 0)', 'GD501', 'no look');
select t.raises('select * from gd_list_queues(p_limit => -1)', 'GD501', 'fewer than none');
select t.raises('select * from gd_list_queues(p_limit => 1001)', 'GD501', 'more than a page has');
select lives_ok('select * from gd_list_queues(p_limit => 1000)', 'a page of 1,000');

-- counts are cut at the share of those that are full

select gd_set_queue('full', '{"limit": 0}'), gd_set_queue('fuller', '{"limit": 0}'), gd_set_queue('few', '{"limit": 0}');
select count(*) from gd_insert_many((
    select jsonb_agg(jsonb_build_object('fsm', 'm', 'queue', case when n <= 50 then 'full' when n <= 100 then 'fuller' else 'few' end))
    from generate_series(1, 115) n));
select results_eq(
    $$select q.queue, q.due, q.counted_to from gd_list_queues('{"queue": ["full", "fuller", "few"]}', p_look => 90) q$$,
    $$values ('few', 15::bigint, 45::bigint), ('full', 45::bigint, 45::bigint), ('fuller', 45::bigint, 45::bigint)$$,
    'what is full shares what is looked at');
select results_eq(
    $$select q.queue, q.due, q.counted_to from gd_list_queues('{"queue": ["full", "few"]}', p_look => 49) q$$,
    $$values ('few', 15::bigint, 49::bigint), ('full', 49::bigint, 49::bigint)$$, 'one alone has all of it');
select results_eq(
    $$select q.queue, q.due, q.counted_to from gd_list_queues('{"queue": ["full", "fuller", "few"]}', p_look => 1) q$$,
    $$values ('few', 15::bigint, 20::bigint), ('full', 20::bigint, 20::bigint), ('fuller', 20::bigint, 20::bigint)$$, '20 at least');

select * from finish();
