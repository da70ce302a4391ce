\ir helpers/tap.psql
select no_plan();

-- One instance in one line: step, version, state, whether it is due, and in which queue.
create function t.line(p_id bigint) returns text
language sql as $$
    select format('%s %s %s %s %s', v.step, v.fsm_version, v.state,
        case when v.eligible_at is null then 'parked' when v.eligible_at <= clock_timestamp() then 'due' else 'later' end, v.queue)
    from gd_instances v where v.id = p_id
$$;

-- nobody holds the key

select ok(gd_insert('m', p_queue => 'free', p_unique_key => 'free:' || x.how, p_on_conflict => x.how) > 0, x.how || ' inserts')
from (values ('nothing'), ('id'), ('reschedule'), ('replace')) x (how);
select is((select count(*) from gendurable.instance i where i.queue = 'free'), 4::bigint, 'one each');
select ok(gd_insert('m', p_queue => 'free2', p_unique_key => 'free:null', p_on_conflict => null) > 0, 'null: inserts');
select is(gd_insert('m', p_unique_key => 'free:null', p_on_conflict => null), null, 'and is nothing');
select ok(gd_insert('m', p_queue => 'free2', p_on_conflict => 'replace') > 0, 'without a key there is no holder');

-- a holder that has not begun

select gd_insert('m', '{"n": 1}', p_queue => 'q', p_unique_key => 'u', p_delay => '1 hour', p_priority => 5, p_meta => '{"m": 1}',
    p_attributes => '{"a": 1}') as u \gset
select is(gd_insert('m', '{"n": 2}', p_unique_key => 'u'), null, 'nothing: null');
select is(gd_insert('m', '{"n": 2}', p_unique_key => 'u', p_on_conflict => 'id'), :u::bigint, 'id: its id');
select is(t.line(:u), 'start 1 {"n": 1} later q', 'and it is left alone');
select is(gd_insert('m', '{"n": 2}', p_unique_key => 'u', p_step => 'two', p_on_conflict => 'reschedule'), :u::bigint, 'reschedule: its id');
select is(t.line(:u), 'start 1 {"n": 1} due q', 'it is due, and else as it was');
select is(gd_insert('m', '{"n": 3}', p_unique_key => 'u', p_delay => '2 hours', p_on_conflict => 'replace', p_priority => 1, p_queue => 'r',
    p_meta => '{"m": 2}', p_attributes => '{"a": 2}'), :u::bigint, 'replace: its id');
select is(t.line(:u), 'start 1 {"n": 3} later q', 'it has the state and the time, and its own queue');
select is((select row(v.priority, v.meta, v.attributes)::text from gd_instances v where v.id = :u), '(5,"{""m"": 1}","{""a"": 1}")',
    'all else is as it was');
select gd_register('m', 7, 'seven', 'sevens');
select is(gd_insert('m', p_unique_key => 'u', p_eligible_at => '2000-01-01Z', p_on_conflict => 'replace'), :u::bigint, 'of a new version');
select is(t.line(:u), 'seven 7 {} due q', 'the version and its step come with the state');
select is(gd_insert('m', '{"n": 4}', p_step => 'other', p_version => 3, p_unique_key => 'u', p_on_conflict => 'replace'), :u::bigint,
    'or those that are given');
select is(t.line(:u), 'other 3 {"n": 4} due q', '(they are)');
select is(gd_insert('m', p_unique_key => 'u', p_eligible_at => '2031-05-06T07:08:09Z', p_on_conflict => 'reschedule'), :u::bigint, 'again');
select is((select v.eligible_at from gd_instances v where v.id = :u), '2031-05-06T07:08:09Z', 'at that very time');
select is((select count(*) from gendurable.instance i where i.unique_key = 'u'), 1::bigint, 'it stays one');

-- one that has begun

select gd_insert('m', p_unique_key => 'u', p_on_conflict => 'reschedule');
select is((select c.id from t.take('q') c), :u::bigint, 'it is claimed');
select is(gd_insert('m', '{"n": 9}', p_unique_key => 'u', p_on_conflict => 'id'), :u::bigint, 'executing: id answers it');
select is(gd_insert('m', '{"n": 9}', p_unique_key => 'u', p_on_conflict => x.how), null, 'executing: ' || x.how || ' answers null')
from (values ('reschedule'), ('replace')) x (how);
select t.put(:u, '{"kind": "next", "step": "on", "delay_ms": 3600000}');
select is(gd_insert('m', '{"n": 9}', p_unique_key => 'u', p_on_conflict => x.how), null, 'further on: ' || x.how || ' answers null')
from (values ('reschedule'), ('replace')) x (how);
select is(t.line(:u), 'on 3 {"n": 4} later q', 'nothing has changed');
select gd_cancel(:u);
select isnt(gd_insert('m', '{"n": 9}', p_unique_key => 'u', p_on_conflict => 'replace'), :u::bigint, 'ended: a new one');
select gd_insert('other', p_queue => 'o', p_unique_key => 'o', p_delay => '1 hour') as o \gset
select is(gd_insert('m', p_unique_key => 'o', p_on_conflict => 'replace'), null, 'of another machine: null');
select is(t.line(:o), 'start 1 {} later o', '(as it was)');
select is(gd_insert('m', p_unique_key => 'o', p_on_conflict => 'id'), :o::bigint, 'but it is the holder');
select gd_insert('m', p_queue => 'gb', p_unique_key => 'gb') as gb \gset
select gd_release('w', jsonb_build_array(jsonb_build_array(c.id, c.claim_no))) from t.take('gb') c;
select is(gd_insert('m', p_unique_key => 'gb', p_on_conflict => 'replace'), null, 'given back: a worker had it');

-- debounce: the key is held only until it begins

select gd_insert('idx', '{"doc": 1}', p_queue => 'idx', p_unique_key => 'idx:1', p_unique_scope => '{runnable}', p_delay => '5 s',
    p_on_conflict => 'replace') as id \gset
select is(gd_insert('idx', '{"doc": 2}', p_unique_key => 'idx:1', p_unique_scope => '{runnable}', p_delay => '5 s', p_on_conflict => 'replace'),
    :id::bigint, 'later ones are one');
select t.due(:id);
select is((select c.state from t.take('idx') c), '{"doc": 2}', 'with the last state');
select isnt(gd_insert('idx', '{"doc": 3}', p_queue => 'idx', p_unique_key => 'idx:1', p_unique_scope => '{runnable}', p_on_conflict => 'replace'), :id::bigint,
    'and while that runs, another one');

-- in a partition key: places and batons

select gd_insert('m', p_queue => 'k', p_partition_key => 'k', p_unique_key => 'k1', p_delay => '1 hour') as k1 \gset
select gd_insert('m', p_queue => 'k', p_partition_key => 'k', p_unique_key => 'k2') as k2 \gset
select is((select c.id from t.take('k') c), :k2::bigint, 'the second comes first');
select gd_insert('m', p_queue => 'k', p_partition_key => 'k', p_unique_key => 'k3') as k3 \gset
select is((select count(*) from t.take('k')), 0::bigint, 'the third parks');
select is(gd_insert('m', p_unique_key => 'k1', p_eligible_at => '2020-01-01Z', p_on_conflict => 'reschedule'), :k1::bigint, 'the first is to come before it');
select t.put(:k2, '{"kind": "done"}');
select is((select c.id from t.take('k') c), :k1::bigint, 'and does');
select t.put(:k1, '{"kind": "done"}');
select is((select c.id from t.take('k') c), :k3::bigint, 'then the third');
select gd_insert('m', p_queue => 'k', p_partition_key => 'k', p_unique_key => 'k4') as k4 \gset
select gd_insert('m', p_queue => 'k', p_partition_key => 'k', p_unique_key => 'k5') as k5 \gset
select t.put(:k3, '{"kind": "done"}');
select gd_insert('m', p_unique_key => 'k4', p_delay => '1 hour', p_on_conflict => 'replace');
select is((select c.id from t.take('k') c), :k5::bigint, 'who is put off passes the baton on');

-- in the line before a rate limit; to a step with a queue of its own

select gd_set_rate_limit('l', 1, '1 day', 1);
select gd_insert('m', p_queue => 'l', p_rate_limit => 'l') as l1 \gset
select gd_insert('m', p_queue => 'l', p_rate_limit => 'l', p_unique_key => 'l2') as l2 \gset
select is((select array_agg(c.id) from t.take('l', 5) c), array[:l1::bigint], 'one token');
select ok((select i.bucket_at is not null from gendurable.instance i where i.id = :l2), 'the other stands in the line');
select is(gd_insert('m', p_unique_key => 'l2', p_delay => '1 hour', p_on_conflict => 'replace'), :l2::bigint, 'and is moved');
select ok((select i.bucket_at is null and i.eligible_at > now() from gendurable.instance i where i.id = :l2), 'out of it');
select gd_define_step('m', 'far', p_options => '{"queue": "far"}');
select gd_insert('m', p_queue => 'near', p_unique_key => 'far') as far \gset
select gd_insert('m', p_step => 'far', p_unique_key => 'far', p_on_conflict => 'replace');
select is(t.line(:far), 'far 7 {} due far', 'it goes where its step runs');

-- what is kept of it

select gd_register('hist', 1, 's', 'hist', '{"history": "states"}');
select gd_insert('hist', '{"n": 1}', p_unique_key => 'hist') as id \gset
select gd_insert('hist', '{"n": 2}', p_unique_key => 'hist', p_on_conflict => 'replace');
select results_eq(format('select kind, state, detail ? ''by'' from gd_history(%s)', :id),
    $$values ('replace', '{"n": 1}'::jsonb, true), ('reschedule', '{"n": 2}', true)$$, 'the history says so');

-- whether it is tried again: where nobody holds the key any more, or somebody has the row locked, but not for ever

select is((select row(m.id, m.again)::text from gendurable._meet_holder(
    jsonb_populate_record(null::gendurable.new_instance, '{"fsm": "m", "unique_key": "nobody"}'), x.how, x.try) m), x.answer,
    format('nobody holds it, %s, try %s', x.how, x.try))
from (values ('id', 1, '(,t)'), ('replace', 1, '(,t)'), ('reschedule', 9, '(,t)'), ('id', 10, '(,f)'), ('replace', 10, '(,f)')) x (how, try, answer);

-- bad calls

select t.raises(format('select gd_insert(''m'', %s)', x.bad), 'GD501', x.bad)
from (values ($$p_on_conflict => 'update', p_unique_key => 'z'$$), ($$p_on_conflict => '', p_unique_key => 'z'$$),
    ($$'[]', p_on_conflict => 'replace', p_unique_key => 'free:id'$$), ($$p_queue => '', p_on_conflict => 'id', p_unique_key => 'free:id'$$),
    ($$p_delay => '1 s', p_eligible_at => now(), p_on_conflict => 'reschedule', p_unique_key => 'free:id'$$)) x (bad);
-- the version that is pinned, as for an insert
select gd_register('pinned', 1, 'one', 'ps'), gd_register('pinned', 2, 'two', 'ps', '{"default_version": 1}');
select gd_insert('pinned', p_unique_key => 'pinned', p_delay => '1 hour') as p \gset
select is(gd_insert('pinned', '{"n": 1}', p_unique_key => 'pinned', p_on_conflict => 'replace'), :p::bigint, 'replaced');
select is(t.line(:p), 'one 1 {"n": 1} due ps', 'by the pinned version');

set default_transaction_isolation = 'repeatable read';
begin;
select t.raises($$select gd_insert('m', p_unique_key => 'free:id', p_on_conflict => 'replace')$$, 'GD504', 'the locks of another snapshot');
commit;
set default_transaction_isolation = 'read committed';

select * from finish();
