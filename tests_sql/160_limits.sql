\ir helpers/tap.psql
\ir helpers/limits.psql
select no_plan();

-- Rate limits. A day a token: what starts is what a bucket held, and tokens come when a test puts them in.

-- What is set, and what is refused
select t.raises($$select gd_set_rate_limit('', 1, '1 second')$$, 'GD501', 'a limit has a name');
select t.raises($$select gd_set_rate_limit(null, 1, '1 second')$$, 'GD501', 'which is not null');
select t.raises($$select gd_set_rate_limit('x', -1, '1 second')$$, 'GD501', 'nothing negative is allowed');
select t.raises($$select gd_set_rate_limit('x', 'infinity', '1 second')$$, 'GD501', 'nor infinitely much');
select t.raises($$select gd_set_rate_limit('x', 'nan', '1 second')$$, 'GD501', 'nor what is no number');
select t.raises($$select gd_set_rate_limit('x', 1)$$, 'GD501', 'in which time is needed');
select t.raises($$select gd_set_rate_limit('x', 1, '0')$$, 'GD501', 'and is positive');
select t.raises($$select gd_set_rate_limit('x', 1, '-1 second')$$, 'GD501', 'not negative');
select t.raises($$select gd_set_rate_limit('x', 1, '1 second', 0)$$, 'GD501', 'a burst of nothing would let nothing start');
select t.raises($$select gd_set_rate_limit('x', 1, '1 second', 'infinity')$$, 'GD501', 'an infinite one everything');
select t.raises($$select gd_set_rate_limit('x', 1, '1 second', 'nan')$$, 'GD501', 'nor is it no number');
select t.raises($$select gd_set_rate_limit('x', 1, '400 days', 1000)$$, 'GD501', 'a bucket fills within 1,000 years');
select t.raises($$select gd_set_rate_limit('x', 1e-300, '1 second')$$, 'GD501', 'however little is allowed');
select t.raises($$select gd_set_rate_limit('x', 5e-324, '1000000000 seconds')$$, 'GD501', 'or how long the time is');
select t.raises($$select gd_set_rate_limit('x', 1e300, '1 second', 1e-300)$$, 'GD501', 'or how small the burst');
select t.raises($$select gd_set_rate_limit(repeat('x:', 30), 1, '1 second')$$, 'GD501', 'and has few colons');
select lives_ok($$select gd_set_rate_limit('y', 1e200, '1 second')$$, 'as much as there is may be allowed');
select lives_ok($$select gd_set_rate_limit('y', null)$$, 'and the limit be removed');
select lives_ok($$select gd_set_rate_limit('y', null)$$, 'also where there is none');
select t.raises($$select gd_insert('m', p_rate_limit => 'none')$$, 'GD502', 'an insert names a limit that is set');
select t.raises($$select gd_insert('m', p_rate_limit => '')$$, 'GD501', 'with a name');

select gd_set_rate_limit('mail', 1, '1 day', 10);
select gd_set_rate_limit('mail:vip', 1, '1 day', 20);
select results_eq($$select allowed, period, burst, bucket, queue from gd_rate_limits where name = 'mail'$$,
    $$values (1::float8, interval '1 day', 10::float8, null::text, null::text)$$, 'a limit is shown, with buckets that are full');
select t.raises($$select gd_insert('m', p_rate_limit => 'mail', p_weight => 11)$$, 'GD501', 'a weight above the burst would wait for ever');
select t.raises($$select gd_insert('m', p_rate_limit => 'mailbox')$$, 'GD502', 'a longer word is no part of a name');
select t.raises($$select gd_insert_many('[{"fsm": "m", "rate_limit": "mail", "weight": 10.5}]')$$, 'GD501', 'also of many');
select is(gd_ensure_rate_limit('mail', 1, '1 day', 10), 'same', 'code that knows the same limit changes nothing');
select is(gd_ensure_rate_limit('mail', 2, '2 days', 10), 'same', 'which is a matter of its numbers');
select is(gd_ensure_rate_limit('mail', 5, '1 day', 10), 'different', 'nor does code that knows another one');
select is((select allowed from gd_rate_limits where name = 'mail'), 1::float8, 'an operator''s stays');
select is(gd_ensure_rate_limit('code', 5, '1 day'), 'created', 'what is missing is set');
select t.raises($$select gd_ensure_rate_limit('code', null)$$, 'GD501', 'and nothing is removed so');

-- Starting: as many as there are tokens, the others in the line, each written once
create table t.written (id bigint);
create function t.note() returns trigger language plpgsql as $$
begin
    insert into t.written values (new.id);
    return null;
end $$;
create trigger note after update on gendurable.instance
for each row when (new.bucket_at is not null) execute function t.note();

select t.limited('a', 30, 'mail') as a \gset
select is(t.count('a'), 10::bigint, 'as many start as the bucket holds');
select is(t.level('mail'), 0.00, 'which is empty then');
select is(t.count('a'), 0::bigint, 'and no more after that');
select results_eq($$select due, executing, parked, limited from gd_queues where queue = 'a'$$,
    $$values (0::bigint, 10::bigint, 20::bigint, 20::bigint)$$, 'the others are parked');
select is((select count(*) from gd_instances where queue = 'a' and eligible_at is null), 20::bigint, 'and due at no time');
select is((select count(*) from gd_instances where id < 0), 0::bigint, 'their bell is not seen');
select is((select count(*) from gendurable.instance where id < 0 and queue = 'a'), 1::bigint, 'it is one');
select t.fill('mail', 3);
select is(t.count('a'), 0::bigint, 'before the bell rings nothing is looked at');
select t.ring('a');
select results_eq($$select id from t.take('a', 100)$$, format('select unnest((%L::bigint[])[11:13])', :'a'), 'then the first start, in order');
select is((select count(*) from gendurable.instance where id < 0 and queue = 'a'), 1::bigint, 'and another bell is set');
select is((select count(*) from t.written), 20::bigint, 'each was put into the line once');
select t.ring('a');
select is(t.count('a'), 0::bigint, 'a bell that rings for nothing starts nothing');
select is((select count(*) from t.written), 20::bigint, 'and writes no row');

-- What is cut behind the gate pays nothing
select t.fill('mail', 10);
select t.ring('a');
select is(t.count('a', 4), 4::bigint, 'a claim takes what it wishes');
select is(t.level('mail'), 6.00, 'and pays for that');
select t.ring('a');
select is(t.count('a', 4) + t.count('a', 4) + t.count('a', 4), 6::bigint, 'its next bell rings at once, behind the claim');
select t.ring('a'), t.count('a', 4) as four \gset
select is(t.level('mail'), 0.00, 'never more than there was');
select gd_set_rate_limit('cut', 1, '1 day', 20);
select t.limited('cut', 100, 'cut') is not null as inserted \gset
select is((select sum(t.count('cut', 5)) from generate_series(1, 8)), 20::numeric, 'small claims of rows that have just come start no more either');

-- After an outage: one burst, and no more
select t.fill('mail', 1000000);
select t.limited('a', 50, 'mail') is not null as inserted \gset
select t.ring('a');
select is((select sum(x.n) from (select t.count('a') as n, t.ring('a') from generate_series(1, 5)) x), 10::numeric,
    'what was not used is not saved up');

-- Each text is a bucket of its own; the longest name decides
select t.limited('parts', 15, 'mail:x') || t.limited('parts', 15, 'mail:y') || t.limited('parts', 30, 'mail:vip:z') as parts \gset
select is((select count(*) from t.take('parts', 100)), 40::bigint, 'parts have buckets of their own: 10 + 10 + 20');
select results_eq($$select i.rate_limit, count(*) from gendurable.instance i where i.queue = 'parts' and i.status = 'executing' group by 1 order by 1$$,
    $$values ('mail:vip:z', 20::bigint), ('mail:x', 10), ('mail:y', 10)$$, 'and the longest name says how large');

-- Weights
select gd_set_rate_limit('w', 1, '1 day', 10);
select gd_insert('m', p_queue => 'w', p_rate_limit => 'w', p_weight => 6) as first,
    gd_insert('m', p_queue => 'w', p_rate_limit => 'w', p_weight => 6) as heavy,
    gd_insert('m', p_queue => 'w', p_rate_limit => 'w', p_weight => 0.5) as light \gset
select results_eq($$select id from t.take('w', 10)$$, format('values (%s::bigint)', :first), 'a heavy row is waited for: no light one goes before it');
select t.fill('w', 6);
select t.ring('w');
select results_eq($$select id from t.take('w', 10)$$, format('values (%s::bigint)', :heavy), 'it comes when its tokens are there');
select t.fill('w', 0.5);
select t.ring('w');
select results_eq($$select id from t.take('w', 10)$$, format('values (%s::bigint)', :light), 'and then the light one');
select gd_set_rate_limit('tenth', 1, '1 day', 1);
select t.limited('tenth', 20, 'tenth', '{"weight": 0.1}') is not null as inserted \gset
select is(t.count('tenth'), 10::bigint, 'ten times a tenth is one');
select gd_insert('m', p_queue => 'w', p_rate_limit => 'w', p_weight => 9) as nine,
    gd_insert('m', p_queue => 'w', p_rate_limit => 'w', p_weight => 1) as one \gset
select t.count('w') as none \gset
select gd_set_rate_limit('w', 1, '1 day', 4);
select t.fill('w', 4);
select t.ring('w');
select results_eq($$select id from t.take('w', 10)$$, format('values (%s::bigint)', :nine), 'heavier than a burst that was lowered: it counts as a whole one');
select is(t.level('w'), 0.00, 'and no more');

-- Urgent rows first, in the line and before it
select gd_set_rate_limit('prio', 1, '1 day', 1);
select gd_insert('m', p_queue => 'prio', p_rate_limit => 'prio') as p1, gd_insert('m', p_queue => 'prio', p_rate_limit => 'prio') as p2 \gset
select is(t.count('prio'), 1::bigint, 'one starts');
select gd_insert('m', p_queue => 'prio', p_rate_limit => 'prio', p_priority => -1) as p3 \gset
select is(t.count('prio'), 0::bigint, 'an urgent one finds no token');
select t.fill('prio', 1);
select t.ring('prio');
select results_eq($$select id from t.take('prio', 10)$$, format('values (%s::bigint)', :p3), 'but is the first that gets one');
select t.fill('prio', 1);
select t.ring('prio');
select results_eq($$select id from t.take('prio', 10)$$, format('values (%s::bigint)', :p2), 'before those that wait longer');

-- Who has just come does not pass the line
select gd_set_rate_limit('order', 1, '1 day', 2);
select t.limited('order', 3, 'order') as o \gset
select is(t.count('order'), 2::bigint, 'two start, one waits');
select gd_insert('m', p_queue => 'order', p_rate_limit => 'order') as late \gset
select t.fill('order', 1);
select is(t.count('order'), 0::bigint, 'a token is there, and the one that has just come is not the first');
select t.ring('order');
select results_eq($$select id from t.take('order', 10)$$, format('select (%L::bigint[])[3]', :'o'), 'the token is for who waits');

-- A limit that changes
select t.limited('change', 30, 'code') as c \gset
select is(t.count('change'), 5::bigint, 'the burst is what is allowed, if nothing is said');
truncate t.written;
select gd_set_rate_limit('code', 0);
select is(t.count('change'), 0::bigint, 'nothing is allowed: nothing starts');
select gd_set_rate_limit('code', 1000000, '1 microsecond', 8);
select is(t.count('change', 8) + t.count('change', 8), 8::bigint, 'a change works at once, from what is in the bucket: nothing');
select gd_set_rate_limit('code', null);
select is((select sum(x.n) from (select t.count('change', 10) as n, t.ring('change') from generate_series(1, 4)) x), 17::numeric,
    'without a limit what waits starts');
select is((select count(*) from t.written), 0::bigint, 'and no waiting row was written for it');
select t.raises($$select gd_insert('m', p_rate_limit => 'code')$$, 'GD502', 'but none comes any more');

-- What keeps the limit, and what clears it
select gd_set_rate_limit('kept', 1, '1 day', 100);
create function t.limit_of(p_id bigint) returns text language sql as $$
    select i.rate_limit || ' ' || i.weight from gendurable.instance i where i.id = p_id
$$;
select gd_insert('m', p_queue => 'kept', p_rate_limit => 'kept', p_weight => 2) as k \gset
select t.run('kept', '{"kind": "replay"}') as ran \gset
select is(t.limit_of(:k), 'kept 2', 'a replay keeps it');
select t.run('kept', '{"kind": "error", "error": "x", "delay_ms": 0}') as ran \gset
select is(t.limit_of(:k), 'kept 2', 'so does an error');
select is(t.level('kept'), 96.00, 'and each start takes its tokens');
select c.id from t.take('kept') c \gset
select gd_release('w', null);
select is(t.limit_of(:k), 'kept 2', 'a release does');
select c.id from t.take('kept') c \gset
select t.expire(:k);
select c.id from t.take('kept') c \gset
select is(t.limit_of(:k) || ' ' || t.level('kept'), 'kept 2 90.00', 'a crash does, and both pay anew');
select t.put(:k, '{"kind": "stop", "reason": "x"}');
select is(t.limit_of(:k), 'kept 2', 'the end does');
select ok(gd_retry(:k), 'for what is tried again');
select is(t.count('kept'), 1::bigint, 'it starts');
select is(t.level('kept'), 88.00, 'and pays');
select t.put(:k, '{"kind": "next", "step": "s"}');
select is(t.limit_of(:k), null, 'a next clears it');
select is(t.run('kept', '{"kind": "next", "step": "s", "rate_limit": "kept", "weight": 3}'), :k::bigint, 'unless it names one');
select is(t.limit_of(:k), 'kept 3', 'with its weight');
select c.id from t.take('kept') c \gset
select is(t.answer(:k, '{"kind": "next", "step": "s", "rate_limit": "kept", "keep": true}') -> 'detail', 'null', 'a claim is not kept into a limit');
select c.id from t.take('kept') c \gset
select is(t.answer(:k, '{"kind": "next", "step": "s", "rate_limit": "kept", "weight": 101}') #>> '{detail,sqlstate}', 'GD501',
    'a weight above the burst is rejected');
select is(t.answer(:k, '{"kind": "next", "step": "s", "rate_limit": "none"}') #>> '{detail,sqlstate}', 'GD502', 'so is a limit that is none');
select t.put(:k, '{"kind": "await", "signals": "s"}');
select is(t.limit_of(:k), null, 'an await clears it');

-- A row that was claimed and lost, and finds no token, is given back
select gd_set_rate_limit('lost', 1, '1 day', 1);
select gd_insert('m', p_queue => 'lost', p_rate_limit => 'lost', p_partition_key => 'lost') as l \gset
select is(t.count('lost'), 1::bigint, 'it starts');
select t.expire(:l);
select is(t.count('lost'), 0::bigint, 'its worker was lost, and there is no token');
select results_eq(format('select status::text, attempt, crashes, slot_no, worker, bucket_at is not null from gendurable.instance where id = %s', :l),
    $$values ('runnable', 1, 1, null::int, null::text, true)$$, 'it stands in the line, without its slot, one crash later');
select t.fill('lost', 1);
select t.ring('lost');
select results_eq($$select id, attempt from t.take('lost')$$, format('values (%s::bigint, 1)', :l), 'and starts from there');

-- Keys
select gd_set_rate_limit('keyed', 1, '1 day', 1);
select gd_insert('m', p_queue => 'keyed', p_rate_limit => 'keyed', p_partition_key => 'k1') as k1,
    gd_insert('m', p_queue => 'keyed', p_rate_limit => 'keyed', p_partition_key => 'k2') as k2,
    gd_insert('m', p_queue => 'keyed', p_partition_key => 'k2') as k3 \gset
select results_eq($$select id from t.take('keyed', 10)$$, format('values (%s::bigint)', :k1), 'whose turn it is and who has no token holds no slot');
select is((select count(*) from gendurable.instance where partition_key = 'k2' and slot_no is not null), 0::bigint, 'none');
select is(t.count('keyed'), 0::bigint, 'those behind it in the key wait');
select is(t.repaired(), 0, 'its bell is the baton of the key');
select t.fill('keyed', 1);
select t.ring('keyed');
select results_eq($$select id from t.take('keyed', 10)$$, format('values (%s::bigint)', :k2), 'it starts from the line');
select t.put(:k2, '{"kind": "done"}');
select results_eq($$select id from t.take('keyed', 10)$$, format('values (%s::bigint)', :k3), 'and then who waited in the key');
select t.put(:k3, '{"kind": "done"}');
select gd_insert('m', p_queue => 'keyed', p_rate_limit => 'keyed', p_partition_key => 'k4') as k4 \gset
select is(t.count('keyed'), 0::bigint, 'one of a key stands in the line');
select gd_insert('m', p_queue => 'other', p_partition_key => 'k4') as k5 \gset
select is(t.count('other'), 0::bigint, 'one of another queue waits behind it');
select gd_pause_queue('keyed');
select results_eq($$select id from t.take('other', 10)$$, format('values (%s::bigint)', :k5), 'the queue of the head is paused: the next one goes on');
select t.put(:k5, '{"kind": "done"}');
select gd_resume_queue('keyed');
select is((select bucket_at is not null and eligible_at is null from gendurable.instance where id = :k4), true, 'the head has kept its place in the line');
select is(t.repaired(), 0, 'and no baton was lost');
select gd_insert('m', p_queue => 'keyed', p_partition_key => 'k4', p_priority => -5) as urgent \gset
select t.take('keyed', 10);
select t.fill('keyed', 1);
select t.ring('keyed');
select is(t.count('keyed'), 0::bigint, 'one that is no longer first in its key does not start');
select is((select bucket_at is null and eligible_at is null from gendurable.instance where id = :k4), true, 'it has left the line for the lane');
select is(t.level('keyed'), 1.00, 'and took no token');
select t.put(:urgent, '{"kind": "done"}');
select results_eq($$select id from t.take('keyed', 10)$$, format('values (%s::bigint)', :k4), 'and comes back when it is first');

-- Leaving the line
select gd_set_rate_limit('leave', 1, '1 day', 1);
select t.limited('leave', 4, 'leave') as v \gset
select is(t.count('leave'), 1::bigint, 'three wait');
select ok(gd_cancel((:'v'::bigint[])[2]), 'one is cancelled');
select ok(gd_reschedule((:'v'::bigint[])[3], clock_timestamp() + interval '1 hour'), 'one is put off');
select results_eq(format('select bucket_at, eligible_at > clock_timestamp() from gendurable.instance where id = %s', (:'v'::bigint[])[3]),
    $$values (null::timestamptz, true)$$, 'and due later');
select t.fill('leave', 1);
select t.ring('leave');
select results_eq($$select id from t.take('leave', 10)$$, format('select (%L::bigint[])[4]', :'v'), 'the next one starts');
select t.ring('leave');
select is(t.count('leave'), 0::bigint, 'a bell for nobody rings in vain');
select is((select count(*) from gendurable.instance where id < 0 and queue = 'leave'), 0::bigint, 'and there is no other one');

select * from finish();
