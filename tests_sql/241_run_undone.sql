\ir helpers/tap.psql
select no_plan();

-- gd_rehearse: runs what gd_run would run, tells what came of it, and leaves nothing behind

create schema app;
create table app.account (id int primary key, n int not null default 0 check (n >= 0));
insert into app.account select g from generate_series(1, 20) g;
create function app.debit(ctx jsonb) returns jsonb language plpgsql as $$
begin
    update app.account set n = n + 1 where id in (1, 2);
    insert into app.account values (100);
    return '{"kind": "next", "step": "credit", "state": {"got": null}, "insert": [{"fsm": "mail"}], "signal": [{"unique_key": "x", "name": "paid"}]}';
end $$;
create function app.credit(ctx jsonb) returns jsonb language plpgsql as $$
begin
    delete from app.account where id > 15 and id <= 20;
    return '{"kind": "done", "result": {"sum": null}}';
end $$;
create function app.pay(ctx jsonb) returns jsonb language plpgsql as $$
begin
    update app.account set n = n + 1 where id = (ctx #>> '{state,n}')::int;
    return '{"kind": "done"}';
end $$;
select gd_define_step('m', 'start', 'app.debit(jsonb)'), gd_define_step('m', 'credit', 'app.credit(jsonb)');
select gd_define_step('m', 'pay', 'app.pay(jsonb)');

-- Everything that could have been changed.
create view t.all_rows as
select 'instance' as kind, to_jsonb(i) as one from gendurable.instance i
union all
select 'signal', to_jsonb(s) from gendurable.signal s
union all
select 'bucket', to_jsonb(b) from gendurable.bucket b
union all
select 'account', to_jsonb(a) from app.account a;
create function t.told(p_queue text) returns text language sql as $$
    select string_agg(r.step || ' ' || r.result, ', ' order by r.ord) from gd_rehearse(p_queue) r
$$;
create function t.told(p_id bigint) returns text language sql as $$
    select string_agg(concat_ws(' ', r.step, r.result, r.after ->> 'why'), ', ' order by r.ord) from gd_rehearse('default', p_id) r
$$;

-- what it tells

create temp table made as select gd_insert('m', '{"n": 1}', p_queue => 'q') as id;
create temp table before as select * from t.all_rows;
create temp table told as select * from gd_rehearse('q');
select results_eq(
    $$select ord, id = (select id from made), fsm, step, result from told order by ord$$,
    $$values (0, true, 'm', 'start', 'ok'), (1, true, 'm', 'credit', 'ok')$$, 'one step after the other');
select is((select after - 'eligible_at' from told where ord = 0),
    '{"kind": "next", "status": "runnable", "step": "credit", "state": {"got": null}, "queue": "q", "attempt": 0,
      "insert": [{"fsm": "mail"}], "signal": [{"unique_key": "x", "name": "paid"}]}',
    'how the instance stands behind it, and what its outcome sends');
select ok((select (after ->> 'eligible_at')::timestamptz <= clock_timestamp() from told where ord = 0), '(with its time)');
select is((select after from told where ord = 1),
    '{"kind": "done", "status": "done", "step": "credit", "state": {"got": null}, "queue": "q", "attempt": 0, "result": {"sum": null}}',
    'and at its end');
select results_eq($$select writes from told order by ord$$,
    $$values ('{"app.account": {"inserted": 1, "updated": 2, "deleted": 0}}'::jsonb),
             ('{"app.account": {"inserted": 0, "updated": 0, "deleted": 5}}')$$, 'what each has written');
select bag_eq('table before', 'table t.all_rows', 'nothing of it has happened');
select is_empty($$select * from gd_rehearse('nothing is there')$$, 'no rows where nothing is due');
select is((select count(*) from gd_rehearse('q', null, 1)), 1::bigint, 'so many steps at most');
select is_empty($$select * from gd_rehearse('q', null, 0)$$, '(none)');
select is((select count(*) from gd_rehearse('q', null, null)), 2::bigint, '(null: a hundred)');
select gd_insert('m', '{}', p_step => 'python');
select is_empty($$select * from gd_rehearse()$$, 'what is in another language is not due for it, as for gd_run');
select gd_insert('m', jsonb_build_object('n', g), p_queue => 'hundred', p_step => 'pay') from generate_series(1, 120) g;
select is((select count(distinct id) from gd_rehearse('hundred')), 100::bigint, 'each instance once');

-- the claims of the session are what they were: it remembers nothing of those that were undone

select is((select count(*) from gd_claim('w', 'hundred', 10)), 10::bigint, '(ten are claimed)');
create temp table memory as select current_setting('gendurable.floor') as floor;
select is((select count(*) from gd_rehearse('hundred')), 100::bigint, '(a hundred are rehearsed)');
select is(current_setting('gendurable.floor'), (select floor from memory), 'it remembers what it did before');
select is((select count(*) from gd_claim('w', 'hundred', 1000)), 110::bigint, 'the next claim finds all');
begin;
select gd_insert('m', jsonb_build_object('n', g), p_queue => 'open', p_step => 'pay') from generate_series(1, 3) g;
select is(t.told('open'), 'pay ok, pay ok, pay ok', 'what its own transaction has inserted');
select is((select count(*) from gd_claim('w', 'open', 1000)), 3::bigint, '(and a claim there finds it)');
rollback;

-- one instance, until it parks

create function app.asks(ctx jsonb) returns jsonb language plpgsql as $$
begin
    if ctx -> 'signals' <> '[]' then
        return jsonb_build_object('kind', 'done', 'result', ctx #> '{signals,0,payload}', 'consume', jsonb_build_array(ctx #> '{signals,0,id}'));
    elsif ctx -> 'timed_out' = 'true' then
        return '{"kind": "done", "result": "late"}';
    end if;
    update app.account set n = n + 1 where id = 1;
    return '{"kind": "await", "signals": ["go"], "timeout_ms": 1000000}';
end $$;
select gd_define_step('m', 'asks', 'app.asks(jsonb)');
create temp table asks as select gd_insert('m', p_step => 'asks', p_queue => 'elsewhere') as id;
select is(t.told(id), 'asks ok', 'whatever its queue: until it waits') from asks;
select is(r.after - 'deadline_at' - 'eligible_at', '{"kind": "await", "status": "awaiting_signal", "step": "asks", "state": {}, "queue": "elsewhere",
    "attempt": 0, "awaits": ["go"]}', '(it waits)') from asks, gd_rehearse(p_id => asks.id) r;
select t.run('elsewhere', '{"kind": "await", "signals": ["go"], "timeout_ms": 1000000}');
select is(t.told(id), 'asks waits it awaits a signal: go', 'one that waits is not run, and it says why') from asks;
begin;
select gd_signal(id, 'go', '5') from asks;
create temp table before_signal as select * from t.all_rows;
select is((select r.after -> 'result' from asks, gd_rehearse(p_id => asks.id) r), '5', 'with a signal that is there');
select bag_eq('table before_signal', 'table t.all_rows', '(which is there as before)');
rollback;
begin;
select t.due(id) from asks;
select is((select r.after -> 'result' from asks, gd_rehearse(p_id => asks.id) r), '"late"', 'behind its deadline');
rollback;
create function app.again(ctx jsonb) returns jsonb language sql as $$ select '{"kind": "replay"}'::jsonb $$;
select gd_define_step('m', 'again', 'app.again(jsonb)');
create temp table again as select gd_insert('m', p_step => 'again') as id;
select is((select count(*) from again, gd_rehearse(p_id => again.id, p_limit => 7)), 7::bigint, 'one that never parks: p_limit ends it');
select is((select max(r.after ->> 'attempt') from again, gd_rehearse(p_id => again.id, p_limit => 7) r), '7', '(each step behind the one before)');
create function app.to_python(ctx jsonb) returns jsonb language sql as $$ select '{"kind": "next", "step": "python"}'::jsonb $$;
select gd_define_step('m', 'to_python', 'app.to_python(jsonb)');
select is(
    (select jsonb_agg(jsonb_build_array(r.step, r.result, r.after -> 'problem') order by r.ord)
        from gd_rehearse(p_id => gd_insert('m', p_step => 'to_python')) r),
    '[["to_python", "ok", null], ["python", "no_handler", "it is in another language"]]', 'a step that cannot be run here is told');

-- one that is not due: why

select is((select after ->> 'why' from gd_rehearse(p_id => gd_insert('m', p_eligible_at => '2999-01-01Z'))),
    'it is not due before ' || timestamptz '2999-01-01Z', 'one that is not due');
create temp table held as select c.id from (select gd_insert('m', p_step => 'pay', p_queue => 'held')) i cross join lateral gd_claim('else', 'held') c;
select is(t.told(id), 'pay waits a worker has it: else', 'one that is executing') from held;
begin;
select t.expire(id) from held;
select is((select r.result from held, gd_rehearse(p_id => held.id) r), 'ok', '(not behind the end of its lease)');
rollback;
select t.put(id, '{"kind": "schedule_childs", "step": "pay",
    "childs": [{"fsm": "m", "step": "pay", "queue": "children"}, {"fsm": "m", "queue": "children"}]}') from held;
select is(t.told(id), 'pay waits it awaits its children: 2', 'one with children') from held;
select is(t.told('children'), 'pay ok, start ok, credit ok', '(the children themselves)');
select gd_cancel(id) from held;
select is(t.told(id), 'pay waits it has ended: cancelled', 'one that has ended') from held;
select gd_pause_queue('elsewhere');
select is(t.told(id), 'asks waits the queue is paused: elsewhere', 'one in a queue that is paused') from asks;
select is((select jsonb_agg(r) from gd_rehearse('elsewhere') r),
    '[{"ord": 0, "id": null, "fsm": null, "step": null, "result": "waits", "after": {"why": "the queue is paused: elsewhere"}, "writes": null}]',
    'and the queue itself');
begin;
select gd_hold_all('a copy');
select is((select after ->> 'why' from gd_rehearse('q')), 'everything is held: a copy', 'where everything is held');
select is((select r.after ->> 'why' from made, gd_rehearse(p_id => made.id) r), 'everything is held: a copy', '(one instance)');
select gd_resume_queue('elsewhere'), gd_release_hold();
select is((select result from gd_rehearse('q') where ord = 0), 'ok', 'resumed in the same transaction it is run');
rollback;
begin;
select gd_set_queue('q', '{"limit": 0}');
select is((select r.after ->> 'why' from made, gd_rehearse(p_id => made.id) r), 'its queue is full: q', 'a queue that is full');
select is_empty($$select * from gd_rehearse('q')$$, '(there gd_run finds nothing)');
select gd_set_queue('q', '{"limit": 1}');
select is((select string_agg(r.result, ' ') from made, gd_rehearse(p_id => made.id) r), 'ok ok', 'with one slot');
select is((select string_agg(r.result, ' ') from gd_rehearse('q') r), 'ok ok', '(in the queue, too)');
rollback;
begin;
select gd_set_rate_limit('api', 1, '1 hour');
create temp table limited as select gd_insert('m', '{"n": 1}', p_step => 'pay', p_queue => 'limited', p_rate_limit => 'api') as id from generate_series(1, 2);
select is(t.told(max(id)), 'pay ok', 'a rate limit with a token') from limited;
select is(t.told('limited'), 'pay ok', '(for one)');
select t.run('limited', '{"kind": "done"}');
select is(t.told(max(id)), 'pay waits it waits for its rate limit: api', '(the other, when the first has had it)') from limited;
select t.take('limited');
select is(t.told(max(id)), 'pay waits it waits for its rate limit: api', '(and when it stands in line)') from limited;
rollback;
create temp table over as select gd_insert('m', '{"n": 1}', p_step => 'pay', p_queue => 'over', p_expires_at => clock_timestamp() + interval '1 hour') as id;
select t.elapse(id, '2 hours') from over;
select matches(t.told(id), '^pay waits it ends as failed: expired at ', 'one whose time is up') from over;
select is(t.status(id), 'runnable', '(it has not ended here)') from over;

-- keys

create temp table keyed as
select gd_insert('m', jsonb_build_object('n', g), p_step => 'pay', p_queue => 'keyed', p_partition_key => 'k') as id from generate_series(1, 3) g;
create temp table before_keys as select * from t.all_rows;
select is(t.told(min(id)), 'pay ok', 'the first one in a key') from keyed;
select matches(t.told(max(id)), '^pay waits others come before it in its key: k', 'not the last') from keyed;
select is((select string_agg(r.id::text, ' ' order by r.ord) from gd_rehearse('keyed') r), (select string_agg(id::text, ' ' order by id) from keyed),
    'in the queue all, in their order');
select bag_eq('table before_keys', 'table t.all_rows', 'and the key is as before');
select results_eq($$select c.id from t.take('keyed', 10) c$$, $$select min(id) from keyed$$, '(the first may start)');

-- a schedule whose time has come, which claims fire; the last child of a parent

select gd_schedule('nightly', '@every 1h', 'm', '{"step": "pay", "queue": "nightly", "state": {"n": 1}}');
update gendurable.instance set eligible_at = clock_timestamp() - interval '1 second' where id < 0;
update gendurable.schedule set next_at = clock_timestamp() - interval '1 second';
create temp table before_tick as select * from t.all_rows;
select is(t.told('nightly'), 'pay ok', 'what a schedule inserts');
select bag_eq('table before_tick', 'table t.all_rows', '(its bell rings as before)');
select is((select count(*) from t.take('nightly', 10)), 1::bigint, '(for a worker)');
create temp table parent as select gd_insert('m', p_step => 'again', p_queue => 'family') as id;
select t.run('family', '{"kind": "schedule_childs", "step": "credit", "childs": [{"fsm": "m", "step": "pay", "queue": "family", "state": {"n": 1}}]}');
select is(t.told('family'), 'pay ok, credit ok', 'a parent goes on behind its last child');
select is(t.status(id), 'awaiting_children', '(it waits as before)') from parent;

-- a step with a timeout; a machine that keeps nothing

select gd_register('short', 1, 'start', p_options => '{"timeouts": {"start": 60000}, "retain": {"done": 0}}');
select gd_define_step('short', 'start', 'app.pay(jsonb)');
create temp table short as select gd_insert('short', '{"n": 1}') as id;
select is((select r.after from short, gd_rehearse(p_id => short.id) r),
    '{"kind": "done", "status": "done", "removed": true}', 'one that is removed at its end');
select is(t.status(id), 'runnable', '(it is there)') from short;

-- what fails

create function app.fails(ctx jsonb) returns jsonb language plpgsql as $$
begin
    update app.account set n = n + 1 where id = 1;
    update app.account set n = n - (ctx #>> '{state,minus}')::int where id = 2;
    return '{"kind": "error", "error": "said"}';
end $$;
select gd_define_step('m', 'fails', 'app.fails(jsonb)');
create temp table fails as
select gd_insert('m', jsonb_build_object('minus', g), p_queue => 'fails', p_step => 'fails') as id, g from generate_series(0, 1) g;
create temp table failed as select r.*, f.g from gd_rehearse('fails') r join fails f on r.id = f.id;
select results_eq($$select result, after ->> 'status', after ->> 'attempt', after ->> 'sqlstate', after ->> 'last_error' from failed order by g$$,
    $$values ('error', 'runnable', '1', null, 'said'),
      ('error', 'runnable', '1', '23514', 'new row for relation "account" violates check constraint "account_n_check" (23514)')$$, 'an error is told');
select results_eq($$select writes from failed order by g$$,
    $$values ('{"app.account": {"inserted": 0, "updated": 2, "deleted": 0}}'::jsonb), (null)$$,
    'one that was returned keeps what was written, one that was raised has written nothing');
create function app.sets(ctx jsonb) returns jsonb language plpgsql as $$
begin
    execute ctx #>> '{state,do}';
    return '{"kind": "done"}';
end $$;
select gd_define_step('m', 'sets', 'app.sets(jsonb)');
create function t.does(p_sql text) returns text language sql as $$
    select r.result || coalesce(' ' || (r.after ->> 'sqlstate'), '') || coalesce(' ' || r.writes::text, '')
    from gd_rehearse(p_id => gd_insert('m', jsonb_build_object('do', p_sql), p_queue => 'does', p_step => 'sets')) r
$$;
select is(t.does('set transaction read only'), 'error GD507', 'one that breaks a rule');
select is(t.does('select * from gd_rehearse()'), 'error GD507', 'a rehearsal in a step');
select is(t.does('select gd_run_claims(''w'', ''[]'')'), 'error GD507', '(or a run)');
select is(t.does('set search_path = app'), 'error GD507', '(the search_path)');
select is(current_setting('search_path') || current_setting('lock_timeout') || coalesce(current_setting('gendurable.running', true), ''),
    '"$user", public0', 'all settings are as before');
select is(t.does('set work_mem = ''7MB'''), 'ok {}', 'a step that sets something');
select isnt(current_setting('work_mem'), '7MB', '(is undone, too)');
select is(t.does('create temp table x (id int); insert into x values (1)'),
    'ok {"pg_temp.x": {"deleted": 0, "updated": 0, "inserted": 1}}', 'temporary tables');
select is(t.does('select gd_insert(''m'')'), 'ok {}', 'the tables of gendurable are not told');
select is(t.does('insert into app.account values (500); raise_error'), 'error 42601', 'a syntax error');
select is(t.does('create table app."Odd name" (id int); insert into app."Odd name" values (1)'),
    'ok {"app.\"Odd name\"": {"deleted": 0, "updated": 0, "inserted": 1}}', 'a table that it made');
select is(t.does('commit'), 'error 0A000', 'a commit');
create table app.child (id int primary key, account int references app.account (id) deferrable initially deferred);
select is(t.does('insert into app.child values (1, 999)'), 'error 23503', 'a constraint that is checked at the end');
select is(t.does('insert into app.child values (1, 1)'), 'ok {"app.child": {"deleted": 0, "updated": 0, "inserted": 1}}', '(that holds)');
set track_counts = off;
select is(t.does('insert into app.child values (1, 1)'), 'ok', 'where nothing is counted nothing is told');
reset track_counts;
create sequence app.numbers;
select is(t.does('select nextval(''app.numbers'')'), 'ok {}', 'a number of a sequence');
select is((select last_value || ' ' || is_called from app.numbers), '1 true', 'is gone, as in any rollback');
select is_empty($$select * from app.child$$, '(nothing else is)');

-- many at once

create function app.archive(ctxs jsonb) returns setof jsonb language sql as $$
    select jsonb_build_object('id', c -> 'id', 'kind', 'done', 'result', jsonb_array_length(ctxs)) from jsonb_array_elements(ctxs) c
$$;
select gd_define_step('m', 'archive', 'app.archive(jsonb)');
select gd_insert('m', p_step => 'archive', p_queue => 'archive') from generate_series(1, 3);
select is((select jsonb_agg(r.after -> 'result') from gd_rehearse('archive') r), '[1, 1, 1]', 'a function of many gets one at a time');

-- what it refuses

select t.raises($$select * from gd_rehearse('')$$, 'GD501', 'an empty queue');
select t.raises($$select * from gd_rehearse('q', null, -1)$$, 'GD501', 'a negative limit');
select t.raises($$select * from gd_rehearse(p_id => 999999999)$$, 'GD503', 'an unknown instance');
select t.raises($$select * from gd_rehearse(p_id => -1)$$, 'GD503', '(that cannot be)');
select is((select count(*) from gd_rehearse(null)), (select count(*) from gd_rehearse()), 'null is the default queue');
set default_transaction_isolation = 'repeatable read';
select t.raises($$select * from gd_rehearse('q')$$, 'GD504', 'a fixed snapshot');
reset default_transaction_isolation;
set default_transaction_read_only = on;
select throws_ok($$select * from gd_rehearse('q')$$, '25006', null, 'a transaction that may not write');
reset default_transaction_read_only;

-- whose code, whose rights

begin;
create role gd_t_runner;
select gd_grant('gd_t_runner', 'worker');
grant usage on schema app, t to gd_t_runner;
select gd_insert('m', '{"n": 1}', p_step => 'pay', p_queue => 'rights');
set local role gd_t_runner;
select is((select r.result || ': ' || (r.after ->> 'sqlstate') from gd_rehearse('rights') r), 'error: 42501', 'a step runs with the rights of the role');
reset role;
alter function app.pay(jsonb) security definer;
set local role gd_t_runner;
select is((select string_agg(r.result, ' ') from gd_rehearse('rights') r), 'ok', 'with the rights of its owner');
rollback;
begin;
create role gd_t_runner;
create role gd_t_owner;
select gd_grant('gd_t_runner', 'worker');
grant usage on schema app to gd_t_runner, gd_t_owner;
grant create on schema app to gd_t_owner;
grant gd_t_runner to gd_t_owner;
alter function app.pay(jsonb) owner to gd_t_owner;
select gd_define_step('m', 'pay', 'app.pay(jsonb)');
create temp table mine as select gd_insert('m', '{"n": 1}', p_step => 'pay', p_queue => 'rights') as id;
grant select on mine to gd_t_runner;
set local role gd_t_runner;
select is_empty($$select * from gd_rehearse('rights')$$, 'what could not act as the role that logged in is not run');
select is((select r.result || ': ' || (r.after ->> 'problem') from mine, gd_rehearse(p_id => mine.id) r),
    'no_handler: the owner of the function could not act as the role', 'one instance says why');
reset role;
rollback;

select bag_eq(
    $$select one from before where kind = 'account'$$, $$select one from t.all_rows where kind = 'account'$$, 'no account has changed in all of this');
select * from finish();
