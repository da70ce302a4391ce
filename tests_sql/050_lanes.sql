\ir helpers/tap.psql
select no_plan();

-- What holds of every key at any time: no more holders than its limit.
create function t.executing(p_key text) returns bigint
language sql as $$
    select count(*) from gd_instances v where v.partition_key = p_key and v.status = 'executing'
$$;

create function t.put_in(p_queue text, p_key text, p_step text, p_priority int = 0, p_delay interval = null) returns bigint
language sql as $$
    select gd_insert('m', p_queue => p_queue, p_partition_key => p_key, p_step => p_step, p_priority => p_priority, p_delay => p_delay)
$$;

-- The steps of the next claim.
create function t.steps(p_queue text, p_limit int = 10) returns text
language sql as $$
    select string_agg(c.step, ' ') from t.take(p_queue, p_limit) c
$$;

-- Ends what executes in a queue.
create function t.done(p_queue text) returns bigint
language sql as $$
    select count(t.put(v.id, '{"kind": "done"}')) from gd_instances v where v.queue = p_queue and v.status = 'executing'
$$;

-- one at a time, in order

select t.put_in('one', 'k', s) from unnest('{a,b,c}'::text[]) s;
select is(t.steps('one'), 'a', 'one of a key executes');
select is(t.steps('one'), null, 'whatever the number of claims');
select is(t.done('one'), 1::bigint, '(done)');
select is(t.steps('one'), 'b', 'in the order in which they became due');
select is(t.done('one'), 1::bigint, '(done)');
select is(t.steps('one'), 'c', 'to the last');
select is(t.done('one'), 1::bigint, '(done)');
select is(t.repaired(), 0, 'no baton was dropped');

select t.put_in('prio', 'k2', 'late', 5), t.put_in('prio', 'k2', 'early', -5), t.put_in('prio', 'k2', 'mid');
select is(t.steps('prio'), 'early', 'priority comes first in a key');
select t.put_in('prio', 'k2', 'earlier', -9);
select t.done('prio');
select is(t.steps('prio'), 'earlier', 'also that of a row that came later');
select t.done('prio');
select is(t.steps('prio'), 'mid', 'then by time');
select t.done('prio');
select is(t.steps('prio'), 'late', 'to the last');
select t.done('prio');
select is(t.steps('prio'), null, '(all)');

select t.put_in('two', 'ka', 'a1'), t.put_in('two', 'ka', 'a2'), t.put_in('two', 'kb', 'b1'), t.put_in('two', 'kb', 'b2');
select gd_insert('m', p_queue => 'two', p_step => 'free');
select is(t.steps('two'), 'a1 b1 free', 'keys do not wait for each other, nor rows without one');
select t.done('two');
select is(t.steps('two'), 'a2 b2', '(the next of each)');
select t.done('two');

-- free rows behind one hot key are found in one claim

select count(t.put_in('hot', 'hot', 'h' || n)) from generate_series(1, 300) n;
select count(gd_insert('m', p_queue => 'hot', p_step => 'free')) from generate_series(1, 5);
select is((select count(*) from t.take('hot', 6)), 6::bigint, 'a claim looks behind a busy key until it is filled');
select is((select v.parked from gd_queues v where v.queue = 'hot'), 299::bigint, 'and parks what it passes');
select is((select v.due from gd_queues v where v.queue = 'hot'), 0::bigint, 'so that nothing of it is due');
select t.done('hot');
select is(t.steps('hot'), 'h2', 'the end of a holder lifts the next alone');
select is((select row(v.due, v.parked)::text from gd_queues v where v.queue = 'hot'), '(0,298)', '(the others stay parked)');
create procedure t.drain(p_queue text, p_times int)
language plpgsql as $$
begin
    for n in 1 .. p_times loop
        perform t.done(p_queue);
        insert into drained (step) select c.step from gd_claim('w', p_queue, 10) c;
    end loop;
end $$;
create temp table drained (n int generated always as identity, step text);
call t.drain('hot', 298);
select is(
    (select array_agg(d.step order by d.n) from drained d), (select array_agg('h' || n order by n) from generate_series(3, 300) n),
    'to the last, in order, with the floor of the session');
select t.done('hot');
select is(t.repaired(), 0, 'no baton was dropped');

-- more than one: limits, the longest prefix

select gd_set_key_limit('acct', 2);
select count(t.put_in('lim', 'acct:1', 'x' || n)) from generate_series(1, 5) n;
select is(t.steps('lim'), 'x1 x2', 'a limit of two: two execute');
select is(t.executing('acct:1'), 2::bigint, '(two)');
select gd_set_key_limit('acct', 3);
select is(t.steps('lim'), 'x3', 'a raised limit works at once');
select gd_set_key_limit('acct', 1);
select t.put((select v.id from gd_instances v where v.step = 'x1'), '{"kind": "done"}');
select is(t.steps('lim'), null, 'a lowered one lets nobody in until there is room');
select t.done('lim');
select is(t.steps('lim'), 'x4', 'and then one');
select gd_set_key_limit('acct', 2);
select gd_set_key_limit('acct:1', 4);
select t.put_in('lim', 'acct:1', 'x6'), t.put_in('lim', 'acct:1', 'x7'), t.put_in('lim', 'acct:1', 'x8'), t.put_in('lim', 'acct:1', 'x9');
select is(t.steps('lim'), 'x5 x6 x7', 'the longest prefix decides');
select gd_set_key_limit('acct:1', null);
select t.done('lim');
select is(t.steps('lim'), 'x8 x9', 'without it the shorter one');
select t.done('lim');
select gd_set_key_limit('acct', null);
select t.put_in('lim', 'acct:1', 'y1'), t.put_in('lim', 'acct:1', 'y2');
select is(t.steps('lim'), 'y1', 'and without any, one');
select t.done('lim');
select t.steps('lim'), t.done('lim');
select gd_set_key_limit('acct', 2);
select t.put_in('lim2', 'account', 'z1'), t.put_in('lim2', 'account', 'z2');
select is(t.steps('lim2'), 'z1', 'a prefix ends at a colon: "account" is not "acct:…"');
select t.put_in('lim2', 'acct', 'w1'), t.put_in('lim2', 'acct', 'w2'), t.put_in('lim2', 'acct', 'w3');
select is(t.steps('lim2'), 'w1 w2', 'and "acct" itself is');
select t.done('lim2');
select is(t.steps('lim2'), 'z2 w3', '(the rest)');
select t.done('lim2');
select gd_set_key_limit('a_b%', 3);
select t.put_in('lim3', 'axb1:1', 'v1'), t.put_in('lim3', 'axb1:1', 'v2');
select is(t.steps('lim3'), 'v1', 'a prefix is no pattern');
select t.done('lim3');
select t.steps('lim3'), t.done('lim3');
select t.raises($$select gd_set_key_limit('', 1)$$, 'GD501', 'an empty prefix');
select t.raises($$select gd_set_key_limit(null, 1)$$, 'GD501', 'no prefix');
select t.raises($$select gd_set_key_limit('x', 0)$$, 'GD501', 'a limit of 0');
select is(t.repaired(), 0, 'no baton was dropped');

-- a holder that waits holds no slot

select t.put_in('wait', 'kw', 'a') as a \gset
select t.put_in('wait', 'kw', 'b') as b \gset
select is(t.steps('wait'), 'a', '(a executes)');
select t.put(:a, '{"kind": "next", "step": "a2", "delay_ms": 60000}');
select is(t.steps('wait'), 'b', 'a delay gives the slot away');
select t.due(:a);
select is(t.steps('wait'), null, 'and waits for it when it is over');
select t.put(:b, '{"kind": "error", "error": "x", "delay_ms": 60000}');
select is(t.steps('wait'), 'a2', 'so does a back-off');
select t.put(:a, '{"kind": "await", "signals": "go"}');
select t.due(:b);
select is(t.steps('wait'), 'b', 'and an await');
select gd_signal(:a, 'go') as _ \gset
select is(t.steps('wait'), null, '(woken, waits)');
select t.put(:b, '{"kind": "next", "step": "b2"}');
select is(t.steps('wait'), 'a2', 'next goes to the end of its key');
select t.done('wait');
select is(t.steps('wait'), 'b2', '(b again)');
select t.done('wait');
select is(t.repaired(), 0, 'no baton was dropped');

-- the key changes hands

select t.put_in('re', 'r1', 'a') as a \gset
select t.put_in('re', 'r1', 'b') as b \gset
select t.put_in('re', 'r2', 'c') as c \gset
select t.put_in('re', 'r2', 'd') as d \gset
select is(t.steps('re'), 'a c', '(a and c execute)');
select t.put(:a, '{"kind": "next", "step": "a2", "partition_key": "r2"}');
select is(t.steps('re'), 'b', 'switched: the old key goes on without it');
select is((select v.partition_key from gd_instances v where v.id = :a), 'r2', 'it stands in the new one');
select t.put(:c, '{"kind": "done"}');
select is(t.steps('re'), 'd', 'behind those that came before');
select t.put(:d, '{"kind": "done"}');
select is(t.steps('re'), 'a2', 'and has its turn');
select t.put_in('re', 'r2', 'e') as e \gset
select is(t.steps('re'), null, '(e waits)');
select t.put(:a, '{"kind": "next", "step": "a3", "partition_key": null}');
select is((select array_agg(c.step order by c.step) from t.take('re', 10) c), '{a3,e}', 'null releases the key: both run');
select is((select v.partition_key from gd_instances v where v.id = :a), null, '(it has none)');
select t.put(:a, '{"kind": "next", "step": "a4"}');
select is((select row(c.step, c.partition_key)::text from t.take('re') c), '(a4,)', 'an outcome that does not name it leaves it so');
select t.put(:a, '{"kind": "next", "step": "a5", "partition_key": "r2"}');
select is(t.steps('re'), null, 'taken again, it waits for the holder');
select t.done('re');
select is(t.steps('re'), 'a5', 'and runs');
select t.done('re');
select is(t.done('re'), 0::bigint, '(all have ended)');
select is(t.repaired(), 0, 'no baton was dropped');

-- Whoever takes a waiting row, a holder or its queue away passes the baton on. After each: one of the key can run.

select t.put_in('ca', 'kc', 'a') as a \gset
select t.put_in('ca', 'kc', 'b') as b \gset
select t.put_in('ca', 'kc', 'c') as c \gset
select is(t.steps('ca'), 'a', '(a executes)');
select is(t.steps('ca'), null, '(the others are parked)');
select gd_cancel(:a);
select is(t.repaired(), 0, 'cancel of a holder passes the baton');
select is(t.steps('ca'), 'b', 'the next runs');
select t.put(:b, '{"kind": "done"}');
select gd_cancel(:c);
select t.put_in('ca', 'kc', 'd');
select is(t.repaired(), 0, 'cancel of the lifted row passes it too');
select is(t.steps('ca'), 'd', 'the next runs');
select t.put_in('ca', 'kc', 'e') as e \gset
select t.put_in('ca', 'kc', 'f') as f \gset
select is(t.steps('ca'), null, '(parked)');
select t.done('ca');
select gd_cancel(:e);
select is(t.repaired(), 0, 'cancel of the head');
select is(t.steps('ca'), 'f', 'the one behind it runs');
select t.done('ca');

select t.put_in('sc', 'ks', 'a') as a \gset
select t.put_in('sc', 'ks', 'b') as b \gset
select t.put_in('sc', 'ks', 'c') as c \gset
select is(t.steps('sc'), 'a', '(a executes)');
select is(t.steps('sc'), null, '(parked)');
select t.done('sc');
select is(gd_reschedule(:b, now() + interval '1 hour'), true, 'the lifted head is moved to the future');
select is(t.repaired(), 0, 'reschedule passes the baton');
select is(t.steps('sc'), 'c', 'the next runs');
select is(gd_reschedule(:b, now() - interval '1 hour'), true, 'a row in a lane is moved to the past');
select t.put_in('sc', 'ks', 'd');
select is(t.steps('sc'), null, '(c executes)');
select t.done('sc');
select is(t.steps('sc'), 'b', 'and has its place there');
select t.done('sc');
select is(t.steps('sc'), 'd', '(the last)');
select t.done('sc');

select t.put_in('pa1', 'kp', 'a') as a \gset
select t.put_in('pa2', 'kp', 'b') as b \gset
select is(t.steps('pa1'), 'a', '(a executes)');
select is(t.steps('pa2'), null, '(b is parked)');
select t.put_in('pa1', 'kp', 'c');
select is(t.steps('pa1'), null, '(c is parked)');
select gd_pause_queue('pa2');
select t.done('pa1');
select is(t.repaired(), 0, 'a paused queue: its rows are passed over');
select is(t.steps('pa1'), 'c', 'and the next of another queue runs');
select gd_resume_queue('pa2');
select t.done('pa1');
select is(t.steps('pa2'), 'b', 'resumed, it is not forgotten');
select t.put_in('pa2', 'kp', 'd'), t.put_in('pa1', 'kp', 'e');
select is(t.steps('pa2'), null, '(d and e are parked)');
select is(t.steps('pa1'), null, '(d and e are parked)');
select t.done('pa2');
select gd_pause_queue('pa2');
select is(t.repaired(), 0, 'pausing the queue of the lifted head passes the baton');
select is(t.steps('pa1'), 'e', 'the next runs');
select t.done('pa1');
select is(t.repaired(), 0, 'rows of a paused queue wait alone: that is no defect');
select gd_resume_queue('pa2');
select is(t.steps('pa2'), 'd', 'and run when it is resumed');
select t.put_in('pa1', 'kp', 'f');
select gd_pause_queue('pa2');
select is(t.steps('pa1'), null, 'a holder in a paused queue keeps its slot');
select t.done('pa2');
select is(t.steps('pa1'), 'f', 'until it commits');
select t.done('pa1');
select gd_resume_queue('pa2');

select t.put_in('pr', 'kr', 'a') as a \gset
select t.put_in('pr', 'kr', 'b') as b \gset
select is(t.steps('pr'), 'a', '(a executes)');
select is(t.steps('pr'), null, '(b is parked)');
select t.put(:a, '{"kind": "next", "step": "a2", "queue": "pr2"}');
select is(t.steps('pr2'), null, 'a row that moves to another queue goes behind those that wait');
select is(t.steps('pr'), 'b', '(b runs)');
select t.done('pr');
select is(t.steps('pr2'), 'a2', 'and then runs there');
select t.done('pr2');

select t.put_in('rv', 'kv', 'a') as a \gset
select is(t.steps('rv'), 'a', '(a executes)');
select t.put(:a, '{"kind": "stop", "reason": "x"}');
select t.put_in('rv', 'kv', 'b') as b \gset
select is(t.steps('rv'), 'b', '(b executes)');
select is(gd_retry(:a), true, 'a retried row');
select is(t.steps('rv'), null, 'waits for its key');
select t.done('rv');
select is((select c.id from t.take('rv') c), :'a', 'and gets it');
select t.done('rv');

-- A commit passes batons only in keys in which somebody waits, in whatever queue.
select t.put_in('fw', 'kw1', 'a'), t.put_in('fw', 'kw2', 'a'), t.put_in('fw2', 'kw2', 'b'), t.put_in('fw', 'kw3', 'a'),
    t.put_in('fw', 'kw3', 'later', p_delay => '1 hour');
select is(t.steps('fw'), 'a a a', '(one of each key executes)');
select is(t.steps('fw2'), null, '(and one is parked)');
select is(gendurable._find_waiting('{kw1,kw2,kw3,none}'), '{kw2}', 'who executes, is delayed, or is not there, does not wait');
select gd_pause_queue('fw2');
select is(gendurable._find_waiting('{kw1,kw2}'), '{kw2}', 'in a queue that is paused one does');
select is(gendurable._find_crowded('{kw1,kw2}', clock_timestamp()), '{}', 'but crowds nobody');
select gd_resume_queue('fw2');
select t.done('fw');
select is((select array_agg(n.partition_key || n.slot_no) from gendurable._find_next_in_keys('{kw1,kw2,kw3}') n), '{kw20}',
    'the first of a key that nobody holds');
select gd_set_key_limit('kl', 2);
select is((select array_agg(n.partition_key || n.slot_no) from gendurable._find_next_in_keys('{kw1,kw2,kw3}') n), '{kw20}',
    'the same where some other key has a limit');
select gd_set_key_limit('kl', null);
select is(t.steps('fw2'), 'b', '(it was lifted)');
select t.done('fw2');
select gd_cancel(v.id) from gd_instances v where v.step = 'later' and v.queue = 'fw';

select is(t.repaired(), 0, 'no baton was dropped');
select is_empty(
    $$select id from gd_instances where finished_at is null and status in ('runnable', 'executing')$$, 'everything has run');

select * from finish();
