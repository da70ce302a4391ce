\ir helpers/tap.psql
select no_plan();

-- who says hello is seen, as it says it

create function t.about(p_more jsonb = '{}') returns jsonb
language sql as $$
    select '{"host": "h1", "pid": 7, "version": "0.4.0", "started_at": "2026-01-31T12:00:00Z", "interval_ms": 20000,
        "queues": {"wk": 3, "wk2": 1}, "machines": [["m", 1, ["start", "end"]]], "running": 2, "listens": true}'::jsonb || p_more
$$;

select is(
    gd_hello('w', t.about()) - 'now', '{"noted": true, "clash": false, "counted": 0, "drain": false, "held": false, "queues": {}}'::jsonb,
    'nothing is to be told');
select results_eq(
    $$select host, pid, version, queues, machines, state, running, executing, started_at, draining_since is null, clock_skew is null
      from gd_workers where worker = 'w'$$,
    $$values ('h1', 7, '0.4.0', '{"wk": 3, "wk2": 1}'::jsonb, '[["m", 1, ["start", "end"]]]'::jsonb, 'running', 2, 0::bigint,
      '2026-01-31T12:00:00Z'::timestamptz, true, true)$$, 'gd_workers has what it said');
select is((select (q.workers, q.slots)::text from gd_queues q where q.queue = 'wk'), '(1,3)', 'and gd_queues who serves');
select gd_hello('v', t.about('{"queues": {"wk": 2}}'));
select is((select (q.workers, q.slots)::text from gd_queues q where q.queue = 'wk'), '(2,5)', 'all of them');
select ok(gd_hello('w', t.about('{"running": 0, "state": "stopping"}')) ->> 'noted' = 'true', 'again');
select is((select (v.running, v.state)::text from gd_workers v where v.worker = 'w'), '(0,stopping)', 'it says something else');
select is((select q.workers from gd_queues q where q.queue = 'wk'), 1::bigint, 'who stops serves nothing');
select is(gd_hello('nothing', '{}') ->> 'noted', 'true', 'nothing needs to be said');
select is(gd_hello('nothing', '{"host": null, "queues": null, "machines": null, "counters": null, "at": null}') ->> 'noted', 'true', 'nulls say nothing');

-- rows are rewritten in place, and what is large is not written anew

select is(
    (select count(*) from pg_index x where x.indrelid = 'gendurable.worker'::regclass), 1::bigint,
    'its name is all that is indexed of a worker: a hello is a HOT update');

-- clashes, clocks

select is(gd_hello('w', t.about('{"pid": 8}')) ->> 'clash', 'true', 'another process under this name');
select is(gd_hello('w', t.about('{"pid": 8}')) ->> 'clash', 'false', 'the same one again');
update gendurable.worker set until = now() - interval '1 s' where worker = 'w';
select is(gd_hello('w', t.about('{"pid": 9}')) ->> 'clash', 'false', 'one that comes after another');
select gd_hello('late', jsonb_build_object('at', (clock_timestamp() - interval '30 s')));
select ok((select v.clock_skew between -31 and -29 from gd_workers v where v.worker = 'late'), 'how far its clock is off');

-- what it is told

select gd_pause_queue('wk2');
select gd_hold_all('test');
select is(
    gd_hello('w', t.about()) - 'now' - 'clash',
    '{"noted": true, "counted": 0, "drain": false, "held": true, "queues": {"wk2": {"concurrency": null, "paused": true}}}'::jsonb,
    'of its queues what is set, and that all is held');
select gd_release_hold();
select gd_resume_queue('wk2');
select is(gd_drain_worker('nobody'), false, 'drain: no such worker');
select is(gd_drain_worker('w'), true, 'drain');
select is(gd_drain_worker('w'), true, 'drain: twice');
select is(gd_hello('w', t.about()) ->> 'drain', 'true', 'it is told');
select is((select v.state from gd_workers v where v.worker = 'w'), 'draining', 'and it is seen before it has said so');
select ok((select v.draining_since is not null and v.drained_by <> '' from gd_workers v where v.worker = 'w'), 'since when, and by whom');
select is(gd_hello('v', t.about()) ->> 'drain', 'false', 'no other one is');
select is(gd_resume_worker('w'), true, 'resume');
select is(gd_resume_worker('w'), false, 'resume: it was not told');
select is(gd_hello('w', t.about()) ->> 'drain', 'false', 'it is told');
select is(gd_drain_worker('w#3'), true, 'by the name that its claims are made under');
select is(gd_hello('w', t.about()) ->> 'drain', 'true', 'it is the same worker');
select is(gd_resume_worker('w#3'), true, 'back');

-- claims under another label of it are its claims

select gd_insert('m', p_queue => 'wk'), gd_insert('m', p_queue => 'wk'), gd_insert('m', p_queue => 'wk');
select count(*) from t.take('wk', 1, 'w');
select count(*) from t.take('wk', 1, 'w#1');
select count(*) from t.take('wk', 1, 'stranger#1');
select results_eq(
    $$select worker, executing, seen_at is not null from gd_workers where executing > 0 order by 1$$,
    $$values ('stranger#1', 1::bigint, false), ('w', 2::bigint, true)$$, 'known and others');

-- goodbye, and those who never said it

select gd_drain_worker('v');
select is(gd_bye('v'), true, 'bye');
select is(gd_bye('v'), false, 'bye: twice');
select is_empty($$select from gendurable.draining where worker = 'v'$$, 'what it was told is forgotten');
select is((select v.seen_at from gd_workers v where v.worker = 'v'), null, 'it is gone');
select gd_drain_worker('w');
update gendurable.worker set until = clock_timestamp() - interval '1 s' where worker = 'w';
select is((select v.seen_at from gd_workers v where v.worker = 'w'), null, 'who is silent for three intervals is not seen');
select is(gd_drain_worker('w'), false, 'nor drained');
select ok((gd_maintain() ->> 'ran')::boolean, 'upkeep');
select is_empty($$select from gendurable.worker where worker = 'w'$$, 'and is forgotten');
select is(gd_hello('w', t.about()) ->> 'drain', 'true', 'but comes back to what it was told');
select gd_bye('w');
insert into gendurable.draining values ('old', now() - interval '2 days', 'x'), ('new', now(), 'x');
update gendurable.upkeep set place = place where name = 'none';
select gendurable._forget_workers(clock_timestamp());
select results_eq('select worker from gendurable.draining', $$values ('new')$$, 'for a day');
delete from gendurable.draining;

-- what was counted

select is(
    gd_hello('c', '{"counters": {"no": 1, "rows": [["m", "a", "next", 3, 0.5], ["m", "a", "done", 1, 0.25]]}}') ->> 'counted', '1',
    'a report is counted');
select is(gd_hello('c', '{"counters": {"no": 1, "rows": [["m", "a", "next", 3, 0.5]]}}') ->> 'counted', '1', 'sent again');
select is(gd_hello('c', '{"counters": {"no": 2, "rows": [["m", "a", "next", 4, 0.5]]}}') ->> 'counted', '2', 'the next');
select is(gd_hello('c', '{}') ->> 'counted', '2', 'none');
select results_eq(
    $$select fsm, step, outcome, sum(count), sum(seconds) from gd_stats(5) group by 1, 2, 3 order by 3$$,
    $$values ('m', 'a', 'done', 1::numeric, 0.25::float8), ('m', 'a', 'next', 7, 1)$$, 'each once');
select gd_hello('c', '{"counters": {"no": 3, "rows": [
    ["m", "a", "next", 2, 0.5, "b"], ["m", "a", "next", 1, 0.5, "c"], ["m", "b", "await", 5, 1, null]]}}') ->> 'counted';
select results_eq(
    $$select step, outcome, next_step, count, seconds from gd_transitions('m', 5)$$,
    $$values ('a', 'next', null, 7::bigint, 1::float8), ('b', 'await', null, 5, 1), ('a', 'next', 'b', 2, 0.5),
        ('a', 'done', null, 1, 0.25), ('a', 'next', 'c', 1, 0.5)$$, 'where they went on');
select results_eq(
    $$select distinct since from gd_transitions('m', 5)$$, $$values (date_trunc('minute', clock_timestamp()) - interval '4 min')$$, 'since when');
select is_empty($$select from gd_transitions('other')$$, 'of this machine alone');
select is((select sum(s.count) from gd_stats() s where s.step = 'a' and s.outcome = 'next'), 10::numeric, 'and gd_stats adds them up');
delete from gendurable.minute_count where next_step is not null or step = 'b';
update gendurable.minute_count set at = at - interval '10 min';
select results_eq('select count(*) from gd_stats(5)', 'values (0::bigint)', 'older minutes are left out');
select gendurable._sum_counts(clock_timestamp());
select results_eq(
    $$select outcome, count, seconds, summed from gendurable.minute_count order by 1$$,
    $$values ('done', 1::bigint, 0.25::float8, true), ('next', 7, 1, true)$$, 'a minute is put together');
select results_eq(
    $$select outcome, count, seconds from gd_stats() order by 1$$, $$values ('done', 1::bigint, 0.25::float8), ('next', 7, 1)$$, 'and says the same');
update gendurable.minute_count set at = at - interval '1 day';
select gendurable._sum_counts(clock_timestamp());
select is_empty('select from gendurable.minute_count', 'a day is kept');
select t.raises(format('select * from gd_stats(%s)', n), 'GD501', format('stats: %s minutes', n)) from unnest('{0,-1,1441}'::int[]) n;
select t.raises(format('select * from gd_transitions(%L, %s)', 'm', n), 'GD501', format('transitions: %s minutes', n)) from unnest('{0,-1,1441}'::int[]) n;
insert into gendurable.minute_count (at, fsm, step, outcome, count, seconds, summed, next_step)
select date_trunc('minute', clock_timestamp()) - interval '1 min', 'm', 'new', 'next', 1, 1, true, 'next'
from generate_series(1, 19995);
insert into gendurable.minute_count (at, fsm, step, outcome, count, seconds, summed, next_step)
select date_trunc('minute', clock_timestamp()) - interval '2 min', 'm', 'old', 'next', 1, 1, true, 'next' from generate_series(1, 10);
select results_eq(
    $$select step, count, since from gd_transitions('m')$$,
    $$values
        ('new', 19995::bigint, date_trunc('minute', clock_timestamp()) - interval '2 min'),
        ('old', 5, date_trunc('minute', clock_timestamp()) - interval '2 min')$$,
    'the newest 20,000 counts, and it says since when');
delete from gendurable.minute_count;

-- what nobody should say

select t.raises(format('select gd_hello(%L, %L)', 'w', a), 'GD501', left(coalesce(a, 'null'), 60))
from unnest(array[
    null, 'null', '[]', '1', '{"host": 1}', '{"host": ""}', '{"pid": "x"}', '{"pid": -1}', '{"pid": 5.0}', '{"pid": 1e10}', '{"version": {}}',
    '{"started_at": "now"}', '{"started_at": "2026-13-45T99:00:00Z"}', '{"at": 5}', '{"at": "2026-02-30T00:00:00Z"}', '{"interval_ms": 0}',
    '{"interval_ms": 86400001}', '{"interval_ms": "1"}', '{"running": -1}', '{"running": null, "state": "asleep"}', '{"state": 1}',
    '{"more": 1}', '{"listens": "yes"}', '{"sql_steps": []}', '{"queues": []}', '{"queues": {"": 1}}', '{"queues": {"a": null}}',
    '{"queues": {"a": 1.0}}', '{"queues": {"a": "1"}}', '{"queues": {"a": -1}}', '{"machines": {}}', '{"machines": [1]}', '{"machines": [["m", 1]]}',
    '{"machines": [["m", 1, null]]}', '{"machines": [["m", "1", []]]}', '{"machines": [["m", null, []]]}', '{"machines": [["", 1, []]]}',
    '{"machines": [["m", 1, [1]]]}', '{"autoload": "x"}', '{"autoload": [null]}', '{"counters": []}', '{"counters": {}}',
    '{"counters": {"no": null, "rows": []}}', '{"counters": {"no": 1, "rows": [1]}}', '{"counters": {"no": 1, "rows": [["m", "a", "x", 1]]}}',
    '{"counters": {"no": 1, "rows": [["m", "a", "x", -1, 0]]}}', '{"counters": {"no": 1, "rows": [["m", "a", "x", 1, -1]]}}',
    '{"counters": {"no": 1, "rows": [["m", "a", "x", 1, 1e300]]}}', '{"counters": {"no": 1, "rows": [["m", "a", "x", null, 1]]}}',
    '{"counters": {"no": 0, "rows": []}}', '{"surprise": 1}',
    '{"counters": {"no": 1, "rows": [["m", "a", "x", 1, 1, 2]]}}',
    '{"counters": {"no": 1, "rows": [["m", "a", "x", 1, 1, ""]]}}',
    '{"counters": {"no": 1, "rows": [["m", "a", "x", 1, 1, "b", "c"]]}}', jsonb_build_object('host', repeat('x', 2001))::text,
    jsonb_build_object('queues', jsonb_build_object(repeat('x', 2001), 1))::text,
    (select jsonb_build_object('machines', jsonb_agg(jsonb_build_array('machine ' || n, 1, '[]'::jsonb)))::text from generate_series(1, 4000) n),
    (select jsonb_build_object('counters', jsonb_build_object('no', 1, 'rows', jsonb_agg('["m", "a", "x", 1, 1]'::jsonb)))::text
     from generate_series(1, 501) n)
]) a;
select t.raises(format('select %s(%L)', f, w), 'GD501', format('%s: %s', f, coalesce(left(w, 20), 'null')))
from unnest('{gd_bye,gd_drain_worker,gd_resume_worker}'::text[]) f, unnest(array[null, '', repeat('x', 2001)]) w;
select t.raises($$select gd_hello('', '{}')$$, 'GD501', 'a name is needed');

-- why, and the doctor

select gd_insert('m', p_queue => 'why') as id \gset
update gendurable.instance set eligible_at = now() - interval '10 min', updated_at = now() - interval '10 min' where id = :id;
select matches((select w.message from gd_why(:id) w where w.cause = 'queue not served'),
    '; none of the known workers \(\d+\) serves it', 'why: nobody is known to serve');
select gd_hello('s', '{"queues": {"why": 1}}');
select is_empty(format($$select from gd_why(%s) where cause = 'queue not served'$$, :id), 'why: a known worker serves it');
select gd_drain_worker('s');
select matches((select w.message from gd_why(:id) w where w.cause = 'queue not served'), '; the known workers that serve it drain \(1\)', 'why: it drains');
select is((select w.detail -> 'draining' from gd_why(:id) w where w.cause = 'queue not served'), '1', 'in detail');
select gd_resume_worker('s');
select gd_hello('s', '{"queues": {"why": 0}}');
select isnt_empty(format($$select from gd_why(%s) where cause = 'queue not served'$$, :id), 'why: with no slots it is not served');
select gd_hello('s', '{"queues": {"why": 1}}');
update gendurable.worker set until = now() where worker = 's';
select isnt_empty(format($$select from gd_why(%s) where cause = 'queue not served'$$, :id), 'why: nor by one that is silent');

select * from finish();
