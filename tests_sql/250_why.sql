\ir helpers/tap.psql
select no_plan();

-- What a person reads: the causes in their order, and the sentence of the first.
create function t.causes(p_id bigint) returns text
language sql as $$
    select string_agg(w.cause, ', ' order by w.ord) from gd_why(p_id) with ordinality w (cause, since, until, message, detail, ord)
$$;
create function t.says(p_id bigint) returns text
language sql as $$
    select w.message from gd_why(p_id) with ordinality w (cause, since, until, message, detail, ord) where w.ord = 1
$$;

-- ended

select gd_insert('m', p_queue => 'end') as id \gset
select t.run('end', '{"kind": "done"}'), t.elapse(:id, '3 hours');
update gendurable.instance set finished_at = finished_at - interval '3 hours' where id = :id;
select is(t.causes(:id), 'ended', 'ended');
select is(t.says(:id), 'It has ended as "done" 3 h ago.', 'how');
select gd_insert('m', p_queue => 'end') as id \gset
select t.run('end', '{"kind": "stop", "reason": "no such\norder."}');
select is(t.says(:id), 'It has ended as "failed" 0 s ago: no such order.', 'and why, on one line');
select is((select w.detail ->> 'step' || (w.detail ->> 'status') from gd_why(:id) w), 'startfailed', 'in detail');
select is_empty($$select * from gd_why(0)$$, 'no such instance');
select is_empty($$select * from gd_why(null)$$, 'nor this one');

-- due

select gd_insert('m', p_queue => 'due') from generate_series(1, 3);
select gd_insert('m', p_queue => 'due') as id \gset
select gd_insert('m', p_queue => 'due', p_priority => -1), gd_insert('m', p_queue => 'due', p_priority => 1);
select is(t.causes(:id), 'due', 'due');
select is(t.says(:id), 'It is due for 0 s in the queue "due", with 4 before it.', 'with what is before it');
select is((select w.detail from gd_why(:id) w), '{"queue": "due", "before": 4, "priority": 0}', 'in detail');
select t.take('due', 4);
select is(t.says(:id), 'It is due for 0 s in the queue "due", with nothing before it.', 'what executes is not before it');
select t.elapse(:id, '5 minutes');
select is(t.causes(:id), 'due', 'somebody executes in its queue');
select t.expire(i.id) from gendurable.instance i where i.queue = 'due';
select is(t.causes(:id), 'queue not served, due', 'nobody lives there');
select is(t.says(:id), 'It stands in the queue "due", which nobody seems to serve: for 5 min no worker has taken it, and none sleeps '
    'on the queue or executes in it now.', 'said as far as it is known');
select gd_sleep('w', '{due}');
select is(t.causes(:id), 'due', 'somebody sleeps on it');
select gd_wake('w');
select is(t.causes(:id), 'queue not served, due', 'and not any more');

-- delayed

select gd_insert('m', p_queue => 'later', p_delay => '3 hours 1 minute') as id \gset
select is(t.causes(:id), 'delayed', 'scheduled');
select is(t.says(:id), 'It is scheduled, and due in 3 h.', 'until when');
select ok((select w.until = v.eligible_at from gd_why(:id) w, gd_instances v where v.id = :id), 'to the microsecond');
select gd_insert('m', p_queue => 'back', p_max_attempts => 7) as id \gset
select t.run('back', '{"kind": "error", "error": "no answer", "delay_ms": 600000}');
select is(t.causes(:id), 'delayed', 'a back-off');
select alike(t.says(:id), 'It backs off after attempt 1 of 7, and is due in 9 min; that attempt''s error: %no answer%.', 'with its error');
select is((select w.detail ->> 'kind' from gd_why(:id) w), 'back-off', 'in detail');

-- a signal

select gd_insert('m', p_queue => 'sig') as id \gset
select t.run('sig', '{"kind": "await", "step": "paid", "signals": ["paid", "void"], "timeout_ms": 7260000}');
select is(t.causes(:id), 'signal', 'a signal');
select is(t.says(:id), 'It awaits the signal "paid" or "void" for 0 s, and goes on without it in 2 h.', 'which, and how long');
select gd_signal(:id, 'refund'), gd_signal(:id, 'refund');
select is(t.says(:id), 'It awaits the signal "paid" or "void" for 0 s, and goes on without it in 2 h; in its inbox lies under other '
    'names: "refund" (2).', 'what lies in its inbox');
select is((select w.detail -> 'inbox' from gd_why(:id) w), '{"refund": 2}', 'in detail');
select gd_pause_queue('sig');
select is(t.causes(:id), 'signal, queue paused', 'and it would be stopped');
select gd_resume_queue('sig');
select t.due(:id);
select is(t.causes(:id), 'due', 'its deadline has passed');

-- children

select gd_insert('m', p_queue => 'par') as id \gset
select t.run('par', '{"kind": "schedule_childs", "step": "s", "childs": [{"fsm": "c", "queue": "chi"}, {"fsm": "c", "queue": "chi", "delay_ms": 600000}]}');
select min(c.id) as first, max(c.id) as second from gd_childs(:id) c \gset
select is(t.causes(:id), 'children', 'children');
select is(t.says(:id), format('It waits for 2 children that have not ended, first for instance %s, which is due for 0 s in the queue '
    '"chi", with nothing before it.', :first), 'how many, the first, and its cause');
select is((select w.detail #>> '{because,id}' || (w.detail #>> '{because,cause}') from gd_why(:id) w), :first || 'due', 'in detail');
select t.run('chi', '{"kind": "done"}');
select is(t.says(:id), format('It waits for 1 child that has not ended, first for instance %s, which is scheduled, and due in 9 min.',
    :second), 'the next one');

-- a key

select gd_insert('m', p_queue => 'key', p_partition_key => 'k') as a \gset
select gd_insert('m', p_queue => 'key', p_partition_key => 'k') as b \gset
select gd_insert('m', p_queue => 'key', p_partition_key => 'k') as c \gset
select is(t.causes(:a), 'due', 'the first of a key is due');
select is(t.causes(:c), 'key, due', 'the others wait for it');
select is(t.says(:c), format('It waits for its turn in its key "k" as number 3 of the line, behind instance %s, which is due for 0 s in '
    'the queue "key", with nothing before it.', :a), 'who is before it');
select t.take('key', 3);
select is(t.causes(:b), 'key', 'parked');
select is(t.says(:c), format('It waits for a slot of its key "k" as number 2 of the line, behind instance %s, which executes step '
    '"start" at worker "w" for 0 s, under a lease that ends in 59 s.', :a), 'who holds the slot, and its cause');
select is((select w.detail - 'because' from gd_why(:c) w), jsonb_build_object('key', 'k', 'place', 2, 'slots', 1, 'holders',
    jsonb_build_array(:a), 'ahead', jsonb_build_array(:b), 'instance', :a), 'in detail');
select results_eq($$select place, id, standing from gd_line('k')$$,
    format($$values (null::int, %s::bigint, 'holds'), (1, %s, 'waits'), (2, %s, 'waits')$$, :a, :b, :c), 'the line');
select results_eq($$select place, id, standing from gd_line('k', 2)$$,
    format($$values (null::int, %s::bigint, 'holds'), (1, %s, 'waits')$$, :a, :b), 'so much of it');
select gd_insert('m', p_queue => 'stopped', p_partition_key => 'k', p_priority => -2) as stopped \gset
select gd_insert('m', p_queue => 'key', p_partition_key => 'k', p_priority => -3, p_delay => '1 hour') as later \gset
select gd_pause_queue('stopped');
select results_eq($$select place, id, standing from gd_line('k')$$,
    format($$values (null::int, %s::bigint, 'holds'), (null, %s, 'paused'), (1, %s, 'waits'), (2, %s, 'waits'), (null, %s, 'later')$$,
        :a, :stopped, :b, :c, :later), 'those that do not count');
select is(t.causes(:stopped), 'queue paused, key, due', 'one in a paused queue has both');
select is((select w.detail ->> 'place' from gd_why(:c) w), '2', 'it is before nobody');
select gd_set_key_limit('k', 2);
select results_eq($$select place, id, standing from gd_line('k') where standing in ('next', 'waits')$$,
    format($$values (1, %s::bigint, 'next'), (2, %s, 'waits')$$, :b, :c), 'a slot more');
select is(t.causes(:b), 'due', 'which is for the first');
update gendurable.instance set eligible_at = null where id = :b;
select is(t.says(:b), 'It is next in its key "k", and the next claim that looks at the key makes it due.', 'nobody has looked yet');
select t.repaired();
select t.take('key', 1);
select is(t.says(:c), format('It waits for a slot of its key "k" as number 1 of the line, behind instance %s, the first of 2 that hold its '
    'slots, which executes step "start" at worker "w" for 0 s, under a lease that ends in 59 s.', :a), 'of several holders');
select is_empty($$select * from gd_line('nobody')$$, 'no line');
select t.raises($$select * from gd_line('')$$, 'GD501', 'no key');
select t.raises($$select * from gd_line('k', -1)$$, 'GD501', 'less than nothing');

-- executing

select is(t.causes(:a), 'executing', 'executing');
select ok((select w.until = v.lease_expires_at from gd_why(:a) w, gd_instances v where v.id = :a), 'until its lease ends');
select t.expire(:a);
select is(t.causes(:a), 'executing', 'its lease has ended');
select is(t.says(:a), 'It executes step "start" at worker "w" for 0 s; the lease has ended 1 s ago, and nobody has claimed it again: the '
    'next claim of its queue, or gd_maintain, takes it back.', 'and nothing else stops it');
select gd_pause_queue('key');
select is(t.causes(:a), 'executing, queue paused', 'why nobody has claimed it again');
select alike(t.says(:a), '%nobody has claimed it again: it stands in the queue "key", which is paused for 0 s, by "%".', 'in its words');
select gd_resume_queue('key'), t.run('key', '{"kind": "done"}'), gd_reap();
select gd_insert('m', p_queue => 'crash') as id \gset
update gendurable.instance set crashes = 3 where id = :id;
select is(t.causes(:id), 'crashing, due', 'it loses its workers');
select is(t.says(:id), 'It has lost its worker 3 times in a row, and fails at 20.', 'how often');
select gd_register('m', 1, 'start', 'default', '{"timeouts": {"start": 600000}}');
select t.take('crash');
select is(t.causes(:id), 'executing, crashing', 'also while it executes');
select alike(t.says(:id), '% under a lease that ends in 59 s and a timeout in 9 min.', 'a timeout');

-- stopped

select gd_insert('m', p_queue => 'stop', p_delay => '1 hour') as id \gset
select gd_pause_queue('stop');
select set_config('gendurable.actor', 'ada', false);
select gd_hold_all('a copy of production');
select set_config('gendurable.actor', '', false);
select is(t.causes(:id), 'everything held, queue paused, delayed', 'three at once');
select is(t.says(:id), format('It is held with everything else for 0 s, by "ada as %s": a copy of production.', session_user), 'by whom');
select gd_release_hold();
update gendurable.instance set paused_at = clock_timestamp() - interval '3 minutes' where id = :id;
select is(t.causes(:id), 'instance paused, queue paused, delayed', 'the instance');
select is(t.says(:id), 'It is paused for 3 min.', 'since when');
select gd_pause_machine(i.fsm), gd_pause_machine(i.fsm, i.fsm_version), gd_pause_machine(i.fsm, null, i.step), gd_pause_machine(i.fsm, 77),
    gd_pause_machine('other')
from gendurable.instance i where i.id = :id;
select is(t.causes(:id), 'instance paused, machine paused, machine paused, step paused, queue paused, delayed', 'its machine, version and step');
select results_eq(format($$select w.message from gd_why(%s) w where w.cause in ('machine paused', 'step paused')$$, :id), format($$values
    (format('It is of the machine "%%s", which is paused for 0 s, by "%%s".', 'm', session_user)::text collate "default"),
    (format('It is of version 1 of the machine "%%s", which is paused for 0 s, by "%%s".', 'm', session_user)::text collate "default"),
    (format('It is at the step "start" of the machine "%%s", which is paused for 0 s, by "%%s".', 'm', session_user)::text collate "default")$$),
    'each in its words');
select gd_resume_machine('m'), gd_resume_machine('m', 1), gd_resume_machine('m', 77), gd_resume_machine('other'), gd_resume_machine('m', null, 'start');
select gd_insert('aside', p_queue => 'aside') as aside \gset
select gd_pause_machine('aside');
select count(*) from t.take('aside');
select is(t.causes(:aside), 'machine paused', 'one that is aside');
delete from gendurable.paused_machine;
select is(t.causes(:aside), 'due', 'one that is still aside');
select is(t.says(:aside), 'It was set aside by a pause that is over, and is brought back by the next claims.', '(so it is)');
select gd_resume_queue('stop');
update gendurable.instance set paused_at = null, expires_at = clock_timestamp() - interval '3 minutes' where id = :id;
select is(t.causes(:id), 'expired, delayed', 'its deadline has passed');
select is(t.says(:id), 'It has passed its deadline 3 min ago, and ends as "failed" with the next claim or gd_maintain.', 'so it ends');

-- the limit of its queue

select gd_set_queue('few', '{"limit": 1}');
select gd_insert('m', p_queue => 'few') as a \gset
select gd_insert('m', p_queue => 'few') as id \gset
select t.take('few', 2), t.take('few', 2);
update gendurable.queue_setting set changed_in = null;
select is(t.causes(:id), 'queue full, due', 'its queue is full');
select is(t.says(:id), format('It stands in the queue "few", in which 1 of 1 execute, for the longest time instance %s, which executes '
    'step "start" at worker "w" for 0 s, under a lease that ends in 59 s and a timeout in 9 min.', :a), 'of whom');
select gd_set_queue('few', '{"limit": 0}');
select is(t.says(:id), 'It stands in the queue "few", whose limit of 0 lets nothing start.', 'nothing may');

-- rate limits

select gd_set_rate_limit('mail', 1, '10 minutes', 2);
select gd_insert('m', p_queue => 'rate', p_rate_limit => 'mail:eu') as a \gset
select gd_insert('m', p_queue => 'rate', p_rate_limit => 'mail:eu') from generate_series(1, 2);
select gd_insert('m', p_queue => 'rate', p_rate_limit => 'mail:eu') as id \gset
select is(t.causes(:a), 'due', 'its tokens are there');
select count(*) from t.take('rate', 10);
select is(t.causes(:id), 'limit', 'in line');
select is(t.says(:id), 'It waits for tokens of the rate limit "mail:eu" as number 2 of the line: 0 of 2 are there, enough for it in 19 min.',
    'its place and when');
select ok((select w.detail ->> 'bucket' = 'mail:eu' and jsonb_array_length(w.detail -> 'ahead') = 1
    and (w.detail ->> 'next_token_at')::timestamptz between now() + interval '9 minutes' and now() + interval '11 minutes'
    from gd_why(:id) w), 'in detail');
select gd_close_rate_limit('mail:eu', clock_timestamp() + interval '2 hours 1 minute');
select is(t.causes(:id), 'bucket closed, limit', 'closed');
select is(t.says(:id), 'It waits at the rate limit "mail:eu", out of which nothing starts for another 2 h.', 'until when');
select is((select count(distinct w.until) from gd_why(:id) w), 1::bigint, 'it does not start before');
delete from gendurable.bucket_closed;
select gd_set_rate_limit('mail', 0, null, 2);
select is(t.says(:id), 'It waits at the rate limit "mail:eu", which lets nothing start.', 'nothing is allowed');
select gd_set_rate_limit('mail', null);
select is(t.says(:id), 'It waits at the rate limit "mail:eu", which is gone: the next claim starts it.', 'the limit is gone');

-- steps in SQL

create function public.handles(jsonb) returns jsonb language sql as 'select $1';
select gd_define_step('sqlm', 'start', 'public.handles(jsonb)');
select gd_insert('sqlm', p_queue => 'sql') as id \gset
select is(t.causes(:id), 'due', 'a step in SQL');
drop function public.handles(jsonb);
select is(t.causes(:id), 'step refused, due', 'whose function is gone');
select is(t.says(:id), 'It is at the step "start", which is the function "public.handles", and nobody can run it: there is no such function.',
    'which');
create function public.handles(jsonb) returns jsonb language sql as 'select $1';
select is(t.causes(:id), 'due', 'it is there again');
create function public.handles(state jsonb, more int default 1) returns jsonb language sql as 'select $1';
select is(t.says(:id), 'It is at the step "start", which is the function "public.handles", and nobody can run it: '
    'another function of this name takes a jsonb, and defaults.', 'the server would not choose');

-- five deep, and no deeper: nobody goes round in a circle

do $$
declare
    v_id bigint := gd_insert('m', p_queue => 'd0');
begin
    for n in 0 .. 6 loop
        perform t.run('d' || n, jsonb_build_object('kind', 'schedule_childs', 'step', 's', 'childs',
            jsonb_build_array(jsonb_build_object('fsm', 'm', 'queue', 'd' || n + 1))));
    end loop;
    create temp table deep as select v_id as id;
end $$;
select is((select count(*) from deep d, gd_why(d.id) w, jsonb_path_query(w.detail, 'strict $.**.because ? (exists(@.id))')), 4::bigint,
    'five instances');

-- senseless names

select gd_insert(repeat('m', 1000), p_queue => repeat('q', 1990) || E'\n"', p_partition_key => E'k\n"' || repeat('x', 1000)) as id \gset
select ok(length(t.says(:id)) < 500 and t.says(:id) !~ '[[:cntrl:]]', 'are cut');

-- failures

select gd_insert('f', p_queue => 'fail') from generate_series(1, 7);
select t.run('fail', jsonb_build_object('kind', 'stop', 'reason', 'order ' || g || ' of cus_9a' || g || ' is gone' || E'\nat ' || g))
from generate_series(1, 3) g;
select t.run('fail', jsonb_build_object('kind', 'stop', 'reason', 'no answer'));
select t.run('fail', jsonb_build_object('kind', 'next', 'step', 'two'));
select t.run('fail', jsonb_build_object('kind', 'stop', 'reason', 'order 1 of cus_b is gone'));
select results_eq(
    $$select f.fsm, f.message, f.count, f.last_id = (select max(v.id) from gd_instances v where v.last_error like 'order 3 %'), f.exact
        from gd_failures('f') f limit 1$$,
    $$values ('f', 'order # of cus_# is gone', 3::bigint, true, true)$$, 'by what they say, and the latest of them');
select is((select count(*) from gd_failures('f')), 3::bigint, 'three groups');
select is((select sum(f.count) from gd_failures('f') f), 5::numeric, 'of all');
select ok(gd_cancel((select min(v.id) from gd_instances v where v.queue = 'fail' and v.status = 'runnable'), 'no'), 'one is cancelled');
select is((select sum(f.count) from gd_failures('f') f), 5::numeric, 'which is no failure');
select is((select array[sum(f.count), bool_or(f.exact)::int] from gd_failures('f', p_look => 2) f), '{1,0}', 'a bounded look says so');
select is((select count(*) from gd_failures('f', p_limit => 1)), 1::bigint, 'so many groups');
select ok((select count(*) from gd_failures()) > 3, 'of all machines');
select is_empty($$select * from gd_failures('f', clock_timestamp())$$, 'since then none');
select is_empty($$select * from gd_failures('nobody')$$, 'nobody''s');
select t.raises($$select * from gd_failures(p_look => 0)$$, 'GD501', 'no look');
select t.raises($$select * from gd_failures(p_limit => -1)$$, 'GD501', 'fewer than none');
select is(gendurable._group_message(x.error), x.message, x.error)
from (values
    ('f47ac10b-58cc-4372-a567-0e02b2c3d479 is gone', '# is gone'), ('at 2026-11-27 02:13', 'at # #:#'),
    ('KeyError: ''name''', 'KeyError: ''name'''), ('HTTP 503', 'HTTP #'), (null, '')) x (error, message);
select is(
    gendurable._group_message('order 7 ' || repeat('and so on ', 30)), gendurable._group_message('order 71234 ' || repeat('and so on ', 30)),
    'however long a number is, what it hides ends where that of others does');
select is(length(gendurable._group_message(repeat('x', 1000))), 200, 'of bounded length');

-- machines

select gd_register('deployed', 2, 'start', 'deployed');
select gd_insert('deployed', p_version => 1, p_queue => 'deployed') as id \gset
select is(t.causes(:id), 'machine unknown, due', 'a version that is not registered');
select is(t.says(:id), 'It is of version 1 of the machine "deployed", which is not registered; registered are 2.', 'in its words');
select is(t.causes(gd_insert('deployed', p_queue => 'deployed')), 'due', 'one that is');

-- flows

create function t.flow(p_outcome jsonb, p_entries jsonb) returns bigint
language plpgsql as $$
declare
    v_id bigint := gd_insert('flow', p_queue => 'flow');
begin
    perform t.run('flow', p_outcome || jsonb_build_object('journal', jsonb_build_object('at', 0, 'add', p_entries)));
    return v_id;
end $$;
select t.flow('{"kind": "await", "signals": "paid", "step": "(signal)", "timeout_ms": 3600000}',
    '[{"k": "start"}, {"k": "step", "name": "pack"}, {"k": "timer"}]') as id \gset
select is(regexp_replace(t.says(:id), 'in \d+ min', 'in N min'),
    'It awaits the signal "paid" for 0 s, at checkpoint "pack", and goes on without it in N min.', 'a flow that awaits a signal');
select is((select w.detail -> 'checkpoint' || (w.detail -> 'entries') from gd_why(:id) w limit 1), '["pack", 3]', 'in detail');
select gd_cancel(:id, 'enough');
select is(t.says(:id), 'It has ended as "cancelled" 0 s ago, behind checkpoint "pack": enough.', 'one that has ended');
select t.flow('{"kind": "await", "signals": "paid"}', '[{"k": "start"}]') as id \gset
select is(t.says(:id), 'It awaits the signal "paid" for 0 s, before its first checkpoint.', 'one that has come through nothing');
select t.flow('{"kind": "schedule_childs", "step": "(childs)", "childs": [{"fsm": "c", "queue": "elsewhere"}]}',
    '[{"k": "start"}, {"k": "step", "name": "pack"}]') as id \gset
select matches(t.says(:id), '^It waits for 1 child that has not ended, at checkpoint "pack", first for instance', 'one that waits for children');
select t.flow('{"kind": "next", "step": "(sleep)", "delay_ms": 90500}', '[{"k": "start"}, {"k": "step", "name": "pack"}]') as id \gset
select is(t.says(:id), 'It sleeps behind checkpoint "pack", and goes on in 90 s.', 'one that sleeps');
select is((select w.detail ->> 'kind' from gd_why(:id) w limit 1), 'sleep', '(its kind)');
select t.flow('{"kind": "next", "step": "(retry)", "delay_ms": 90500}', '[{"k": "start"}, {"k": "step", "name": "pack"},
    {"k": "retry", "name": "ship", "attempts": 2, "error": "TimeoutError: no answer"}]') as id \gset
select is(t.says(:id), 'It tries step "ship" again after attempt 2, which ended with TimeoutError: no answer, in 90 s.', 'one whose step has failed');
select t.flow('{"kind": "next", "step": "(retry)", "delay_ms": 90500}', '[{"k": "start"}]') as id \gset
select is(t.says(:id), 'It tries a step again, in 90 s.', '(nobody says which)');
select t.flow('{"kind": "error", "error": "NonDeterministic", "delay_ms": 90500}', '[{"k": "start"}, {"k": "step", "name": "pack"}]') as id \gset
select is(
    t.says(:id),
    'It backs off after attempt 1 of 20, and is due in 90 s, behind checkpoint "pack"; that attempt''s error: NonDeterministic.',
    'one that does not fit its code');
select t.flow('{"kind": "next", "step": "pack"}', '[{"k": "start"}, {"k": "step", "name": "pack"}]') as id \gset
select id from t.take('flow') \gset
select matches(t.says(:id), '^It executes what stands behind checkpoint "pack" at worker "w" for 0 s, under', 'one that runs');
select gd_insert('m', p_queue => 'sleepy') as id \gset
select t.run('sleepy', '{"kind": "next", "step": "(sleep)", "delay_ms": 90500}');
select is(t.says(:id), 'It is scheduled, and due in 90 s.', 'a machine may have a step of that name');

select * from finish();
