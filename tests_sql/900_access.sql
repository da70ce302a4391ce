\ir helpers/tap.psql
select no_plan();

-- roles belong to the whole server: they are made and used inside one transaction
begin;
create role gd_t_client;
create role gd_t_worker;
create role gd_t_operator;
create role gd_t_reader;
create role gd_t_author;
create role gd_t_nobody;
select gd_grant('gd_t_client', 'client');
select gd_grant('gd_t_worker', 'worker');
select gd_grant('gd_t_operator', 'operator');
select gd_grant('gd_t_reader', 'reader');
select gd_grant('gd_t_author', 'author');

create temp table may (profile text, name text);
insert into may
select x.profile, p.name
from (values
    ('client', string_to_array('gd_insert gd_insert_many gd_find gd_signal gd_signal_on gd_signal_off gd_result '
        || 'gd_watch gd_childs gd_journal gd_version', ' ')),
    ('worker', string_to_array('gd_register gd_claim gd_claim_many gd_commit gd_commit_one gd_heartbeat gd_release gd_sleep gd_wake gd_signals gd_hello gd_bye '
        || 'gd_journals gd_journal_entries '
        || 'gd_schedule gd_announce_schedules gd_ensure_rate_limit gd_close_rate_limit gd_reap gd_gc gd_maintain '
        || 'gd_run gd_run_claims gd_rehearse gd_steps', ' ')),
    ('author', string_to_array('gd_define_step gd_drop_step gd_steps gd_version', ' ')),
    ('operator', string_to_array('gd_edit gd_drain_worker gd_resume_worker gd_delete gd_delete_many gd_signal_many gd_cancel '
        || 'gd_retry gd_reschedule gd_pause gd_resume gd_pause_machine gd_resume_machine gd_pause_queue gd_resume_queue gd_set_key_limit gd_set_rate_limit '
        || 'gd_cancel_many gd_retry_many gd_reschedule_many gd_set_queue gd_hold_all gd_release_hold '
        || 'gd_fork gd_export gd_import '
        || 'gd_ensure_rate_limit gd_close_rate_limit gd_schedule gd_unschedule gd_pause_schedule gd_resume_schedule gd_trigger '
        || 'gd_migrate gd_signals gd_reap gd_gc gd_maintain', ' ')),
    ('reader', string_to_array('gd_result gd_find gd_childs gd_journal gd_signals gd_match gd_audit gd_get gd_tree '
        || 'gd_list gd_list_queues gd_count gd_why gd_line '
        || 'gd_failures gd_crashes gd_stats gd_transitions gd_errors gd_history gd_journal_page '
        || 'gd_doctor gd_version gd_instances gd_queues gd_workers gd_rate_limits '
        || 'gd_holds gd_pauses gd_schedules gd_machines', ' '))
) x (profile, names)
cross join lateral unnest(x.names) p (name);
-- a worker may do what a client may, an operator what a client and a reader may
insert into may select 'worker', m.name from may m where m.profile = 'client';
insert into may select 'operator', m.name from may m where m.profile in ('client', 'reader');

-- Both ways: what a profile names, and nothing else, for each function and view that is there.
select is(
    has_function_privilege('gd_t_' || r.profile, p.oid, 'execute'),
    exists (select from may m where m.profile = r.profile and m.name = p.proname),
    format('%s: %s', r.profile, p.oid::regprocedure))
from pg_proc p
cross join unnest('{client,worker,operator,reader,author,nobody}'::text[]) r (profile)
where p.pronamespace = (select m.api_schema from gendurable.meta m)::regnamespace and p.proname like 'gd\_%'
order by r.profile, p.proname, p.oid;
select is(
    has_table_privilege('gd_t_' || r.profile, c.oid, 'select'),
    exists (select from may m where m.profile = r.profile and m.name = c.relname), format('%s: view %s', r.profile, c.relname))
from pg_class c
cross join unnest('{client,worker,operator,reader,author,nobody}'::text[]) r (profile)
where c.relnamespace = (select m.api_schema from gendurable.meta m)::regnamespace and c.relkind = 'v' and c.relname like 'gd\_%'
order by r.profile, c.relname;
select is_empty(
    $$select c.relname, r from pg_class c, unnest('{client,worker,operator,reader,author,nobody}'::text[]) r
      where c.relname like 'gd\_%' and c.relkind = 'v'
        and has_table_privilege('gd_t_' || r, c.oid, 'insert, update, delete, truncate')$$, 'nobody writes through a view');
select is_empty(
    $$select c.relname, r from pg_class c, unnest('{client,worker,operator,reader,author,nobody}'::text[]) r
      where c.relnamespace = 'gendurable'::regnamespace and c.relkind in ('r', 'v')
        and has_table_privilege('gd_t_' || r, c.oid, 'select, insert, update, delete, truncate, references, trigger')$$,
    'the private tables are nobody''s');
select is_empty(
    $$select r from unnest('{client,reader,author,nobody}'::text[]) r where has_schema_privilege('gd_t_' || r, 'gendurable', 'usage, create')$$,
    'nor is the private schema');
select is(has_schema_privilege('gd_t_' || r, 'gendurable', 'create'), false, '(who runs steps, or functions over states, may name what is in it)')
from unnest('{worker,operator}'::text[]) r;
select is_empty(
    $$select p.proname, r from pg_proc p, unnest('{client,worker,operator,reader,author,nobody}'::text[]) r
      where p.pronamespace = 'gendurable'::regnamespace and has_function_privilege('gd_t_' || r, p.oid, 'execute')
        and not (r in ('worker', 'operator') and p.proname = any((gendurable._describe_profile(r)).functions))$$,
    'nor the helpers');
select is_empty(
    $$select p.oid::regprocedure from pg_proc p, unnest('{worker,operator}'::text[]) r
      where p.pronamespace = 'gendurable'::regnamespace and p.proname = any((gendurable._describe_profile(r)).functions)
        and not has_function_privilege('gd_t_' || r, p.oid, 'execute')$$,
    'but those that run steps, for workers, and move instances, for operators');
select bag_has(
    $$select p.proname::text from pg_proc p where p.pronamespace = (select m.api_schema from gendurable.meta m)::regnamespace$$,
    $$select name from may
      where name not like '%schedule'
          and name not in ('gd_instances', 'gd_queues', 'gd_workers', 'gd_rate_limits', 'gd_holds', 'gd_pauses', 'gd_schedules', 'gd_steps', 'gd_machines')
      group by name$$, 'every function that a profile names exists');

-- the rights suffice for the work

set local role gd_t_client;
create temp table made as select gd_insert('m', p_queue => 'acc') as id;
select is((select r.status from made m, gd_result(m.id) r), 'runnable', 'client: insert and result');
select is((select gd_signal(m.id, 's') from made m), 'delivered', 'client: signal');
select throws_ok($$select * from gd_claim('w', 'acc')$$, '42501', null, 'client: no claim');
select throws_ok($$select * from gendurable.instance$$, '42501', null, 'client: no table');
select throws_ok($$select gd_cancel(1)$$, '42501', null, 'client: no cancel');
select throws_ok($$select gd_grant('gd_t_client', 'worker')$$, '42501', null, 'client: no grant');
reset role;
grant select on made to public;
set local role gd_t_reader;
select is((select v.status from gd_instances v, made m where v.id = m.id), 'runnable', 'reader: the views');
select is((select v.due from gd_queues v where v.queue = 'acc'), 1::bigint, 'reader: the counts');
select is((select count(*) from gd_workers), 0::bigint, 'reader: the workers');
select throws_ok($$select gd_insert('m')$$, '42501', null, 'reader: no insert');
reset role;
set local role gd_t_worker;
select is((select r.result from gd_claim('w', 'acc') c, gd_commit('w', jsonb_build_array(
    jsonb_build_object('id', c.id, 'claim_no', c.claim_no, 'kind', 'next', 'step', 'b'))) r), 'ok', 'worker: claim and commit');
select lives_ok($$select gd_register('m', 1, 's'), gd_maintain(), gd_sleep('w', '{acc}'), gd_wake('w')$$, 'worker: the rest');
select throws_ok($$select count(*) from gd_instances$$, '42501', null, 'worker: no view');
select throws_ok($$select gd_pause_queue('acc')$$, '42501', null, 'worker: no pause');
reset role;
set local role gd_t_operator;
select is((select gd_cancel(m.id, 'by hand') from made m), true, 'operator: cancel');
select lives_ok($$select gd_pause_queue('acc'), gd_resume_queue('acc'), gd_set_key_limit('k', 2)$$, 'operator: pause, resume, limits');
select lives_ok($$select gd_set_queue('acc', '{"limit": 1}'), gd_set_queue('acc', '{"limit": null}'), gd_hold_all('a test'), gd_release_hold()$$,
    'operator: limits of queues, hold and release');
select is((select r.result from gd_match('{"queue": "acc", "status": "done"}') f, gd_cancel_many(f.ids) r), null, 'operator: many at once');
select throws_ok($$select * from gd_claim('w')$$, '42501', null, 'operator: no claim');
reset role;
set local role gd_t_nobody;
select throws_ok($$select gd_version()$$, '42501', null, 'without a grant nothing, not even the version');
select throws_ok($$select gd_insert('m')$$, '42501', null, 'nor an insert');
reset role;

-- a caller's search_path does not matter

create schema evil;
create function evil.now() returns timestamptz language sql as $$ select null::timestamptz $$;
create table evil.instance (id int);
select set_config('search_path', 'evil, public, pg_catalog', true);
select isnt(gd_insert('m', p_queue => 'evil'), null, 'functions do not look into the caller''s search_path');
select set_config('search_path', 'public', true);

-- bad calls

select t.raises($$select gd_grant('gd_t_client', 'boss')$$, 'GD502', 'no such profile');
select t.raises($$select gd_grant('gd_t_client', null)$$, 'GD502', 'no profile');
select t.raises($$select gd_grant(null, 'client')$$, 'GD501', 'no role');
select throws_ok($$select gd_grant('gd_t_never_was', 'client')$$, '42704', null, 'no such role');
select lives_ok($$select gd_grant('gd_t_reader', 'client')$$, 'profiles add up');
select ok(has_function_privilege('gd_t_reader', 'gd_version()', 'execute'), '(reader)');
do $$ begin execute format('create role %I', 'gd_t odd"name'); end $$;
select lives_ok($$select gd_grant(quote_ident('gd_t odd"name')::regrole, 'worker')$$, 'a role with an odd name');
select ok(has_function_privilege('gd_t odd"name', 'gd_wake(text)', 'execute'), '(granted)');

select * from finish();
rollback;
