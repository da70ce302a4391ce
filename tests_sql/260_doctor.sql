\ir helpers/tap.psql
select no_plan();

-- What a check says after something was arranged, which is then undone: [level, message] of each row that fits.
create function t.diagnose(p_check text, p_arrange text, p_message text) returns jsonb
language plpgsql as $$
declare
    v_said jsonb;
begin
    begin
        execute p_arrange;
        select coalesce(jsonb_agg(jsonb_build_array(d.level, d.message)), '[]') into v_said
        from gd_doctor() d
        where d."check" = p_check and d.message ~ p_message and (d.level <> 'ok' or p_message <> '');
        raise exception using errcode = 'TX001';
    exception when sqlstate 'TX001' then
        return v_said;
    end;
end $$;

-- It speaks of what was arranged, with a hint, and not before.
create function t.speaks(p_check text, p_level text, p_message text, p_arrange text) returns text
language plpgsql as $$
declare
    v_before jsonb := t.diagnose(p_check, 'select 1', p_message);
    v_after jsonb := t.diagnose(p_check, p_arrange, p_message);
begin
    return public.ok(v_before = '[]' and v_after #>> '{0,0}' = p_level, format('%s: %s', p_check, p_message))
        || case when v_before <> '[]' then E'\n# before: ' || v_before::text else '' end
        || case when v_after #>> '{0,0}' is distinct from p_level
            then E'\n# after: ' || v_after::text || E'\n# ' || t.diagnose(p_check, p_arrange, '')::text else '' end;
end $$;

create function t.silent(p_check text, p_message text, p_name text, p_arrange text) returns text
language plpgsql as $$
declare
    v_after jsonb := t.diagnose(p_check, p_arrange, p_message);
begin
    return public.ok(v_after = '[]', format('%s: %s', p_check, p_name))
        || case when v_after <> '[]' then E'\n# after: ' || v_after::text else '' end;
end $$;

-- Out of the extension, which holds on to its members, and away.
create function t.drop(p_what text) returns void
language plpgsql as $$
begin
    if exists (select from pg_extension e where e.extname = 'gendurable') then
        execute 'alter extension gendurable drop ' || p_what;
    end if;
    execute 'drop ' || p_what;
end $$;

-- a new installation

select is_empty(
    $$select * from gd_doctor() d where d.level <> 'ok' and d."check" <> all('{settings,horizon,connections,locks}')$$,
    'a new installation is well, whatever its server is like');
select results_eq(
    'select distinct on (d."check") d."check" from gd_doctor() d order by 1', 'select c.name from gendurable._list_checks() c order by 1',
    'every check has its row');
select is_empty(
    $$select * from gd_doctor() d
      where d."check" is null or d.level <> all('{ok,warning,problem}') or coalesce(d.message, '') = '' or d.detail is null
        or (d.level <> 'ok' and coalesce(d.hint, '') = '')$$, 'with a level, a message, a detail, and a hint where it is not well');
begin;
set local transaction_read_only = on;
select lives_ok('select * from gd_doctor()', 'it runs in a transaction that is read only');
select is((select count(*) from pg_locks l where l.locktype = 'advisory' and l.pid = pg_backend_pid()), 0::bigint, 'without advisory locks');
select is_empty(
    $$select l.mode from pg_locks l where l.pid = pg_backend_pid() and l.relation::regclass::text like 'gendurable.%'
        and l.mode not in ('AccessShareLock', 'RowExclusiveLock')$$, 'and with locks of tables that nothing of ours waits for');
commit;

-- what is written down about the parts is what there is

create temp table part as
select 'table' as kind, c.relname::text as name, coalesce((
    select string_agg(o, ', ' order by o collate "C") from unnest(c.reloptions) o), '') as made
from pg_class c where c.relnamespace = 'gendurable'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
union all
select 'view', c.relname, '' from pg_class c
where c.relkind = 'v' and c.relname like 'gd\_%' and c.relnamespace = (select m.api_schema from gendurable.meta m)::regnamespace
union all
select 'index', x.indexrelid::regclass::name, x.indrelid::regclass::text from pg_index x
join pg_class c on c.oid = x.indexrelid and c.relnamespace = 'gendurable'::regnamespace and not c.relispartition
where not exists (select from pg_constraint k where k.conindid = x.indexrelid)
    and not exists (select from pg_class r where r.reltoastrelid = x.indrelid)
union all
select 'constraint', k.conname, k.conrelid::regclass::text from pg_constraint k
join pg_class c on c.oid = k.conrelid and not c.relispartition
where k.connamespace = 'gendurable'::regnamespace and k.contype not in ('n', 't')
union all
select 'trigger', g.tgname, g.tgrelid::regclass::text from pg_trigger g
join pg_class c on c.oid = g.tgrelid and c.relnamespace = 'gendurable'::regnamespace
where not g.tgisinternal and g.tgparentid = 0;
update part set name = replace(name, 'gendurable.', ''), made = replace(made, 'gendurable.', '');
select bag_eq(
    $$select a.kind, a.name, a.made from gendurable._parts() a where a.kind <> 'function'$$, 'select p.kind, p.name, p.made from part p',
    'tables with their parameters, views, indexes, constraints and triggers are written down');
select is(
    (select count(*) from gendurable._parts() a where a.kind = 'function'),
    (select count(*) from pg_proc p where p.pronamespace = 'gendurable'::regnamespace)
    + (select count(*) from gendurable._api() a where a.kind = 'function') - 1, 'so is every function but the list itself');

-- the installation

select t.speaks('version', 'problem', 'the functions are of', $$update gendurable.meta set version = '0.0.1'$$);
select t.speaks('version', 'problem', 'nobody knows which release', $$delete from gendurable.meta$$);
select t.speaks('functions', 'problem', 'missing: gd_find\(text\)$', $$select t.drop('function gd_find(text)')$$);
select t.speaks('functions', 'problem', 'not as they were made: gendurable._crash_cap\(\)$',
    $$create or replace function gendurable._crash_cap() returns int language sql immutable parallel safe as 'select 21'$$);
select t.speaks('functions', 'problem', 'not as they were made: gd_version\(\)$', $$alter function gd_version() reset search_path$$);
select t.speaks('functions', 'problem', 'not as they were made: gd_version\(\)$', $$alter function gd_version() security invoker$$);
select t.speaks('functions', 'problem', 'not as they were made: gd_version\(\)$', $$alter function gd_version() volatile$$);
select t.speaks('functions', 'problem', 'another owner .*gd_version\(\)$',
    $$create role gd_t_other superuser; alter function gd_version() owner to gd_t_other$$);
select t.speaks('functions', 'warning', 'not of this release: gendurable.mine\(\)$',
    $$create function gendurable.mine() returns int language sql as 'select 1'$$);
select t.silent('functions', '', 'what others have in the schema of the API is no matter',
    $$create function gd_find(int) returns int language sql as 'select 1'$$);
select t.speaks('tables', 'problem', 'missing: gd_holds$', $$select t.drop('view gd_holds')$$);
select t.speaks('tables', 'problem', 'unlogged.*: watch$', $$alter table gendurable.watch set unlogged$$);
select t.speaks('tables', 'problem', 'autovacuum is off for signal$', $$alter table gendurable.signal set (autovacuum_enabled = no)$$);
select t.speaks('tables', 'problem', 'autovacuum is off for signal$', $$alter table gendurable.signal set (toast.autovacuum_enabled = off)$$);
select t.speaks('tables', 'warning', 'parameters .*: instance$', $$alter table gendurable.instance set (fillfactor = 100)$$);
select t.speaks('tables', 'warning', 'parameters .*: watch$', $$alter table gendurable.watch set (fillfactor = 90)$$);
select t.silent('tables', '', 'autovacuum that is on is no change', $$alter table gendurable.signal set (autovacuum_enabled = on)$$);
select t.speaks('indexes', 'problem', 'missing: instance_due$', $$drop index gendurable.instance_due$$);
select t.speaks('indexes', 'problem', 'missing: watch_instance$',
    $$drop index gendurable.watch_instance; create index watch_instance on gendurable.signal (id)$$);
select t.speaks('indexes', 'problem', 'invalid: gendurable.instance_due$',
    $$update pg_index set indisvalid = false where indexrelid = 'gendurable.instance_due'::regclass$$);
select t.silent('indexes', '', 'one more is no matter', $$create index mine on gendurable.instance (step)$$);
select t.speaks('constraints', 'problem', 'missing: instance_is_whole$', $$alter table gendurable.instance drop constraint instance_is_whole$$);
select t.speaks('constraints', 'warning', 'not validated.*: mine$',
    $$alter table gendurable.instance add constraint mine check (id <> 5) not valid$$);
select t.speaks('triggers', 'problem', 'missing: hold_special$', $$drop trigger hold_special on gendurable.hold$$);
select t.speaks('triggers', 'problem', 'disabled: hold_special$', $$alter table gendurable.hold disable trigger hold_special$$);
select t.speaks('triggers', 'problem', 'disabled: hold_special$', $$alter table gendurable.hold enable replica trigger hold_special$$);
select t.silent('triggers', '', 'one that always fires is no matter', $$alter table gendurable.hold enable always trigger hold_special$$);
select t.speaks('replication', 'problem', ': watch$',
    $$create publication gd_t_all for all tables; alter table gendurable.watch replica identity nothing$$);
select t.silent('replication', '', 'without a publication it is no matter', $$alter table gendurable.watch replica identity nothing$$);
select t.silent('replication', '', 'nor with one of inserts',
    $$create publication gd_t_all for all tables with (publish = 'insert'); alter table gendurable.watch replica identity nothing$$);

-- rights

select t.speaks('privileges', 'problem', 'did not give: PUBLIC$', $$grant execute on function gd_version() to public$$);
select t.speaks('privileges', 'problem', 'did not give: PUBLIC$', $$grant usage on schema gendurable to public$$);
select t.speaks('privileges', 'warning', 'did not give: gd_t_role$', $$create role gd_t_role; grant select on gendurable.instance to gd_t_role$$);
select t.speaks('privileges', 'warning', 'did not give: gd_t_role$',
    $$create role gd_t_role; select gd_grant('gd_t_role', 'client'); grant execute on function gd_cancel(bigint, text, boolean) to gd_t_role$$);
select t.speaks('privileges', 'warning', 'did not give: gd_t_role$',
    $$create role gd_t_role; select gd_grant('gd_t_role', 'client'); grant execute on function gd_find(text) to gd_t_role with grant option$$);
select t.speaks('privileges', 'warning', 'are gone: gd_t_gone$', $$insert into gendurable.granted values ('gd_t_gone', 'client')$$);
select t.speaks('privileges', 'warning', 'lack .*: gd_t_role$',
    $$create role gd_t_role; select gd_grant('gd_t_role', 'worker'); revoke all on function gd_maintain(interval) from gd_t_role$$);
select t.speaks('privileges', 'warning', 'lack .*: gd_t_role$',
    $$create role gd_t_role; select gd_grant('gd_t_role', 'reader'); revoke all on gd_queues from gd_t_role$$);
select t.silent('privileges', '', 'profiles that were given are well',
    $$create role gd_t_role; select gd_grant('gd_t_role', p) from unnest(gendurable._profile_names()) p$$);
select t.silent('privileges', '', 'one that was taken away is no matter',
    $$create role gd_t_role; select gd_grant('gd_t_role', 'client');
      do 'begin execute format(''revoke all on all functions in schema %I from gd_t_role'', gendurable._api_schema()); end'$$);

-- where it is

create temp table place as select gendurable._find_home() as home;
select t.speaks('home', 'problem', 'rows come from elsewhere on server',
    $$insert into gendurable.upkeep (name, place) select 'home', home || '{"database": "elsewhere"}' from place$$);
select t.speaks('home', 'problem', 'on server 77$',
    $$insert into gendurable.upkeep (name, place) select 'home', home || '{"system": "77"}' from place$$);
select t.speaks('home', 'warning', 'on server 77$',
    $$insert into gendurable.upkeep (name, place) select 'home', home || '{"system": "77"}' from place;
      select gd_hold_all('a copy')$$);
select t.speaks('home', 'problem', 'on server 77$',
    $$insert into gendurable.upkeep (name, place) select 'home', home || '{"system": "77"}' from place; select gd_maintain()$$);
select t.silent('home', '', 'gd_release_hold confirms it',
    $$insert into gendurable.upkeep (name, place) select 'home', home || '{"system": "77"}' from place;
      select gd_maintain(), gd_release_hold()$$);
select t.silent('home', '', 'after a week it is known',
    $$insert into gendurable.upkeep (name, place)
      select 'home', home || jsonb_build_object('before', home || '{"system": "77"}', 'since', now() - interval '8 days') from place$$);
select t.silent('home', '', 'where the server may not be asked for, its name tells nothing',
    $$insert into gendurable.upkeep (name, place) select 'home', home || '{"system": null}' from place; select gd_maintain()$$);

-- the server

select t.speaks('bloat', 'warning', 'transactions old in instance$', $$update pg_class
    set relfrozenxid = ((pg_current_xact_id()::text::bigint - 400000000 + 4294967296) % 4294967296)::text::xid
    where oid = 'gendurable.instance'::regclass$$);
select t.speaks('bloat', 'problem', 'transactions old in signal$', $$update pg_class
    set relfrozenxid = ((pg_current_xact_id()::text::bigint - 1600000000 + 4294967296) % 4294967296)::text::xid
    where oid = (select c.reltoastrelid from pg_class c where c.oid = 'gendurable.signal'::regclass)$$);
select t.speaks('sequences', 'warning', 'of upkeep_id_seq$',
    $$alter sequence gendurable.upkeep_id_seq maxvalue 100 restart 90; select nextval('gendurable.upkeep_id_seq')$$);
select t.speaks('sequences', 'problem', 'of bell_id_seq$',
    $$alter sequence gendurable.bell_id_seq minvalue -100 restart -97; select nextval('gendurable.bell_id_seq')$$);
select t.silent('sequences', '', 'half of them is no matter',
    $$alter sequence gendurable.upkeep_id_seq maxvalue 100 restart 50; select nextval('gendurable.upkeep_id_seq')$$);
select t.speaks('settings', x.level, x.name || ' is .* of role gd_t_role in this database',
    format('create role gd_t_role; alter role gd_t_role in database %I set %s = %L', current_database(), x.name, x.value))
from (values ('synchronous_commit', 'OFF', 'warning'), ('synchronous_commit', 'no', 'warning'), ('default_transaction_isolation', 'serializable', 'warning'),
    ('default_transaction_read_only', 'on', 'problem'), ('session_replication_role', 'replica', 'problem'),
    ('idle_session_timeout', '1min', 'warning'), ('statement_timeout', '5000', 'warning'), ('statement_timeout', '1.5s', 'warning'),
    ('idle_in_transaction_session_timeout', '1s', 'warning')) x (name, value, level);
select t.silent('settings', x.name || ' is .* of role gd_t_role', x.name || ' ' || x.value,
    format('create role gd_t_role; alter role gd_t_role set %s = %L', x.name, x.value))
from (values ('synchronous_commit', 'on'), ('default_transaction_isolation', 'READ COMMITTED'),
    ('default_transaction_read_only', 'off'), ('session_replication_role', 'origin'), ('idle_session_timeout', '1h'),
    ('statement_timeout', '30000'), ('statement_timeout', '0'), ('idle_in_transaction_session_timeout', '10min'), ('work_mem', '1GB')) x (name, value);
select t.speaks('settings', 'warning', 'statement_timeout is ''2s'' of role',
    $$create role gd_t_role; alter role gd_t_role set statement_timeout = '2s'$$);
select t.speaks('connections', 'problem', 'of the 1 connections of the database',
    format('alter database %I connection limit 1', current_database()));
select t.silent('connections', 'of the database', 'there is room', format('alter database %I connection limit 1000', current_database()));
select t.speaks('locks', 'warning', 'places in the lock table', $$select count(pg_advisory_xact_lock(g)) from generate_series(1, (
    select 0.75 * current_setting('max_locks_per_transaction')::int
        * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int))::int) g$$);

-- the work

select gd_insert('m', p_queue => 'seen');
select is((t.diagnose('upkeep', 'select 1', 'has not run yet')) #>> '{0,0}', 'warning', 'upkeep: has not run yet');
select t.silent('upkeep', '', 'it ran', 'select gd_maintain()');
select t.speaks('upkeep', 'warning', 'has not run since',
    $$insert into gendurable.upkeep (name, place) values ('ran', jsonb_build_object('at', now() - interval '11 minutes', 'errors', '{}'::jsonb))$$);
select t.speaks('upkeep', 'problem', 'has not run since',
    $$insert into gendurable.upkeep (name, place) values ('ran', jsonb_build_object('at', now() - interval '2 days', 'errors', '{}'::jsonb))$$);
create table fault (id bigint references gendurable.instance (id));
select t.speaks('upkeep', 'warning', 'parts of the upkeep failed when it ran last: removed \(',
    $$insert into fault select t.run('seen', '{"kind": "done"}'); update gendurable.instance set finished_at = now() - interval '9 days';
      select gd_maintain()$$);
drop table fault;
select t.speaks('retention', 'warning', 'for 2 hours', $$select gd_maintain();
    update gendurable.upkeep set place = place || '{"overdue": 7300.5}' where name = 'ran'$$);
select t.speaks('retention', 'problem', 'for 48 hours', $$select gd_maintain();
    update gendurable.upkeep set place = place || '{"overdue": 172801}' where name = 'ran'$$);
select t.silent('retention', '', 'minutes are no matter', $$select gd_maintain();
    update gendurable.upkeep set place = place || '{"overdue": 600}' where name = 'ran'$$);
select t.speaks('hold', 'warning', 'by .*: a test$', $$select gd_hold_all('a test')$$);

create function t.old(p_queue text, p_time interval) returns bigint
language plpgsql as $$
declare
    v_id bigint := gd_insert('m', p_queue => p_queue);
begin
    perform t.elapse(v_id, p_time);
    return v_id;
end $$;

select t.speaks('queues', 'warning', 'nobody serves lonely:', $$select t.old('lonely', '6 minutes')$$);
select t.speaks('queues', 'problem', 'nobody serves lonely:', $$select t.old('lonely', '2 hours')$$);
select t.silent('queues', 'lonely', 'a row that has just come', $$select t.old('lonely', '1 minute')$$);
select t.silent('queues', 'lonely', 'a queue in which something executes', $$select t.old('lonely', '2 hours'), t.old('lonely', '1 hour');
    select * from gd_claim('w', 'lonely')$$);
select t.speaks('queues', 'problem', 'nobody serves lonely:', $$select t.old('lonely', '2 hours'), t.old('lonely', '1 hour');
    select t.expire(c.id) from gd_claim('w', 'lonely') c; update gendurable.instance set lease_expires_at = now() - interval '2 minutes'
    where queue = 'lonely' and worker is not null$$);
select t.silent('queues', 'lonely', 'one that is paused', $$select t.old('lonely', '2 hours'), gd_pause_queue('lonely')$$);
select t.silent('queues', 'lonely', 'one that is held', $$select t.old('lonely', '2 hours'), gd_hold_all('x')$$);
select t.silent('queues', 'lonely', 'one whose limit is 0, of which another check speaks',
    $$select t.old('lonely', '2 hours'), gd_set_queue('lonely', '{"limit": 0}')$$);
select t.silent('queues', 'lonely', 'a row that is to come', $$select gd_insert('m', p_queue => 'lonely', p_delay => '1 day')$$);
select t.speaks('queues', 'problem', 'nobody serves .* and 2 more:', $$select t.old('lonely' || g, '2 hours') from generate_series(1, 5) g$$);
select t.speaks('queues', 'problem', 'known workers say that they serve it \(1\)', $$select t.old('lonely', '2 hours'),
    gd_hello('d', '{"queues": {"lonely": 1}}')$$);
select t.speaks('queues', 'problem', 'known workers that serve it drain \(1\)', $$select t.old('lonely', '2 hours'),
    gd_hello('d', '{"queues": {"lonely": 1}}'), gd_drain_worker('d')$$);
select t.silent('queues', 'known workers', 'workers that serve something else', $$select t.old('lonely', '2 hours'),
    gd_hello('d', '{"queues": {"other": 1}}')$$);
select t.speaks('pauses', 'warning', 'paused: quiet$', $$select t.old('quiet', '2 days'), gd_pause_queue('quiet');
    update gendurable.paused_queue set paused_at = paused_at - interval '2 days'$$);
select t.speaks('pauses', 'warning', 'for a day: late, late version 2 step b;|for a day: late, late version 2 step b$', $$select gd_pause_machine('late'),
    gd_pause_machine('late', 2, 'b'); update gendurable.paused_machine set paused_at = paused_at - interval '2 days'$$);
select t.silent('pauses', 'late', 'a machine that was paused today', $$select gd_pause_machine('late')$$);
select t.speaks('pauses', 'warning', '1 instances have been paused for a day', $$select gd_pause(gd_insert('m', p_queue => 'late'));
    update gendurable.instance set paused_at = paused_at - interval '2 days' where queue = 'late'$$);
select t.silent('pauses', 'instances', 'an instance that was paused today', $$select gd_pause(gd_insert('m', p_queue => 'late'))$$);
select t.silent('pauses', 'instances', 'one that has ended since', $$select gd_pause(gd_insert('m', p_queue => 'late'));
    update gendurable.instance set paused_at = paused_at - interval '2 days' where queue = 'late';
    select gd_cancel(i.id) from gendurable.instance i where i.queue = 'late'$$);
select t.silent('pauses', 'quiet', 'one that was paused today', $$select t.old('quiet', '2 days'), gd_pause_queue('quiet')$$);
select t.silent('pauses', 'quiet', 'one without due rows', $$select gd_pause_queue('quiet');
    update gendurable.paused_queue set paused_at = paused_at - interval '2 days'$$);

create function t.lost(p_queue text, p_time interval, p_key text = null) returns void
language plpgsql as $$
begin
    perform gd_insert('m', p_queue => p_queue, p_partition_key => p_key);
    perform t.take(p_queue);
    update gendurable.instance set lease_expires_at = clock_timestamp() - p_time where queue = p_queue and status = 'executing';
end $$;

select t.speaks('stuck', 'warning', '1 claims are lost', $$select t.lost('s', '2 minutes')$$);
select t.speaks('stuck', 'problem', '1 claims are lost', $$select t.lost('s', '2 hours')$$);
select t.silent('stuck', '', 'one that ended just now', $$select t.lost('s', '1 second')$$);
select t.silent('stuck', '', 'one that was renewed beside its row', $$select t.lost('s', '2 hours');
    insert into gendurable.renewal select i.id, i.claim_no, now() + interval '1 minute' from gendurable.instance i where i.queue = 's'$$);
select t.silent('stuck', '', 'the upkeep takes them back', $$select t.lost('s', '2 hours'); select gd_maintain()$$);
select t.speaks('stuck', 'warning', '1 instances are past their deadline',
    $$select gd_insert('m', p_queue => 'e', p_expires_at => now() + interval '1 day');
      update gendurable.instance set expires_at = now() - interval '6 minutes' where queue = 'e'$$);
select t.silent('stuck', '', 'a deadline that passes now',
    $$select gd_insert('m', p_queue => 'e', p_expires_at => now() + interval '1 day');
      update gendurable.instance set expires_at = now() - interval '1 second' where queue = 'e'$$);
select t.speaks('keys', 'warning', 'the slots of k1;', $$select t.lost('s', '2 minutes', 'k1')$$);
select t.speaks('keys', 'problem', 'the slots of k1;', $$select t.lost('s', '2 hours', 'k1'), gd_pause_queue('s')$$);
select t.speaks('keys', 'problem', 'the slots of lim;', $$select gd_set_queue('lim', '{"limit": 1}'); select t.lost('lim', '2 hours')$$);
select t.silent('keys', '', 'a holder that lives', $$select gd_insert('m', p_queue => 's', p_partition_key => 'k1'); select t.take('s')$$);
select t.silent('keys', '', 'one that was renewed beside its row', $$select t.lost('s', '2 hours', 'k1');
    insert into gendurable.renewal select i.id, i.claim_no, now() + interval '1 minute' from gendurable.instance i where i.queue = 's'$$);
select t.speaks('doubts', 'warning', '1001 keys', $$insert into gendurable.doubtful_key select 'k' || g from generate_series(1, 1001) g$$);
select t.speaks('doubts', 'warning', 'more than 2000 keys', $$insert into gendurable.doubtful_key select 'k' || g from generate_series(1, 20000) g$$);
select t.silent('doubts', '', 'some', $$insert into gendurable.doubtful_key select 'k' || g from generate_series(1, 1000) g$$);

-- a row that stands in a line
create function t.lined(p_bucket text) returns void
language plpgsql as $$
begin
    perform gd_insert('m', p_queue => 'l', p_rate_limit => p_bucket, p_weight => 5);
    perform gd_insert('m', p_queue => 'l', p_rate_limit => p_bucket, p_weight => 5);
    perform t.take('l', 2);
end $$;

select t.speaks('limits', 'warning', 'allow nothing: mail:eu$',
    $$select gd_set_rate_limit('mail', 1, '1 hour', 5); select t.lined('mail:eu'); select gd_set_rate_limit('mail', 0, null, 5)$$);
select t.speaks('limits', 'problem', 'weigh more .*: mail:eu$',
    $$select gd_set_rate_limit('mail', 1, '1 hour', 5); select t.lined('mail:eu'); select gd_set_rate_limit('mail', 1, '1 hour', 3)$$);
select t.speaks('limits', 'warning', 'closed .*: mail:eu$', $$select gd_set_rate_limit('mail', 1, '1 hour', 5); select t.lined('mail:eu');
    select gd_close_rate_limit('mail:eu', now() + interval '2 hours')$$);
select t.speaks('limits', 'warning', 'not called up: mail:eu$', $$select gd_set_rate_limit('mail', 1, '1 hour', 5); select t.lined('mail:eu');
    update gendurable.bucket b set lines = array(select row(l.queue, l.ring_at - interval '1 day', l.turn_at, l.weight, l.priority, l.at, l.id, l.bell_id)::gendurable.line
    from unnest(b.lines) l)$$);
select t.silent('limits', '', 'a line that waits for its turn', $$select gd_set_rate_limit('mail', 1, '1 hour', 5); select t.lined('mail:eu')$$);
select t.silent('limits', '', 'closed, and nobody waits', $$select gd_set_rate_limit('mail', 1, '1 hour', 5);
    select gd_close_rate_limit('mail:eu', now() + interval '2 hours')$$);
select t.speaks('limits', 'warning', 'limit is 0: zero$', $$select gd_set_queue('zero', '{"limit": 0}'), gd_insert('m', p_queue => 'zero')$$);
select t.silent('limits', '', 'a limit of 0 without rows', $$select gd_set_queue('zero', '{"limit": 0}')$$);
select t.speaks('schedules', 'problem', 'inserted nothing of daily$', $$select gd_schedule('daily', '@daily', 'm');
    update gendurable.schedule set last_error = 'no such limit'$$);
select t.speaks('schedules', 'warning', 'ticks of daily are overdue', $$select gd_schedule('daily', '@daily', 'm');
    update gendurable.schedule set next_at = now() - interval '6 minutes'$$);
select t.speaks('schedules', 'problem', 'ticks of daily are overdue', $$select gd_schedule('daily', '@daily', 'm');
    update gendurable.schedule set next_at = now() - interval '6 hours'$$);
select t.silent('schedules', '', 'one that waits', $$select gd_schedule('daily', '@daily', 'm')$$);
select t.silent('schedules', '', 'one that is paused', $$select gd_schedule('daily', '@daily', 'm');
    update gendurable.schedule set last_error = 'x'; select gd_pause_schedule('daily')$$);
select t.speaks('clock', 'warning', 'was written at', $$select gd_insert('m', p_queue => 'c');
    update gendurable.instance set inserted_at = now() + interval '1 minute' where queue = 'c'$$);
select t.speaks('clock', 'warning', 'and 1 due rows later than now', $$select gd_insert('m', p_queue => 'c'); select t.take('c');
    update gendurable.instance set updated_at = now() + interval '1 minute' where queue = 'c'$$);
select t.speaks('clock', 'warning', 'was written at',
    $$insert into gendurable.upkeep (name, place) values ('ran', jsonb_build_object('at', now() + interval '1 hour', 'errors', '{}'::jsonb))$$);
select t.silent('clock', '', 'what is written now', $$select gd_insert('m', p_queue => 'c'); select t.take('c'); select gd_maintain()$$);
select t.speaks('clock', 'warning', 'clocks of workers are off by up to \d+ s: late$',
    $$select gd_hello('late', jsonb_build_object('at', clock_timestamp() - interval '20 s')), gd_hello('well', jsonb_build_object('at', clock_timestamp()))$$);
select t.speaks('clock', 'warning', 'clocks of workers are off by up to \d+ s: early$',
    $$select gd_hello('early', jsonb_build_object('at', clock_timestamp() + interval '1 hour'))$$);
select t.silent('clock', '', 'a worker that has gone, and one that does not say its time',
    $$select gd_hello('late', jsonb_build_object('at', clock_timestamp() - interval '20 s')), gd_hello('silent', '{}');
    update gendurable.worker set until = now() where worker = 'late'$$);

-- a check that cannot be made says so, and stops no other

select is(
    t.diagnose('schedules', 'alter table gendurable.schedule rename to gone', 'could not be made') #>> '{0,0}', 'warning',
    'a check that fails says so');
select is(
    t.diagnose('hold', $$alter table gendurable.schedule rename to gone; select gd_hold_all('x')$$, 'held') #>> '{0,0}', 'warning',
    'and the others are made');

-- what is hostile or very much

select is_empty(
    $$select d."check", octet_length(d.detail::text), length(d.message)
      from (select gd_hold_all(repeat('r', 1900)), count(gd_insert('m', p_queue => repeat('q', 1900) || g, p_delay => '0')) from generate_series(1, 100) g) x,
          lateral gd_doctor() d
      where octet_length(d.detail::text) > 100000 or length(d.message) > 2000$$, 'what it answers is bounded');
select is_empty($$select * from gd_doctor() d where d.message ~ 'could not be made'$$, 'every check can be made');

select * from finish();
