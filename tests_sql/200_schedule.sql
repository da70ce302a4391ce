\ir helpers/tap.psql
select no_plan();

-- The tick for which a schedule's bell stands comes to be this one.
create function t.tick_at(p_name text, p_at timestamptz) returns void
language plpgsql as $$
begin
    update gendurable.instance i set eligible_at = p_at
    where i.id = (select s.bell_id from gendurable.schedule s where s.name = p_name);
    update gendurable.schedule set next_at = p_at where name = p_name;
end $$;

create function t.bells(p_name text) returns bigint
language sql as $$
    select count(*) from gendurable.instance i where i.id < 0 and i.unique_key = p_name
$$;

-- expressions

create function t.cron(p_cron text, p_after timestamptz, p_zone text = 'UTC') returns text
language sql as $$
    select to_char(
        gendurable._next_tick(gendurable._parse_cron(p_cron), p_zone, '2026-01-01 00:00:07Z', p_after) at time zone 'UTC',
        'YYYY-MM-DD HH24:MI:SS')
$$;
select is(t.cron(x.cron, '2026-02-27 13:14:15Z'), x.next, x.cron)
from (values
    ('* * * * *', '2026-02-27 13:15:00'),
    ('*/15 * * * *', '2026-02-27 13:15:00'),
    ('14 * * * *', '2026-02-27 14:14:00'),
    ('5,50-52 13 * * *', '2026-02-27 13:50:00'),
    ('20/20 * * * *', '2026-02-27 13:20:00'),
    ('0 10-20/4 * * *', '2026-02-27 14:00:00'),
    ('0 6 * * MON-Fri', '2026-03-02 06:00:00'),
    ('0 6 * * 0', '2026-03-01 06:00:00'),
    ('0 6 * * 7', '2026-03-01 06:00:00'),
    ('0 6 * * fri/1', '2026-02-28 06:00:00'),
    ('0 0 1 jan,MAY *', '2026-05-01 00:00:00'),
    ('0 0 29 2 *', '2028-02-29 00:00:00'),
    ('0 0 28 * sat', '2026-02-28 00:00:00'),
    ('0 0 13 * fri', '2026-03-06 00:00:00'),
    ('0 0 */13 * fri', '2026-03-27 00:00:00'),
    ('0 0 1 * */7', '2026-03-01 00:00:00'),
    (E'\t 0  0 * * *\n', '2026-02-28 00:00:00'),
    ('@hourly', '2026-02-27 14:00:00'),
    ('@daily', '2026-02-28 00:00:00'),
    ('@midnight', '2026-02-28 00:00:00'),
    ('@Weekly', '2026-03-01 00:00:00'),
    ('@monthly', '2026-03-01 00:00:00'),
    ('@yearly', '2027-01-01 00:00:00'),
    ('@annually', '2027-01-01 00:00:00'),
    ('@every 10 seconds', '2026-02-27 13:14:17'),
    ('@every 1h30m', '2026-02-27 13:30:07'),
    ('@every 1 day', '2026-02-28 00:00:07')
) x (cron, next);
select is(t.cron('@every 10 seconds', '2026-02-27 13:14:17Z'), '2026-02-27 13:14:27', 'the first tick behind a time, not that time');
select is(t.cron('@every 10 seconds', '2025-12-31 23:59:59Z'), '2026-01-01 00:00:07', 'also where the clock was set back before all of it');
select is(t.cron('0 0 29 2 *', '2096-03-01 00:00Z'), '2104-02-29 00:00:00', 'leap years go by the century');

-- clocks change: Berlin skips 2:00 to 3:00 on 2026-03-29, and repeats it on 2026-10-25
select is(t.cron('30 2 * * *', '2026-03-29 00:00Z', 'Europe/Berlin'), '2026-03-29 01:00:00', 'by the clock: right after the skipped hour');
select is(t.cron('0,30 2 * * *', '2026-03-29 01:00Z', 'Europe/Berlin'), '2026-03-30 00:00:00', 'once');
select is(t.cron('*/30 2 * * *', '2026-03-29 00:00Z', 'Europe/Berlin'), '2026-03-30 00:00:00', 'by elapsed time: not at all');
select is(t.cron('30 2 * * *', '2026-10-25 00:00Z', 'Europe/Berlin'), '2026-10-25 00:30:00', 'by the clock: in the first pass');
select is(t.cron('30 2 * * *', '2026-10-25 00:30Z', 'Europe/Berlin'), '2026-10-26 01:30:00', 'and not in the second');
select is(t.cron('30 */2 * * *', '2026-10-25 00:30Z', 'Europe/Berlin'), '2026-10-25 01:30:00', 'by elapsed time: in both');
select is(t.cron('* * * * *', '2026-10-25 00:59:59Z', 'Europe/Berlin'), '2026-10-25 01:00:00', 'every minute is every minute');

select t.raises(format('select gd_schedule(''bad'', %L, ''m'')', x.cron), 'GD501', format('%L is refused', x.cron))
from unnest(array[
    '', ' ', '* * * *', '* * * * * *', '0 0 * * * 2026', '@reboot', '@never', '@every', '@every ', '@every x', '@every 0.9 seconds',
    '@every -1 hour', '@every 1 month', '@every 61 years', '@every infinity', '60 * * * *', '* 24 * * *', '* * 0 * *', '* * 32 * *',
    '* * * 0 *', '* * * 13 *', '* * * * 8', '5-1 * * * *', '* * * * sat-sun', '*/0 * * * *', '*/60 * * * *', '* */24 * * *',
    '* * */32 * *', '* * * */13 *', '* * * * */8', '0/60 * * * *', '* * L * *', '* * 15W * *', '* * * * 5#2', '* * ? * *',
    '* * * * monday', 'jan * * * *', '* * * mon *', '1,,2 * * * *', ',1 * * * *', '1- * * * *', '-1 * * * *', '1/ * * * *', '*-5 * * * *',
    '1-5- * * * *', '1.5 * * * *', '99999999999 * * * *', '* * * * 1/99999', '0 0 31 2 *', '0 0 30 2 *', '0 0 31 4,6,9,11 *', 'H * * * *',
    repeat('1,', 2000) || '1 * * * *'
]) x (cron);
select t.raises('select gd_schedule(''bad'', null, ''m'')', 'GD501', 'no expression');

-- what else is refused

select t.raises($$select gd_schedule('', '@daily', 'm')$$, 'GD501', 'an empty name');
select t.raises($$select gd_schedule(null, '@daily', 'm')$$, 'GD501', 'no name');
select t.raises($$select gd_schedule(repeat('x', 2001), '@daily', 'm')$$, 'GD501', 'too long a name');
select t.raises($$select gd_schedule(repeat('x', 1999), '@daily', 'm', '{"overlap": "skip"}')$$, 'GD501', 'one of which no key can be made');
select t.raises($$select gd_schedule('bad', '@daily', '')$$, 'GD501', 'no machine');
select t.raises(format($$select gd_schedule('bad', '@daily', 'm', '{}', %L)$$, z), 'GD501', format('the zone %L', z))
from unnest('{"",UTC+2,GMT-1,europe/berlin,EST5,+02,Mars/Olympus,"Europe/Berlin "}'::text[]) z;
select t.raises(format($$select gd_schedule('bad', '@daily', 'm', %L)$$, o), 'GD501', format('the options %s', o))
from unnest(array[
    '[]', '1', '"x"', '{"fsm": "m"}', '{"eligible_at": "2031-05-06T07:08:09Z"}', '{"delay_ms": 1}', '{"nope": 1}', '{"catch_up": "some"}',
    '{"catch_up": ["one"]}', '{"overlap": true}', '{"queue": ""}', '{"priority": "high"}', '{"meta": []}', '{"meta": "x"}', '{"state": 1}',
    '{"version": 0}', '{"unique_scope": ["runnable"]}', '{"unique_scope": ["nope"], "overlap": "skip"}', '{"weight": -1}',
    '{"max_attempts": 0}', '{"partition_key": ""}'
]) o;
select t.raises($$select gd_schedule('bad', '@daily', 'm', '{"rate_limit": "nobody set this"}')$$, 'GD502', 'a limit that there is not');
select is_empty('select * from gd_schedules', 'and nothing of it was scheduled');
set default_transaction_isolation = 'repeatable read';
select t.raises($$select gd_schedule('bad', '@daily', 'm')$$, 'GD504', 'a fixed snapshot');
select t.raises($$select gd_unschedule('bad')$$, 'GD504', 'unschedule');
select t.raises($$select gd_pause_schedule('bad')$$, 'GD504', 'pause');
select t.raises($$select gd_resume_schedule('bad')$$, 'GD504', 'resume');
select t.raises($$select * from gd_announce_schedules('[]')$$, 'GD504', 'announce');
reset default_transaction_isolation;

-- a schedule, and its tick

select lives_ok(
    $$select gd_schedule('one', '0 6 * * *', 'm', '{"queue": "q1", "state": {"n": 1}, "meta": {"tenant": "t"}, "priority": 3}', 'Europe/Berlin')$$,
    'scheduled');
select results_eq(
    $$select name, cron, timezone, fsm, queue, priority, options ->> 'queue', last_tick_at, last_id, last_error, paused_at from gd_schedules$$,
    $$values ('one', '0 6 * * *', 'Europe/Berlin', 'm', 'q1', 3, 'q1', null::timestamptz, null::bigint, null, null::timestamptz)$$, 'as told');
select is(extract(hour from s.next_at at time zone 'Europe/Berlin'), 6::numeric, 'the next tick is at six') from gd_schedules s;
select ok(s.next_at > now() and s.next_at < now() + interval '26 hours', 'the next six there is') from gd_schedules s;
select is(t.bells('one'), 1::bigint, 'it has one bell');
select is((select n.next_due from gd_sleep('w', '{q1}') n), s.next_at, 'of which a sleeper is told') from gd_schedules s;
select gd_wake('w');
select is_empty($$select * from t.take('q1')$$, 'before its time there is nothing');
select t.tick_at('one', date_trunc('day', now()) - interval '18 hours');
select results_eq(
    $$select fsm, state, meta - 'tick', attempt, partition_key, unique_key from t.take('q1')$$,
    $$values ('m', '{"n": 1}'::jsonb, '{"tenant": "t", "schedule": "one"}'::jsonb, 0, null::text, null::text)$$,
    'the claim that meets the bell hands out what it inserted');
select matches(v.meta ->> 'tick', '^20[0-9]{2}-[0-9]{2}-[0-9]{2}T0[4-6]:00:00Z$', 'with its tick, in UTC') from gd_instances v where v.queue = 'q1';
select results_eq(
    $$select last_tick_at, last_id, last_error, last_at between last_tick_at and clock_timestamp() from gd_schedules$$,
    $$select (v.meta ->> 'tick')::timestamptz, v.id, null, true from gd_instances v where v.queue = 'q1'$$, 'the schedule knows of it');
select ok(s.next_at > now(), 'and waits for the next one') from gd_schedules s;
select is(v.priority, 3, 'in its priority') from gd_instances v where v.queue = 'q1';

-- The same call, options, another clock

select s.next_at, s.bell_id from gendurable.schedule s where s.name = 'one' \gset
update gendurable.schedule set seen_at = now() - interval '2 hours';
select gd_schedule('one', '0 6 * * *', 'm', '{"priority": 3, "meta": {"tenant": "t"}, "state": {"n": 1}, "queue": "q1", "overlap": null}', 'Europe/Berlin');
select is(s.bell_id, (:bell_id)::bigint, 'the same once more changes nothing') from gendurable.schedule s;
select ok(s.seen_at > now() - interval '1 hour', 'but that it was seen') from gd_schedules s;
select s.seen_at from gd_schedules s \gset
select gd_schedule('one', '0 6 * * *', 'm', s.options, 'Europe/Berlin') from gd_schedules s;
select is(s.seen_at, (:'seen_at')::timestamptz, 'once an hour') from gd_schedules s;
select t.tick_at('one', now() - interval '1 hour');
select gd_schedule('one', '0 6 * * *', 'm2', '{"queue": "q2"}', 'Europe/Berlin');
select ok(s.next_at < now(), 'with other options a tick that is due stays due') from gd_schedules s;
select is_empty($$select * from t.take('q1')$$, 'the bell has gone to the new queue');
select is((select c.fsm from t.take('q2') c), 'm2', 'and rings there');
select t.tick_at('one', now() - interval '1 hour');
select gd_schedule('one', '0 7 * * *', 'm2', '{"queue": "q2"}', 'Europe/Berlin');
select ok(s.next_at > now(), 'with another expression the next tick counts from now') from gd_schedules s;
select t.tick_at('one', now() - interval '1 hour');
select gd_schedule('one', '0 7 * * *', 'm2', '{"queue": "q2"}', 'Asia/Tokyo');
select ok(s.next_at > now(), 'and with another zone') from gd_schedules s;
select is(t.bells('one'), 1::bigint, 'it has one bell all the time');

-- A bell is nobody

select s.bell_id from gendurable.schedule s where s.name = 'one' \gset
select cmp_ok((:bell_id)::bigint, '<', 0::bigint, 'its id is below 0');
select t.raises(format('select gd_cancel(%s)', (:bell_id)), 'GD503', 'it cannot be cancelled');
select t.raises(format('select gd_retry(%s)', :bell_id), 'GD503', 'retried');
select t.raises(format('select gd_reschedule(%s, now())', :bell_id), 'GD503', 'or moved');
select is(gd_signal((:bell_id)::bigint, 'x'), 'no_target', 'takes no signal');
select is(gd_signal('one', 'x'), 'no_target', 'nor under the name');
select is(gd_find('one'), null, 'which is no unique key');
select is_empty(format('select * from gd_result(%s)', :bell_id), 'has no result');
select is(gd_watch((:bell_id)::bigint), null, 'and cannot be watched');
select is_empty('select * from gd_instances where id < 0', 'no view shows it');
select gd_schedule('nine', '@daily', 'm', '{"queue": "q9"}');
select t.tick_at('nine', now() - interval '1 hour');
select is((select q.due + q.delayed + q.executing + q.parked from gd_queues q where q.queue = 'q9'), 0::bigint, 'nor counts it');
select is((select q.oldest_due_at from gd_queues q where q.queue = 'q9'), null, 'a bell is nothing that waits');
select gd_unschedule('nine');
insert into gendurable.instance (id, fsm, step, queue, woken, eligible_at, unique_key)
values (-1000000, '', '', 'q3', 0, now() - interval '1 hour', 'nobody'), (-1000001, '', '', 'q3', 0, now() - interval '1 hour', 'one');
select is_empty($$select * from t.take('q3', 10)$$, 'a bell without its schedule fires nothing');
select is_empty('select * from gendurable.instance where id <= -1000000', 'and is gone');
select is(t.bells('one'), 1::bigint, 'with nothing put in its place');

-- Keyed: proved rule 3, and limits of 1, with either range first

select gd_schedule('keyed', '@hourly', 'm', '{"queue": "qk", "partition_key": "k"}');
select t.tick_at('keyed', now() - interval '1 hour');
select is((select c.partition_key from t.take('qk') c), 'k', 'a keyed instance starts in the claim that inserts it');
create function t.fire(p_name text, p_queue text) returns bigint
language plpgsql as $$
begin
    perform t.tick_at(p_name, now() - interval '1 hour');
    return (select count(*) from t.take(p_queue));
end $$;
select gd_schedule('keyed2', '@hourly', 'm', '{"queue": "qk2"}');
select is(t.fire('keyed2', 'qk2'), 1::bigint, 'whichever range the claim looks at first') from generate_series(1, 20);

-- before a backlog of older rows
select count(gd_insert('old', p_queue => 'qb', p_eligible_at => now() - interval '1 day')) from generate_series(1, 50);
select gd_schedule('urgent', '@hourly', 'm', '{"queue": "qb"}');
select t.tick_at('urgent', now() - interval '1 second');
select count(*) from t.take('qb', 2);
select isnt((select s.last_id from gd_schedules s where s.name = 'urgent'), null, 'a bell rings before older rows');

-- catch_up

select gd_schedule('cu-' || c, case c when 'none' then '0 0 1 1 *' else '*/10 * * * *' end, 'm', jsonb_build_object('queue', 'cu-' || c, 'catch_up', c))
from unnest('{one,none,all}'::text[]) c;
select t.tick_at('cu-' || c, date_trunc('hour', now()) - interval '20 hours') from unnest('{one,all}'::text[]) c;
select is((select count(*) from t.take('cu-one', 1000)), 1::bigint, 'one for all that was missed');
select ok((v.meta ->> 'tick')::timestamptz between now() - interval '10 minutes' and now(), 'for the latest of them')
from gd_instances v where v.queue = 'cu-one';
select is((select count(*) from t.take('cu-all', 1000)), 100::bigint, 'a hundred a claim');
select ok((select next_at from gd_schedules where name = 'cu-all') < now(), 'and the rest is still due');
select count(*) from t.take('cu-all', 1000);
select is(count(distinct v.meta ->> 'tick'), count(*), 'each tick once') from gd_instances v where v.queue = 'cu-all';
select cmp_ok(count(*), '>=', 120::bigint, 'all of them') from gd_instances v where v.queue = 'cu-all';
select gd_schedule('cu-held', '*/10 * * * *', 'm', '{"queue": "cu-held", "catch_up": "all", "overlap": "skip"}');
select t.tick_at('cu-held', date_trunc('hour', now()) - interval '60 hours');
select gd_trigger('cu-held') as id \gset
select gd_reschedule(:id, '2099-01-01');
select is_empty($$select * from t.take('cu-held', 2)$$, 'and where nothing comes of it');
select is(s.next_at, date_trunc('hour', now()) - interval '60 hours' + 100 * interval '10 minutes', 'a hundred a claim, too')
from gd_schedules s where s.name = 'cu-held';
select t.tick_at('cu-none', date_trunc('hour', now()) - interval '20 hours');
select is((select count(*) from t.take('cu-none', 1000)), 0::bigint, 'none: what was missed is over');
select ok(s.next_at > now() and s.last_tick_at is null and s.last_error is null, 'the next one will come') from gd_schedules s where s.name = 'cu-none';
select gd_schedule('cu-none', '@every 10 seconds', 'm', '{"queue": "cu-none", "catch_up": "none"}');
select t.tick_at('cu-none', now() - interval '30 seconds');
select is((select count(*) from t.take('cu-none', 1000)), 1::bigint, 'but for one of the last minute');

-- overlap

select gd_schedule('ov-' || o, '@hourly', 'm', jsonb_build_object('queue', 'ov-' || o, 'overlap', o)) from unnest('{allow,skip,queue}'::text[]) o;
select t.tick_at('ov-' || o, now() - interval '1 minute') from unnest('{allow,skip,queue}'::text[]) o;
select count(c.id) from unnest('{ov-allow,ov-skip,ov-queue}'::text[]) q cross join lateral t.take(q, 9) c;
select t.tick_at('ov-' || o, now() - interval '1 minute') from unnest('{allow,skip,queue}'::text[]) o;
select is((select count(*) from t.take('ov-allow', 9)), 1::bigint, 'allow: another one beside it');
select is((select count(*) from t.take('ov-skip', 9)), 0::bigint, 'skip: none');
select is((select count(*) from t.take('ov-queue', 9)), 0::bigint, 'queue: it waits');
select is(s.last_error, null, 'which is no error') from gd_schedules s where s.name = 'ov-skip';
select is(t.status(min(v.id)), 'executing', 'the one before runs') from gd_instances v where v.queue = 'ov-skip';
select is(gd_trigger('ov-skip'), null, 'nor can it be triggered meanwhile');
select t.put(v.id, '{"kind": "done"}') from gd_instances v where v.status = 'executing' and v.queue in ('ov-skip', 'ov-queue');
select t.tick_at('ov-skip', now() - interval '1 minute');
select is((select c.unique_key from t.take('ov-skip', 9) c), 'schedule:ov-skip', 'once it has ended the next one comes');
select is((select c.partition_key from t.take('ov-queue', 9) c), 'schedule:ov-queue', 'and what waited runs');
select gd_schedule('ov-own', '@hourly', 'm', '{"queue": "ov-own", "overlap": "skip", "unique_key": "mine"}');
select t.tick_at('ov-own', now() - interval '1 minute');
select is((select c.unique_key from t.take('ov-own', 9) c), 'mine', 'a key of its own is kept');

-- What cannot be inserted is told, and the others go on

select gd_schedule('broken', '@hourly', 'm', '{"queue": "err"}');
select gd_insert('m', p_queue => 'err');
select t.tick_at('broken', date_trunc('hour', now()));
update gendurable.schedule set options = options || '{"rate_limit": "was removed"}' where name = 'broken';
select is((select count(*) from t.take('err', 9)), 1::bigint, 'the other rows of the queue are handed out');
select is(s.last_error, 'no such rate limit', 'the schedule says what is wrong') from gd_schedules s where s.name = 'broken';
select ok(s.next_at > now() and s.last_tick_at = date_trunc('hour', now()) and s.last_id is null, 'and goes on to the next tick')
from gd_schedules s where s.name = 'broken';
update gendurable.schedule set options = options - 'rate_limit' where name = 'broken';
select t.tick_at('broken', date_trunc('hour', now()));
select is((select count(*) from t.take('err', 9)), 1::bigint, 'which comes once it can');
select is(s.last_error, null, 'and clears it') from gd_schedules s where s.name = 'broken';
select t.tick_at('broken', date_trunc('hour', now()));
update gendurable.schedule set timezone = 'Gone/Away' where name = 'broken';
select gd_insert('m', p_queue => 'err');
select is((select count(*) from t.take('err', 9)), 1::bigint, 'a zone that the server has no longer stops nobody');
select matches(s.last_error, 'time zone', 'and is told') from gd_schedules s where s.name = 'broken';
select ok(
    (select i.eligible_at from gendurable.instance i where i.unique_key = 'broken' and i.id < 0)
        between now() + interval '30 minutes' and now() + interval '2 hours'
    and s.next_at < now(), 'the tick stays due, and is tried again in an hour') from gd_schedules s where s.name = 'broken';
select gd_unschedule('broken');

-- Paused

select t.raises($$select gd_pause_schedule('nobody')$$, 'GD502', 'pause: no such schedule');
select t.raises($$select gd_resume_schedule('nobody')$$, 'GD502', 'resume');
select t.raises($$select gd_trigger('nobody')$$, 'GD502', 'trigger');
select t.raises($$select gd_pause_schedule('')$$, 'GD501', 'an empty name');
select is(gd_unschedule('nobody'), false, 'unschedule: there is none');
select gd_schedule('pa', '*/5 * * * *', 'm', '{"queue": "pa", "catch_up": "all"}');
select t.tick_at('pa', now() - interval '1 hour');
select is(gd_pause_schedule('pa'), true, 'paused');
select is(gd_pause_schedule('pa'), false, 'once');
select ok(s.paused_at is not null and s.next_at is null, 'it has no next tick') from gd_schedules s where s.name = 'pa';
select is(t.bells('pa'), 0::bigint, 'and no bell');
select is_empty($$select * from t.take('pa', 9)$$, 'nothing fires');
select gd_schedule('pa', '*/5 * * * *', 'm', '{"queue": "pa", "catch_up": "all", "priority": 1}');
select gd_schedule('pa', '*/6 * * * *', 'm', '{"queue": "pa", "catch_up": "all", "priority": 1}');
select is(t.bells('pa'), 0::bigint, 'whatever it is changed to');
select is(t.repaired(), 0, 'nor is that repaired');
select ok(gd_trigger('pa') > 0, 'by hand it fires');
select ok((v.meta ->> 'tick')::timestamptz between now() - interval '1 minute' and clock_timestamp() and v.meta ->> 'schedule' = 'pa',
    'with the time as its tick')
from gd_instances v where v.queue = 'pa';
select is((select count(*) from t.take('pa', 9)), 1::bigint, 'at once');
select is(gd_resume_schedule('pa'), true, 'resumed');
select is(gd_resume_schedule('pa'), false, 'once');
select is(t.bells('pa'), 1::bigint, 'with its bell');
select ok(s.next_at > now() and s.paused_at is null, 'nothing is caught up') from gd_schedules s where s.name = 'pa';
select gd_pause_schedule('pa');
update gendurable.schedule set last_tick_at = now() + interval '3 hours' where name = 'pa';
select gd_resume_schedule('pa');
select ok(s.next_at > now() + interval '3 hours', 'a clock that was set back fires no tick again') from gd_schedules s where s.name = 'pa';
select is(gd_unschedule('pa'), true, 'unscheduled');
select is(t.bells('pa'), 0::bigint, 'with its bell');
select is((select count(*) from gd_instances v where v.queue = 'pa'), 1::bigint, 'what it inserted stays');

-- A paused queue fires nothing

select gd_schedule('pq', '@hourly', 'm', '{"queue": "pq"}');
select t.tick_at('pq', now() - interval '3 hours');
select gd_pause_queue('pq');
select is_empty($$select * from t.take('pq')$$, 'paused');
select is((select count(*) from gd_instances v where v.queue = 'pq'), 0::bigint, '(so nothing was inserted)');
select gd_resume_queue('pq');
select is((select count(*) from t.take('pq', 9)), 1::bigint, 'its ticks are missed ones');

-- The clock was set back: a bell that is due by it, and a tick that is not

select gd_schedule('cl', '@hourly', 'm', '{"queue": "cl"}');
select s.next_at from gd_schedules s where s.name = 'cl' \gset
update gendurable.instance set eligible_at = now() where id < 0 and unique_key = 'cl';
select is_empty($$select * from t.take('cl', 9)$$, 'a bell that rings before its tick fires nothing');
select is(s.next_at, (:'next_at')::timestamptz, 'and waits for it') from gd_schedules s where s.name = 'cl';
select is(i.eligible_at, (:'next_at')::timestamptz, 'with its bell') from gendurable.instance i where i.id < 0 and i.unique_key = 'cl';

-- Where the machine's queue is

select gd_schedule('mq', '@hourly', 'moving');
select is(s.queue, 'default', 'of a machine that nobody knows') from gd_schedules s where s.name = 'mq';
select gd_register('moving', 1, 'start', 'mq1');
select is(s.queue, 'mq1', 'the bell follows the machine') from gd_schedules s where s.name = 'mq';
select gd_register('moving', 2, 'start', 'mq2');
select is(s.queue, 'mq2', 'and its latest version') from gd_schedules s where s.name = 'mq';
select is(i.queue, 'mq2', '(the bell itself)') from gendurable.instance i where i.id < 0 and i.unique_key = 'mq';
select gd_schedule('mq', '@hourly', 'moving', '{"version": 1}');
select is(s.queue, 'mq1', 'or the version of its options') from gd_schedules s where s.name = 'mq';
select gd_schedule('mq', '@hourly', 'moving', '{"queue": "own"}');
select gd_register('moving', 2, 'start', 'mq3');
select is(s.queue, 'own', 'but not if its options name a queue') from gd_schedules s where s.name = 'mq';
select is(t.bells('mq'), 1::bigint, 'one bell');

-- Upkeep

select is(t.repaired(), 0, 'nothing is lost');
delete from gendurable.instance where id < 0 and unique_key in ('mq', 'cl');
select is(t.repaired(), 2, 'a bell that is lost is put again');
select is(t.bells('mq') + t.bells('cl'), 2::bigint, 'one each');
select is(t.repaired(), 0, 'once');
update gendurable.machine set queue = 'mq4' where fsm = 'moving';
update gendurable.schedule set options = '{}' where name = 'mq';
select is(t.repaired(), 0, 'a bell in a former queue is no loss');
select is(i.queue, 'mq4', 'but is moved') from gendurable.instance i where i.id < 0 and i.unique_key = 'mq';

-- What an engine announces

select results_eq(
    $$select name, result, cron, timezone, fsm, options, seen_at is null from gd_announce_schedules('[
        {"name": "a1", "cron": "@daily", "fsm": "am", "options": {"queue": "aq", "state": null}, "timezone": "Europe/Berlin"},
        {"name": "a2", "cron": "@hourly", "fsm": "am"}]', '{am}')$$,
    $$values ('a1', 'made', '@daily', 'Europe/Berlin', 'am', '{"queue": "aq"}'::jsonb, true), ('a2', 'made', '@hourly', 'UTC', 'am', '{}', true)$$,
    'what is not there is scheduled');
select gd_pause_schedule('a1');
select gd_schedule('a2', '@weekly', 'am');
select gd_schedule('a3', '@weekly', 'am');
select results_eq(
    $$select name, result, cron from gd_announce_schedules('[
        {"name": "a2", "cron": "@hourly", "fsm": "am"},
        {"name": "a1", "cron": "@daily", "fsm": "am", "options": {"queue": "aq"}, "timezone": "Europe/Berlin"}]', '{am}')$$,
    $$values ('a1', 'same', '@daily'), ('a2', 'differs', '@weekly')$$, 'what an operator changed is told, and stays');
select isnt(s.paused_at, null, 'a pause, too') from gd_schedules s where s.name = 'a1';
select is(s.cron, '@weekly', '(so it does)') from gd_schedules s where s.name = 'a2';
select results_eq(
    $$select name, result from gd_announce_schedules('[{"name": "a2", "cron": "@weekly", "fsm": "am"}]', '{am,other}')$$,
    $$values ('a2', 'same'), ('a1', 'gone')$$, 'what vanished from the code is told, and nothing that it never had');
select is_empty($$select * from gd_announce_schedules('[]', '{other}')$$, 'for the machines that it has');
update gendurable.schedule set seen_at = now() - interval '2 hours' where name in ('a1', 'a2');
select count(*) from gd_announce_schedules('[{"name": "a2", "cron": "@weekly", "fsm": "am"}]', '{am}');
select results_eq(
    $$select name, seen_at > now() - interval '1 hour' from gd_schedules where name in ('a1', 'a2') order by name$$,
    $$values ('a1', false), ('a2', true)$$, 'what was seen');
select t.raises(format($$select * from gd_announce_schedules(%L)$$, x), 'GD501', format('announced: %s', x))
from unnest(array[
    '{}', '[1]', '[{"name": "x"}]', '[{"name": "x", "cron": "x", "fsm": "m"}]',
    '[{"name": "x", "cron": "@daily", "fsm": "m", "nope": 1}]'
]) x;
select is_empty($$select * from gd_schedules where name = 'x'$$, 'none of them was scheduled');
select t.raises($$select * from gd_announce_schedules(null)$$, 'GD501', 'nothing announced');

select * from finish();
