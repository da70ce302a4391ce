\ir helpers/tap.psql
\ir helpers/twins.psql
select no_plan();

-- The short way of a batch writes and answers what the long way does. Twins: one is committed each way.

select gd_set_rate_limit('twins', 1000, '1 s');
create function t.seen_with_journal(p_id bigint) returns jsonb language sql as $$
    select t.seen(p_id) || jsonb_build_object('journal', (
        select jsonb_agg(jsonb_build_array(j.seq, j.entry) order by j.seq) from gendurable.journal j where j.instance_id = p_id))
$$;
create temp table outcomes as
select y.no, y.outcome
from unnest(array[
    '{"kind": "next", "step": "b"}', '{"kind": "next", "step": "b", "state": {"z": 1}, "keep": false}',
    '{"kind": "next", "step": "b", "keep": true}', '{"kind": "next", "step": "b", "state": {"z": "ä"}, "keep": true}',
    '{"kind": "next", "step": "b", "journal": null, "keep": true}',
    '{"kind": "next", "step": "b", "journal": {"at": 0, "add": [{"k": "start"}, {"k": "step", "name": "b"}]}, "keep": true}',
    '{"kind": "next", "step": "b", "journal": {"at": 0, "add": [{"k": "start"}], "runs": true}, "keep": true}',
    '{"kind": "next", "step": "b", "journal": {"at": 0, "add": [{"k": "start"}], "brief": true}, "keep": true}',
    '{"kind": "next", "step": "b", "journal": {"at": 0, "add": [{"k": "start"}]}}',
    '{"kind": "done"}', '{"kind": "done", "result": {"r": [1]}}', '{"kind": "done", "result": null}',
    '{"kind": "done", "journal": {"at": 0, "add": [{"k": "end"}]}}']::jsonb[]) with ordinality y (outcome, no);
create temp table twins as
select x.what, y.no, y.outcome, t.twin(x.what, 'a' || x.no || '_' || y.no) as a, t.twin(x.what, 'b' || x.no || '_' || y.no) as b
from unnest(
        '{plain,tried,await,"await, over",inbox,child,parent,lifted,key,unique,"unique, scope","unique, runnable",limited,deadline,
          timeout}'::text[])
        with ordinality x (what, no)
cross join outcomes y;
create function t.both(
    p_a bigint, p_b bigint, p_outcome jsonb, out a_result text, out a_detail jsonb, out b_result text, out b_detail jsonb, out long boolean
) language plpgsql as $$
declare
    v_way constant regprocedure := 'gendurable._commit_outcomes(text, gendurable.outcome[], interval, timestamptz)';
    v_before bigint;
begin
    select c.result, c.detail into a_result, a_detail from t.commit_long(array[p_a], array[p_outcome]) c;
    perform gd_insert('m', p_queue => 'beside');
    -- whatever the session remembers of the batch before
    perform set_config('gendurable.short', '', false);
    v_before := coalesce(pg_stat_get_xact_function_calls(v_way), 0);
    select c.result, c.detail into b_result, b_detail
    from gd_commit('w', t.named(
        array[(select k.id from t.take('beside') k), p_b], array[jsonb '{"kind": "done"}', p_outcome])) c
    where c.ord = 1;
    long := coalesce(pg_stat_get_xact_function_calls(v_way), 0) > v_before;
end $$;
set track_functions = 'pl';
create temp table answers as
select w.what, w.no, w.outcome, w.a, w.b, x.* from twins w cross join lateral t.both(w.a, w.b, w.outcome) x;
reset track_functions;
select is(w.b_result, 'ok', format('%s: %s is ok in a batch', w.what, w.outcome)) from answers w;
select is(t.seen_with_journal(w.b), t.seen_with_journal(w.a), format('%s: %s is written as the long way does', w.what, w.outcome)) from answers w;
-- but for what twins must differ in
create function t.told_of(p_detail jsonb) returns jsonb language sql as $$
    select case when jsonb_typeof(p_detail) = 'number' then '"brief"' else p_detail - '{id,claim_no,queue,partition_key,unique_key,parent_id,signals}'::text[] || jsonb_build_object('signals', (
        select jsonb_agg(s - '{id,inserted_at}'::text[]) from jsonb_array_elements(p_detail -> 'signals') s)) end
$$;
select is(t.told_of(w.b_detail), t.told_of(w.a_detail), format('%s: %s is answered as the long way does', w.what, w.outcome)) from answers w;
select results_eq(
    $$select distinct w.what from answers w where w.long and not w.outcome ? 'keep' order by 1$$,
    $$values ('child'), ('key'), ('parent'), ('unique, runnable'), ('unique, scope')$$,
    'the long way is for what has something to look after');
select results_eq(
    $$select distinct w.what from answers w where w.long and w.outcome -> 'keep' = 'true' and w.outcome -> 'journal' is distinct from 'null' order by 1$$,
    $$values ('child'), ('key'), ('parent'), ('timeout'), ('unique, runnable'), ('unique, scope')$$,
    'and for a claim with a time of its own');

-- a brief answer is the number of the claim, where nothing else is new

select is(count(*)::int, 13, 'nearly all that may be brief are') from answers w
where w.outcome @? '$.journal.brief' and jsonb_typeof(w.b_detail) = 'number';
select is(w.b_detail, to_jsonb(i.claim_no), 'a brief answer is the number of its claim')
from answers w inner join gendurable.instance i on i.id = w.b where w.what = 'plain' and w.outcome @? '$.journal.brief';
select is(w.b_detail -> 'signals' -> 0 -> 'name', '"x"', 'with an inbox it is in full') from answers w
where w.what = 'inbox' and w.outcome @? '$.journal.brief';

-- a batch of all sorts: each has its answer, in order

create function t.claimed(p_queue text, p_count int) returns bigint[] language plpgsql as $$
begin
    perform gd_insert('m', p_queue => p_queue) from generate_series(1, p_count);
    return (select array_agg(c.id order by c.id) from t.take(p_queue, p_count) c);
end $$;
create function t.told(p_outcomes jsonb) returns text language plpgsql as $$
begin
    perform set_config('gendurable.short', '', false);
    return (select string_agg(c.ord || ' ' || c.result || coalesce(' ' || (c.detail ->> 'sqlstate'), ''), ', ') from gd_commit('w', p_outcomes) c);
end $$;
select t.claimed('mixed', 6) as ids \gset
select is(
    t.told(t.named(:'ids', array['{"kind": "await", "signals": "s"}', '{"kind": "next", "step": "b", "keep": true}', '{"kind": "next", "step": 5}',
        '{"kind": "done"}', '{"kind": "next", "step": "b"}', '{"kind": "next", "step": "b", "delay_ms": 60000}']::jsonb[])
        || '[{"id": 1, "claim_no": 5, "kind": "done"}, {"id": 1e40, "claim_no": 5, "kind": "done"}, {"id": 1.5, "claim_no": 1, "kind": "done"}, 7]'),
    '0 ok, 1 ok, 2 rejected GD501, 3 ok, 4 ok, 5 ok, 6 stale, 7 rejected GD501, 8 rejected GD501, 9 rejected GD501', 'all sorts in one batch');
select is(
    (select string_agg(i.status::text, ', ' order by i.id) from gendurable.instance i where i.id = any(:'ids')),
    'awaiting_signal, executing, executing, done, runnable, runnable', '(and each is done)');
select is(t.told('[]'), null, 'an empty batch');
select is(t.told('[5, null, {}]'), '0 rejected GD501, 1 rejected GD501, 2 rejected GD501', 'no outcomes at all');

-- an instance that is named twice: the first outcome counts, whatever way it takes

create function t.twice(p_first jsonb, p_second jsonb) returns text language plpgsql as $$
declare
    v_ids constant bigint[] := t.claimed('twice', 2);
    v_told constant text := t.told(t.named(v_ids[1] || v_ids, array[p_first, p_second, '{"kind": "done"}']));
begin
    return v_told || ': ' || (select i.status || ' ' || i.step from gendurable.instance i where i.id = v_ids[1]);
end $$;
select is(t.twice(x.first, x.second), '0 ok, 1 stale, 2 ok: ' || x.behind, format('%s before %s', x.first, x.second))
from (values
    ('{"kind": "next", "step": "b"}'::jsonb, '{"kind": "next", "step": "c"}'::jsonb, 'runnable b'),
    ('{"kind": "next", "step": "b"}', '{"kind": "next", "step": "c", "keep": true}', 'runnable b'),
    ('{"kind": "next", "step": "b", "keep": true}', '{"kind": "next", "step": "c", "keep": true}', 'executing b'),
    ('{"kind": "next", "step": "b", "keep": true}', '{"kind": "done"}', 'executing b'),
    ('{"kind": "await", "signals": "s"}', '{"kind": "done"}', 'awaiting_signal start'),
    ('{"kind": "await", "signals": "s"}', '{"kind": "next", "step": "c", "keep": true}', 'awaiting_signal start'),
    ('{"kind": "done"}', '{"kind": "await", "signals": "s"}', 'done start')) x (first, second, behind);

-- journals: what does not follow is its own outcome's matter

select t.claimed('journals', 3) as ids \gset
select is(
    t.told(t.named(:'ids', array['{"kind": "next", "step": "b", "journal": {"at": 0, "add": [{"k": "start"}]}, "keep": true}',
        '{"kind": "next", "step": "b", "journal": {"at": 3, "add": [{"k": "start"}]}, "keep": true}',
        '{"kind": "done", "journal": {"at": 1, "add": [{"k": "end"}]}}']::jsonb[])),
    '0 ok, 1 rejected GD501, 2 rejected GD501', 'journals that are shorter than was thought');
select is((select count(*) from gendurable.journal j where j.instance_id = any(:'ids')), 1::bigint, '(one entry was written)');

-- what others say of machines

select gd_register('known', 1, 'start', p_options => '{"steps": ["start", "b"]}');
create function t.known(p_outcomes jsonb[]) returns text language plpgsql as $$
begin
    perform gd_insert('known', p_queue => 'known') from generate_series(1, 2);
    return t.told(t.named((select array_agg(c.id order by c.id) from t.take('known', 2) c), p_outcomes));
end $$;
select is(t.known(array['{"kind": "next", "step": "b"}', '{"kind": "next", "step": "no"}']::jsonb[]), '0 ok, 1 rejected GD501', 'a step that is not known');
select is(
    t.known(array['{"kind": "next", "step": "no", "keep": true}', '{"kind": "next", "step": "b", "keep": true}']::jsonb[]), '0 rejected GD501, 1 ok',
    'and of kept ones');

create function t.fails() returns trigger language plpgsql as $$
begin
    raise exception 'minds';
end $$;
create trigger fails before update on gendurable.instance for each row when (new.step = 'bad') execute function t.fails();
select t.claimed('minds', 4) as ids \gset
select is(
    t.told(t.named(:'ids', array['{"kind": "next", "step": "bad"}', '{"kind": "next", "step": "b"}', '{"kind": "next", "step": "bad", "keep": true}',
        '{"kind": "next", "step": "b", "keep": true}']::jsonb[])),
    '0 rejected P0001, 1 ok, 2 rejected P0001, 3 ok', 'a trigger that minds costs the rows that it minds');
drop trigger fails on gendurable.instance;

-- the inbox of a claim that goes on

select t.claimed('mail', 3) as ids \gset
select gd_signal((:'ids'::bigint[])[1], 'small', '1');
select gd_signal((:'ids'::bigint[])[2], 'large', to_jsonb(repeat('ab', 10000)));
create temp table mail as
select c.ord, c.result, c.detail from gd_commit('w', t.named(:'ids', array_fill('{"kind": "next", "step": "b", "keep": true}'::jsonb, array[3]))) c;
select is(
    (select jsonb_agg(jsonb_build_array(m.result, m.detail -> 'signals' -> 0 -> 'name') order by m.ord) from mail m),
    '[["ok", "small"], ["ok", null], ["ok", null]]', 'a small inbox comes along');
select is((select m.detail from mail m where m.ord = 1), null, 'who has a large one is given back');
select is(
    (select string_agg(i.status::text, ', ' order by i.id) from gendurable.instance i where i.id = any(:'ids')), 'executing, runnable, executing',
    '(and is due)');

-- the watchers and the inbox of what ends

select t.claimed('ends', 2) as ids \gset
select gd_signal(id, 'x'), gd_watch(id) from unnest(:'ids'::bigint[]) id;
select is(t.told(t.named(:'ids', array['{"kind": "done"}', '{"kind": "next", "step": "b"}']::jsonb[])), '0 ok, 1 ok', 'two with an inbox, of which one ends');
select is(
    (select jsonb_agg(jsonb_build_array(
        (select count(*) from gendurable.signal s where s.instance_id = u.id), (select count(*) from gendurable.watch w where w.instance_id = u.id))
        order by u.id) from unnest(:'ids'::bigint[]) u (id)),
    '[[0, 0], [1, 1]]', 'its inbox is gone, and its watchers are told');

-- what a machine says of the end of its instances, and of the time of its steps

select gd_register('brief', 1, 'start', p_options => '{"retain": {"done": 0}}');
select gd_register('timed', 1, 'start', p_options => '{"timeouts": {"b": 5}}');
create function t.first_of(p_fsm text, p_outcome jsonb) returns text language plpgsql as $$
declare
    v_ids constant bigint[] := gd_insert(p_fsm, p_queue => 'special') || t.claimed('special2', 1);
    v_told text;
begin
    perform t.take('special', 9);
    v_told := t.told(t.named(v_ids, array[p_outcome, '{"kind": "next", "step": "b"}']));
    return v_told || ': ' || coalesce((select i.status::text from gendurable.instance i where i.id = v_ids[1]), 'gone');
end $$;
select is(t.first_of('brief', '{"kind": "done"}'), '0 ok, 1 ok: gone', 'what is not kept at all is removed by its commit');
select is(t.first_of('m', '{"kind": "done"}'), '0 ok, 1 ok: done', 'and others are not');
select is(t.first_of('timed', '{"kind": "next", "step": "b", "keep": true}'), '0 ok, 1 ok: runnable', 'no claim is kept into a timed step');
select is(t.first_of('timed', '{"kind": "next", "step": "c", "keep": true}'), '0 ok, 1 ok: executing', 'and into another one it is');
select gd_insert('m', p_queue => 'pausing') as id \gset
select from t.take('pausing');
select gd_pause_queue('pausing');
select is(
    t.told(t.named(array[:id]::bigint[] || t.claimed('special2', 1), array_fill('{"kind": "next", "step": "b", "keep": true}'::jsonb, array[2]))),
    '0 ok, 1 ok', 'a claim in a queue that is paused meanwhile');
select is(t.status(:id), 'runnable', 'is not kept');
select gd_resume_queue('pausing');

-- a session remembers that little was plain, for a while

select t.claimed('skips', 3) as ids \gset
select is(
    t.told(t.named(:'ids', array['{"kind": "replay"}', '{"kind": "replay", "delay_ms": 1}', '{"kind": "done"}']::jsonb[])),
    '0 ok, 1 ok, 2 ok', 'little is plain');
select is(current_setting('gendurable.short'), repeat('.', 15), 'so many batches take the long way');
select gd_insert('m', p_queue => 'skipped') from generate_series(1, 2);
select count(*) as ok from t.take('skipped', 2) k cross join lateral gd_commit('w', jsonb_build_array(
    jsonb_build_object('id', k.id, 'claim_no', k.claim_no, 'kind', 'next', 'step', 'b', 'keep', true))) c where c.result = 'ok' \gset
select is(:ok, 2, '(which does as well)');
select is(current_setting('gendurable.short'), repeat('.', 13), 'and are counted');
select set_config('gendurable.short', repeat('x', 1000), false);
select from gd_commit('w', '[]');
select is(length(current_setting('gendurable.short')), 1000, 'no batch is none of them');
select from gd_commit('w', '[{}, {}]');
select is(current_setting('gendurable.short'), repeat('x', 15), 'what somebody else put there has an end, too');
select set_config('gendurable.short', '', false);
select is(
    t.told(t.named(t.claimed('alone', 1), array['{"kind": "replay"}']::jsonb[])), '0 ok', 'one that is alone and not plain');
select is(current_setting('gendurable.short'), '', 'says nothing of the batches behind it');

-- a claim that goes on changes no indexed column

select t.claimed('hot', 20) as ids \gset
vacuum gendurable.instance;
begin;
select pg_stat_get_xact_tuples_hot_updated('gendurable.instance'::regclass) as before \gset
select count(*) as ok
from gd_commit('w', t.named(:'ids', array_fill('{"kind": "next", "step": "b", "keep": true}'::jsonb, array[20]))) c where c.result = 'ok' \gset
select pg_stat_get_xact_tuples_hot_updated('gendurable.instance'::regclass) as behind \gset
commit;
select is(:ok, 20, 'twenty claims go on');
select cmp_ok(:behind - :before, '>=', 15, 'as heap-only tuples, but for full pages');
select is_empty($$
    select c.relname, a.attname
    from pg_index x
    join pg_class c on c.oid = x.indexrelid
    join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = x.indexrelid and d.refobjid = x.indrelid
    join pg_attribute a on a.attrelid = x.indrelid and a.attnum = d.refobjsubid
    where x.indrelid = 'gendurable.instance'::regclass and a.attname = any(
        '{status,step,state,claim_no,worker,lease_expires_at,timeout_at,attempt,crashes,deadline_at,awaits,shown,last_error,result,
          updated_at}')
$$, 'no index of instances, and no predicate of one, has a column that claims or kept commits change');

select * from finish();
