\ir helpers/tap.psql
select no_plan();

-- the errors of an instance in the order of their coming, "kind step attempt error"
create function t.errors(p_id bigint) returns text
language sql as $$
    select string_agg(format('%s %s %s %s', e.kind, e.step, e.attempt, coalesce(e.error, '-')), '; ' order by e.o desc)
    from gd_errors(p_id) with ordinality e (at, step, attempt, kind, worker, error, traceback, o)
$$;
create function t.kinds(p_id bigint) returns text
language sql as $$
    select string_agg(h.kind, ' ' order by h.no) from gd_history(p_id) h
$$;

-- outcomes

select gd_insert('m', p_queue => 'o', p_max_attempts => 5) as id \gset
select t.run('o', '{"kind": "error", "error": "one", "delay_ms": 0, "traceback": "line 1"}');
select t.run('o', '{"kind": "replay", "error": "two", "traceback": "line 2"}');
select t.run('o', '{"kind": "replay"}');
select t.run('o', '{"kind": "next", "step": "b"}');
select t.run('o', '{"kind": "error", "error": "three", "delay_ms": 0}');
select t.run('o', '{"kind": "stop", "reason": "four", "traceback": null}');
select is(t.errors(:id), 'error start 0 one; replay start 1 two; error b 0 three; stop b 1 four',
    'each error, newest first; what succeeds adds none');
select results_eq(
    format('select worker, traceback, at <= clock_timestamp() and at > clock_timestamp() - interval ''1 min'' from gd_errors(%s)', :id),
    $$values ('w', null::text, true), ('w', null, true), ('w', 'line 2', true), ('w', 'line 1', true)$$,
    'by whom, where, when');
select is((select count(*) from gd_errors(:id, 2)), 2::bigint, 'so many and no more');
select is((select e.error from gd_errors(:id, 1) e), 'four', '(the newest)');
select is((select count(*) from gd_errors(:id, null)), 4::bigint, 'null is the default');
select t.raises(format('select * from gd_errors(%s, -1)', :id), 'GD501', 'fewer than none');
select is_empty('select * from gd_errors(0)', 'no such instance');
select is_empty('select * from gd_errors(null)', 'nor this one');
select is(
    (select jsonb_agg(e - '{at,worker}'::text[]) from jsonb_array_elements(gd_get(:id) -> 'errors') e),
    '[{"kind": "stop", "step": "b", "attempt": 1, "error": "four"}, {"kind": "error", "step": "b", "attempt": 0, "error": "three"},
    {"kind": "replay", "step": "start", "attempt": 1, "error": "two"}, {"kind": "error", "step": "start", "attempt": 0, "error": "one"}]',
    'gd_get has them');
select is(gd_retry(:id), true, 'tried again');
select t.run('o', '{"kind": "done"}');
select is((select count(*) from gd_errors(:id)), 4::bigint, 'and they stay');
select is_empty('select from gendurable.history', 'nobody asked for a history');

-- the last 20, and no more, whatever was before
select gd_insert('m', p_queue => 'many', p_max_attempts => 1000) as id \gset
select t.run('many', jsonb_build_object('kind', 'error', 'error', 'n' || g, 'delay_ms', 0)) from generate_series(1, 45) g;
select is((select string_agg(e.error, ' ') from gd_errors(:id) e),
    (select string_agg('n' || g, ' ' order by g desc) from generate_series(26, 45) g), 'the last 20');
select is(jsonb_array_length(gd_get(:id) -> 'errors'), 10, 'the last 10');
select is(gd_get(:id) #>> '{errors,0,error}', 'n45', '(newest first)');

select gd_insert('m', p_queue => 'hands') as id \gset
select gd_cancel(:id, 'c' || g), gd_retry(:id) from generate_series(1, 23) g;
select is((select string_agg(e.error, ' ') from gd_errors(:id) e),
    (select string_agg('c' || g, ' ' order by g desc) from generate_series(4, 23) g), 'also of what came from outside');

-- too long
select gd_insert('m', p_queue => 'long', p_max_attempts => 10) as id \gset
select t.run('long', jsonb_build_object('kind', 'error', 'error', 'head ' || repeat('x', 90000) || ' tail',
    'delay_ms', 0, 'traceback', 'first ' || repeat(U&'\20AC', 60000) || repeat('y', 30000) || repeat(U&'\+01F600', 9000) || ' last'));
select ok(octet_length(e.error) between 32000 and 32768 and e.error like 'head x%' and e.error like '%x tail', 'the middle is cut out') from gd_errors(:id) e;
select ok(octet_length(e.traceback) between 32000 and 32768 and e.traceback like U&'first \20AC%' and e.traceback like U&'%\+01F600 last'
        and e.traceback like E'%\n... % characters cut ...\n%', 'by bytes, and between characters') from gd_errors(:id) e;
select t.run('long', jsonb_build_object('kind', 'error', 'error', repeat('x', 32768), 'delay_ms', 0));
select is((select e.error from gd_errors(:id, 1) e), repeat('x', 32768), 'what just fits stays whole');
select is(gendurable._cut_middle(null), null, 'nothing to cut');
select gd_insert('m', p_queue => 'wrong') as id \gset
select t.take('wrong');
select t.rejects(:id, format('{"kind": "%s", "reason": "x", "error": "x", "traceback": 1}', k)::jsonb - case k when 'stop' then 'error' else 'reason' end,
    '^GD501$', k || ' with a traceback that is none')
from unnest('{stop,error,replay}'::text[]) k;
select t.rejects(:id, format('{"kind": "%s", "step": "x", "traceback": "x"}', k)::jsonb, '^GD501$', k || ' has none')
from unnest('{next,done}'::text[]) k;
select is_empty(format('select * from gd_errors(%s)', :id), 'what was rejected is no error of the instance');

-- a batch of which one is bad, and gd_commit_one
select gd_insert('m', p_queue => 'batch') as a, gd_insert('m', p_queue => 'batch') as b \gset
select t.take('batch', 2);
select results_eq(
    format($$select result from gd_commit('w', (select jsonb_agg(jsonb_build_object('id', i.id, 'claim_no', i.claim_no, 'kind', 'replay',
        'error', 'e', 'insert', case when i.id = %s then '[{"fsm": ""}]' else '[]' end::jsonb) order by i.id)
        from gendurable.instance i where i.queue = 'batch'))$$, :a),
    $$values ('rejected'), ('ok')$$, 'one of two is rejected');
select is((t.errors(:a), t.errors(:b)), (null::text, 'replay start 0 e'::text), 'and only what was committed is kept');
select gd_commit_one('w', jsonb_build_object('id', :a, 'claim_no', i.claim_no, 'kind', 'stop', 'reason', 'alone', 'traceback', 'here'))
from gendurable.instance i where i.id = :a;
select is((select e.error || ' ' || e.traceback from gd_errors(:a) e), 'alone here', 'one in a transaction');

-- what no outcome tells: lost leases, releases, the cap, timeouts, deadlines, ends by hand

select gd_register('h', 1, 'start', 'default', '{"history": "states", "timeouts": {"timed": 60000}}');
select gd_insert('h', '{"n": 1}', p_queue => 'lost') as id \gset
select t.take('lost', 1, 'w1'), t.expire(:id);
select t.take('lost', 1, 'w2'), t.expire(:id);
select gd_reap();
select c.claim_no as no from t.take('lost', 1, 'w3') c \gset
select gd_release('w3', jsonb_build_array(jsonb_build_array(:id, :no)), p_crashed => true);
select c.claim_no as no from t.take('lost', 1, 'w4') c \gset
select gd_release('w4', jsonb_build_array(jsonb_build_array(:id, :no)));
select results_eq(
    format('select kind, step, attempt, worker, error from gd_errors(%s)', :id),
    $$values ('crash', 'start', 2, 'w3', 'the worker was lost in this step'),
        ('crash', 'start', 1, 'w2', 'the worker was lost in this step'), ('crash', 'start', 0, 'w1', 'the worker was lost in this step')$$,
    'taken over, reaped, given back as crashed; not what is just given back');
update gendurable.instance set crashes = 19 where id = :id;
select t.take('lost', 1, 'w5');
select t.expire(:id);
select t.take('lost');
select is((select e.kind || ' ' || e.worker || ': ' || e.error from gd_errors(:id, 1) e),
    'crash w5: the worker was lost 20 times in a row in this step (crash cap)', 'the cap');
select is((select count(*) from gd_errors(:id)), 4::bigint, '(which is one)');
select results_eq(
    format('select no, kind, step, next_step, attempt, worker, seconds >= 0, state from gd_history(%s)', :id),
    $$select g, 'crash', 'start', null::text, least(g - 1, 3)::int, 'w' || case g when 4 then 5 else g end, true, '{"n": 1}'::jsonb
      from generate_series(1::bigint, 4) g$$, 'and the history says so');

select gd_insert('h', p_queue => 'timed', p_step => 'timed', p_max_attempts => 2) as id \gset
select t.take('timed');
select t.elapse(:id, '61 s');
select t.take('timed');
select t.due(:id), t.take('timed');
select t.elapse(:id, '61 s');
select gd_maintain('1000 years');
select is(t.errors(:id), 'timeout timed 0 timed out after 60 s in step ''timed''; timeout timed 1 timed out after 60 s in step ''timed''',
    'the time of its step was up, twice');
select results_eq(
    format($$select kind, next_step, worker, detail - 'until', detail ? 'until' from gd_history(%s)$$, :id),
    $$values ('timeout', 'timed', 'w', '{"error": "timed out after 60 s in step ''timed''"}'::jsonb, true),
        ('timeout', null, 'w', '{"error": "timed out after 60 s in step ''timed''"}', false)$$, 'and goes on, and ends');

select gd_insert('h', p_queue => 'expired', p_expires_at => clock_timestamp() + '1 hour') as id \gset
select t.elapse(:id, '61 min');
select gd_maintain('1000 years');
select is((select e.kind || ' ' || coalesce(e.worker, '-') from gd_errors(:id) e where e.error like 'expired at %'), 'expired -', 'its deadline');
select is(t.kinds(:id), 'expired', '(in the history)');

select gd_insert('h', '{"n": 2}', p_queue => 'by') as id \gset
select gd_reschedule(:id, '2100-01-01Z');
select set_config('gendurable.actor', 'ada', false);
select gd_cancel(:id, 'not needed');
select gd_retry(:id, 'again', '{"n": 3}');
select set_config('gendurable.actor', repeat('x', 1000), false);
select is(length(gendurable._actor()), 200, 'a name and no novel');
select set_config('gendurable.actor', '', false);
select gd_cancel(:id);
select results_eq(
    format('select kind, worker, error from gd_errors(%s)', :id),
    format($$values ('cancel', %L, null::text), ('cancel', 'ada', 'not needed')$$, session_user), 'by hand: by whom, and why');
select results_eq(
    format('select no, kind, step, next_step, seconds, state, detail from gd_history(%s)', :id),
    format($$values (1::bigint, 'reschedule', 'start', null, null::double precision, '{"n": 2}'::jsonb,
            jsonb_build_object('until', '2100-01-01Z'::timestamptz, 'by', %1$L)),
        (2, 'cancel', 'start', null, null, '{"n": 2}', '{"by": "ada", "error": "not needed"}'),
        (3, 'retry', 'start', 'again', null, '{"n": 2}', '{"by": "ada"}'),
        (4, 'cancel', 'again', null, null, '{"n": 3}', jsonb_build_object('by', %1$L))$$, session_user),
    'and in the history, with the states before');
select is(gd_cancel(:id), false, 'it has ended');
select is((select count(*) from gd_errors(:id)) + (select count(*) from gd_history(:id)), 6::bigint, 'which is nothing that happened to it');
select gd_insert('m') as parent \gset
select t.run('default', '{"kind": "schedule_childs", "step": "x", "childs": [{"fsm": "h", "queue": "z"}, {"fsm": "m", "queue": "z"}]}');
select gd_cancel(:parent, 'all', p_cascade => true);
select is(
    (select string_agg(t.errors(i.id) || ' / ' || coalesce(t.kinds(i.id), '-'), ', ' order by i.id) from gd_instances i where i.id >= :parent),
    'cancel x 0 all / -, cancel start 0 all / cancel, cancel start 0 all / -', 'with all its descendants');

-- the history of outcomes

select gd_register('s', 1, 'start', 'default', '{"history": "steps"}');
select gd_insert('s', '{"n": 1}', p_queue => 's', p_max_attempts => 3) as id \gset
select gd_insert('m', '{"n": 1}', p_queue => 's') as other \gset
select t.take('s');
select t.elapse(:id, '5 s');
select t.put(:id, '{"kind": "next", "step": "b", "state": {"n": 2}, "queue": "s2"}');
select t.run('s2', '{"kind": "error", "error": "oh", "delay_ms": 0}');
select t.run('s2', '{"kind": "replay", "delay_ms": 60000}');
select t.due(:id);
select t.run('s2', '{"kind": "await", "signals": ["paid", "x"], "step": "c"}');
select gd_signal(:id, 'paid', '1');
select s.id as signal from gendurable.signal s where s.instance_id = :id \gset
select t.run('s2', jsonb_build_object('kind', 'schedule_childs', 'step', 'd', 'consume', jsonb_build_array(:signal),
    'childs', '[{"fsm": "m", "queue": "c"}]'::jsonb));
select t.run('c', '{"kind": "done"}');
select t.take('s2');
select t.put(:id, '{"kind": "next", "step": "e", "keep": true, "partition_key": "k", "priority": 3}');
select t.take('s2');
select t.put(:id, '{"kind": "next", "step": "f", "partition_key": null}');
select t.run('s2', '{"kind": "done", "result": 1, "at": {"step": "g", "state": {"n": 9}}}');
select results_eq(
    format($$select no, kind, step, next_step, attempt, worker, state, detail - 'until' from gd_history(%s)$$, :id),
    format($$values (1::bigint, 'next', 'start', 'b', 0, 'w', null::jsonb, '{"queue": "s2"}'::jsonb),
        (2, 'error', 'b', 'b', 0, 'w', null, '{"error": "oh"}'),
        (3, 'replay', 'b', 'b', 1, 'w', null, '{}'),
        (4, 'await', 'b', 'c', 2, 'w', null, '{"awaits": ["paid", "x"]}'),
        (5, 'schedule_childs', 'c', 'd', 0, 'w', null, jsonb_build_object('children', 1, 'used', jsonb_build_array(
            jsonb_build_object('name', 'paid', 'inserted_at', %s::timestamptz)))),
        (6, 'next', 'd', 'e', 0, 'w', null, '{"priority": 3, "partition_key": "k"}'),
        (7, 'next', 'e', 'f', 0, 'w', null, '{"partition_key": ""}'),
        (8, 'done', 'g', null, 0, 'w', null, null)$$,
        (select quote_literal(h.detail #>> '{used,0,inserted_at}') from gd_history(:id) h where h.no = 5)),
    'each outcome, and what it said');
select is((select h.seconds between 5 and 60 from gd_history(:id) h where h.no = 1), true, 'how long it was claimed');
select is((select (h.detail ->> 'until')::timestamptz > h.at from gd_history(:id) h where h.no = 3), true, 'until when it was put off');
select is((select array_agg(h.no) from gd_history(:id, 3, 2) h), '{4,5}', 'from an entry on, so many');
select is((select array_agg(h.no) from gd_history(:id, null, null) h), '{1,2,3,4,5,6,7,8}', 'nulls are the defaults');
select is_empty(format('select * from gd_history(%s, 8)', :id), 'behind the last');
select t.raises(format('select * from gd_history(%s, 0, -1)', :id), 'GD501', 'fewer than none');
select is_empty(format('select * from gd_history(%s)', :other), 'another machine has none');
select is_empty('select * from gd_history(0)', 'nor who is not there');

-- a kept claim counts anew, and a plain outcome by gd_commit_one is no way around
select gd_insert('h', '{"n": 1}', p_queue => 'kept') as id \gset
select t.take('kept');
select t.put(:id, '{"kind": "next", "step": "b", "state": {"n": 2}, "keep": true}');
select gd_commit_one('w', jsonb_build_object('id', :id, 'claim_no', i.claim_no, 'kind', 'next', 'step', 'c', 'state', '{"n": 3}'::jsonb))
from gendurable.instance i where i.id = :id;
select t.take('kept');
select gd_commit_one('w', jsonb_build_object('id', :id, 'claim_no', i.claim_no, 'kind', 'done')) from gendurable.instance i where i.id = :id;
select results_eq(format('select no, kind, step, state from gd_history(%s)', :id),
    $$values (1::bigint, 'next', 'start', '{"n": 1}'::jsonb), (2, 'next', 'b', '{"n": 2}'), (3, 'done', 'c', '{"n": 3}')$$,
    'with the state that each step was given');

-- when it is asked for, and no longer
select gd_register('h', 1, 'start', 'default', '{"max_attempts": 3}');
select is((select m.history from gendurable.machine m where m.fsm = 'h'), 'states', 'what is absent stays');
select gd_register('h', 1, 'start', 'default', '{"history": "steps"}');
select gd_insert('h', '{"n": 1}', p_queue => 'turn') as id \gset
select t.run('turn', '{"kind": "next", "step": "b"}');
select gd_register('h', 1, 'start', 'default', '{"history": "none"}');
select t.run('turn', '{"kind": "next", "step": "c"}');
select gd_register('h', 1, 'start', 'default', '{"history": "states"}');
select t.run('turn', '{"kind": "next", "step": "d"}');
select gd_register('h', 1, 'start', 'default', '{"history": null}');
select t.run('turn', '{"kind": "done"}');
select results_eq(format('select no, step, state from gd_history(%s)', :id),
    $$values (1::bigint, 'start', null::jsonb), (2, 'c', '{"n": 1}')$$, 'from the next outcome on');
select t.raises(format($$select gd_register('h', 1, 'start', 'default', '{"history": %s}')$$, v), 'GD501', 'not ' || v)
from unnest('{"\"all\"",1,true,[],"{}"}'::text[]) v;
select is((select bool_and(m.history is null or m.fsm = 's') from gendurable.machine m), true, '(nothing changed)');

-- what is removed in the commit that ends it
select gd_register('s', 1, 'start', 'default', '{"retain": {"done": 0}}');
select gd_insert('s', p_queue => 'gone') as id \gset
select t.run('gone', '{"kind": "error", "error": "x", "delay_ms": 0}');
select isnt_empty(format('select from gd_history(%s)', :id), 'it has a history');
select t.run('gone', '{"kind": "done"}');
select is_empty(format('select from gendurable.error where instance_id = %1$s union all select from gendurable.history where instance_id = %1$s', :id),
    'removed with it');

-- a very long history goes in parts
select gd_insert('s', p_queue => 'endless') as id \gset
insert into gendurable.history (instance_id, no, at, attempt, kind, step)
select :id, g, clock_timestamp(), 0, 'next', 'x' from generate_series(1, 45000) g;
select t.run('endless', '{"kind": "done"}');
select is((select count(*) from gendurable.history h where h.instance_id = :id), 25000::bigint, 'a part of it is left');
select is_empty(format('select * from gd_history(%s)', :id), 'which nobody sees');
select gd_gc('1000 years');
select is_empty(format('select from gendurable.history where instance_id = %s union all select from gendurable.history_left', :id),
    'until the upkeep has come by');

select finish();
