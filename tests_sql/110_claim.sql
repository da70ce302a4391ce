\ir helpers/tap.psql
select no_plan();

-- what a claim hands out

select gd_insert('m', '{"n": 1}', 'first', 2, 'shape', p_unique_key => 'shape-1', p_partition_key => 'shape:1',
    p_meta => '{"trace": "x"}') as id \gset
create temp table got as select * from t.take('shape', 5, 'worker-1', '30 seconds');
select is((select count(*) from got), 1::bigint, 'one due row, whatever the limit');
select results_eq(
    'select id, fsm, fsm_version, step, state, attempt, queue, partition_key, unique_key, parent_id, awaits, timed_out,
        signals, childs, meta from got',
    format($$values (%s::bigint, 'm', 2, 'first', '{"n": 1}'::jsonb, 0, 'shape', 'shape:1', 'shape-1', null::bigint,
        null::text[], false, '[]'::jsonb, '[]'::jsonb, '{"trace": "x"}'::jsonb)$$, :id), 'a claim hands out the instance');
select results_eq(
    format('select status, worker, crashes from gd_instances where id = %s', :id),
    $$values ('executing', 'worker-1', 0)$$, 'and the instance is executing');
select ok(
    v.lease_expires_at between clock_timestamp() + interval '20 seconds' and clock_timestamp() + interval '30 seconds',
    'under its lease')
from gd_instances v where v.id = :id;
select is_empty($$select * from t.take('shape', 5)$$, 'it is claimed once');
select t.put(:id, '{"kind": "next", "step": "second"}');
select ok((select c.claim_no from t.take('shape') c) > (select g.claim_no from got g), 'every claim has a higher number');
select is_empty($$select * from t.take('nobody', 5)$$, 'an empty queue gives no rows');

-- bad calls

select t.raises($$select gd_claim(null)$$, 'GD501', 'no worker');
select t.raises($$select gd_claim('')$$, 'GD501', 'an empty worker');
select t.raises($$select gd_claim('w', '')$$, 'GD501', 'an empty queue name');
select t.raises($$select gd_claim('w', 'q', -1)$$, 'GD501', 'a negative limit');
select t.raises($$select gd_claim('w', 'q', 1, '0')$$, 'GD501', 'a lease of nothing');
select t.raises($$select gd_claim('w', 'q', 1, '-1 s')$$, 'GD501', 'a negative lease');
select t.raises($$select gd_claim('w', 'q', 1, '1 s', '{"nope": 1}')$$, 'GD501', 'an unknown option');
select t.raises($$select gd_claim('w', 'q', 1, '1 s', '[]')$$, 'GD501', 'options that are an array');
select t.raises($$select gd_claim_many('', '{"q": 1}')$$, 'GD501', 'many: an empty worker');
select t.raises($$select gd_claim_many('w', null)$$, 'GD501', 'many: no queues');
select t.raises($$select gd_claim_many('w', '["q"]')$$, 'GD501', 'many: an array');
select t.raises($$select gd_claim_many('w', '{"q": -1}')$$, 'GD501', 'many: a negative limit');
select lives_ok($$select gd_claim_many('w', '{"q": 1.0, "r": 1e1}')$$, 'many: whole numbers, however they are written');
select t.raises($$select gd_claim_many('w', '{"q": 1.5}')$$, 'GD501', 'many: half a row');
select t.raises($$select gd_claim_many('w', '{"q": "1"}')$$, 'GD501', 'many: a limit that is text');
select t.raises($$select gd_claim_many('w', '{"q": 1.5}')$$, 'GD501', 'many: half a row');
select t.raises($$select gd_claim_many('w', '{"q": null}')$$, 'GD501', 'many: a null limit');
select t.raises($$select gd_claim_many('w', '{"": 1}')$$, 'GD501', 'many: an empty name');
set default_transaction_isolation = 'repeatable read';
select t.raises($$select gd_claim('w')$$, 'GD504', 'under REPEATABLE READ');
select t.raises($$select gd_claim_many('w', '{"q": 1}')$$, 'GD504', 'many: under REPEATABLE READ');
set default_transaction_isolation = 'read committed';
set default_transaction_isolation = 'serializable';
select t.raises($$select gd_claim('w')$$, 'GD504', 'under SERIALIZABLE');
set default_transaction_isolation = 'read committed';

-- limits and queues

select count(*) from gd_insert_many((select jsonb_agg('{"fsm": "m", "queue": "lim"}'::jsonb) from generate_series(1, 250)));
select is_empty($$select * from t.take('lim', 0)$$, 'a limit of 0 gives no rows');
select is((select count(*) from t.take('lim', 7)), 7::bigint, 'no more than the limit');
select is((select count(*) from t.take('lim', 1000)), 243::bigint, 'and all, where the limit allows it');
select count(*) from gd_insert_many((
    select jsonb_agg(jsonb_build_object('fsm', 'm', 'queue', q)) from unnest('{a,b,c}'::text[]) q, generate_series(1, 5)));
select results_eq(
    $$select queue, count(*) from gd_claim_many('w', '{"a": 2, "b": 100, "c": 0, "d": 3}') group by queue order by queue$$,
    $$values ('a', 2::bigint), ('b', 5::bigint)$$, 'many: at most so many of each queue');
select is_empty($$select * from gd_claim_many('w', '{}')$$, 'many: no queues, no rows');
select gd_insert('m', p_queue => 'dflt'), gd_insert('m');
select is((select count(*) from gd_claim('w')), 1::bigint, 'the defaults: one row of the queue default');

select gd_pause_queue('a');
select is_empty($$select * from t.take('a', 5)$$, 'a paused queue gives no rows');
select is_empty($$select * from gd_claim_many('w', '{"a": 5}')$$, 'many: nor here');
select gd_resume_queue('a');
select is((select count(*) from t.take('a', 5)), 3::bigint, 'a resumed one does');

-- priorities

select count(*) from gd_insert_many((
    select jsonb_agg(jsonb_build_object('fsm', 'm', 'queue', 'pr', 'priority', p, 'step', 'p' || p))
    from unnest('{5,-5,0}'::int[]) p, generate_series(1, 3)));
select is(
    (select array_agg(c.step) from t.take('pr', 7) c), '{p-5,p-5,p-5,p0,p0,p0,p5}',
    'the lowest priority first, and on to the others until the limit is filled');

-- rows that committed late, or in the past, are found although the scans of this session are past them

select gd_insert('m', p_queue => 'late');
select count(*) from gd_claim('w', 'late', 10);
select gd_insert('m', p_queue => 'late', p_eligible_at => now() - interval '1 day') as id \gset
select is((select c.id from t.take('late', 10) c), :'id', 'a past time is below the floor, a full scan finds it');
select set_config('gendurable.floor', 'not json', false);
select gd_insert('m', p_queue => 'late') as id \gset
select is((select c.id from gd_claim('w', 'late', 10) c), :'id', 'a floor that cannot be read is none');
select set_config('gendurable.floor', '{"late\u0001": 5}', false);
select gd_insert('m', p_queue => 'late') as id \gset
select is((select c.id from gd_claim('w', 'late', 10) c), :'id', 'nor one of another shape');
select set_config('gendurable.floor', '[1, 2]', false);
select gd_insert('m', p_queue => 'late') as id \gset
select lives_ok($$select count(*) from gd_claim('w', 'late', 10)$$, 'a floor that is an array stops no claim');
select set_config('gendurable.floor', jsonb_build_object(E'late\u0001' || '0', 'x')::text, false)
where set_config('gendurable.floor', '', false) = '';
select gd_insert('m', p_queue => 'late') as id \gset
select lives_ok($$select count(*) from gd_claim('w', 'late', 10)$$, 'nor does one with a wrong entry');
select set_config('gendurable.floor', '', false);

-- many future rows on an urgent priority hide nothing

select count(*) from gd_insert_many((
    select jsonb_agg('{"fsm": "m", "queue": "fut", "priority": -1, "delay_ms": 3600000}'::jsonb) from generate_series(1, 2000)));
select gd_insert('m', p_queue => 'fut', p_priority => 3) as id \gset
select is((select c.id from t.take('fut') c), :'id', 'a delayed backlog of an urgent priority hides no other row');

-- an expired lease

select gd_insert('m', p_queue => 'crash') as id \gset
select claim_no as first from t.take('crash', 1, 'dead') \gset
select is_empty($$select * from t.take('crash')$$, 'a live lease is not taken over');
select t.expire(:id);
select results_eq(
    $$select id, attempt from t.take('crash')$$, format('values (%s::bigint, 1)', :id),
    'an expired one is: attempt is 1');
select is((select v.crashes from gd_instances v where v.id = :id), 1, 'and the crash is counted');
select is(
    (select c.result from gd_commit('dead', jsonb_build_array(
        jsonb_build_object('id', :id, 'claim_no', :first, 'kind', 'done'))) c),
    'stale', 'the lost worker''s outcome is stale');
select is(t.status(:id), 'executing', 'and changes nothing');
select t.put(:id, '{"kind": "next", "step": "b"}');
select results_eq(
    format('select attempt, crashes from gd_instances where id = %s', :id), 'values (0, 0)',
    'a committed outcome resets both');
select gd_insert('m', p_queue => 'crash2') as id \gset
select count(*) from t.take('crash2');
select t.expire(:id);
select is(t.commit(:id, '{"kind": "done"}'), 'ok', 'an expired lease that nobody has taken over still commits');

-- the crash cap

select gd_insert('m', p_queue => 'cap', p_unique_key => 'cap-1') as id \gset
create procedure t.crash(p_queue text, p_id bigint, p_times int)
language plpgsql as $$
begin
    for n in 1 .. p_times loop
        perform from t.take(p_queue);
        perform t.expire(p_id);
    end loop;
end $$;
call t.crash('cap', :id, 20);
select results_eq(
    format('select status, attempt, crashes from gd_instances where id = %s', :id), $$values ('executing', 19, 19)$$,
    'the twentieth claim in a row is still handed out');
select is_empty($$select * from t.take('cap')$$, 'when it is lost as well, the row is not handed out again');
select results_eq(
    format('select status, crashes, worker, eligible_at from gd_instances where id = %s', :id),
    $$values ('failed', 20, null::text, null::timestamptz)$$, 'but has failed');
select matches(r.last_error, '20', 'with a last_error that says why') from gd_result(:id) r;
select is(gd_find('cap-1'), null, 'and has let its unique key go');
select is(gd_signal(:id, 's'), 'no_target', 'and has ended');

select gd_insert('m', p_queue => 'cap_p') as parent \gset
select t.run('cap_p', '{"kind": "schedule_childs", "step": "joined", "childs": [{"fsm": "c", "queue": "cap_c"}]}');
select v.id as child from gd_instances v where v.parent_id = :parent \gset
call t.crash('cap_c', :child, 20);
select count(*) from t.take('cap_c');
select is(t.status(:child), 'failed', 'a child at the crash cap fails');
select results_eq(
    $$select id, step, childs -> 0 ->> 'status' from t.take('cap_p')$$, format($$values (%s::bigint, 'joined', 'failed')$$, :parent),
    'and its parent goes on');

select gd_insert('m', p_queue => 'cap_k', p_partition_key => 'cap') as a \gset
select gd_insert('m', p_queue => 'cap_k', p_partition_key => 'cap') as b \gset
call t.crash('cap_k', :a, 20);
create temp table cap_k as select id from t.take('cap_k', 5);
insert into cap_k select id from t.take('cap_k', 5);
select results_eq('select id from cap_k', format('values (%s::bigint)', :b), 'when a holder ends so, the next of its key runs');
select is(t.status(:a), 'failed', 'and the holder has failed');
select is(t.repaired(), 0, 'no baton was dropped');

select * from finish();
