\ir helpers/tap.psql
select no_plan();

create function t.old(p_id bigint, p_age interval) returns void
language sql as $$
    update gendurable.instance set finished_at = finished_at - p_age, keep_until = keep_until - p_age where id = p_id
$$;

create function t.is_there(p_id bigint) returns boolean
language sql as $$
    select exists (select from gendurable.instance i where i.id = p_id)
$$;

-- What has an instance's id, and belongs to none that is there.
create view t.orphan as
select 'signal' as what, s.instance_id from gendurable.signal s
union all
select 'signal_seen', s.instance_id from gendurable.signal_seen s
union all
select 'watch', w.instance_id from gendurable.watch w
union all
select 'renewal', r.instance_id from gendurable.renewal r
union all
select 'error', e.instance_id from gendurable.error e
union all
select 'attribute', a.instance_id from gendurable.attribute a
union all
select 'history', h.instance_id from gendurable.history h
union all
select 'journal', j.instance_id from gendurable.journal j;
create view t.lost as select o.* from t.orphan o where not t.is_there(o.instance_id);

-- A list of all tables with the id of an instance: whoever adds one says here who removes it, and when.
select bag_eq(
    $$select c.relname, a.attname from pg_attribute a join pg_class c on c.oid = a.attrelid
      where c.relnamespace = 'gendurable'::regnamespace and c.relkind = 'r' and a.attnum > 0 and a.attname ~ '(^|_)id$'
        and (a.attname <> 'id' or c.relname = 'instance')$$,
    $$values ('instance'::name, 'id'::name), ('signal', 'instance_id'), ('signal_seen', 'instance_id'), ('watch', 'instance_id'),
        ('renewal', 'instance_id'), ('error', 'instance_id'), ('attribute', 'instance_id'), ('history', 'instance_id'),
        ('journal', 'instance_id'),
        -- of an instance that is gone, until what is left of its history and journal is, too
        ('history_left', 'gone_id'),
        -- who did what to it stays, for its own time
        ('audit', 'about_id'),
        -- up to where the rows of a resumed machine were looked at
        ('resumed', 'at_id'),
        -- kept beyond the parent's removal, until its children are free
        ('instance', 'parent_id'), ('ended_parent', 'parent_id'),
        -- the bell is no instance, and the last one is looked for, and may be gone
        ('schedule', 'bell_id'), ('schedule', 'last_id')$$,
    'all tables with an id of an instance are known');
select is_empty(
    $$select c.relname from pg_class c
      join pg_attribute a on a.attrelid = c.oid and a.attname = 'instance_id' and not a.attisdropped
      where c.relnamespace = 'gendurable'::regnamespace and c.relkind = 'r'
        and (select string_agg(p.prosrc, ' ') from pg_proc p where p.oid = any(array[
            'gendurable._remove_instances'::regproc, 'gendurable._remove_past'::regproc]))
            !~ ('delete from gendurable\.' || c.relname || ' ')$$,
    'and an instance is removed with what is in each of them');
select is_empty(
    $$select conrelid::regclass from pg_constraint where confrelid = 'gendurable.instance'::regclass$$, 'not by foreign keys');

-- how long each end is kept

select gd_register('kept', 1, 's', 'kept', '{"retain": {"done": 3600000, "failed": 7200000, "cancelled": 0}}');
select gd_insert('kept') as done \gset
select t.run('kept', '{"kind": "done"}');
select gd_insert('kept') as failed \gset
select gd_signal(:failed, 'x', '1', 'dedup');
select t.run('kept', '{"kind": "stop", "reason": "x"}');
select gd_insert('kept', p_max_attempts => 1) as erring \gset
select t.run('kept', '{"kind": "error", "error": "x"}');
select gd_insert('kept') as cancelled \gset
select gd_cancel(:cancelled);
select gd_insert('kept', p_queue => 'other') as other \gset
select t.run('other', '{"kind": "done"}');
select gd_insert('kept', p_queue => 'v2', p_version => 2) as v_two \gset
select t.run('v2', '{"kind": "done"}');
select results_eq(
    format('select id, keep_until - finished_at from gendurable.instance where id in (%s, %s, %s, %s, %s, %s) order by id',
        :done, :failed, :erring, :cancelled, :other, :v_two),
    format($$values (%s::bigint, interval '1 hour'), (%s, '2 hours'), (%s, '2 hours'), (%s, '0'), (%s, '1 hour'), (%s, null)$$,
        :done, :failed, :erring, :cancelled, :other, :v_two),
    'each end of a machine for its time; a version that is not registered says nothing');
select is(gd_gc(), 1, 'what is over goes, whatever the retention of the call');
select is(t.is_there(:cancelled), false, '(the cancelled one)');
select is(gd_gc('0'), 1, 'and what has a time of its own is kept beyond the retention of the call');
select is(t.is_there(:v_two), false, '(the one of no registered version)');
select t.old(:done, '61 min'), t.old(:failed, '61 min');
select is(gd_gc('1000 years'), 1, 'also where the call keeps everything');
select is(t.is_there(:done), false, '(the one that is done)');
select t.old(:failed, '1 hour');
select isnt_empty(format('select from gendurable.signal where instance_id = %s', :failed), 'what has failed keeps its inbox');
select is(gd_gc(), 1, 'when it is over, too');
select is_empty('select * from t.lost', 'an inbox goes with its instance, and so does all else');
select is(t.is_there(:erring), true, '(the other one that failed is kept)');
select is(gd_retry(:erring), true, 'what runs again');
select is((select i.keep_until from gendurable.instance i where i.id = :erring), null, 'has no time until which it is kept');
select gd_register('kept', 1, 's', 'kept', '{"retain": {"done": null}}');
select t.run('kept', '{"kind": "done"}');
select is((select i.keep_until from gendurable.instance i where i.id = :erring), null, 'a machine may say nothing again');
select is(gd_gc('0'), 1, 'and what ends then goes by the call''s retention');

-- whoever ends it: a timeout that is the last error, a deadline

select gd_register('limit', 1, 's', 'limit', '{"retain": {"failed": 60000}, "timeouts": {"s": 1000}}');
select gd_insert('limit', p_max_attempts => 1) as late \gset
select count(*) from t.take('limit');
update gendurable.instance set timeout_at = clock_timestamp() - interval '1 s', lease_expires_at = clock_timestamp() - interval '1 s' where id = :late;
select gd_reap();
select gd_insert('limit', p_delay => '1 hour', p_expires_at => now() - interval '1 s') as expired \gset
select gd_maintain() is null;
select results_eq(
    format('select status, keep_until - finished_at from gendurable.instance where id in (%s, %s)', :late, :expired),
    $$values ('failed'::gendurable.status, interval '1 min'), ('failed', '1 min')$$, 'what ends by the clock is kept as its machine says');
select gd_insert('m', p_queue => 'fam', p_max_attempts => 1) as p \gset
select t.run('fam', '{"kind": "schedule_childs", "step": "j", "childs": [{"fsm": "m", "queue": "kid"}]}');
select t.run('kid', '{"kind": "done"}');
select count(*) from t.take('fam');
update gendurable.instance set timeout_at = clock_timestamp() - interval '1 s', lease_expires_at = clock_timestamp() - interval '1 s' where id = :p;
select gd_reap();
select is(t.status(:p), 'failed', '(a parent that was not over in time)');
select is(gd_gc('0'), 2, 'goes with its child');
select t.old(:late, '1 min'), t.old(:expired, '1 min');
select is(gd_gc(), 2, '(and they are over)');

-- neither kind holds up the other

select gd_register('half', 1, 's', 'half', '{"retain": {"failed": 0}}');
select count(*) from gd_insert_many((select jsonb_agg('{"fsm": "half"}'::jsonb) from generate_series(1, 20)));
select t.run('half', case when n % 2 = 0 then '{"kind": "done"}' else '{"kind": "stop", "reason": "x"}' end::jsonb) from generate_series(1, 20) n;
select is(gd_gc('0', 10), 10, 'ten of them');
select results_eq(
    $$select status, count(*) from gd_instances where fsm = 'half' and finished_at is not null group by status order by status$$,
    $$values ('done', 5::bigint), ('failed', 5::bigint)$$, 'half of each');
select is(gd_gc('0', 10), 10, 'and the rest');

-- fleeting: a done removes the row

select gd_register('fleet', 1, 's', 'fleet', '{"retain": {"done": 0}}');
select gd_insert('fleet') as id \gset
select gd_signal(:id, 'x', '1', 'dedup');
select is(t.run('fleet', '{"kind": "next", "step": "b"}'), :id::bigint, 'a step is no end');
select is(t.is_there(:id), true, '(it is there)');
select c.claim_no from t.take('fleet') c \gset
select is(t.commit(:id, '{"kind": "done", "result": 1}'), 'ok', 'done');
select is(t.is_there(:id), false, 'and gone in the same commit');
select is_empty('select * from t.lost', 'with its inbox and dedup keys');
select is_empty(format('select * from gd_result(%s)', :id), 'its result is not to be had');
select is(gd_signal(:id, 'x', '1', 'dedup'), 'no_target', 'a late signal, even one that was sent before, has no target');
select is(gd_watch(:id), null, 'and there is nothing to watch');
select is(
    (select c.result from gd_commit('w', jsonb_build_array(jsonb_build_object('id', :id, 'claim_no', :claim_no, 'kind', 'done'))) c),
    'stale', 'its outcome sent again is stale');
select t.raises(format('select gd_retry(%s)', :id), 'GD503', 'nor is there anything to retry');
select gd_insert('fleet'), gd_insert('m', p_queue => 'fleet'), gd_insert('fleet');
select results_eq(
    $$with c as materialized (select jsonb_agg(jsonb_build_object('id', c.id, 'claim_no', c.claim_no, 'kind', 'done') order by c.id) as all
        from t.take('fleet', 5) c)
      select o.ord, o.result from c cross join lateral gd_commit('w', c.all) o$$,
    $$values (0, 'ok'), (1, 'ok'), (2, 'ok')$$, 'in a batch with others');
select results_eq($$select fsm from gd_instances where queue = 'fleet'$$, $$values ('m')$$, 'which are kept');
select gd_insert('fleet') as id \gset
select gd_commit_one('w', (select jsonb_build_object('id', c.id, 'claim_no', c.claim_no, 'kind', 'done') from t.take('fleet') c));
select is(t.is_there(:id), false, 'in a transaction of the step''s own');

-- kept all the same

select gd_insert('fleet') as stopped \gset
select t.run('fleet', '{"kind": "stop", "reason": "x"}');
select gd_insert('fleet') as cancelled \gset
select gd_cancel(:cancelled);
select gd_insert('fleet', p_unique_key => 'mine', p_unique_scope => '{runnable,executing,done}') as scoped \gset
select t.run('fleet', '{"kind": "done"}');
select is(gd_find('mine'), :scoped::bigint, 'who holds a unique key beyond its end holds it');
select gd_insert('fleet', p_unique_key => 'let go');
select t.run('fleet', '{"kind": "done"}');
select is(gd_find('let go'), null, '(a key of the default scope is let go)');
select gd_insert('fleet') as watched \gset
select gd_watch(:watched);
select t.run('fleet', '{"kind": "done", "result": 7}');
select results_eq(format('select status, result from gd_result(%s)', :watched), $$values ('done', '7'::jsonb)$$, 'who is watched can be looked at');
select results_eq(
    format('select id from gendurable.instance where id in (%s, %s, %s, %s) order by id', :stopped, :cancelled, :scoped, :watched),
    format('values (%s::bigint), (%s), (%s), (%s)', :stopped, :cancelled, :scoped, :watched), 'failed, cancelled, holder and watched one');
select is(gd_gc(), 1, 'the collector takes the holder at once');
select is(t.is_there(:watched), true, 'and leaves those who wait a minute to look');
select t.old(:watched, '1 min');
select is(gd_gc(), 1, 'but no more');
select is(t.is_there(:watched), false, '(it is gone)');

-- and families: a child is kept while its parent may look at it, and a fleeting parent leaves its children to their retention

select gd_insert('m', p_queue => 'fam') as p \gset
select t.run('fam', '{"kind": "schedule_childs", "step": "j", "childs": [{"fsm": "fleet"}, {"fsm": "m", "queue": "fleet"}]}');
select t.run('fleet', '{"kind": "done", "result": 1}'), t.run('fleet', '{"kind": "done", "result": 2}');
select is(gd_gc('0'), 3, '(only what is left of above)');
select is((select c.childs #>> '{0,result}' || (c.childs #>> '{1,result}') from t.take('fam') c), '12', 'its parent has both');
select is(gd_gc('0'), 0, 'as long as it lives');
select t.put(:p, '{"kind": "done"}');
select is(gd_gc(), 1, 'when it has ended, the fleeting one goes');
select is(gd_gc('0'), 2, 'and parent and sibling by the retention');
select gd_insert('fleet', p_queue => 'fam') as p \gset
select t.run('fam', '{"kind": "schedule_childs", "step": "j", "childs": [{"fsm": "m", "queue": "kid"}, {"fsm": "m", "queue": "kid"}]}');
select t.run('kid', '{"kind": "done"}'), t.run('kid', '{"kind": "done"}');
select t.run('fam', '{"kind": "done"}');
select is(t.is_there(:p), false, 'a fleeting parent goes');
select is(gd_gc(), 0, 'its children stay');
select is((select count(*) from gd_instances v where v.parent_id = :p), 2::bigint, '(two)');
select is(gd_gc('0'), 2, 'until their retention is over');
select gd_insert('m', p_queue => 'fam') as p \gset
select t.run('fam', '{"kind": "schedule_childs", "step": "j", "childs": [{"fsm": "m", "queue": "kid"}, {"fsm": "m", "queue": "kid"}]}');
select t.run('kid', '{"kind": "done"}');
select gd_cancel(:p);
select is(gd_gc('0'), 2, 'a parent that was cancelled goes with the children that have ended');
select t.run('kid', '{"kind": "done"}');
select is(gd_gc('0'), 1, 'and a child that ends after it goes, too');
select is((select count(*) from gendurable.ended_parent), 0::bigint, 'no note is left');

-- many children at once

select gd_insert('m', p_queue => 'fam') as p \gset
select t.run('fam', (jsonb_build_object('kind', 'schedule_childs', 'step', 'j', 'childs', (select jsonb_agg('{"fsm": "m", "queue": "kid"}'::jsonb)
    from generate_series(1, 300)))));
select gd_cancel(:p, p_cascade => true);
select is(gd_gc('0', 1000), 301, 'a cascade leaves nothing behind');
select is((select count(*) from gendurable.ended_parent), 0::bigint, 'and no note');

-- the baton of a key: a fleeting holder hands it on

select gd_insert('fleet', p_partition_key => 'k') as a \gset
select gd_insert('fleet', p_partition_key => 'k') as b \gset
select gd_insert('m', p_queue => 'fleet', p_partition_key => 'k') as c \gset
select is((select c.id from t.take('fleet', 5) c), :a::bigint, '(the first has the key)');
select t.put(:a, '{"kind": "done"}');
select is((select c.id from t.take('fleet', 5) c), :b::bigint, 'the next has it when the first is gone');
select t.put(:b, '{"kind": "done"}');
select is((select c.id from t.take('fleet', 5) c), :c::bigint, 'and so on');
select t.put(:c, '{"kind": "done"}');
select is(t.repaired(), 0, 'nothing had to be repaired');

-- how long the next one that is to go has been waiting

select gd_gc('0');
select is(gd_maintain('0') -> 'overdue', '0', 'nothing waits');
select gd_insert('m', p_queue => 'late') as id \gset
select t.run('late', '{"kind": "done"}');
select t.old(:id, '90 s');
select is((gendurable._find_overdue('1 min'))::int, 30, 'by the retention of the call');
select gd_insert('half', p_queue => 'late') as id \gset
select t.run('late', '{"kind": "stop", "reason": "x"}');
select t.old(:id, '120 s');
select is((gendurable._find_overdue('1 min'))::int, 120, 'or by what the machine says');
select is((gendurable._find_overdue('170000000 years'))::int, 120, '(a retention beyond all times is never over)');
select is((gd_maintain('1 min') ->> 'removed')::int, 2, 'both are removed');
select is(gd_maintain('1 min') -> 'overdue', '0', 'and nothing waits');

select is_empty('select * from t.lost', 'nothing is left of what was removed');
select * from finish();
