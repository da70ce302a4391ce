\ir helpers/tap.psql
select no_plan();

-- Plan guards: no hot call reads a table from end to end, also with plans that were cached while the tables were empty,
-- and what it touches is measured by its batch: with four times the rows it is the same.

alter table gendurable.instance set (autovacuum_enabled = false);
alter table gendurable.signal set (autovacuum_enabled = false);

create function t.seq_scans() returns bigint
language sql as $$
    select sum(pg_stat_get_xact_numscans(c.oid))::bigint
    from pg_class c
    where c.relnamespace = 'gendurable'::regnamespace and c.relname in ('instance', 'signal', 'signal_seen', 'journal')
$$;

-- What a call touches: EXPLAIN counts the buffers of all statements inside of the functions, too.
create function t.cost(p_sql text, out seq bigint, out buffers bigint)
language plpgsql as $$
declare
    v_before bigint := t.seq_scans();
    v_plan json;
begin
    perform set_config('gendurable.floor', '', false);
    execute 'explain (analyze, buffers, timing off, format json) ' || p_sql into v_plan;
    seq := t.seq_scans() - v_before;
    buffers := (v_plan #>> '{0,Plan,Shared Hit Blocks}')::bigint + (v_plan #>> '{0,Plan,Shared Read Blocks}')::bigint;
end $$;

create table t.measured (n int, name text, seq bigint, buffers bigint);

-- Claims rows of a queue and gives their outcomes, for a commit.
create function t.outcomes(p_queue text, p_limit int, p_outcome jsonb) returns jsonb
language sql as $$
    select coalesce(jsonb_agg(jsonb_build_object('id', c.id, 'claim_no', c.claim_no) || p_outcome), '[]') from t.take(p_queue, p_limit) c
$$;
create function t.claims(p_queue text, p_limit int) returns jsonb
language sql as $$
    select coalesce(jsonb_agg(jsonb_build_array(c.id, c.claim_no)), '[]') from t.take(p_queue, p_limit) c
$$;

create procedure t.load(p_rows int)
language plpgsql as $$
begin
    insert into gendurable.instance (fsm, step, queue, status, eligible_at, lane_at, finished_at, partition_key, awaits)
    select 'm', 's', 'due', 'runnable'::gendurable.status, now() - interval '1 hour', null::timestamptz, null::timestamptz, null, null::text[]
    from generate_series(1, p_rows)
    union all
    select 'm', 's', 'due', 'done', null, null, now() - n * interval '1 s', null, null from generate_series(1, p_rows) n
    union all
    select 'm', 's', 'due', 'runnable', now() + interval '1 day', null, null, null, null from generate_series(1, p_rows)
    union all
    select 'm', 's', 'due', 'awaiting_signal', null, null, null, null, '{go}' from generate_series(1, p_rows / 4)
    union all
    select 'm', 's', 'lim', 'runnable', now() - interval '1 hour', null, null, null, null from generate_series(1, p_rows)
    union all
    select 'm', 's', 'cold', 'runnable', now(), now(), null, 'cold:' || n % 50, null from generate_series(1, p_rows) n
    union all
    select 'm', 's', 'hot', 'runnable', null, now() - interval '1 hour', null, 'hot', null from generate_series(1, p_rows);
    -- the head of the hot key is lifted
    update gendurable.instance set eligible_at = now(), woken = 0
    where id = (select min(i.id) from gendurable.instance i where i.partition_key = 'hot' and i.status = 'runnable')
        and not exists (select from gendurable.instance i where i.partition_key = 'hot' and i.eligible_at is not null);
    insert into gendurable.signal (instance_id, name, payload)
    select i.id, 'noise', '1' from gendurable.instance i where i.status = 'awaiting_signal';
    insert into gendurable.journal (instance_id, seq, entry)
    select i.id, n, '{"k": "step"}' from gendurable.instance i cross join generate_series(1, 5) n where i.status = 'awaiting_signal'
    on conflict do nothing;
    insert into gendurable.signal_seen (instance_id, dedup_key)
    select i.id, 'k' from gendurable.instance i where i.status = 'awaiting_signal'
    on conflict do nothing;
    update gendurable.instance set unique_key = 'u' || id, unique_held = 'u' || id
    where status = 'awaiting_signal' and unique_key is null;
end $$;

create procedure t.measure(p_n int, p_batch int = 100)
language plpgsql as $$
declare
    v_name text;
    v_sql text;
    v_awaiting bigint;
    v_parent bigint;
    v_cancelled bigint;
    v_holders jsonb;
    v_some bigint[];
    v_cost record;
begin
    for v_name, v_sql in
        select * from (values
            ('claim', $q$select * from gd_claim('w', 'due', %5$s)$q$),
            ('claim_many', $q$select * from gd_claim_many('w', '{"due": 20, "hot": 5}')$q$),
            ('claim of a queue with a limit', $q$select * from gd_claim('w', 'lim', 5)$q$),
            ('commit in a queue with a limit', $q$select * from gd_commit('w', t.outcomes('lim', 5, '{"kind": "next", "step": "b"}'))$q$),
            ('claim of the next of a hot key', $q$select * from gd_claim('w', 'hot', 5)$q$),
            ('commit next', $q$select * from gd_commit('w', t.outcomes('due', %5$s, '{"kind": "next", "step": "b"}'))$q$),
            ('commit done', $q$select * from gd_commit('w', t.outcomes('due', %5$s, '{"kind": "done"}'))$q$),
            ('commit with a journal', $q$select * from gd_commit('w', t.outcomes('due', %5$s,
                '{"kind": "done", "journal": {"at": 0, "add": [{"k": "start"}, {"k": "end"}], "forget": true}}'))$q$),
            ('journals', $q$select * from gd_journals(%6$L)$q$),
            ('commit await', $q$select * from gd_commit('w', t.outcomes('due', %5$s, '{"kind": "await", "signals": "go"}'))$q$),
            ('commit children', $q$select * from gd_commit('w', t.outcomes('due', 1, '{"kind": "schedule_childs", "step": "j",
                "childs": [{"fsm": "c", "queue": "c"}, {"fsm": "c", "queue": "c"}, {"fsm": "c", "queue": "c"}]}'))$q$),
            ('claim of children', $q$select * from gd_claim('w', 'c', 1)$q$),
            ('commit of the last children', $q$select * from gd_commit('w', t.outcomes('c', 10, '{"kind": "done"}'))$q$),
            ('commit of a holder', $q$select * from gd_commit('w', %3$L)$q$),
            ('commit_one', $q$select gd_commit_one('w', t.outcomes('due', 1, '{"kind": "next", "step": "b"}') -> 0)$q$),
            ('heartbeat', $q$select * from gd_heartbeat('w', t.claims('due', %5$s))$q$),
            ('release', $q$select gd_release('w', t.claims('due', %5$s))$q$),
            ('signal by id', $q$select gd_signal(%s::bigint, 'go')$q$),
            ('signal by key', $q$select gd_signal('u%s', 'more', '1', 'k2')$q$),
            ('find', $q$select gd_find('u%s')$q$),
            ('result', $q$select * from gd_result(%s)$q$),
            ('watch', $q$select gd_watch(%s)$q$),
            ('insert', $q$select gd_insert('m', p_queue => 'new', p_unique_key => 'n%s')$q$),
            ('insert of a duplicate', $q$select gd_insert('m', p_queue => 'new', p_unique_key => 'u%s')$q$),
            ('insert into a hot key', $q$select gd_insert('m', p_queue => 'hot', p_partition_key => 'hot')$q$),
            ('insert_many', $q$select * from gd_insert_many('[{"fsm": "m", "queue": "new", "unique_key": "a%s"}, {"fsm": "m", "queue": "new"}]')$q$),
            ('childs', $q$select * from gd_childs(%2$s)$q$),
            ('reschedule', $q$select gd_reschedule(%s, now() + interval '1 hour')$q$),
            ('cancel', $q$select gd_cancel(%s)$q$),
            ('retry', $q$select gd_retry(%4$s)$q$),
            ('match', $q$select * from gd_match('{"fsm": "nobody"}', 0, 100, 1000)$q$),
            ('reschedule_many', $q$select * from gd_reschedule_many(%6$L, now() + interval '1 hour')$q$),
            ('cancel_many', $q$select * from gd_cancel_many(%6$L)$q$),
            ('retry_many', $q$select * from gd_retry_many(%6$L)$q$),
            ('gc', $q$select gd_gc('0', %5$s)$q$),
            ('sleep', $q$select * from gd_sleep('w', '{due,hot}')$q$)
        ) x (name, sql)
    loop
        select max(i.id) filter (where i.status = 'awaiting_signal'), max(i.parent_id), max(i.id) filter (where i.status = 'cancelled'),
            coalesce(jsonb_agg(jsonb_build_object('id', i.id, 'claim_no', i.claim_no, 'kind', 'done')) filter (where i.slot_no is not null), '[]')
        into v_awaiting, v_parent, v_cancelled, v_holders
        from gendurable.instance i;
        -- 100 that wait in a key and await signals; the same ones are retried, since the last of them were cancelled
        v_some := array(
            (select i.id from gendurable.instance i where i.queue = 'cold' and i.status = 'runnable' order by i.id desc limit 50)
            union all
            (select i.id from gendurable.instance i where i.status = 'awaiting_signal' order by i.id desc limit 50));
        if v_name = 'retry_many' then
            v_some := array(select i.id from gendurable.instance i where i.status = 'cancelled' order by i.id desc limit 100);
        end if;
        select c.seq, c.buffers into v_cost
        from t.cost(case when v_sql like '%\%%' then format(v_sql, v_awaiting, v_parent, v_holders, v_cancelled, p_batch, v_some) else v_sql end) c;
        insert into t.measured values (p_n, v_name, v_cost.seq, v_cost.buffers);
        perform gd_wake('w');
        commit;
    end loop;
end $$;

-- The queues that the rows of t.load are in are known before.
select gd_insert('m', p_queue => q) from unnest('{due,hot}'::text[]) q;
select gd_set_queue('lim', '{"limit": 1000}');
update gendurable.queue_setting set changed_in = null;    -- every claim knows of it
set enable_seqscan = on;
-- cached while the tables are empty: a plan is kept after its fifth use
call t.load(300);
do $$ begin for n in 1 .. 7 loop call t.measure(0, 3); end loop; end $$;
delete from t.measured;
delete from gendurable.instance;
call t.load(6000);
call t.measure(1);
call t.load(18000);
call t.measure(2);
analyze gendurable.instance, gendurable.signal, gendurable.signal_seen;
call t.measure(3);

select is(
    (select string_agg(m.n || ': ' || m.seq, ' ') from t.measured m where m.name = x.name and m.seq > 0), null,
    x.name || ': no sequential scan')
from (select distinct m.name from t.measured m) x
order by x.name;
-- twice the buffers allow for a deeper index, half-full pages and what a row's neighbours do
select ok(
    b.buffers <= 2 * a.buffers + 200 and c.buffers <= 2 * a.buffers + 200,
    format('%s: with four times the rows it touches as much (%s, %s, %s buffers)', a.name, a.buffers, b.buffers, c.buffers))
from t.measured a
join t.measured b on b.name = a.name and b.n = 2
join t.measured c on c.name = a.name and c.n = 3
where a.n = 1
order by a.name;
select cmp_ok(
    (select max(m.buffers) from t.measured m where m.name = 'claim'), '<=', 4000::bigint, 'a claim of 100: not more than 40 buffers a row');
select cmp_ok(
    (select max(m.buffers) from t.measured m where m.name = 'claim of the next of a hot key'), '<=', 1000::bigint,
    'a claim from a hot key of 24,000 rows: not more than 1,000 buffers');

-- Queues of steps: plans from when hardly a step was defined, with 20,000 definitions of others.

alter table gendurable.step set (autovacuum_enabled = false);
create table t.routed (n int, name text, seq bigint, buffers bigint);
create procedure t.measure_routes(p_n int)
language plpgsql as $$
declare
    v_name text;
    v_sql text;
    v_before bigint;
    v_waits bigint;
    v_cost record;
begin
    for v_name, v_sql in
        select * from (values
            ('insert', $q$select gd_insert('m', p_step => 'near', p_queue => 'own')$q$),
            ('insert_many', $q$select count(*) from gd_insert_many(
                (select jsonb_agg(jsonb_build_object('fsm', 'm', 'step', 'near', 'queue', 'own')) from generate_series(1, 50)))$q$),
            ('commit', $q$select * from gd_commit('w', t.outcomes('own', 50, '{"kind": "next", "step": "far"}'))$q$),
            ('commit, kept', $q$select * from gd_commit('w', t.outcomes('there', 20, '{"kind": "next", "step": "far", "keep": true}'))$q$),
            ('release', $q$select gd_release('w', null)$q$),
            ('commit back', $q$select * from gd_commit('w', t.outcomes('there', 49, '{"kind": "next", "step": "near"}'))$q$),
            ('commit_one', $q$select gd_commit_one('w', t.outcomes('own', 1, '{"kind": "next", "step": "near"}') -> 0)$q$),
            ('commit_one there', $q$select gd_commit_one('w', t.outcomes('own', 1, '{"kind": "next", "step": "far"}') -> 0)$q$),
            ('commit_one back', $q$select gd_commit_one('w', t.outcomes('there', 1, '{"kind": "next", "step": "near"}') -> 0)$q$),
            ('signal', $q$select gd_signal(%s::bigint, 'go')$q$)
        ) x (name, sql)
    loop
        -- without any queue nothing comes there
        continue when p_n = 3 and (v_sql like '%''there''%' or v_name = 'signal');
        if v_name = 'signal' then
            perform t.put(c.id, '{"kind": "await", "signals": "go", "step": "far"}') from t.take('own') c;
            select max(i.id) into v_waits from gendurable.instance i where i.queue = 'there' and i.status = 'awaiting_signal';
        end if;
        v_before := pg_stat_get_xact_numscans('gendurable.step'::regclass);
        select c.buffers into v_cost from t.cost(format(v_sql, v_waits)) c;
        insert into t.routed
        values (p_n, v_name, pg_stat_get_xact_numscans('gendurable.step'::regclass) - v_before, v_cost.buffers);
        commit;
    end loop;
    perform gd_cancel(i.id) from gd_instances i where i.fsm = 'm' and i.queue in ('own', 'there') and i.finished_at is null;
    commit;
end $$;
select gd_define_step('m', 'far', p_options => '{"queue": "there"}');
do $$ begin for n in 1 .. 7 loop call t.measure_routes(0); end loop; end $$;
insert into gendurable.step (fsm, step, owner, queue)
select 'f' || n % 200, 's' || n, 'nobody', case when n % 2 = 0 then 'elsewhere' end from generate_series(1, 20000) n;
call t.measure_routes(1);
analyze gendurable.step;
call t.measure_routes(2);
delete from gendurable.step where queue is not null;
vacuum gendurable.step;
call t.measure_routes(3);
select is(
    (select string_agg(m.n || ': ' || m.seq, ' ' order by m.n) from t.routed m where m.name = x.name and m.seq > 0 and m.n > 0), null,
    x.name || ': no sequential scan of the definitions')
from (select distinct m.name from t.routed m) x
order by x.name;
select ok(
    max(b.buffers) filter (where b.n > 0) <= 2 * min(b.buffers) filter (where b.n = 0) + 100,
    format('%s: it touches as much (%s; %s buffers)', b.name, min(b.buffers) filter (where b.n = 0),
        string_agg(b.buffers::text, ', ' order by b.n) filter (where b.n > 0)))
from t.routed b
group by b.name
order by b.name;
delete from gendurable.step;

-- A claim of rows without keys is a HOT update and writes no index entry.

select count(*) from gd_insert_many((
    select jsonb_agg(jsonb_build_object('fsm', 'm', 'queue', 'hotupd', 'state', jsonb_build_object('s', repeat('x', 100))))
    from generate_series(1, 10000)));
vacuum analyze gendurable.instance;
select pg_stat_force_next_flush();
create table t.before as
select pg_relation_size('gendurable.instance_due') as due, s.n_tup_upd, s.n_tup_hot_upd
from pg_stat_user_tables s where s.relid = 'gendurable.instance'::regclass;
create procedure t.claim_all()
language plpgsql as $$
begin
    for n in 1 .. 20 loop
        perform count(*) from gd_claim('w', 'hotupd', 500);
        commit;
    end loop;
end $$;
call t.claim_all();
select pg_stat_force_next_flush();
select is((select count(*) from gd_instances v where v.queue = 'hotupd' and v.status = 'executing'), 10000::bigint, '10,000 claims');
select is(
    pg_relation_size('gendurable.instance_due'), (select b.due from t.before b), 'the index of due rows has not grown');
select cmp_ok(
    (s.n_tup_hot_upd - b.n_tup_hot_upd)::numeric / (s.n_tup_upd - b.n_tup_upd), '>=', 0.9,
    format('%s of %s updates were HOT', s.n_tup_hot_upd - b.n_tup_hot_upd, s.n_tup_upd - b.n_tup_upd))
from pg_stat_user_tables s, t.before b
where s.relid = 'gendurable.instance'::regclass;

select * from finish();
