\ir helpers/tap.psql
select no_plan();

-- What a sleeper is told of; the notifications themselves need a second session and are tested with the dispatcher.

select is_empty(
    $$select * from gd_sleep('w', '{nobody}') where next_due is not null$$, 'an unknown queue: nothing will be due');
select is((select count(*) from gd_sleep('w', '{nobody}')), 1::bigint, 'always one row');
select ok(s.horizon is not null, 'with a horizon') from gd_sleep('w', '{nobody}') s;
select ok(
    (select s.horizon from gd_sleep('w', '{nobody}') s) >= pg_snapshot_xmin(pg_current_snapshot()),
    'which no writer that may have looked before is younger than');
select gd_insert('m', p_queue => 'later', p_eligible_at => '2099-01-02 00:00Z'),
    gd_insert('m', p_queue => 'later', p_priority => 3, p_eligible_at => '2099-01-01 00:00Z'),
    gd_insert('m', p_queue => 'other', p_eligible_at => '2098-01-01 00:00Z');
select is((select s.next_due from gd_sleep('w', '{later}') s), '2099-01-01 00:00Z', 'the next due time, of any priority');
select is((select s.next_due from gd_sleep('w', '{later,other}') s), '2098-01-01 00:00Z', 'of all its queues');
select gd_insert('m', p_queue => 'aw') as id \gset
select t.run('aw', '{"kind": "await", "signals": "x", "timeout_ms": 60000}');
select ok(s.next_due between clock_timestamp() and clock_timestamp() + interval '61 s', 'a deadline is a due time')
from gd_sleep('w', '{aw}') s;
select gd_pause_queue('aw');
select is((select s.next_due from gd_sleep('w', '{aw}') s), null, 'a paused queue has none');
select gd_resume_queue('aw');

-- asleep: a shared lock a queue, held by the session and not by the transaction

create function t.asleep() returns bigint
language sql as $$
    select count(*) from pg_locks l where l.locktype = 'advisory' and l.pid = pg_backend_pid() and l.mode = 'ShareLock'
$$;
select gd_wake('w');
select is(t.asleep(), 0::bigint, 'awake');
select count(*) from gd_sleep('w', '{a,b,c,a}');
select is(t.asleep(), 3::bigint, 'asleep on three queues');
select count(*) from gd_sleep('w', '{a,b,c,d}');
select is(t.asleep(), 4::bigint, 'and on one more');
select gd_wake('w');
select is(t.asleep(), 0::bigint, 'one gd_wake ends it all');
select lives_ok($$select gd_wake('w')$$, 'once more does no harm');
begin;
select count(*) from gd_sleep('w', '{a}');
rollback;
select is(t.asleep(), 1::bigint, 'a sleep outlives the transaction');
select gd_wake('w');
select lives_ok($$select * from gd_sleep('w', '{}')$$, 'no queues');
select is(t.asleep(), 0::bigint, '(no locks)');

select t.raises($$select * from gd_sleep('', '{a}')$$, 'GD501', 'an empty worker');
select t.raises($$select * from gd_sleep(null, '{a}')$$, 'GD501', 'no worker');
select t.raises($$select * from gd_sleep('w', null)$$, 'GD501', 'null queues');
select t.raises($$select * from gd_sleep('w', array['a', null])$$, 'GD501', 'a null queue');
select t.raises($$select gd_wake('')$$, 'GD501', 'wake: an empty worker');

select * from finish();
