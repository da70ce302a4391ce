\ir helpers/tap.psql
select no_plan();

-- Chains: the steps behind a plain next run at once, and only the outcome of the last one is written

create schema app;
create table app.log (o int generated always as identity, id bigint, step text, ctx jsonb);
create table app.account (id int primary key, n int not null default 0 check (n >= 0));
insert into app.account select g from generate_series(1, 100) g;

-- Each step says in the state what it returns: {"s1": outcome, "s2": outcome, ...}; nothing of it: done. "raise": the step that
-- raises, with "sqlstate".
create function app.go(ctx jsonb) returns jsonb language plpgsql as $$
declare
    v_step constant text := ctx ->> 'step';
begin
    insert into app.log (id, step, ctx) values ((ctx -> 'id')::bigint, v_step, ctx);
    if ctx #>> '{state,raise}' = v_step then
        raise exception using errcode = coalesce(ctx #>> '{state,sqlstate}', '22012'), message = 'no';
    end if;
    if ctx #>> '{state,ends}' = v_step then
        perform gd_cancel((ctx -> 'id')::bigint);
    end if;
    return coalesce(ctx #> array['state', v_step], '{"kind": "done"}');
end $$;
create function app.all(ctxs jsonb) returns setof jsonb language sql as $$
    insert into app.log (id, step, ctx) select (c -> 'id')::bigint, c ->> 'step', c from jsonb_array_elements(ctxs) c;
    select jsonb_build_object('id', c -> 'id') || coalesce(c #> array['state', c ->> 'step'], '{"kind": "done"}')
    from jsonb_array_elements(ctxs) c
$$;
select gd_define_step('m', s, 'app.go(jsonb)') from unnest('{s1,s2,s3,s4,s5,r1,r2,r3,r4,r5,r6,r7,r8,r9,r10,r11,r12}'::text[]) s;
select gd_define_step('m', 'all', 'app.all(jsonb)');

create table t.held (o int generated always as identity, id bigint, claim_no bigint);
create function t.claim(p_queue text, p_count int = 100) returns void language sql as $$
    delete from app.log;
    delete from t.held;
    insert into t.held (id, claim_no) select c.id, c.claim_no from t.take(p_queue, p_count) c;
$$;
-- An instance of a step, claimed: its id.
create function t.hold(p_step text, p_state jsonb = '{}', p_key text = null) returns bigint language plpgsql as $$
declare
    v_queue constant text := gen_random_uuid()::text;
    v_id constant bigint := gd_insert('m', p_state, p_step => p_step, p_queue => v_queue, p_partition_key => p_key);
begin
    perform t.claim(v_queue);
    return v_id;
end $$;
create function t.told(p_options jsonb = '{"budget_ms": 10000}') returns text language sql as $$
    select string_agg(r.result || coalesce(' ' || (r.detail ->> 'sqlstate'), ''), ', ' order by r.ord)
    from gd_run_claims('w', (select jsonb_agg(jsonb_build_array(h.id, h.claim_no) order by h.o) from t.held h), p_options) r
$$;
create function t.ran() returns text language sql as $$ select string_agg(l.step, ' ' order by l.o) from app.log l $$;
create function t.next(p_step text, p_more jsonb = '{}') returns jsonb language sql as $$
    select jsonb_build_object('kind', 'next', 'step', p_step) || p_more
$$;
-- s1 to s3, and there an outcome; with a state of its own on the way
create function t.three(p_last jsonb, p_more jsonb = '{}') returns jsonb language sql as $$
    select jsonb_build_object('s1', t.next('s2'), 's2', t.next('s3', jsonb_build_object('state', jsonb_build_object(
        'at', 's3', 's3', p_last) || p_more)))
$$;
create function t.row(p_id bigint) returns text language sql as $$
    select concat_ws(' ', i.status, i.step, coalesce(i.state ->> 'at', i.state ->> 'now', '-'), i.attempt, i.awaits) from gendurable.instance i where i.id = p_id
$$;

-- what is written: as if each step had been claimed

select t.hold('s1', t.three('{"kind": "done", "result": 5}')) as id \gset
select is(t.told(), 'ok', 'a chain is one claim');
select is(t.ran(), 's1 s2 s3', 'all its steps have run');
select is(t.row(:id), 'done s3 s3 0', 'done: the step and the state that the last link got');
select is((select i.result from gendurable.instance i where i.id = :id), '5', '(its result)');
select t.hold('s1', t.three('{"kind": "replay", "error": "later"}')) as id \gset
select is(t.told(), 'ok', 'replay in a link');
select is(t.row(:id), 'runnable s3 s3 1', 'the first attempt of that step counts');
select t.hold('s1', t.three('{"kind": "replay", "state": {"now": 1}}')) as id \gset
select t.told() as x \gset
select is(t.row(:id), 'runnable s3 1 1', '(with a state)');
select t.hold('s1', t.three('{"kind": "stop", "reason": "no"}')) as id \gset
select is(t.told(), 'ok', 'stop in a link');
select is(t.row(:id), 'failed s3 s3 0', 'is that of its step');
select t.hold('s1', t.three('{"kind": "await", "signals": "go"}')) as id \gset
select is(t.told(), 'ok', 'await in a link');
select is(t.row(:id), 'awaiting_signal s3 s3 0 {go}', 'waits in its step');
select t.hold('s1', t.three('{"kind": "await", "signals": "go", "step": "s4", "state": {"now": 2}}')) as id \gset
select t.told() as x \gset
select is(t.row(:id), 'awaiting_signal s4 2 0 {go}', '(or in another)');
select t.hold('s1', t.three('{"kind": "schedule_childs", "step": "s4", "childs": [{"fsm": "m", "step": "x", "queue": "childs"}]}')) as id \gset
select is(t.told(), 'ok', 'children in a link');
select is(t.row(:id), 'awaiting_children s4 s3 0', '(of its state)');
select t.hold('s1', t.three('{"kind": "next", "step": "elsewhere"}')) as id \gset
select is(t.told(), 'ok', 'a step that is in another language');
select is(t.row(:id), 'runnable elsewhere s3 0', 'is claimed by who can run it');

-- an error that a link returns is its own: the links before it are committed

select t.hold('s1', t.three('{"kind": "error", "error": "no"}')) as id \gset
select is(t.told(), 'ok', 'an error in a link does not count for the step that was claimed');
select is(t.row(:id), 'runnable s3 s3 0', 'the links before it are committed');
select is(t.ran(), 's1 s2', '(and it is as if it had not run)');
select t.claim((select v.queue from gd_instances v where v.id = :id));
select is(t.told(), 'error', 'it is claimed by itself');
select is(t.row(:id), 'runnable s3 s3 1', 'and has its own attempts');

-- so is one that it raises, in any company

select t.hold('s1', t.three('{"kind": "done"}', '{"raise": "s3"}')) as id \gset
select is(t.told(), 'ok', 'a link that raises');
select is(t.ran(), 's1 s2', 'the links before it are committed');
select is(t.row(:id), 'runnable s3 s3 0', '(it has no attempt yet)');
select t.claim((select v.queue from gd_instances v where v.id = :id));
select is(t.told(), 'error 22012', 'then it fails by itself');
select is(t.row(:id), 'runnable s3 s3 1', 'with its own attempts');
select gd_insert('m', case when g = 20 then t.three('{"kind": "done"}', '{"raise": "s3"}') else t.three('{"kind": "done"}') end,
    p_step => 's1', p_queue => 'many') from generate_series(1, 40) g;
select t.claim('many');
select is((select string_agg(distinct r.one, ' ') from regexp_split_to_table(t.told(), ', ') r (one)), 'ok', 'one of many: all are ok');
select is((select count(*) from gd_instances v where v.queue = 'many' and v.status = 'done' and v.step = 's3')
    + (select count(*) from gd_instances v where v.queue = 'many' and v.status = 'runnable' and v.step = 's3'), 40::bigint,
    'who ran with it is at that link, too, or behind it');
select cmp_ok((select count(*) from gd_instances v where v.queue = 'many' and v.status = 'done'), '>', 0::bigint, '(others are done)');
select is((select count(*) from (select from app.log l group by l.id, l.step having count(*) > 1) x), 0::bigint, 'no effect is there twice');

-- what a link gets

select t.hold('s1', t.three('{"kind": "done"}')) as id \gset
select gd_signal(:id, 'a', '1'), gd_signal(:id, 'b', '2');
update gendurable.instance i
set attempt = 2, awaits = '{go}', deadline_at = clock_timestamp() - interval '1 second' where i.id = :id;
select t.told() as x \gset
select is(
    (select l.ctx @> '{"attempt": 2, "awaits": ["go"], "timed_out": true}'
     from app.log l where l.step = 's1'), true, 'the first one gets what its claim shows');
select is(
    (select jsonb_object_agg(l.step, l.ctx - '{id,claim_no,state,signals,queue}'::text[]) from app.log l where l.step <> 's1'),
    (select jsonb_object_agg(s, jsonb_build_object('fsm', 'm', 'version', 1, 'step', s, 'attempt', 0, 'partition_key', null,
        'unique_key', null, 'parent_id', null, 'awaits', null, 'timed_out', false, 'childs', '[]'::jsonb, 'meta', '{}'::jsonb, 'attributes', '{}'::jsonb))
     from unnest('{s2,s3}'::text[]) s), 'its step, no attempt, nothing awaited');
select is((select l.ctx -> 'state' ->> 'at' from app.log l where l.step = 's3'), 's3', 'the state of the link before it');
select is((select l.ctx -> 'state' -> 's1' from app.log l where l.step = 's2'), t.next('s2'), '(which stays where that says none)');
select is((select jsonb_array_length(l.ctx -> 'signals') from app.log l where l.step = 's3'), 2, 'and the inbox');
select t.hold('s1') as id \gset
select gd_signal(:id, 'a', '1'), gd_signal(:id, 'b', '2'), gd_signal(:id, 'c', '3');
select array_agg(s.id order by s.id) as signals from gendurable.signal s where s.instance_id = :id \gset
update gendurable.instance i
set state = jsonb_build_object(
    's1', t.next('s2', jsonb_build_object('consume', jsonb_build_array((:'signals'::bigint[])[1]))),
    's2', t.next('s3', jsonb_build_object('consume', jsonb_build_array((:'signals'::bigint[])[3]))),
    's3', '{"kind": "await", "signals": "never"}'::jsonb)
where i.id = :id;
select is(t.told(), 'ok', 'links that consume');
select results_eq($$select l.step, jsonb_path_query_array(l.ctx, '$.signals[*].name') from app.log l order by l.o$$,
    $$values ('s1', '["a", "b", "c"]'::jsonb), ('s2', '["b", "c"]'), ('s3', '["b"]')$$, 'what was consumed is not shown again');
select is((select string_agg(s.name, ' ') from gendurable.signal s where s.instance_id = :id), 'b', 'all of it is removed');

-- what the links insert and send adds up, in order

select gd_insert('m', p_step => 'x', p_queue => 'target') as target \gset
select t.hold('s1', jsonb_build_object(
    's1', t.next('s2', jsonb_build_object('insert', '[{"fsm": "n", "step": "one", "queue": "made"}]'::jsonb,
        'signal', jsonb_build_array(jsonb_build_object('id', :target, 'name', 'one')))),
    's2', t.next('s3'),
    's3', jsonb_build_object('kind', 'done', 'insert', '[{"fsm": "n", "step": "two", "queue": "made"}]'::jsonb,
        'signal', jsonb_build_array(jsonb_build_object('id', :target, 'name', 'two'))))) as id \gset
select is(t.told(), 'ok', 'an outbox in the links');
select is((select string_agg(v.step, ' ' order by v.id) from gd_instances v where v.queue = 'made'), 'one two', 'is inserted');
select is((select string_agg(s.name, ' ' order by s.id) from gendurable.signal s where s.instance_id = :target), 'one two', 'and sent');
select t.hold('s1', jsonb_build_object('s1', t.next('s2', '{"insert": [{"fsm": "n", "step": "x", "queue": "bad"}]}'),
    's2', '{"kind": "done", "insert": 5}'::jsonb)) as id \gset
select is(t.told(), 'ok', 'what is not valid in a link');
select is(t.row(:id), 'runnable s2 - 0', 'is not that of the links before it');
select t.claim((select v.queue from gd_instances v where v.id = :id));
select is(t.told(), 'error GD501', 'but an error of its own');
select t.hold('s1', jsonb_build_object('s1', t.next('s2'), 's2', t.next('s3', '{"insert": [{"state": 5}]}'))) as id \gset
select t.told() as x \gset
select is(t.row(:id), 'runnable s2 - 0', 'an insert that cannot be made: the same');
select t.claim((select v.queue from gd_instances v where v.id = :id));
select is(t.told(), 'error GD501', '(and it fails in its step)');
select is((select string_agg(v.queue, ' ') from gd_instances v where v.fsm = 'n' and v.queue <> 'made'), 'bad',
    '(of which nothing is there but what is valid)');

-- an await in a link, for a name that the claim has shown

select gd_insert('m', '{"s1": {"kind": "await", "signals": "go", "step": "s2"}}', p_step => 's1', p_queue => 'shown') as id \gset
select t.claim('shown');
select t.told() as x \gset
select gd_signal(:id, 'go', '1');
update gendurable.instance i
set state = jsonb_build_object('s2', t.next('s3'), 's3', t.next('s4'), 's4', '{"kind": "await", "signals": "go", "step": "s5"}'::jsonb)
where i.id = :id;
select t.claim('shown');
select is((select i.shown is not null from gendurable.instance i where i.id = :id), true, '(the claim has shown it)');
select is(t.told(), 'ok', 'await in link 3');
select is(t.ran(), 's2 s3 s4', '(it is)');
select is(t.row(:id), 'runnable s5 - 0 {go}', 'it is due at once: that step has not seen it');

-- where a chain ends

select t.hold('r1', (select jsonb_object_agg('r' || g, t.next('r' || g + 1)) from generate_series(1, 11) g)) as id \gset
select is(t.told(), 'ok', 'a long one');
select is(t.ran(), 'r1 r2 r3 r4 r5 r6 r7 r8 r9 r10', 'has ten links');
select t.claim((select v.queue from gd_instances v where v.id = :id));
select is(t.told('{"chain": 1}'), 'ok', 'the option says how many');
select is(t.ran(), 'r11', '(one)');
select t.hold('s1', t.three('{"kind": "done"}')) as id \gset
select t.told('{"chain": 2, "budget_ms": 10000}') as x \gset
select is(t.ran(), 's1 s2', '(two)');
select t.hold('s1', t.three('{"kind": "done"}')) as id \gset
select t.told('{"chain": null, "budget_ms": null}') as x \gset
select is(t.ran(), 's1 s2 s3', '(null: the default)');
select t.raises($$select gd_run_claims('w', '[]', '{"chain": -1}')$$, 'GD501', 'none is negative');
select t.hold('s1', t.three('{"kind": "done"}')) as id \gset
select t.told('{"budget_ms": 0}') as x \gset
select is(t.ran(), 's1', 'when its time is over none follows');

create function t.stops(p_more jsonb, p_name text) returns setof text language plpgsql as $$
begin
    perform t.hold('s1', jsonb_build_object('s1', t.next('s2', p_more)));
    return next is(t.told() || ' ' || t.ran(), 'ok s1', p_name);
end $$;
select t.stops('{"delay_ms": 60000}', 'a delay ends it');
select t.stops('{"queue": "other"}', 'a queue');
select t.stops('{"priority": 5}', 'a priority');
select t.stops('{"partition_key": "k9"}', 'a key');
select t.stops('{"rate_limit": "none"}', 'a rate limit') from (select gd_set_rate_limit('none', 100, '1 second')) x;
select t.stops('{"at": {"step": "s1"}}', 'an outcome that says where it was made');

-- which steps are links

select gd_define_step('m', 's2', 'app.go(jsonb)', '{"chain": false}');
select t.stops('{}', 'the next step may say no');
select gd_define_step('m', 's2', 'app.go(jsonb)'), gd_define_step('m', 's1', 'app.go(jsonb)', '{"chain": false}');
select t.stops('{}', 'and the step that was claimed');
select gd_define_step('m', 's1', 'app.go(jsonb)'), gd_define_step('m', 's2', 'app.go(jsonb)', '{"alone": true}');
select t.stops('{}', 'one that is alone');
select gd_define_step('m', 's2', 'app.all(jsonb)');
select t.stops('{}', 'one for many');
select gd_define_step('m', 's2', 'app.go(jsonb)');
update gendurable.step s set queue = 'other' where s.step = 's2';
select t.stops('{}', 'one with another queue');
update gendurable.step s set queue = null where s.step = 's2';
update gendurable.step s set queue = 'elsewhere' where s.step = 's1';
select gd_insert('m', jsonb_build_object('s1', t.next('s2')), p_step => 's1', p_queue => 'own') as id \gset
select t.claim('elsewhere');
select is(t.told() || ' ' || t.ran(), 'ok s1', 'or one without, behind one that has it');
select is((select v.step || ' ' || v.queue from gd_instances v where v.id = :id), 's2 own', '(it has gone back to its own)');
update gendurable.step s set queue = 'same' where s.step in ('s1', 's2');
select gd_insert('m', jsonb_build_object('s1', t.next('s2')), p_step => 's1', p_queue => 'same') as id \gset
select t.claim('same');
select is(t.told() || ' ' || t.ran(), 'ok s1 s2', 'in the same queue it may follow');
update gendurable.step s set queue = null;
select gd_define_step('m', 's2', 'app.go(jsonb)', '{"chain": false, "version": 1}');
select t.stops('{}', 'the definition for the version counts');
select gd_drop_step('m', 's2', 1);
select gd_register('m', 1, 's1', 'default', p_options => '{"timeouts": {"s2": 60000}}');
select t.stops('{}', 'one that has a timeout');
select gd_register('m', 1, 's1', 'default', p_options => '{"timeouts": {"s1": 60000}}');
select t.stops('{}', 'or begins behind one');
select gd_register('m', 1, 's1', 'default', p_options => '{"timeouts": null}');
select t.hold('all', jsonb_build_object('all', t.next('s2'))) as id \gset
select is(t.told() || ' ' || t.ran(), 'ok all s2', 'behind a step for many there may be one');
select t.hold('s1', jsonb_build_object('s1', t.next('s2'))) as id \gset
select gd_pause_queue(v.queue) from gd_instances v where v.id = :id;
select is(t.told() || ' ' || t.ran(), 'ok s1', 'not while the queue is paused');
select t.hold('s1', jsonb_build_object('s1', t.next('s2'))) as id \gset
select gd_hold_all('a test');
select is(t.told() || ' ' || t.ran(), 'ok s1', 'nor while everything is held');
select gd_release_hold();
select t.hold('s1', jsonb_build_object('s1', t.next('s2'))) as id \gset
select is(t.told() || ' ' || t.ran(), 'ok s1 s2', '(it is not)');

select gd_insert('m', jsonb_build_object('s1', t.next('s2')), p_step => 's1', p_queue => 'limited') as id \gset
select gd_set_queue('limited', '{"limit": 1}');
select t.claim('limited');
select is(t.told() || ' ' || t.ran(), 'ok s1 s2', 'in a queue with a limit');
select gd_insert('m', jsonb_build_object('s1', t.next('s2')), p_step => 's1', p_queue => 'limited') as id \gset
select t.claim('limited');
select gd_set_queue('limited', '{"limit": 0}');
select is(t.told() || ' ' || t.ran(), 'ok s1', 'not when it was lowered');
select gd_insert('m', jsonb_build_object('all', t.next('s2')) || case when g = 3 then '{"raise": "s2"}' else '{}' end::jsonb,
    p_step => 'all', p_queue => 'behind') from generate_series(1, 5) g;
select t.claim('behind');
select is(t.told(), 'ok, ok, ok, ok, ok', 'a link that raises behind a step for many');
select is((select string_agg(v.status || v.step || v.attempt, ' ') from gd_instances v where v.queue = 'behind'),
    'runnables20 runnables20 runnables20 runnables20 runnables20', 'leaves that step');
select t.hold('s1', t.three('{"kind": "done", "at": {"step": "own"}}')) as id \gset
select is(t.told(), 'ok', 'a last link that says where it was made');
select is(t.row(:id), 'done own s3 0', '(its word counts; the state is that of the link)');
select t.hold('s1', t.three('{"kind": "done"}')) as id \gset
select is(t.told('{"chain": 2.0}'), 'ok', 'a whole number, however it is written');

-- keys

select t.hold('s1', jsonb_build_object('s1', t.next('s2')), 'k1') as id \gset
select is(t.told() || ' ' || t.ran(), 'ok s1 s2', 'a row of a key chains');
select t.hold('s1', jsonb_build_object('s1', t.next('s2')), 'k2') as id \gset
select gd_insert('m', p_step => 'x', p_queue => 'k2', p_partition_key => 'k2') as waits \gset
select is(t.told() || ' ' || t.ran(), 'ok s1', 'not if somebody waits there');
select is((select c.id from t.take('k2') c), :'waits', '(whose turn it is)');

-- a run that was lost, or did not end: its steps one by one

select t.hold('s1', jsonb_build_object('s1', t.next('s2'))) as id \gset
update gendurable.instance i set crashes = 1 where i.id = :id;
select is(t.told() || ' ' || t.ran(), 'ok s1', 'what has crashed does not chain');

-- a link that ends the claim

select t.hold('s1', t.three('{"kind": "done"}', '{"ends": "s3"}')) as id \gset
select is(t.told(), 'ok', 'a link that cancels its instance');
select is(t.row(:id), 'runnable s2 - 0', 'is undone');
select t.claim((select v.queue from gd_instances v where v.id = :id));
select t.told() as x \gset
select t.claim((select v.queue from gd_instances v where v.id = :id));
select is(t.told(), 'error GD507', 'and fails in its own step');

-- what is raised as a lock would be, without a lock

select t.hold('s1', '{"raise": "s1", "sqlstate": "40001"}') as id \gset
select setval('app.log_o_seq', 1, false) as x \gset
select is(t.told(), 'error 40001', 'is an error in the end');
select is((select l.last_value from app.log_o_seq l), 5::bigint, 'after five tries');
select is(t.row(:id), 'runnable s1 - 1', '(an attempt)');
select t.hold('s1', '{"raise": "s1", "sqlstate": "55P03"}') as id \gset
select is(t.told(), 'error 55P03', 'also of the class of locks');
select t.hold('s1', '{"raise": "s1", "sqlstate": "55P03"}') as id \gset
select is(t.told('{"lock_ms": 0}'), 'error 55P03', 'and where locks are waited for without an end');

select * from finish();
