\ir helpers/tap.psql
select no_plan();

-- cancel

select gd_insert('m', p_queue => 'can', p_unique_key => 'can-1') as id \gset
select is(gd_cancel(:id, 'not needed'), true, 'a runnable instance is cancelled');
select results_eq(
    format('select status, last_error from gd_result(%s)', :id), $$values ('cancelled', 'not needed')$$, 'with its reason');
select isnt((select v.finished_at from gd_instances v where v.id = :id), null, 'it has ended');
select is_empty($$select * from t.take('can')$$, 'and is not handed out');
select is(gd_find('can-1'), null, 'nor is it an address');
select is(gd_cancel(:id), false, 'what has ended cannot be cancelled');
select gd_insert('m', p_queue => 'can') as id \gset
select count(*) from t.take('can');
select gd_signal(:id, 's') as _ \gset
select is(gd_cancel(:id), true, 'a running one');
select is(t.commit(:id, '{"kind": "done"}'), 'stale', 'its commit becomes stale');
select is(t.status(:id), 'cancelled', 'and changes nothing');
select is((select count(*) from gendurable.signal), 1::bigint, 'its inbox stays, for gd_retry');
select gd_insert('m', p_queue => 'can') as id \gset
select t.run('can', '{"kind": "await", "signals": "x", "timeout_ms": 1000}');
select is(gd_cancel(:id), true, 'one that awaits');
select is((select v.eligible_at from gd_instances v where v.id = :id), null, 'nobody looks at it any more');
select is(gd_signal(:id, 'x'), 'no_target', 'and takes no signal');
select gd_insert('m', p_queue => 'can', p_delay => '1 hour') as id \gset
select is(gd_cancel(:id), true, 'a delayed one');

select gd_insert('m', p_queue => 'can') as id \gset
select is(gd_cancel(:id, repeat('x', 20000)), true, 'a reason of any length');
select is((select length(r.last_error) from gd_result(:id) r), 8006, 'is cut');
select matches(r.last_error, '^x+ \[cut\]$', 'and says so') from gd_result(:id) r;

-- cancel with cascade

select gd_insert('m', p_queue => 'cas') as p \gset
select t.run('cas', '{"kind": "schedule_childs", "step": "j", "childs": [{"fsm": "c", "queue": "cas1"}, {"fsm": "d", "queue": "cas2"}]}');
select t.run('cas1', '{"kind": "schedule_childs", "step": "j", "childs": [{"fsm": "g", "queue": "cas3"}]}');
select t.run('cas2', '{"kind": "done"}');
select is(gd_cancel(:p), true, 'without cascade');
select results_eq(
    $$select fsm, status from gd_instances where queue like 'cas_' order by fsm$$,
    $$values ('c', 'awaiting_children'), ('d', 'done'), ('g', 'runnable')$$, 'the descendants go on');
select is(gd_cancel(v.id, 'all of it', true), true, 'with cascade') from gd_instances v where v.fsm = 'c' and v.queue = 'cas1';
select results_eq(
    $$select fsm, status, last_error from gd_instances where queue like 'cas_' order by fsm$$,
    $$values ('c', 'cancelled', 'all of it'), ('d', 'done', null), ('g', 'cancelled', 'all of it')$$, 'all that had not ended end');

select gd_insert('m', p_queue => 'two') as p \gset
select t.run('two', '{"kind": "schedule_childs", "step": "j", "childs": [
    {"fsm": "c", "queue": "two1"}, {"fsm": "c", "queue": "two1", "partition_key": "two"}]}');
select gd_cancel(min(v.id)) from gd_instances v where v.queue = 'two1';
select is((select v.children_pending from gd_instances v where v.id = :p), 1, 'a cancelled child is counted once');
select gd_cancel(max(v.id)) from gd_instances v where v.queue = 'two1';
select is(t.status(:p), 'runnable', 'and the other one, with a key, too');

select gd_insert('m', p_queue => 'cap') as p \gset
select t.run('cap', '{"kind": "schedule_childs", "step": "j", "childs": [{"fsm": "c", "queue": "cap1"}]}');
select t.run('cap1', '{"kind": "schedule_childs", "step": "j", "childs": [{"fsm": "g", "queue": "cap2", "partition_key": "cap"}]}');
select count(*) from t.take('cap2');
select is(gd_cancel(v.id, null, true), true, 'a whole branch') from gd_instances v where v.queue = 'cap1';
select is((select c.step from t.take('cap') c), 'j', 'releases the barrier of the parent above it');
select gd_insert('m', p_queue => 'cap3', p_partition_key => 'cap');
select is((select count(*) from t.take('cap3')), 1::bigint, 'and the keys that it held');

-- retry

select gd_insert('m', '{"n": 1}', p_queue => 'ret') as id \gset
select is(gd_retry(:id), false, 'what has not ended is not retried');
select t.run('ret', '{"kind": "next", "step": "b"}');
select t.run('ret', '{"kind": "stop", "reason": "x"}');
select is(gd_retry(:id), true, 'a failed instance is');
select is((select row(c.step, c.attempt, c.state)::text from t.take('ret') c), '(b,0,"{""n"": 1}")', 'at the step where it failed, attempt 0');
select t.put(:id, '{"kind": "replay"}');
select gd_cancel(:id);
select is(gd_retry(:id, 'c', '{"n": 2}'), true, 'a cancelled one too, with another step and state');
select is((select row(c.step, c.attempt, c.state)::text from t.take('ret') c), '(c,0,"{""n"": 2}")', '(so it is)');
select is((select v.finished_at from gd_instances v where v.id = :id), null, 'it has not ended any more');
select t.put(:id, '{"kind": "done", "result": 1}');
select is(gd_retry(:id), false, 'done is done');
select t.raises(format('select gd_retry(%s, %L)', :id, ''), 'GD501', 'an empty step');
select t.raises(format('select gd_retry(%s, %L)', :id, repeat('x', 2001)), 'GD501', 'a step of more than 2,000 bytes');
select t.raises(format($$select gd_retry(%s, 's', '[]')$$, :id), 'GD501', 'a state that is no object');

select gd_insert('m', p_queue => 'retu', p_unique_key => 'retu') as a \gset
select gd_cancel(:a);
select gd_insert('m', p_queue => 'retu', p_unique_key => 'retu') as b \gset
select is(gd_retry(:a), false, 'its unique key is taken');
select is(t.status(:a), 'cancelled', '(nothing has changed)');
select gd_cancel(:b);
select is(gd_retry(:a), true, 'and now free');
select is(gd_find('retu'), :'a', 'it is held again');

select gd_insert('m', p_queue => 'retp') as p \gset
select t.run('retp', '{"kind": "schedule_childs", "step": "j", "childs": [{"fsm": "c", "queue": "retc"}]}');
select t.run('retc', '{"kind": "stop", "reason": "x"}');
select is((select c.step from t.take('retp') c), 'j', '(the parent has gone on)');
select is(gd_retry(v.id), true, 'a child whose parent has left the barrier') from gd_instances v where v.queue = 'retc';
select is(t.status(:p), 'executing', 'does not call it back');
select t.run('retc', '{"kind": "done"}');
select is((select v.children_pending from gd_instances v where v.id = :p), 0, 'nor count in it');

-- reschedule

select gd_insert('m', p_queue => 'res', p_delay => '1 day') as id \gset
select is(gd_reschedule(:id, now() - interval '1 second'), true, 'a delayed row is made due');
select is((select c.id from t.take('res') c), :'id', '(it runs)');
select is(gd_reschedule(:id, now()), false, 'an executing one is not');
select t.put(:id, '{"kind": "await", "signals": "x"}');
select is(gd_reschedule(:id, '2099-01-01Z'), true, 'an await without a deadline gets one');
select is((select v.eligible_at from gd_instances v where v.id = :id), '2099-01-01Z', '(there)');
select is_empty($$select * from t.take('res')$$, '(it waits)');
select is(gd_reschedule(:id, now() - interval '1 second'), true, 'and it can be let pass');
select is((select c.timed_out from t.take('res') c), true, 'timed_out');
select t.put(:id, '{"kind": "replay", "delay_ms": 60000}');
select is(gd_reschedule(:id, now() - interval '1 second'), true, 'the replay of a step that timed out, made due');
select is((select c.timed_out from t.take('res') c), true, 'has still timed out');
select t.put(:id, '{"kind": "schedule_childs", "step": "j", "childs": [{"fsm": "c", "queue": "res_c"}]}');
select is(gd_reschedule(:id, now()), false, 'one that waits for children is not');
select gd_cancel(:id);
select is(gd_reschedule(:id, now()), false, 'nor one that has ended');
select t.raises(format('select gd_reschedule(%s, null)', :id), 'GD501', 'no time');
select t.raises(format($$select gd_reschedule(%s, 'infinity')$$, :id), 'GD501', 'an infinite time');

-- pause and resume

select gd_insert('m', p_queue => 'pau') as id \gset
select gd_pause_queue('pau');
select lives_ok($$select gd_pause_queue('pau')$$, 'twice is no mistake');
select is((select v.paused from gd_queues v where v.queue = 'pau'), true, 'gd_queues shows it');
select is_empty($$select * from t.take('pau')$$, 'nothing is handed out');
select isnt(gd_insert('m', p_queue => 'pau'), null, 'inserts go on');
select gd_resume_queue('pau');
select lives_ok($$select gd_resume_queue('pau')$$, 'twice is no mistake');
select is((select count(*) from t.take('pau', 5)), 2::bigint, 'resumed');
select gd_pause_queue('pau');
select is(t.commit(:id, '{"kind": "next", "step": "b"}'), 'ok', 'what executes commits while the queue is paused');
select is_empty($$select * from t.take('pau')$$, 'and waits then');
select gd_pause_queue('never used');
select is((select row(v.due, v.paused)::text from gd_queues v where v.queue = 'never used'), '(0,t)', 'a queue without rows can be paused, and is seen');
select t.raises($$select gd_pause_queue('')$$, 'GD501', 'pause: an empty name');
select t.raises($$select gd_pause_queue(null)$$, 'GD501', 'pause: no name');
select t.raises($$select gd_resume_queue('')$$, 'GD501', 'resume: an empty name');

-- ids that do not exist

select t.raises($$select gd_cancel(999999999)$$, 'GD503', 'cancel: no such instance');
select t.raises($$select gd_cancel(null)$$, 'GD503', 'cancel: null');
select t.raises($$select gd_retry(999999999)$$, 'GD503', 'retry: no such instance');
select t.raises($$select gd_retry(null)$$, 'GD503', 'retry: null');
select t.raises($$select gd_reschedule(999999999, now())$$, 'GD503', 'reschedule: no such instance');
select t.raises($$select gd_reschedule(null, now())$$, 'GD503', 'reschedule: null');

set default_transaction_isolation = 'repeatable read';
select t.raises(format('select gd_cancel(%s)', :id), 'GD504', 'cancel: under REPEATABLE READ');
select t.raises(format('select gd_retry(%s)', :id), 'GD504', 'retry: under REPEATABLE READ');
select t.raises(format('select gd_reschedule(%s, now())', :id), 'GD504', 'reschedule: under REPEATABLE READ');
select t.raises($$select gd_pause_queue('q')$$, 'GD504', 'pause: under REPEATABLE READ');
select t.raises($$select gd_resume_queue('q')$$, 'GD504', 'resume: under REPEATABLE READ');
select t.raises($$select gd_set_key_limit('k', 2)$$, 'GD504', 'set_key_limit: under REPEATABLE READ');
select lives_ok($$select gd_insert('m', p_queue => 'rr')$$, 'insert works under any level');
select lives_ok($$select gd_signal((select max(v.id) from gd_instances v where v.queue = 'rr'), 's')$$, 'signal too');
select lives_ok($$select gd_watch((select max(v.id) from gd_instances v where v.queue = 'rr'))$$, 'and watch');
select lives_ok($$select count(*) from gd_queues$$, 'and the views');
set default_transaction_isolation = 'read committed';

select is(t.repaired(), 0, 'no baton was dropped');

select * from finish();
