\ir helpers/tap.psql
select no_plan();

-- a document

select gd_set_rate_limit('lim', 100, '1 s', 100);
select gd_register('kept', 1, 'one', 'q', '{"history": "states"}');
select gd_insert('kept', '{"n": 1.50}', 'one', 1, 'q', 5, 'key', 'uniq', '{runnable,failed}', p_rate_limit => 'lim', p_weight => 0.1,
    p_max_attempts => 9, p_meta => '{"a": null}', p_expires_at => '2100-01-01Z') as id \gset
set timezone = 'UTC';
select gd_export(:id) as doc \gset
select is(
    (:'doc'::jsonb) - 'exported_at',
    jsonb_build_object('format', 2, 'gendurable', gd_version(), 'instances', jsonb_build_array(
        jsonb_build_object('id', :id, 'parent_id', null, 'awaited', false, 'fsm', 'kept', 'version', 1, 'step', 'one',
            'status', 'runnable', 'queue', 'q', 'priority', 5, 'partition_key', 'key', 'unique_key', 'uniq',
            'unique_scope', '["runnable", "failed"]'::jsonb, 'unique_held', true, 'rate_limit', 'lim', 'weight', 0.1, 'attempt', 0,
            'max_attempts', 9, 'crashes', 0, 'worker', null, 'awaits', null, 'deadline_at', null,
            'expires_at', '2100-01-01T00:00:00+00:00', 'finished_at', null, 'keep_until', null, 'paused_at', null, 'paused_by', null)
        || jsonb_build_object('state', '{"n": 1.50}'::jsonb, 'meta', '{"a": null}'::jsonb, 'attributes', null, 'last_error', null,
            'signals', '[]'::jsonb, 'seen', '[]'::jsonb, 'errors', '[]'::jsonb, 'history', '[]'::jsonb,
            'journal', '[]'::jsonb, 'left_out', '{"errors": 0, "history": 0}'::jsonb)
        || (select jsonb_build_object('inserted_at', i.inserted_at, 'eligible_at', i.eligible_at, 'lane_at', i.eligible_at)
            from gendurable.instance i where i.id = :id))),
    'all that is said of one');
set timezone = 'Asia/Kolkata';
set extra_float_digits = -10;
select is(gd_export(:id) - 'exported_at', (:'doc'::jsonb) - 'exported_at', 'whoever asks');
reset timezone;
reset extra_float_digits;
select t.raises('select gd_export(0)', 'GD503', 'no such instance');
select t.raises('select gd_export(null)', 'GD503', '(null)');
select gd_schedule('s', '@daily', 'm');
select t.raises(format('select gd_export(%s)', (select min(i.id) from gendurable.instance i)), 'GD503', '(a bell)');

-- what is parked is told as it was due

select gd_insert('k', p_queue => 'park', p_partition_key => 'kk', p_eligible_at => ('2020-01-0' || g || 'Z')::timestamptz) from generate_series(1, 3) g;
select t.take('park', 3);
select is(
    (select array_agg(count order by count) from (
        select count(*) from gendurable.instance i where i.queue = 'park' group by i.eligible_at is null, i.status) c),
    '{1,2}', 'one executes, two are parked');
select set_eq(
    $$select o ->> 'status' as a, o ->> 'eligible_at' as b, o ->> 'lane_at' as c
      from gendurable.instance i cross join lateral jsonb_array_elements(gd_export(i.id) -> 'instances') o where i.queue = 'park'$$,
    $$values ('executing', null, '2020-01-01T00:00:00+00:00'),
        ('runnable', '2020-01-02T00:00:00+00:00', '2020-01-02T00:00:00+00:00'),
        ('runnable', '2020-01-03T00:00:00+00:00', '2020-01-03T00:00:00+00:00')$$, 'in their order');

-- an import

select gd_import(gd_export(:id)) is null as nothing \gset
select ok(:'nothing', 'its unique key is taken: nothing');
select is((select count(*) from gendurable.instance i where i.fsm = 'kept'), 1::bigint, 'was made');
select t.run('q', '{"kind": "next", "step": "two", "state": {"n": 2}, "partition_key": "key"}');
select t.take('q');
select gd_signal(:id, 'a', '{"x": [1e400]}', 'd1'), gd_signal(:id, 'b', 'null', 'd2');
select gd_export(:id) as doc \gset
select gd_import(:'doc') as copy \gset
select is((gd_export(:copy) #> '{instances,0}') - '{id,eligible_at,status,worker,unique_held}'::text[],
    ((:'doc'::jsonb) #> '{instances,0}') - '{id,eligible_at,status,worker,unique_held}'::text[], 'alike');
select is(gd_get(:id) ->> 'status', 'executing', 'the one executes');
select is(gd_get(:copy) ->> 'status', 'runnable', 'the other one is due');
select ok((select i.eligible_at <= clock_timestamp() from gendurable.instance i where i.id = :copy), '(now)');
select ok((select i.unique_held = 'uniq' from gendurable.instance i where i.id = :copy),
    'runnable again, it has its unique key, which nobody holds while the other one executes');
select is((select array_agg(h.kind || h.no) from gd_history(:copy) h), '{next1}', 'its history');
select is(gd_signal(:copy, 'a', 'null', 'd2'), 'duplicate', 'its dedup keys');
select results_eq(format('select s.name, s.payload from gd_signals(%s) s', :copy), $$values ('a', '{"x": [1e400]}'::jsonb), ('b', 'null')$$,
    'its inbox, in order');
select is((select i.worker from gendurable.instance i where i.id = :copy), null, 'no worker has it');
select is(
    (select x.partition_key || ' ' || (x.id = :copy) from t.take('q', 9) x), null, 'it waits for its key');
select t.put(:id, '{"kind": "done", "result": null}');
select is((select x.id = :copy from t.take('q', 9) x), true, 'and has its turn then');
select t.put(:copy, '{"kind": "done", "result": null}');
select is(gd_export(:copy) #> '{instances,0,result}', 'null', 'a result of null');
select gd_import(gd_export(:copy)) as copy \gset
select is((select i.result from gendurable.instance i where i.id = :copy), 'null', 'is none that is missing');

-- what failed, and runs again at once

select gd_insert('f', '{"n": 1}', p_queue => 'fails', p_max_attempts => 2) as id \gset
select t.run('fails', '{"kind": "error", "error": "first", "traceback": "t", "delay_ms": 0}');
select t.run('fails', '{"kind": "error", "error": "second"}');
select gd_import(gd_export(:id)) as copy \gset
select is((select jsonb_agg(to_jsonb(e) order by e.at) from gd_errors(:copy) e),
    (select jsonb_agg(to_jsonb(e) order by e.at) from gd_errors(:id) e), 'its errors');
select is((gd_get(:copy) ->> 'finished_at')::timestamptz, (gd_get(:id) ->> 'finished_at')::timestamptz, 'the time of its end');
select is((select i.failed_at from gendurable.instance i where i.id = :copy), (gd_get(:id) ->> 'finished_at')::timestamptz, 'it is found among what failed');
select is((gd_get(:copy) ->> 'attempt')::int, 1, 'its attempt');
create function t.again(p_document jsonb) returns boolean language plpgsql as $$
declare
    v_id bigint := gd_import(p_document);
begin
    return gd_retry(v_id);
end $$;
select ok(t.again(gd_export(:id)), 'imported and retried');
select is((select x.state from t.take('fails') x), '{"n": 1}', 'it runs');

-- a tree: its children end and wake their parent

select gd_insert('root', p_queue => 'tree') as root \gset
select t.run('tree', '{"kind": "schedule_childs", "step": "after",
    "childs": [{"fsm": "a", "queue": "tree2"}, {"fsm": "b", "queue": "tree2"}, {"fsm": "c", "queue": "tree2"}]}');
select t.run('tree2', '{"kind": "schedule_childs", "step": "late", "childs": [{"fsm": "aa", "queue": "tree3"}]}');
select t.run('tree2', '{"kind": "done", "result": "b"}');
select gd_export(:root) as doc \gset
select gd_import(:'doc') as copy \gset
select results_eq(
    format('select t.depth, t.fsm, t.status, t.step, p.fsm from gd_tree(%s) t left join gd_instances p on p.id = t.parent_id', :copy),
    format('select t.depth, t.fsm, t.status, t.step, p.fsm from gd_tree(%s) t left join gd_instances p on p.id = t.parent_id', :root),
    'the same tree');
select is((select count(*) from gd_tree(:copy) t where t.id >= :copy), 5::bigint, 'of its own');
select is((select i.children_pending from gendurable.instance i where i.id = :copy), 2, 'it awaits two');
select t.run('tree3', '{"kind": "done"}') from generate_series(1, 2);
select t.run('tree2', '{"kind": "done", "result": "c"}') from generate_series(1, 2);
select is(t.status(:copy), 'awaiting_children', 'one has not ended');
select t.run('tree2', '{"kind": "done", "result": "a"}') from generate_series(1, 2);
select is(t.status(:copy), 'runnable', 'all have');
select is((select jsonb_agg(c -> 'result') from t.take('tree', 9) x cross join lateral jsonb_array_elements(x.childs) c where x.id = :copy),
    '["a", "b", "c"]', 'and it is shown what they gave');
select gd_import(gd_export((select c.id from gd_childs(:root) c limit 1))) as copy \gset
select is((select i.parent_id from gendurable.instance i where i.id = :copy), null, 'a child by itself has no parent');

select is((select a.count || ' ' || (a.what -> 'exported') from gd_audit(jsonb_build_object('id', :copy)) a where a.call = 'gd_import'),
    (select '2 ' || min(c.id) from gd_childs(:root) c), 'it is written down how many came, and from whom');

-- a child that failed is awaited again
select gd_insert('root', p_queue => 'again') as root \gset
select t.run('again', '{"kind": "schedule_childs", "step": "after", "childs": [{"fsm": "a", "queue": "again2"}, {"fsm": "b", "queue": "again2"}]}');
select t.run('again2', '{"kind": "stop", "reason": "no"}');
select gd_import(gd_export(:root)) as copy \gset
select c.id as child from gd_childs(:copy) c where c.status = 'failed' \gset
select is((select i.children_pending from gendurable.instance i where i.id = :copy), 1, 'one child is open');
select ok(gd_retry(:child), 'the other one runs again');
select is((select i.children_pending from gendurable.instance i where i.id = :copy), 2, 'and is awaited again');
-- kept while its parent lives, then not
select gd_cancel(:child);
select ok((select i.barrier_no is not null from gendurable.instance i where i.id = :child), 'its parent will see it');
select gd_cancel(:copy, p_cascade => true);
update gendurable.instance set finished_at = '2020-01-01Z', failed_at = '2020-01-01Z' where id = :child or parent_id = :copy or id = :copy;
select gd_maintain() from generate_series(1, 3);
select is((select count(*) from gendurable.instance i where i.id = :copy or i.parent_id = :copy), 0::bigint, 'the retention removes it all');

-- an await

select gd_insert('w', p_queue => 'wait') as id \gset
select gd_signal(:id, 'go', '1');
select t.run('wait', '{"kind": "await", "signals": ["go", "stop"], "step": "w", "timeout_ms": 86400000}');
select t.run('wait', '{"kind": "await", "signals": ["go", "stop"], "step": "w", "timeout_ms": 86400000}');
select is(t.status(:id), 'awaiting_signal', 'it has seen the signal that is there');
select gd_import(gd_export(:id)) as copy \gset
select is(t.status(:copy), 'awaiting_signal', 'so has the copy');
select is(gd_get(:copy) -> 'deadline_at', gd_get(:id) -> 'deadline_at', 'until the same time');
select is((select i.eligible_at from gendurable.instance i where i.id = :copy), (gd_get(:id) ->> 'deadline_at')::timestamptz, 'when it is due');
select gd_signal(:copy, 'stop', '2');
select is((select jsonb_path_query_array(x.signals, '$[*].payload') from t.take('wait') x), '[1, 2]', 'another signal wakes it');
-- a document that says that it waits beside an unseen signal
select gd_import(jsonb_set(gd_export(:id), '{instances,0,signals,0,shown}', 'false')) as copy \gset
select is(t.status(:copy), 'runnable', 'what is there has answered it');
select is((select x.timed_out from t.take('wait', 9) x where x.id = :copy), false, 'in time');
-- one that has timed out
select t.due(:id);
select gd_import(gd_export(:id)) as copy \gset
select is((select x.timed_out from t.take('wait', 9) x where x.id = :copy), true, 'its time is up');

-- queues of steps, limits

select gd_define_step('r', 'draw', null, '{"queue": "gpu"}');
select gd_insert('r', p_step => 'draw', p_queue => 'own') as id \gset
select is(gd_export(:id) #>> '{instances,0,queue}', 'own', 'its own queue');
select gd_import(gd_export(:id)) as copy \gset
select is((select i.queue || ' ' || i.home from gendurable.instance i where i.id = :copy), 'gpu own', 'in the queue of its step');
select gd_drop_step('r', 'draw');
select gd_import(gd_export(:id)) as copy \gset
select is((select i.queue || coalesce(i.home, '') from gendurable.instance i where i.id = :copy), 'own', 'which is not what it was elsewhere');
select is((select q.due from gd_queues q where q.queue = 'own'), 1::bigint, 'a queue that the views know');

select gd_insert('l', p_queue => 'lined', p_rate_limit => 'slow') from (select gd_set_rate_limit('slow', 1, '1 hour', 1)) s cross join generate_series(1, 3);
select t.take('lined', 3);
select is((select count(*) from gendurable.instance i where i.bucket_at is not null), 2::bigint, 'two stand in a line');
select gd_import(gd_export(i.id)) from gendurable.instance i where i.bucket_at is not null;
select t.take('lined', 9);
select is((select count(*) from gendurable.instance i where i.bucket_at is not null), 4::bigint, 'so do their copies');
select is(t.repaired(), 0, 'nothing had to be repaired');

-- what is paused stays so
select gd_insert('p', p_queue => 'pq', p_partition_key => 'pk', p_eligible_at => '2020-01-01Z') as id \gset
select gd_pause(:id);
select is((select i.eligible_at from gendurable.instance i where i.id = :id), null, 'set aside');
select is(gd_export(:id) #>> '{instances,0,eligible_at}', '2020-01-01T00:00:00+00:00', 'it is told when it was due');
delete from gendurable.special;
select gd_import(gd_export(:id)) as copy \gset
select is_empty($$select * from t.take('pq', 9)$$, 'the copy is paused');
select ok(gd_resume(:copy), 'and resumed');
select is((select x.id from t.take('pq', 9) x), :copy::bigint, 'it runs');

select gd_insert('x', p_queue => 'big', p_state => jsonb_build_object('s', repeat('x', 15000000))) as id \gset
select ok(gd_import(gd_export(:id)) > 0, '15 MB');
select gd_signal(:id, 'n', jsonb_build_object('s', repeat('x', 2000000)));
select t.raises(format('select gd_export(%s)', :id), 'GD501', '17 MB are too much');
select gd_insert('x', p_queue => 'big') as id \gset
select gd_signal(:id, 'n', jsonb_build_object('s', repeat('x', 6000000))) from generate_series(1, 3);
select t.raises(format('select gd_export(%s)', :id), 'GD501', '(also in the inbox)');

-- the past gives way to what is

insert into gendurable.history (instance_id, no, at, attempt, kind, step, state)
select :id, g, now(), 0, 'next', 's', jsonb_build_object('s', repeat('x', 100000)) from generate_series(1, 300) g;
delete from gendurable.signal where instance_id = :id;
insert into gendurable.error (instance_id, no, at, attempt, kind, step, error)
select :id, 5 + g, now(), 0, 'error', 's', g from generate_series(1, 20) g;
select gd_export(:id) as doc \gset
select is((:'doc'::jsonb) #> '{instances,0,left_out}', '{"errors": 0, "history": 141}', 'so much is left out');
select is(jsonb_array_length((:'doc'::jsonb) #> '{instances,0,history}'), 159, 'so much is there');
select is((:'doc'::jsonb) #> '{instances,0,history,158,no}', '300', 'the newest');
select is((:'doc'::jsonb) #> '{instances,0,errors,19,error}', '"20"', '(of errors, too)');
select gd_import(:'doc') as copy \gset
select is((select max(h.no) - min(h.no) from gd_history(:copy) h), 158::bigint, 'under their numbers');
select is((select array_agg(e.no order by e.no) from gendurable.error e where e.instance_id = :copy),
    array(select generate_series(1, 20))::bigint[], 'errors from 1 on');
select gd_cancel(:copy);
select is((select array_agg(e.no order by e.no) from gendurable.error e where e.instance_id = :copy),
    array(select generate_series(2, 21))::bigint[], 'the next one takes the place of the oldest');

select * from finish();
