\ir helpers/tap.psql
select no_plan();

-- next

select gd_insert('m', '{"a": 1}', p_queue => 'next') as id \gset
select count(*) from t.take('next');
select results_eq(
    format($$select ord, id, result, detail from gd_commit('w', '[{"id": %s, "claim_no": %s, "kind": "next", "step": "b",
        "state": {"a": 2}}]')$$, :id, (select claim_no from gendurable.instance where id = :id)),
    format($$values (0, %s::bigint, 'ok', null::jsonb)$$, :id), 'next is answered ok');
select results_eq(
    format('select status, step, state, attempt, worker from gd_instances where id = %s', :id),
    $$values ('runnable', 'b', '{"a": 2}'::jsonb, 0, null::text)$$, 'and has happened');
select is((select row(c.step, c.state)::text from t.take('next') c), '(b,"{""a"": 2}")', 'the next claim runs the next step');
select t.put(:id, '{"kind": "next", "step": "c", "delay_ms": 3600000}');
select results_eq(
    format('select step, state from gd_instances where id = %s', :id), $$values ('c', '{"a": 2}'::jsonb)$$,
    'no state in the outcome: it stays');
select is_empty($$select * from t.take('next')$$, 'a delay is waited for');
select t.due(:id);
select count(*) from t.take('next');
select t.put(:id, '{"kind": "next", "step": "d", "state": null, "delay_ms": null, "queue": null, "priority": null,
    "rate_limit": null, "weight": null, "keep": null}');
select results_eq(
    format('select step, state, queue from gd_instances where id = %s', :id), $$values ('d', '{"a": 2}'::jsonb, 'next')$$,
    'a null is an absent key');
select count(*) from t.take('next');
select is(t.commit(:id, '{"kind": "next", "step": "d", "consume": null}'), 'ok', 'a null consume too');
select count(*) from t.take('next');
select t.put(:id, '{"kind": "next", "step": "e", "queue": "next_b", "priority": 4}');
select is_empty($$select * from t.take('next')$$, 'another queue: gone from the old one');
select is((select c.step from t.take('next_b') c), 'e', 'and found in the new one, with its new priority');

-- replay

select gd_insert('m', '{"n": 0}', p_queue => 'replay') as id \gset
select t.run('replay', '{"kind": "next", "step": "again"}');
select t.run('replay', '{"kind": "replay", "state": {"n": 1}, "error": "not yet"}');
select is(
    (select row(c.step, c.attempt, c.state)::text from t.take('replay') c), '(again,1,"{""n"": 1}")',
    'replay: the same step, attempt + 1');
select is((select r.last_error from gd_result(:id) r), 'not yet', 'its error is kept');
select t.put(:id, '{"kind": "replay", "delay_ms": 60000}');
select is_empty($$select * from t.take('replay')$$, 'replay with a delay');
select t.due(:id);
select is((select c.attempt from t.take('replay') c), 2, 'and again');
select t.put(:id, '{"kind": "next", "step": "x"}');
select is((select c.attempt from t.take('replay') c), 0, 'next begins at attempt 0');
select t.put(:id, '{"kind": "await", "signals": ["go", "stop"], "timeout_ms": 60000}');
select t.due(:id);
select t.run('replay', '{"kind": "replay", "delay_ms": 1000}');
select t.due(:id);
select is(
    (select row(c.awaits, c.timed_out, c.attempt)::text from t.take('replay') c), '("{go,stop}",t,1)',
    'replay keeps awaits, and that the deadline has passed');

-- done, stop

select gd_insert('m', p_queue => 'end') as id \gset
select gd_signal(:id, 'unread');
select t.run('end', '{"kind": "done", "result": {"total": 12.50}}');
select results_eq(
    format('select status, result, last_error from gd_result(%s)', :id),
    $$values ('done', '{"total": 12.50}'::jsonb, null::text)$$, 'done: the result can be read');
select isnt((select v.finished_at from gd_instances v where v.id = :id), null, 'and when');
select is((select count(*) from gendurable.signal), 0::bigint, 'an end drops the inbox');
select gd_insert('m', p_queue => 'end') as id \gset
select t.run('end', '{"kind": "done"}');
select is((select r.result from gd_result(:id) r), null, 'done without a result');
select gd_insert('m', p_queue => 'end') as id \gset
select t.run('end', '{"kind": "done", "result": null}');
select is((select r.status from gd_result(:id) r), 'done', 'done with the result null');
select gd_insert('m', p_queue => 'end') as id \gset
select t.run('end', '{"kind": "stop", "reason": "card refused"}');
select results_eq(
    format('select status, result, last_error from gd_result(%s)', :id),
    $$values ('failed', null::jsonb, 'card refused')$$, 'stop: failed, with its reason');
select is_empty($$select * from t.take('end', 10)$$, 'what has ended is not handed out');

-- error: back-off, then the end

create function t.backoff(p_queue text, p_outcome jsonb) returns double precision
language plpgsql as $$
declare
    v_id bigint := t.run(p_queue, p_outcome);
    v_seconds double precision := (
        select extract(epoch from v.eligible_at - v.updated_at) from gd_instances v where v.id = v_id);
begin
    perform t.due(v_id);
    return v_seconds;
end $$;
select gd_insert('m', p_queue => 'err') as id \gset
create temp table wait as
select n, t.backoff('err', '{"kind": "error", "error": "boom"}') as s from generate_series(0, 11) n;
select is(
    (select count(*) from wait w where w.s between 0.5 * least(2 ^ w.n, 300) and 1.5 * least(2 ^ w.n, 300)), 12::bigint,
    'error: back-off doubles from one second up to five minutes');
select ok((select count(distinct w.s / 2 ^ w.n) from wait w where w.n < 8) > 1, 'with jitter');
select results_eq(
    format('select status, attempt, last_error from gd_instances where id = %s', :id), $$values ('runnable', 12, 'boom')$$,
    'each error is an attempt');
select count(t.backoff('err', '{"kind": "error", "error": "boom"}')) from generate_series(13, 19);
select is(t.status(:id), 'runnable', 'nineteen errors');
select t.run('err', '{"kind": "error", "error": "the last one"}');
select results_eq(
    format('select status, last_error from gd_instances where id = %s', :id), $$values ('failed', 'the last one')$$,
    'and the twentieth: the attempts are used up, as many as the default');
select gd_insert('m', p_queue => 'err2', p_max_attempts => 2) as id \gset
select is(t.backoff('err2', '{"kind": "error", "error": "x", "delay_ms": 7000}'), 7::double precision, 'the given delay is taken');
select t.run('err2', '{"kind": "error", "error": "y"}');
select is(t.status(:id), 'failed', 'the row''s max_attempts');
select gd_register('flaky', 1, 's', 'err3', '{"max_attempts": 3}');
select gd_insert('flaky') as id \gset
select count(t.backoff('err3', '{"kind": "error", "error": "x"}')) from generate_series(1, 2);
select is(t.status(:id), 'runnable', 'the machine''s max_attempts: two of three');
select t.run('err3', '{"kind": "error", "error": "x"}');
select is(t.status(:id), 'failed', 'three of three');
select gd_insert('flaky', p_max_attempts => 1) as id \gset
select t.run('err3', '{"kind": "error", "error": "x"}');
select is(t.status(:id), 'failed', 'the row''s come before the machine''s');
select gd_insert('m', p_queue => 'err4') as id \gset
select is(t.backoff('err4', '{"kind": "error", "error": "x", "delay_ms": 0}'), 0::double precision, 'a given delay of 0 is a delay of 0');

-- stale: another claim, an ended instance, one that never was, the same outcome twice

select gd_insert('m', p_queue => 'stale') as id \gset
select claim_no as no from t.take('stale') \gset
select is(
    (select array_agg(c.result order by c.ord) from gd_commit('w', format(
        '[{"id": %s, "claim_no": 1, "kind": "done"}, {"id": 999999999, "claim_no": %s, "kind": "done"}]', :id, :no)::jsonb) c),
    '{stale,stale}', 'another claim number, and an id that never was');
select is(t.status(:id), 'executing', 'nothing was written');
select results_eq(
    format($$select ord, result from gd_commit('w', '[{"id": %1$s, "claim_no": %2$s, "kind": "next", "step": "one"},
        {"id": %1$s, "claim_no": %2$s, "kind": "next", "step": "two"}]')$$, :id, :no),
    $$values (0, 'ok'), (1, 'stale')$$, 'twice in one batch: the first counts');
select is((select v.step from gd_instances v where v.id = :id), 'one', 'and only the first');
select is(
    (select c.result from gd_commit('w', format('[{"id": %s, "claim_no": %s, "kind": "next", "step": "two"}]', :id, :no)::jsonb) c),
    'stale', 'and once more, in a later call');

-- rejected: with its place and a reason, nothing written, the claim still stands

select gd_insert('m', p_queue => 'rej') as id \gset
select claim_no as no from t.take('rej') \gset
select t.rejects(:id, '{"kind": "sideways"}', 'GD501', 'an unknown kind');
select t.rejects(:id, '{"kind": 5}', 'GD501', 'a kind that is a number');
select t.rejects(:id, '{}', 'GD501', 'no kind');
select t.rejects(:id, '{"kind": "next"}', 'GD501', 'next without a step');
select t.rejects(:id, '{"kind": "next", "step": null}', 'GD501', 'next with a null step');
select t.rejects(:id, '{"kind": "next", "step": ""}', 'GD501', 'next with an empty step');
select t.rejects(:id, '{"kind": "next", "step": "b", "setp": "b"}', 'GD501', 'next with an unknown key');
select t.rejects(:id, '{"kind": "next", "step": "b", "state": []}', 'GD501', 'next with a state that is an array');
select t.rejects(:id, '{"kind": "next", "step": "b", "delay_ms": -1}', 'GD501', 'next with a negative delay');
select t.rejects(:id, '{"kind": "next", "step": "b", "delay_ms": "5"}', 'GD501', 'next with a delay that is text');
select t.rejects(:id, '{"kind": "next", "step": "b", "delay_ms": 1e300}', 'GD501', 'next with a delay past all times');
select t.rejects(:id, '{"kind": "next", "step": "b", "partition_key": ""}', 'GD501', 'next with an empty key');
select t.rejects(:id, '{"kind": "next", "step": "b", "queue": ""}', 'GD501', 'next with an empty queue');
select t.rejects(:id, '{"kind": "next", "step": "b", "priority": 0.5}', 'GD501', 'next with half a priority');
select t.rejects(:id, '{"kind": "next", "step": "b", "weight": 0}', 'GD501', 'next with a weight of 0');
select t.rejects(:id, '{"kind": "next", "step": "b", "keep": "yes"}', 'GD501', 'next with a keep that is text');
select t.rejects(:id, '{"kind": "next", "step": "b", "rate_limit": "nobody"}', 'GD502', 'next with a rate limit that does not exist');
select t.rejects(:id, '{"kind": "next", "step": "b", "consume": 5}', 'GD501', 'a consume that is no array');
select t.rejects(:id, '{"kind": "next", "step": "b", "consume": ["a"]}', 'GD501', 'a consume of texts');
select t.rejects(:id, '{"kind": "replay", "step": "b"}', 'GD501', 'replay with a step');
select t.rejects(:id, '{"kind": "replay", "error": 5}', 'GD501', 'replay with an error that is a number');
select t.rejects(:id, '{"kind": "await"}', 'GD501', 'await of nothing');
select t.rejects(:id, '{"kind": "await", "signals": []}', 'GD501', 'await of no names');
select t.rejects(:id, '{"kind": "await", "signals": ""}', 'GD501', 'await of an empty name');
select t.rejects(:id, '{"kind": "await", "signals": ["a", ""]}', 'GD501', 'await of one empty name');
select t.rejects(:id, '{"kind": "await", "signals": ["a", 5]}', 'GD501', 'await of a number');
select t.rejects(:id, '{"kind": "await", "signals": "a", "timeout_ms": -5}', 'GD501', 'await with a negative timeout');
select t.rejects(:id, '{"kind": "await", "signals": "a", "timeout": 5}', 'GD501', 'await with an unknown key');
select t.rejects(:id, '{"kind": "schedule_childs", "step": "b"}', 'GD501', 'schedule_childs without childs');
select t.rejects(:id, '{"kind": "schedule_childs", "childs": []}', 'GD501', 'schedule_childs without a step');
select t.rejects(:id, '{"kind": "schedule_childs", "step": "b", "childs": {}}', 'GD501', 'childs that are an object');
select t.rejects(:id, '{"kind": "schedule_childs", "step": "b", "childs": [{"fsm": "c"}, {"fsm": ""}]}', 'GD501', 'one child without a machine');
select t.rejects(:id, '{"kind": "schedule_childs", "step": "b", "childs": [{"fsm": "c", "nope": 1}]}', 'GD501', 'a child with an unknown key');
select t.rejects(:id, '{"kind": "schedule_childs", "step": "b", "childs": [{"fsm": "c", "rate_limit": "r"}]}', 'GD502', 'a child with an unknown rate limit');
select t.rejects(:id, '{"kind": "done", "reason": "x"}', 'GD501', 'done with a reason');
select t.rejects(:id, '{"kind": "done", "state": {}}', 'GD501', 'done with a state');
select t.rejects(:id, '{"kind": "stop"}', 'GD501', 'stop without a reason');
select t.rejects(:id, '{"kind": "stop", "reason": null}', 'GD501', 'stop with a null reason');
select t.rejects(:id, '{"kind": "error"}', 'GD501', 'error without an error');
select t.rejects(:id, '{"kind": "error", "error": "x", "delay_ms": -1}', 'GD501', 'error with a negative delay');
select results_eq(
    format($$select ord, id, claim_no, result, detail ->> 'sqlstate' from gd_commit('w',
        '[{"claim_no": 1, "kind": "done"}, {"id": %s, "kind": "done"}, 5, null, {"id": "1", "claim_no": 1, "kind": "done"},
          {"id": 1e30, "claim_no": 1, "kind": "done"}]')$$, :id),
    format($$values (0, null::bigint, 1::bigint, 'rejected', 'GD501'), (1, %s, null, 'rejected', 'GD501'),
        (2, null, null, 'rejected', 'GD501'), (3, null, null, 'rejected', 'GD501'), (4, null, 1, 'rejected', 'GD501'),
        (5, null, 1, 'rejected', 'GD501')$$, :id),
    'a missing id or claim_no, and what is no outcome at all');
select is(t.commit(:id, '{"kind": "error", "error": "my outcome was rejected"}'), 'ok', 'after all that the claim still stands');
select gd_insert('m', p_queue => 'rej2') as id \gset
select count(*) from t.take('rej2');
select t.rejects(:id, '{"kind": "await", "signals": [["a"]]}', 'GD501', 'await of an array');

select t.raises($$select gd_commit('w', null)$$, 'GD501', 'commit: null');
select t.raises($$select gd_commit('w', '{}')$$, 'GD501', 'commit: an object');
select t.raises($$select gd_commit('', '[]')$$, 'GD501', 'commit: an empty worker');
select t.raises($$select gd_commit('w', '[]', '0')$$, 'GD501', 'commit: a lease of nothing');
select is_empty($$select * from gd_commit('w', '[]')$$, 'commit: nothing');

-- one bad outcome takes nobody with it: bad in its form, bad where it is written

select count(*) from gd_insert_many((select jsonb_agg('{"fsm": "m", "queue": "b100"}'::jsonb) from generate_series(1, 100)));
create temp table b100 as select row_number() over (order by id) as n, * from t.take('b100', 100);
create function t.batch(p_table regclass, p_bad int, p_outcome jsonb) returns setof text
language plpgsql as $$
begin
    return query execute format($q$
        select c.result || ' ' || count(*) || coalesce(' ' || min(c.detail ->> 'sqlstate'), '') || coalesce(' ' || min(c.ord) filter (where c.result <> 'ok'), '')
        from gd_commit('w', (select jsonb_agg(jsonb_build_object('id', b.id, 'claim_no', b.claim_no)
            || case when b.n = %s then %L::jsonb else '{"kind": "next", "step": "b"}' end order by b.n) from %s b)) c
        group by c.result order by c.result$q$, p_bad, p_outcome, p_table);
end $$;
select results_eq(
    $$select t.batch('b100', 42, '{"kind": "sideways"}')$$, $$values ('ok 99'), ('rejected 1 GD501 41')$$,
    'a batch of 100 with one bad kind: 99 commit, one is rejected');
create temp table b100b as select row_number() over (order by id) as n, * from t.take('b100', 100);
select results_eq(
    $$select t.batch('b100b', 7, '{"kind": "schedule_childs", "step": "s", "childs": [{"fsm": ""}]}')$$,
    $$values ('ok 98'), ('rejected 1 GD501 6')$$, 'one bad child: the same');
create temp table b100c as select row_number() over (order by id) as n, * from t.take('b100', 100);
select results_eq(
    $$select t.batch('b100c', 98, '{"kind": "next", "step": "s", "rate_limit": "nobody"}')$$,
    $$values ('ok 97'), ('rejected 1 GD502 97')$$, 'one unknown rate limit: the same');
select is(
    (select array_agg(distinct v.status order by v.status) from gd_instances v where v.queue = 'b100'), '{executing,runnable}',
    'the three rejected claims still stand');
select is((select count(*) from gd_instances v where v.queue = 'b100' and v.status = 'executing'), 3::bigint, '(three)');

-- keep

select gd_insert('m', p_queue => 'keep', p_meta => '{"t": 1}') as id \gset
select claim_no as no from t.take('keep') \gset
select gd_signal(:id, 'hello', '1');
select t.answer(:id, '{"kind": "next", "step": "b", "state": {"k": 1}, "keep": true}') as answer \gset
select is((:'answer'::jsonb) ->> 'result', 'ok', 'keep is answered ok');
select is(
    (select array_agg(k order by k) from jsonb_object_keys((:'answer'::jsonb) -> 'detail') k),
    '{attempt,attributes,awaits,childs,claim_no,fsm,fsm_version,id,meta,parent_id,partition_key,queue,signals,state,step,timed_out,unique_key}',
    'with all that a claim would return');
select is(
    ((:'answer'::jsonb) -> 'detail') - '{claim_no,signals}'::text[],
    jsonb_build_object('id', :id, 'fsm', 'm', 'fsm_version', 1, 'step', 'b', 'state', '{"k": 1}'::jsonb, 'attempt', 0,
        'queue', 'keep', 'partition_key', null, 'unique_key', null, 'parent_id', null, 'awaits', null, 'timed_out', false,
        'childs', '[]'::jsonb, 'meta', '{"t": 1}'::jsonb, 'attributes', '{}'::jsonb), 'as it is now');
select is((:'answer'::jsonb) #>> '{detail,signals,0,name}', 'hello', 'and the inbox');
select ok(((:'answer'::jsonb) #>> '{detail,claim_no}')::bigint > :no, 'under a new claim number');
select is(t.status(:id), 'executing', 'it goes on executing');
select is((select v.worker from gd_instances v where v.id = :id), 'w', 'for the same worker');
select is(
    (select c.result from gd_commit('w', jsonb_build_array(jsonb_build_object('id', :id, 'claim_no', :no, 'kind', 'done'))) c),
    'stale', 'the old number is worth nothing');
select is(
    t.answer(:id, '{"kind": "next", "step": "c", "keep": true, "delay_ms": 60000}'), '{"result": "ok", "detail": null}',
    'keep with a delay: given back');
select is(t.status(:id), 'runnable', 'and not executing');
select t.due(:id);
select count(*) from t.take('keep');
select is(
    t.answer(:id, '{"kind": "next", "step": "c", "keep": true, "priority": 5}') -> 'detail', 'null', 'keep with another priority: given back');
select count(*) from t.take('keep');
select is(
    t.answer(:id, '{"kind": "next", "step": "c", "keep": true, "partition_key": "kk"}') -> 'detail', 'null',
    'keep with a change of key: given back');
select count(*) from t.take('keep');
select is(t.answer(:id, '{"kind": "next", "step": "c", "keep": true}') #>> '{detail,partition_key}', 'kk', 'keep with an empty lane is kept');
select gd_insert('m', p_queue => 'keep', p_partition_key => 'kk') as other \gset
select is(t.answer(:id, '{"kind": "next", "step": "c", "keep": true}') -> 'detail', 'null', 'keep while somebody waits in the key: given back');
select is((select c.id from t.take('keep', 5) c), :'other', 'and the one that waited has its turn');
select t.put(:other, '{"kind": "done"}');
select count(*) from t.take('keep');
select gd_pause_queue('keep');
select is(t.answer(:id, '{"kind": "next", "step": "c", "keep": true}') -> 'detail', 'null', 'keep in a paused queue: given back');
select gd_resume_queue('keep');
select is((select c.id from t.take('keep') c), :'id', '(claimed)');
select is(t.answer(:id, '{"kind": "next", "step": "c", "keep": true, "queue": "keep2"}') -> 'detail', 'null', 'keep with another queue: given back');

-- the short way of reading an outcome, against the long one

create temp table tried as
select o, gendurable._is_plain_outcome(o) as plain
from unnest(array['"next"', '"done"', '"stop"', '"replay"', '7', null]::jsonb[]) kind,
    unnest(array['5', '"5"', 'null', null]::jsonb[]) id,
    unnest(array['6', '[6]', null]::jsonb[]) no,
    unnest(array['"b"', '""', '5', 'null', to_jsonb(repeat('ä', 1000)), to_jsonb(repeat('ä', 1001)), null]::jsonb[]) step,
    unnest(array['{"a": 1}', '[]', '"{}"', 'null', null]::jsonb[]) state,
    unnest(array['true', 'false', '"true"', 'null', null]::jsonb[]) keep,
    unnest(array['"result"', '"delay_ms"', '"consume"', '"journal"', '"setp"', null]::jsonb[]) other,
    lateral (
        select coalesce(jsonb_object_agg(k, v) filter (where v is not null), '{}') as o
        from unnest(array['kind', 'id', 'claim_no', 'step', 'state', 'keep', other #>> '{}'],
            array[kind, id, no, step, state, keep, case other
                when '"journal"' then '{"at": 0, "add": [{"k": "a"}]}' else case when other is not null then '7'::jsonb end end]) u (k, v)
        where k is not null) object;
select is_empty(
    $$select o from tried where plain and gendurable._outcome_problem(o) is not null$$, 'what is read the short way is valid');
select is_empty(
    $$select o from tried
    where plain and gendurable._plain_outcome(3, o, now()) is distinct from gendurable._parse_outcome(3, o, now())$$,
    'and it is read the same');
select results_eq(
    $$select count(*) filter (where o ->> 'kind' = 'next') > 5, count(*) filter (where o ->> 'kind' = 'done') > 1 from tried where plain$$,
    'values (true, true)', 'both kinds are');
select ok(bool_or(plain) and not bool_and(plain), 'with a journal, too') from tried where o ? 'journal';

set default_transaction_isolation = 'repeatable read';
select t.raises($$select gd_commit('w', '[]')$$, 'GD504', 'commit: under REPEATABLE READ');
set default_transaction_isolation = 'read committed';

-- an answer names its outcome, whatever its id

select is(
    (select row(c.id, c.claim_no, c.result)::text from gd_commit('w', jsonb_build_array(jsonb_build_object(
        'id', x.id, 'claim_no', 7, 'kind', 'none'))) c),
    format('(%s,7,rejected)', x.id), 'rejected, with its id: ' || x.id)
from (values (1::bigint), (1000000000000000000), (9223372036854775807), (-5), (-9223372036854775808)) x (id);
select is(
    (select c.id from gd_commit('w', format('[{"id": %s, "claim_no": 7, "kind": "none"}]', x.id)::jsonb) c), null,
    'no id: ' || x.id)
from (values ('9223372036854775808'), ('1e40'), ('1.5'), ('-9223372036854775809')) x (id);
set standard_conforming_strings = off;
set escape_string_warning = off;
select is(
    (select c.id from gd_commit('w', '[{"id": 12, "claim_no": 7, "kind": "none"}]') c), 12::bigint,
    'whatever a backslash means in this session');
reset standard_conforming_strings;
reset escape_string_warning;

select * from finish();
