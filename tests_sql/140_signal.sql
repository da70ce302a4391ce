\ir helpers/tap.psql
select no_plan();

create function t.names(p_signals jsonb) returns text
language sql as $$
    select string_agg(s ->> 'name', ' ' order by n) from jsonb_array_elements(p_signals) with ordinality x (s, n)
$$;

-- delivery

select gd_insert('m', p_queue => 'del', p_unique_key => 'del-1') as id \gset
select is(gd_signal(:id, 'paid', '{"amount": 5}'), 'delivered', 'a signal that nobody awaits yet is delivered');
select is(gd_signal('del-1', 'note'), 'delivered', 'by the unique key too');
create temp table del as select * from t.take('del');
select is((select t.names(d.signals) from del d), 'paid note', 'the step sees the inbox, oldest first');
select is(
    (select (d.signals -> 0) - '{id,inserted_at}'::text[] from del d), '{"name": "paid", "payload": {"amount": 5}}',
    'each with its name and payload');
select is((select jsonb_typeof(d.signals #> '{0,id}') || jsonb_typeof(d.signals #> '{0,inserted_at}') from del d), 'numberstring', 'its id and time');
select is((select d.signals #> '{1,payload}' from del d), 'null', 'no payload is the payload null');
select is((select bool_and(gd_signal(:id, 'any', p) = 'delivered') from unnest('{1,"\"x\"",[],null,true}'::jsonb[]) p), true, 'any JSON is a payload');
select t.put(:id, '{"kind": "next", "step": "b"}');
select is((select jsonb_array_length(c.signals) from t.take('del') c), 7, 'what no outcome consumes stays');
select t.put(:id, '{"kind": "done"}');
select is(gd_signal(:id, 'late'), 'no_target', 'an ended instance is no target');
select is(gd_signal('del-1', 'late'), 'no_target', 'nor is a key that nobody holds');
select is(gd_signal(999999999, 'late'), 'no_target', 'nor an id that never was');
select is((select count(*) from gendurable.signal), 0::bigint, 'and nothing is kept for them');

select t.raises($$select gd_signal(1, null)$$, 'GD501', 'no name');
select t.raises($$select gd_signal(1, '')$$, 'GD501', 'an empty name');
select t.raises($$select gd_signal(1, 's', '1', '')$$, 'GD501', 'an empty dedup key');
select t.raises($$select gd_signal(null::bigint, 's')$$, 'GD501', 'no id');
select t.raises($$select gd_signal(null::text, 's')$$, 'GD501', 'no key');
select t.raises($$select gd_signal('', 's')$$, 'GD501', 'an empty key');

-- duplicates are remembered, also after the signal was consumed

select gd_insert('m', p_queue => 'dup') as id \gset
select is(gd_signal(:id, 'hook', '1', 'evt-1'), 'delivered', 'the first with a dedup key');
select is(gd_signal(:id, 'hook', '2', 'evt-1'), 'duplicate', 'the second');
select is(gd_signal(:id, 'other', '2', 'evt-1'), 'duplicate', 'under whatever name');
select is(gd_signal(:id, 'hook', '3', 'evt-2'), 'delivered', 'another key');
create temp table dup as select * from t.take('dup');
select is((select jsonb_path_query_array(d.signals, '$[*].payload') from dup d), '[1, 3]', 'only the delivered are in the inbox');
select t.put(:id, jsonb_build_object('kind', 'next', 'step', 'b', 'consume', (select jsonb_path_query_array(d.signals, '$[*].id') from dup d)));
select is((select jsonb_array_length(c.signals) from t.take('dup') c), 0, 'consumed: gone');
select is(gd_signal(:id, 'hook', '1', 'evt-1'), 'duplicate', 'a retry that comes late is still a duplicate');
select gd_insert('m', p_queue => 'dup_b') as other \gset
select is(gd_signal(:other, 'hook', '1', 'evt-1'), 'delivered', 'for each instance on its own');

-- await

select gd_insert('m', '{"n": 1}', p_queue => 'aw') as id \gset
select t.run('aw', '{"kind": "await", "signals": "go", "step": "went", "state": {"n": 2}}');
select results_eq(
    format('select status, awaits, eligible_at, state from gd_instances where id = %s', :id),
    $$values ('awaiting_signal', '{go}'::text[], null::timestamptz, '{"n": 2}'::jsonb)$$, 'await parks the row');
select is_empty($$select * from t.take('aw')$$, 'and nobody gets it');
select is(gd_signal(:id, 'other'), 'delivered', 'a signal of another name');
select is_empty($$select * from t.take('aw')$$, 'wakes nobody');
select is(gd_signal(:id, 'go', '7'), 'delivered', 'the awaited one');
select is(
    (select row(c.step, c.awaits, c.timed_out, c.attempt, t.names(c.signals))::text from t.take('aw') c), '(went,{go},f,0,"other go")',
    'does: the given step runs with the whole inbox');

select gd_insert('m', p_queue => 'aw2') as id \gset
select t.run('aw2', '{"kind": "next", "step": "wait"}');
select t.run('aw2', '{"kind": "replay"}');
select t.run('aw2', '{"kind": "await", "signals": ["a", "b", "c"]}');
select gd_signal(:id, 'b') as _ \gset
select is(
    (select row(c.step, c.awaits, c.attempt)::text from t.take('aw2') c), '(wait,"{a,b,c}",0)',
    'any of several names; without a step the same one runs, at attempt 0');

select gd_insert('m', p_queue => 'aw3') as id \gset
select gd_signal(:id, 'early') as _ \gset
select t.run('aw3', '{"kind": "await", "signals": ["x", "early"], "step": "b"}');
select is((select row(c.step, c.timed_out)::text from t.take('aw3') c), '(b,f)', 'a signal may come before the await');
select gd_insert('m', p_queue => 'aw4') as id \gset
select count(*) from t.take('aw4');
select gd_signal(:id, 'mid') as _ \gset
select t.put(:id, '{"kind": "await", "signals": "mid", "step": "b"}');
select is((select c.step from t.take('aw4') c), 'b', 'or while the step runs that is going to await it');

-- packs accumulate: what a claim was shown while the row awaited that name does not wake it again

select gd_insert('m', p_queue => 'pack') as id \gset
select t.run('pack', '{"kind": "await", "signals": ["a", "b"], "step": "join"}');
select gd_signal(:id, 'b', '1') as _ \gset
select is((select t.names(c.signals) from t.take('pack') c), 'b', 'woken by b');
select t.put(:id, '{"kind": "await", "signals": ["a", "b"], "step": "join"}');
select is(t.status(:id), 'awaiting_signal', 'it awaits again');
select is_empty($$select * from t.take('pack')$$, 'and is not woken by the same b');
select gd_signal(:id, 'b', '2') as _ \gset
select is((select t.names(c.signals) from t.take('pack') c), 'b b', 'but by another b, and sees both');
select t.put(:id, '{"kind": "replay"}');
select count(*) from t.take('pack');
select t.put(:id, '{"kind": "await", "signals": ["b", "a"]}');
select is_empty($$select * from t.take('pack')$$, 'nor is it after a replay');
select gd_signal(:id, 'a', '3') as _ \gset
select is((select t.names(c.signals) from t.take('pack') c), 'b b a', 'the pack is complete');
select t.expire(:id);
select is((select t.names(c.signals) from t.take('pack') c), 'b b a', 'a crash loses nothing of it');
select t.put(:id, '{"kind": "await", "signals": "z"}');
select gd_signal(:id, 'z') as _ \gset
select count(*) from t.take('pack');
select t.put(:id, '{"kind": "await", "signals": "a"}');
select is((select c.awaits from t.take('pack') c), '{a}', 'a signal that was not awaited when it was shown counts for a new await');

select gd_insert('m', p_queue => 'pack2') as id \gset
select t.run('pack2', '{"kind": "await", "signals": "go"}');
select gd_signal(:id, 'go') as _ \gset
select count(*) from t.take('pack2');
select gd_signal(:id, 'go') as _ \gset
select t.put(:id, '{"kind": "await", "signals": "go"}');
select is((select t.names(c.signals) from t.take('pack2') c), 'go go', 'one that came while the step ran was not shown, and counts');

-- consume

select gd_insert('m', p_queue => 'con') as id \gset
select gd_insert('m', p_queue => 'con_b') as other \gset
select gd_signal(:id, 'a'), gd_signal(:id, 'b'), gd_signal(:other, 'c');
select signals #>> '{0,id}' as sa, signals #>> '{1,id}' as sb from t.take('con') \gset
select signals #>> '{0,id}' as sc from t.take('con_b') \gset
select is(t.commit(:id, jsonb_build_object('kind', 'sideways', 'consume', jsonb_build_array(:sa))), 'rejected', '(an outcome that is rejected)');
select is(
    t.commit(:id, jsonb_build_object('kind', 'next', 'step', 'b', 'consume', jsonb_build_array(:sa, :sc, 999999999))), 'ok', 'consume one signal');
select is((select t.names(c.signals) from t.take('con') c), 'b', 'it is used up, the others are not, and nothing was by the rejected one');
select is((select count(*) from gendurable.signal s where s.instance_id = :other), 1::bigint, 'another instance''s signals are not touched');
select t.put(:id, jsonb_build_object('kind', 'await', 'signals', 'b', 'consume', jsonb_build_array(:sb)));
select is(t.status(:id), 'awaiting_signal', 'an await that consumes the signal parks');
select gd_signal(:id, 'b') as _ \gset
select signals #>> '{0,id}' as sb from t.take('con') \gset
select t.put(:id, jsonb_build_object('kind', 'replay', 'consume', jsonb_build_array(:sb)));
select is((select jsonb_array_length(c.signals) from t.take('con') c), 0, 'replay can consume');
select gd_signal(:id, 'b') as _ \gset
select id as sb from gendurable.signal where instance_id = :id \gset
select t.put(:id, jsonb_build_object('kind', 'error', 'error', 'x', 'consume', jsonb_build_array(:sb)));
select is((select count(*) from gendurable.signal s where s.instance_id = :id), 0::bigint, 'error too');
select gd_signal(:id, 'b') as _ \gset
select id as sb from gendurable.signal where instance_id = :id \gset
select t.due(:id);
select t.run('con', jsonb_build_object('kind', 'schedule_childs', 'step', 's', 'childs', '[]'::jsonb, 'consume', jsonb_build_array(:sb)));
select is((select jsonb_array_length(c.signals) from t.take('con') c), 0, 'and schedule_childs');
select is(t.commit(:id, '{"kind": "done", "consume": [1]}'), 'ok', 'and done');

-- the deadline

select gd_insert('m', p_queue => 'dl') as id \gset
select t.run('dl', '{"kind": "await", "signals": "go", "step": "b", "timeout_ms": 3600000}');
select ok(v.eligible_at between clock_timestamp() + interval '59 min' and clock_timestamp() + interval '60 min', 'a deadline')
from gd_instances v where v.id = :id;
select is_empty($$select * from t.take('dl')$$, 'before it nothing runs');
select t.due(:id);
select is((select row(c.step, c.timed_out, c.awaits)::text from t.take('dl') c), '(b,t,{go})', 'after it the step runs: timed_out');
select gd_signal(:id, 'go') as _ \gset
select t.expire(:id);
select is((select c.timed_out from t.take('dl') c), false, 'a run after a crash that finds the signal has not timed out');
select t.put(:id, '{"kind": "next", "step": "c"}');
select is((select row(c.timed_out, c.awaits)::text from t.take('dl') c), '(f,)', 'the next step knows nothing of it');

select gd_insert('m', p_queue => 'dl2') as id \gset
select t.run('dl2', '{"kind": "await", "signals": "go", "timeout_ms": 3600000}');
select gd_signal(:id, 'go') as _ \gset
select t.due(:id);
select is((select c.timed_out from t.take('dl2') c), false, 'a signal before the deadline: not timed out');

select gd_insert('m', p_queue => 'dl3') as id \gset
select t.run('dl3', '{"kind": "await", "signals": ["a", "b"], "timeout_ms": 3600000}');
select gd_signal(:id, 'b') as _ \gset
select count(*) from t.take('dl3');
select t.put(:id, '{"kind": "await", "signals": ["a", "b"], "timeout_ms": 3600000}');
select t.due(:id);
select is(
    (select row(c.timed_out, t.names(c.signals))::text from t.take('dl3') c), '(t,b)',
    'the deadline of a second await: the b that was shown before does not count');
select t.put(:id, '{"kind": "await", "signals": "b", "timeout_ms": 0}');
select is((select c.timed_out from t.take('dl3') c), true, 'a timeout of 0 is a look');
select gd_signal(:id, 'c') as _ \gset
select t.put(:id, '{"kind": "await", "signals": "c", "timeout_ms": 0}');
select is((select c.timed_out from t.take('dl3') c), false, 'which finds what is there');

-- the unique key is an address while it is held

select gd_insert('m', p_queue => 'addr', p_unique_key => 'addr', p_unique_scope => '{awaiting_signal}') as id \gset
select is(gd_signal('addr', 'go'), 'no_target', 'out of its scope there is nobody');
select t.run('addr', '{"kind": "await", "signals": "go"}');
select is(gd_signal('addr', 'go'), 'delivered', 'in it there is');
select is((select c.id from t.take('addr') c), :'id', 'and it wakes');

-- past 1,000 signals: the awaited names first

select gd_insert('m', p_queue => 'full') as id \gset
select count(gd_signal(:id, 'noise', to_jsonb(n))) from generate_series(1, 1200) n;
select is((select jsonb_array_length(c.signals) from t.take('full') c), 1000, '1,000 signals in all');
select t.put(:id, '{"kind": "await", "signals": ["go", "stop"]}');
select gd_signal(:id, 'stop', '"s"'), gd_signal(:id, 'go', '"g"');
create temp table full_inbox as select * from t.take('full');
select is((select jsonb_array_length(f.signals) from full_inbox f), 1000, 'still 1,000');
select is(
    (select jsonb_path_query_array(f.signals, '$[*] ? (@.name != "noise").payload') from full_inbox f), '["s", "g"]',
    'the awaited ones among them');
select is(
    (select count(distinct s -> 'payload') from full_inbox f, jsonb_array_elements(f.signals) s where s ->> 'name' = 'noise'
        and (s ->> 'payload')::int <= 998), 998::bigint, 'and the oldest of the others');
select t.put(:id, '{"kind": "await", "signals": ["go", "stop"]}');
select is_empty($$select * from t.take('full')$$, 'and what was shown does not count again');

-- a key's lane: a signal sets the place

select gd_insert('m', p_queue => 'lane', p_partition_key => 'sig') as a \gset
select t.run('lane', '{"kind": "await", "signals": "go"}');
select gd_insert('m', p_queue => 'lane', p_partition_key => 'sig') as b \gset
select is((select c.id from t.take('lane', 5) c), :'b', 'a row that awaits holds no slot');
select gd_signal(:a, 'go') as _ \gset
select is_empty($$select * from t.take('lane', 5)$$, 'woken, it waits for its key');
select t.put(:b, '{"kind": "done"}');
select is((select c.id from t.take('lane', 5) c), :'a', 'and gets it');
select is(t.repaired(), 0, 'no baton was dropped');

select * from finish();
