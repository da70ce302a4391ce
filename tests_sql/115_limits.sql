\ir helpers/tap.psql
\ir helpers/limits.psql
select no_plan();

-- What claims make of rate limits: turns of queues, closed buckets, durability; bells; and the upkeep of lines.

-- Several queues on one bucket
select gd_set_rate_limit('turns', 1, '1 day', 1);
select t.limited('turn-a', 10, 'turns') is not null, t.limited('turn-b', 10, 'turns') is not null;
create function t.turn() returns text language plpgsql as $$
declare
    v_got text;
begin
    perform t.fill('turns', 1);
    perform t.ring('turn-a');
    perform t.ring('turn-b');
    -- a bell that rang a while ago is one that nobody serves
    update gendurable.bucket b set lines = array(
        select row(l.queue, clock_timestamp(), l.turn_at, l.weight, l.priority, l.at, l.id, l.bell_id)::gendurable.line
        from unnest(b.lines) l)
    where b.bucket = 'turns';
    perform set_config('gendurable.floor', '', false);
    select string_agg(c.queue, ' ') into v_got from gd_claim_many('w', '{"turn-a": 10, "turn-b": 10}') c;
    return v_got;
end $$;
select gd_claim_many('w', '{"turn-a": 10, "turn-b": 10}') is not null;
select is((select string_agg(x.t, ',') from (select t.turn() as t
        from generate_series(1, 6)) x) ~ '^(turn-a,turn-b,)+turn-a,turn-b$|^(turn-b,turn-a,)+turn-b,turn-a$',
    true, 'they take turns, row by row, whichever the claim asks first');
select gd_pause_queue('turn-a');
select is((select string_agg(x.t, ',') from (select t.turn() as t from generate_series(1, 2)) x), 'turn-b,turn-b', 'a paused one holds nobody up');
select gd_resume_queue('turn-a');
update gendurable.bucket b set lines = array(
    select row(l.queue, clock_timestamp() - interval '2 seconds',
        l.turn_at - interval '1 hour' * (l.queue = 'turn-a')::int, l.weight, l.priority, l.at, l.id, l.bell_id)::gendurable.line
    from unnest(b.lines) l)
where b.bucket = 'turns';
select t.fill('turns', 1);
select t.ring('turn-b');
select is(t.count('turn-b'), 1::bigint, 'nor does one that nobody serves, for longer than a second');

-- Closed buckets
select gd_set_rate_limit('closed', 1, '1 day', 10);
select t.limited('closed', 4, 'closed') || t.limited('closed', 2, 'closed:b') as x \gset
select t.raises($$select gd_close_rate_limit('none', now())$$, 'GD502', 'what is closed is a limit''s');
select t.raises($$select gd_close_rate_limit('closed', 'infinity')$$, 'GD501', 'and not for ever');
select gd_close_rate_limit('closed', clock_timestamp() + interval '1 hour');
select gd_close_rate_limit('closed', clock_timestamp() + interval '1 minute');
select is(t.count('closed'), 2::bigint, 'a closed bucket starts nothing, whatever it holds; another one does');
select is((select max(closed_until) > now() + interval '50 minutes' from gd_rate_limits where bucket = 'closed'), true, 'the latest time counts');
select is((select min(i.eligible_at) > now() + interval '50 minutes' from gendurable.instance i where i.id < 0 and i.queue = 'closed'
        and i.rate_limit = 'closed'), true, 'and its bell rings then');
select is(t.level('closed'), 10.00, 'no token is lost');
select gd_close_rate_limit('closed', null);
select is(t.count('closed'), 4::bigint, 'opened, it goes on at once');
select t.put((:'x'::bigint[])[1], '{"kind": "replay", "close_ms": 3600000}');
select is(t.count('closed'), 0::bigint, 'a replay closes its bucket in its commit');
select gd_close_rate_limit('closed', null);
select is(t.count('closed'), 1::bigint, 'and waits for it itself');
select t.put((:'x'::bigint[])[1], '{"kind": "error", "error": "429", "delay_ms": 0, "close_ms": 3600000}');
select is(t.count('closed'), 0::bigint, 'so does an error');
select gd_close_rate_limit('closed', null);
select is(t.count('closed'), 1::bigint, 'it');
select t.put((:'x'::bigint[])[1], '{"kind": "next", "step": "s", "rate_limit": "closed:c", "close_ms": 3600000}');
select is(t.count('closed'), 0::bigint, 'a next closes the one that it names');
select results_eq($$select bucket from gd_rate_limits where closed_until > now() and name = 'closed'$$, $$values ('closed:c')$$, 'and no other');
select gd_insert('m', p_queue => 'open') as open \gset
select c.id from t.take('open') c \gset
select is(t.answer(:open, '{"kind": "replay", "close_ms": 1}') #>> '{detail,sqlstate}', 'GD501', 'without a limit there is nothing to close');
select is(t.answer(:open, '{"kind": "next", "step": "s", "close_ms": 1}') #>> '{detail,sqlstate}', 'GD501', 'nor in a next without one');
select is(t.answer(:open, '{"kind": "done", "close_ms": 1}') #>> '{detail,sqlstate}', 'GD501', 'nor at an end');
select is(t.answer(:open, '{"kind": "replay", "close_ms": -1}') #>> '{detail,sqlstate}', 'GD501', 'nor for a negative time');

select gd_set_rate_limit('gone', 1, '1 day', 10);
select t.limited('gone', 2, 'gone') is not null;
select gd_close_rate_limit('gone', clock_timestamp() + interval '1 hour');
select is(t.count('gone'), 0::bigint, 'what is closed waits');
select gd_set_rate_limit('gone', null);
select is(t.count('gone'), 2::bigint, 'and starts when the limit is gone');
select lives_ok($$select gd_close_rate_limit('gone', null)$$, 'nothing is left to be opened');
select gd_set_rate_limit('short', 1, '1 day', 1);
select t.limited('short', 3, 'short:eu') is not null, t.count('short');
select is(gd_ensure_rate_limit('short:eu', 1000000, '1 microsecond', 8), 'created', 'code that sets a limit with a longer name');
select is(t.count('short') + t.count('short'), 2::bigint, 'lets start what waited before the shorter one');

-- A claim that starts limited rows is durable
select gd_set_rate_limit('durable', 1, '1 day', 1);
select t.limited('durable', 1, 'durable') is not null;
select gd_insert('m', p_queue => 'plain') as p \gset
begin;
set local synchronous_commit = off;
select is(t.count('plain'), 1::bigint, 'a claim of plain rows');
select is(current_setting('synchronous_commit'), 'off', 'is not');
select is(t.count('durable'), 1::bigint, 'one of limited rows');
select is(current_setting('synchronous_commit'), 'on', 'is: lost in a crash, its tokens would come back');
commit;

-- A round that looks at more than are wanted: what is behind the last one that starts is as it was
select gd_set_rate_limit('more', 1, '1 day', 2);
select t.limited('more', 4, 'more') as m \gset
select is(
    g.*, ((:'m'::bigint[])[:1], '{null}'::int[], null::bigint[], (:'m'::bigint[])[1])::record, 'one is wanted: nobody behind it is parked')
from (
    select gendurable._pick_due('more', 0, 1::smallint, '-infinity', 0, clock_timestamp(), 10, null, clock_timestamp(), null) as picked
) p
cross join lateral gendurable._open_buckets('more', 0, p.picked, 1, null) o
cross join lateral gendurable._give_tokens(
    'more', 0, o.opened, p.picked, :'m'::bigint[], '{null,null,null,null}', 1, clock_timestamp()) g;

-- The order of priorities holds for all rows of a claim
select gd_set_rate_limit('mixed', 1, '1 day', 9);
select t.limited('mixed', 1, 'mixed', '{"priority": -1, "weight": 9}') is not null, t.count('mixed');
select t.limited('mixed', 1, 'mixed', '{"priority": -1}') is not null, t.limited('mixed', 2, 'mixed', '{"priority": 1}') is not null;
select t.count('mixed');
select gd_insert('m', p_queue => 'mixed') is not null;
select t.fill('mixed', 9);
select t.ring('mixed');
select is((
    select string_agg(i.priority::text, ' ' order by c.at)
    from (select x.id, row_number() over () as at from t.take('mixed', 2) x) c join gendurable.instance i on i.id = c.id
), '-1 0', 'rows without a limit come before less urgent ones of a line');
select is((
    select string_agg(i.priority::text, ' ' order by c.at)
    from (select x.id, row_number() over () as at from t.take('mixed', 9) x) c join gendurable.instance i on i.id = c.id
), '1 1', 'whose bell rings for the next claim');


-- and where the line opens only behind rows of a later priority: that of a key, which stands in the first range
select gd_set_rate_limit('late', 1, '1 day', 9);
select t.limited('late', 1, 'late', '{"priority": -1, "weight": 9}') is not null, t.count('late');
select t.limited('late', 2, 'late', '{"priority": -1}') is not null, t.limited('late', 1, 'late', '{"priority": 1}') is not null, t.count('late');
select gd_insert('m', p_queue => 'late', p_partition_key => 'late') as keyed, gd_insert('m', p_queue => 'late') as plain \gset
update gendurable.instance i set woken = 0 where i.id = :keyed;
select t.limited('late', 1, 'late') is not null, t.fill('late', 9);
update gendurable.bucket b set lines = array(
    select row(l.queue, clock_timestamp(), l.turn_at, l.weight, l.priority, l.at, l.id, l.bell_id)::gendurable.line from unnest(b.lines) l)
where b.bucket = 'late';
select is((
    select string_agg(i.priority::text, ' ' order by c.at)
    from (select x.id, row_number() over () as at from t.take('late', 9) x) c join gendurable.instance i on i.id = c.id
), '-1 -1 0 0 0', 'and also for those whose line opens behind others');

-- Bells are nobody
select gd_set_rate_limit('nobody', 1, '1 day', 1);
select t.limited('nobody', 2, 'nobody') is not null, t.count('nobody');
select min(id) as bell from gendurable.instance where queue = 'nobody' \gset
select ok(:bell < 0, 'a bell has an id below 0');
select t.raises(format('select gd_cancel(%s)', :bell), 'GD503', 'it cannot be cancelled');
select t.raises(format('select gd_retry(%s)', :bell), 'GD503', 'nor tried again');
select t.raises(format('select gd_reschedule(%s, now())', :bell), 'GD503', 'nor moved');
select is(gd_signal(:bell, 's'), 'no_target', 'nor signalled');
select is_empty(format('select * from gd_result(%s)', :bell), 'nor looked at');
select is(gd_watch(:bell), null, 'nor watched');
select is((select (due, delayed, executing) from gd_queues where queue = 'nobody'), (0::bigint, 0::bigint, 1::bigint), 'and is not counted');

-- Upkeep: a line without a bell, one whose bell is too far away, and buckets that are full
delete from gendurable.instance where id < 0 and queue = 'nobody';
select is(t.repaired(), 1, 'a line without a bell gets one, and that is told');
select is((select eligible_at <= clock_timestamp() from gendurable.instance where id < 0 and queue = 'nobody'), true, 'at once');
select t.fill('nobody', 1);
select is(t.count('nobody'), 1::bigint, 'so that it goes on');
-- a bell that was put off has an id that no bucket knows of, perhaps in the priority of a row that has gone
select gd_set_rate_limit('off', 1, '1 day', 1);
select t.limited('off', 3, 'off', '{"priority": 5}') is not null, t.count('off');
delete from gendurable.instance where id < 0 and queue = 'off';
select gendurable._put_bell('off', 0, clock_timestamp(), 'off', null) < 0;
select is(t.repaired(), 0, 'a bell in another priority is one as well');
select gd_set_rate_limit('far', 1, '1 second', 1);
select t.limited('far', 3, 'far') is not null, t.count('far');
update gendurable.instance set eligible_at = clock_timestamp() + interval '50 minutes' where id < 0 and queue = 'far';
select is(t.repaired(), 0, 'a bell beyond the time that a bucket takes to fill');
select is((select min(eligible_at) <= clock_timestamp() from gendurable.instance where id < 0 and queue = 'far'), true, 'is rung now: a clock was set back');
select gd_set_rate_limit('idle', 1000, '1 microsecond', 1);
select t.limited('idle', 1, 'idle') is not null, t.count('idle');
select gd_maintain();
select is((select count(*) from gendurable.bucket where bucket = 'idle'), 0::bigint, 'a bucket that is full needs no row');
select is((select count(*) from gendurable.bucket_closed where until < clock_timestamp()), 0::bigint, 'nor does a time that has passed');

select * from finish();
