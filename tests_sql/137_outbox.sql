\ir helpers/tap.psql
select no_plan();

-- What is in an inbox, in order.
create function t.inbox(p_id bigint) returns text
language sql as $$
    select string_agg(s.name || '=' || s.payload, ' ' order by s.id) from gd_signals(p_id) s
$$;

-- insert: by outcomes of every kind but error

select gd_insert('m', p_queue => 'ins', p_meta => '{"traceparent": "t1", "baggage": "b1", "mine": 1}') as id \gset
select count(*) from t.take('ins');
select t.put(:id, '{"kind": "next", "step": "b", "insert": [{"fsm": "x", "queue": "out", "state": {"n": 1}, "unique_key": "x:1"},
    {"fsm": "x", "queue": "out", "state": {"n": 2}, "meta": {"baggage": "b2", "own": 2}, "partition_key": "k"}]}');
select results_eq(
    $$select fsm, step, state, queue, unique_key, partition_key, parent_id, meta from gd_instances where fsm = 'x' order by id$$,
    $$values ('x', 'start', '{"n": 1}'::jsonb, 'out', 'x:1', null, null::bigint, '{"traceparent": "t1", "baggage": "b1"}'::jsonb),
        ('x', 'start', '{"n": 2}', 'out', null, 'k', null, '{"traceparent": "t1", "baggage": "b2", "own": 2}')$$,
    'insert: what gd_insert_many would insert, no children, with the trace of the instance');
select is((select row(c.step, c.state)::text from t.take('ins') c), '(b,{})', 'and the outcome itself has happened');
select t.put(:id, '{"kind": "replay", "insert": [{"fsm": "x", "unique_key": "x:1"}, {"fsm": "x", "unique_key": "x:2", "step": "s"}]}');
select results_eq(
    $$select unique_key, step from gd_instances where fsm = 'x' and unique_key is not null order by id$$,
    $$values ('x:1', 'start'), ('x:2', 's')$$, 'a unique key that is taken: nothing is created, the rest is');
select count(*) from t.take('ins');
select t.put(:id, '{"kind": "await", "signals": "go", "insert": [{"fsm": "x", "unique_key": "x:3"}]}');
select is(gd_find('x:3') is not null, true, 'by await');
select gd_signal(:id, 'go') as _ \gset
select count(*) from t.take('ins');
select t.put(:id, '{"kind": "schedule_childs", "step": "b", "childs": [{"fsm": "c", "queue": "cs"}], "insert": [{"fsm": "x", "unique_key": "x:4"}]}');
select results_eq(
    format('select children_pending, (select count(*) from gd_childs(%s)), (select parent_id from gendurable.instance where id = gd_find(''x:4''))
        from gendurable.instance where id = %1$s', :id),
    $$values (1, 1::bigint, null::bigint)$$, 'by schedule_childs: beside the children, and none of them');
select t.run('cs', '{"kind": "stop", "reason": "no", "insert": [{"fsm": "x", "unique_key": "x:5"}]}') as c \gset
select is(gd_find('x:5') is not null and t.status(:c) = 'failed', true, 'by stop');
select count(*) from t.take('ins');
select t.put(:id, '{"kind": "done", "insert": [{"fsm": "x", "unique_key": "x:6"}]}');
select is(gd_find('x:6') is not null and t.status(:id) = 'done', true, 'by done');

select gd_insert('m', p_queue => 'again', p_unique_key => 'job:7') as id \gset
select t.run('again', '{"kind": "done", "insert": [{"fsm": "m", "queue": "again2", "unique_key": "job:7"}],
    "signal": [{"unique_key": "job:7", "name": "first"}]}');
select is(gd_find('job:7') > :id, true, 'a unique key that the outcome lets go is free for what it inserts');
select is(t.inbox(gd_find('job:7')), 'first=null', 'and a signal finds what was inserted with it');

select gd_insert('m', p_queue => 'same') as a \gset
select gd_insert('m', p_queue => 'same') as b \gset
create temp table same as select * from t.take('same', 5);
select results_eq(
    $$select c.result from gd_commit('w', (select jsonb_agg(jsonb_build_object('id', s.id, 'claim_no', s.claim_no, 'kind', 'done',
        'insert', jsonb_build_array(jsonb_build_object('fsm', 'y', 'unique_key', 'same', 'state', jsonb_build_object('by', s.id))))
        order by s.id desc) from same s)) c$$,
    $$values ('ok'), ('ok')$$, 'two outcomes of a batch with one key');
select is((select (i.state ->> 'by')::bigint from gd_instances i where i.unique_key = 'same'), :'b', 'the first in the batch wins');

-- signal

select gd_insert('m', p_queue => 'tgt', p_unique_key => 'order:1') as target \gset
select t.run('tgt', '{"kind": "await", "signals": "paid"}');
select gd_insert('m', p_queue => 'snd') as id \gset
select count(*) from t.take('snd');
select t.put(:id, format('{"kind": "next", "step": "b", "signal": [{"id": %s, "name": "note", "payload": {"n": 1}},
    {"unique_key": "order:1", "name": "note", "payload": null, "dedup_key": null}, {"id": %1$s, "name": "note", "payload": 3, "unique_key": null}]}',
    :target)::jsonb);
select is(t.inbox(:target), 'note={"n": 1} note=null note=3', 'signal: delivered in order, by id and by unique key');
select is(t.status(:target), 'awaiting_signal', 'another name than the awaited one wakes nobody');
select count(*) from t.take('snd');
select t.put(:id, '{"kind": "replay", "signal": [{"unique_key": "order:1", "name": "paid", "dedup_key": "e7"}]}');
select is(t.status(:target), 'runnable', 'the awaited one does');
select count(*) from t.take('snd');
select t.put(:id, '{"kind": "replay", "signal": [{"unique_key": "order:1", "name": "paid", "dedup_key": "e7"},
    {"unique_key": "order:1", "name": "more", "dedup_key": "e8"}]}');
select is(t.inbox(:target), 'note={"n": 1} note=null note=3 paid=null more=null', 'a dedup key works as that of gd_signal');
select t.run('tgt', '{"kind": "done"}');
select count(*) from t.take('snd');
select t.put(:id, format('{"kind": "next", "step": "c", "signal": [{"id": %s, "name": "late"}, {"unique_key": "order:1", "name": "late"},
    {"id": 999999999, "name": "nobody"}, {"id": -1, "name": "bell"}, {"unique_key": "nobody", "name": "nobody"}, {"unique_key": "%1$s", "name": "key"}]}',
    :target)::jsonb);
select is_empty(format('select * from gendurable.signal where instance_id in (%s, 999999999, -1)', :target),
    'no target, or one that has ended: dropped');
select is((select c.step from t.take('snd') c), 'c', 'and the outcome is committed');
select t.put(:id, format('{"kind": "done", "signal": [{"id": %s, "name": "self"}]}', :id)::jsonb);
select is_empty(format('select * from gendurable.signal where instance_id = %s', :id), 'to itself by an end: dropped');

select gd_insert('m', p_queue => 'self', p_unique_key => 'me', p_partition_key => 'self') as id \gset
select count(*) from t.take('self');
select t.put(:id, format('{"kind": "await", "signals": "go", "timeout_ms": 60000, "signal": [{"id": %s, "name": "go", "payload": 1}]}', :id)::jsonb);
select results_eq(
    $$select c.awaits, c.timed_out, c.signals -> 0 -> 'payload' from t.take('self') c$$,
    $$values ('{go}'::text[], false, '1'::jsonb)$$, 'a signal to itself answers the await that it comes with');
select t.put(:id, format('{"kind": "await", "signals": "go", "signal": [{"unique_key": "me", "name": "go", "payload": 2}]}', :id)::jsonb);
select is((select c.signals -> 1 -> 'payload' from t.take('self') c), '2'::jsonb, 'by its unique key, too');
select is(t.repaired(), 0, 'no baton was dropped');

select gd_insert('m', p_queue => 'kept') as id \gset
select count(*) from t.take('kept');
create temp table kept as select t.answer(:id, format(
    '{"kind": "next", "step": "b", "keep": true, "signal": [{"id": %s, "name": "self"}], "insert": [{"fsm": "z", "unique_key": "z"}]}', :id)::jsonb) as a;
select is((select row(a #>> '{detail,step}', a #>> '{detail,signals,0,name}')::text from kept), '(b,self)',
    'a claim that goes on shows what was sent to itself');
select is(gd_find('z') is not null, true, 'and has inserted');

select gd_insert('m', p_queue => 'par') as id \gset
select t.run('par', '{"kind": "schedule_childs", "step": "join", "childs": [{"fsm": "c", "queue": "parc"}]}');
select t.run('parc', format('{"kind": "done", "signal": [{"id": %s, "name": "child", "payload": 1}]}', :id)::jsonb);
select is((select row(c.step, c.signals -> 0 -> 'name')::text from t.take('par') c), '(join,"""child""")',
    'to its parent, with the end that the parent waits for');

select gd_insert('m', p_queue => 'ring') as a \gset
select gd_insert('m', p_queue => 'ring') as b \gset
create temp table ring as select * from t.take('ring', 5);
select results_eq(
    format($$select c.result from gd_commit('w', (select jsonb_agg(jsonb_build_object('id', r.id, 'claim_no', r.claim_no, 'kind', 'await', 'signals',
        'x', 'signal', jsonb_build_array(jsonb_build_object('id', %s + %s - r.id, 'name', 'x')))) from ring r)) c$$, :a, :b),
    $$values ('ok'), ('ok')$$, 'two of a batch that signal each other');
select is((select count(*) from t.take('ring', 5) c where c.signals #>> '{0,name}' = 'x'), 2::bigint,
    'have both parked before, and both been woken');

-- what a machine does not keep at all

select gd_register('brief', 1, 'start', 'brief', '{"retain": {"done": 0}}');
select gd_insert('brief', p_meta => '{"traceparent": "t9"}') as id \gset
select gd_insert('m', p_queue => 'brief_t') as target \gset
select t.run('brief', format('{"kind": "done", "insert": [{"fsm": "x", "unique_key": "x:9"}], "signal": [{"id": %s, "name": "bye"}]}', :target)::jsonb);
select is(t.status(:id), null, 'an instance that is removed by its commit');
select is((select i.meta from gd_instances i where i.unique_key = 'x:9'), '{"traceparent": "t9"}'::jsonb, 'has inserted, with its trace');
select is(t.inbox(:target), 'bye=null', 'and signalled');

-- at

select gd_set_rate_limit('at', 1000, '1 second', 1000);
create function t.at(p_outcome jsonb, p_row gendurable.instance) returns gendurable.instance
language plpgsql as $$
declare
    v_id bigint;
begin
    -- a claimed row that has some of everything that belongs to the claimed step
    v_id := gd_insert('m', '{"n": 0}', p_queue => 'at');
    perform t.take('at');
    perform t.put(v_id, '{"kind": "next", "step": "claimed", "rate_limit": "at", "weight": 2}');
    perform t.take('at');
    perform t.put(v_id, '{"kind": "replay", "error": "first"}');
    perform gd_signal(v_id, 'seen');
    perform t.take('at');
    update gendurable.instance i
    set awaits = '{seen}', shown = array(select s.id from gendurable.signal s where s.instance_id = v_id), deadline_at = clock_timestamp()
    where i.id = v_id;
    perform t.put(v_id, p_outcome);
    select * into p_row from gendurable.instance i where i.id = v_id;
    delete from gendurable.instance i where i.id = v_id;
    return p_row;
end $$;
create function t.brief(p_row gendurable.instance) returns text
language sql as $$
    select concat_ws(' ', p_row.status, p_row.step, p_row.state::text, 'attempt=' || p_row.attempt, 'awaits=' || p_row.awaits::text,
        'shown=' || cardinality(p_row.shown), case when p_row.deadline_at is not null then 'deadline' end,
        'limit=' || p_row.rate_limit || '*' || p_row.weight, 'error=' || p_row.last_error, 'result=' || p_row.result::text)
$$;

select is(t.brief(t.at('{"kind": "replay"}', null)),
    'runnable claimed {"n": 0} attempt=2 awaits={seen} shown=1 deadline limit=at*2 error=first', 'without at: replay');
select is(t.brief(t.at('{"kind": "replay", "at": {"step": "later", "state": {"n": 5}}}', null)),
    'runnable later {"n": 5} attempt=1', 'replay at a later step: nothing of the claimed step is left');
select is(t.brief(t.at('{"kind": "replay", "at": {"step": "later"}, "state": {"n": 6}, "error": "second"}', null)),
    'runnable later {"n": 6} attempt=1 error=second', 'with a state and an error of its own');
select is(t.brief(t.at('{"kind": "replay", "at": {"step": "later", "state": null}}', null)),
    'runnable later {"n": 0} attempt=1', 'no state: that of the row');
select is(t.brief(t.at('{"kind": "replay", "at": null, "insert": null, "signal": null}', null)),
    'runnable claimed {"n": 0} attempt=2 awaits={seen} shown=1 deadline limit=at*2 error=first', 'a null is an absent key');
select is(t.brief(t.at('{"kind": "next", "step": "on", "at": {"step": "later", "state": {"n": 5}}}', null)),
    'runnable on {"n": 5} attempt=0', 'next');
select is(t.brief(t.at('{"kind": "next", "step": "on", "at": {"step": "later"}, "rate_limit": "at"}', null)),
    'runnable on {"n": 0} attempt=0 limit=at*1', 'next with a limit');
select is(t.brief(t.at('{"kind": "await", "signals": "seen"}', null)),
    'awaiting_signal claimed {"n": 0} attempt=0 awaits={seen} shown=1', 'without at: what was shown is not awaited again');
select is(t.brief(t.at('{"kind": "await", "signals": "seen", "at": {"step": "later", "state": {"n": 5}}}', null)),
    'runnable later {"n": 5} attempt=0 awaits={seen}', 'await at a later step: what was shown to the claimed one answers it');
select is(t.brief(t.at('{"kind": "await", "signals": "seen", "step": "on", "at": {"step": "later"}}', null)),
    'runnable on {"n": 0} attempt=0 awaits={seen}', 'with a step of its own');
select is(t.brief(t.at('{"kind": "await", "signals": "other", "at": {"step": "later"}}', null)),
    'awaiting_signal later {"n": 0} attempt=0 awaits={other}', 'for another name it parks');
select is(t.brief(t.at('{"kind": "schedule_childs", "step": "join", "childs": [{"fsm": "c", "queue": "none"}],
    "at": {"step": "later", "state": {"n": 5}}}', null)),
    'awaiting_children join {"n": 5} attempt=0', 'schedule_childs');
select is(t.brief(t.at('{"kind": "done", "result": 1, "at": {"step": "later", "state": {"n": 5}}}', null)),
    'done later {"n": 5} attempt=0 result=1', 'done');
select is(t.brief(t.at('{"kind": "done", "result": 1}', null)),
    'done claimed {"n": 0} attempt=1 limit=at*2 result=1', 'without at: done');
select is(t.brief(t.at('{"kind": "stop", "reason": "no", "at": {"step": "later", "state": {"n": 5}}}', null)),
    'failed later {"n": 5} attempt=0 error=no', 'stop: gd_retry runs the later step, from its state');
select is(t.brief(t.at('{"kind": "stop", "reason": "no"}', null)),
    'failed claimed {"n": 0} attempt=1 awaits={seen} shown=1 deadline limit=at*2 error=no', 'without at: stop');

select gd_insert('m', p_queue => 'atk') as id \gset
select count(*) from t.take('atk');
select is(t.answer(:id, '{"kind": "next", "step": "c", "keep": true, "at": {"step": "b", "state": {"n": 2}}}') #>> '{detail,state,n}', '2',
    'with keep: the claim goes on from there');

-- what is not valid is rejected, alone, and nothing of it has happened

select gd_insert('m', p_queue => 'rej', p_rate_limit => 'at') as id \gset
select count(*) from t.take('rej');
select t.rejects(:id, '{"kind": "done"}' || x::jsonb, 'GD501', x) from unnest(array[
    '{"insert": {}}', '{"insert": 5}', '{"insert": [5]}', '{"insert": [null]}', '{"insert": [{}]}', '{"insert": [{"fsm": ""}]}',
    '{"insert": [{"fsm": "x", "nope": 1}]}', '{"insert": [{"fsm": "x"}, {"fsm": "x", "state": []}]}',
    '{"insert": [{"fsm": "x", "priority": 1e10}]}', '{"insert": [{"fsm": "x", "delay_ms": -1}]}', '{"insert": [{"fsm": "x", "meta": 5}]}',
    '{"insert": [{"fsm": "x", "expires_at": "soon"}]}', '{"insert": [{"fsm": "x", "unique_scope": ["runnable"]}]}',
    '{"signal": {}}', '{"signal": "go"}', '{"signal": [5]}', '{"signal": [null]}', '{"signal": [{}]}', '{"signal": [{"name": "go"}]}',
    '{"signal": [{"id": null, "unique_key": null, "name": "go"}]}', '{"signal": [{"id": 1, "unique_key": "k", "name": "go"}]}',
    '{"signal": [{"id": 1}]}', '{"signal": [{"id": 1, "name": ""}]}', '{"signal": [{"id": 1, "name": null}]}', '{"signal": [{"id": 1, "name": 5}]}',
    '{"signal": [{"id": "1", "name": "go"}]}', '{"signal": [{"id": 1.5, "name": "go"}]}', '{"signal": [{"id": 9223372036854775808, "name": "go"}]}',
    '{"signal": [{"id": -1e300, "name": "go"}]}', '{"signal": [{"id": true, "name": "go"}]}', '{"signal": [{"unique_key": "", "name": "go"}]}',
    '{"signal": [{"unique_key": 5, "name": "go"}]}', '{"signal": [{"id": 1, "name": "go", "dedup_key": ""}]}',
    '{"signal": [{"id": 1, "name": "go", "dedup_key": {}}]}', '{"signal": [{"id": 1, "name": "go", "to": 1}]}',
    '{"signal": [{"id": 1, "name": "go"}, {"id": 1}]}',
    '{"at": 5}', '{"at": "b"}', '{"at": {}}', '{"at": {"step": ""}}', '{"at": {"step": 5}}', '{"at": {"step": "b", "state": []}}',
    '{"at": {"step": "b", "attempt": 1}}'
]) x;
select t.rejects(:id, jsonb_build_object('kind', 'done', 'signal', jsonb_build_array(jsonb_build_object('id', 1, 'name', repeat('x', 2001)))),
    'GD501', 'a name that is too long');
select t.rejects(:id, jsonb_build_object('kind', 'done', 'signal', jsonb_build_array(jsonb_build_object('unique_key', repeat('x', 2001), 'name', 'x'))),
    'GD501', 'a unique key that is too long');
select t.rejects(:id, jsonb_build_object('kind', 'done', 'signal', jsonb_build_array(jsonb_build_object('id', 1, 'name', 'x', 'dedup_key', repeat('x', 2001)))),
    'GD501', 'a dedup key that is too long');
select t.rejects(:id, jsonb_build_object('kind', 'done', 'at', jsonb_build_object('step', repeat('x', 2001))), 'GD501', 'a step that is too long');
select t.rejects(:id, jsonb_build_object('kind', 'done', 'insert', jsonb_build_array(jsonb_build_object('fsm', 'x', 'unique_key', repeat('x', 2001)))),
    'GD501', 'a unique key of an instance that is too long');
select t.rejects(:id, '{"kind": "done", "insert": [{"fsm": "x", "rate_limit": "nobody"}]}', 'GD502', 'an instance with a limit that does not exist');
select t.rejects(:id, '{"kind": "replay", "close_ms": 5, "at": {"step": "b"}}', 'GD501', 'close_ms at a step without a limit');
select t.rejects(:id, '{"kind": "error", "error": "x", "insert": [{"fsm": "x"}]}', 'GD501', 'insert in an error');
select t.rejects(:id, '{"kind": "error", "error": "x", "signal": []}', 'GD501', 'signal in an error');
select t.rejects(:id, '{"kind": "error", "error": "x", "at": {"step": "b"}}', 'GD501', 'at in an error');
select is(t.commit(:id, '{"kind": "done", "insert": [], "signal": []}'), 'ok', 'after all that the claim still stands; empty arrays are nothing');

select gd_insert('m', p_queue => 'tgt2', p_unique_key => 'tgt2') as target \gset
select count(*) from gd_insert_many((select jsonb_agg('{"fsm": "m", "queue": "b40"}'::jsonb) from generate_series(1, 40)));
create temp table b40 as select row_number() over (order by id) as n, * from t.take('b40', 40);
create temp table answers as
select n.n, c.result
from gd_commit('w', (
    select jsonb_agg(jsonb_build_object('id', b.id, 'claim_no', b.claim_no, 'kind', 'done',
        'insert', jsonb_build_array(jsonb_build_object('fsm', case when b.n = 17 then '' else 'w' end, 'state', jsonb_build_object('n', b.n))),
        'signal', jsonb_build_array(jsonb_build_object('unique_key', 'tgt2', 'name', 'n', 'payload', b.n))) order by b.n)
    from b40 b)) c
join b40 n on n.id = c.id;
select is((select array_agg(a.n) from answers a where a.result <> 'ok'), '{17}', 'one bad outcome of 40: it alone is rejected');
select is((select count(*) from gd_instances i where i.fsm = 'w'), 39::bigint, 'the others have inserted, each once');
select is(
    (select array_agg(s.payload::int order by s.id) from gd_signals(:target) s),
    (select array_agg(n) from generate_series(1, 40) n where n <> 17), 'and signalled, in order');

-- gd_commit_one

select gd_insert('m', p_queue => 'one', p_meta => '{"tracestate": "s"}') as id \gset
select gd_insert('m', p_queue => 'one_t', p_unique_key => 'one:t') as target \gset
select t.run('one_t', '{"kind": "await", "signals": "go"}');
select claim_no as no from t.take('one') \gset
begin;
select gd_commit_one('w', jsonb_build_object('id', :id, 'claim_no', :no) || '{"kind": "next", "step": "b",
    "insert": [{"fsm": "o", "unique_key": "o:1"}], "signal": [{"unique_key": "one:t", "name": "go"}]}');
select is(t.status(:target), 'runnable', 'commit_one: delivered at once');
rollback;
select is(
    (t.status(:id), t.status(:target), gd_find('o:1'), t.inbox(:target))::text, '(executing,awaiting_signal,,)',
    'commit_one: rolled back, none of it has happened');
select gd_commit_one('w', jsonb_build_object('id', :id, 'claim_no', :no) || format('{"kind": "next", "step": "c", "at": {"step": "b", "state": {"n": 3}},
    "insert": [{"fsm": "o", "unique_key": "o:1"}], "signal": [{"unique_key": "one:t", "name": "go"}, {"id": %s, "name": "self"}, {"id": 999999999, "name": "x"}]}', :id)::jsonb);
select results_eq(
    format('select i.step, i.state, t.status(%s), t.inbox(%s), t.inbox(i.id), (select o.meta from gd_instances o where o.id = gd_find(''o:1''))
        from gd_instances i where i.id = %s', :target, :target, :id),
    $$values ('c', '{"n": 3}'::jsonb, 'runnable', 'go=null', 'self=null', '{"tracestate": "s"}'::jsonb)$$, 'commit_one: all of it');
select claim_no as no from t.take('one') \gset
select t.raises(format($$select gd_commit_one('w', '{"id": %s, "claim_no": %s, "kind": "done"%s}')$$, :id, :no, x), 'GD501', 'commit_one: ' || x)
from unnest(array[', "insert": [{"fsm": ""}]', ', "insert": [{"nope": 1}]', ', "signal": [{"id": 1e30, "name": "go"}]', ', "at": {}']) x;
select t.raises(format($$select gd_commit_one('w', '{"id": %s, "claim_no": %s, "kind": "done",
    "signal": [{"id": %s, "name": "go"}]}')$$, :id, :no - 1, :target),
    'GD505', 'commit_one: the claim is lost');
select is(t.inbox(:target), 'go=null', 'and nothing was sent');

-- a trigger of the application that refuses what is inserted, or the signal

create function t.refuse() returns trigger language plpgsql as $$ begin raise exception 'not this one'; end $$;
create trigger refuse before insert on gendurable.instance for each row when (new.fsm = 'refused') execute function t.refuse();
create trigger refuse before insert on gendurable.signal for each row when (new.name = 'refused') execute function t.refuse();
select gd_insert('m', p_queue => 'trg') as a \gset
select gd_insert('m', p_queue => 'trg') as b \gset
select gd_insert('m', p_queue => 'trg') as c \gset
create temp table trg as select * from t.take('trg', 5);
select is(
    (select array_agg(r.result order by r.ord) from gd_commit('w', (
        select jsonb_agg(jsonb_build_object('id', t.id, 'claim_no', t.claim_no, 'kind', 'done') || case
            when t.id = :a then '{"insert": [{"fsm": "v"}, {"fsm": "refused"}]}'::jsonb
            when t.id = :b then '{"insert": [{"fsm": "v"}], "signal": [{"unique_key": "tgt2", "name": "fine"}, {"unique_key": "tgt2", "name": "refused"}]}'
            else '{"insert": [{"fsm": "v"}], "signal": [{"unique_key": "tgt2", "name": "fine"}]}'
        end order by t.id) from trg t)) r),
    '{rejected,rejected,ok}', 'what a trigger refuses rejects its outcome alone');
select is((select count(*) from gd_instances i where i.fsm = 'v'), 1::bigint, 'all of it: what it had inserted before');
select is((select count(*) from gendurable.signal s where s.name = 'fine'), 1::bigint, 'and what it had sent before');
select is((select array_agg(t.status(x.id) order by x.id) from trg x), '{executing,executing,done}', 'the claims stand');

select * from finish();
