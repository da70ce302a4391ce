\ir helpers/tap.psql
select no_plan();

-- defaults

select gd_insert('checkout') as id \gset
select results_eq(
    format('select fsm, fsm_version, step, status, queue, priority, attempt, state, meta from gd_instances where id = %s', :id),
    $$values ('checkout', 1, 'start', 'runnable', 'default', 0, 0, '{}'::jsonb, '{}'::jsonb)$$,
    'an insert of a name alone takes the defaults');
select ok(eligible_at <= clock_timestamp(), 'it is due now') from gd_instances where id = :id;
select is(
    (select row(c.step, c.attempt, c.signals, c.childs, c.timed_out)::text from t.take('default') c),
    '(start,0,[],[],f)', 'and it can be claimed, with nothing null that is an array');

select gd_register('known', 1, 'first', 'q_old');
select gd_register('known', 3, 'third', 'q_known', '{"max_attempts": 2}');
select gd_register('known', 2, 'second', 'q_mid');
select gd_insert('known') as id \gset
select results_eq(
    format('select fsm_version, step, queue from gd_instances where id = %s', :id),
    $$values (3, 'third', 'q_known')$$, 'a registered machine starts as its highest version says');
select gd_insert('known', p_version => 1) as id \gset
select results_eq(
    format('select fsm_version, step, queue from gd_instances where id = %s', :id),
    $$values (1, 'first', 'q_old')$$, 'an older version that is asked for starts as that one says');
select gd_insert('known', '{"order": 42}', 'later', 3, 'mine', 7, p_meta => '{"tag": 1}') as id \gset
select results_eq(
    format('select fsm_version, step, queue, priority, state, meta from gd_instances where id = %s', :id),
    $$values (3, 'later', 'mine', 7, '{"order": 42}'::jsonb, '{"tag": 1}'::jsonb)$$, 'what is given is taken');
select gd_insert(
    'nulls', null, null, null, null, null, null, null, null, null, null, null, null, null, null) as id \gset
select results_eq(
    format('select fsm_version, step, queue, priority, state, meta from gd_instances where id = %s', :id),
    $$values (1, 'start', 'default', 0, '{}'::jsonb, '{}'::jsonb)$$, 'null means the default, for every argument');

select gd_register('known', 3, 'other');
select gd_insert('known') as id \gset
select results_eq(
    format('select step, queue from gd_instances where id = %s', :id),
    $$values ('other', 'default')$$, 'registering again replaces the record');
select t.raises($$select gd_register(null, 1, 's')$$, 'GD501', 'a machine needs a name');
select t.raises($$select gd_register('', 1, 's')$$, 'GD501', 'a machine''s name is not empty');
select t.raises($$select gd_register('m', 0, 's')$$, 'GD501', 'versions begin at 1');
select t.raises($$select gd_register('m', null, 's')$$, 'GD501', 'a version is needed');
select t.raises($$select gd_register('m', 1, null)$$, 'GD501', 'an initial step is needed');
select t.raises($$select gd_register('m', 1, 's', '')$$, 'GD501', 'a queue''s name is not empty');
select t.raises($$select gd_register('m', 1, 's', 'q', '{"max_attempt": 3}')$$, 'GD501', 'an unknown option is refused');
select t.raises($$select gd_register('m', 1, 's', 'q', '{"max_attempts": 0}')$$, 'GD501', 'max_attempts is at least 1');
select t.raises($$select gd_register('m', 1, 's', 'q', '{"max_attempts": "3"}')$$, 'GD501', 'max_attempts is a number');
select t.raises($$select gd_register('m', 1, 's', 'q', '[]')$$, 'GD501', 'options are an object');

-- an option that is absent stays, null resets; of retain each key by itself, of timeouts all at once

create function t.options() returns text
language sql as $$
    select row(m.max_attempts, m.timeouts, m.retain)::text from gendurable.machine m where m.fsm = 'opt' and m.version = 1
$$;
select gd_register('opt', 1, 's', 'q', '{"max_attempts": 3, "timeouts": {"s": 1000, "b": 0.5}, "retain": {"done": 0, "failed": 60000}}');
select is(t.options(), '(3,"{""b"": 0.5, ""s"": 1000}","{""done"": 0, ""failed"": 60000}")', 'options are recorded');
select gd_register('opt', 1, 's');
select is(t.options(), '(3,"{""b"": 0.5, ""s"": 1000}","{""done"": 0, ""failed"": 60000}")', 'what is absent stays');
select is((select m.queue from gendurable.machine m where m.fsm = 'opt'), 'default', 'but not the queue, which is no option');
select m.xmin as before from gendurable.machine m where m.fsm = 'opt' \gset
select gd_register('opt', 1, 's', 'default', '{"max_attempts": 3.0, "timeouts": {"b": 0.50, "s": 1000}, "retain": {"failed": 60000, "cancelled": null}}');
select is((select m.xmin from gendurable.machine m where m.fsm = 'opt'), :'before', 'unchanged, nothing is written');
select gd_register('opt', 1, 's', 'default', '{"timeouts": {"s": 7}, "retain": {"done": null, "cancelled": 5}}');
select is(t.options(), '(3,"{""s"": 7}","{""failed"": 60000, ""cancelled"": 5}")', 'timeouts as a whole, retain key by key');
select gd_register('opt', 1, 's', 'default', '{"max_attempts": null, "timeouts": {}, "retain": null}');
select is(t.options(), '(,,)', 'null resets');
select gd_register('opt', 1, 's', 'default', '{"retain": {"done": null}}');
select is(t.options(), '(,,)', 'and what says nothing is nothing');
select lives_ok($$select gd_register('opt', 1, 's', 'default', 'null'), gd_register('opt', 1, 's', 'default', null)$$, 'null is no option');
select t.raises(format('select gd_register(%L, 1, %L, %L, %L)', 'opt', 's', 'q', x.options), 'GD501', 'options: ' || left(x.options::text, 60))
from (values
    ('{"retain": 1}'::jsonb), ('{"retain": []}'), ('{"retain": {"running": 1}}'), ('{"retain": {"done": -1}}'), ('{"retain": {"done": "1"}}'),
    ('{"retain": {"failed": 9.1e15}}'), ('{"retain": {"cancelled": true}}'), ('{"retain": {"done": {}}}'),
    ('{"timeouts": 1}'), ('{"timeouts": [1]}'), ('{"timeouts": {"s": 0}}'), ('{"timeouts": {"s": -1}}'), ('{"timeouts": {"s": null}}'),
    ('{"timeouts": {"s": "1"}}'), ('{"timeouts": {"s": 9.1e15}}'), ('{"timeouts": {"": 1}}'),
    (jsonb_build_object('timeouts', jsonb_build_object(repeat('x', 2001), 1))),
    (jsonb_build_object('timeouts', (select jsonb_object_agg(n, 1) from generate_series(1, 1001) n)))) x (options);
select lives_ok(format('select gd_register(%L, 1, %L, %L, %L)', 'opt', 's', 'q', x.options), 'options: ' || left(x.options::text, 60))
from (values
    ('{"retain": {"done": 9e15}, "timeouts": {"s": 9e15}}'::jsonb), ('{"retain": {"done": 1e-9}}'),
    (jsonb_build_object('timeouts', (select jsonb_object_agg(n, 1) from generate_series(1, 1000) n)))) x (options);

-- bad input: its SQLSTATE, a hint, nothing written

select t.raises($$select gd_insert(null)$$, 'GD501', 'a null machine');
select t.raises($$select gd_insert('')$$, 'GD501', 'an empty machine');
select t.raises($$select gd_insert('m', '[]')$$, 'GD501', 'a state that is an array');
select t.raises($$select gd_insert('m', '"text"')$$, 'GD501', 'a state that is a string');
select t.raises($$select gd_insert('m', p_meta => '1')$$, 'GD501', 'a meta that is a number');
select t.raises($$select gd_insert('m', p_step => '')$$, 'GD501', 'an empty step');
select t.raises($$select gd_insert('m', p_queue => '')$$, 'GD501', 'an empty queue');
select t.raises($$select gd_insert('m', p_partition_key => '')$$, 'GD501', 'an empty partition key');
select t.raises($$select gd_insert('m', p_unique_key => '')$$, 'GD501', 'an empty unique key');
select t.raises($$select gd_insert('m', p_version => 0)$$, 'GD501', 'a version of 0');
select t.raises($$select gd_insert('m', p_max_attempts => 0)$$, 'GD501', 'no attempts at all');
select t.raises($$select gd_insert('m', p_delay => '-1 second')$$, 'GD501', 'a negative delay');
select t.raises($$select gd_insert('m', p_eligible_at => 'infinity')$$, 'GD501', 'an infinite time');
select t.raises($$select gd_insert('m', p_eligible_at => '-infinity')$$, 'GD501', 'a time that is infinitely past');
select t.raises($$select gd_insert('m', p_eligible_at => now(), p_delay => '1 s')$$, 'GD501', 'a time and a delay');
select t.raises($$select gd_insert('m', p_weight => 0)$$, 'GD501', 'a weight of 0');
select t.raises($$select gd_insert('m', p_weight => 'NaN')$$, 'GD501', 'a weight that is no number');
select t.raises($$select gd_insert('m', p_weight => 'Infinity')$$, 'GD501', 'an infinite weight');
select t.raises(
    $$select gd_insert('m', p_unique_key => 'k', p_unique_scope => '{runnable,sleeping}')$$, 'GD501',
    'an unknown status in the scope');
select t.raises(
    $$select gd_insert('m', p_unique_key => 'k', p_unique_scope => array['runnable', null])$$, 'GD501',
    'a null in the scope');
select t.raises($$select gd_insert('m', p_rate_limit => 'nobody')$$, 'GD502', 'a rate limit that does not exist');
select case
    when current_setting('server_version_num')::int >= 170000
        then t.raises($$select gd_insert('m', p_delay => 'infinity')$$, 'GD501', 'an infinite delay')
    else skip('an infinite interval needs PostgreSQL 17')
end;

select t.raises($$select gd_insert_many(null)$$, 'GD501', 'many: null');
select t.raises($$select gd_insert_many('{}')$$, 'GD501', 'many: an object');
select t.raises($$select gd_insert_many('[1]')$$, 'GD501', 'many: a number in the array');
select t.raises($$select gd_insert_many('[{}]')$$, 'GD501', 'many: no machine');
select t.raises($$select gd_insert_many('[{"fsm": null}]')$$, 'GD501', 'many: a null machine');
select t.raises($$select gd_insert_many('[{"fsm": 5}]')$$, 'GD501', 'many: a machine that is a number');
select t.raises($$select gd_insert_many('[{"fsm": "m", "stat": {}}]')$$, 'GD501', 'many: an unknown key');
select t.raises($$select gd_insert_many('[{"fsm": "m"}, {"fsm": "m", "state": []}]')$$, 'GD501', 'many: one bad state');
select t.raises($$select gd_insert_many('[{"fsm": "m", "meta": []}]')$$, 'GD501', 'many: a bad meta');
select t.raises($$select gd_insert_many('[{"fsm": "m", "delay_ms": -1}]')$$, 'GD501', 'many: a negative delay');
select t.raises($$select gd_insert_many('[{"fsm": "m", "delay_ms": "1"}]')$$, 'GD501', 'many: a delay that is text');
select t.raises($$select gd_insert_many('[{"fsm": "m", "version": 1.5}]')$$, 'GD501', 'many: half a version');
select t.raises($$select gd_insert_many('[{"fsm": "m", "priority": "0"}]')$$, 'GD501', 'many: a priority that is text');
select t.raises($$select gd_insert_many('[{"fsm": "m", "priority": 3000000000}]')$$, 'GD501', 'many: too large a priority');
select t.raises($$select gd_insert_many('[{"fsm": "m", "max_attempts": 0}]')$$, 'GD501', 'many: no attempts');
select t.raises($$select gd_insert_many('[{"fsm": "m", "weight": 0}]')$$, 'GD501', 'many: a weight of 0');
select t.raises($$select gd_insert_many('[{"fsm": "m", "weight": "1"}]')$$, 'GD501', 'many: a weight that is text');
select t.raises($$select gd_insert_many('[{"fsm": "m", "eligible_at": "infinity"}]')$$, 'GD501', 'many: an infinite time');
select t.raises(
    $$select gd_insert_many('[{"fsm": "m", "eligible_at": "2030-01-01T00:00:00Z", "delay_ms": 1}]')$$, 'GD501',
    'many: a time and a delay');
select t.raises(
    $$select gd_insert_many('[{"fsm": "m", "unique_key": "k", "unique_scope": "done"}]')$$, 'GD501',
    'many: a scope that is no array');
select t.raises(
    $$select gd_insert_many('[{"fsm": "m", "unique_key": "k", "unique_scope": ["nope"]}]')$$, 'GD501',
    'many: an unknown status in the scope');
select t.raises(
    $$select gd_insert_many('[{"fsm": "m", "unique_key": "k", "unique_scope": [["done"]]}]')$$, 'GD501',
    'many: a nested scope');
select t.raises($$select gd_insert_many('[{"fsm": "m", "rate_limit": "nobody"}]')$$, 'GD502', 'many: no such rate limit');

-- many

select results_eq(
    $$select ord, created from gd_insert_many('[{"fsm": "m", "queue": "many"}, {"fsm": "n", "queue": "many"}]') order by ord$$,
    $$values (0, true), (1, true)$$, 'many: a row for each object, at its position');
select is_empty($$select * from gd_insert_many('[]')$$, 'many: an empty array is no work and no error');
select is(
    (select array_agg(v.fsm order by v.id) from gd_instances v where v.queue = 'many'), '{m,n}',
    'many: ids follow the order of the input');
create temp table full_row as
select * from gd_insert_many($$[{
    "fsm": "m", "state": {"a": 1}, "step": "s", "version": 4, "queue": "q_full", "priority": -3, "partition_key": "p:1",
    "unique_key": "u1", "unique_scope": ["runnable", "done"], "delay_ms": 5000000000, "weight": 2.5, "max_attempts": 9,
    "meta": {"t": true}, "rate_limit": null, "eligible_at": null}]$$);
select results_eq(
    $$select fsm, state, step, fsm_version, queue, priority, partition_key, unique_key, meta
      from gd_instances where id = (select id from full_row)$$,
    $$values ('m', '{"a": 1}'::jsonb, 's', 4, 'q_full', -3, 'p:1', 'u1', '{"t": true}'::jsonb)$$, 'many: every key is read');
select ok(
    v.eligible_at - v.inserted_at between interval '57 days' and interval '58 days',
    'many: milliseconds have no 32-bit limit')
from gd_instances v where v.id = (select f.id from full_row f);
select is(
    (select v.eligible_at from gd_instances v
        where v.id = (select n.id from gd_insert_many('[{"fsm": "m", "queue": "at", "eligible_at": "2031-05-06T07:08:09Z"}]') n)),
    null, 'many: (the row is younger than this statement''s snapshot)');
select is(
    (select v.eligible_at from gd_instances v where v.queue = 'at'), '2031-05-06 07:08:09+00'::timestamptz,
    'many: a time is read with its zone');

select lives_ok($$select gd_insert_many('[{"fsm": "m", "queue": "nulls", "state": null, "step": null, "version": null, "priority": null,
    "partition_key": null, "unique_key": null, "delay_ms": null, "weight": null, "max_attempts": null, "meta": null}]')$$,
    'many: a null is the default');
select lives_ok($$select gd_insert_many('[{"fsm": "m", "queue": "nulls", "unique_key": "nul", "unique_scope": null}]')$$,
    'many: a null scope is the default');

-- times, priorities, order

select is(
    (select count(*) from (select gd_insert('m', p_queue => 'later', p_delay => '1 hour')) x), 1::bigint, 'a delayed row');
select is_empty($$select * from t.take('later')$$, 'a delayed row is not claimed');
select t.due(v.id) from gd_instances v where v.queue = 'later';
select is((select count(*) from t.take('later')), 1::bigint, 'but when its time has come');
select gd_insert('m', p_queue => 'order', p_step => 'c', p_eligible_at => now() - interval '1 min');
select gd_insert('m', p_queue => 'order', p_step => 'd', p_priority => 1, p_eligible_at => now() - interval '1 day');
select gd_insert('m', p_queue => 'order', p_step => 'b', p_eligible_at => now() - interval '2 min');
select gd_insert('m', p_queue => 'order', p_step => 'a', p_priority => -1);
select is(
    (select array_agg(c.step) from t.take('order', 10) c), '{a,b,c,d}',
    'order: priority, then the time at which a row became due, past times counting');
select gd_insert('m', p_queue => 'zero', p_delay => '0');
select is((select count(*) from t.take('zero')), 1::bigint, 'a delay of 0 is no delay');

-- uniqueness

select gd_insert('m', p_queue => 'u', p_unique_key => 'order-1') as id \gset
select is(gd_insert('m', p_queue => 'u', p_unique_key => 'order-1'), null, 'a duplicate returns null');
select is(gd_find('order-1'), :'id', 'gd_find: who holds the key');
select is(gd_find('order-2'), null, 'gd_find: nobody');
select results_eq(
    $$select ord, created, id = gd_find('order-1') from gd_insert_many('[{"fsm": "m", "queue": "u", "unique_key": "z"},
        {"fsm": "m", "queue": "u", "unique_key": "order-1"}, {"fsm": "m", "queue": "u", "unique_key": "a"},
        {"fsm": "other", "queue": "u", "unique_key": "z"}, {"fsm": "m", "queue": "u"}]') order by ord$$,
    $$values (0, true, false), (1, false, true), (2, true, false), (3, false, false), (4, true, false)$$,
    'many: duplicates keep their position and get the holder''s id');
select is(
    (select v.fsm from gd_instances v where v.id = gd_find('z')), 'm', 'many: the first in the input wins');
select results_eq(
    $$select id from gd_insert_many('[{"fsm": "m", "unique_key": "z"}]')$$, $$select gd_find('z')$$,
    'many: the id of a duplicate is its holder');

select gd_insert('m', p_queue => 'u_end', p_unique_key => 'end-1') as id \gset
select is(t.run('u_end', '{"kind": "next", "step": "b", "delay_ms": 3600000}'), :'id', 'through its life it holds the key:');
select is(gd_insert('m', p_unique_key => 'end-1'), null, 'while it waits');
select t.due(:id);
select id as claimed from t.take('u_end') \gset
select is(gd_insert('m', p_unique_key => 'end-1'), null, 'while it executes');
select t.put(:id, '{"kind": "await", "signals": "s"}');
select is(gd_insert('m', p_unique_key => 'end-1'), null, 'while it awaits');
select gd_signal(:id, 's');
select t.run('u_end', '{"kind": "done"}');
select is(gd_find('end-1'), null, 'an ended instance lets the key go');
select isnt(gd_insert('m', p_queue => 'u_end', p_unique_key => 'end-1'), null, 'and it can be used again');

select gd_insert('m', p_queue => 'u_scope', p_unique_key => 'sc', p_unique_scope => '{runnable}') as a \gset
select is((select c.unique_key from t.take('u_scope') c), 'sc', 'the key is handed out with the claim');
select is(gd_find('sc'), null, 'a row that leaves its scope lets the key go');
select gd_insert('m', p_queue => 'u_scope', p_unique_key => 'sc', p_unique_scope => '{runnable}') as b \gset
select isnt(:b, :a, 'so that another can have it');
select is(t.commit(:a, '{"kind": "next", "step": "x"}'), 'ok', 'when it would enter the scope again');
select is(gd_find('sc'), :'b', 'while another holds the key, it goes on without it');
select gd_cancel(:b);
select t.run('u_scope', '{"kind": "next", "step": "x"}');
select is(gd_find('sc'), :'a', 'and takes it again where nobody holds it');

select gd_insert('m', p_queue => 'u_none', p_unique_key => 'free', p_unique_scope => '{}') as a \gset
select isnt(gd_insert('m', p_queue => 'u_none', p_unique_key => 'free', p_unique_scope => '{}'), null, 'an empty scope: no duplicates');
select is(gd_find('free'), null, 'and no address');
select is(gd_signal('free', 's'), 'no_target', 'nor a target');

select gd_insert('m', p_queue => 'u_done', p_unique_key => 'once', p_unique_scope => '{runnable,executing,done}') as id \gset
select t.run('u_done', '{"kind": "done"}');
select is(gd_insert('m', p_unique_key => 'once'), null, 'a scope with done: never twice');
select is(gd_find('once'), :'id', 'and the ended holder is found');

select gd_insert('m', p_queue => 'u_default', p_unique_key => 'dk', p_partition_key => 'k') as id \gset
select count(*) from t.take('u_default');
select is(gd_find('dk'), :'id', 'a row with both keys still holds its unique key while it executes');
select gd_insert('m', p_queue => 'u_default2', p_unique_key => 'dk2') as id \gset
select count(*) from t.take('u_default2');
select t.expire(:id);
select count(*) from t.take('u_default2');
select is(gd_find('dk2'), :'id', 'and so does a row that is claimed again after a crash');
select gd_insert('m', p_queue => 'u_default3', p_unique_key => 'dk3') as id \gset
select gd_insert('m', p_queue => 'u_default3', p_unique_key => 'dk4', p_unique_scope => '{executing}');
select count(*) from t.take('u_default3', 2);
select is(gd_find('dk3'), :'id', 'and a row that is claimed together with one of another scope');
select isnt(gd_find('dk4'), null, 'a scope of executing: held from the claim on');

select gd_insert('m', p_queue => 'u_twice', p_unique_key => 'ex', p_unique_scope => '{executing}');
select gd_insert('m', p_queue => 'u_twice', p_unique_key => 'ex', p_unique_scope => '{executing}');
select lives_ok($$create temp table twice as select id from t.take('u_twice', 2)$$, 'two that enter the scope in one claim');
select is((select count(*) from gd_instances v where v.queue = 'u_twice' and v.status = 'executing'), 2::bigint, 'both are claimed');
select isnt(gd_find('ex'), null, 'and one of them holds the key');

select gd_insert('m', p_queue => 'u_back', p_unique_key => 'rb', p_unique_scope => '{runnable}');
select count(*) from t.take('u_back');
select gd_insert('m', p_queue => 'u_back', p_unique_key => 'rb', p_unique_scope => '{runnable}');
select count(*) from t.take('u_back');
select is(gd_find('rb'), null, '(nobody is in the scope)');
select lives_ok($$select gd_release('w', null)$$, 'two that enter the scope in one release');
select is((select count(*) from gd_instances v where v.queue = 'u_back' and v.status = 'runnable'), 2::bigint, 'both are given back');

select gd_insert('m', p_queue => 'u_batch', p_unique_key => 'ba', p_unique_scope => '{runnable}') as a \gset
select count(*) from t.take('u_batch');
select gd_insert('m', p_queue => 'u_batch', p_unique_key => 'ba', p_unique_scope => '{runnable}') as b \gset
select count(*) from t.take('u_batch');
select is(
    (select array_agg(c.result order by c.ord) from gd_commit('w', (
        select jsonb_agg(jsonb_build_object('id', v.id, 'claim_no', v.claim_no, 'kind', 'next', 'step', 's'))
        from gendurable.instance v where v.queue = 'u_batch')) c),
    '{ok,ok}', 'two that enter the scope in one batch of outcomes: both commit');

-- deadlines

select gd_insert('m', p_queue => 'exp', p_expires_at => '2031-05-06T07:08:09Z') as id \gset
select is(i.expires_at, '2031-05-06T07:08:09Z', 'a deadline') from gendurable.instance i where i.id = :id;
select lives_ok($$select gd_insert('m', p_queue => 'exp', p_expires_at => '2001-01-01T00:00:00Z')$$, 'one that has passed is no mistake');
select t.raises($$select gd_insert('m', p_expires_at => 'infinity')$$, 'GD501', 'never');
select t.raises($$select gd_insert('m', p_expires_at => '-infinity')$$, 'GD501', 'before all times');
create temp table many as
select m.ord, m.id from gd_insert_many('[{"fsm": "m", "expires_ms": 60000}, {"fsm": "m", "expires_at": "2031-05-06T07:08:09+02:00"},
    {"fsm": "m", "expires_at": null, "expires_ms": null}]') m;
select ok(i.expires_at > i.inserted_at + interval '30 seconds' and i.expires_at < i.inserted_at + interval '90 seconds', 'many: so many milliseconds from now')
from many join gendurable.instance i on i.id = many.id where many.ord = 0;
select results_eq(
    'select many.ord, i.expires_at from many join gendurable.instance i on i.id = many.id where many.ord > 0 order by 1',
    $$values (1, timestamptz '2031-05-06T05:08:09Z'), (2, null)$$, 'many: at a time, and none');
select t.raises(format($$select * from gd_insert_many('[{"fsm": "m", %s}]')$$, x.keys), 'GD501', 'many: ' || x.keys)
from (values
    ('"expires_ms": -1'), ('"expires_ms": "5"'), ('"expires_ms": 1e16'), ('"expires_at": 5'), ('"expires_at": "tomorrow"'),
    ('"expires_at": "infinity"'), ('"expires_at": "2031-05-06"'), ('"expires_at": "2031-05-06T07:08:09Z", "expires_ms": 5')) x (keys);
update gendurable.instance set expires_at = null where id in (select many.id from many);

-- the short examination of an instance, against the long one

create temp table tried as
select o, gendurable._is_plain_instance(o) as plain
from unnest(array['"m"', '""', '5', 'null', to_jsonb(repeat('ä', 1000)), to_jsonb(repeat('ä', 1001)), null]::jsonb[]) fsm,
    unnest(array['1', '0', '-1', '1.5', '1.0', '1e3', '2147483647', '2147483648', '"1"', 'null', null]::jsonb[]) version,
    unnest(array['"s"', '""', '5', to_jsonb(repeat('s', 2001)), 'null', null]::jsonb[]) step,
    unnest(array['"q"', '""', '[]', to_jsonb(repeat('q', 2001)), 'null', null]::jsonb[]) queue,
    unnest(array['{"a": 1}', '[]', '7', 'null', null]::jsonb[]) state,
    unnest(array['priority', 'fms', null]) other,
    lateral (
        select coalesce(jsonb_object_agg(k, v) filter (where v is not null), '{}') as o
        from unnest(array['fsm', 'version', 'step', 'queue', 'state', other],
            array[fsm, version, step, queue, state, case when other is not null then '7'::jsonb end]) u (k, v)
        where k is not null) object
union all
select o, gendurable._is_plain_instance(o) from unnest(array['5', '"fsm"', '["fsm"]', '[]', 'null', '{}']::jsonb[]) o;
select is_empty(
    $$select o from tried where plain and gendurable._new_instance_json_problem(o) is not null$$,
    'what passes the short examination passes the long one');
select lives_ok(
    $$select gendurable._refuse_new_instances(gendurable._parse_instances(jsonb_agg(o))) from tried where plain$$, 'and can be read and stored');
select is(count(*), 48::bigint, 'all combinations of plain values do') from tried where plain;

select * from finish();
