\ir helpers/tap.psql
select no_plan();

-- Where a row stands: 'aside', 'due', 'later', 'parked', or its status.
create function t.stands(p_id bigint) returns text
language sql as $$
    select case
        when i.finished_at is not null or i.status = 'executing' then i.status::text
        when i.aside_at is not null then 'aside'
        when i.eligible_at <= clock_timestamp() then 'due'
        when i.eligible_at is not null then 'later'
        else 'parked'
    end
    from gendurable.instance i where i.id = p_id
$$;
create function t.takes(p_queue text, p_limit int = 10) returns bigint[]
language sql as $$
    select array_agg(c.id order by c.id) from t.take(p_queue, p_limit) c
$$;

-- one instance

select gd_insert('one', p_queue => 'one') as a \gset
select gd_insert('one', p_queue => 'one') as b \gset
select is(gd_pause(:a), true, 'paused');
select is(gd_pause(:a), false, 'paused already');
select is(t.stands(:a), 'aside', 'what is due leaves the index of the claims');
select is(t.takes('one'), array[:b::bigint], 'and is not handed out');
select is_empty($$select * from t.take('one', 10)$$, 'whatever is asked for');
select is((select v.parked from gd_queues v where v.queue = 'one'), 1::bigint, 'gd_queues counts it as parked');
select results_eq($$select kind, queue, fsm, version, step, id, paused_by from gd_pauses$$,
    format($$values ('instance'::text, 'one'::text, 'one'::text, 1, 'start'::text, %s::bigint, session_user::text collate "default")$$, :a),
    'the view says which, and by whom');
select is(gd_resume(:b), false, 'one that is not paused');
select is(gd_resume(:a), true, 'resumed');
select is(gd_resume(:a), false, 'once');
select is(t.takes('one'), array[:a::bigint], 'it is due');
select is_empty('select * from gd_pauses', '(nothing is paused)');
select gd_pause(:b);
select is(t.stands(:b), 'executing', 'one that executes goes on');
select is(t.answer(:b, '{"kind": "next", "step": "b", "keep": true}') -> 'detail', 'null', 'its claim is not kept');
select is(t.answer(:a, '{"kind": "next", "step": "b", "keep": true}') -> 'detail' ->> 'step', 'b', '(that of another one is)');
select is_empty($$select * from t.take('one', 10)$$, 'and it is not claimed again');
select is(t.stands(:b), 'aside', 'the claim that met it has set it aside');
select is((select i.step from gendurable.instance i where i.id = :b), 'b', 'behind its step');
select gd_resume(:b);
select t.put(:a, '{"kind": "done"}');
select is(t.takes('one'), array[:b::bigint], 'resumed');
select gd_pause(:b);
select t.put(:b, '{"kind": "done"}');
select is(t.status(:b), 'done', 'a paused one may end with its step');
select is(gd_pause(:b), false, 'what has ended is not paused');
select is(gd_resume(:b), false, 'nor resumed');
select is_empty('select * from gd_pauses', 'nor shown');
select t.raises('select gd_pause(null)', 'GD503', 'no id');
select t.raises('select gd_pause(-1)', 'GD503', 'a bell');
select t.raises('select gd_pause(999999999)', 'GD503', 'no instance');
select t.raises('select gd_resume(999999999)', 'GD503', 'resume: no instance');

-- what reaches a paused one

select gd_insert('one', p_queue => 'rea') as a \gset
select t.run('rea', '{"kind": "await", "signals": "go", "timeout_ms": 100000}');
select gd_pause(:a);
select is(t.stands(:a), 'later', 'one that awaits a signal stays where it is');
select t.due(:a);
select is_empty($$select * from t.take('rea')$$, 'its deadline passes');
select is(t.stands(:a), 'aside', 'and it is set aside');
select gd_resume(:a);
select ok((select c.timed_out from t.take('rea') c), 'resumed it has timed out');
select t.put(:a, '{"kind": "await", "signals": "go", "timeout_ms": 100000}');
select gd_pause(:a);
select t.due(:a);
select is_empty($$select * from t.take('rea')$$, '(once more)');
select is(gd_signal(:a, 'go'), 'delivered', 'a signal reaches it');
select is(t.status(:a), 'runnable', 'and answers its await');
select is_empty($$select * from t.take('rea')$$, 'without making it run');
select is(t.stands(:a), 'aside', '(aside)');
select is(gd_signal(:a, 'more'), 'delivered', 'a second one');
select gd_resume(:a);
select is((select jsonb_array_length(c.signals) from t.take('rea') c), 2, 'it sees both when it runs');
select t.put(:a, '{"kind": "schedule_childs", "step": "c", "childs": [{"fsm": "two", "queue": "rea"}]}');
select gd_pause(:a);
select t.run('rea', '{"kind": "done"}');
select is(t.status(:a), 'runnable', 'the end of its last child makes it runnable');
select is_empty($$select * from t.take('rea')$$, 'but not run');
select is(gd_reschedule(:a, now() + interval '1 hour'), true, 'it can be rescheduled');
select is(t.stands(:a), 'later', '(later)');
select is(gd_reschedule(:a, now()), true, 'to now');
select is_empty($$select * from t.take('rea')$$, 'and stays paused');
select is(t.stands(:a), 'aside', '(aside)');
select is(gd_cancel(:a), true, 'and cancelled');
select is((select i.aside_at from gendurable.instance i where i.id = :a), null, 'an end leaves nothing aside');
select is(gd_retry(:a), true, 'retried');
select is(t.takes('rea'), array[:a::bigint], 'it runs: whoever retries it wants it to');
select gd_insert('one', p_queue => 'rea', p_expires_at => now() + interval '1 hour') as a \gset
select gd_pause(:a);
select is(t.stands(:a), 'aside', '(one with a deadline)');
select t.elapse(:a, '2 hours');
select is((gd_maintain() ->> 'expired')::int, 1, 'its deadline ends it');
select is(t.status(:a), 'failed', '(failed)');
select gd_insert('one', p_queue => 'rea', p_expires_at => now() + interval '1 hour') as a \gset
select gd_insert('one', p_queue => 'rea') as b \gset
update gendurable.instance set paused_at = now() where id in (:a, :b);
insert into gendurable.special default values;
select t.elapse(:a, '2 hours');
select is_empty($$select * from t.take('rea')$$, 'a claim that meets one past its deadline');
select is(t.status(:a), 'failed', 'ends it, and sets it not aside');
select gd_resume(:b);

-- lost workers

select gd_insert('one', p_queue => 'los') as a \gset
select gd_insert('one', p_queue => 'los', p_partition_key => 'los') as b \gset
select gd_insert('one', p_queue => 'los') as c \gset
select count(*) from t.take('los', 10);
select gd_pause(:a), gd_pause(:b), gd_pause(:c);
select t.expire(:a), t.expire(:b), t.expire(:c);
update gendurable.instance set crashes = 19 where id = :c;
select is_empty($$select * from t.take('los', 10)$$, 'what a lost worker had is not handed out');
select results_eq(format('select t.stands(i.id), attempt, crashes from gendurable.instance i where id in (%s, %s) order by id', :a, :b),
    $$values ('aside', 1, 1), ('aside', 1, 1)$$, 'but given back, with one attempt more');
select is(t.status(:c), 'failed', 'at the crash cap it ends');
select is((select count(*) from gd_errors(:a) e where e.kind = 'crash'), 1::bigint, '(the crash is kept)');
select gd_resume(:a), gd_resume(:b);
select is((select sum(c.attempt) from t.take('los', 10) c), 2::bigint, 'and they go on');

-- machines, versions, steps

select gd_insert('mac', p_queue => 'mac', p_version => v, p_step => s) from unnest('{1,2}'::int[]) v, unnest('{a,b}'::text[]) s;
select gd_insert('mac2', p_queue => 'mac') as other \gset
select is(gd_pause_machine('mac', 2), true, 'a version is paused');
select is(gd_pause_machine('mac', 2), false, 'once');
select is(gd_pause_machine('mac', p_step => 'b'), true, 'and a step');
select results_eq($$select fsm, fsm_version, step from t.take('mac', 10) order by id$$, $$values ('mac', 1, 'a'), ('mac2', 1, 'start')$$,
    'all others are handed out');
select results_eq($$select kind, fsm, version, step from gd_pauses order by 1$$,
    $$values ('step'::text, 'mac'::text, null::int, 'b'::text), ('version', 'mac', 2, null)$$, 'the view tells of both');
select is((select count(*) from gendurable.instance i where i.queue = 'mac' and i.aside_at is not null), 3::bigint, 'what is paused is aside');
select t.put(i.id, '{"kind": "next", "step": "b"}') from gendurable.instance i where i.queue = 'mac' and i.status = 'executing' and i.fsm = 'mac';
select is_empty($$select * from t.take('mac', 10)$$, 'a row that comes to a paused step is not handed out');
select is(gd_resume_machine('mac', 2, 'b'), false, 'what was not paused so is not resumed');
select is(gd_resume_machine('mac', 2), true, 'the version is resumed');
select results_eq($$select fsm_version, step from t.take('mac', 10) order by id$$, $$values (2, 'a')$$, 'but for the step');
select is((select count(*) from gendurable.instance i where i.queue = 'mac' and i.aside_at is not null), 3::bigint, '(three)');
select gd_pause(min(i.id)) from gendurable.instance i where i.queue = 'mac' and i.aside_at is not null;
select is(gd_resume_machine('mac', null, 'b'), true, 'the step is resumed');
select is((select count(*) from t.take('mac', 10)), 2::bigint, 'and all but the one that is paused by itself');
select gd_pause_machine('mac');
select gd_resume(p.id) from gd_pauses p where p.kind = 'instance';
select is_empty($$select * from t.take('mac', 10)$$, 'one that is resumed waits for its machine');
select gd_insert('mac', p_queue => 'mac') as late \gset
select is_empty($$select * from t.take('mac', 10)$$, 'so does what is inserted');
select is(t.stands(:late), 'aside', '(aside)');
select is(t.answer(min(i.id), '{"kind": "next", "step": "c", "keep": true}') -> 'detail', 'null', 'no claim of it is kept')
from gendurable.instance i where i.queue = 'mac' and i.status = 'executing' and i.fsm = 'mac';
select gd_resume_machine('mac');
select is((select count(*) from t.take('mac', 10)), 3::bigint, 'all go on');
select gd_pause_machine('mac', 1, 'd');
select is(t.answer(min(i.id), '{"kind": "next", "step": "e", "keep": true}') -> 'detail' ->> 'step', 'e', 'a claim is kept into another step')
from gendurable.instance i where i.queue = 'mac' and i.status = 'executing' and i.fsm = 'mac' and i.fsm_version = 1;
select is(t.answer(min(i.id), '{"kind": "next", "step": "d", "keep": true}') -> 'detail', 'null', 'and not into that which is paused')
from gendurable.instance i where i.queue = 'mac' and i.status = 'executing' and i.fsm = 'mac' and i.fsm_version = 1;
select gd_resume_machine('mac', 1, 'd');
select t.raises('select gd_pause_machine(null)', 'GD501', 'no machine');
select t.raises($$select gd_pause_machine('')$$, 'GD501', 'an empty one');
select t.raises($$select gd_pause_machine('m', 0)$$, 'GD501', 'no such version');
select t.raises($$select gd_pause_machine('m', 1, '')$$, 'GD501', 'an empty step');
select t.raises($$select gd_resume_machine('m', -1)$$, 'GD501', 'resume: no such version');
select is(gd_resume_machine('m'), false, 'what is not paused');

select gd_insert('ed', p_queue => 'ed', p_step => 'a') as a \gset
select gd_pause_machine('ed', p_step => 'a');
select is_empty($$select * from t.take('ed')$$, '(aside)');
select gd_edit(:a, p_state => '{"n": 1}');
select is(t.stands(:a), 'aside', 'an edit leaves it aside');
select gd_edit(:a, p_step => 'b');
select is(t.takes('ed'), array[:a::bigint], 'but one that moves it to a step that is not paused');
select gd_resume_machine('ed', null, 'a');

-- keys: whoever waits behind a paused row goes on

select gd_insert('pk', p_queue => 'key', p_partition_key => 'k') from generate_series(1, 5);
select gd_insert('ok', p_queue => 'key', p_partition_key => 'k') as a \gset
select gd_insert('ok', p_queue => 'oth', p_partition_key => 'k') as b \gset
select gd_pause_machine('pk');
select is(t.takes('key'), array[:a::bigint], 'the first that is not paused starts');
select is((select count(*) from gendurable.instance i where i.partition_key = 'k' and i.aside_at is not null), 5::bigint, 'those before it are aside');
select is_empty($$select * from t.take('oth')$$, '(one at a time)');
select t.put(:a, '{"kind": "done"}');
select is(t.takes('oth'), array[:b::bigint], 'and those of other queues');
select gd_resume_machine('pk');
select is_empty($$select * from t.take('key')$$, 'resumed they wait for the slot');
select t.put(:b, '{"kind": "done"}');
select gd_insert('ok', p_queue => 'key', p_partition_key => 'k') as c \gset
select is(array(select t.run('key', '{"kind": "done"}') from generate_series(1, 5)),
    array(select i.id from gendurable.instance i where i.fsm = 'pk' order by i.id), 'and start in their old order, before what came later');
select is(t.run('key', '{"kind": "done"}'), :c::bigint, '(which is next)');
select gd_insert('ok', p_queue => 'key', p_partition_key => 'k') as a \gset
select gd_insert('ok', p_queue => 'key', p_partition_key => 'k') as b \gset
select gd_insert('ok', p_queue => 'key', p_partition_key => 'k') as c \gset
select is(t.takes('key'), array[:a::bigint], '(one holds the key)');
select gd_pause(:b);
select t.put(:a, '{"kind": "next", "step": "b"}');
select gd_pause(:a);
select is(t.takes('key'), array[:c::bigint], 'a paused instance stands back');
select gd_resume(:b), gd_resume(:a);
select t.put(:c, '{"kind": "done"}');
select is(t.run('key', '{"kind": "done"}'), :b::bigint, 'and has its place when it is resumed');
select is(t.run('key', '{"kind": "done"}'), :a::bigint, '(both)');

-- nobody serves the queue of a paused head: upkeep

select gd_insert('pk', p_queue => 'dead', p_partition_key => 'dead') as a \gset
select gd_insert('ok', p_queue => 'live', p_partition_key => 'dead') as b \gset
select is_empty($$select * from t.take('live')$$, 'the first of the key decides');
select gd_pause_machine('pk');
select is_empty($$select * from t.take('live')$$, 'until somebody meets it');
select is(t.repaired(), 0, 'upkeep does');
select is(t.takes('live'), array[:b::bigint], 'and the next starts');
select gd_resume_machine('pk');
select is(t.stands(:a), 'due', '(it is due again)');

-- rate limits

select gd_set_rate_limit('rl', 1, '1 hour', 7);
select gd_insert('rl', p_queue => 'rl', p_rate_limit => 'rl') from generate_series(1, 12);
select gd_insert('rl2', p_queue => 'rl', p_rate_limit => 'rl') as a \gset
select is(cardinality(t.takes('rl')), 7, 'seven tokens');
select is((select count(*) from gendurable.instance i where i.queue = 'rl' and i.bucket_at is not null), 6::bigint, 'the others stand in line');
select gd_pause_machine('rl');
delete from gendurable.bucket where bucket = 'rl' and lines = '{}';
update gendurable.bucket set full_at = now() where bucket = 'rl';
update gendurable.instance set eligible_at = now() - interval '1 second' where id < 0;
select is(t.takes('rl'), array[:a::bigint], 'a line goes on behind paused rows');
select is((select count(*) from gendurable.instance i where i.queue = 'rl' and i.aside_at is not null), 5::bigint, 'which are aside');
select gd_resume_machine('rl');
select is(cardinality(t.takes('rl')), 5, 'and go on');

-- batches

select count(gd_insert('big', p_queue => 'big')) from generate_series(1, 2500);
select gd_pause_machine('big');
select cardinality(t.takes('big', n)) from generate_series(10, 14) n;
select is((select count(*) from gendurable.instance i where i.queue = 'big' and i.aside_at is not null), 2500::bigint, 'claims set all aside');
select is((select count(*) from gendurable.instance i where i.queue = 'big' and i.eligible_at is not null), 0::bigint, '(all)');
select gd_resume_machine('big');
select is((select count(*) from gendurable.instance i where i.queue = 'big' and i.aside_at is not null), 2000::bigint, 'a resume brings 500 back');
select count(*) from gd_claim('w', 'elsewhere');
select is((select count(*) from gendurable.instance i where i.queue = 'big' and i.aside_at is not null), 1500::bigint, 'each claim 500 more');
select gd_pause_machine('big', 1);
select count(*) from gd_claim('w', 'elsewhere');
select is((select count(*) from gendurable.instance i where i.queue = 'big' and i.aside_at is not null), 1500::bigint, 'paused again they stay');
select gd_resume_machine('big', 1);
select count(*) from gd_claim('w', 'elsewhere');
select count(*) from gd_claim('w', 'elsewhere');
select is((select count(*) from gendurable.instance i where i.queue = 'big' and i.aside_at is not null), 0::bigint, 'and come back');
select is((select count(*) from t.take('big', 10000)), 2500::bigint, 'nothing is lost');
select is(gd_release('w', null), (select count(*)::int from gendurable.instance i where i.status = 'executing'), '(given back)');

-- what is aside and not paused: upkeep

select gd_insert('str', p_queue => 'str') as a \gset
select gd_pause_machine('str');
select is_empty($$select * from t.take('str')$$, '(aside)');
delete from gendurable.paused_machine where fsm = 'str';
select is_empty($$select * from t.take('str')$$, 'what a claim has set aside for a pause that was over');
select t.repaired();
select is(t.takes('str'), array[:a::bigint], 'upkeep brings back');

-- the note of a resume goes

select gd_insert('nt', p_queue => 'nt') as a \gset
select gd_pause_machine('nt');
select is_empty($$select * from t.take('nt')$$, '(aside)');
select gd_resume_machine('nt');
select is(t.stands(:a), 'due', '(back at once)');
do $$
begin
    for v_try in 1 .. 1000 loop
        update gendurable.resumed set again_at = now();
        commit;
        perform from gd_claim('w', 'elsewhere');
        commit;
        exit when not exists (select from gendurable.resumed);
        if v_try > 10 then
            perform pg_sleep(0.01);                  -- another database of this server has a transaction open
        end if;
    end loop;
end $$;
select is_empty('select from gendurable.resumed', 'when all claims know of its end, the note of a pause goes');

-- the options of a queue

select gd_set_queue('opt', '{"paused": true}');
select is((select q.paused from gd_queues q where q.queue = 'opt'), true, 'paused');
select is((select p.paused_by from gd_pauses p where p.queue = 'opt'), session_user::text, '(by whom)');
select gd_set_queue('opt', '{"concurrency": 7}');
select results_eq($$select q.paused, q.concurrency, q.max_executing from gd_queues q where q.queue = 'opt'$$, $$values (true, 7, null::int)$$,
    'concurrency: gd_queues tells of it, and the pause stays');
select gd_set_queue('opt', '{"limit": 3, "paused": false}');
select results_eq($$select q.paused, q.concurrency, q.max_executing from gd_queues q where q.queue = 'opt'$$, $$values (false, 7, 3)$$, 'each by itself');
select is((select s.changed_in is not null from gendurable.queue_setting s where s.queue = 'opt'), true, 'a first limit is not yet known to all claims');
select gd_set_queue('opt', '{"limit": null, "paused": null}');
select results_eq($$select q.paused, q.concurrency, q.max_executing from gd_queues q where q.queue = 'opt'$$, $$values (false, 7, null::int)$$, 'null resets');
select gd_insert('m', p_queue => 'opt') as a \gset
select is(t.takes('opt'), array[:a::bigint], 'concurrency is the workers'' matter');
select gd_set_queue('opt', '{"concurrency": null}');
select is_empty($$select from gendurable.queue_setting s where s.queue = 'opt'$$, 'nothing is left');
select t.raises($$select gd_set_queue('q', '{"concurrency": -1}')$$, 'GD501', 'a negative concurrency');
select t.raises($$select gd_set_queue('q', '{"paused": 1}')$$, 'GD501', 'paused: a number');
select t.raises($$select gd_set_queue('q', '{"paused": "true"}')$$, 'GD501', 'paused: a text');

-- chains and runs

create function t.hop(jsonb) returns jsonb language sql as $$
    select case $1 ->> 'step' when 'a' then '{"kind": "next", "step": "b"}' when 'b' then '{"kind": "next", "step": "c"}' else '{"kind": "done"}' end::jsonb
$$;
select gd_define_step('hop', s, 't.hop(jsonb)') from unnest('{a,b,c}'::text[]) s;
select gd_insert('hop', p_queue => 'hop', p_step => 'a') as a \gset
select gd_pause_machine('hop', p_step => 'b');
call gd_run('hop');
select is((select i.step || ' ' || t.stands(i.id) from gendurable.instance i where i.id = :a), 'b aside', 'a chain stops at a paused step, and gd_run obeys');
select gd_pause(:a);
select gd_resume_machine('hop', p_step => 'b');
select matches((select r.after ->> 'why' from gd_rehearse('hop', :a) r), '^it is paused since', 'gd_rehearse says why not');
select gd_pause_machine('hop', p_step => 'c');
select gd_resume(:a);
select is(t.stands(:a), 'due', '(resumed)');
call gd_run('hop');
select is((select i.step || ' ' || t.stands(i.id) from gendurable.instance i where i.id = :a), 'c aside', 'and at the next');
select matches((select r.after ->> 'why' from gd_rehearse('hop', :a) r), '^its step is paused: c', '(why)');
select gd_resume_machine('hop', p_step => 'c');
call gd_run('hop');
select is(t.status(:a), 'done', 'resumed it ends');

set default_transaction_isolation = 'repeatable read';
select t.raises('select gd_pause(1)', 'GD504', 'pause: under REPEATABLE READ');
select t.raises('select gd_resume(1)', 'GD504', 'resume: under REPEATABLE READ');
select t.raises($$select gd_pause_machine('m')$$, 'GD504', 'pause a machine: under REPEATABLE READ');
select t.raises($$select gd_resume_machine('m')$$, 'GD504', 'resume a machine: under REPEATABLE READ');
set default_transaction_isolation = 'read committed';

select is(t.repaired(), 0, 'no baton was dropped');

select * from finish();
