\ir helpers/tap.psql
\ir helpers/limits.psql
select no_plan();

-- gd_define_step, gd_drop_step, gd_steps, and claims that want only what is run here; whose code may run as whom

create schema app;
create function app.plain(ctx jsonb) returns jsonb language sql as $$ select '{"kind": "done"}'::jsonb $$;
create function app.many(ctxs jsonb) returns setof jsonb language sql as $$ select '{"kind": "done"}'::jsonb $$;
create function app."OddName"(ctx jsonb) returns jsonb language sql as $$ select '{"kind": "done"}'::jsonb $$;
create function app.wrong(ctx json) returns jsonb language sql as $$ select '{}'::jsonb $$;
create function app.textual(ctx jsonb) returns text language sql as $$ select ''::text $$;
create function app.two(ctx jsonb, more jsonb = '{}') returns jsonb language sql as $$ select '{}'::jsonb $$;
create procedure app.proc(ctx jsonb) language sql as $$ select 1 $$;

select lives_ok($$select gd_define_step('m', 'a', 'app.plain(jsonb)')$$, 'a function for a step');
select lives_ok($$select gd_define_step('m', 'b', 'app.many(jsonb)', '{"chain": false, "alone": true, "version": 2}')$$, 'with options');
select lives_ok($$select gd_define_step('m', 'c', 'app."OddName"(jsonb)')$$, 'a name that needs quotes');
select lives_ok($$select gd_define_step('m', 'd')$$, 'none: the step is in another language');
select results_eq(
    $$select step, version, handler, set_based, chain, alone, problem from gd_steps order by step$$,
    $$values ('a', null::int, 'app.plain(jsonb)', false, true, false, null),
        ('b', 2, 'app.many(jsonb)', true, false, true, null), ('c', null, 'app."OddName"(jsonb)', false, true, false, null),
        ('d', null, null, false, true, false, 'it is in another language')$$, 'gd_steps tells of all');
select gd_define_step('m', 'b', 'app.plain(jsonb)', '{"version": 2.0}');
select results_eq(
    $$select handler, chain, alone from gd_steps where step = 'b'$$, $$values ('app.plain(jsonb)', true, false)$$,
    'a definition takes the place of the one before');

select t.raises($$select gd_define_step('m', 'a', 'app.wrong(json)')$$, 'GD501', 'it takes jsonb');
select t.raises($$select gd_define_step('m', 'a', 'app.textual(jsonb)')$$, 'GD501', 'and returns jsonb');
select t.raises($$select gd_define_step('m', 'a', 'app.two(jsonb, jsonb)')$$, 'GD501', 'one argument');
select t.raises($$select gd_define_step('m', 'a', 'app.proc(jsonb)')$$, 'GD501', 'no procedure');
select t.raises($$select gd_define_step('m', 'a', 999999999::regprocedure)$$, 'GD501', 'no such function');
select t.raises($$select gd_define_step('m', 'a', 'gendurable._trace_of(jsonb)')$$, 'GD501', 'none of gendurable');
create function pg_temp.gone(ctx jsonb) returns jsonb language sql as $$ select '{}'::jsonb $$;
select t.raises($$select gd_define_step('m', 'a', 'pg_temp.gone(jsonb)')$$, 'GD501', 'none that only this session sees');
select t.raises($$select gd_define_step('', 'a', 'app.plain(jsonb)')$$, 'GD501', 'no machine');
select t.raises($$select gd_define_step('m', null, 'app.plain(jsonb)')$$, 'GD501', 'no step');
select t.raises($$select gd_define_step('m', 'a', 'app.plain(jsonb)', '{"chains": true}')$$, 'GD501', 'unknown option');
select t.raises($$select gd_define_step('m', 'a', 'app.plain(jsonb)', '{"chain": 1}')$$, 'GD501', 'chain is a boolean');
select t.raises($$select gd_define_step('m', 'a', 'app.plain(jsonb)', '{"alone": "true"}')$$, 'GD501', 'so is alone');
select t.raises($$select gd_define_step('m', 'a', 'app.plain(jsonb)', '{"version": 1.5}')$$, 'GD501', 'version is a number');
select t.raises($$select gd_define_step('m', 'a', 'app.plain(jsonb)', '{"version": 1e30}')$$, 'GD501', 'in its range');
select t.raises($$select gd_define_step('m', 'a', 'app.plain(jsonb)', '[]')$$, 'GD501', 'options are an object');
select t.raises($$select gd_define_step('m', 'a', 'app.plain(jsonb)', '{"queue": 1}')$$, 'GD501', 'queue is a name');
select lives_ok($$select gd_define_step('m', 'a', 'app.plain(jsonb)', '{"queue": null, "version": null, "chain": null}')$$, 'null is absent');

-- what became of the function

create or replace function app.plain(ctx jsonb) returns jsonb language sql as $$ select '{"kind": "done", "result": 2}'::jsonb $$;
select is((select problem from gd_steps where step = 'a'), null, 'create or replace changes nothing');
drop function app.plain(jsonb);
select is((select problem from gd_steps where step = 'a'), 'there is no such function', 'dropped');
create function app.plain(ctx jsonb) returns text language sql as $$ select ''::text $$;
select is((select problem from gd_steps where step = 'a'), 'the function does not return jsonb', 'made again, and returns something else');
drop function app.plain(jsonb);
create function app.plain(ctx jsonb) returns jsonb language sql as $$ select '{"kind": "done"}'::jsonb $$;
select is((select problem from gd_steps where step = 'a'), null, 'made again by its owner');
select is(gd_drop_step('m', 'b'), false, 'no definition for all versions');
select is(gd_drop_step('m', 'b', 2), true, 'dropped');
select is(gd_drop_step('m', 'b', 2), false, 'once');

-- claims of what is run here

select gd_define_step('v', 'a', 'app.plain(jsonb)');
select gd_define_step('v', 'a', null, '{"version": 3}');
select gd_insert('v', p_step => 'a', p_queue => 'mix', p_unique_key => 'v1:' || g) from generate_series(1, 2) g;
select gd_insert('v', p_step => 'a', p_version => 3, p_queue => 'mix', p_unique_key => 'v3');
select gd_insert('v', p_step => 'x', p_queue => 'mix', p_unique_key => 'vx');
select gd_insert('w', p_step => 'a', p_queue => 'mix', p_unique_key => 'w');
select set_config('gendurable.floor', '', false);
select bag_eq(
    $$select unique_key from gd_claim('w', 'mix', 10, p_options => '{"steps": "sql"}')$$, $$values ('v1:1'), ('v1:2')$$,
    'what is run here: not another step, machine or version');
select is_empty($$select * from gd_claim('w', 'mix', 10, p_options => '{"steps": "sql"}')$$, '(and no more)');
select bag_eq(
    $$select unique_key from gd_claim_many('w', '{"mix": 10}', p_options => '{"steps": "other"}')$$, $$values ('v3'), ('vx'), ('w')$$,
    'other: all others, also in a session that has passed them over');
select gd_release('w', null);
select set_config('gendurable.floor', '', false);
select is((select count(*) from gd_claim('w', 'mix', 10, p_options => '{"steps": "other"}')), 3::bigint, '(others first)');
select is((select count(*) from gd_claim('w', 'mix', 10)), 2::bigint, 'a plain claim has a floor of its own');
select gd_release('w', null);
select is((select count(*) from gd_claim('w', 'mix', 10, p_options => '{"steps": null}')), 5::bigint, 'null: all');
select t.raises($$select gd_claim('w', 'mix', p_options => '{"steps": "some"}')$$, 'GD501', 'an unknown value');
select t.raises($$select gd_claim('w', 'mix', p_options => '{"steps": 1}')$$, 'GD501', 'no text');
select t.raises($$select gd_claim('w', 'mix', p_options => '{"step": "sql"}')$$, 'GD501', 'an unknown option');
select gd_release('w', null);
select is((select count(*) from gd_claim('w', 'mix', 10, p_options => '{"steps": "sql"}')), 2::bigint, '(two again)');
select gd_release('w', null);
select gd_define_step('v', 'x', 'app.plain(jsonb)');
select is((select count(*) from gd_claim('w', 'mix', 10, p_options => '{"steps": "sql"}')), 3::bigint,
    'a step that is defined later is found behind the floor, too');

-- many rows of others before what is run here: each of them is passed over once, and not by others

insert into gendurable.instance (fsm, step, queue, eligible_at)
select 'foreign', 'a', 'deep', clock_timestamp() from generate_series(1, 20000);
select gd_insert('v', p_step => 'a', p_queue => 'deep') as behind \gset
analyze gendurable.instance;
create function t.walk(p_options jsonb) returns bigint language plpgsql as $$
declare
    v_before constant bigint := gendurable._walked();
begin
    perform from gd_claim('w', 'deep', 1, p_options => p_options);
    return gendurable._walked() - v_before;
end $$;
select set_config('gendurable.floor', '', false);
select is((select c.id from gd_claim('w', 'deep', 10, p_options => '{"steps": "sql"}') c), :'behind', 'behind many others it is found');
select is((select count(*) from gd_claim('w', 'deep', 10)), 10::bigint, 'a plain claim of this session does not begin behind what was passed over');
-- the least of some: one of them may be a full scan
select cmp_ok((select min(t.walk('{"steps": "sql"}')) from generate_series(1, 3)), '<', 2000::bigint, 'the next claim begins where the last one was');

-- a rate limit: a bell hands nobody what he does not want, and nobody waits for ever behind what others want

select gd_set_rate_limit('rl', 1, '1 day', 10);
create function t.chosen(p_queue text, p_steps text) returns text language plpgsql as $$
begin
    perform set_config('gendurable.floor', '', false);
    return (
        select string_agg(c.unique_key, ' ' order by c.unique_key)
        from gd_claim('w', p_queue, 10, p_options => jsonb_build_object('steps', p_steps)) c);
end $$;
-- Instances of these machines in line before a bucket without tokens, which then gets some; their bell rang so long ago.
create function t.line(p_queue text, p_machines text[], p_tokens int, p_ago interval) returns void language plpgsql as $$
begin
    perform gd_insert('v', p_step => 'a', p_queue => p_queue, p_rate_limit => 'rl:' || p_queue);
    perform t.take(p_queue);
    perform t.fill('rl:' || p_queue, 0);
    perform gd_insert(m, p_step => 'a', p_queue => p_queue, p_rate_limit => 'rl:' || p_queue, p_unique_key => p_queue || n || m)
    from unnest(p_machines) with ordinality u (m, n);
    perform t.take(p_queue, 10);
    perform t.fill('rl:' || p_queue, p_tokens);
    perform t.rang(p_queue, p_ago);
end $$;
create function t.rang(p_queue text, p_ago interval) returns void language sql as $$
    update gendurable.instance i set eligible_at = clock_timestamp() - p_ago where i.id < 0 and i.queue = p_queue;
    update gendurable.bucket b
    set lines = array(
        select row(l.queue, clock_timestamp() - p_ago, l.turn_at, l.weight, l.priority, l.at, l.id, l.bell_id)::gendurable.line
        from unnest(b.lines) l)
    where b.bucket = 'rl:' || p_queue
$$;
create function t.bells(p_queue text) returns bigint[] language sql as $$
    select array_agg(i.id) from gendurable.instance i where i.id < 0 and i.queue = p_queue
$$;
select t.line('l1', '{foreign,v,foreign,v}', 5, '10 ms');
select t.bells('l1') as bells \gset
select is(t.chosen('l1', 'sql'), null, 'a line whose first row others want is theirs');
select is(t.bells('l1'), :'bells', 'its bell rings for them');
select is(t.chosen('l1', 'other'), 'l11foreign l13foreign', 'who wants the first row is not handed those that he does not want');
select t.rang('l1', '10 ms');
select is(t.chosen('l1', 'other'), null, 'nor those that are first then');
select is(t.chosen('l1', 'sql'), 'l12v l14v', 'which are called for who wants them');
select is(t.bells('l1'), null, 'a line that is empty has no bell');

select t.line('l2', '{foreign,v,foreign,v}', 1, '2 seconds');
select is(t.chosen('l2', 'sql'), 'l22v', 'a second later nobody waits for what others want: as many start as there are tokens');
select isnt(t.bells('l2'), null, 'a bell rings for what is left');
select t.fill('rl:l2', 1), t.rang('l2', '10 ms');
select is(t.chosen('l2', 'sql'), null, 'which has its turn again');
select is(t.chosen('l2', 'other'), 'l21foreign', 'and is called');

select t.line('l3', '{foreign,foreign}', 1, '2 seconds');
select t.bells('l3') as bells \gset
select is(t.chosen('l3', 'sql'), null, 'a line in which nothing is wanted');
select is(t.bells('l3'), :'bells', '(is left alone, however old its bell)');
select gd_insert('v', p_step => 'a', p_queue => 'l3', p_rate_limit => 'rl:l3', p_unique_key => 'l33v');
select t.rang('l3', '10 ms');
select is(t.chosen('l3', 'sql'), null, 'what has just come stands behind those of others, while it is their turn');
select t.rang('l3', '2 seconds');
select is(t.chosen('l3', 'sql'), 'l33v', 'and does not wait for ever');

select t.line('l4', array_fill('foreign'::text, array[1500]) || '{v}', 5, '2 seconds');
select is(t.chosen('l4', 'sql'), null, 'in a line a claim looks at 1,000');
delete from gendurable.instance i where i.queue = 'l4' and i.id in (
    select x.id from gendurable.instance x where x.queue = 'l4' and x.fsm = 'foreign' and x.id > 0 limit 600);
select is(t.chosen('l4', 'sql'), 'l41501v', '(and at no more)');

-- a partition key: its baton is passed on whoever carries it, and its order is kept

select gd_insert('foreign', p_step => 'a', p_queue => 'pk', p_partition_key => 'pk', p_unique_key => 'pk1');
select gd_insert('v', p_step => 'a', p_queue => 'pk', p_partition_key => 'pk', p_unique_key => 'pk2');
select is(t.chosen('pk', 'sql'), null, 'behind a row of others it waits');
select is(t.chosen('pk', 'other'), 'pk1', 'which is theirs');
select t.put(i.id, '{"kind": "next", "step": "a", "delay_ms": 3600000}') from gendurable.instance i where i.unique_key = 'pk1';
select gd_release('w', null);
update gendurable.instance i set eligible_at = clock_timestamp() - interval '1 second' where i.unique_key = 'pk1';
update gendurable.instance i set eligible_at = null where i.unique_key = 'pk2';
select is(t.chosen('pk', 'sql'), 'pk2', 'a row of others that carries the baton passes it on');
select is((select i.eligible_at > clock_timestamp() from gendurable.instance i where i.unique_key = 'pk1'), true, '(and is due in its time)');

-- schedules ring for everybody

select gd_define_step('sched', 'a', 'app.plain(jsonb)');
select gd_schedule('s1', '* * * * *', 'foreign', p_options => '{"step": "a", "queue": "sc"}');
select gd_schedule('s2', '* * * * *', 'sched', p_options => '{"step": "a", "queue": "sc"}');
update gendurable.schedule s set next_at = clock_timestamp() - interval '10 ms';
update gendurable.instance i set eligible_at = clock_timestamp() - interval '10 ms' where i.id < 0 and i.queue = 'sc';
select set_config('gendurable.floor', '', false);
select bag_eq($$select fsm from gd_claim('w', 'sc', 10, p_options => '{"steps": "sql"}')$$, $$values ('sched')$$,
    'a claim rings all schedules, and takes of them what it wants');
select bag_eq($$select fsm from gd_claim('w', 'sc', 10)$$, $$values ('foreign')$$, 'the others are due');

-- a lost run is a crash and no attempt

select gd_insert('v', p_step => 'a', p_queue => 'lost') as lost \gset
select count(*) from gd_claim('gd_run:1:1', 'lost');
select t.expire(:lost);
select is((select c.attempt from gd_claim('gd_run:2:1', 'lost') c), 0, 'a lost run is no attempt');
select t.expire(:lost);
select is(gd_reap(), 1, '(taken back by the upkeep)');
select results_eq(
    format('select attempt, crashes from gd_instances where id = %s', :lost), $$values (0, 2)$$, 'nor there, but it counts as a crash');
select count(*) from gd_claim('python', 'lost');
select t.expire(:lost);
select is((select c.attempt from t.take('lost') c), 1, 'that of another worker is both');

-- whose code, whose rights. Roles belong to the whole server: they are made and used inside one transaction.

begin;
create role gd_t_owner;
create role gd_t_worker;
create role gd_t_other;
create role gd_t_stranger;
select gd_grant('gd_t_owner', 'author'), gd_grant('gd_t_other', 'author'), gd_grant('gd_t_worker', 'worker');
grant create, usage on schema app to gd_t_owner, gd_t_other;
grant usage on schema app to gd_t_worker;
grant usage on schema t to gd_t_owner, gd_t_worker, gd_t_other;
set local role gd_t_owner;
create function app.mine(ctx jsonb) returns jsonb language sql as $$ select jsonb_build_object('kind', 'done', 'result', current_user) $$;
create function app.definer(ctx jsonb) returns jsonb language sql security definer
as $$ select jsonb_build_object('kind', 'done', 'result', current_user) $$;
select lives_ok($$select gd_define_step('r', 'mine', 'app.mine(jsonb)'), gd_define_step('r', 'definer', 'app.definer(jsonb)')$$, 'an author defines');
select throws_ok($$select gd_define_step('r', 'mine', 'app.plain(jsonb)')$$, 'GD507', null, 'not with the function of another');
select throws_ok($$select gd_define_step('m', 'a', 'app.mine(jsonb)')$$, 'GD507', null, 'nor in the place of that of another');
select throws_ok($$select gd_define_step('m', 'a', 'app.mine(jsonb)', '{"version": 7}')$$, 'GD507', null, 'nor for a version');
select throws_ok($$select gd_drop_step('m', 'a')$$, 'GD507', null, 'nor drops it');
set local role gd_t_other;
select throws_ok($$select gd_define_step('r', 'mine')$$, 'GD507', null, 'nobody takes it away');
select throws_ok($$select gd_drop_step('r', 'mine')$$, 'GD507', null, 'nor');
select throws_ok($$select * from gd_claim('w')$$, '42501', null, 'an author does not claim');
reset role;
select is((select problem from gd_steps where step = 'mine'), 'the owner of the function could not act as the role', 'code of another as a superuser: refused');
select is((select problem from gd_steps where step = 'definer'), null, 'but as its owner');
select gd_insert('r', p_step => s, p_queue => 'rights', p_unique_key => s) from unnest('{mine,definer}'::text[]) s;
create temp table held as select id, claim_no, step from gd_claim('w', 'rights', 10);
select results_eq(
    $$select h.step, r.result, r.detail ->> 'problem'
      from held h cross join lateral gd_run_claims('w', jsonb_build_array(jsonb_build_array(h.id, h.claim_no))) r order by 1$$,
    $$values ('definer', 'ok', null), ('mine', 'no_handler', 'the owner of the function could not act as the role')$$, 'so it is run');
select is((select v.result from gd_instances v where v.unique_key = 'definer'), '"gd_t_owner"', 'with its owner''s rights');
select is_empty($$select * from gd_claim('w', 'rights', 10, p_options => '{"steps": "sql"}')$$, 'what is refused is not claimed');
grant select on held to gd_t_worker;
set local role gd_t_worker;
select is((select problem from gd_steps where step = 'mine'), 'the owner of the function could not act as the role',
    'not as a worker, whom the owner is no member of');
reset role;
grant gd_t_worker to gd_t_owner;
set local role gd_t_worker;
select is((select problem from gd_steps where step = 'mine'), 'the owner of the function could not act as the role',
    'nor when it is one, but not of the role that logged in');
reset role;
alter role gd_t_owner superuser;
select is((select problem from gd_steps where step = 'mine'), null, 'of a superuser, as anybody');
alter role gd_t_owner nosuperuser;
revoke execute on function app.definer(jsonb) from public;
set local role gd_t_worker;
select is((select problem from gd_steps where step = 'definer'), 'the role may not execute the function', 'execute revoked');
reset role;
revoke usage on schema app from gd_t_worker;
set local role gd_t_worker;
select is((select problem from gd_steps where step = 'definer'), 'the role may not execute the function', 'a role that may not even look there is answered');
reset role;
alter function app.mine(jsonb) owner to gd_t_other;
select is((select problem from gd_steps where step = 'mine'), 'the function has another owner than when it was defined', 'given to another: refused');
-- the view and what decides say the same
select is_empty(
    $$select step from gd_steps v
      join gendurable.step s using (fsm, step)
      where s.version is not distinct from v.version
        and v.problem is distinct from gendurable._step_problem(s.handler, s.owner, (select oid from pg_roles where rolname = current_user))$$,
    'gd_steps says what decides');

select * from finish();
rollback;
