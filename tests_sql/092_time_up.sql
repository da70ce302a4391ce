\ir helpers/tap.psql
select no_plan();

create function t.row(p_id bigint) returns text
language sql as $$
    select row(v.status, v.step, v.attempt, v.crashes, v.last_error)::text from gd_instances v where v.id = p_id
$$;

create function t.beyond(p_queue text, p_options jsonb) returns bigint
language plpgsql as $$
declare
    v_id bigint;
begin
    v_id := (select n.id from gd_insert_many(jsonb_build_array('{"fsm": "timed"}' || jsonb_build_object('queue', p_queue) || p_options)) n);
    perform t.take(p_queue);
    perform t.elapse(v_id, '5 seconds');
    return v_id;
end $$;

select gd_register('timed', 1, 'start', 'timed', '{"max_attempts": 3, "timeouts": {"start": 5000, "slow": 1500.5}}');

-- the time of a step counts from its claim, and belongs to that claim alone

select gd_insert('timed', p_queue => 'one') as id \gset
select gd_insert('m', p_queue => 'one') as plain \gset
select count(*) from t.take('one', 5, 'w', '2 seconds');
select results_eq(
    format('select i.id, i.timeout_at - i.updated_at, i.lease_expires_at - i.updated_at from gendurable.instance i where i.id in (%s, %s) order by 1', :id,
    :plain),
    format($$values (%s::bigint, interval '5 seconds', interval '2 seconds'), (%s, null, '2 seconds')$$, :id, :plain),
    'a timed step has its timeout, and a shorter lease stays; another has none');
select t.put(:id, '{"kind": "next", "step": "slow", "keep": true}');
select is(t.status(:id), 'runnable', 'no claim is kept into a timed step');
select is((select i.timeout_at from gendurable.instance i where i.id = :id), null, 'and the timeout goes with the claim');
select count(*) from t.take('one', 1, 'w', '1 hour');
select is((select i.lease_expires_at - i.updated_at from gendurable.instance i where i.id = :id), '1.5005 s', 'the next step has its own');
select is((t.answer(:id, '{"kind": "next", "step": "free", "keep": true}') #>> '{detail,step}'), 'free', 'a claim is kept into a step without one');
select is((select row(i.timeout_at, i.lease_expires_at > now() + interval '30 seconds')::text from gendurable.instance i where i.id = :id), '(,t)',
    'and has the whole lease');
select t.put(:plain, '{"kind": "done"}'), t.put(:id, '{"kind": "done"}');
select gd_insert('timed', p_queue => 'one') as id \gset
select count(*) from t.take('one', 1, 'w', '1 second');
select t.elapse(:id, '2 seconds');
select is((select c.attempt from t.take('one', 1, 'w', '1 hour') c), 1, 'a lease that ends before the timeout is a crash');
select is((select row(i.crashes, i.timeout_at - i.updated_at)::text from gendurable.instance i where i.id = :id), '(1,00:00:05)',
    'and the next claim has all of its time');
select is(gd_release('w', jsonb_build_array(jsonb_build_array(i.id, i.claim_no))), 1, '(given back)') from gendurable.instance i where i.id = :id;
select is((select i.timeout_at from gendurable.instance i where i.id = :id), null, 'what is given back has none');
select gd_cancel(:id) as _ \gset

-- a claim that is kept for the end of what runs has no more time than it had

create function pg_temp.halts(p_id bigint, p_at int, p_step text) returns text language sql as $$
    select t.answer(p_id, jsonb_build_object('kind', 'next', 'step', p_step, 'keep', true, 'journal',
        jsonb_build_object('at', p_at, 'add', '[{"k": "step"}]'::jsonb, 'runs', true))) #>> '{detail,halted}'
$$;
select gd_insert('timed', p_queue => 'one') as id \gset
select count(*) from t.take('one', 1, 'w', '1 hour');
select t.elapse(:id, '2 seconds');
select i.timeout_at as ends from gendurable.instance i where i.id = :id \gset
select is(pg_temp.halts(:id, 0, 'start'), 'true', 'in its own step it is kept, and halted');
select ok((select i.timeout_at = :'ends' and i.lease_expires_at = :'ends' from gendurable.instance i where i.id = :id),
    'and ends when it would have ended');
select is(pg_temp.halts(:id, 1, 'slow'), 'true', 'into another timed step');
select is((select row(i.timeout_at - i.updated_at, i.lease_expires_at - i.updated_at)::text from gendurable.instance i where i.id = :id),
    '(00:00:01.5005,00:00:01.5005)', 'the time of that begins now');
select is(pg_temp.halts(:id, 2, 'free'), null, 'into one without a timeout it is not halted');
select is((select row(i.timeout_at, i.lease_expires_at > now() + interval '30 seconds')::text from gendurable.instance i where i.id = :id), '(,t)',
    'and has the whole lease');
select t.put(:id, '{"kind": "done"}');

-- several at once, of which each ends by itself

select array[gd_insert('timed', p_queue => 'several'), gd_insert('timed', p_queue => 'several', p_partition_key => 'k'),
    gd_insert('timed', p_queue => 'several')] as ids \gset
select count(*) from t.take('several', 3);
select count(t.elapse(u.id, '5 seconds')) from unnest(:'ids'::bigint[]) u (id);
select gendurable._time_out(:'ids'::bigint[], clock_timestamp());
select is((select array_agg(i.attempt || ' ' || i.status order by i.id) from gendurable.instance i where i.id = any(:'ids'::bigint[])),
    array['1 runnable', '1 runnable', '1 runnable'], 'the times of several steps are up at once');
select count(gd_cancel(u.id)) from unnest(:'ids'::bigint[]) u (id);

-- once it is over, a commit is stale, whoever has taken the claim

select t.beyond('late', '{}') as id \gset
select is(t.commit(:id, '{"kind": "done"}'), 'stale', 'a commit after the timeout is stale, though nobody has taken the claim');
select is(t.commit(:id, '{"kind": "error", "error": "x"}'), 'stale', 'whatever it is');
select throws_ok(
    format($$select gd_commit_one('w', jsonb_build_object('id', i.id, 'claim_no', i.claim_no, 'kind', 'done'))
        from gendurable.instance i where i.id = %s$$, :id), 'GD505', 'the claim is lost', 'also in a transaction of its own');
select is(t.status(:id), 'executing', 'nothing was written');
select is_empty($$select * from t.take('late', 5)$$, 'a claim that meets it does not hand it out');
select is(t.row(:id), '(runnable,start,1,0,"timed out after 5 s in step ''start''")', 'but ends the attempt with an error');
select ok(i.eligible_at between now() + interval '0.5 s' and now() + interval '2 s', 'after its back-off it is due again')
from gendurable.instance i where i.id = :id;
select t.due(:id);
select is((select c.attempt from t.take('late', 5) c), 1, '(due)');
select t.elapse(:id, '5 seconds');
select is(gd_reap(), 1, 'reaping does the same');
select is(t.row(:id), '(runnable,start,2,0,"timed out after 5 s in step ''start''")', 'and counts it');
select t.due(:id);
select count(*) from t.take('late', 5);
select t.elapse(:id, '5 seconds');
select is(gd_maintain() ->> 'reaped', '1', 'and so does the upkeep');
select is(t.row(:id), '(failed,start,2,0,"timed out after 5 s in step ''start''")', 'the last attempt is the end');
select is(
    (select row(i.timeout_at, i.worker, i.lease_expires_at, i.eligible_at)::text from gendurable.instance i where i.id = :id), '(,,,)',
    'of which nothing is left');
select ok(gd_retry(:id), '(retried)');
select is((select row(c.attempt, c.step)::text from t.take('late') c), '(0,start)', 'and may be retried');
select t.put(:id, '{"kind": "done"}');

-- crashes are counted apart; what was awaited stays

select t.beyond('crash', '{}') as id \gset
update gendurable.instance set crashes = 19 where id = :id;
select is_empty($$select * from t.take('crash', 5)$$, '(over)');
select is((select row(v.status, v.attempt, v.crashes)::text from gd_instances v where v.id = :id), '(runnable,1,19)',
    'a timeout is no crash, also before the cap');
select gd_cancel(:id) as _ \gset
select gd_insert('timed', p_queue => 'aw') as id \gset
select t.run('aw', '{"kind": "await", "signals": "go", "step": "start"}');
select gd_signal(:id, 'go', '7') as _ \gset
select count(*) from t.take('aw');
select t.elapse(:id, '5 seconds');
select is_empty($$select * from t.take('aw')$$, '(over)');
select t.due(:id);
select is((select row(c.awaits, c.signals #>> '{0,payload}', c.attempt)::text from t.take('aw') c), '({go},7,1)', 'the next run is shown the same');
select gd_cancel(:id) as _ \gset

-- keys: who waits gets the slot

select t.beyond('key', '{"partition_key": "tk"}') as a \gset
select gd_insert('timed', p_queue => 'key', p_partition_key => 'tk') as b \gset
select is((select array_agg(c.id) from t.take('key', 5) c), array[:b]::bigint[], 'a claim that is over frees its slot at once');
select ok(i.lane_at > now() and i.slot_no is null, 'and waits for its back-off without it') from gendurable.instance i where i.id = :a;
select t.put(:b, '{"kind": "done"}');
select t.due(:a);
select is((select array_agg(c.id) from t.take('key', 5) c), array[:a]::bigint[], 'then it has its turn');
select gd_insert('timed', p_queue => 'key', p_partition_key => 'tk') as c \gset
select is_empty($$select * from t.take('key', 5)$$, '(one waits)');
select t.elapse(:a, '5 seconds');
select is(gd_reap(), 1, 'reaped');
select is((select array_agg(x.id) from t.take('key', 5) x), array[:c]::bigint[], 'who waited is lifted');
select is(t.repaired(), 0, 'no baton was dropped');
select gd_insert('timed', p_queue => 'key', p_partition_key => 'tk') as d \gset
select is_empty($$select * from t.take('key', 5)$$, '(one is parked)');
select t.elapse(:c, '5 seconds');
select is((select array_agg(x.id) from t.take('key', 5) x), array[:d]::bigint[], 'the claim that meets it hands out who was parked behind it');
select t.put(:d, '{"kind": "done"}'), gd_cancel(:c), gd_cancel(:a);

-- the parent's barrier counts the last attempt

select gd_insert('m', p_queue => 'tp') as p \gset
select t.run('tp', '{"kind": "schedule_childs", "step": "join", "childs": [{"fsm": "timed", "queue": "tc", "max_attempts": 1}]}');
select v.id as child from gd_instances v where v.parent_id = :p \gset
select count(*) from t.take('tc');
select t.elapse(:child, '5 seconds');
select is_empty($$select * from t.take('tc')$$, '(over)');
select is((select c.childs #>> '{0,status}' from t.take('tp') c), 'failed', 'a child that timed out for the last time ends the barrier');
select t.put(:p, '{"kind": "done"}');

-- unique keys follow the status

select t.beyond('uq', '{"unique_key": "uq", "unique_scope": ["executing"]}') as id \gset
select is(gd_find('uq'), :'id', '(held)');
select is(gd_reap(), 1, '(over)');
select is(gd_find('uq'), null, 'a scope is left');
select t.beyond('uq2', '{"unique_key": "uq2", "unique_scope": ["runnable"]}') as other \gset
select is(gd_find('uq2'), null, '(not held)');
select is(gd_reap(), 1, '(over)');
select is(gd_find('uq2'), :'other', 'and entered again');
select gd_cancel(:other) as _ \gset
select gd_cancel(:id) as _ \gset

-- a clock that was set back

select t.beyond('clock', '{}') as id \gset
update gendurable.instance i
set updated_at = i.updated_at + interval '1 hour', timeout_at = i.timeout_at + interval '1 hour', lease_expires_at = i.lease_expires_at + interval '1 hour'
where i.id = :id;
select is(gd_maintain() ->> 'reaped', '0', '(the claim was made by a clock that was ahead)');
select results_eq(
    format('select i.timeout_at - i.updated_at, i.lease_expires_at = i.timeout_at, i.updated_at <= clock_timestamp() from gendurable.instance i
        where i.id = %s', :id),
    $$values (interval '5 seconds', true, true)$$, 'its time begins anew');
select gd_cancel(:id) as _ \gset

-- a machine that is registered otherwise: claims from now on

select gd_register('timed2', 1, 'start', 'reg', '{"timeouts": {"start": 5000}}');
select gd_insert('timed2') as id \gset
select count(*) from t.take('reg');
select gd_register('timed2', 1, 'start', 'reg', '{"timeouts": {"start": 9000}}');
select is((select i.timeout_at - i.updated_at from gendurable.instance i where i.id = :id), '5 s', 'a claim keeps the timeout that it began with');
select t.put(:id, '{"kind": "replay"}');
select count(*) from t.take('reg');
select is((select i.timeout_at - i.updated_at from gendurable.instance i where i.id = :id), '9 s', 'the next one has the new one');
select gd_register('timed2', 1, 'start', 'reg', '{"timeouts": null}');
select t.put(:id, '{"kind": "replay"}');
select count(*) from t.take('reg');
select is((select i.timeout_at from gendurable.instance i where i.id = :id), null, 'or none');
select gd_register('timed2', 1, 'start', 'reg', '{"timeouts": {"start": 5000}}');
select t.put(:id, '{"kind": "replay"}');
select count(*) from t.take('reg', 1, 'w', '1 second');
select gd_register('timed2', 1, 'start', 'reg', '{"timeouts": null}');
select t.elapse(:id, '2 seconds');
select count(*) from t.take('reg');
select is((select row(i.crashes, i.timeout_at)::text from gendurable.instance i where i.id = :id), '(1,)', 'also where the claim follows a crash');
select t.put(:id, '{"kind": "done"}');

-- deadlines: wherever the instance stands

create function t.mortal(p_queue text, p_more jsonb = '{}') returns bigint
language sql as $$
    select n.id from gd_insert_many(jsonb_build_array(
        jsonb_build_object('fsm', 'm', 'queue', p_queue, 'expires_ms', 60000) || p_more)) n
$$;

create function t.is_expired(p_id bigint, p_name text) returns text
language sql as $$
    select public.matches(
        (select concat_ws(' ', i.status, i.last_error, i.finished_at is not null, i.expires_at is null and i.timeout_at is null
            and i.eligible_at is null and i.lane_at is null and i.worker is null and i.slot_no is null)
         from gendurable.instance i where i.id = p_id),
        '^failed expired at [-0-9]+T[0-9:.]+Z t t$', p_name)
$$;

select t.mortal('d') as id \gset
select is((select c.id from t.take('d') c), :'id', 'before its deadline it is handed out');
select t.put(:id, '{"kind": "next", "step": "s", "delay_ms": 1000}');
select ok(i.expires_at is not null, 'a transition keeps the deadline') from gendurable.instance i where i.id = :id;
select t.elapse(:id, '1 minute');
select is_empty($$select * from t.take('d')$$, 'past it, it is not handed out');
select t.is_expired(:id, 'but has failed');
select ok(gd_retry(:id), '(retried)');
select is((select c.id from t.take('d') c), :'id', 'and may be retried: it has no deadline any more');
select t.put(:id, '{"kind": "done"}');
select t.mortal('d') as id \gset
select t.run('d', '{"kind": "done"}');
select is((select i.expires_at from gendurable.instance i where i.id = :id), null, 'an end has none');
select t.mortal('d') as id \gset
select t.run('d', '{"kind": "error", "error": "x", "delay_ms": 1}');
select ok(i.expires_at is not null, 'an error keeps it') from gendurable.instance i where i.id = :id;
select gd_cancel(:id, 'enough') as _ \gset
select is((select row(i.last_error, i.expires_at)::text from gendurable.instance i where i.id = :id), '(enough,)', 'a cancel says why itself');

select t.mortal('d') as id \gset
select count(*) from t.take('d', 1, 'w', '1 hour');
select t.elapse(:id, '1 minute');
select is(t.commit(:id, '{"kind": "done"}'), 'stale', 'the outcome of a running step is stale, though nobody has ended it');
select throws_ok(
    format($$select gd_commit_one('w', jsonb_build_object('id', i.id, 'claim_no', i.claim_no, 'kind', 'done'))
        from gendurable.instance i where i.id = %s$$, :id), 'GD505', 'the claim is lost', 'also in a transaction of its own');
select is_empty($$select * from t.take('d')$$, 'the next claim ends it');
select t.is_expired(:id, 'from under its step');

select t.mortal('e') as running \gset
select t.mortal('e_key', '{"partition_key": "ek"}') as holds \gset
select t.mortal('e_key', '{"partition_key": "ek"}') as parked \gset
select t.mortal('e_aw') as awaits \gset
select t.mortal('e_p') as parent \gset
select t.mortal('e_later', '{"delay_ms": 3600000}') as later \gset
select count(*) from t.take('e', 1, 'w', '1 hour');
select count(*) from t.take('e_key', 5);
select t.run('e_aw', '{"kind": "await", "signals": "go", "step": "s"}');
select t.run('e_p', '{"kind": "schedule_childs", "step": "join",
        "childs": [{"fsm": "c", "queue": "e_c", "expires_ms": 3600000}, {"fsm": "c", "queue": "e_c", "expires_ms": 1000}]}');
select v.id as child, lead(v.id) over (order by v.id) as near from gd_instances v where v.parent_id = :parent order by 1 limit 1 \gset
select is(
    (select array_agg(c.expires_at < p.expires_at order by c.id) from gendurable.instance c join gendurable.instance p on p.id = :parent
        where c.parent_id = :parent),
    '{f,t}', 'a child has the nearer deadline of its own and its parent''s');
select is((select c.expires_at from gendurable.instance c where c.id = :child), (select p.expires_at from gendurable.instance p where p.id = :parent),
    '(the parent''s)');
select gd_insert('m', p_queue => 'e_key', p_partition_key => 'ek') as behind \gset
select is_empty($$select * from t.take('e_key', 5)$$, '(parked)');
select t.elapse(x.id, '1 minute') from unnest(array[:running, :holds, :parked, :awaits, :parent, :later, :child, :near]) x (id);
select is((gd_maintain() ->> 'expired')::int + 0, 6, 'the upkeep finds them all; two it had reaped');
select t.is_expired(x.id, 'expired: ' || x.name)
from (values (:running, 'running'), (:holds, 'holds a slot'), (:parked, 'parked'), (:awaits, 'awaits a signal'), (:parent, 'waits for children'),
    (:later, 'delayed'), (:child, 'a child'), (:near, 'a child of its own deadline')) x (id, name);
select is((select c.id from t.take('e_key', 5) c), :'behind', 'who waited behind them in the key goes on');
select is(t.repaired(), 0, 'no baton was dropped');
select t.put(:behind, '{"kind": "done"}');

select gd_insert('m', p_queue => 'jp') as p \gset
select t.run('jp', '{"kind": "schedule_childs", "step": "join", "childs": [{"fsm": "c", "queue": "jc", "expires_ms": 60000}, {"fsm": "c", "queue": "jc"}]}');
select min(v.id) as mortal, max(v.id) as other from gd_instances v where v.parent_id = :p \gset
select t.elapse(:mortal, '1 minute');
select t.run('jc', '{"kind": "done"}');
select t.is_expired(:mortal, 'a child expires at a claim');
select is((select c.childs #>> '{0,status}' from t.take('jp') c), 'failed', 'and counts in the barrier of its parent as one that failed');
select t.put(:p, '{"kind": "done"}');

select t.mortal('both') as id \gset
select t.run('both', '{"kind": "next", "step": "start"}');
update gendurable.instance set fsm = 'timed' where id = :id;
select count(*) from t.take('both', 1, 'w', '1 hour');
select t.elapse(:id, '2 minutes');
select is(gd_reap(), 1, 'where both have passed');
select t.is_expired(:id, 'the deadline counts');

-- in the line before a rate limit: what has expired takes no token

select gd_set_rate_limit('rare', 1, '1 hour');
select t.mortal('line', '{"rate_limit": "rare"}') as first \gset
select t.mortal('line', '{"rate_limit": "rare"}') as second \gset
select t.mortal('line', '{"rate_limit": "rare", "expires_ms": null}') as third \gset
select is((select array_agg(c.id) from t.take('line', 5) c), array[:first]::bigint[], '(one token)');
select is((select count(i.bucket_at) from gendurable.instance i where i.id in (:second, :third)), 2::bigint, '(two stand in line)');
select t.elapse(:first, '1 minute'), t.elapse(:second, '1 minute');
select gd_set_rate_limit('rare', 1000000000, '1 hour');
select is((select array_agg(c.id) from t.take('line', 5) c), array[:third]::bigint[], 'a claim that serves the line goes on to the next');
select t.is_expired(x.id, 'expired: ' || x.name) from (values (:first, 'running'), (:second, 'in line')) x (id, name);
select t.put(:third, '{"kind": "done"}');
select t.mortal('line', '{"rate_limit": "rare"}') as due \gset
select t.elapse(:due, '1 minute');
select is_empty($$select * from t.take('line', 5)$$, 'and one that has just come');
select t.is_expired(:due, 'expired before it stood in line');
select gd_set_rate_limit('never', 0);
select t.mortal('line0', '{"rate_limit": "never"}') as waits \gset
select is_empty($$select * from t.take('line0', 5)$$, '(it stands in line for ever)');
select t.elapse(:waits, '1 minute');
select is(gd_maintain() ->> 'expired', '1', 'the upkeep finds it there');
select t.is_expired(:waits, 'expired in a line that does not move');

-- a row that cannot be ended costs no other

select t.mortal('bad') as bad \gset
select t.mortal('bad') as good \gset
create function t.refuse() returns trigger
language plpgsql as $$
begin
    raise exception 'not this one';
end $$;
select format('create trigger refuse before update on gendurable.instance for each row when (old.id = %s
        and new.status = ''failed'') execute function t.refuse()', :bad) \gexec
select t.elapse(:bad, '1 minute'), t.elapse(:good, '1 minute');
select is_empty($$select * from t.take('bad', 5)$$, 'a claim goes on');
select is(array[t.status(:bad), t.status(:good)], '{runnable,failed}', 'and ends the other one');
select t.mortal('bad') as good \gset
select t.elapse(:good, '1 minute');
select is((select m.a - '{ran,removed,reaped,more,shifted,repaired,overdue}'::text[] from (select gd_maintain() as a) m), '{"errors": {}, "expired": 1}',
    'so does the upkeep');
select is(array[t.status(:bad), t.status(:good)], '{runnable,failed}', '(it was)');
drop trigger refuse on gendurable.instance;
select is(gd_maintain() ->> 'expired', '1', 'later it can be ended');

select is((select count(*) from gendurable.instance i where i.timeout_at is not null and i.status <> 'executing'), 0::bigint, 'only claims have timeouts');
select is((select count(*) from gendurable.instance i where i.expires_at is not null and i.finished_at is not null), 0::bigint,
    'nothing that ended has a deadline');

select * from finish();
