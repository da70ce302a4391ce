\ir helpers/tap.psql
select no_plan();

-- Steps with a queue of their own: every place that puts a row before a step, there and back

create function t.at(p_id bigint) returns text language sql as $$
    select concat_ws(' ', i.step, i.queue, i.home) from gendurable.instance i where i.id = p_id
$$;
-- Claims one row of a queue, and answers who and where it is.
create function t.got(p_queue text) returns text language sql as $$
    select concat_ws(' ', c.id, c.step, c.queue) from t.take(p_queue) c
$$;
create function t.known(p_queue text) returns boolean language sql as $$
    select exists (select from gendurable.queue_name q where q.queue = p_queue)
$$;

select gd_define_step('m', 'draw', p_options => '{"queue": "gpu"}');
select results_eq(
    $$select step, version, handler, queue, problem from gd_steps$$,
    $$values ('draw', null::int, null, 'gpu', 'it is in another language')$$, 'gd_steps shows the queue');

-- there, replay, back

select gd_insert('m', p_queue => 'home') as id \gset
select is(t.at(:id), 'start home', 'a step without one: in the queue of the instance');
select t.run('home', '{"kind": "next", "step": "draw"}');
select is(t.at(:id), 'draw gpu home', 'there: it stands in the queue of its step, and has a home');
select ok(t.known('gpu'), 'whose name is known from now on');
select is_empty($$select * from t.take('home')$$, 'and nowhere else');
select t.run('gpu', '{"kind": "replay"}');
select is(t.at(:id), 'draw gpu home', 'a replay stays');
select t.run('gpu', '{"kind": "error", "error": "x", "delay_ms": 0}');
select is(t.at(:id), 'draw gpu home', 'so does the next try after an error');
select t.run('gpu', '{"kind": "next", "step": "draw", "state": {"n": 2}}');
select is(t.at(:id), 'draw gpu home', 'and the same step once more');
select t.run('gpu', '{"kind": "next", "step": "send"}');
select is(t.at(:id), 'send home', 'back');
select is(t.got('home'), :id || ' send home', 'where it is found');
select t.put(:id, '{"kind": "next", "step": "draw", "queue": "other"}');
select is(t.at(:id), 'draw gpu other', 'a queue in an outcome is the home');
select t.run('gpu', '{"kind": "next", "step": "send"}');
select is(t.at(:id), 'send other', 'to which it goes');
select ok(t.known('other'), 'and which is known');
select t.run('other', '{"kind": "next", "step": "draw"}');
select t.run('gpu', '{"kind": "next", "step": "send", "queue": "third"}');
select is(t.at(:id), 'send third', 'also out of a step with a queue');
select t.run('third', '{"kind": "next", "step": "draw", "queue": "gpu"}');
select is(t.at(:id), 'draw gpu', 'the same one as that of the step: its home');
select t.run('gpu', '{"kind": "next", "step": "send"}');
select is(t.at(:id), 'send gpu', 'there it stays');
select t.run('gpu', '{"kind": "done"}');
select is(t.at(:id), 'send gpu', 'and ends');

-- one batch: each of its own

select gd_insert('m', p_queue => 'mix', p_step => s, p_unique_key => 'mix:' || s) from unnest('{a,b,c,d}'::text[]) s;
select bag_eq(
    $$with c as materialized (select * from t.take('mix', 4))
      select x.result from gd_commit('w', (select jsonb_agg(jsonb_build_object('id', c.id, 'claim_no', c.claim_no) || case c.step
        when 'a' then '{"kind": "next", "step": "draw"}'::jsonb when 'b' then '{"kind": "next", "step": "x"}'
        when 'c' then '{"kind": "await", "signals": "s", "step": "draw"}' else '{"kind": "done"}' end) from c)) x$$,
    $$values ('ok'), ('ok'), ('ok'), ('ok')$$, '(a batch)');
select results_eq(
    $$select unique_key, concat_ws(' ', step, queue, home) from gendurable.instance where unique_key like 'mix:_' order by 1$$,
    $$values ('mix:a', 'draw gpu mix'), ('mix:b', 'x mix'), ('mix:c', 'draw gpu mix'), ('mix:d', 'd mix')$$,
    'next, await, and what neither comes to such a step nor goes on');
select gd_cancel(id) from gd_instances where unique_key in ('mix:a', 'mix:c');

-- what is valid

select t.raises($$select gd_define_step('m', 'x', p_options => '{"queue": ""}')$$, 'GD501', 'an empty name');
select t.raises($$select gd_define_step('m', 'x', p_options => '{"queue": 1}')$$, 'GD501', 'a number');
select t.raises(format($$select gd_define_step('m', 'x', p_options => %L)$$, jsonb_build_object('queue', repeat('q', 2001))),
    'GD501', 'a name that is too long');
select lives_ok($$select gd_define_step('m', 'x', p_options => '{"queue": null}')$$, 'null is none');
select t.raises($$select gd_define_step('m', 'x', p_options => '{"ensure": 1}')$$, 'GD501', 'ensure is a boolean');
select gd_define_step('m', 'x', p_options => '{"queue": "q", "ensure": true}'),
    gd_define_step('m', 'x', p_options => '{"queue": "q", "ensure": true, "version": 1}'),
    gd_define_step('m', 'y', p_options => '{"queue": "q", "version": 2}'),
    gd_define_step('m', 'y', p_options => '{"queue": "r", "ensure": true, "version": 2}'),
    gd_define_step('m', 'y', p_options => '{"queue": "r", "ensure": true, "version": 3}'),
    gd_define_step('m', 'y', p_options => '{"queue": "s", "ensure": true}'),
    gd_define_step('m', 'y', p_options => '{"queue": "t", "ensure": false, "version": 3}');
select results_eq(
    $$select step, version, queue from gd_steps where step in ('x', 'y') order by 1, 2$$,
    $$values ('x', null::int, null), ('y', 2, 'q'), ('y', 3, 't'), ('y', null, 's')$$, 'ensure: only where no definition counts yet');
select gd_drop_step('m', 'y'), gd_drop_step('m', 'y', 2), gd_drop_step('m', 'y', 3);
select gd_insert('m', p_queue => 'home', p_step => 'x') as id \gset
select is(t.at(:id), 'x home', '(none)');
select gd_cancel(:id);

-- inserts: by the defaults of the machine, too

select gd_register('r', 1, 'draw', 'r1'), gd_register('r', 2, 'begin', 'r2');
select gd_define_step('r', 'draw', p_options => '{"queue": "gpu"}');
select gd_define_step('r', 'draw', p_options => '{"queue": "gpu3", "version": 3}');
select gd_define_step('r', 'draw', p_options => '{"version": 4}');
select gd_define_step('r', 'begin', p_options => '{"queue": "gpu2", "version": 2}');
select gd_define_step('s', 'start', p_options => '{"queue": "gpu"}');
select is(t.at(gd_insert('r')), 'begin gpu2 r2', 'an insert: the first step of the highest version');
select is(t.at(gd_insert('r', p_version => 1)), 'draw gpu r1', 'of the version that was asked for');
select is(t.at(gd_insert('r', p_step => 'draw')), 'draw gpu r2', 'the step that was asked for');
select is(t.at(gd_insert('r', p_step => 'draw', p_version => 3, p_queue => 'q')), 'draw gpu3 q', 'a version with a definition of its own');
select is(t.at(gd_insert('r', p_step => 'draw', p_version => 4, p_queue => 'q')), 'draw q', 'which may have no queue');
select is(t.at(gd_insert('r', p_step => 'begin', p_version => 5, p_queue => 'q')), 'begin q', 'one for a version is for no other');
select is(t.at(gd_insert('s')), 'start gpu default', 'a machine that nobody has registered');
select results_eq(
    $$select t.at(m.id) from gd_insert_many('[{"fsm": "s", "queue": "a"}, {"fsm": "n", "queue": "b"}, {"fsm": "r", "step": "draw",
        "version": 1, "queue": "c", "priority": 3}, {"fsm": "r", "step": "draw", "version": 1, "queue": "gpu"}]') m order by m.ord$$,
    $$values ('start gpu a'), ('start b'), ('draw gpu c'), ('draw gpu')$$, 'many at once, each of its own');
select ok(t.known('gpu2'), 'the names of their queues are known');
select gd_cancel(i.id) from gd_instances i where i.fsm in ('r', 's', 'n');

-- children, and their parent; what goes out with an outcome

select gd_define_step('p', 'join', p_options => '{"queue": "joins"}');
select gd_insert('p', p_queue => 'family') as id \gset
select t.run('family', '{"kind": "schedule_childs", "step": "join", "childs": [{"fsm": "s", "queue": "kids"}, {"fsm": "n", "queue": "kids"}]}');
select is(t.at(:id), 'join joins family', 'the parent waits where it will go on');
select bag_eq(
    format('select t.at(id) from gd_instances where parent_id = %s', :id), $$values ('start gpu kids'), ('start kids')$$, 'children');
select t.run('gpu', '{"kind": "done"}');
select t.run('kids', '{"kind": "done", "result": 1}');
select is(t.got('joins'), :id || ' join joins', 'the last child: it runs there');
select t.put(:id, '{"kind": "schedule_childs", "step": "alone", "childs": []}');
select is(t.at(:id), 'alone family', 'none at all: it goes on, at home');
select t.run('family', '{"kind": "next", "step": "b", "insert": [{"fsm": "s", "queue": "out", "unique_key": "out"}]}');
select is((select t.at(i.id) from gd_instances i where i.unique_key = 'out'), 'start gpu out', 'an insert of an outcome');
select gd_cancel(:id), gd_cancel(gd_find('out'));

-- schedules: what they insert, and their bells

select gd_schedule('tick', '0 0 1 1 *', 's', '{"queue": "night"}');
select is((select queue from gendurable.schedule where name = 'tick'), 'gpu', 'a bell hangs where what it inserts will stand');
select is(t.at(gd_trigger('tick')), 'start gpu night', 'what it inserts');
select gd_drop_step('s', 'start');
select is((select queue from gendurable.schedule where name = 'tick'), 'night', 'and follows when that is another queue');
select gd_define_step('s', 'start', p_options => '{"queue": "gpu"}');
select is(
    (select i.queue from gendurable.instance i join gendurable.schedule s on s.bell_id = i.id where s.name = 'tick'), 'gpu',
    'there and back');
update gendurable.schedule set next_at = clock_timestamp() - interval '1 minute' where name = 'tick';
update gendurable.instance set eligible_at = clock_timestamp() - interval '1 minute' where id = (select bell_id from gendurable.schedule);
select gd_cancel(i.id) from gd_instances i where i.fsm = 's';
select is((select c.meta ->> 'schedule' from t.take('gpu') c), 'tick', 'a claim of the queue of the step fires it');
select gd_release('w', null);
select gd_unschedule('tick'), gd_cancel(i.id) from gd_instances i where i.fsm = 's';

-- gd_commit_one: the short way notices

create function t.one(p_queue text, p_outcome jsonb) returns text language sql as $$
    select gd_commit_one('w', jsonb_build_object('id', c.id, 'claim_no', c.claim_no) || p_outcome)::text from t.take(p_queue) c
$$;
select gd_insert('m', p_queue => 'one') as id \gset
select t.one('one', '{"kind": "next", "step": "plain"}');
select is(t.at(:id), 'plain one', 'gd_commit_one: another step');
select t.one('one', '{"kind": "next", "step": "draw"}');
select is(t.at(:id), 'draw gpu one', 'there');
select t.one('gpu', '{"kind": "replay"}');
select is(t.at(:id), 'draw gpu one', 'replay');
select t.one('gpu', '{"kind": "next", "step": "plain"}');
select is(t.at(:id), 'plain one', 'back, by the short form of an outcome');
select t.one('one', '{"kind": "next", "step": "draw"}');
select t.one('gpu', '{"kind": "done"}');
select is(t.at(:id), 'draw gpu one', 'it ends where it is');

-- a claim is not kept into another queue, nor out of one

select gd_insert('m', p_queue => 'keep') as id \gset
select is((t.answer((select c.id from t.take('keep') c), '{"kind": "next", "step": "a", "keep": true}')) #>> '{detail,step}', 'a', '(kept)');
select is(t.answer(:id, '{"kind": "next", "step": "draw", "keep": true}'), '{"result": "ok", "detail": null}', 'a kept claim ends before such a step');
select is(t.at(:id), 'draw gpu keep', 'and the row stands there');
select count(*) from t.take('gpu');
select is((t.answer(:id, '{"kind": "next", "step": "draw", "keep": true}')) #>> '{detail,queue}', 'gpu', 'within the queue it is kept');
select is(t.at(:id), 'draw gpu keep', 'with its home');
select is(t.answer(:id, '{"kind": "next", "step": "a", "keep": true}'), '{"result": "ok", "detail": null}', 'and it ends behind it');
select is(t.at(:id), 'a keep', '(home)');
select count(*) from t.take('keep');
select gd_commit_one('w', jsonb_build_object('id', i.id, 'claim_no', i.claim_no, 'kind', 'next', 'step', 'draw', 'keep', true)) is null as given
from gendurable.instance i where i.id = :id \gset
select ok(:'given', 'nor does gd_commit_one keep it');
select is(t.at(:id), 'draw gpu keep', '(there)');
select gd_cancel(:id);

-- awaits: woken by the time and by a signal

select gd_insert('m', p_queue => 'await') as id \gset
select t.run('await', '{"kind": "await", "signals": "go", "step": "draw", "timeout_ms": 60000}');
select is(t.at(:id), 'draw gpu await', 'an await waits where it will go on');
select t.due(:id);
select is(t.got('gpu'), :id || ' draw gpu', 'the deadline wakes it there');
select t.put(:id, '{"kind": "await", "signals": "go"}');
select is(t.at(:id), 'draw gpu await', 'an await in the same step');
select gd_define_step('m', 'draw', p_options => '{"queue": "gpu_b"}');
select is(t.at(:id), 'draw gpu await', 'another queue for the step moves no row');
select gd_signal(:id, 'go');
select is(t.at(:id), 'draw gpu_b await', 'but at its next transition: a signal');
select t.run('gpu_b', '{"kind": "await", "signals": "go", "step": "plain"}');
select is(t.at(:id), 'plain await', 'away');
select gd_define_step('m', 'plain', p_options => '{"queue": "gpu"}');
select gd_signal(:id, 'go');
select is(t.at(:id), 'plain gpu await', 'a queue that came meanwhile');
select gd_drop_step('m', 'plain');
select gd_define_step('m', 'draw', p_options => '{"queue": "gpu"}');
select gd_cancel(:id);

-- errors, time that is up, claims that are given back or lost

select gd_register('m', 1, 'start', 'default', '{"timeouts": {"draw": 60000}}');
select gd_insert('m', p_queue => 'lost', p_step => 'draw') as id \gset
select gd_define_step('m', 'draw', p_options => '{"queue": "gpu_b"}');
select t.run('gpu', '{"kind": "error", "error": "x", "delay_ms": 0}');
select is(t.at(:id), 'draw gpu_b lost', 'the try after an error');
select count(*) from t.take('gpu_b');
select gd_define_step('m', 'draw', p_options => '{"queue": "gpu"}');
select t.elapse(:id, '61 s');
select gd_reap();
select t.due(:id);
select is(t.at(:id), 'draw gpu lost', 'that after a timeout');
select is(t.got('gpu'), :id || ' draw gpu', '(there)');
select gd_define_step('m', 'draw', p_options => '{"queue": "gpu_b"}');
select t.expire(:id);
select is(t.got('gpu'), :id || ' draw gpu', 'a claim behind a lost one finds it where it stood');
select t.expire(:id);
select gd_reap();
select is(t.at(:id), 'draw gpu_b lost', 'who is taken back goes where the step is now');
select count(*) from t.take('gpu_b');
select gd_define_step('m', 'draw', p_options => '{"queue": "gpu"}');
select gd_release('w', null, p_crashed => true);
select is(t.at(:id), 'draw gpu lost', 'who is given back as crashed, too');
select count(*) from t.take('gpu');
select gd_define_step('m', 'draw', p_options => '{"queue": "gpu_b"}');
select gd_release('w', null);
select is(t.at(:id), 'draw gpu_b lost', 'and who is given back');

-- retry

select t.run('gpu_b', '{"kind": "stop", "reason": "x"}');
select is(t.at(:id), 'draw gpu_b lost', 'what has failed stands where it did');
select gd_define_step('m', 'draw', p_options => '{"queue": "gpu"}');
select gd_retry(:id);
select is(t.at(:id), 'draw gpu lost', 'gd_retry: where its step is now');
select gd_cancel(:id), gd_retry(:id, 'plain');
select is(t.at(:id), 'plain lost', 'at another step: home');
select gd_cancel(:id), gd_retry(:id, 'draw');
select is(t.at(:id), 'draw gpu lost', 'and there again');
select is(t.got('gpu'), :id || ' draw gpu', '(due)');
select gd_cancel(:id);
select result from gd_retry_many(array[:id]);
select is(t.at(:id), 'draw gpu lost', 'many of them');
select gd_cancel(:id);

-- when the last definition goes, everybody comes home

select gd_insert('z', p_queue => 'z', p_step => 'a', p_unique_key => 'z' || n) from generate_series(1, 6) n;
select gd_define_step('z', 'b', p_options => '{"queue": "zz"}');
select t.run('z', '{"kind": "next", "step": "b"}') from generate_series(1, 6);
select gd_drop_step(s.fsm, s.step, s.version) from gd_steps s;
select bag_eq($$select t.at(id) from gd_instances where fsm = 'z'$$, $$select 'b zz z' from generate_series(1, 6)$$, 'no row moves');
create temp table z as select id, row_number() over (order by id) as n from gd_instances where fsm = 'z';
select count(*) from t.take('zz', 6);
select t.put(id, '{"kind": "next", "step": "b"}') from z where n = 1;
select t.put(id, '{"kind": "replay"}') from z where n = 2;
select t.put(id, '{"kind": "await", "signals": "go"}') from z where n = 3;
select is(t.answer(id, '{"kind": "next", "step": "b", "keep": true}'), '{"result": "ok", "detail": null}', 'nor is a claim kept') from z where n = 4;
select gd_commit_one('w', jsonb_build_object('id', i.id, 'claim_no', i.claim_no, 'kind', 'next', 'step', 'b'))
from gendurable.instance i where i.id = (select x.id from z x where x.n = 5);
select gd_release('w', null);
select bag_eq($$select t.at(id) from z$$, $$select 'b z' from generate_series(1, 6)$$, 'at its next transition each comes home');

-- keys, limits, pauses

select gd_define_step('m', 'draw', p_options => '{"queue": "gpu"}');
select gd_insert('m', p_queue => 'keyed', p_partition_key => 'k', p_unique_key => 'k' || n) from generate_series(1, 3) n;
select is((select c.unique_key from t.take('keyed') c), 'k1', '(the first of a key)');
select t.put(gd_find('k1'), '{"kind": "next", "step": "draw"}');
select is_empty($$select * from t.take('gpu')$$, 'behind those of its key, there too');
select is((select c.unique_key from t.take('keyed') c), 'k2', 'of which the next one begins');
select t.put(gd_find('k2'), '{"kind": "done"}');
select t.run('keyed', '{"kind": "done"}');
select is((select c.unique_key from t.take('gpu') c), 'k1', 'and then it');
select t.put(gd_find('k1'), '{"kind": "done"}');
select gd_pause_queue('gpu');
select gd_insert('m', p_queue => 'keyed', p_partition_key => 'k', p_step => s, p_unique_key => s) from unnest('{draw,other}'::text[]) s;
select is_empty($$select * from t.take('gpu')$$, 'a paused queue stops the step');
select is((select c.unique_key from t.take('keyed') c), 'other', 'and no other of its key');
select t.put(gd_find('other'), '{"kind": "next", "step": "draw"}');
select gd_resume_queue('gpu');
select is(t.repaired(), 0, 'nothing is stuck');
select is((select c.unique_key from t.take('gpu') c), 'draw', 'resumed');
select t.put(gd_find('draw'), '{"kind": "done"}');
select is((select c.unique_key from t.take('gpu') c), 'other', 'in order');
select t.put(gd_find('other'), '{"kind": "done"}');

select gd_set_queue('gpu', '{"limit": 1}');
select gd_insert('m', p_queue => 'lim', p_step => 'draw', p_unique_key => 'l' || n) from generate_series(1, 2) n;
select is((select count(*) from t.take('gpu', 5)), 1::bigint, 'the limit of a queue is that of the step');
select t.put(gd_find('l1'), '{"kind": "next", "step": "back"}');
select is((select queue_slot from gendurable.instance where unique_key = 'l1'), null, 'behind it its slot is free');
select is((select c.unique_key from t.take('gpu') c), 'l2', 'for the next');
select t.put(gd_find('l2'), '{"kind": "done"}');
select gd_set_queue('lim', '{"limit": 1}');
select count(*) from t.take('lim', 5);
select t.put(gd_find('l1'), '{"kind": "next", "step": "draw", "keep": true}');
select is((select row(status, queue, queue_slot)::text from gendurable.instance where unique_key = 'l1'), '(runnable,gpu,)',
    'from one with a limit into another');
select count(*) from t.take('gpu');
select gd_define_step('m', 'draw', p_options => '{"queue": "gpu_b"}');
select gd_release('w', null);
select is((select row(queue, queue_slot)::text from gendurable.instance where unique_key = 'l1'), '(gpu_b,)', 'a slot is not taken along');
select gd_cancel(gd_find('l1'));

-- what edits rows in place: _place_rows

select gd_set_rate_limit('slow', 1, '1 hour', 1);
select gd_define_step('m', 'draw', p_options => '{"queue": "gpu"}');
select gd_insert('m', p_queue => 'e', p_step => 'a', p_rate_limit => 'slow', p_unique_key => 'e' || n) from generate_series(1, 2) n;
select is((select count(*) from t.take('e', 2)), 1::bigint, '(one waits for its rate limit)');
select id as waits, bucket_at is not null as in_line from gendurable.instance where unique_key = 'e2' \gset
select ok(:'in_line', '(in the line)');
begin;
select id from gendurable.instance where id = :waits for no key update;
update gendurable.instance set step = 'draw' where id = :waits;
select is(gendurable._place_rows(array[:waits], null, clock_timestamp()), 1, 'one that was moved');
commit;
select is((select row(queue, home, bucket_at, eligible_at is not null)::text from gendurable.instance where id = :waits), '(gpu,e,,t)',
    'it left the line of its old queue');
select is_empty($$select * from t.take('gpu')$$, 'and comes into that of the new one');
select ok((select bucket_at is not null from gendurable.instance where id = :waits), '(in line again)');
select is(gendurable._place_rows(array[:waits], null, clock_timestamp()), 0, 'where nothing changes nothing is written');
select is(gendurable._place_rows(array[:waits], 'f', clock_timestamp()), 1, 'another queue of its own');
select is(t.at(:waits), 'draw gpu f', 'is its home');
select gd_set_rate_limit('slow', null);
select is(t.got('gpu'), :waits || ' draw gpu', 'it runs');

select * from finish();
