\ir helpers/tap.psql
select no_plan();

create function t.old(p_id bigint, p_age interval) returns void
language sql as $$
    update gendurable.instance set finished_at = clock_timestamp() - p_age where id = p_id
$$;

-- retention

select count(*) from gd_insert_many((select jsonb_agg('{"fsm": "m", "queue": "gc"}'::jsonb) from generate_series(1, 6)));
select gd_insert('m', p_queue => 'live') as live \gset
select t.run('gc', '{"kind": "done"}'), t.run('gc', '{"kind": "stop", "reason": "x"}'), t.run('gc', '{"kind": "done"}');
select gd_cancel(max(v.id)) from gd_instances v where v.queue = 'gc';
select is(gd_gc(), 0, 'nothing is older than seven days');
select t.old(v.id, '8 days') from gd_instances v where v.queue = 'gc' and v.finished_at is not null;
select is(gd_gc('7 days', 1), 1, 'no more than the limit');
select is(gd_gc('9 days'), 0, 'no younger than the retention');
select is(gd_gc(), 3, 'all that ended long ago, however it ended');
select is((select count(*) from gd_instances v where v.queue = 'gc'), 2::bigint, 'what has not ended stays');
select t.run('gc', '{"kind": "done"}');
select is(gd_gc('0', 0), 0, 'a limit of 0');
select is(gd_gc('0'), 1, 'a retention of 0 keeps nothing');
select is_empty(format('select * from gd_result(%s)', :live) || ' where status <> ''runnable''', 'and never what lives');
select t.raises($$select gd_gc('-1 day')$$, 'GD501', 'gc: a negative retention');
select t.raises($$select gd_gc('1 day', -1)$$, 'GD501', 'gc: a negative limit');
select t.raises($$select gd_maintain('-1 day')$$, 'GD501', 'maintain: a negative retention');

-- with its dedup keys, and never a child of a parent that lives

select gd_insert('m', p_queue => 'dk') as id \gset
select gd_signal(:id, 's', '1', 'evt') as _ \gset
select t.run('dk', '{"kind": "done"}');
select is((select count(*) from gendurable.signal_seen), 1::bigint, 'a dedup key is remembered while its instance is there');
select gd_gc('0');
select is((select count(*) from gendurable.signal_seen), 0::bigint, 'and goes with it');
select gd_insert('m', p_queue => 'par') as p \gset
select t.run('par', '{"kind": "schedule_childs", "step": "j", "childs": [{"fsm": "c", "queue": "par_c"}]}');
select t.run('par_c', '{"kind": "done", "result": 1}');
select is(gd_gc('0'), 0, 'a child stays as long as its parent lives');
select is((select c.childs #>> '{0,result}' from t.take('par') c), '1', 'which reads it');
select t.put(:p, '{"kind": "done"}');
select is(gd_gc('0'), 2, 'and goes with it');

-- a retention beyond all timestamps

select is(gd_gc(x.retention), 0, 'keeps everything: ' || x.retention)
from (values (interval '1000000 years'), ('170000000 years'), ('999999999 days 999999 hours')) x (retention);
select is(gd_maintain('1000000 years') -> 'errors', '{}', 'and is no error');

-- one call for all

select gd_insert('m', p_queue => 'mt'), gd_insert('m', p_queue => 'mt');
select t.run('mt', '{"kind": "done"}');
select id from t.take('mt') \gset
select t.expire(:id);
select is(
    gd_maintain('0') - '{ran,overdue}'::text[],
    '{"reaped": 1, "expired": 0, "removed": 1, "repaired": 0, "shifted": 0, "more": false, "errors": {}}', 'maintain: reaped, removed, and nothing to repair');
select is(t.status(:id), 'runnable', '(reaped)');
select is(
    gd_maintain(),
    '{"ran": true, "overdue": 0, "reaped": 0, "expired": 0, "removed": 0, "repaired": 0, "shifted": 0, "more": false, "errors": {}}',
    'once more: nothing to do');

-- deadlines

select gd_insert('m', p_queue => 'dl', p_expires_at => now() + interval '1 hour') as waits \gset
select gd_insert('m', p_queue => 'dl', p_delay => '1 hour', p_expires_at => now() + interval '1 minute') as later \gset
select gd_insert('m', p_queue => 'dl', p_delay => '1 hour', p_expires_at => now() - interval '1 minute') as over \gset
select is(
    gd_maintain() - '{ran,removed,overdue}'::text[],
    '{"reaped": 0, "expired": 1, "repaired": 0, "shifted": 0, "more": false, "errors": {}}', 'maintain ends what is past its deadline');
select results_eq(
    format('select id, status from gd_instances where id in (%s, %s, %s) order by id', :waits, :later, :over),
    format($$values (%s::bigint, 'runnable'), (%s, 'runnable'), (%s, 'failed')$$, :waits, :later, :over), 'and nothing else');
select count(*) from gd_insert_many((
    select jsonb_agg('{"fsm": "m", "queue": "dl2", "delay_ms": 3600000, "expires_ms": 0}'::jsonb) from generate_series(1, 2001)));
select is((m.a ->> 'expired')::int, 2000, 'so many a call') from (select gd_maintain() as a) m;
select is((m.a - '{ran,removed,overdue}'::text[]) ->> 'expired', '1', 'and the rest in the next one') from (select gd_maintain() as a) m;

-- repair: what no path does, done by hand

select gd_insert('m', p_queue => 'rep', p_partition_key => 'rep') as a \gset
select gd_insert('m', p_queue => 'rep', p_partition_key => 'rep') as b \gset
select gd_insert('m', p_queue => 'rep', p_partition_key => 'rep2', p_delay => '1 hour');
update gendurable.instance set eligible_at = null where id in (:a, :b);
select is_empty($$select * from t.take('rep', 5)$$, '(a dropped baton)');
select is(t.repaired(), 1, 'is found and counted');
select is((select c.id from t.take('rep', 5) c), :'a', 'and handed to the head');
select is(t.repaired(), 0, 'once');

set default_transaction_isolation = 'repeatable read';
select t.raises('select gd_gc()', 'GD504', 'gc: under REPEATABLE READ');
select t.raises('select gd_maintain()', 'GD504', 'maintain: under REPEATABLE READ');
set default_transaction_isolation = 'read committed';

select * from finish();
